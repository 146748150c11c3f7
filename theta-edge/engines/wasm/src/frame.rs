//! What parent and child say to each other: frames of a length (u32, little-endian) and so many bytes.
//!
//! The parent sends a [`Request`] and the bytes it announces; the child answers [`Answer::Compiled`] and then
//! [`Answer::Done`] and the bytes that announces. A child that is kept gets further requests, for the same module, which
//! is not sent and not compiled again. Lengths are checked before anything is read.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use theta_core::codec::record;
use theta_edge::executor::Ending;

/// Version of these frames; both ends are the same program, so another one is a mistake in the set-up.
pub(crate) const VERSION: u8 = 1;
/// Largest head in bytes, file lists included.
pub(crate) const MAX_HEAD: usize = 8 << 20;
/// Largest single body in bytes.
pub(crate) const MAX_BODY: usize = 1 << 30;

/// What to run; behind it come the bodies of module (to a new child), stdin and every file, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Granted folders, by their path in the program.
    pub(crate) folders: Vec<String>,
    /// Paths of the files in them.
    pub(crate) files: Vec<String>,
    pub(crate) seed: [u8; 32],
    pub(crate) fuel: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) output_bytes: u64,
    pub(crate) wall_seconds: u64,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The module is compiled and begins to run.
    Compiled,
    /// It ended; behind this come the bodies of stdout, stderr and every file.
    Done { ending: Ending, fuel_used: u64, files: Vec<String> },
    /// The machine, not the program, made it end.
    Failed(String),
}

/// Whether a child whose task ended so may serve another. One that met a limit, trapped or was given what it cannot run
/// serves no more: both sides end it.
pub(crate) const fn is_reusable(ending: &Ending) -> bool {
    matches!(ending, Ending::Exit(_))
}

/// Sends a body as one frame.
pub(crate) fn send(out: &mut impl Write, body: &[u8]) -> io::Result<()> {
    let len = u32::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(body)
}

/// Sends a head as one frame.
pub(crate) fn send_head<T: Serialize>(out: &mut impl Write, head: &T) -> io::Result<()> {
    send(out, &record::encode(VERSION, head).map_err(io::Error::other)?)
}

/// Reads one frame of `limit` bytes at most. Memory is used as bytes come, not as they are announced.
pub(crate) fn receive(input: &mut impl Read, limit: usize) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    input.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len as usize > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    input.take(u64::from(len)).read_to_end(&mut body)?;
    if body.len() < len as usize { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_limits_hold() {
        let mut bytes = Vec::new();
        send(&mut bytes, b"one").unwrap();
        send(&mut bytes, b"").unwrap();
        let mut input = bytes.as_slice();
        assert_eq!(receive(&mut input, 3).unwrap(), b"one");
        assert_eq!(receive(&mut input, 0).unwrap(), b"");
        assert_eq!(receive(&mut bytes.as_slice(), 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
        for cut in 0..7 {
            assert_eq!(receive(&mut &bytes[..cut], 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
