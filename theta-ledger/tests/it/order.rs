//! The same changes give the same root, in any order and on any store.

use std::sync::Arc;

use proptest::prelude::*;
use theta_core::{
    amount::{Coins, TFuelWei},
    context::Finality,
    hash::{Address, EMPTY_ROOT, Hash, U256},
    spec::ChainSpec,
    store::{FjallStore, MemStore, RedbStore, Store},
    trie::NoNodes,
};
use theta_ledger::{
    genesis::GenesisBuilder,
    ledger::Ledger,
    state::{Account, StateView, keys},
    tx::{RawTx, Send, TxInput, TxOutput, Unsigned},
};

use super::{
    codec::Any,
    ledger::{extend, key},
};

fn shuffle<T>(any: &mut Any, items: &mut [T]) {
    for place in (1..items.len()).rev() {
        items.swap(place, any.below(place as u64 + 1) as usize);
    }
}

/// A change that no other one of the same list touches.
#[derive(Clone)]
enum Write {
    Account(u8, u64),
    Slot(u8, u8, u64),
    Record(Vec<u8>, Vec<u8>),
}

fn root_of(writes: &[Write]) -> Hash {
    let mut view = StateView::open(EMPTY_ROOT, 0, Arc::new(NoNodes)).unwrap();
    for who in 0..4 {
        view.store(Account::new(Address::repeat_byte(who), 0));
    }
    for write in writes {
        match write.clone() {
            Write::Account(who, tfuel) => {
                let mut account = view.load_or_new(Address::repeat_byte(who)).unwrap();
                account.balance = Coins::tfuel(TFuelWei::wei(tfuel));
                view.store(account);
            }
            Write::Slot(who, slot, value) => {
                let (address, slot) = (Address::repeat_byte(who), Hash::with_last_byte(slot));
                view.set_slot(address, slot, U256::from(value)).unwrap();
            }
            Write::Record(key, value) => view.set_record(key, Some(value)),
        }
    }
    view.root().unwrap()
}

proptest! {
    #[test]
    fn independent_writes_in_any_order(seed in any::<u64>()) {
        let any = &mut Any(seed);
        let mut writes = Vec::new();
        for who in 0..30 {
            writes.push(Write::Account(who, any.below(1000)));
            writes.extend((0..any.below(5)).map(|slot| Write::Slot(who % 4, who * 5 + slot as u8, any.below(3))));
            // Resources of which one is the beginning of another.
            let resource = vec![b'a'; usize::from(who)];
            writes.push(Write::Record([keys::SPLIT, &resource].concat(), vec![7; 1 + any.below(60) as usize]));
        }
        let root = root_of(&writes);
        for _ in 0..3 {
            shuffle(any, &mut writes);
            prop_assert_eq!(root_of(&writes), root);
        }
    }
}

#[test]
fn independent_transactions_in_any_order_on_any_store() {
    const PAYERS: u8 = 24;
    let spec = ChainSpec::privatenet();
    let mut builder = GenesisBuilder::new(&spec, 1_700_000_000).validator(
        key(9).address(),
        key(9).address(),
        theta_core::amount::ThetaWei::whole(5_000_000),
    );
    for index in 0..PAYERS {
        builder = builder.account(key(10 + index).address(), Coins::tfuel(TFuelWei::whole(1000)));
    }
    let genesis = builder.build();
    let send = |index: u8, sequence: u64| -> Arc<RawTx> {
        let (payer, fee) = (key(10 + index), Coins::tfuel("0.3".parse().unwrap()));
        let paid = Coins::tfuel(TFuelWei::whole(u64::from(index) + sequence));
        let body = Send {
            fee: fee.into(),
            inputs: vec![TxInput::new(payer.address(), paid.checked_add(fee).unwrap(), sequence)],
            // Some pay the same account.
            outputs: vec![TxOutput::new(Address::repeat_byte(0xa0 + index % 8), paid)],
        };
        Arc::new(Unsigned::new("privatenet", body).sign(&payer).unwrap())
    };
    let folder = tempfile::tempdir().unwrap();
    let mut any = Any(7);
    let mut expected: Option<Vec<Hash>> = None;
    for round in 0..6 {
        let path = folder.path().join(round.to_string());
        let store: Arc<dyn Store> = match round % 3 {
            0 => Arc::new(MemStore::default()),
            1 => Arc::new(FjallStore::open(&path).unwrap()),
            _ => Arc::new(RedbStore::open(&path).unwrap()),
        };
        let mut ledger = Ledger::builder(spec.clone()).store(store).open(&genesis).unwrap();
        let (mut parent, mut roots) = (genesis.hash(), Vec::new());
        for sequence in 1..=3 {
            let mut candidates: Vec<_> = (0..PAYERS).map(|index| send(index, sequence)).collect();
            shuffle(&mut any, &mut candidates);
            let (hash, block) = extend(&mut ledger, parent, &candidates);
            assert_eq!(block.transactions.len(), usize::from(PAYERS) + 1);
            ledger.reached(Finality::Settled, &hash).unwrap();
            roots.push(block.header.state_root);
            parent = hash;
        }
        assert_eq!(expected.get_or_insert(roots.clone()), &roots);
    }
}
