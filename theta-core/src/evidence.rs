//! Proof that a validator signed two things of which it may sign one. It verifies alone, without the chain.
//!
//! Two blocks of one epoch, or votes for two blocks of one rank (`spec/consensus.md` 11; heights and epochs are taken from
//! the headers, since votes do not sign theirs). The reference keeps no such proof.

use crate::{
    block::Header,
    codec::rlp::{Decode, DecodeError, Encode, Fault as Malformed, Reader, encode_list},
    hash::{Address, Hash},
    sign::Signature,
    spec::{ChainSpec, Pace},
    vote::Vote,
};

/// Two statements of one validator that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Evidence {
    /// Two blocks of one epoch.
    Proposals(Box<[Header; 2]>),
    /// Votes for two blocks of one height, or of one epoch at the responsive pace.
    Votes {
        /// The votes.
        votes: Box<[Vote; 2]>,
        /// Headers of the blocks they are for.
        headers: Box<[Header; 2]>,
    },
}

/// Whether a signature over a digest is an address's.
pub type SignatureRule<'a> = &'a dyn Fn(&Signature, &Hash, Address) -> bool;

/// Why something is no evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Of another chain.
    #[error("evidence belongs to another chain")]
    Chain,
    /// By different validators.
    #[error("the statements are not of one validator")]
    Offender,
    /// They do not contradict each other.
    #[error("the statements do not contradict each other")]
    NoConflict,
    /// A vote is not for the block whose header stands beside it.
    #[error("a vote is not for the block beside it")]
    OtherBlock,
    /// A signature is wrong.
    #[error("a statement is not signed by whom it names")]
    Signature,
}

impl Evidence {
    /// The larger height of the two blocks: by it a chain tells what is past and what was punished already.
    pub fn height(&self) -> u64 {
        let (Self::Proposals(headers) | Self::Votes { headers, .. }) = self;
        headers[0].height.max(headers[1].height)
    }

    /// Who is accused.
    pub fn offender(&self) -> Address {
        match self {
            Self::Proposals(headers) => headers[0].proposer,
            Self::Votes { votes, .. } => votes[0].voter,
        }
    }

    /// Whether it proves what it says. Costs two key recoveries.
    pub fn verify(&self, spec: &ChainSpec) -> Result<(), EvidenceError> {
        self.verify_by(spec, &|signature, digest, address| signature.recover(digest) == Ok(address))
    }

    /// Verifies under another rule of what a signature is: a cache of recovered keys, or make-believe in simulations. The
    /// rule is asked whether a signature over a digest is an address's.
    pub fn verify_by(&self, spec: &ChainSpec, rule: SignatureRule<'_>) -> Result<(), EvidenceError> {
        let offender = self.offender();
        let (Self::Proposals(headers) | Self::Votes { headers, .. }) = self;
        if headers.iter().any(|header| header.chain != spec.chain) {
            return Err(EvidenceError::Chain);
        }
        let digests = headers.each_ref().map(Header::digest);
        match self {
            Self::Proposals(headers) => {
                if headers[1].proposer != offender {
                    return Err(EvidenceError::Offender);
                }
                if headers[0].epoch != headers[1].epoch || digests[0] == digests[1] {
                    return Err(EvidenceError::NoConflict);
                }
                let signed = headers.iter().zip(&digests);
                let right = |(header, digest): (&Header, _)| rule(&header.signature, digest, offender);
                if signed.into_iter().all(right) { Ok(()) } else { Err(EvidenceError::Signature) }
            }
            Self::Votes { votes, headers } => {
                if votes[1].voter != offender {
                    return Err(EvidenceError::Offender);
                }
                if votes.iter().zip(headers.iter()).any(|(vote, header)| vote.block != header.hash()) {
                    return Err(EvidenceError::OtherBlock);
                }
                let pace = |header: &Header| spec.rules(header.height).consensus.pace;
                let rank = |header: &Header| (pace(header) == Pace::Clocked, header.rank(pace(header)));
                if votes[0].block == votes[1].block || rank(&headers[0]) != rank(&headers[1]) {
                    return Err(EvidenceError::NoConflict);
                }
                let right = |vote: &Vote| rule(&vote.signature, &vote.digest(), offender);
                if votes.iter().all(right) { Ok(()) } else { Err(EvidenceError::Signature) }
            }
        }
    }
}

impl Encode for Evidence {
    /// `[0, header, header]` or `[1, vote, header, vote, header]`.
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| match self {
            Self::Proposals(headers) => {
                0_u8.encode(out);
                headers.iter().for_each(|header| header.encode(out));
            }
            Self::Votes { votes, headers } => {
                1_u8.encode(out);
                for (vote, header) in votes.iter().zip(headers.iter()) {
                    vote.encode(out);
                    header.encode(out);
                }
            }
        });
    }
}

