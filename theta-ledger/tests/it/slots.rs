//! Words of storage against a model of Ethereum's rules: what is cold, what a word held before the transaction, and what a
//! failed frame takes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use theta_core::{
    hash::{Address, EMPTY_ROOT, Hash, U256},
    trie::NoNodes,
};
use theta_ledger::state::{Account, MetSlot, StateView};

const CONTRACT: Address = Address::repeat_byte(0xcc);

#[derive(Clone, Debug)]
enum Act {
    Begin,
    Meet { slot: u8, value: Option<u64>, skip: bool },
    Checkpoint,
    Revert,
    Reset,
}

fn act() -> impl Strategy<Value = Act> {
    let meet = (0_u8..4, proptest::option::of(0_u64..3), any::<bool>());
    prop_oneof![
        2 => Just(Act::Begin),
        12 => meet.prop_map(|(slot, value, skip)| Act::Meet { slot, value, skip }),
        3 => Just(Act::Checkpoint),
        3 => Just(Act::Revert),
        1 => Just(Act::Reset),
    ]
}

/// What the rules say, by copies of everything.
#[derive(Clone, Default)]
struct Model {
    values: BTreeMap<u8, u64>,
    warm: BTreeSet<u8>,
    /// The values from before the transaction.
    before: BTreeMap<u8, u64>,
}

impl Model {
    fn meet(&mut self, slot: u8, value: Option<u64>, skip: bool) -> Option<MetSlot> {
        let is_cold = !self.warm.contains(&slot);
        if is_cold && skip {
            return None;
        }
        let word = |values: &BTreeMap<u8, u64>| U256::from(values.get(&slot).copied().unwrap_or_default());
        let met = MetSlot { is_cold, present: word(&self.values), original: word(&self.before) };
        self.warm.insert(slot);
        self.values.extend(value.map(|value| (slot, value)));
        Some(met)
    }
}

proptest! {
    #[test]
    fn words_are_met_as_the_rules_say(acts in proptest::collection::vec(act(), 1..60)) {
        let mut view = StateView::open(EMPTY_ROOT, 0, Arc::new(NoNodes)).unwrap();
        view.store(Account::new(CONTRACT, 0));
        view.begin_transaction();
        let (mut model, mut frames) = (Model::default(), Vec::new());
        for act in acts {
            match act {
                Act::Begin => {
                    view.begin_transaction();
                    model.warm.clear();
                    model.before = model.values.clone();
                    frames.clear();
                }
                Act::Meet { slot, value, skip } => {
                    let key = Hash::with_last_byte(slot);
                    let met = view.meet_slot(CONTRACT, key, value.map(U256::from), skip).unwrap();
                    prop_assert_eq!(met, model.meet(slot, value, skip));
                }
                Act::Checkpoint => frames.push((view.checkpoint(), model.clone())),
                Act::Revert => if let Some((checkpoint, before)) = frames.pop() {
                    view.revert(checkpoint);
                    model = before;
                },
                Act::Reset => {
                    view.reset(Account::new(CONTRACT, 0));
                    model.values.clear();
                    model.before.clear();
                }
            }
        }
        let words = view.slots(CONTRACT).unwrap().into_iter().map(|(key, value)| (key.0[31], value.to::<u64>()));
        model.values.retain(|_, value| *value != 0);
        prop_assert_eq!(words.collect::<BTreeMap<_, _>>(), model.values);
    }
}
