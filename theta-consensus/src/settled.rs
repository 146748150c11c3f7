//! Judges the next block of a chain that others have settled, without an engine: votes, proposer, change of validators.
//!
//! The rules are those by which the engine judges a block of the network (`spec/consensus.md` section 7); what differs is
//! that a certificate of a settled block is checked too, since here nobody has seen its votes yet.

use theta_core::{
    block::Header,
    spec::{ChainSpec, Pace},
    stake::{EliteState, ValidatorSet},
};

use crate::{
    certificate::{Shares, verify},
    checks::Fault,
    elite::verify_elite_votes,
    finality::Checkpoint,
    guardian::AggregateError,
    proposer::{check_absent, check_seed, scheduled},
    set_change,
};

/// What is known of the chain below the block in question.
#[derive(Clone, Copy, Debug)]
pub struct Below<'a> {
    /// Header of the parent.
    pub parent: &'a Header,
    /// Whether the parent or the block below it changes validators.
    pub change_near: bool,
    /// The validators that may propose on the parent.
    pub proposers: &'a ValidatorSet,
    /// The block that the certificate names, where it is in the chain.
    pub certified: Option<&'a Header>,
    /// The validators whose votes certify that block. None where it is trusted, as genesis is: it needs no votes.
    pub voters: Option<&'a ValidatorSet>,
    /// The chain.
    pub spec: &'a ChainSpec,
    /// Whether this height is a checkpoint.
    pub checkpoint: bool,
    /// The block that the header's guardian votes are for, if it is in the chain, with the pool of the checkpoint there or
    /// below.
    pub guardians: Option<Checkpoint<'a>>,
    /// Elite edge nodes of the checkpoint at or below the block that the header's elite edge votes are for, if that is in the
    /// chain.
    pub elite: Option<&'a EliteState>,
}

/// Whether a block may follow. That its proposer signed it is checked elsewhere.
pub fn judge(header: &Header, below: &Below<'_>) -> Result<(), Fault> {
    if header.height != below.parent.height + 1 {
        return Err(Fault::Height);
    }
    if header.epoch <= below.parent.epoch {
        return Err(Fault::Epoch);
    }
    if below.spec.rules(header.height).tx.low_s && !header.signature.is_low_s() {
        return Err(Fault::HighS);
    }
    let rules = below.spec.rules(header.height);
    if !header.fits(rules) {
        return Err(Fault::Fields);
    }
    let certified = below.certified.filter(|certified| certified.height < header.height);
    let certified = certified.ok_or(Fault::Ancestor)?;
    if let Some(voters) = below.voters {
        verify(&header.certificate, certified, voters, rules.tx.low_s)?;
    }
    let certified = &header.certificate.block;
    let may_certify = match rules.consensus.pace {
        Pace::Clocked => set_change::allows(&header.parent, below.change_near, certified),
        Pace::Responsive => header.parent == *certified,
    };
    if !may_certify {
        return Err(Fault::SetChange);
    }
    if scheduled(below.spec, below.parent, below.proposers, header.epoch) != Some(header.proposer) {
        return Err(Fault::Proposer);
    }
    check_absent(below.spec, header, below.parent, below.proposers, below.voters)?;
    check_seed(header, below.parent, below.proposers, Shares::default())?;
    judge_upper(header, below)
}

fn judge_upper(header: &Header, below: &Below<'_>) -> Result<(), Fault> {
    let place = if below.checkpoint { Ok(()) } else { Err(AggregateError::Place) };
    if let Some(votes) = header.extension.guardian_votes() {
        let voted = place.and_then(|()| below.guardians.ok_or(AggregateError::Ancestor));
        voted.and_then(|voted| voted.verify(votes)).map_err(Fault::Guardians)?;
    }
    if let Some(votes) = header.extension.elite_votes() {
        let pool = place.and_then(|()| below.elite.ok_or(AggregateError::Ancestor));
        pool.and_then(|pool| verify_elite_votes(votes, pool)).map_err(Fault::Elite)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use theta_core::{
        amount::ThetaWei,
        block::CommitCertificate,
        hash::Address,
        sign::{SecretKey, Signature},
        stake::Validator,
        vote::{Vote, VoteSet},
    };

    use super::*;
    use crate::certificate::CertificateError;

    #[test]
    fn each_rule_refuses_what_breaks_it() {
        let key = SecretKey::from_bytes(&[7; 32]).expect("in range");
        let validator = Validator::new(key.address(), ThetaWei::whole(5));
        let set = ValidatorSet::new([validator]);
        let parent = Header { height: 7, epoch: 9, ..Header::zero() };
        let hash = parent.hash();
        let mut vote = Vote::unsigned(hash, 7, 9, key.address());
        vote.signature = key.sign_digest(&vote.digest());
        let certificate = CommitCertificate { block: hash, votes: VoteSet::new([vote]).into() };
        let header = Header {
            height: 8,
            epoch: 10,
            parent: hash,
            proposer: key.address(),
            certificate,
            // Only its form matters here.
            signature: key.sign_digest(&hash),
            ..Header::zero()
        };
        let (spec, strict) = (ChainSpec::new("privatenet", []), ChainSpec::devnet());
        let below = Below {
            parent: &parent,
            change_near: true,
            proposers: &set,
            certified: Some(&parent),
            voters: Some(&set),
            spec: &spec,
            checkpoint: false,
            guardians: None,
            elite: None,
        };
        assert_eq!(judge(&header, &below), Ok(()));
        let changed = |change: &dyn Fn(&mut Header)| {
            let mut header = header.clone();
            change(&mut header);
            judge(&header, &below)
        };
        assert_eq!(changed(&|header| header.height = 9), Err(Fault::Height));
        assert_eq!(changed(&|header| header.epoch = 9), Err(Fault::Epoch));
        assert_eq!(changed(&|header| header.proposer.0[0] ^= 1), Err(Fault::Proposer));
        assert_eq!(changed(&|header| header.parent.0[0] ^= 1), Err(Fault::SetChange));
        assert_eq!(changed(&|header| header.absent.push(Address::ZERO)), Err(Fault::Fields));
        let mut high = header.clone();
        high.signature = Signature::EMPTY;
        assert_eq!(judge(&high, &Below { spec: &strict, ..below }), Err(Fault::HighS));
        assert_eq!(judge(&header, &Below { spec: &strict, ..below }), Err(Fault::Fields));
        let empty = |header: &mut Header| header.certificate.votes = VoteSet::default().into();
        assert_eq!(changed(&empty), Err(Fault::Certificate(CertificateError::Empty)));
        let trusted = Below { voters: None, ..below };
        let mut bare = header.clone();
        empty(&mut bare);
        assert_eq!(judge(&bare, &trusted), Ok(()));
        for certified in [None, Some(&Header { height: 8, ..Header::zero() })] {
            assert_eq!(judge(&header, &Below { certified, ..below }), Err(Fault::Ancestor));
        }
    }
}
