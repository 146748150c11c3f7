//! Puts a text together from the pieces that nodes send while they make it.

use std::collections::BTreeMap;

use theta_edge::{identity::NodeId, infer::MAX_FRAME, scheduler::Report};
use tokio::sync::{mpsc, oneshot};

use crate::edge::asker::Piece;

/// Pieces of a node that wait for one before them.
const MAX_HELD: usize = 64;
/// Nodes whose pieces are looked at.
const MAX_NODES: usize = 8;
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
                Some((from, at, piece)) = self.pieces.recv() => {
                    let more = self.joined.add(from, at, piece);
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

/// What was shown, and what each node has said.
#[derive(Default)]
struct Joined {
    all: String,
    nodes: BTreeMap<NodeId, Said>,
}

/// Pieces of one node, put in their order.
#[derive(Default)]
struct Said {
    all: String,
    held: BTreeMap<u64, String>,
}

impl Joined {
    /// Adds a piece, and gives what is new: where a node's text goes on from what was shown.
    fn add(&mut self, from: NodeId, at: u64, piece: String) -> String {
        if self.nodes.len() >= MAX_NODES && !self.nodes.contains_key(&from) {
            return String::new();
        }
        let said = self.nodes.entry(from).or_default();
        said.add(at, piece);
        let new = said.all.strip_prefix(self.all.as_str()).unwrap_or_default().to_owned();
        self.all.push_str(&new);
        new
    }
}

impl Said {
    fn add(&mut self, at: u64, piece: String) {
        if self.held.len() >= MAX_HELD || self.all.len() + piece.len() > MAX_TEXT {
            return;
        }
        self.held.insert(at, piece);
        // A node counts its own bytes, so pieces follow each other; one that comes again has a place before the end.
        while let Some(first) = self.held.first_entry().filter(|first| *first.key() <= self.all.len() as u64)
        {
            let (at, piece) = first.remove_entry();
            if at == self.all.len() as u64 {
                self.all.push_str(&piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use theta_core::hash::Address;

    use super::*;

    #[test]
    fn pieces_come_late_twice_and_in_any_order() {
        let mut joined = Joined::default();
        let mut add =
            |node, at, piece: &str| joined.add(NodeId(Address::repeat_byte(node)), at, piece.to_owned());
        assert_eq!(add(1, 0, "one "), "one ");
        assert_eq!(add(1, 8, "three"), "");
        assert_eq!(add(1, 4, "two "), "two three");
        assert_eq!(add(1, 4, "two "), "");
        // Another node begins again, and what it repeats is passed over, in pieces of its own.
        assert_eq!(add(2, 7, " three four"), "");
        assert_eq!(add(2, 0, "one two"), " four");
        // One says something else, from the beginning or further on.
        assert_eq!(add(3, 4, "two three four five"), "");
        assert_eq!(add(3, 0, "1, 2"), "");
        assert_eq!(add(4, 0, "one two 3 4 and so on without an end"), "");
        assert_eq!(add(2, 18, " five"), " five");
        assert_eq!(joined.all, "one two three four five");
    }

    #[test]
    fn pieces_without_end_take_no_room() {
        let mut joined = Joined::default();
        for node in 0..100 {
            for at in 0..200 {
                joined.add(NodeId(Address::repeat_byte(node)), 1_000 + 100 * at, "x".repeat(100));
            }
        }
        assert_eq!(joined.nodes.len(), MAX_NODES);
        assert!(joined.nodes.values().all(|said| said.held.len() <= MAX_HELD));
    }
}
