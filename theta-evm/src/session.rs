//! What Ethereum's rules remember within one transaction besides the state: which accounts are warm, transient storage,
//! which contracts it made and ended. A failed frame takes it back like the state's changes. Which words of storage are
//! warm stands beside the words, in the state's view.

use std::collections::{BTreeMap, BTreeSet};

use revm::primitives::AddressSet;
use theta_core::hash::{Address, U256};

type Slot = (Address, U256);

/// One transaction's memory.
#[derive(Debug, Default)]
pub(crate) struct Session {
    accounts: AddressSet,
    transient: BTreeMap<Slot, U256>,
    created: BTreeSet<Address>,
    destroyed: BTreeSet<Address>,
    journal: Vec<Undo>,
}

/// What to take back.
#[derive(Debug)]
enum Undo {
    Account(Address),
    Transient(Slot, U256),
    Created(Address),
    Destroyed(Address),
}

impl Session {
    /// A place to come back to.
    pub(crate) const fn checkpoint(&self) -> usize {
        self.journal.len()
    }

    /// Takes back what came since.
    pub(crate) fn revert(&mut self, to: usize) {
        for undo in self.journal.drain(to.min(self.journal.len())..).rev() {
            match undo {
                Undo::Account(address) => drop(self.accounts.remove(&address)),
                Undo::Transient(slot, before) => drop(self.transient.insert(slot, before)),
                Undo::Created(address) => drop(self.created.remove(&address)),
                Undo::Destroyed(address) => drop(self.destroyed.remove(&address)),
            }
        }
    }

    pub(crate) fn is_warm(&self, address: Address) -> bool {
        self.accounts.contains(&address)
    }

    pub(crate) fn warm(&mut self, address: Address) {
        if self.accounts.insert(address) {
            self.journal.push(Undo::Account(address));
        }
    }

    pub(crate) fn transient(&self, address: Address, key: U256) -> U256 {
        self.transient.get(&(address, key)).copied().unwrap_or_default()
    }

    pub(crate) fn set_transient(&mut self, address: Address, key: U256, value: U256) {
        let old = self.transient.insert((address, key), value).unwrap_or_default();
        self.journal.push(Undo::Transient((address, key), old));
    }

    pub(crate) fn is_created(&self, address: Address) -> bool {
        self.created.contains(&address)
    }

    pub(crate) fn create(&mut self, address: Address) {
        if self.created.insert(address) {
            self.journal.push(Undo::Created(address));
        }
    }

    pub(crate) fn is_destroyed(&self, address: Address) -> bool {
        self.destroyed.contains(&address)
    }

    pub(crate) fn destroy(&mut self, address: Address) {
        if self.destroyed.insert(address) {
            self.journal.push(Undo::Destroyed(address));
        }
    }

    /// The contracts that the transaction both made and ended, ascending.
    pub(crate) fn take_destroyed(&mut self) -> BTreeSet<Address> {
        std::mem::take(&mut self.destroyed)
    }
}
