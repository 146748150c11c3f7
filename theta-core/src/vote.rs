//! Votes of all three levels as they stand on the wire (`core/vote.go`, `core/guardian.go`, `core/elite_edge_node.go`).

use serde::{Deserialize, Serialize};

use crate::{
    bls,
    codec::rlp::{Decode, DecodeError, Encode, Fault, Item, Reader, encode_list},
    hash::{Address, Hash, keccak},
    rlp_list,
    sign::{SignError, Signature},
};

/// A validator's vote for the tip it supports, which also says "I have finished this epoch".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Vote {
    /// The block voted for.
    pub block: Hash,
    /// Height of that block. Not signed: take it from the block, never from the vote.
    pub height: u64,
    /// The voter's epoch, at or above the block's.
    pub epoch: u64,
    /// Who votes.
    pub voter: Address,
    /// Over [`Vote::digest`].
    pub signature: Signature,
    /// Where certificates are aggregates, the voter's part of one: its BLS signature over
    /// [`crate::certificate::AggregateVotes::message`]. It is signed too, so a wrong one is its voter's fault.
    pub share: Option<bls::Signature>,
    /// Beside a share, in a vote of a later epoch than its block's: the voter's BLS signature over
    /// [`crate::certificate::epoch_end_message`], its part of what shows that the epoch is over. Signed like the share.
    pub end: Option<bls::Signature>,
}

impl Encode for Vote {
    /// Five items, six with a share, seven with the end of an epoch too.
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.block.encode(out);
            self.height.encode(out);
            self.epoch.encode(out);
            self.voter.encode(out);
            self.signature.encode(out);
            if let Some(share) = &self.share {
                share.encode(out);
                if let Some(end) = &self.end {
                    end.encode(out);
                }
            }
        });
    }
}

impl Decode for Vote {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let mut vote = Self {
            block: list.read()?,
            height: list.read()?,
            epoch: list.read()?,
            voter: list.read()?,
            signature: list.read()?,
            share: None,
            end: None,
        };
        if !list.is_empty() {
            vote.share = Some(list.read()?);
        }
        if !list.is_empty() {
            vote.end = Some(list.read()?);
        }
        list.finish()?;
        Ok(vote)
    }
}

impl Item for Vote {}

impl Vote {
    /// A vote that is not signed yet.
    pub const fn unsigned(block: Hash, height: u64, epoch: u64, voter: Address) -> Self {
        Self { block, height, epoch, voter, signature: Signature::EMPTY, share: None, end: None }
    }

    /// What is signed: block, epoch, voter, share and end, with height and signature emptied.
    pub fn digest(&self) -> Hash {
        let unsigned = Self { height: 0, signature: Signature::EMPTY, ..self.clone() };
        keccak(unsigned.to_rlp())
    }

    /// Whether the voter signed it.
    pub fn verify(&self) -> Result<(), SignError> {
        if self.signature.recover(&self.digest())? == self.voter { Ok(()) } else { Err(SignError::NoKey) }
    }
}

/// Votes in ascending order of their voters; no two agree in voter, block and epoch.
///
/// The reference sorts and merges whatever it reads before it hashes; here an unsorted or repeated list is refused, so
/// the bytes that came are the bytes that are hashed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VoteSet(Vec<Vote>);

impl VoteSet {
    /// Sorts the votes; of those that agree in voter, block and epoch the last one stays.
    pub fn new(votes: impl IntoIterator<Item = Vote>) -> Self {
        let mut kept: Vec<Vote> = Vec::new();
        for vote in votes {
            match kept.iter_mut().find(|other| other.same_statement(&vote)) {
                Some(other) => *other = vote,
                None => kept.push(vote),
            }
        }
        kept.sort_by_key(Vote::order);
        Self(kept)
    }

    /// The votes, ascending by voter.
    pub fn as_slice(&self) -> &[Vote] {
        &self.0
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every vote is for this block and signed by its voter.
    pub fn are_for(&self, block: &Hash) -> bool {
        self.0.iter().all(|vote| vote.block == *block && vote.verify().is_ok())
    }
}

impl Vote {
    fn same_statement(&self, other: &Self) -> bool {
        self.voter == other.voter && self.block == other.block && self.epoch == other.epoch
    }

    fn order(&self) -> (Address, u64, Hash) {
        (self.voter, self.epoch, self.block)
    }
}

impl Encode for VoteSet {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

impl Decode for VoteSet {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let error = input.error(Fault::Value("votes are sorted by voter and none stands twice"));
        let votes: Vec<Vote> = input.read_list()?;
        let ordered = votes.windows(2).all(|pair| pair[0].voter <= pair[1].voter);
        let repeated = votes.windows(2).any(|pair| pair[0].same_statement(&pair[1]));
        if ordered && !repeated { Ok(Self(votes)) } else { Err(error) }
    }
}

/// Guardians' votes for a checkpoint, aggregated; one multiplier for each guardian of the pool that has stake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardianVotes {
    /// The checkpoint voted for.
    pub block: Hash,
    /// Hash of the guardian pool in that checkpoint's state, withdrawn stakes included.
    pub pool: Hash,
    /// How often each guardian's signature is in the aggregate.
    pub multipliers: Vec<u32>,
    /// Over [`GuardianVotes::message`].
    pub signature: bls::Signature,
}

