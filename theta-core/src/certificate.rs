//! What certifies a block: a list of votes, or one BLS signature of all voters with a bit for each validator.
//!
//! In the second form a certificate has the same size for any number of voters but for those bits. Shares are made over
//! chain, block and the block's epoch, by the standard suite, so that those for one block add up whenever they were given,
//! and none is good elsewhere. Adding up is safe because every key came with a proof of possession.

use crate::{
    bits::Bits,
    bls,
    codec::rlp::{Decode, DecodeError, Encode, Reader, encode_list, encode_string},
    hash::Hash,
    rlp_list,
    stake::{Validator, ValidatorSet},
    vote::{Vote, VoteSet},
};

/// How validators sign where certificates are aggregates.
pub const SUITE: bls::Suite = bls::Suite::Rfc9380;

/// Why a certificate certifies nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// There are no votes.
    #[error("certificate without votes")]
    Empty,
    /// More votes than there are validators.
    #[error("certificate has more votes than the set has validators")]
    TooMany,
    /// One voter stands in it twice.
    #[error("certificate counts a voter twice")]
    Repeated,
    /// A vote is for another block.
    #[error("certificate holds a vote for another block")]
    OtherBlock,
    /// A vote is not signed by its voter, or in a malleable form where that is forbidden; or an aggregate is not signed by
    /// those it names.
    #[error("certificate holds a wrong signature")]
    Signature,
    /// Two thirds of the stake or less.
    #[error("votes are no quorum")]
    NoQuorum,
    /// An aggregate with more or fewer bits than the set has validators.
    #[error("certificate has another number of bits than the set has validators")]
    Length,
    /// An aggregate that names another epoch than its block's.
    #[error("certificate names another epoch than its block's")]
    Epoch,
    /// An aggregate that names a validator without a key.
    #[error("certificate names a validator without a key")]
    NoKey,
    /// A list where the chain has aggregates, or the other way round.
    #[error("certificate is not in the form of its chain")]
    Form,
}

/// Votes for one block in one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregateVotes {
    /// Epoch of the block.
    pub epoch: u64,
    /// Who has voted: a bit for each validator, in the order of the set.
    pub signers: Bits,
    /// Sum of the voters' shares over [`AggregateVotes::message`].
    pub signature: bls::Signature,
}

rlp_list!(AggregateVotes { epoch, signers, signature });

impl AggregateVotes {
    /// What each voter signs: `[domain, chain, block, epoch]`.
    pub fn message(chain: &str, block: &Hash, epoch: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode_list(&mut out, |out| {
            "theta validator vote".to_owned().encode(out);
            chain.to_owned().encode(out);
            block.encode(out);
            epoch.encode(out);
        });
        out
    }

    /// The validators named.
    pub fn voters<'a>(&'a self, validators: &'a ValidatorSet) -> impl Iterator<Item = &'a Validator> {
        self.signers.ones().filter_map(|index| validators.as_slice().get(index))
    }

    /// Everything but the signature: a bit for each validator, a quorum of them set, for a block of this epoch. Gives the
    /// keys of those named.
    pub fn check_form(
        &self,
        epoch: u64,
        validators: &ValidatorSet,
    ) -> Result<Vec<bls::PublicKey>, CertificateError> {
        if self.signers.len() != validators.as_slice().len() {
            return Err(CertificateError::Length);
        }
        if self.signers.count() == 0 {
            return Err(CertificateError::Empty);
        }
        if self.epoch != epoch {
            return Err(CertificateError::Epoch);
        }
        let stake = validators.stake_of(self.voters(validators).map(|voter| voter.address));
        if !validators.is_quorum(stake) {
            return Err(CertificateError::NoQuorum);
        }
        self.voters(validators).map(|voter| voter.bls.ok_or(CertificateError::NoKey)).collect()
    }

