//! Blocks that are missing: who is asked for them, how often, and what is given up.

use std::{collections::VecDeque, sync::Arc};

use theta_core::{
    block::Block,
    hash::{Address, Hash},
};

use super::{Effect, Engine};
use crate::{message::Peer, pace::Millis};

/// Blocks being looked for at once, of all and on one's behalf, and how often each is asked for without progress. A validator
/// that votes for what nobody has must not keep a node from looking for what the others vote for.
const WANTS: usize = 512;
const WANTS_FOR_ONE: usize = 4;
const WANT_ATTEMPTS: u32 = 6;
/// Peers that may have a block, besides the one that is being asked.
const HOLDERS: usize = 4;
/// Hashes of blocks that are not to be fetched again.
const REFUSED: usize = 1_024;

/// A block on its way into the tree.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) from: Peer,
    pub(super) block: Arc<Block>,
    /// Whether its guardian and elite edge votes have been checked.
    pub(super) upper: bool,
    /// Whether its certificate and its seed have been.
    pub(super) below: bool,
}

/// On whose behalf a block is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Votes for it, whoever passed the vote on.
    Voter(Address),
    /// Sent a block above it, or says to have it.
    Peer(Peer),
}

#[derive(Clone, Debug)]
pub(super) struct Want {
    pub(super) reason: Reason,
    /// Whoever is asked, or is to be.
    from: Peer,
    /// Others that have shown something of the block since, and have not been asked yet.
    holders: VecDeque<Peer>,
    pub(super) next: Millis,
    attempts: u32,
    /// Height of the tip when it was asked for last.
    seen: u64,
}

impl Engine {
    /// Looks for a block, unless too many are looked for on the same behalf. Says whether it is looked for.
    pub(super) fn want(&mut self, block: Hash, from: Peer, reason: Reason, delay: Millis) -> bool {
        let next = self.now + delay;
        if let Some(want) = self.wants.get_mut(&block) {
            let is_new = from != want.from && !want.holders.contains(&from);
            if is_new && want.holders.len() < HOLDERS {
                want.holders.push_back(from);
            }
            // Whoever has been asked may be the one who keeps the block to himself.
            if want.attempts == 0 || is_new {
                want.next = want.next.min(next);
            }
            return true;
        }
        let for_one = self.wants.values().filter(|want| want.reason == reason).count();
        let has_room = for_one < WANTS_FOR_ONE && self.wants.len() < WANTS && block != Hash::ZERO;
        if has_room {
            let holders = VecDeque::new();
            self.wants.insert(block, Want { reason, from, holders, next, attempts: 0, seen: 0 });
        }
        has_room
    }

    /// A peer shows that it is locked on a block, so it has it: it is asked at once, whoever has been asked before.
    pub(super) fn want_of_holder(&mut self, block: Hash, from: Peer) {
        match self.wants.get_mut(&block) {
            Some(want) if want.from != from => {
                want.holders.retain(|holder| *holder != from);
                (want.from, want.next, want.attempts) = (from, self.now, 0);
            }
            _ => _ = self.want(block, from, Reason::Peer(from), 0),
        }
    }

    pub(super) fn fetch(&mut self, out: &mut Vec<Effect>) {
        if self.wants.is_empty() {
            return;
        }
        let (tree, orphans) = (&self.tree, &self.orphans);
        self.wants.retain(|hash, _| !tree.knows(hash) && !orphans.contains_key(hash));
        let pending = self.tree.nodes().any(|(_, node)| !node.is_valid());
        let (tip, above) = (self.tip().1, self.tree.head_height());
        for (hash, want) in &mut self.wants {
            if want.attempts > 0 && tip > want.seen && !pending {
                // The last answer has been worked off and led further up: go on at once.
                want.attempts = 0;
                want.next = self.now;
            }
            if self.now < want.next {
                continue;
            }
            let holder = if want.attempts == 0 { Some(want.from) } else { want.holders.pop_front() };
            want.attempts += 1;
            if let Some(holder) = holder {
                want.from = holder;
                want.attempts = 1;
            }
            out.push(Effect::Fetch { block: *hash, above, from: holder });
            want.seen = tip;
            let has_others = !want.holders.is_empty();
            let pause = if has_others { self.settings.fetch_delay } else { self.settings.fetch_timeout };
            want.next = self.now + pause.max(1);
        }
        let given_up: Vec<Hash> = self
            .wants
            .iter()
            .filter(|(_, want)| want.attempts > WANT_ATTEMPTS)
            .map(|(hash, _)| *hash)
            .collect();
        for hash in given_up {
            self.wants.remove(&hash);
            self.forget_orphans_of(hash);
        }
    }

    /// Drops the blocks that wait for one that nobody has, so that a later vote may start a new search.
    pub(super) fn forget_orphans_of(&mut self, hash: Hash) {
        let mut open = vec![hash];
        while let Some(parent) = open.pop() {
            let children = self.orphans.iter().filter(|(_, orphan)| orphan.block.header.parent == parent);
            for child in children.map(|(child, _)| *child).collect::<Vec<_>>() {
                self.orphans.remove(&child);
                open.push(child);
            }
        }
    }

    /// Remembers a block that is not to be fetched again, and forgets what waits for it.
    pub(super) fn refuse(&mut self, hash: Hash) {
        self.wants.remove(&hash);
        self.forget_orphans_of(hash);
        if self.refused.insert(hash) {
            self.refused_order.push_back(hash);
        }
        if self.refused_order.len() > REFUSED
            && let Some(oldest) = self.refused_order.pop_front()
        {
            self.refused.remove(&oldest);
        }
    }
}
