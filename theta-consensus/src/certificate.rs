//! When votes certify a block: a quorum of the block's validators, each counted once.
//!
//! Votes of different epochs count together, and the height inside a vote counts nothing because nobody signed it.

use std::collections::BTreeSet;

use theta_core::{block::CommitCertificate, stake::ValidatorSet, vote::Vote};

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
    /// A vote is not signed by its voter, or in a malleable form where that is forbidden.
    #[error("certificate holds a vote with a wrong signature")]
    Signature,
    /// Two thirds of the stake or less.
    #[error("votes are no quorum")]
    NoQuorum,
}

/// Everything but signatures (`core/vote.go` `CommitCertificate.IsValid`). Strangers' votes are tolerated and not counted.
pub fn check_form(
    certificate: &CommitCertificate,
    validators: &ValidatorSet,
) -> Result<(), CertificateError> {
    let votes = certificate.votes.as_slice();
    check_votes(certificate)?;
    if votes.len() > validators.as_slice().len() {
        return Err(CertificateError::TooMany);
    }
    if is_quorum(votes, validators) { Ok(()) } else { Err(CertificateError::NoQuorum) }
}

/// What can be said without knowing the validators: there are votes, for this block, of different voters.
pub(crate) fn check_votes(certificate: &CommitCertificate) -> Result<(), CertificateError> {
    let votes = certificate.votes.as_slice();
    if votes.is_empty() {
        return Err(CertificateError::Empty);
    }
    if votes.iter().any(|vote| vote.block != certificate.block) {
        return Err(CertificateError::OtherBlock);
    }
    let voters: BTreeSet<_> = votes.iter().map(|vote| vote.voter).collect();
    if voters.len() == votes.len() { Ok(()) } else { Err(CertificateError::Repeated) }
}

/// A certificate as a whole, signatures included.
pub fn verify(
    certificate: &CommitCertificate,
    validators: &ValidatorSet,
    low_s: bool,
) -> Result<(), CertificateError> {
    check_form(certificate, validators)?;
    let right = |vote: &Vote| (!low_s || vote.signature.is_low_s()) && vote.verify().is_ok();
    if certificate.votes.as_slice().iter().all(right) { Ok(()) } else { Err(CertificateError::Signature) }
}

/// Whether the voters, each named once, hold more than two thirds of the stake.
pub(crate) fn is_quorum<'a>(votes: impl IntoIterator<Item = &'a Vote>, validators: &ValidatorSet) -> bool {
    validators.is_quorum(validators.stake_of(votes.into_iter().map(|vote| vote.voter)))
}

#[cfg(test)]
mod tests {
    use theta_core::{
        codec::rlp::Decode,
        hash::{Address, Hash},
        vote::VoteSet,
    };

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
                .is_ok_and(|certificate| verify(&certificate, &set, false).is_ok());
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
        let certificate = CommitCertificate { votes: VoteSet::default(), block: Hash::ZERO };
        assert_eq!(check_form(&certificate, &ValidatorSet::default()), Err(CertificateError::Empty));
    }
}
