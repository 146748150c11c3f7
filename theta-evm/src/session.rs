//! What Ethereum's rules remember within one transaction besides the state: what is warm, transient storage, which
//! contracts it made and ended. A failed frame takes it back like the state's changes.

use std::collections::{BTreeMap, BTreeSet};

use revm::primitives::{
    AddressSet,
    map::{AddressMap, U256Map},
};
use theta_core::hash::{Address, U256};

type Slot = (Address, U256);

/// A word of storage that the transaction has met.
#[derive(Debug, Default)]
struct Met {
    warm: bool,
    /// Its value from before the transaction, once it was written. Not taken back: it does not change.
    original: Option<U256>,
}

/// One transaction's memory.
#[derive(Debug, Default)]
pub(crate) struct Session {
    accounts: AddressSet,
    /// Which of `storages` is an account's.
    places: AddressMap<u32>,
    storages: Vec<U256Map<Met>>,
    transient: BTreeMap<Slot, U256>,
    created: BTreeSet<Address>,
    destroyed: BTreeSet<Address>,
    journal: Vec<Undo>,
}

/// What to take back. Of storage, which is most of it, it says no more than needed; the rest stands apart if it is large.
#[derive(Debug)]
enum Undo {
    Account(Address),
    Slot(u32, U256),
    Transient(Box<(Slot, U256)>),
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
                Undo::Slot(place, key) => {
                    if let Some(met) = self.storages[place as usize].get_mut(&key) {
                        met.warm = false;
                    }
                }
                Undo::Transient(before) => drop(self.transient.insert(before.0, before.1)),
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

    /// Meets a word, which is warm from now on. Gives whether it was cold, and the place for its value from before the
    /// transaction; nothing where it is cold and `skip` says to leave it so.
    pub(crate) fn meet(
        &mut self,
        address: Address,
        key: U256,
        skip: bool,
    ) -> Option<(bool, &mut Option<U256>)> {
        let storages = &mut self.storages;
        let place = *self.places.entry(address).or_insert_with(|| {
            storages.push(U256Map::default());
            storages.len() as u32 - 1
        });
        let met = storages[place as usize].entry(key).or_default();
        let is_cold = !met.warm;
        if is_cold {
            if skip {
                return None;
            }
            met.warm = true;
            self.journal.push(Undo::Slot(place, key));
        }
        Some((is_cold, &mut met.original))
    }

    pub(crate) fn transient(&self, address: Address, key: U256) -> U256 {
        self.transient.get(&(address, key)).copied().unwrap_or_default()
    }

    pub(crate) fn set_transient(&mut self, address: Address, key: U256, value: U256) {
        let old = self.transient.insert((address, key), value).unwrap_or_default();
        self.journal.push(Undo::Transient(Box::new(((address, key), old))));
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
