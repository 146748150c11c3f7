//! Elite edge nodes: TFUEL stakes with a BLS key, sampled for each checkpoint.

use num_bigint::BigUint;

use super::{Stake, StakeError, StakeHolder};
use crate::{
    amount::{TFuelWei, WEI_PER_TOKEN, to_big},
    bls::PublicKey,
    codec::rlp::{Decode, DecodeError, Encode, Reader, encode_list},
    hash::{Address, Hash},
    hash_rand::HashRand,
    rlp_list,
};

/// Smallest deposit in whole TFUEL.
pub const MIN_DEPOSIT: u64 = 10_000;
/// Most that may back one node, in whole TFUEL.
pub const MAX_STAKE: u64 = 500_000;
/// Stake units that a checkpoint samples on average.
pub const EXPECTED_UNITS: u64 = 800;

/// An elite edge node: its stakes and the key it votes with, which never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EliteEdgeNode {
    /// Stakes that back it.
    pub stakes: StakeHolder<TFuelWei>,
    /// Key of its votes.
    pub key: PublicKey,
}

impl Encode for EliteEdgeNode {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.stakes.encode(out);
            self.key.encode(out);
        });
    }
}

impl Decode for EliteEdgeNode {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let node = Self { stakes: list.read()?, key: list.read()? };
        list.finish()?;
        Ok(node)
    }
}

/// A stake that goes back at the height it is queued under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StakeReturn {
    /// The node it backed.
    pub holder: Address,
    /// The stake.
    pub stake: Stake<TFuelWei>,
}

rlp_list!(StakeReturn { holder, stake });

impl EliteEdgeNode {
    /// A node without stakes.
    pub const fn new(holder: Address, key: PublicKey) -> Self {
        Self { stakes: StakeHolder::new(holder), key }
    }

    /// Deposits between [`MIN_DEPOSIT`] and what [`MAX_STAKE`] leaves.
    pub fn deposit(&mut self, source: Address, amount: TFuelWei) -> Result<(), StakeError> {
        let maximum = TFuelWei::whole(MAX_STAKE);
        let total = self.stakes.total().checked_add(amount).ok_or(StakeError::TooLarge)?;
        if amount < TFuelWei::whole(MIN_DEPOSIT) || amount > maximum || total > maximum {
            return Err(StakeError::Amount);
        }
        self.stakes.deposit(source, amount)
    }

    /// Removes the stake of a source that is due at exactly `parent_height`.
    pub fn take_returned(&mut self, source: Address, parent_height: u64) -> Result<(), StakeError> {
        let due = |stake: &Stake<TFuelWei>| stake.withdrawn && stake.return_height == parent_height;
        let index = self
            .stakes
            .stakes
            .iter()
            .position(|stake| stake.source == source && due(stake))
            .ok_or(StakeError::NoStake(source))?;
        self.stakes.stakes.remove(index);
        Ok(())
    }
}

/// How many of a node's stake units the vote for `block` samples: 0 means its vote does not count.
///
/// `stake` is the node's live stake, `total` that of all nodes in the state at `block` (`consensus.md` 10.1).
pub fn sampled_weight(block: &Hash, node: Address, stake: TFuelWei, total: TFuelWei) -> u64 {
    let unit = BigUint::from(MIN_DEPOSIT) * BigUint::from(WEI_PER_TOKEN);
    let (stake, total) = (to_big(stake.get()), to_big(total.get()));
    let units = &stake / unit;
    if units == BigUint::ZERO || total == BigUint::ZERO {
        return 0;
    }
    let one = BigUint::from(WEI_PER_TOKEN);
    let chance = &one * EXPECTED_UNITS * stake / total / &units;
    let mut stream = HashRand::new(&[block.as_slice(), node.as_slice()].concat());
    // Stakes are capped at 50 units, so this never runs long on a real state.
    let draws = u64::try_from(units).unwrap_or(u64::MAX).min(1 << 20);
    (0..draws).filter(|_| stream.below(&one) < chance).count() as u64
}
