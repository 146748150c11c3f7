//! How an epoch was opened where no certificate says so, and how others learn of it.

use std::sync::Arc;

use theta_core::{
    bls,
    hash::{Address, Hash},
    spec::Pace,
    stake::ValidatorSet,
    vote::Vote,
};

use super::{Effect, Engine};
use crate::epoch_end::{EpochEnd, Said};

impl Engine {
    /// Whether the certificate of the lock leaves open how this node's epoch began.
    pub(super) fn needs_opening(&self) -> bool {
        let certified = self.tree.header(&self.lock.block).map_or(0, |header| header.epoch);
        self.pace() == Pace::Responsive && self.has_shares() && certified.saturating_add(1) < self.epoch
    }

    /// What is here of those who have a say after the lock, that shows that this node's epoch is open.
    pub(super) fn opening(&self) -> Option<&EpochEnd> {
        let validators = self.tree.next_validators(&self.lock.block).filter(|_| self.needs_opening())?;
        let (end, of) = self.opened.as_ref()?;
        (end.epoch.saturating_add(1) == self.epoch && of == validators).then_some(end)
    }

    /// Adds up the votes that have opened this epoch, once for each.
    pub(super) fn show_opening(&mut self, out: &mut Vec<Effect>) {
        if !self.needs_opening() || self.opening().is_some() {
            return;
        }
        let Some(validators) = self.tree.next_validators(&self.lock.block).cloned() else { return };
        let before = self.epoch.saturating_sub(1);
        let heard: Vec<Vote> = self.book.since(before, &validators).cloned().collect();
        let said = heard.iter().filter_map(|vote| self.said(vote));
        let (end, wrong) = EpochEnd::gather(before, said, &self.spec.chain, &validators, self.shares);
        for vote in heard.iter().filter(|vote| wrong.contains(&vote.voter)) {
            self.suspect(&vote.block, vote.voter, out);
        }
        self.opened = end.map(|end| (end, validators)).or_else(|| self.opened.take());
    }

    /// What a vote says of the end of an epoch, by itself or because its block is of the epoch. Who has signed wrongly before
    /// is not needed.
    fn said(&self, vote: &Vote) -> Option<(Address, Said, bls::Signature)> {
        if self.suspects.contains(&vote.voter) {
            return None;
        }
        let of_block = || self.tree.header(&vote.block).filter(|header| header.epoch == vote.epoch);
        match vote.end {
            Some(end) => Some((vote.voter, (Hash::ZERO, vote.epoch), end)),
            None => of_block().and(vote.share).map(|share| (vote.voter, (vote.block, vote.epoch), share)),
        }
    }

    /// Takes what shows that an epoch is over, signed by those who have a say after this block and checked, if it is a quorum
    /// by this node's lock, too.
    pub(super) fn open(&mut self, block: &Hash, end: EpochEnd, out: &mut Vec<Effect>) {
        if end.is_empty() || end.epoch < self.epoch || self.pace() == Pace::Clocked {
            return;
        }
        let (Some(of), Some(own)) =
            (self.tree.next_validators(block).cloned(), self.tree.next_validators(&self.lock.block))
        else {
            return;
        };
        if own.is_quorum(own.stake_of(voters(&end, &of))) {
            self.epoch = end.epoch.saturating_add(1);
            self.opened = Some((end, of));
            self.enter_epoch(out);
        }
    }
}

/// Everybody that is named.
fn voters(end: &EpochEnd, of: &Arc<ValidatorSet>) -> Vec<Address> {
    let places = end.statements.iter().flat_map(|statement| statement.signers.ones());
    places.filter_map(|index| of.as_slice().get(index)).map(|validator| validator.address).collect()
}
