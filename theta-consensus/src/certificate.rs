//! When votes certify a block: a quorum of the block's validators, each counted once.
//!
//! *Lists*: votes of different epochs count together, and the height inside a vote counts nothing because nobody signed it.
//!
//! *Aggregates*: voters' shares say nothing of the epoch in which they were given, so they add up too. Shares come unchecked
//! with their votes, which are signed with them; once a quorum is there its sum is checked, and only if that fails are
//! wrong shares looked for, by halves. So a certificate costs one check of a signature, and a voter that gives wrong
//! shares costs others a logarithm of them once.

use std::collections::BTreeSet;

pub use theta_core::certificate::CertificateError;
use theta_core::{
    bits::Bits,
    block::{CommitCertificate, Header},
    bls::{self, PublicKey},
    certificate::{AggregateVotes, CertificateVotes, SUITE, is_signed},
    hash::{Address, Hash},
    stake::ValidatorSet,
    vote::Vote,
};

/// Everything but signatures (`core/vote.go` `CommitCertificate.IsValid`). Strangers' votes are tolerated and not counted. Of
/// an aggregate, `epoch` is that of the certified block.
pub fn check_form(
    certificate: &CommitCertificate,
    epoch: u64,
    validators: &ValidatorSet,
) -> Result<(), CertificateError> {
    if let CertificateVotes::Aggregate(votes) = &certificate.votes {
        return votes.check_form(epoch, validators).map(drop);
    }
    let votes = certificate.votes.list();
    check_votes(certificate)?;
    if votes.len() > validators.as_slice().len() {
        return Err(CertificateError::TooMany);
    }
    if is_quorum(votes, validators) { Ok(()) } else { Err(CertificateError::NoQuorum) }
}

/// What can be said of a list without knowing the validators: there are votes, for this block, of different voters.
pub(crate) fn check_votes(certificate: &CommitCertificate) -> Result<(), CertificateError> {
    let votes = certificate.votes.list();
    if votes.is_empty() {
        return Err(CertificateError::Empty);
    }
    if votes.iter().any(|vote| vote.block != certificate.block) {
        return Err(CertificateError::OtherBlock);
    }
    let voters: BTreeSet<_> = votes.iter().map(|vote| vote.voter).collect();
    if voters.len() == votes.len() { Ok(()) } else { Err(CertificateError::Repeated) }
}

/// A certificate of a block as a whole, signatures included.
pub fn verify(
    certificate: &CommitCertificate,
    certified: &Header,
    validators: &ValidatorSet,
    low_s: bool,
) -> Result<(), CertificateError> {
    if let CertificateVotes::Aggregate(votes) = &certificate.votes {
        return votes.verify((&certified.chain, &certificate.block, certified.epoch), validators);
    }
    check_form(certificate, certified.epoch, validators)?;
    let right = |vote: &Vote| (!low_s || vote.signature.is_low_s()) && vote.verify().is_ok();
    if certificate.votes.list().iter().all(right) { Ok(()) } else { Err(CertificateError::Signature) }
}

/// Whether the voters, each named once, hold more than two thirds of the stake.
pub(crate) fn is_quorum<'a>(votes: impl IntoIterator<Item = &'a Vote>, validators: &ValidatorSet) -> bool {
    validators.is_quorum(validators.stake_of(votes.into_iter().map(|vote| vote.voter)))
}

/// What shares are: signatures, or make-believe in simulations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shares {
    #[default]
    Curve,
    #[cfg(feature = "sim")]
    MakeBelieve,
}

impl Shares {
    /// All together; `None` if one of them is no signature.
    pub(crate) fn sum(self, shares: &[bls::Signature]) -> Option<bls::Signature> {
        match self {
            // A point outside the subgroup is found in the sum.
            Self::Curve => {
                let shares = shares.iter().map(|share| (share, 1));
                bls::aggregate_signatures(bls::Suite::Theta2020, shares).ok()
            }
            #[cfg(feature = "sim")]
            Self::MakeBelieve => {
                make_believe::count(|done| done.additions += shares.len() as u64);
                Some(make_believe::sum(shares))
            }
        }
    }

    /// Whether a signature is that of all keys together.
    pub(crate) fn is_signed(self, keys: &[PublicKey], message: &[u8], signature: &bls::Signature) -> bool {
        match self {
            Self::Curve => is_signed(keys, message, signature),
            #[cfg(feature = "sim")]
            Self::MakeBelieve => {
                make_believe::count(|done| {
                    done.checks += 1;
                    done.additions += keys.len() as u64;
                });
                make_believe::is_signed(keys, message, signature)
            }
        }
    }

    /// Whether an aggregate certifies a block of this chain and epoch.
    pub(crate) fn certify(
        self,
        votes: &AggregateVotes,
        on: (&str, &Hash, u64),
        validators: &ValidatorSet,
    ) -> Result<(), CertificateError> {
        votes.verify_by(|keys, message, sum| self.is_signed(keys, message, sum), on, validators)
    }

