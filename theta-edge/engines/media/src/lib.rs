//! Works on video clips for edge jobs: ffmpeg in a confined child process.
//!
//! A clip comes from strangers and what reads it is large and old, so it is read by a child alone: one that bounds its own
//! memory, files and processor time, sees no environment variable of its parent, reads nothing of the machine but its
//! programs and libraries, writes into one folder of its own, opens no connection (where the kernel has Landlock), and ends
//! when its parent does. Formats that name other files (playlists, concatenations) are not read.
//!
//! Encoding is bit-exact between nodes of one build of ffmpeg, which [`Media::find`] puts into the engine's digest.
//!
//! A host calls [`worker`] as the first line of its `main`, like that of the other engines:
//!
//! ```no_run
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     theta_edge_media::worker(); // never returns in a child
//!     let engine = theta_edge_media::Media::find()?;
//!     println!("{engine:?}");
//!     Ok(())
//! }
//! ```
//!
//! It needs a tokio runtime with time and I/O.

mod child;
mod command;
mod engine;
mod facts;

pub use engine::{Media, NoFfmpeg};

/// First argument of a child.
const WORKER: &str = "worker";
/// Second argument of a child of this engine.
const ENGINE: &str = "media";

/// Names everything that can change a result but ffmpeg itself.
pub const PROFILE: &str = "theta-edge-media/1 x264=veryfast,main,crf23,1-thread aac ts";

/// Turns this process into a worker if it was started as one and returns at once if not. A worker never returns: it
/// bounds itself and becomes ffmpeg.
pub fn worker() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|arg| arg == WORKER) && args.next().is_some_and(|arg| arg == ENGINE) {
        child::become_program(args);
    }
}
