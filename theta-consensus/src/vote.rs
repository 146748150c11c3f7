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

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use theta_core::{
    amount::ThetaWei,
    block::Header,
    hash::{Address, Hash},
    spec::Pace,
    stake::{ValidatorSet, validator::Quorum},
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
    /// Stakes behind blocks, as far as somebody has asked, kept up with the votes.
    backed: BTreeMap<Hash, Backed>,
    /// Stakes by the epoch of the latest vote, of the set that was asked for last.
    ended: Option<Ended>,
}

/// The stake that votes for a block have.
#[derive(Clone, Debug)]
struct Backed {
    of: Arc<ValidatorSet>,
    quorum: Quorum,
    stake: ThetaWei,
}

/// How much of the stake of a set has a latest vote of which epoch.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    of: Arc<ValidatorSet>,
    quorum: Quorum,
    stakes: BTreeMap<u64, ThetaWei>,
}

impl Ended {
    fn new(of: &Arc<ValidatorSet>, latest: &BTreeMap<Address, Vote>) -> Self {
        let mut ended = Self { of: of.clone(), quorum: of.quorum(), stakes: BTreeMap::new() };
        latest.values().for_each(|vote| ended.moves(vote.voter, None, vote.epoch));
        ended
    }

    /// A voter's latest vote is of another epoch now.
    fn moves(&mut self, voter: Address, from: Option<u64>, to: u64) {
        let stake = self.of.stake_of([voter]);
        if stake.is_zero() {
            return;
        }
        if let Some(from) = from
            && let Some(before) = self.stakes.get_mut(&from)
        {
            *before = before.checked_sub(stake).unwrap_or(ThetaWei::ZERO);
            if before.is_zero() {
                self.stakes.remove(&from);
            }
        }
        let now = self.stakes.entry(to).or_insert(ThetaWei::ZERO);
        *now = now.checked_add(stake).unwrap_or(*now);
    }

