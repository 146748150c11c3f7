//! Catching up: ranges of blocks, asked of many peers at once, handed over in order.
//!
//! A node that is far behind knows from its peers' word how far. It cuts what it lacks into ranges and asks a different
//! peer for each; who does not answer in time, or with what was not asked for, is passed over for others. What arrives
//! must be a row of blocks, each standing on the one before; whether it is the chain the engine says, block by block, as
//! for any other block, and votes for a block stand in the headers above it. A peer that lies costs one range.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use theta_core::{block::Block, hash::Hash};

/// Blocks of a range, and of any answer.
pub(crate) const RANGE: u64 = 64;
/// Ranges that are asked for or wait to be taken.
const AHEAD: usize = 8;
/// Ranges that one peer is asked for at once.
const PER_PEER: usize = 2;
/// Milliseconds that a peer has for a range; then another one is asked.
const DEADLINE: u64 = 5_000;
/// Failures in a row after which a peer's word on its height counts for nothing, and for how many milliseconds.
const FAILURES: u32 = 3;
const DISBELIEF: u64 = 60_000;
/// Most bytes of blocks that wait to be taken. One range is always let in.
const MOST_BYTES: usize = 64 << 20;

/// A range that a peer is to be asked for: blocks up to a block, above a height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) peer: u64,
    pub(crate) block: Hash,
    pub(crate) above: u64,
}

#[derive(Debug)]
struct Got {
    peer: u64,
    blocks: Vec<Arc<Block>>,
    bytes: usize,
}

/// What is asked, of whom, and what has come.
#[derive(Debug, Default)]
pub(crate) struct Fetcher {
    /// How high peers say they stand.
    heights: BTreeMap<u64, u64>,
    /// How often in a row a peer did not answer, or with something else, and when it did so last.
    failures: BTreeMap<u64, (u32, u64)>,
    target: Hash,
    /// Whom and when, by the height that the range is above.
    asked: BTreeMap<u64, (u64, u64)>,
    got: BTreeMap<u64, Got>,
}

fn height(block: &Arc<Block>) -> u64 {
    block.header.height
}

/// Whether the blocks stand on each other.
fn is_row(blocks: &[Arc<Block>]) -> bool {
    blocks.windows(2).all(|pair| {
        let (below, above) = (&pair[0].header, &pair[1].header);
        above.height == below.height + 1 && above.parent == below.hash()
    })
}

impl Fetcher {
    /// A peer says where it stands. Who failed too often is not believed for a while.
    pub(crate) fn heard(&mut self, now: u64, peer: u64, height: u64) {
        match self.failures.get(&peer) {
            Some((FAILURES.., last)) if now < last.saturating_add(DISBELIEF) => return,
            Some((FAILURES.., _)) => drop(self.failures.remove(&peer)),
            _ => {}
        }
        self.heights.insert(peer, height);
    }

    /// Whether more than one answer is missing above this height, by what connected peers say.
    pub(crate) fn is_far(&self, at: u64) -> bool {
        self.heights.values().any(|height| *height > at.saturating_add(RANGE))
    }

    /// Whether ranges are on their way or wait to be taken.
    pub(crate) fn is_busy(&self) -> bool {
        !self.asked.is_empty() || !self.got.is_empty()
    }

    /// Up to which block ranges are to lead.
    pub(crate) fn aim(&mut self, block: Hash) {
        self.target = block;
    }

    /// Forgets peers that are gone, and what they were asked for.
    fn keep(&mut self, connected: &[u64]) {
        self.heights.retain(|peer, _| connected.contains(peer));
        self.failures.retain(|peer, _| connected.contains(peer));
        self.asked.retain(|_, (peer, _)| connected.contains(peer));
    }

    fn fail(&mut self, now: u64, peer: u64) {
        let (failures, last) = self.failures.entry(peer).or_default();
        (*failures, *last) = (*failures + 1, now);
        if *failures >= FAILURES {
            self.heights.remove(&peer);
        }
    }