    /// Whether it certifies a block of this chain and epoch. `is_signed` says whether a signature is that of all keys together.
    pub fn verify_by(
        &self,
        is_signed: impl FnOnce(&[bls::PublicKey], &[u8], &bls::Signature) -> bool,
        (chain, block, epoch): (&str, &Hash, u64),
        validators: &ValidatorSet,
    ) -> Result<(), CertificateError> {
        let keys = self.check_form(epoch, validators)?;
        if is_signed(&keys, &Self::message(chain, block, epoch), &self.signature) {
            Ok(())
        } else {
            Err(CertificateError::Signature)
        }
    }

    /// The same with signatures on the curve. Costs an addition for each voter and one check of a signature.
    #[cfg(feature = "bls")]
    pub fn verify(
        &self,
        (chain, block, epoch): (&str, &Hash, u64),
        validators: &ValidatorSet,
    ) -> Result<(), CertificateError> {
        self.verify_by(is_signed, (chain, block, epoch), validators)
    }
}

/// What a voter signs that has finished an epoch without a block of it: `[domain, chain, epoch]`.
pub fn epoch_end_message(chain: &str, epoch: u64) -> Vec<u8> {
    epoch_message("theta epoch end", chain, epoch)
}

/// `[domain, chain, epoch]`: what a validator signs of an epoch, in a domain of its own for each meaning.
pub(crate) fn epoch_message(domain: &str, chain: &str, epoch: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_list(&mut out, |out| {
        encode_string(domain.as_bytes(), out);
        encode_string(chain.as_bytes(), out);
        epoch.encode(out);
    });
    out
}

/// Whether a signature is that of all keys together. Sums of keys are the same in both suites; what makes a sum bad, a point
/// outside the subgroup or none, is looked for in the sum.
#[cfg(feature = "bls")]
pub fn is_signed(keys: &[bls::PublicKey], message: &[u8], signature: &bls::Signature) -> bool {
    let sum = bls::aggregate_public_keys(bls::Suite::Theta2020, keys.iter().map(|key| (key, 1)));
    sum.is_ok_and(|key| bls::verify(SUITE, &key, message, signature).is_ok())
}

/// Votes for a block in the form that its chain has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateVotes {
    /// The votes themselves.
    List(VoteSet),
    /// All in one.
    Aggregate(AggregateVotes),
}

impl Default for CertificateVotes {
    fn default() -> Self {
        Self::List(VoteSet::default())
    }
}

impl From<VoteSet> for CertificateVotes {
    fn from(votes: VoteSet) -> Self {
        Self::List(votes)
    }
}

impl From<AggregateVotes> for CertificateVotes {
    fn from(votes: AggregateVotes) -> Self {
        Self::Aggregate(votes)
    }
}

impl CertificateVotes {
    /// The votes of a list; an aggregate has none that could be told apart.
    pub fn list(&self) -> &[Vote] {
        match self {
            Self::List(votes) => votes.as_slice(),
            Self::Aggregate(_) => &[],
        }
    }

    /// The aggregate, if it is one.
    pub const fn aggregate(&self) -> Option<&AggregateVotes> {
        match self {
            Self::List(_) => None,
            Self::Aggregate(votes) => Some(votes),
        }
    }

    /// Whether there are none: what a certificate of genesis has, which nobody votes for.
    pub const fn is_empty(&self) -> bool {
        matches!(self, Self::List(votes) if votes.is_empty())
    }
}

impl Encode for CertificateVotes {
    /// `[vote, ...]` or `[epoch, signers, signature]`.
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::List(votes) => votes.encode(out),
            Self::Aggregate(votes) => votes.encode(out),
        }
    }
}

impl Decode for CertificateVotes {
    /// A list's first item is a list, an aggregate's a number.
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let inside = input.clone().list()?;
        let is_list = inside.rest().first().is_none_or(|first| *first >= 0xc0);
        if is_list { input.read().map(Self::List) } else { input.read().map(Self::Aggregate) }
    }
}

