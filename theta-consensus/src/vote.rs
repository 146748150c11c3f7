//! What a validator may sign, when a block is settled, and the votes seen so far.
//!
//! Safety rests on three rules, kept across crashes by the write-ahead log and the signer's own mark:
//!
//! * R1: a vote's rank is above that of the last vote for another block;
//! * R2: the voted block carries the certificate of exactly the block this node is locked on, and the rank of the lock
//!   never falls;
//! * R3: it descends from that block, which choosing the tip among the lock's descendants gives.
//!
//! What ranks a block depends on the pace.
//!
//! *Clocked*, the reference: its height. One vote per height means at most one certified block per height. If b1 is settled
//! by its certified child b2, every validator that voted for b2 was locked on b1 or higher ever after, so a later certified
//! block descends from b1 (`spec/consensus.md` 5.1, with the set change rule of [`crate::set_change`]).
//! The price: who voted for a block that came to nothing has no other vote for its height. Two blocks that change
//! validators, with half of the votes each, end such a chain for good, since nobody may build on either.
//!
//! *Responsive*: its epoch. Every block certifies its parent, and a certified b2 settles its parent b1 only if their epochs
//! follow each other. One vote per epoch means at most one certified block per epoch. Let x be certified with an epoch
//! above b1's. If it is b2's epoch, x is b2. Else an honest validator voted for b2 and then, by R1, for x; when it voted for
//! b2 it was locked on b1, so by R2 the block y that x certifies has an epoch of b1's or above, and one below x's. Either y is
//! b1, or by induction y descends from b1; there is no epoch between b1 and b2. So x descends from b1. A block that came
//! to nothing costs its epoch and nothing else: the proposer of the next one starts again from the lock. Validators of a
//! block are those of the newest block that its ancestors settle, so two sets never decide side by side.

use std::collections::{BTreeMap, BTreeSet};

use theta_core::{
    block::Header,
    hash::{Address, Hash},
    spec::Pace,
    stake::ValidatorSet,
    vote::Vote,
};

/// Votes of one voter for blocks that are not known here; a peer of good faith is at most a few blocks ahead.
const UNKNOWN_PER_VOTER: usize = 8;

/// The last vote a node signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastVote {
    pub(crate) block: Hash,
    pub(crate) height: u64,
    /// Of the block; see [`rank`].
    pub(crate) rank: u64,
    /// Of the vote.
    pub(crate) epoch: u64,
}

/// What orders blocks in votes and locks.
pub(crate) const fn rank(header: &Header, pace: Pace) -> u64 {
    header.rank(pace)
}

/// R1 and R2 for a block that descends from the lock (R3).
pub(crate) fn allows(last: Option<&LastVote>, lock: &Hash, tip: &Header, pace: Pace) -> bool {
    let above = last.is_none_or(|last| rank(tip, pace) > last.rank);
    above && tip.certificate.block == *lock
}

/// Whether certifying this block settles its parent: the certificate it carries is the parent's own, and where epochs rank
/// blocks none lies between them.
pub(crate) fn settles_parent(header: &Header, parent: &Header, pace: Pace) -> bool {
    header.certificate.block == header.parent
        && match pace {
            Pace::Clocked => true,
            Pace::Responsive => parent.epoch.checked_add(1) == Some(header.epoch),
        }
}

/// Votes of members, in bounded slots: the latest per voter, and per block the latest per voter.
#[derive(Clone, Debug, Default)]
pub(crate) struct VoteBook {
    latest: BTreeMap<Address, Vote>,
    blocks: BTreeMap<Hash, BTreeMap<Address, Vote>>,
}

impl VoteBook {
    /// Whether the same statement, or one of a later epoch, is already here. Height and signature are no part of it.
    pub(crate) fn knows(&self, vote: &Vote) -> bool {
        self.blocks
            .get(&vote.block)
            .and_then(|votes| votes.get(&vote.voter))
            .is_some_and(|known| known.epoch >= vote.epoch)
    }

    /// Whether exactly this vote is here, so that its signature has been checked.
    pub(crate) fn holds(&self, vote: &Vote) -> bool {
        let same = |known: &Vote| {
            known.epoch == vote.epoch
                && known.signature == vote.signature
                && known.share == vote.share
                && known.end == vote.end
        };
        self.blocks.get(&vote.block).and_then(|votes| votes.get(&vote.voter)).is_some_and(same)
    }

