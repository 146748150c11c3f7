//! All staking rules as pure functions over plain values: pools, locks, validator sets, sampling, reward shares.
//!
//! Nothing here reads a state or moves a balance; the ledger loads pools, calls these functions and stores the result.
//! Heights: `height` is the height H of the block being made; `parent_height` is H - 1, which the reference uses for lock
//! periods and seeds (`core/stake.go`, `core/validator.go`, `core/guardian.go`).

pub mod elite;
pub mod guardian;
pub mod reward;
pub mod validator;

use serde::{Deserialize, Serialize};

pub use self::{
    elite::EliteEdgeNode,
    guardian::{Guardian, GuardianPool},
    reward::EliteState,
    validator::{VALIDATOR_KEYS, Validator, ValidatorKey, ValidatorPool, ValidatorSet, validator_key},
};
use crate::{
    amount::Wei,
    codec::rlp::{Decode, DecodeError, Encode, Item, Reader, encode_list},
    hash::Address,
};

/// Who may vote for a checkpoint besides validators: the pools in the state after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// Guardians, withdrawn ones included.
    pub guardians: GuardianPool,
    /// All elite edge nodes and their live stake.
    pub elite: EliteState,
}

/// Return height of a stake that is not withdrawn.
pub const NEVER: u64 = u64::MAX;

/// Why a pool refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StakeError {
    /// The source's stake with this holder is withdrawn and locked; a new deposit has to wait until it is returned.
    #[error("stake of {0} is being withdrawn; wait until it is returned")]
    Locked(Address),
    /// No stake of this source with this holder.
    #[error("{0} has no stake with this holder")]
    NoStake(Address),
    /// The holder is in no pool.
    #[error("{0} holds no stake")]
    NoHolder(Address),
    /// The stake is withdrawn already.
    #[error("stake of {0} is withdrawn already")]
    AlreadyWithdrawn(Address),
    /// Below the minimum or above the maximum of the pool.
    #[error("stake is below the minimum or above the maximum of this pool")]
    Amount,
    /// A sum above 2^256 - 1 wei.
    #[error("stake is too large")]
    TooLarge,
}

/// What one source has staked with one holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stake<W> {
    /// Whose coins they are.
    pub source: Address,
    /// How much.
    pub amount: W,
    /// Whether a withdrawal has begun.
    pub withdrawn: bool,
    /// First height at whose end the coins go back, [`NEVER`] before a withdrawal.
    pub return_height: u64,
}

/// All stakes with one holder, at most one for each source, in the order of their first deposits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StakeHolder<W> {
    /// The node that the stakes back.
    pub holder: Address,
    /// The stakes.
    pub stakes: Vec<Stake<W>>,
}

impl<W: Wei> Encode for Stake<W> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.source.encode(out);
            self.amount.encode(out);
            self.withdrawn.encode(out);
            self.return_height.encode(out);
        });
    }
}

impl<W: Wei> Decode for Stake<W> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let stake = Self {
            source: list.read()?,
            amount: list.read()?,
            withdrawn: list.read()?,
            return_height: list.read()?,
        };
        list.finish()?;
        Ok(stake)
    }
}

impl<W: Wei> Encode for StakeHolder<W> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.holder.encode(out);
            self.stakes.encode(out);
        });
    }
}

impl<W: Wei> Decode for StakeHolder<W> {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let holder = Self { holder: list.read()?, stakes: list.read()? };
        list.finish()?;
        Ok(holder)
    }
}

impl<W: Wei> Item for Stake<W> {}
impl<W: Wei> Item for StakeHolder<W> {}

impl<W: Wei> StakeHolder<W> {
    /// A holder without stakes.
    pub const fn new(holder: Address) -> Self {
        Self { holder, stakes: Vec::new() }
    }

    /// Stakes that are not withdrawn.
    pub fn live(&self) -> impl Iterator<Item = &Stake<W>> {
        self.stakes.iter().filter(|stake| !stake.withdrawn)
    }

    /// Sum of the stakes that are not withdrawn; saturates at 2^256 - 1.
    pub fn total(&self) -> W {
        self.live().fold(W::default(), |sum, stake| sum.checked_add(stake.amount).unwrap_or(sum))
    }

    /// Adds to the source's stake, or begins one.
    pub fn deposit(&mut self, source: Address, amount: W) -> Result<(), StakeError> {
        match self.stakes.iter_mut().find(|stake| stake.source == source) {
            Some(stake) if stake.withdrawn => return Err(StakeError::Locked(source)),
            Some(stake) => stake.amount = stake.amount.checked_add(amount).ok_or(StakeError::TooLarge)?,
            None => self.stakes.push(Stake { source, amount, withdrawn: false, return_height: NEVER }),
        }
        Ok(())
    }

    /// Begins the withdrawal of the source's whole stake; gives it back as it now stands.
    pub fn withdraw(
        &mut self,
        source: Address,
        parent_height: u64,
        lock_blocks: u64,
    ) -> Result<&Stake<W>, StakeError> {
        let stake =
            self.stakes.iter_mut().find(|stake| stake.source == source).ok_or(StakeError::NoStake(source))?;
        if stake.withdrawn {
            return Err(StakeError::AlreadyWithdrawn(source));
        }
        stake.withdrawn = true;
        stake.return_height = parent_height.wrapping_add(lock_blocks);
        Ok(stake)
    }

    /// Takes out what is due, last first, as the reference does.
    fn take_due(&mut self, parent_height: u64, returned: &mut Vec<Stake<W>>) {
        for index in (0..self.stakes.len()).rev() {
            let stake = &self.stakes[index];
            if stake.withdrawn && stake.return_height <= parent_height {
                returned.push(self.stakes.remove(index));
            }
        }
    }
}