rlp_list!(GuardianVotes { block, pool, multipliers, signature });

impl GuardianVotes {
    /// The signed bytes: multipliers and signature emptied.
    pub fn message(block: &Hash, pool: &Hash) -> Vec<u8> {
        let mut out = Vec::new();
        encode_list(&mut out, |out| {
            block.encode(out);
            pool.encode(out);
            out.extend([0xc0, 0x80]);
        });
        out
    }
}

/// Elite edge nodes' votes for a checkpoint, aggregated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EliteVotes {
    /// The checkpoint voted for.
    pub block: Hash,
    /// How often each node's signature is in the aggregate.
    pub multipliers: Vec<u32>,
    /// The nodes, ascending.
    pub addresses: Vec<Address>,
    /// Over [`EliteVotes::message`].
    pub signature: bls::Signature,
}

rlp_list!(EliteVotes { block, multipliers, addresses, signature });

impl EliteVotes {
    /// The signed bytes.
    pub fn message(block: &Hash) -> Vec<u8> {
        let mut out = Vec::new();
        encode_list(&mut out, |out| block.encode(out));
        out
    }
}

impl Item for VoteSet {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::SecretKey;

    fn vote(key: u8, block: u8, epoch: u64) -> Vote {
        let key = SecretKey::from_bytes(&[key; 32]).expect("in range");
        let mut vote = Vote::unsigned(Hash::repeat_byte(block), 7, epoch, key.address());
        vote.signature = key.sign_digest(&vote.digest());
        vote
    }

    #[test]
    fn height_is_not_signed_and_the_rest_is() {
        let vote = vote(1, 1, 3);
        assert!(vote.verify().is_ok());
        assert!(Vote { height: 99, ..vote.clone() }.verify().is_ok());
        assert!(Vote { epoch: 4, ..vote.clone() }.verify().is_err());
        assert!(Vote { block: Hash::ZERO, ..vote.clone() }.verify().is_err());
        let share = Some(bls::Signature::from_checked_bytes([0x91; 96]));
        assert!(Vote { share, ..vote.clone() }.verify().is_err());
        let both = Vote { share, end: share, ..vote.clone() };
        assert!(both.verify().is_err());
        let sealed = |vote: Vote| {
            let key = SecretKey::from_bytes(&[1; 32]).expect("in range");
            Vote { signature: key.sign_digest(&vote.digest()), ..vote }
        };
        let both = sealed(both);
        assert!(both.verify().is_ok());
        assert!(Vote { end: None, ..both }.verify().is_err(), "what it says of the epoch is signed");
        assert!(Vote { voter: Address::ZERO, ..vote }.verify().is_err());
    }

    #[test]
    fn a_vote_has_five_items_six_or_seven() {
        let signature = Some(bls::Signature::from_checked_bytes([0x91; 96]));
        let bare = vote(1, 1, 3);
        let shared = Vote { share: signature, ..bare.clone() };
        let ending = Vote { end: signature, ..shared.clone() };
        for vote in [&bare, &shared, &ending] {
            assert_eq!(Vote::from_rlp(&vote.to_rlp(), 1 << 10).as_ref(), Ok(vote));
        }
        // An eighth item; the list's own length takes three bytes.
        let items = |count: usize| {
            let mut out = Vec::new();
            encode_list(&mut out, |out| {
                out.extend_from_slice(&ending.to_rlp()[3..]);
                (0..count).for_each(|_| 0_u64.encode(out));
            });
            out
        };
        assert_eq!(items(0), ending.to_rlp());
        assert!(Vote::from_rlp(&items(1), 1 << 10).is_err());
    }

    #[test]
    fn unsorted_and_repeated_lists_are_refused() {
        let set = VoteSet::new([vote(1, 1, 3), vote(2, 1, 3), vote(3, 1, 3)]);
        assert_eq!(VoteSet::from_rlp(&set.to_rlp(), 1 << 16), Ok(set.clone()));
        let mut reversed = set.0.clone();
        reversed.reverse();
        assert!(VoteSet::from_rlp(&reversed.to_rlp(), 1 << 16).is_err());
        let doubled = vec![set.0[0].clone(), set.0[0].clone()];
        assert!(VoteSet::from_rlp(&doubled.to_rlp(), 1 << 16).is_err());
        assert_eq!(VoteSet::new(doubled).0.len(), 1);
    }
}