    /// The latest epochs, from this one on, that a quorum has voted in or after, and that more than a third have.
    pub(crate) fn since(&self, epoch: u64) -> (Option<u64>, Option<u64>) {
        let (mut sum, mut third) = (ThetaWei::ZERO, None);
        for (epoch, stake) in self.stakes.range(epoch..).rev() {
            sum = sum.checked_add(*stake).unwrap_or(sum);
            if third.is_none() && self.quorum.has_honest(sum) {
                third = Some(*epoch);
            }
            if self.quorum.is_met(sum) {
                return (Some(*epoch), third);
            }
        }
        (None, third)
    }
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
        let before = self.latest.get(&vote.voter).map(|latest| latest.epoch);
        if before.is_none_or(|before| before <= vote.epoch) {
            self.latest.insert(vote.voter, vote.clone());
            if let Some(ended) = &mut self.ended {
                ended.moves(vote.voter, before, vote.epoch);
            }
        }
        let (block, voter) = (vote.block, vote.voter);
        let is_first = self.blocks.entry(block).or_default().insert(voter, vote).is_none();
        if let Some(backed) = self.backed.get_mut(&block).filter(|_| is_first) {
            let stake = backed.of.stake_of([voter]);
            backed.stake = backed.stake.checked_add(stake).unwrap_or(backed.stake);
        }
        true
    }

    /// Whether a quorum has voted for a block. Adds up only what has come since it was asked last.
    pub(crate) fn has_quorum(&mut self, block: &Hash, validators: &Arc<ValidatorSet>) -> bool {
        if self.backed.get(block).is_none_or(|backed| backed.of != *validators) {
            let Some(votes) = self.blocks.get(block) else { return false };
            let stake = validators.stake_of(votes.keys().copied());
            let backed = Backed { of: validators.clone(), quorum: validators.quorum(), stake };
            self.backed.insert(*block, backed);
        }
        self.backed.get(block).is_some_and(|backed| backed.quorum.is_met(backed.stake))
    }

    /// What epochs the members have voted in last.
    pub(crate) fn ended(&mut self, validators: &Arc<ValidatorSet>) -> &Ended {
        let ended = self.ended.take().filter(|ended| ended.of == *validators);
        let ended = ended.unwrap_or_else(|| Ended::new(validators, &self.latest));
        self.ended.insert(ended)
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
        self.backed.remove(&oldest);
        if let Some(votes) = self.blocks.get_mut(&oldest) {
            votes.remove(&vote.voter);
            if votes.is_empty() {
                self.blocks.remove(&oldest);
            }
        }
    }

    /// Takes a vote out that turned out to be worth nothing.
    pub(crate) fn drop_vote(&mut self, block: &Hash, voter: Address) {
        self.backed.remove(block);
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
        self.backed.retain(|block, _| self.blocks.contains_key(block));
        let before = self.latest.len();
        self.latest.retain(|voter, _| is_member(voter));
        if self.latest.len() < before {
            self.ended = None;
        }
    }

    /// How many votes are kept.
    pub(crate) fn len(&self) -> usize {
        self.blocks.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use theta_core::{
        block::CommitCertificate, codec::rlp::Encode, hash::U256, stake::Validator, vote::VoteSet,
    };

    use super::*;
    use crate::{
        certificate::is_quorum,
        fixture::{object, validators},
    };

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

    /// Else its signature would not be checked.
    #[test]
    fn a_vote_with_another_part_under_the_same_signature_is_another_vote() {
        let part = |byte: u8| Some(theta_core::bls::Signature::from_checked_bytes([byte; 96]));
        let whole = Vote { share: part(1), end: part(2), ..vote(1, 1, 5) };
        let mut book = VoteBook::default();
        assert!(book.insert(whole.clone(), |_| true) && book.holds(&whole));
        assert!(!book.holds(&Vote { share: part(3), ..whole.clone() }));
        assert!(!book.holds(&Vote { end: part(3), ..whole.clone() }));
        assert!(!book.holds(&Vote { end: None, ..whole }));
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

    /// The sums that are kept up with the votes are what counting again gives.
    #[test]
    fn running_sums_are_those_of_a_recount() {
        let set = |members: std::ops::Range<u8>, more: u64| {
            let stake = |voter: u8| ThetaWei::wei(100 + more * u64::from(voter));
            let member = |voter| Validator::new(Address::repeat_byte(voter), stake(voter));
            Arc::new(ValidatorSet::new(members.map(member)))
        };
        let sets = [set(0..7, 0), set(1..8, 9)];
        // Any mixing will do.
        let mut state = 7_u64;
        let mut below = |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % most
        };
        let (mut book, mut quorums, mut epochs) = (VoteBook::default(), 0, 0);
        for step in 0..4_000_u64 {
            let byte = |number: u64| u8::try_from(number).expect("small");
            let epoch = step / 200 + below(4);
            let block = byte(epoch / 2 + below(2));
            let is_known = below(2) == 0;
            book.insert(vote(byte(below(9)), block, epoch), |_| is_known);
            match below(60) {
                0 => book.drop_vote(&Hash::repeat_byte(block), Address::repeat_byte(byte(below(9)))),
                1 => {
                    let stranger = Address::repeat_byte(byte(below(20)));
                    book.forget(&BTreeSet::from([Hash::repeat_byte(block)]), |voter| *voter != stranger);
                }
                _ => {}
            }
            let set = &sets[usize::from(below(8) == 0)];
            let asked = Hash::repeat_byte(block);
            let counted = is_quorum(book.on_block(&asked, set), set);
            assert_eq!(book.has_quorum(&asked, set), counted, "step {step}");
            quorums += u32::from(counted);
            let from = epoch.saturating_sub(3);
            let heard: BTreeSet<u64> = book.since(from, set).map(|vote| vote.epoch).collect();
            let stake = |epoch: u64| set.stake_of(book.since(epoch, set).map(|vote| vote.voter));
            let latest = |is_enough: &dyn Fn(ThetaWei) -> bool| {
                heard.iter().rev().find(|epoch| is_enough(stake(**epoch))).copied()
            };
            let expected = (
                latest(&|stake| set.is_quorum(stake)),
                latest(&|stake| stake.get() * U256::from(3) > set.total_stake().get()),
            );
            assert_eq!(book.ended(set).since(from), expected, "step {step}");
            epochs += u32::from(expected.0.is_some());
        }
        assert!(quorums > 400 && quorums < 3_900 && epochs > 400, "{quorums} {epochs}");
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