#[cfg(all(test, feature = "bls"))]
mod tests {
    use super::*;
    use crate::{amount::ThetaWei, hash::Address};

    fn key(index: u8) -> bls::SecretKey {
        bls::SecretKey::from_bytes(&[index + 1; 32]).expect("in range")
    }

    fn set() -> ValidatorSet {
        ValidatorSet::new((0..4).map(|index| Validator {
            bls: Some(key(index).public_key()),
            ..Validator::new(Address::repeat_byte(index), ThetaWei::wei(5))
        }))
    }

    const BLOCK: Hash = Hash::repeat_byte(7);

    fn votes(chain: &str, block: Hash, voters: std::ops::Range<u8>) -> AggregateVotes {
        let mut signers = Bits::new(4);
        let message = AggregateVotes::message(chain, &block, 9);
        let shares: Vec<_> = voters
            .map(|voter| {
                signers.set(usize::from(voter));
                key(voter).sign(SUITE, &message)
            })
            .collect();
        let sum = bls::aggregate_signatures(SUITE, shares.iter().map(|share| (share, 1)));
        AggregateVotes { epoch: 9, signers, signature: sum.expect("signatures") }
    }

    #[test]
    fn only_a_quorum_of_the_sets_own_signatures_certifies() {
        let judge = |votes: &AggregateVotes| votes.verify(("chain", &BLOCK, 9), &set());
        let good = votes("chain", BLOCK, 0..3);
        assert_eq!(judge(&good), Ok(()));
        assert_eq!(judge(&votes("chain", BLOCK, 0..2)), Err(CertificateError::NoQuorum));
        assert_eq!(judge(&votes("other", BLOCK, 0..3)), Err(CertificateError::Signature));
        assert_eq!(judge(&votes("chain", Hash::ZERO, 0..3)), Err(CertificateError::Signature));
        let mut more = good.clone();
        more.signers.set(3);
        assert_eq!(judge(&more), Err(CertificateError::Signature));
        assert_eq!(judge(&AggregateVotes { epoch: 8, ..good.clone() }), Err(CertificateError::Epoch));
        let mut long = Bits::new(5);
        (0..3).for_each(|index| long.set(index));
        assert_eq!(judge(&AggregateVotes { signers: long, ..good.clone() }), Err(CertificateError::Length));
        let mut none = [0; 96];
        none[0] = 0xc0;
        for bytes in [none, [0; 96], [0xff; 96]] {
            let signature = bls::Signature::from_checked_bytes(bytes);
            assert_eq!(
                judge(&AggregateVotes { signature, ..good.clone() }),
                Err(CertificateError::Signature)
            );
        }
        let keyless =
            set().as_slice().iter().map(|one| Validator::new(one.address, one.stake)).collect::<Vec<_>>();
        let refused = good.verify(("chain", &BLOCK, 9), &ValidatorSet::new(keyless));
        assert_eq!(refused, Err(CertificateError::NoKey));
    }

    #[test]
    fn both_forms_are_read_back_and_nothing_else_is() {
        let both = [CertificateVotes::default(), votes("chain", BLOCK, 1..4).into()];
        for form in both {
            assert_eq!(CertificateVotes::from_rlp(&form.to_rlp(), 1 << 10), Ok(form));
        }
        let bytes = CertificateVotes::from(votes("chain", BLOCK, 1..4)).to_rlp();
        // An empty signature, and the fifth of four bits.
        let cut = [&[0xc5, 9][..], &bytes[3..6], &[0x80]].concat();
        assert!(CertificateVotes::from_rlp(&cut, 1 << 10).is_err(), "{}", hex::encode(&bytes));
        let mut surplus = bytes.clone();
        let at = surplus.iter().position(|byte| *byte == 0x0e).expect("three of four");
        surplus[at] |= 0x10;
        assert!(CertificateVotes::from_rlp(&surplus, 1 << 10).is_err());
    }
}
