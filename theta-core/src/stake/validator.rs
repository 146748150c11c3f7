//! Validator candidates and the set that they give.

use serde::{Deserialize, Serialize};

use super::{Stake, StakeError, StakeHolder};
use crate::{
    amount::ThetaWei,
    bls::{self, PublicKey},
    codec::rlp::{Decode, DecodeError, Encode, Reader, encode_list},
    hash::{Address, U256},
    rlp_list,
};

/// A validator set is never larger.
pub const MAX_VALIDATORS: usize = 31;

/// All validator candidates in their stored order, which is part of the state root.
///
/// The order is by stake, largest first; equal stakes by the mixed-case (EIP-55) text of the address, also largest first.
/// A pool read from a state keeps the order it has there until the next change sorts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidatorPool {
    /// The candidates.
    pub candidates: Vec<StakeHolder<ThetaWei>>,
}

impl Encode for ValidatorPool {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| self.candidates.encode(out));
    }
}

impl Decode for ValidatorPool {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let pool = Self { candidates: list.read()? };
        list.finish()?;
        Ok(pool)
    }
}

impl ValidatorPool {
    /// The entry of a holder.
    pub fn find(&self, holder: Address) -> Option<&StakeHolder<ThetaWei>> {
        self.candidates.iter().find(|candidate| candidate.holder == holder)
    }

    /// Deposits and sorts. Minimum amounts are the transaction's to check.
    pub fn deposit(&mut self, source: Address, holder: Address, amount: ThetaWei) -> Result<(), StakeError> {
        match self.candidates.iter_mut().find(|candidate| candidate.holder == holder) {
            Some(candidate) => candidate.deposit(source, amount)?,
            None => {
                let mut candidate = StakeHolder::new(holder);
                candidate.deposit(source, amount)?;
                self.candidates.push(candidate);
            }
        }
        self.sort();
        Ok(())
    }

    /// Begins a withdrawal and sorts.
    pub fn withdraw(
        &mut self,
        source: Address,
        holder: Address,
        parent_height: u64,
        lock_blocks: u64,
    ) -> Result<(), StakeError> {
        let candidate = self
            .candidates
            .iter_mut()
            .find(|candidate| candidate.holder == holder)
            .ok_or(StakeError::NoHolder(holder))?;
        candidate.withdraw(source, parent_height, lock_blocks)?;
        self.sort();
        Ok(())
    }

    /// Takes out the stakes that are due and sorts; holders without stakes go.
    pub fn take_due(&mut self, parent_height: u64) -> Vec<Stake<ThetaWei>> {
        let mut returned = Vec::new();
        for index in (0..self.candidates.len()).rev() {
            let candidate = &mut self.candidates[index];
            candidate.take_due(parent_height, &mut returned);
            if candidate.stakes.is_empty() {
                self.candidates.remove(index);
            }
        }
        self.sort();
        returned
    }

    /// Takes out a holder with all of its stakes, those being withdrawn too; `None` for one that has none.
    pub fn burn(&mut self, holder: Address) -> Option<StakeHolder<ThetaWei>> {
        let index = self.candidates.iter().position(|candidate| candidate.holder == holder)?;
        let burned = self.candidates.remove(index);
        self.sort();
        Some(burned)
    }

    fn sort(&mut self) {
        let mut keyed: Vec<_> =
            self.candidates.drain(..).map(|candidate| (candidate.total(), candidate)).collect();
        // The texts are asked for where stakes are equal alone: each is a hash.
        let text = |candidate: &StakeHolder<ThetaWei>| candidate.holder.to_checksum(None);
        keyed.sort_by(|(stake, candidate), (other_stake, other)| {
            other_stake.cmp(stake).then_with(|| text(other).cmp(&text(candidate)))
        });
        self.candidates.extend(keyed.into_iter().map(|(_, candidate)| candidate));
    }
}

/// A member of a validator set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validator {
    /// The node's address.
    pub address: Address,
    /// Its stake.
    pub stake: ThetaWei,
    /// The key of its shares in certificates, where the chain has such keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bls: Option<PublicKey>,
}