    /// Whom to ask for what now that the chain stands at a height. Nothing unless it is far behind.
    pub(crate) fn plan(&mut self, now: u64, at: u64, connected: &[u64]) -> Vec<Ask> {
        self.keep(connected);
        if !self.is_far(at) || self.target.is_zero() {
            self.asked.clear();
            self.got.clear();
            return Vec::new();
        }
        self.got.retain(|_, got| got.blocks.last().is_some_and(|last| height(last) > at));
        let late: Vec<_> = self
            .asked
            .iter()
            .filter(|(above, (_, since))| **above < at || now >= since.saturating_add(DEADLINE))
            .map(|(above, (peer, _))| (*above, *peer))
            .collect();
        let mut silent = BTreeSet::new();
        for (above, peer) in late {
            self.asked.remove(&above);
            if above >= at {
                silent.insert(peer);
            }
        }
        for peer in silent {
            self.fail(now, peer);
        }
        let mut asks = Vec::new();
        let mut above = at;
        while self.asked.len() + self.got.len() < AHEAD {
            // The end of what is here or on its way, counted from where the chain stands.
            if let Some(got) = self.got.range(..=above).next_back().map(|(_, got)| got)
                && let Some(last) = got.blocks.last().map(height).filter(|last| *last > above)
            {
                above = last;
                continue;
            }
            if self.asked.contains_key(&above) {
                above += RANGE;
                continue;
            }
            let held: usize = self.got.values().map(|got| got.bytes).sum();
            if above > at && held > MOST_BYTES {
                break;
            }
            let Some(peer) = self.best(above) else { break };
            self.asked.insert(above, (peer, now));
            asks.push(Ask { peer, block: self.target, above });
        }
        asks
    }

    /// The peer that has the range, failed least and has least to do.
    fn best(&self, above: u64) -> Option<u64> {
        let able = self.heights.iter().filter(|(_, height)| **height > above).map(|(peer, _)| *peer);
        let busy = |peer: &u64| self.asked.values().filter(|(asked, _)| asked == peer).count();
        able.filter(|peer| busy(peer) < PER_PEER)
            .min_by_key(|peer| (self.failures.get(peer).map_or(0, |(count, _)| *count), busy(peer), *peer))
    }

    /// Takes an answer; `Err` is a peer that answered what no honest one does. Blocks that were not asked for come back.
    pub(crate) fn answered(
        &mut self,
        now: u64,
        peer: u64,
        blocks: Vec<Arc<Block>>,
    ) -> Result<Option<Vec<Arc<Block>>>, ()> {
        let of_peer = |(_, (asked, _)): &(&u64, &(u64, u64))| *asked == peer;
        let Some(first) = blocks.first().map(height) else {
            // It has nothing: another one is asked.
            let asked: Vec<u64> = self.asked.iter().filter(of_peer).map(|(above, _)| *above).collect();
            if !asked.is_empty() {
                self.fail(now, peer);
            }
            for above in asked {
                self.asked.remove(&above);
            }
            return Ok(Some(blocks));
        };
        let above = first.wrapping_sub(1);
        if self.asked.get(&above).is_none_or(|(asked, _)| *asked != peer) {
            return Ok(Some(blocks));
        }
        self.asked.remove(&above);
        if !is_row(&blocks) {
            self.fail(now, peer);
            return Err(());
        }
        self.failures.remove(&peer);
        let bytes = blocks.iter().flat_map(|block| &block.transactions).map(Vec::len).sum();
        self.got.insert(above, Got { peer, blocks, bytes });
        Ok(None)
    }

    /// The blocks that stand on the chain's tip, if they are here, and who sent them.
    pub(crate) fn next(&mut self, at: u64) -> Option<(u64, Vec<Arc<Block>>)> {
        let above = self.got.range(..=at).next_back().map(|(above, _)| *above)?;
        let got = self.got.remove(&above)?;
        let blocks: Vec<_> = got.blocks.into_iter().filter(|block| height(block) > at).collect();
        (!blocks.is_empty()).then_some((got.peer, blocks))
    }

    /// Blocks of a peer led nowhere; what came after them is worth nothing either.
    pub(crate) fn misled(&mut self, now: u64, peer: u64) {
        self.fail(now, peer);
        self.got.clear();
    }
}

#[cfg(test)]
mod tests {
    use theta_core::block::Header;

    use super::*;

    /// A row of empty blocks, genesis first.
    fn chain(length: u64) -> Vec<Arc<Block>> {
        let mut blocks: Vec<Arc<Block>> = Vec::new();
        for at in 0..length {
            let header = Header {
                height: at,
                parent: blocks.last().map_or(Hash::ZERO, |below| below.header.hash()),
                ..Header::zero()
            };
            blocks.push(Arc::new(Block { header, transactions: Vec::new() }));
        }
        blocks
    }

    fn range(chain: &[Arc<Block>], above: u64) -> Vec<Arc<Block>> {
        chain.iter().skip(above as usize + 1).take(RANGE as usize).cloned().collect()
    }

