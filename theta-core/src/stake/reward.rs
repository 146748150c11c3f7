//! What a checkpoint's coinbase pays (`ledger/execution/tx_coinbase.go`), in all five eras.

use std::collections::BTreeMap;

use num_bigint::BigUint;

use super::{EliteEdgeNode, GuardianPool, Stake, ValidatorPool, ValidatorSet, elite::sampled_weight};
use crate::{
    amount::{TFuelWei, ThetaWei, Wei, from_big, to_big},
    hash::{Address, Hash},
    hash_rand::HashRand,
    rlp_list,
    vote::{EliteVotes, GuardianVotes},
};

/// TFUEL for a block's validator and guardian stakers.
const STAKER_REWARD: u64 = 48;
/// TFUEL for a block's elite edge stakers.
const ELITE_REWARD: u64 = 38;
/// Blocks that one payment covers.
const BLOCKS_PER_PAYMENT: u64 = 100;
/// Draws of a sampled payment.
const SAMPLES: u64 = 400;
/// Basis points in a whole.
const BASIS: u64 = 10_000;

/// How rewards are paid; one variant for each era.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RewardRule {
    /// Every validator gets an entry of zero, at every height.
    Zero,
    /// Validator stakers, in proportion, at checkpoints.
    Validators,
    /// Validator and guardian stakers in proportion.
    Guardians,
    /// Validator and guardian stakers by sampling, per staker.
    Sampled,
    /// By sampling per stake with split rules, and elite edge stakers.
    Elite,
}

/// A holder's wish that part of its stakers' rewards goes elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewardDistribution {
    /// The node whose stakes are meant.
    pub holder: Address,
    /// Who gets the part.
    pub beneficiary: Address,
    /// The part in hundredths of a percent, up to 1000.
    pub split_basis_point: u64,
}

rlp_list!(RewardDistribution { holder, beneficiary, split_basis_point });

/// Everything a payment depends on.
#[derive(Clone, Copy)]
pub struct RewardInput<'a> {
    /// The era.
    pub rule: RewardRule,
    /// Height H of the block that pays.
    pub height: u64,
    /// Whether H is a checkpoint.
    pub checkpoint: bool,
    /// The validators that are paid, from an older settled pool.
    pub validators: &'a ValidatorSet,
    /// The pool in the state the coinbase executes on.
    pub pool: &'a ValidatorPool,
    /// Guardian votes in the block, with the pool of the state at the voted block.
    pub guardians: Option<(&'a GuardianVotes, &'a GuardianPool)>,
    /// Elite edge votes in the block, with the voters and the total stake of that same state.
    pub elite: Option<(&'a EliteVotes, &'a EliteState)>,
    /// Looks up a holder's reward distribution in the state the coinbase executes on.
    pub distribution: &'a dyn Fn(Address) -> Option<RewardDistribution>,
}

impl std::fmt::Debug for RewardInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RewardInput")
            .field("rule", &self.rule)
            .field("height", &self.height)
            .finish_non_exhaustive()
    }
}

/// Elite edge nodes of a state: all of them, or those that a payment may concern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EliteState {
    /// Live stake of all nodes.
    pub total: TFuelWei,
    /// The nodes; those unknown to the state are missing.
    pub nodes: BTreeMap<Address, EliteEdgeNode>,
}

/// A validator of the set is missing in the pool; the reference panics here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("validator {0} is not in the candidate pool")]
pub struct UnknownValidator(pub Address);

/// Every address that the coinbase has to name, with its TFUEL; entries of zero count.
pub fn rewards(input: &RewardInput<'_>) -> Result<BTreeMap<Address, TFuelWei>, UnknownValidator> {
    let mut paid = BTreeMap::new();
    if input.rule == RewardRule::Zero {
        paid.extend(input.validators.as_slice().iter().map(|validator| (validator.address, TFuelWei::ZERO)));
        return Ok(paid);
    }
    if !input.checkpoint {
        return Ok(paid);
    }
    let guardians = input.guardians.filter(|_| input.rule >= RewardRule::Guardians);
    let Some((votes, pool)) = guardians else {
        let groups = groups(input, None)?;
        proportional(&groups, &to_big(input.validators.total_stake().get()), &mut paid);
        return Ok(paid);
    };
    let validator_stake = input.validators.total_stake();
    // Without validators nobody who stakes THETA is paid, guardians neither.
    let groups = if validator_stake.is_zero() { Vec::new() } else { groups(input, Some((votes, pool)))? };
    let guardian_stakes = groups.iter().flat_map(|group| &group.stakes).filter(|entry| entry.guardian);
    let total =
        guardian_stakes.fold(to_big(validator_stake.get()), |sum, entry| sum + to_big(entry.amount.get()));
    match input.rule {
        RewardRule::Zero | RewardRule::Validators | RewardRule::Guardians => {
            proportional(&groups, &total, &mut paid);
        }
        RewardRule::Sampled => {
            let intervals = groups.iter().map(|group| (group.total(), group.source, None));
            sampled(input, votes, &total, intervals, &mut paid);
        }
        RewardRule::Elite => {
            let intervals = groups.iter().flat_map(|group| {
                group
                    .stakes
                    .iter()
                    .map(|entry| (to_big(entry.amount.get()), group.source, Some(entry.holder)))
            });
            sampled(input, votes, &total, intervals, &mut paid);
            if let Some((elite_votes, state)) = input.elite
                && elite_votes.block == votes.block
            {
                elite(input, elite_votes, state, &mut paid);
            }
        }
    }
    Ok(paid)
}

