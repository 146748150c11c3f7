//! Guardians: THETA stakes with a BLS key, sorted by holder.

use super::{Stake, StakeError, StakeHolder};
use crate::{
    amount::ThetaWei,
    bls::PublicKey,
    codec::rlp::{Decode, DecodeError, Encode, Item, Reader, encode_list},
    hash::{Address, Hash, keccak},
};

/// A guardian: its stakes and the key it votes with, which never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guardian {
    /// Stakes that back it.
    pub stakes: StakeHolder<ThetaWei>,
    /// Key of its votes.
    pub key: PublicKey,
}

impl Encode for Guardian {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| {
            self.stakes.encode(out);
            self.key.encode(out);
        });
    }
}

impl Decode for Guardian {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let guardian = Self { stakes: list.read()?, key: list.read()? };
        list.finish()?;
        Ok(guardian)
    }
}

impl Item for Guardian {}

/// All guardians, ascending by holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardianPool {
    /// The guardians, withdrawn ones included.
    pub guardians: Vec<Guardian>,
}

impl Encode for GuardianPool {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| self.guardians.encode(out));
    }
}

impl Decode for GuardianPool {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let pool = Self { guardians: list.read()? };
        list.finish()?;
        Ok(pool)
    }
}

impl GuardianPool {
    fn position(&self, holder: Address) -> Result<usize, usize> {
        self.guardians.binary_search_by_key(&holder, |guardian| guardian.stakes.holder)
    }

    /// Whether the holder is in the pool, withdrawn or not.
    pub fn contains(&self, holder: Address) -> bool {
        self.position(holder).is_ok()
    }

    /// Deposits; `key` is used only for a holder that is new, which is refused without one.
    pub fn deposit(
        &mut self,
        source: Address,
        holder: Address,
        amount: ThetaWei,
        key: Option<PublicKey>,
    ) -> Result<(), StakeError> {
        match self.position(holder) {
            Ok(index) => self.guardians[index].stakes.deposit(source, amount),
            Err(index) => {
                let key = key.ok_or(StakeError::NoHolder(holder))?;
                let mut stakes = StakeHolder::new(holder);
                stakes.deposit(source, amount)?;
                self.guardians.insert(index, Guardian { stakes, key });
                Ok(())
            }
        }
    }

    /// Begins a withdrawal.
    pub fn withdraw(
        &mut self,
        source: Address,
        holder: Address,
        parent_height: u64,
        lock_blocks: u64,
    ) -> Result<(), StakeError> {
        let index = self.position(holder).map_err(|_| StakeError::NoHolder(holder))?;
        self.guardians[index].stakes.withdraw(source, parent_height, lock_blocks)?;
        Ok(())
    }

    /// Takes out the stakes that are due; guardians without stakes go.
    pub fn take_due(&mut self, parent_height: u64) -> Vec<Stake<ThetaWei>> {
        let mut returned = Vec::new();
        for index in (0..self.guardians.len()).rev() {
            let guardian = &mut self.guardians[index];
            guardian.stakes.take_due(parent_height, &mut returned);
            if guardian.stakes.stakes.is_empty() {
                self.guardians.remove(index);
            }
        }
        returned
    }

    /// Guardians with a stake that is not withdrawn: what vote multipliers index into.
    pub fn with_stake(&self) -> impl Iterator<Item = &Guardian> {
        self.guardians.iter().filter(|guardian| guardian.stakes.live().next().is_some())
    }

    /// Hash of the whole pool, as votes carry it.
    pub fn hash(&self) -> Hash {
        keccak(self.to_rlp())
    }
}
