//! Runs WebAssembly tasks of edge jobs in a child process of the same program.
//!
//! Compiling **and** running happen in the child: fuel does not see compilation, and a thread cannot be killed, so a
//! module made to keep the compiler busy is answered by killing the child's process group at the wall limit. The child
//! bounds its own memory, files and processor time, sees no environment variable of its parent, and ends when its parent
//! does. The program in it reaches no file and no socket of the machine: it has no call that would.
//!
//! Programs are WASI preview 1 command modules, binary or text. What they see is the same on every machine: no clock, a
//! seeded random stream, canonical NaN, folders in memory (edge.md 2.4), so honest nodes agree to the byte.
//!
//! A host calls [`worker`] as the first line of its `main` and then runs tasks with [`Wasm`]:
//!
//! ```no_run
//! fn main() -> std::io::Result<()> {
//!     theta_edge_wasm::worker(); // never returns in a child
//!     let engine = theta_edge_wasm::Wasm::current_exe()?;
//!     println!("{engine:?}");
//!     Ok(())
//! }
//! ```
//!
//! It needs a tokio runtime with time and I/O. Not here yet: a warm pool of children, a cache of compiled modules, and
//! a system-call filter around the child.

mod child;
mod errno;
mod frame;
mod limits;
mod parent;
mod tree;
mod wasi;

pub use parent::Wasm;

/// First argument of a child.
const WORKER: &str = "worker";
/// Second argument of a child of this engine.
const ENGINE: &str = "wasm";

/// Names everything that can change a result: runtime, its settings, and the calls offered. Results are compared
/// between nodes of equal profile only.
pub const PROFILE: &str =
    "theta-edge-wasm/1 wasmtime/48 preview1 fuel nan=canonical relaxed-simd=deterministic stack=512K";

/// Turns this process into a worker if it was started as one (`<program> worker wasm`) and returns at once if not. A
/// worker never returns: it serves one task and exits.
pub fn worker() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == WORKER) && args.next().is_some_and(|arg| arg == ENGINE) {
        child::serve();
    }
}