    /// Adds up the shares of votes for a block. Gives the aggregate, if those that are right make a quorum, and the voters
    /// whose shares are wrong.
    pub(crate) fn gather<'a>(
        self,
        votes: impl IntoIterator<Item = &'a Vote>,
        (chain, block, epoch): (&str, &Hash, u64),
        validators: &ValidatorSet,
    ) -> (Option<AggregateVotes>, Vec<Address>) {
        let message = AggregateVotes::message(chain, block, epoch);
        let shares = votes.into_iter().filter_map(|vote| Share::of(vote.voter, vote.share?, validators));
        let mut good: Vec<Share> = shares.collect();
        let address = |index: usize| validators.as_slice()[index].address;
        let (sum, wrong) = self.sum_of_right(&mut good, &message);
        let stake = validators.stake_of(good.iter().map(|share| address(share.index)));
        let sum = sum.filter(|_| validators.is_quorum(stake));
        let mut signers = Bits::new(validators.as_slice().len());
        good.iter().for_each(|share| signers.set(share.index));
        let aggregate = sum.map(|signature| AggregateVotes { epoch, signers, signature });
        (aggregate, wrong.into_iter().map(address).collect())
    }

    /// Adds up the shares that are right, and leaves no others. Gives the places of those that were wrong.
    pub(crate) fn sum_of_right(
        self,
        shares: &mut Vec<Share>,
        message: &[u8],
    ) -> (Option<bls::Signature>, Vec<usize>) {
        if let Some(sum) = self.checked_sum(shares, message) {
            return (Some(sum), Vec::new());
        }
        let wrong = self.wrong_of(shares, message);
        shares.retain(|share| !wrong.contains(&share.index));
        (self.checked_sum(shares, message), wrong)
    }

    fn checked_sum(self, shares: &[Share], message: &[u8]) -> Option<bls::Signature> {
        let keys: Vec<_> = shares.iter().map(|share| share.key).collect();
        let signatures: Vec<_> = shares.iter().map(|share| share.share).collect();
        let sum = self.sum(&signatures)?;
        self.is_signed(&keys, message, &sum).then_some(sum)
    }

    /// Places of those in a list whose sum is wrong.
    fn wrong_of(self, shares: &[Share], message: &[u8]) -> Vec<usize> {
        if let [share] = shares {
            return vec![share.index];
        }
        let (low, high) = shares.split_at(shares.len() / 2);
        let halves = [low, high].into_iter().filter(|half| !half.is_empty());
        let bad = halves.filter(|half| self.checked_sum(half, message).is_none());
        bad.flat_map(|half| self.wrong_of(half, message)).collect()
    }
}

/// A voter's signature, and what it is checked by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// The voter's place in the set.
    pub(crate) index: usize,
    key: PublicKey,
    share: bls::Signature,
}

impl Share {
    /// None of a voter that is not in the set or has no key.
    pub(crate) fn of(voter: Address, share: bls::Signature, validators: &ValidatorSet) -> Option<Self> {
        let index = validators.as_slice().binary_search_by_key(&voter, |one| one.address).ok()?;
        Some(Self { index, key: validators.as_slice()[index].bls?, share })
    }
}

/// The key of a validator's shares and of its part of the seed.
#[derive(Clone, Debug)]
pub(crate) enum VoteKey {
    Curve(bls::SecretKey),
    #[cfg(feature = "sim")]
    MakeBelieve(PublicKey),
}

impl VoteKey {
    pub(crate) fn sign(&self, message: &[u8]) -> bls::Signature {
        match self {
            Self::Curve(key) => key.sign(SUITE, message),
            #[cfg(feature = "sim")]
            Self::MakeBelieve(key) => make_believe::sign(key, message),
        }
    }

    /// What others check it by.
    #[cfg(feature = "sim")]
    pub(crate) fn public_key(&self) -> PublicKey {
        match self {
            Self::Curve(key) => key.public_key(),
            Self::MakeBelieve(key) => *key,
        }
    }
}

/// Shares of which a sum is the exclusive or of all bytes.
#[cfg(feature = "sim")]
pub(crate) mod make_believe {
    use std::cell::Cell;

    use theta_core::{bls, hash::keccak_parts};

