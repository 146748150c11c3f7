//! What shows in a few signatures that an epoch is over: what a quorum of validators has signed, added up by what it says.
//!
//! Who has voted for a block of the epoch gives the share of that vote; who has not gives its vote's part about the end of the
//! epoch; who has gone further gives the same of a later one. So there are as many statements as there are different things to
//! say, which among honest voters is a handful, however many they are. Nothing in it is a vote: it opens an epoch, and safety
//! does not depend on that.

use std::collections::BTreeMap;

use theta_core::{
    bits::Bits,
    bls,
    certificate::{AggregateVotes, CertificateError, epoch_end_message},
    hash::{Address, Hash},
    rlp_list,
    stake::ValidatorSet,
};

use crate::certificate::{Share, Shares};

/// Different statements at most. Honest voters are in a few neighbouring epochs, with a block or two in each.
pub(crate) const MAX_STATEMENTS: usize = 8;

/// Signatures of a quorum that has finished an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch; all statements are of this one or later ones.
    pub epoch: u64,
    /// What was said, each voter once; nothing if nothing has to be shown.
    pub statements: Vec<Statement>,
}

rlp_list!(EpochEnd { epoch, statements });

/// Voters that say the same, in one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// A block of the epoch that they have voted for; zero where they say that they have finished it.
    pub block: Hash,
    /// The epoch.
    pub epoch: u64,
    /// A bit for each validator that has a say in the epoch, in the order of the set.
    pub signers: Bits,
    /// Sum of their signatures.
    pub signature: bls::Signature,
}

rlp_list!(Statement { block, epoch, signers, signature });

/// What a voter says: a block of an epoch or zero, and the epoch.
pub(crate) type Said = (Hash, u64);

fn message(chain: &str, (block, epoch): Said) -> Vec<u8> {
    match block {
        Hash::ZERO => epoch_end_message(chain, epoch),
        _ => AggregateVotes::message(chain, &block, epoch),
    }
}

impl EpochEnd {
    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.statements.is_empty()
    }

    /// Whether a quorum of these validators has signed it. Costs a check of a signature for each statement, of which there are
    /// eight at most.
    pub(crate) fn verify(
        &self,
        chain: &str,
        validators: &ValidatorSet,
        shares: Shares,
    ) -> Result<(), CertificateError> {
        let mut all = Bits::new(validators.as_slice().len());
        if self.statements.is_empty() {
            return Err(CertificateError::Empty);
        }
        if self.statements.len() > MAX_STATEMENTS {
            return Err(CertificateError::TooMany);
        }
        for statement in &self.statements {
            if statement.signers.len() != all.len() {
                return Err(CertificateError::Length);
            }
            if statement.signers.count() == 0 {
                return Err(CertificateError::Empty);
            }
            if !all.is_disjoint(&statement.signers) {
                return Err(CertificateError::Repeated);
            }
            if statement.epoch < self.epoch {
                return Err(CertificateError::Epoch);
            }
            all.join(0, &statement.signers);
        }
        let stake = validators.stake_of(all.ones().map(|index| validators.as_slice()[index].address));
        if !validators.is_quorum(stake) {
            return Err(CertificateError::NoQuorum);
        }
        for Statement { block, epoch, signers, signature } in &self.statements {
            let keys = signers.ones().map(|index| validators.as_slice()[index].bls);
            let keys: Vec<_> = keys.collect::<Option<_>>().ok_or(CertificateError::NoKey)?;
            if !shares.is_signed(&keys, &message(chain, (*block, *epoch)), signature) {
                return Err(CertificateError::Signature);
            }
        }
        Ok(())
    }

    /// Adds up what voters have said, the statements of most stake first, until a quorum is together. Gives nothing if that
    /// takes too many statements, and the voters whose signatures are wrong.
    pub(crate) fn gather(
        epoch: u64,
        said: impl IntoIterator<Item = (Address, Said, bls::Signature)>,
        chain: &str,
        validators: &ValidatorSet,
        shares: Shares,
    ) -> (Option<Self>, Vec<Address>) {
        let mut by_statement: BTreeMap<Said, Vec<Share>> = BTreeMap::new();
        for (voter, what, signature) in said {
            by_statement.entry(what).or_default().extend(Share::of(voter, signature, validators));
        }
        let address = |share: &Share| validators.as_slice()[share.index].address;
        let stake_of = |parts: &[Share]| validators.stake_of(parts.iter().map(address));
        let mut parts: Vec<_> = by_statement.into_iter().collect();
        parts.sort_by_key(|(_, parts)| std::cmp::Reverse(stake_of(parts)));
        parts.truncate(MAX_STATEMENTS);
        let all = parts.iter().flat_map(|(_, parts)| parts);
        if !validators.is_quorum(validators.stake_of(all.map(address))) {
            return (None, Vec::new());
        }
        let (mut end, mut wrong, mut named) =
            (Self { epoch, statements: Vec::new() }, Vec::new(), Vec::new());
        for ((block, epoch), mut parts) in parts {
            let (signature, bad) = shares.sum_of_right(&mut parts, &message(chain, (block, epoch)));
            wrong.extend(bad.iter().map(|index| validators.as_slice()[*index].address));
            let Some(signature) = signature.filter(|_| !parts.is_empty()) else { continue };
            let mut signers = Bits::new(validators.as_slice().len());
            parts.iter().for_each(|share| signers.set(share.index));
            named.extend(parts.iter().map(address));
            end.statements.push(Statement { block, epoch, signers, signature });
            if validators.is_quorum(validators.stake_of(named.iter().copied())) {
                return (Some(end), wrong);
            }
        }
        (None, wrong)
    }
}