impl Validator {
    /// A member without a key.
    pub const fn new(address: Address, stake: ThetaWei) -> Self {
        Self { address, stake, bls: None }
    }
}

/// A validator's BLS key as it stands in the state of chains that have such keys, see [`validator_key`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatorKey {
    /// The key.
    pub key: PublicKey,
    /// The key's signature on its own bytes.
    pub proof: bls::Signature,
}

rlp_list!(ValidatorKey { key, proof });

/// What the places of [`ValidatorKey`]s in the state begin with.
pub const VALIDATOR_KEYS: &[u8] = b"ls/vbk/";

/// Where a validator's [`ValidatorKey`] stands in the state.
pub fn validator_key(holder: Address) -> Vec<u8> {
    [VALIDATOR_KEYS, holder.as_slice()].concat()
}

/// The validators that propose and vote, ascending by address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatorSet {
    validators: Vec<Validator>,
}

impl ValidatorSet {
    /// The first [`MAX_VALIDATORS`] candidates of a pool in its stored order, without those that have no stake.
    pub fn of_pool(pool: &ValidatorPool) -> Self {
        Self::new(
            pool.candidates
                .iter()
                .take(MAX_VALIDATORS)
                .map(|candidate| Validator::new(candidate.holder, candidate.total()))
                .filter(|validator| !validator.stake.is_zero()),
        )
    }

    /// The first [`MAX_VALIDATORS`] candidates of a pool that have stake and a key. `find` says which key a candidate has.
    pub fn keyed<E>(
        pool: &ValidatorPool,
        mut find: impl FnMut(Address) -> Result<Option<PublicKey>, E>,
    ) -> Result<Self, E> {
        let mut found = Vec::new();
        for candidate in &pool.candidates {
            if found.len() == MAX_VALIDATORS {
                break;
            }
            let validator = Validator::new(candidate.holder, candidate.total());
            if !validator.stake.is_zero()
                && let Some(key) = find(candidate.holder)?
            {
                found.push(Validator { bls: Some(key), ..validator });
            }
        }
        Ok(Self::new(found))
    }

    /// Sorts validators by address; of several with one address the first stays.
    pub fn new(validators: impl IntoIterator<Item = Validator>) -> Self {
        let mut validators: Vec<_> = validators.into_iter().collect();
        validators.sort_by_key(|validator| validator.address);
        validators.dedup_by_key(|validator| validator.address);
        Self { validators }
    }

    /// The validators, ascending by address.
    pub fn as_slice(&self) -> &[Validator] {
        &self.validators
    }

    /// A member.
    pub fn find(&self, address: Address) -> Option<&Validator> {
        self.validators
            .binary_search_by_key(&address, |validator| validator.address)
            .ok()
            .map(|index| &self.validators[index])
    }

    /// Whether the address is a member.
    pub fn contains(&self, address: Address) -> bool {
        self.find(address).is_some()
    }

    /// Sum of all stakes; saturates.
    pub fn total_stake(&self) -> ThetaWei {
        let stakes = self.validators.iter().map(|validator| validator.stake);
        stakes.fold(ThetaWei::ZERO, |sum, stake| sum.checked_add(stake).unwrap_or(sum))
    }

    /// Sum of the stakes of the named members; others count nothing. Name each once.
    pub fn stake_of(&self, addresses: impl IntoIterator<Item = Address>) -> ThetaWei {
        addresses
            .into_iter()
            .filter_map(|address| self.find(address))
            .fold(ThetaWei::ZERO, |sum, validator| sum.checked_add(validator.stake).unwrap_or(sum))
    }

    /// Whether `stake` is more than two thirds of all (`core/validator.go`: strictly more).
    pub fn is_quorum(&self, stake: ThetaWei) -> bool {
        self.quorum().is_met(stake)
    }

    /// The same to be asked again and again; this adds up all stakes.
    pub fn quorum(&self) -> Quorum {
        Quorum { total: self.total_stake() }
    }
}