    /// What would have been done on the curve.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Done {
        /// Checks of a signature, of two pairings each.
        pub(crate) checks: u64,
        /// Keys and signatures added up.
        pub(crate) additions: u64,
    }

    thread_local! {
        static DONE: Cell<Done> = const { Cell::new(Done { checks: 0, additions: 0 }) };
    }

    pub(super) fn count(change: impl FnOnce(&mut Done)) {
        let mut done = DONE.get();
        change(&mut done);
        DONE.set(done);
    }

    /// What this thread has counted since it was asked last.
    #[cfg(test)]
    pub(crate) fn take_counts() -> Done {
        DONE.take()
    }

    /// As a compressed point begins.
    const POINT: u8 = 0x80;

    pub(crate) fn sign(key: &bls::PublicKey, message: &[u8]) -> bls::Signature {
        let word = keccak_parts(&[key.as_bytes(), message]);
        let mut bytes = [0; 96];
        bytes.chunks_exact_mut(32).for_each(|part| part.copy_from_slice(word.as_slice()));
        bytes[0] = POINT;
        bls::Signature::from_checked_bytes(bytes)
    }

    pub(crate) fn is_signed(keys: &[bls::PublicKey], message: &[u8], signature: &bls::Signature) -> bool {
        let shares: Vec<_> = keys.iter().map(|key| sign(key, message)).collect();
        sum(&shares) == *signature
    }

    pub(crate) fn sum(shares: &[bls::Signature]) -> bls::Signature {
        let mut sum = [0; 96];
        for share in shares {
            sum.iter_mut().zip(share.as_bytes()).for_each(|(sum, byte)| *sum ^= byte);
        }
        sum[0] = POINT;
        bls::Signature::from_checked_bytes(sum)
    }
}

#[cfg(test)]
mod tests {
    use theta_core::{amount::ThetaWei, codec::rlp::Decode, stake::Validator};

    use super::*;
    use crate::fixture::{array, object, validators};

    #[test]
    fn certificates_are_judged_as_by_the_reference() {
        let all = object("commit_certificates");
        let set = validators(&all["validators"]);
        let mut valid = 0;
        for case in all["cases"].as_array().expect("cases") {
            let raw = hex::decode(case["rlp"].as_str().expect("text")).expect("hex");
            // Where a voter stands twice for one epoch the strict decoder refuses before this is asked.
            let answer = CommitCertificate::from_rlp(&raw, 1 << 16)
                .is_ok_and(|certificate| verify(&certificate, &Header::zero(), &set, false).is_ok());
            assert_eq!(answer, case["valid"].as_bool().expect("flag"), "{}", case["name"]);
            valid += usize::from(answer);
        }
        assert!(valid >= 3);
    }

    #[test]
    fn quorums_are_counted_as_by_the_reference() {
        for case in array("quorum") {
            let set = validators(&case["validators"]);
            let voters = case["voters"].as_array().expect("voters").iter();
            let voters: BTreeSet<Address> =
                voters.map(|voter| voter.as_str().expect("text").parse().expect("address")).collect();
            assert_eq!(set.is_quorum(set.stake_of(voters)), case["quorum"].as_bool().expect("flag"));
        }
    }

    #[test]
    fn an_empty_certificate_certifies_nothing() {
        let bare = CommitCertificate::bare(Hash::ZERO);
        assert_eq!(check_form(&bare, 0, &ValidatorSet::default()), Err(CertificateError::Empty));
    }

    const BLOCK: Hash = Hash::repeat_byte(3);

    fn committee(size: u8) -> (ValidatorSet, Vec<Vote>) {
        let message = AggregateVotes::message("chain", &BLOCK, 5);
        let members = (1..=size).map(|index| {
            let key = bls::SecretKey::from_bytes(&[index; 32]).expect("in range");
            let voter = Address::repeat_byte(index);
            let vote = Vote { share: Some(key.sign(SUITE, &message)), ..Vote::unsigned(BLOCK, 1, 5, voter) };
            let validator =
                Validator { bls: Some(key.public_key()), ..Validator::new(voter, ThetaWei::wei(1)) };
            (validator, vote)
        });
        let (validators, votes): (Vec<_>, Vec<_>) = members.unzip();
        (ValidatorSet::new(validators), votes)
    }

    #[test]
    fn wrong_shares_are_found_and_left_out() {
        let (set, mut votes) = committee(7);
        let on = ("chain", &BLOCK, 5);
        let gather = |votes: &[Vote]| Shares::Curve.gather(votes, on, &set);
        let (whole, wrong) = gather(&votes);
        assert_eq!(whole.expect("a quorum").verify(on, &set), Ok(()));
        assert!(wrong.is_empty());
        // One of another voter, and one that is no point.
        votes[2].share = votes[3].share;
        votes[5].share = Some(bls::Signature::from_checked_bytes([0xff; 96]));
        let (rest, wrong) = gather(&votes);
        let rest = rest.expect("five of seven");
        assert_eq!((rest.signers.count(), rest.verify(on, &set)), (5, Ok(())));
        assert_eq!(wrong, [votes[2].voter, votes[5].voter]);
        votes[0].share = votes[3].share;
        let (none, wrong) = gather(&votes);
        assert_eq!((none, wrong.len()), (None, 3));
    }
}
