//! Kind 0: a block's rewards, made by its proposer.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use theta_core::{
    amount::{Coins, TFuelWei},
    codec::rlp::Decode,
    hash::Address,
    rlp_list,
    sign::Signature,
    stake::reward::{EliteState, RewardDistribution, RewardInput, rewards},
};

use super::{Body, Scope, TxCoins, TxError, TxInput, TxOutput, credit, enveloped, json};
use crate::{
    state::{StateError, StateView, keys},
    vm::VmOutcome,
};

/// Pays the block's rewards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Coinbase {
    /// A validator; coins and sequence are not looked at.
    pub proposer: TxInput,
    /// One for each reward, in any order, those of zero included.
    pub outputs: Vec<TxOutput>,
    /// Height of the block below.
    #[serde(serialize_with = "json::text")]
    pub block_height: u64,
}

rlp_list!(Coinbase { proposer, outputs, block_height });

impl Body for Coinbase {
    const KIND: u16 = 0;
    fn signed_part(&self) -> Vec<u8> {
        enveloped(Self::KIND, &Self { proposer: self.proposer.unsigned(), ..self.clone() })
    }
    fn attach(&mut self, signature: Signature) {
        self.proposer.signature = signature;
    }
}

impl Coinbase {
    pub(super) fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
        if view.has_coinbase() {
            return Err(TxError::Coinbase("a block has one"));
        }
        if !scope.block.validators.contains(self.proposer.address) {
            return Err(TxError::Coinbase("the proposer is no validator"));
        }
        let part = self.signed_part();
        if !scope.is_signed_first(self.proposer.address, &self.proposer.signature, &part) {
            return Err(TxError::Coinbase("the proposer did not sign it"));
        }
        let named: BTreeSet<_> = self.outputs.iter().map(|output| output.address).collect();
        if named.len() != self.outputs.len() {
            return Err(TxError::Coinbase("an address stands twice"));
        }
        if self.block_height != scope.parent_height() {
            return Err(TxError::Coinbase("it is for another height"));
        }
        let expected = expected_rewards(scope, view)?;
        let right = |output: &TxOutput| {
            expected
                .get(&output.address)
                .is_some_and(|tfuel| output.coins == TxCoins::from(Coins::tfuel(*tfuel)))
        };
        if expected.len() != self.outputs.len() || !self.outputs.iter().all(right) {
            return Err(TxError::Coinbase("its outputs are not the block's rewards"));
        }
        Ok(())
    }

    pub(super) fn apply(&self, _: &Scope<'_>, view: &mut StateView) -> Result<Option<VmOutcome>, TxError> {
        for output in &self.outputs {
            let mut account = view.load_or_new(output.address)?;
            credit(&mut account, output.coins.coins().ok_or(TxError::Overflow)?)?;
            view.store(account);
        }
        view.mark_coinbase();
        Ok(None)
    }
}

/// What the block's coinbase has to pay on the state as it stands.
pub fn expected_rewards(
    scope: &Scope<'_>,
    view: &mut StateView,
) -> Result<BTreeMap<Address, TFuelWei>, TxError> {
    let block = scope.block;
    let voted = match (&block.guardian_votes, block.voted_state) {
        (Some(votes), Some(root)) => {
            let mut state = StateView::open(root, 0, view.nodes().clone())?;
            let pool = state.guardians()?;
            Some((votes, pool, state))
        }
        _ => None,
    };
    let mut elite = EliteState::default();
    if let (Some((_, _, state)), Some(votes)) = (&voted, &block.elite_votes) {
        let mut state = state.clone();
        elite.total = state.elite_total()?;
        for address in &votes.addresses {
            if let Some(node) = state.elite(*address)? {
                elite.nodes.insert(*address, node);
            }
        }
    }
    let checkpoint = scope.rules.is_checkpoint(scope.height());
    let pool = view.validators()?.unwrap_or_default();
    let distributions = if checkpoint { distributions(view)? } else { BTreeMap::new() };
    let reward = rewards(&RewardInput {
        rule: scope.rules.stake.reward,
        height: scope.height(),
        checkpoint,
        validators: &block.validators,
        pool: &pool,
        guardians: voted.as_ref().map(|(votes, pool, _)| (*votes, &**pool)),
        elite: block.elite_votes.as_ref().map(|votes| (votes, &elite)),
        distribution: &|holder| distributions.get(&holder).cloned(),
    })?;
    Ok(reward)
}

fn distributions(view: &StateView) -> Result<BTreeMap<Address, RewardDistribution>, StateError> {
    let mut found = BTreeMap::new();
    for (key, value) in view.records_with(keys::DISTRIBUTION)? {
        let rule = RewardDistribution::from_rlp(&value, value.len()).map_err(|source| {
            StateError::Damaged { key: String::from_utf8_lossy(&key).into_owned(), source }
        })?;
        found.insert(rule.holder, rule);
    }
    Ok(found)
}