struct Entry {
    holder: Address,
    amount: ThetaWei,
    guardian: bool,
}

/// One staker's stakes, in the order they were met.
struct Group {
    source: Address,
    stakes: Vec<Entry>,
}

impl Group {
    fn total(&self) -> BigUint {
        self.stakes.iter().map(|entry| to_big(entry.amount.get())).sum()
    }
}

fn groups(
    input: &RewardInput<'_>,
    guardians: Option<(&GuardianVotes, &GuardianPool)>,
) -> Result<Vec<Group>, UnknownValidator> {
    let mut groups: Vec<Group> = Vec::new();
    let mut index: BTreeMap<Address, usize> = BTreeMap::new();
    let mut add = |stake: &Stake<ThetaWei>, holder, guardian| {
        let at = *index.entry(stake.source).or_insert_with(|| {
            groups.push(Group { source: stake.source, stakes: Vec::new() });
            groups.len() - 1
        });
        groups[at].stakes.push(Entry { holder, amount: stake.amount, guardian });
    };
    for validator in input.validators.as_slice() {
        let holder = input.pool.find(validator.address).ok_or(UnknownValidator(validator.address))?;
        holder.live().for_each(|stake| add(stake, holder.holder, false));
    }
    if let Some((votes, pool)) = guardians {
        for (guardian, _) in
            pool.with_stake().zip(&votes.multipliers).filter(|(_, multiplier)| **multiplier != 0)
        {
            guardian.stakes.live().for_each(|stake| add(stake, guardian.stakes.holder, true));
        }
    }
    Ok(groups)
}

fn payment(tokens: u64) -> BigUint {
    to_big(TFuelWei::whole(tokens * BLOCKS_PER_PAYMENT).get())
}

fn credit(paid: &mut BTreeMap<Address, TFuelWei>, to: Address, amount: &BigUint) {
    let entry = paid.entry(to).or_default();
    // One payment is at most 8600 TFUEL in all; it fits.
    let amount = TFuelWei::from_u256(from_big(amount).unwrap_or_default());
    *entry = Wei::checked_add(*entry, amount).unwrap_or(*entry);
}

fn proportional(groups: &[Group], total: &BigUint, paid: &mut BTreeMap<Address, TFuelWei>) {
    if *total == BigUint::ZERO {
        return;
    }
    for group in groups {
        credit(paid, group.source, &(payment(STAKER_REWARD) * group.total() / total));
    }
}

fn split_credit(
    input: &RewardInput<'_>,
    holder: Address,
    source: Address,
    reward: &BigUint,
    paid: &mut BTreeMap<Address, TFuelWei>,
) {
    match (input.distribution)(holder) {
        None => credit(paid, source, reward),
        Some(rule) => {
            let part = reward * rule.split_basis_point / BASIS;
            credit(paid, rule.beneficiary, &part);
            let rest = if part > *reward { BigUint::ZERO } else { reward - &part };
            credit(paid, source, &rest);
        }
    }
}

fn sampled(
    input: &RewardInput<'_>,
    votes: &GuardianVotes,
    total: &BigUint,
    intervals: impl Iterator<Item = (BigUint, Address, Option<Address>)>,
    paid: &mut BTreeMap<Address, TFuelWei>,
) {
    let mut samples: Vec<BigUint> =
        (0..SAMPLES).map(|index| sample(input.height - 1, index, &votes.block, total)).collect();
    samples.sort();
    let mut samples = samples.into_iter().peekable();
    let mut upper = BigUint::ZERO;
    for (width, source, holder) in intervals {
        upper += width;
        let mut hits = 0_u64;
        while samples.next_if(|sample| *sample < upper).is_some() {
            hits += 1;
        }
        if hits > 0 {
            let reward = payment(STAKER_REWARD) * hits / SAMPLES;
            match holder {
                Some(holder) => split_credit(input, holder, source, &reward, paid),
                None => credit(paid, source, &reward),
            }
        }
    }
}