    /// Adds a checked vote of a member and says whether it is new. `is_known` tells which blocks the node has.
    pub(crate) fn insert(&mut self, vote: Vote, is_known: impl Fn(&Hash) -> bool) -> bool {
        if self.knows(&vote) {
            return false;
        }
        if !is_known(&vote.block) {
            self.make_room(&vote, is_known);
        }
        if self.latest.get(&vote.voter).is_none_or(|latest| latest.epoch <= vote.epoch) {
            self.latest.insert(vote.voter, vote.clone());
        }
        self.blocks.entry(vote.block).or_default().insert(vote.voter, vote);
        true
    }

    /// Forgets the oldest of a voter's votes for unknown blocks when there are too many.
    fn make_room(&mut self, vote: &Vote, is_known: impl Fn(&Hash) -> bool) {
        let unknown: Vec<(u64, Hash)> = self
            .blocks
            .iter()
            .filter(|(block, _)| !is_known(block) && **block != vote.block)
            .filter_map(|(block, votes)| Some((votes.get(&vote.voter)?.epoch, *block)))
            .collect();
        if unknown.len() < UNKNOWN_PER_VOTER {
            return;
        }
        let Some((_, oldest)) = unknown.into_iter().min() else { return };
        if let Some(votes) = self.blocks.get_mut(&oldest) {
            votes.remove(&vote.voter);
            if votes.is_empty() {
                self.blocks.remove(&oldest);
            }
        }
    }

    /// Takes a vote out that turned out to be worth nothing.
    pub(crate) fn drop_vote(&mut self, block: &Hash, voter: Address) {
        if let Some(votes) = self.blocks.get_mut(block) {
            votes.remove(&voter);
        }
    }

