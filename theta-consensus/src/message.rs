//! What validators tell each other, and its bounds on the wire.

use theta_core::{
    block::{Block, CommitCertificate},
    codec::rlp::{Decode, DecodeError, Encode, Fault, Reader, encode_list},
    evidence::Evidence,
    hash::{Address, Hash},
    rlp_list,
    vote::{EliteVotes, GuardianVotes, Vote, VoteSet},
};

use crate::{elite::EliteVote, epoch_end::EpochEnd, finality::GuardianPart};

/// A [`Message`] is never larger: a certificate of 31 votes has less than 6 KiB, votes of 10,000 guardians 50 KiB, those of
/// all elite edge nodes that a checkpoint samples 40 KiB.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Who sent something: the host's number for a peer, or this node itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// This node: its own votes and blocks take the same path as everybody's.
    Own,
    /// A peer, by whatever number the host gave it.
    Remote(u64),
}

/// Small messages between validators; blocks travel on their own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// A vote for a block, which also says that the voter has finished its epoch.
    Vote(Vote),
    /// Where a node stands, so that others see what they miss.
    Status(Status),
    /// Guardians' votes for a checkpoint, where they decide on rewards alone.
    GuardianVotes(GuardianVotes),
    /// An elite edge node's vote for a checkpoint, from itself.
    EliteVote(EliteVote),
    /// Elite edge nodes' votes for a checkpoint.
    EliteVotes(EliteVotes),
    /// Proof that a validator contradicted itself.
    Evidence(Evidence),
    /// Guardians' votes for a checkpoint, where they finalize it.
    GuardianPart(GuardianPart),
}

/// Where a node stands. Nothing in it is believed but the votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The newest settled block.
    pub settled: Hash,
    /// Its height.
    pub settled_height: u64,
    /// Height of the block that `certificate` certifies.
    pub certified_height: u64,
    /// Epoch of that block.
    pub certified_epoch: u64,
    /// The epoch the node is in.
    pub epoch: u64,
    /// Certificate of the highest certified block; without votes if that is the root of the chain.
    pub certificate: CommitCertificate,
    /// Where the certificate does not: what shows that the epoch before the node's is over. Signed by those who have a say after
    /// the certified block. Else empty.
    pub opened_by: EpochEnd,
}

rlp_list!(Status {
    settled,
    settled_height,
    certified_height,
    certified_epoch,
    epoch,
    certificate,
    opened_by
});

impl Encode for Message {
    /// `[kind, body]`; kinds count up in the order of the variants.
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| match self {
            Self::Vote(vote) => {
                0_u8.encode(out);
                vote.encode(out);
            }
            Self::Status(status) => {
                1_u8.encode(out);
                status.encode(out);
            }
            Self::GuardianVotes(votes) => {
                2_u8.encode(out);
                votes.encode(out);
            }
            Self::EliteVote(vote) => {
                3_u8.encode(out);
                vote.encode(out);
            }
            Self::EliteVotes(votes) => {
                4_u8.encode(out);
                votes.encode(out);
            }
            Self::Evidence(evidence) => {
                5_u8.encode(out);
                evidence.encode(out);
            }
            Self::GuardianPart(part) => {
                6_u8.encode(out);
                part.encode(out);
            }
        });
    }
}

impl Decode for Message {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let unknown = list.error(Fault::Value("no message of this kind"));
        let message = match list.read::<u8>()? {
            0 => Self::Vote(list.read()?),
            1 => Self::Status(list.read()?),
            2 => Self::GuardianVotes(list.read()?),
            3 => Self::EliteVote(list.read()?),
            4 => Self::EliteVotes(list.read()?),
            5 => Self::Evidence(list.read()?),
            6 => Self::GuardianPart(list.read()?),
            _ => return Err(unknown),
        };
        list.finish()?;
        Ok(message)
    }
}

/// A block on its way from its proposer, with votes that help slow peers (`core/vote.go` `Proposal`).
///
/// Hand the block to [`crate::Engine::wants_block`] and each vote to [`crate::Engine::wants`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The signed block.
    pub block: Block,
    /// Unsigned and ignored; the proposer's address.
    pub proposer: Address,
    /// The proposer's view of the votes on its highest certified block and of the latest epoch.
    pub votes: VoteSet,
}

rlp_list!(Proposal { block, proposer, votes });

#[cfg(test)]
mod tests {
    use theta_core::block::MAX_BLOCK_BYTES;

    use super::*;
    use crate::fixture::array;

    fn bytes(value: &serde_json::Value) -> Vec<u8> {
        hex::decode(value.as_str().expect("text")).expect("hex")
    }

    #[test]
    fn proposals_of_the_reference_are_read_and_written_back() {
        let mut read = 0;
        for case in array("proposals") {
            let raw = bytes(&case["rlp"]);
            if case["name"] == "empty proposal" {
                // Its header is the zero header; nobody sends it.
                continue;
            }
            let proposal = Proposal::from_rlp(&raw, MAX_BLOCK_BYTES).expect("decodes");
            assert_eq!(proposal.to_rlp(), raw);
            read += 1;
        }
        assert_eq!(read, 2);
    }

    #[test]
    fn votes_of_the_reference_are_read_and_written_back() {
        for case in array("votes") {
            let raw = bytes(&case["rlp"]);
            let vote = Vote::from_rlp(&raw, MAX_MESSAGE_BYTES).expect("decodes");
            assert_eq!(vote.to_rlp(), raw);
            // A vote for no block is refused by the engine, whatever its signature.
            let right = vote.verify().is_ok() && vote.block != Hash::ZERO;
            assert_eq!(right, case["valid"].as_bool().expect("flag"));
            let message = Message::Vote(vote);
            assert_eq!(Message::from_rlp(&message.to_rlp(), MAX_MESSAGE_BYTES), Ok(message));
        }
    }

    #[test]
    fn a_message_of_unknown_kind_is_refused() {
        let error = Message::from_rlp(&[0xc2, 0x7f, 0xc0], MAX_MESSAGE_BYTES).expect_err("unknown");
        assert_eq!(error.fault, Fault::Value("no message of this kind"));
    }
}