/// Draw number `index` for the block above `parent_height`, uniform below `total`.
pub fn sample(parent_height: u64, index: u64, checkpoint: &Hash, total: &BigUint) -> BigUint {
    let mut seed = [0; 52];
    write_varint(parent_height, &mut seed[..10]);
    write_varint(index, &mut seed[10..20]);
    seed[20..].copy_from_slice(checkpoint.as_slice());
    HashRand::new(&seed).below(total)
}

fn write_varint(mut value: u64, out: &mut [u8]) {
    for byte in out {
        *byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return;
        }
        *byte |= 0x80;
    }
}

fn elite(
    input: &RewardInput<'_>,
    votes: &EliteVotes,
    state: &EliteState,
    paid: &mut BTreeMap<Address, TFuelWei>,
) {
    let one = BigUint::from(crate::amount::WEI_PER_TOKEN);
    let mut effective = Vec::new();
    for node in votes.addresses.iter().filter_map(|address| state.nodes.get(address)) {
        let (holder, node_total) = (node.stakes.holder, node.stakes.total());
        if node_total.is_zero() {
            continue;
        }
        let weight = sampled_weight(&votes.block, holder, node_total, state.total);
        for stake in node.stakes.live() {
            let share = &one * weight * to_big(stake.amount.get()) / to_big(node_total.get());
            effective.push((holder, stake.source, share));
        }
    }
    let total: BigUint = effective.iter().map(|(_, _, share)| share).sum();
    if total == BigUint::ZERO {
        return;
    }
    for (holder, source, share) in effective {
        split_credit(input, holder, source, &(payment(ELITE_REWARD) * share / &total), paid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bls::{self, PublicKey},
        stake::Validator,
    };

    fn address(byte: u8) -> Address {
        Address::repeat_byte(byte)
    }

    /// A validator of 3 THETA from one source and a guardian of 1 THETA from another, paid by a rule.
    fn paid(rule: RewardRule, validators: &ValidatorSet) -> BTreeMap<Address, TFuelWei> {
        let mut pool = ValidatorPool::default();
        pool.deposit(address(1), address(2), ThetaWei::whole(3)).expect("first");
        let key = PublicKey::from_checked_bytes([0; 48]);
        let mut guardians = GuardianPool::default();
        guardians.deposit(address(3), address(4), ThetaWei::whole(1), Some(key)).expect("first");
        let votes = GuardianVotes {
            block: Hash::repeat_byte(5),
            pool: guardians.hash(),
            multipliers: vec![1],
            signature: bls::Signature::from_checked_bytes([0; 96]),
        };
        rewards(&RewardInput {
            rule,
            height: 101,
            checkpoint: true,
            validators,
            pool: &pool,
            guardians: Some((&votes, &guardians)),
            elite: None,
            distribution: &|_| None,
        })
        .expect("the validator is in the pool")
    }

    #[test]
    fn stakers_share_what_a_hundred_blocks_pay() {
        let set = ValidatorSet::new([Validator::new(address(2), ThetaWei::whole(3))]);
        let all = TFuelWei::whole(4800);
        let fixed = paid(RewardRule::Guardians, &set);
        assert_eq!(fixed[&address(1)], TFuelWei::whole(3600));
        assert_eq!(fixed[&address(3)], TFuelWei::whole(1200));
        for rule in [RewardRule::Sampled, RewardRule::Elite] {
            let sampled = paid(rule, &set);
            let sum = sampled[&address(1)].checked_add(sampled[&address(3)]).expect("fits");
            assert_eq!(sum, all, "{rule:?}");
            assert!(sampled[&address(1)] > sampled[&address(3)], "{rule:?}");
        }
        assert_eq!(paid(RewardRule::Validators, &set), BTreeMap::from([(address(1), all)]));
    }

    #[test]
    fn without_validators_guardians_are_not_paid_either() {
        for rule in [RewardRule::Validators, RewardRule::Guardians, RewardRule::Sampled, RewardRule::Elite] {
            assert!(paid(rule, &ValidatorSet::default()).is_empty(), "{rule:?}");
        }
    }
}