    /// Who has voted for a block.
    pub(crate) fn voters_on(&self, block: &Hash) -> Vec<Address> {
        self.blocks.get(block).into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// A voter's vote for a block.
    pub(crate) fn vote_on(&self, block: &Hash, voter: Address) -> Option<&Vote> {
        self.blocks.get(block)?.get(&voter)
    }

    /// The members' votes for a block, one each.
    pub(crate) fn on_block<'a>(
        &'a self,
        block: &Hash,
        validators: &'a ValidatorSet,
    ) -> impl Iterator<Item = &'a Vote> {
        let votes = self.blocks.get(block).into_iter().flat_map(BTreeMap::values);
        votes.filter(|vote| validators.contains(vote.voter))
    }

    /// The members' latest votes of at least this epoch.
    pub(crate) fn since<'a>(
        &'a self,
        epoch: u64,
        validators: &'a ValidatorSet,
    ) -> impl Iterator<Item = &'a Vote> {
        let votes = self.latest.values();
        votes.filter(move |vote| vote.epoch >= epoch && validators.contains(vote.voter))
    }

    /// The latest vote of each voter.
    pub(crate) fn latest(&self) -> impl Iterator<Item = &Vote> {
        self.latest.values()
    }

    /// Drops the votes for blocks that left the tree and those of voters that are no members any more.
    pub(crate) fn forget(&mut self, gone: &BTreeSet<Hash>, is_member: impl Fn(&Address) -> bool) {
        self.blocks.retain(|block, _| !gone.contains(block));
        self.latest.retain(|voter, _| is_member(voter));
    }

    /// How many votes are kept.
    pub(crate) fn len(&self) -> usize {
        self.blocks.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use theta_core::{block::CommitCertificate, codec::rlp::Encode, vote::VoteSet};

    use super::*;
    use crate::fixture::{object, validators};

    fn header(height: u64, certified: u8) -> Header {
        let certificate = CommitCertificate::bare(Hash::repeat_byte(certified));
        Header { height, certificate, parent: Hash::repeat_byte(5), ..Header::zero() }
    }

    #[test]
    fn a_second_block_of_the_same_height_gets_no_vote() {
        let last = LastVote { block: Hash::repeat_byte(8), height: 7, rank: 7, epoch: 9 };
        let lock = Hash::repeat_byte(5);
        assert!(!allows(Some(&last), &lock, &header(6, 5), Pace::Clocked));
        assert!(!allows(Some(&last), &lock, &header(7, 5), Pace::Clocked));
        assert!(allows(Some(&last), &lock, &header(8, 5), Pace::Clocked));
    }

    #[test]
    fn where_epochs_rank_a_second_block_of_the_same_epoch_gets_no_vote() {
        let last = LastVote { block: Hash::repeat_byte(8), height: 7, rank: 7, epoch: 9 };
        let lock = Hash::repeat_byte(5);
        let of_epoch = |epoch| Header { epoch, ..header(7, 5) };
        assert!(!allows(Some(&last), &lock, &of_epoch(6), Pace::Responsive));
        assert!(!allows(Some(&last), &lock, &of_epoch(7), Pace::Responsive));
        assert!(allows(Some(&last), &lock, &of_epoch(8), Pace::Responsive));
    }

    #[test]
    fn a_block_on_another_lock_gets_no_vote() {
        for pace in [Pace::Clocked, Pace::Responsive] {
            assert!(!allows(None, &Hash::repeat_byte(5), &header(7, 4), pace));
            assert!(allows(None, &Hash::repeat_byte(5), &header(7, 5), pace));
        }
    }

    #[test]
    fn only_a_direct_parent_is_settled() {
        let of_epoch = |epoch, certified| Header { epoch, ..header(7, certified) };
        let parent = of_epoch(3, 1);
        assert!(settles_parent(&of_epoch(9, 5), &parent, Pace::Clocked));
        assert!(!settles_parent(&of_epoch(4, 4), &parent, Pace::Clocked));
        assert!(settles_parent(&of_epoch(4, 5), &parent, Pace::Responsive));
        assert!(!settles_parent(&of_epoch(5, 5), &parent, Pace::Responsive));
    }

    fn vote(voter: u8, block: u8, epoch: u64) -> Vote {
        Vote::unsigned(Hash::repeat_byte(block), 1, epoch, Address::repeat_byte(voter))
    }

    #[test]
    fn a_changed_height_makes_no_new_vote() {
        let mut book = VoteBook::default();
        assert!(book.insert(vote(1, 1, 5), |_| true));
        assert!(!book.insert(Vote { height: 99, ..vote(1, 1, 5) }, |_| true));
        assert!(!book.insert(vote(1, 1, 4), |_| true));
        assert!(book.insert(vote(1, 1, 6), |_| true));
    }

    #[test]
    fn votes_for_unknown_blocks_fill_a_bounded_number_of_slots() {
        let mut book = VoteBook::default();
        for block in 0..100 {
            assert!(book.insert(vote(1, block, u64::from(block)), |_| false));
        }
        assert_eq!(book.len(), UNKNOWN_PER_VOTER);
        assert!(book.knows(&vote(1, 99, 99)));
    }

    #[test]
    fn reductions_equal_those_of_the_reference() {
        let all = object("vote_sets");
        let set = validators(&all["validators"]);
        let hex_set = |votes: Vec<Vec<u8>>| votes.into_iter().map(hex::encode).collect::<BTreeSet<_>>();
        let listed = |name: &str| -> BTreeSet<String> {
            let list = all[name].as_array().expect("list").iter();
            list.map(|vote| vote.as_str().expect("text").to_owned()).collect()
        };
        let mut book = VoteBook::default();
        let mut everybody = Vec::new();
        for case in all["input"].as_array().expect("input") {
            let text = |name: &str| case[name].as_str().expect("text");
            let raw = hex::decode(text("rlp")).expect("hex");
            let vote: Vote = theta_core::codec::rlp::Decode::from_rlp(&raw, 1 << 12).expect("vote");
            let stake = theta_core::amount::ThetaWei::wei(1);
            everybody.push(theta_core::stake::Validator::new(vote.voter, stake));
            book.insert(vote, |_| true);
        }
        let anybody = ValidatorSet::new(everybody);
        let block: Hash = all["on_block"].as_str().expect("text").parse().expect("hash");
        let on_block = book.on_block(&block, &anybody).map(Encode::to_rlp).collect();
        assert_eq!(hex_set(on_block), listed("unique_voter_on_block"));
        let on_all = book.blocks.values().flat_map(BTreeMap::values).map(Encode::to_rlp).collect::<Vec<_>>();
        assert_eq!(hex_set(on_all), listed("unique_voter_and_block"));
        let set_on_block = VoteSet::new(book.on_block(&block, &anybody).cloned());
        assert_eq!(
            hex::encode(set_on_block.to_rlp()),
            all["unique_voter_on_block_rlp"].as_str().expect("text")
        );
        assert!(book.on_block(&block, &set).all(|vote| set.contains(vote.voter)));
    }
}