/// What share of all stake some have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    total: ThetaWei,
}

impl Quorum {
    /// Whether `stake` is more than two thirds.
    pub fn is_met(self, stake: ThetaWei) -> bool {
        // Stakes are bounded by the supply; a product that overflows is refused rather than wrapped.
        let three = stake.get().checked_mul(U256::from(3));
        let two = self.total.get().checked_mul(U256::from(2));
        matches!((three, two), (Some(three), Some(two)) if three > two)
    }

    /// Whether `stake` is more than one third, so that one of its owners is honest.
    pub fn has_honest(self, stake: ThetaWei) -> bool {
        stake.get().checked_mul(U256::from(3)).is_some_and(|three| three > self.total.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(byte: u8) -> Address {
        Address::repeat_byte(byte)
    }

    #[test]
    fn a_withdrawn_stake_is_locked_and_then_returned() {
        let mut pool = ValidatorPool::default();
        pool.deposit(address(1), address(2), ThetaWei::wei(5)).expect("first");
        pool.deposit(address(1), address(2), ThetaWei::wei(5)).expect("more");
        assert_eq!(pool.find(address(2)).expect("there").total(), ThetaWei::wei(10));
        pool.withdraw(address(1), address(2), 100, 50).expect("begins");
        assert_eq!(pool.find(address(2)).expect("there").total(), ThetaWei::ZERO);
        assert_eq!(
            pool.deposit(address(1), address(2), ThetaWei::wei(1)),
            Err(StakeError::Locked(address(1)))
        );
        assert_eq!(
            pool.withdraw(address(1), address(2), 100, 50),
            Err(StakeError::AlreadyWithdrawn(address(1)))
        );
        assert!(pool.take_due(149).is_empty());
        assert_eq!(pool.take_due(150)[0].amount, ThetaWei::wei(10));
        assert!(pool.candidates.is_empty());
    }

    #[test]
    fn what_is_burned_is_all_of_a_holder_and_nothing_else() {
        let mut pool = ValidatorPool::default();
        for byte in 1..=3 {
            pool.deposit(address(byte), address(9), ThetaWei::wei(5)).expect("deposit");
        }
        pool.deposit(address(1), address(8), ThetaWei::wei(7)).expect("deposit");
        pool.withdraw(address(2), address(9), 100, 50).expect("begins");
        let burned = pool.burn(address(9)).expect("staked");
        assert_eq!((burned.stakes.len(), burned.total()), (3, ThetaWei::wei(10)));
        assert_eq!(pool.burn(address(9)), None);
        assert!(pool.take_due(1_000).is_empty());
        assert_eq!(pool.find(address(8)).expect("there").total(), ThetaWei::wei(7));
    }

    #[test]
    fn two_thirds_alone_are_no_quorum() {
        let stake = ThetaWei::wei(1);
        let set = ValidatorSet::new((1..=3).map(|byte| Validator::new(address(byte), stake)));
        assert!(!set.is_quorum(ThetaWei::wei(2)));
        assert!(set.is_quorum(ThetaWei::wei(3)));
        assert!(!set.is_quorum(ThetaWei::from_u256(U256::MAX)));
        assert_eq!(set.stake_of([address(1), address(9)]), stake);
    }

    #[test]
    fn zero_stakes_and_the_thirty_second_do_not_enter_the_set() {
        let mut pool = ValidatorPool::default();
        for byte in 1..=32 {
            pool.deposit(address(byte), address(byte), ThetaWei::wei(u64::from(byte) + 100))
                .expect("deposit");
        }
        assert_eq!(ValidatorSet::of_pool(&pool).as_slice().len(), MAX_VALIDATORS);
        assert!(!ValidatorSet::of_pool(&pool).contains(address(1)));
        pool.withdraw(address(32), address(32), 0, 10).expect("withdraw");
        assert!(!ValidatorSet::of_pool(&pool).contains(address(32)));
    }
}