impl Decode for Evidence {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let unknown = list.error(Malformed::Value("no evidence of this kind"));
        let evidence = match list.read::<u8>()? {
            0 => Self::Proposals(Box::new([list.read()?, list.read()?])),
            1 => {
                let (first, below_first) = (list.read()?, list.read()?);
                let (second, below_second) = (list.read()?, list.read()?);
                Self::Votes {
                    votes: Box::new([first, second]),
                    headers: Box::new([below_first, below_second]),
                }
            }
            _ => return Err(unknown),
        };
        list.finish()?;
        Ok(evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign::SecretKey;
    const MAX_MESSAGE_BYTES: usize = 64 * 1024;

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes(&[byte; 32]).expect("in range")
    }

    fn header(epoch: u64, height: u64, timestamp: u32) -> Header {
        let (chain, proposer) = (ChainSpec::devnet().chain, key(3).address());
        let mut header =
            Header { chain, epoch, height, timestamp: timestamp.into(), proposer, ..Header::zero() };
        header.signature = key(3).sign_digest(&header.digest());
        header
    }

    fn vote(header: &Header, epoch: u64) -> Vote {
        let voter = key(4).address();
        let mut vote = Vote::unsigned(header.hash(), 0, epoch, voter);
        vote.signature = key(4).sign_digest(&vote.digest());
        vote
    }

    fn votes(headers: [Header; 2]) -> Evidence {
        let votes = [vote(&headers[0], 9), vote(&headers[1], 10)];
        Evidence::Votes { votes: Box::new(votes), headers: Box::new(headers) }
    }

    #[test]
    fn two_blocks_of_an_epoch_prove_it() {
        let spec = ChainSpec::devnet();
        let proof = Evidence::Proposals(Box::new([header(5, 4, 1), header(5, 4, 2)]));
        assert_eq!((proof.verify(&spec), proof.offender()), (Ok(()), key(3).address()));
        let bytes = proof.to_rlp();
        assert_eq!(Evidence::from_rlp(&bytes, MAX_MESSAGE_BYTES), Ok(proof));
        let of = |a, b| Evidence::Proposals(Box::new([a, b])).verify(&spec);
        assert_eq!(of(header(5, 4, 1), header(6, 4, 2)), Err(EvidenceError::NoConflict));
        // The same block under another signature is no second block.
        let twin = Header { signature: Signature::from_bytes(vec![1; 65]), ..header(5, 4, 1) };
        assert_eq!(of(header(5, 4, 1), twin), Err(EvidenceError::NoConflict));
        let forged = Header { timestamp: 9_u32.into(), ..header(5, 4, 1) };
        assert_eq!(of(header(5, 4, 1), forged), Err(EvidenceError::Signature));
        let foreign = Header { chain: "elsewhere".to_owned(), ..header(5, 4, 2) };
        assert_eq!(of(header(5, 4, 1), foreign), Err(EvidenceError::Chain));
        let other = Header { proposer: key(4).address(), ..header(5, 4, 2) };
        assert_eq!(of(header(5, 4, 1), other), Err(EvidenceError::Offender));
    }

    #[test]
    fn votes_for_two_blocks_of_a_rank_prove_it() {
        let (devnet, private) = (ChainSpec::devnet(), ChainSpec::privatenet());
        let same_epoch = votes([header(5, 4, 1), header(5, 4, 2)]);
        assert_eq!((same_epoch.verify(&devnet), same_epoch.offender()), (Ok(()), key(4).address()));
        assert_eq!(Evidence::from_rlp(&same_epoch.to_rlp(), MAX_MESSAGE_BYTES), Ok(same_epoch.clone()));
        // A second vote for a height is no fault where epochs rank blocks.
        let same_height = votes([header(5, 4, 1), header(6, 4, 2)]);
        assert_eq!(same_height.verify(&devnet), Err(EvidenceError::NoConflict));
        assert_eq!(same_height.verify(&private), Ok(()));
        assert_eq!(votes([header(5, 4, 1), header(5, 4, 1)]).verify(&devnet), Err(EvidenceError::NoConflict));
        let Evidence::Votes { votes: pair, headers } = same_epoch else { panic!("votes") };
        let with = |change: &dyn Fn(&mut [Vote; 2])| {
            let mut votes = pair.clone();
            change(&mut votes);
            Evidence::Votes { votes, headers: headers.clone() }.verify(&devnet)
        };
        assert_eq!(with(&|votes| votes[1].block = Hash::ZERO), Err(EvidenceError::OtherBlock));
        assert_eq!(with(&|votes| votes[1].voter = key(3).address()), Err(EvidenceError::Offender));
        assert_eq!(with(&|votes| votes[1].epoch += 1), Err(EvidenceError::Signature));
    }
}