#[cfg(test)]
mod tests {
    use theta_core::{
        amount::ThetaWei,
        certificate::SUITE,
        codec::rlp::{Decode, Encode},
        stake::Validator,
    };

    use super::*;

    const BLOCK: Hash = Hash::repeat_byte(3);

    fn key(index: u8) -> bls::SecretKey {
        bls::SecretKey::from_bytes(&[index + 1; 32]).expect("in range")
    }

    fn set(size: u8) -> ValidatorSet {
        ValidatorSet::new((0..size).map(|index| Validator {
            bls: Some(key(index).public_key()),
            ..Validator::new(Address::repeat_byte(index), ThetaWei::wei(5))
        }))
    }

    fn said(voter: u8, what: Said) -> (Address, Said, bls::Signature) {
        (Address::repeat_byte(voter), what, key(voter).sign(SUITE, &message("chain", what)))
    }

    const END: Said = (Hash::ZERO, 7);

    fn gather(said: Vec<(Address, Said, bls::Signature)>, size: u8) -> (Option<EpochEnd>, Vec<Address>) {
        EpochEnd::gather(7, said, "chain", &set(size), Shares::Curve)
    }

    #[test]
    fn what_a_quorum_says_is_added_up_by_what_it_says() {
        let all = vec![said(0, END), said(1, (BLOCK, 7)), said(2, END), said(3, (Hash::ZERO, 8))];
        let (end, wrong) = gather(all.clone(), 4);
        let end = end.expect("four of four");
        assert!(wrong.is_empty());
        // The two that agree are one statement; one more makes a quorum.
        assert_eq!(end.statements.iter().map(|one| one.signers.count()).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(end.verify("chain", &set(4), Shares::Curve), Ok(()));
        assert_eq!(EpochEnd::from_rlp(&end.to_rlp(), 1 << 12), Ok(end));
        assert_eq!(gather(all[..2].to_vec(), 4), (None, Vec::new()));
    }

    #[test]
    fn a_wrong_signature_is_its_voters_and_the_others_count() {
        let mut all: Vec<_> = (0..4).map(|voter| said(voter, END)).collect();
        all[2].2 = all[1].2;
        let (end, wrong) = gather(all.clone(), 4);
        assert_eq!(wrong, [all[2].0]);
        assert_eq!(end.expect("three of four").verify("chain", &set(4), Shares::Curve), Ok(()));
        all.truncate(3);
        assert_eq!(gather(all.clone(), 4), (None, vec![all[2].0]));
    }

    #[test]
    fn each_forgery_is_named() {
        let (end, _) = gather(vec![said(0, END), said(1, END), said(2, (BLOCK, 7))], 4);
        let end = end.expect("three of four");
        let judge = |end: &EpochEnd| end.verify("chain", &set(4), Shares::Curve);
        let changed = |change: &dyn Fn(&mut EpochEnd)| {
            let mut forged = end.clone();
            change(&mut forged);
            judge(&forged).expect_err("forged")
        };
        assert_eq!(judge(&EpochEnd { epoch: 6, ..end.clone() }), Ok(()), "who has finished 7 has finished 6");
        assert_eq!(changed(&|end| end.epoch = 8), CertificateError::Epoch);
        assert_eq!(changed(&|end| end.statements[0].epoch = 9), CertificateError::Signature);
        assert_eq!(changed(&|end| end.statements[1].block = Hash::ZERO), CertificateError::Signature);
        assert_eq!(changed(&|end| end.statements[0].signers.set(3)), CertificateError::Signature);
        assert_eq!(changed(&|end| end.statements[1].signers.set(0)), CertificateError::Repeated);
        assert_eq!(changed(&|end| end.statements[0].signers = Bits::new(4)), CertificateError::Empty);
        assert_eq!(changed(&|end| end.statements[0].signers = Bits::new(5)), CertificateError::Length);
        assert_eq!(changed(&|end| drop(end.statements.pop())), CertificateError::NoQuorum);
        assert_eq!(changed(&|end| end.statements.clear()), CertificateError::Empty);
        assert_eq!(
            changed(&|end| end.statements = vec![end.statements[0].clone(); 9]),
            CertificateError::TooMany
        );
        assert_eq!(end.verify("other", &set(4), Shares::Curve), Err(CertificateError::Signature));
        assert_eq!(end.verify("chain", &set(5), Shares::Curve), Err(CertificateError::Length));
        let keyless =
            set(4).as_slice().iter().map(|one| Validator { bls: None, ..one.clone() }).collect::<Vec<_>>();
        let refused = end.verify("chain", &ValidatorSet::new(keyless), Shares::Curve);
        assert_eq!(refused, Err(CertificateError::NoKey));
    }

    /// Two statements of a hundred voters take what two of four take, but for their bits.
    #[test]
    fn it_does_not_grow_with_the_voters() {
        let bytes = [4, 31, 100].map(|size| {
            let half = |voter: u8| if voter < size / 2 { END } else { (BLOCK, 7) };
            let (end, _) = gather((0..size).map(|voter| said(voter, half(voter))).collect(), size);
            let end = end.expect("all of them");
            assert_eq!(end.statements.len(), 2);
            end.to_rlp().len()
        });
        // A bitmap of thirteen bytes instead of one, and its length in front.
        assert!(bytes[2] <= bytes[0] + 2 * 14 && bytes[1] <= bytes[0] + 2 * 5, "{bytes:?}");
    }
}
