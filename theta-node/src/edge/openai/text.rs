//! Puts a text together from the pieces that nodes send while they make it.

use std::collections::BTreeMap;

use theta_edge::{infer::MAX_FRAME, scheduler::Report};
use tokio::sync::{mpsc, oneshot};

use crate::edge::asker::Piece;

/// Pieces that wait for one before them.
const MAX_HELD: usize = 64;
/// Longest text.
const MAX_TEXT: usize = MAX_FRAME * 64;

/// What happens to a text.
pub(super) enum Step {
    /// It goes on.
    More(String),
    /// Its job has ended; `None` where the requester has stopped.
    Ended(Option<Box<Report>>),
}

/// A text that is being made. Should its node fail, another begins again, and what it repeats is passed over.
pub(super) struct Text {
    pieces: mpsc::Receiver<Piece>,
    ended: oneshot::Receiver<Report>,
    joined: Joined,
}

impl Text {
    pub(super) fn new(pieces: mpsc::Receiver<Piece>, ended: oneshot::Receiver<Report>) -> Self {
        Self { pieces, ended, joined: Joined::default() }
    }

    /// Waits for what comes next. Nothing comes after the end.
    pub(super) async fn next(&mut self) -> Step {
        loop {
            tokio::select! {
                biased;
                Some((at, piece)) = self.pieces.recv() => {
                    let more = self.joined.add(at, piece);
                    if !more.is_empty() {
                        return Step::More(more);
                    }
                }
                report = &mut self.ended => return Step::Ended(report.ok().map(Box::new)),
            }
        }
    }

    /// What of the whole text was not given yet; `None` where it does not go on from what was.
    pub(super) fn rest<'a>(&self, whole: &'a str) -> Option<&'a str> {
        whole.strip_prefix(self.joined.all.as_str())
    }
}

/// Pieces in their order.
#[derive(Default)]
struct Joined {
    all: String,
    held: BTreeMap<u64, String>,
}

impl Joined {
    /// Adds a piece, and gives what is new.
    fn add(&mut self, at: u64, piece: String) -> String {
        if self.held.len() < MAX_HELD && self.all.len() + piece.len() <= MAX_TEXT {
            self.held.insert(at, piece);
        }
        let before = self.all.len();
        while let Some((at, piece)) = self.held.pop_first() {
            let Ok(start) = usize::try_from(at) else { continue };
            if start > self.all.len() {
                self.held.insert(at, piece);
                break;
            }
            // What two nodes say differently is decided by the result.
            let known =
                self.all.get(start..).filter(|known| piece.starts_with(known) || known.starts_with(&*piece));
            if let Some(new) = known.and_then(|known| piece.get(known.len()..)) {
                self.all.push_str(new);
            }
        }
        self.all[before..].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_late_twice_and_in_any_order() {
        let mut joined = Joined::default();
        let mut add = |at, piece: &str| joined.add(at, piece.to_owned());
        assert_eq!(add(0, "one "), "one ");
        assert_eq!(add(8, "three"), "");
        assert_eq!(add(4, "two "), "two three");
        // Another node begins again.
        assert_eq!(add(0, "one two"), "");
        assert_eq!(add(7, " three four"), " four");
        // And says something else.
        assert_eq!(add(13, "!five"), "");
        assert_eq!(add(u64::MAX, "x"), "");
        assert_eq!(joined.all, "one two three four");
        // Pieces without end take no room.
        for at in 0..10_000 {
            joined.add(1_000 + at, "x".repeat(100));
        }
        assert!(joined.held.len() <= MAX_HELD);
    }
}
