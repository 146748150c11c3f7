//! Whom to ask for the next chunk (edge.md 6.4): whoever is likely to give it soonest, and nobody who ever gave a wrong one.

use std::collections::BTreeMap;

use crate::Millis;

/// Chunks that one peer is asked for at once.
const OUTSTANDING: u32 = 2;
/// Peers that are known at once.
const MAX_PEERS: usize = 40;
/// How long a peer that fails too often is left alone.
const PAUSE_MS: Millis = 30 * 60_000;
/// Share of answers, in percent, below which it is, from so many questions on.
const PAUSES: [(u32, u32); 3] = [(50, 50), (30, 30), (10, 1)];
/// Milliseconds that an untried peer is thought to take for a chunk: tried before those that are slower.
const UNTRIED_MS: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Peer {
    asked: u32,
    good: u32,
    bytes: u64,
    /// What a chunk took, the newest counting most.
    ms: f64,
    outstanding: u32,
    paused_until: Millis,
    /// It gave something else than what was asked for. Nothing makes that good again: no load does it.
    lied: bool,
}

/// A peer as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Chunks that it gave.
    pub good: u32,
    /// Of those that it was asked for.
    pub asked: u32,
    /// Bytes of them.
    pub bytes: u64,
    /// Whether it is never asked again.
    pub banned: bool,
}

/// Every so many questions go to whoever was asked least, so that a peer that has become fast is noticed.
const EXPLORE: u64 = 16;

/// Peers that have a content.
#[derive(Clone, Debug)]
pub struct Sources<P> {
    peers: BTreeMap<P, Peer>,
    picks: u64,
}

impl<P> Default for Sources<P> {
    fn default() -> Self {
        Self { peers: BTreeMap::new(), picks: 0 }
    }
}