    #[test]
    fn ranges_go_to_different_peers_and_come_out_in_order() {
        let chain = chain(301);
        let mut fetcher = Fetcher::default();
        for peer in 1..=3 {
            fetcher.heard(0, peer, 300);
        }
        fetcher.aim(chain[300].header.hash());
        let asks = fetcher.plan(0, 0, &[1, 2, 3]);
        let heights: Vec<u64> = asks.iter().map(|ask| ask.above).collect();
        assert_eq!(heights, [0, 64, 128, 192, 256]);
        for peer in 1..=3 {
            assert!(asks.iter().any(|ask| ask.peer == peer), "{peer} was left out");
        }
        // The last first.
        for ask in asks.iter().rev() {
            assert!(fetcher.next(0).is_none());
            assert_eq!(fetcher.answered(0, ask.peer, range(&chain, ask.above)), Ok(None));
        }
        let mut at = 0;
        while let Some((_, blocks)) = fetcher.next(at) {
            for block in blocks {
                assert_eq!(height(&block), at + 1);
                at += 1;
            }
        }
        assert_eq!(at, 300);
        assert!(!fetcher.is_far(at) && fetcher.plan(1, at, &[1, 2, 3]).is_empty());
    }

    #[test]
    fn who_is_silent_empty_or_lies_is_passed_over() {
        let chain = chain(200);
        let mut fetcher = Fetcher::default();
        for peer in [1, 2] {
            fetcher.heard(0, peer, 100);
        }
        fetcher.aim(chain[100].header.hash());
        let asks = fetcher.plan(0, 0, &[1, 2]);
        assert_eq!(asks.len(), 2);
        let of = |asks: &[Ask], above| asks.iter().find(|ask| ask.above == above).copied();
        let (first, second) = (of(&asks, 0).expect("asked"), of(&asks, 64).expect("asked"));
        assert_ne!(first.peer, second.peer);
        // Nothing new before the deadline; then the other one is asked, who still has its own.
        assert!(fetcher.plan(DEADLINE - 1, 0, &[1, 2]).is_empty());
        assert_eq!(fetcher.answered(0, second.peer, range(&chain, 64)), Ok(None));
        let again = fetcher.plan(DEADLINE, 0, &[1, 2]);
        assert_eq!(again, [Ask { peer: second.peer, ..first }]);
        // A row with a hole is a lie, and so is one that nobody asked for given back.
        let mut holed = range(&chain, 0);
        holed.remove(3);
        assert_eq!(fetcher.answered(0, second.peer, holed), Err(()));
        let third = fetcher.plan(DEADLINE, 0, &[1, 2]);
        assert_eq!(third.len(), 1, "{third:?}");
        assert_eq!(fetcher.answered(0, third[0].peer, Vec::new()), Ok(Some(Vec::new())));
        let fourth = fetcher.plan(DEADLINE, 0, &[1, 2]);
        assert_eq!((fourth.len(), fourth[0].above), (1, 0));
        let stray = range(&chain, 10);
        assert_eq!(fetcher.answered(0, 2, stray.clone()), Ok(Some(stray)));
        // A peer that is gone is asked for nothing.
        assert!(fetcher.plan(DEADLINE, 0, &[]).is_empty());
        assert!(!fetcher.is_far(0));
    }

    #[test]
    fn a_peer_that_boasts_is_not_believed_for_long() {
        let mut fetcher = Fetcher::default();
        fetcher.heard(0, 1, u64::MAX);
        fetcher.aim(Hash::repeat_byte(1));
        for round in 0..u64::from(FAILURES) {
            assert!(fetcher.is_far(100));
            assert_eq!(fetcher.plan(round * DEADLINE, 100, &[1]).len(), PER_PEER);
        }
        let last = u64::from(FAILURES) * DEADLINE;
        assert!(fetcher.plan(last, 100, &[1]).is_empty());
        fetcher.heard(last + DISBELIEF - 1, 1, u64::MAX);
        assert!(!fetcher.is_far(100));
        fetcher.heard(last + DISBELIEF, 1, u64::MAX);
        assert!(fetcher.is_far(100));
    }

    #[test]
    fn a_short_answer_is_gone_on_from() {
        let chain = chain(200);
        let mut fetcher = Fetcher::default();
        fetcher.heard(0, 1, 199);
        fetcher.aim(chain[199].header.hash());
        fetcher.plan(0, 0, &[1]);
        let mut short = range(&chain, 0);
        short.truncate(5);
        assert_eq!(fetcher.answered(0, 1, short), Ok(None));
        let (_, blocks) = fetcher.next(0).expect("five");
        assert_eq!(blocks.len(), 5);
        assert!(fetcher.plan(1, 5, &[1]).iter().any(|ask| ask.above == 5));
    }
}
