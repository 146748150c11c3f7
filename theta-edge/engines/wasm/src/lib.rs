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
//! A child whose task came to its own end waits a while for the next one of the same requester and module
//! ([`Warm`]), which then pays neither for a process nor for the compiler.
//!
//! It needs a tokio runtime with time and I/O. Not here yet: a system-call filter around the child.

mod child;
mod errno;
mod frame;
mod limits;
mod parent;
mod pool;
mod tree;
mod wasi;

pub use parent::Wasm;
pub use pool::Warm;

/// First argument of a child.
const WORKER: &str = "worker";
/// Second argument of a child of this engine.
const ENGINE: &str = "wasm";

/// Names everything that can change a result: runtime, its settings, and the calls offered. Results are compared
/// between nodes of equal profile only.
pub const PROFILE: &str =
    "theta-edge-wasm/1 wasmtime/48 preview1 fuel nan=canonical relaxed-simd=deterministic stack=512K";

/// Turns this process into a worker if it was started as one (`<program> worker wasm`) and returns at once if not. A
/// worker never returns: it serves its tasks and exits.
pub fn worker() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == WORKER) && args.next().is_some_and(|arg| arg == ENGINE) {
        child::serve();
    }
}