impl<P: Ord + Copy> Sources<P> {
    /// A peer that says it has it. One that is known keeps its standing; where there is no room, whoever gave least goes, but
    /// none that lied or is being asked.
    pub fn add(&mut self, peer: P) {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            let idle = self.peers.iter().filter(|(_, one)| !one.lied && one.outstanding == 0);
            if let Some(least) = idle.min_by_key(|(_, one)| one.good).map(|(peer, _)| *peer) {
                self.peers.remove(&least);
            }
        }
        if self.peers.len() < MAX_PEERS {
            let new = Peer {
                asked: 0,
                good: 0,
                bytes: 0,
                ms: UNTRIED_MS,
                outstanding: 0,
                paused_until: 0,
                lied: false,
            };
            self.peers.entry(peer).or_insert(new);
        }
    }

    /// The best one of those that `may` be asked, counted as asked; none where all of them are busy, paused or banned.
    pub fn pick(&mut self, now: Millis, may: impl Fn(&P) -> bool) -> Option<P> {
        let free = |(peer, standing): &(&P, &mut Peer)| {
            !standing.lied && standing.paused_until <= now && standing.outstanding < OUTSTANDING && may(peer)
        };
        // Expected time, the queue before it included, over the chance that it comes at all.
        let cost = |standing: &Peer| {
            let chance = f64::from(standing.good + 1) / f64::from(standing.asked + 2);
            standing.ms * f64::from(standing.outstanding + 1) / chance
        };
        self.picks += 1;
        let explore = self.picks.is_multiple_of(EXPLORE);
        let free = self.peers.iter_mut().filter(free);
        let (peer, standing) = if explore {
            free.min_by_key(|(_, standing)| standing.asked)?
        } else {
            free.min_by(|(_, a), (_, b)| cost(a).total_cmp(&cost(b)))?
        };
        standing.outstanding += 1;
        standing.asked = standing.asked.saturating_add(1);
        Some(*peer)
    }

    fn answered(&mut self, peer: P) -> Option<&mut Peer> {
        let standing = self.peers.get_mut(&peer)?;
        standing.outstanding = standing.outstanding.saturating_sub(1);
        Some(standing)
    }

    /// It gave the chunk.
    pub fn got(&mut self, peer: P, bytes: u64, ms: Millis) {
        if let Some(standing) = self.answered(peer) {
            standing.good = standing.good.saturating_add(1);
            standing.bytes += bytes;
            standing.ms = (standing.ms * 3.0 + ms as f64) / 4.0;
        }
    }

    /// It has not what was asked for, or wants something first; that is no fault.
    pub fn passed(&mut self, peer: P) {
        if let Some(standing) = self.answered(peer) {
            standing.asked = standing.asked.saturating_sub(1);
        }
    }

    /// It did not answer, or not in time.
    pub fn failed(&mut self, now: Millis, peer: P) {
        if let Some(standing) = self.answered(peer) {
            standing.ms = (standing.ms * 2.0).min(60_000.0);
            let (asked, good) = (standing.asked, standing.good);
            if PAUSES.iter().any(|(least, percent)| asked >= *least && good * 100 < asked * percent) {
                standing.paused_until = now.saturating_add(PAUSE_MS);
                (standing.asked, standing.good) = (0, 0);
            }
        }
    }

    /// It gave something else.
    pub fn lied(&mut self, peer: P) {
        if let Some(standing) = self.answered(peer) {
            standing.lied = true;
        }
    }

    /// Whether it is never asked again.
    pub fn is_banned(&self, peer: P) -> bool {
        self.peers.get(&peer).is_some_and(|standing| standing.lied)
    }

    /// Everybody, with what they gave.
    pub fn standings(&self) -> impl Iterator<Item = (P, Standing)> + '_ {
        self.peers.iter().map(|(peer, one)| {
            (*peer, Standing { good: one.good, asked: one.asked, bytes: one.bytes, banned: one.lied })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_is_asked_most_and_everybody_is_tried() {
        let mut sources = Sources::default();
        (0..4).for_each(|peer| sources.add(peer));
        let mut asked = [0; 4];
        for _ in 0..100 {
            let peer = sources.pick(0, |_| true).unwrap();
            asked[peer] += 1;
            sources.got(peer, 1, [400, 20, 400, 400][peer]);
        }
        assert!(asked.iter().all(|count| *count >= 1) && asked[1] > 85, "{asked:?}");
    }

    #[test]
    fn two_at_once_and_nobody_twice_for_one_chunk() {
        let mut sources = Sources::default();
        sources.add(1);
        assert_eq!(sources.pick(0, |_| true), Some(1));
        assert_eq!(sources.pick(0, |peer| *peer != 1), None);
        assert_eq!(sources.pick(0, |_| true), Some(1));
        assert_eq!(sources.pick(0, |_| true), None);
        sources.passed(1);
        assert_eq!(sources.pick(0, |_| true), Some(1));
        assert_eq!(Sources::<u8>::default().pick(0, |_| true), None);
    }

    #[test]
    fn a_liar_is_never_asked_again_and_a_silent_one_for_a_while() {
        let mut sources = Sources::default();
        sources.add(1);
        sources.pick(0, |_| true);
        sources.lied(1);
        sources.add(1);
        assert_eq!((sources.pick(Millis::MAX, |_| true), sources.is_banned(1)), (None, true));
        sources.add(2);
        for _ in 0..10 {
            assert_eq!(sources.pick(5, |_| true), Some(2));
            sources.failed(5, 2);
        }
        assert_eq!(sources.pick(5, |_| true), None);
        assert_eq!(sources.pick(5 + PAUSE_MS, |_| true), Some(2));
        // One that mostly answers goes on.
        sources.add(3);
        for round in 0..200 {
            let peer = sources.pick(6, |peer| *peer != 2).unwrap();
            if round % 4 == 0 { sources.failed(6, peer) } else { sources.got(peer, 1, 10) }
        }
        assert_eq!(sources.pick(6, |peer| *peer != 2), Some(3));
    }

    #[test]
    fn there_is_a_bound_to_how_many_are_known() {
        let mut sources = Sources::default();
        (0..1_000).for_each(|peer| sources.add(peer));
        assert_eq!(sources.standings().count(), MAX_PEERS);
        // Who comes late finds room, who is asked or has lied keeps its place.
        assert!(sources.standings().any(|(peer, _)| peer == 999));
        let asked = sources.pick(0, |_| true).unwrap();
        let liar = sources.pick(0, |peer| *peer != asked).unwrap();
        sources.lied(liar);
        (1_000..2_000).for_each(|peer| sources.add(peer));
        assert!(sources.is_banned(liar) && sources.standings().any(|(peer, _)| peer == asked));
    }
}
