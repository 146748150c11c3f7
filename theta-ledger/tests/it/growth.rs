//! How the work of a state update grows, in counted operations: nodes read and permutations of the hash, which are the same
//! on every machine (`benchmarks.md` F).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    codec::rlp::Encode,
    context::Finality,
    hash::{Address, EMPTY_ROOT, Hash, keccak},
    sign::SecretKey,
    spec::ChainSpec,
    trie::{Node, NodeSource, Trie, TrieError},
    workers::Inline,
};
use theta_ledger::{
    genesis::GenesisBuilder,
    ledger::Ledger,
    mempool::{Mempool, MempoolLimits},
    state::{Account, SplitRule, StateView, keys},
};

use super::{
    ledger::{extend, key, send},
    mempool::{insert, offering},
};

/// Nodes in memory, and how often one was asked for.
#[derive(Default)]
struct Counted {
    nodes: Mutex<BTreeMap<Hash, Node>>,
    reads: AtomicUsize,
}

impl NodeSource for Counted {
    fn node(&self, hash: &Hash) -> Result<Option<Node>, TrieError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.nodes.lock().unwrap().get(hash).cloned())
    }
}

fn entry(number: u64, round: u64) -> (Vec<u8>, Vec<u8>) {
    let address = Address::from_slice(&keccak(number.to_be_bytes())[..20]);
    let balance = Coins::tfuel(TFuelWei::wei(u128::from(number) << 40 | u128::from(round)));
    let account = Account { balance, sequence: round, ..Account::new(address, 7) };
    (keys::account(address), account.to_rlp())
}

/// Permutations of the nodes that a change made, which are all that it hashed.
fn permutations(made: &[(Hash, Node)]) -> usize {
    made.iter().map(|(_, node)| node.encoding().len() / 136 + 1).sum()
}

/// Node reads and permutations for each of so many accounts out of `accounts` that a block changes.
fn work(accounts: u64, changed: u64) -> (f64, f64) {
    let source = Arc::new(Counted::default());
    let mut trie = Trie::empty(source.clone());
    trie.update((0..accounts).map(|number| entry(number, 0)), &Inline).unwrap();
    let root = trie.root();
    *source.nodes.lock().unwrap() = trie.take_new().into_iter().collect();
    let mut trie = Trie::open(root, source.clone()).unwrap();
    let before = source.reads.load(Ordering::Relaxed);
    // Numbers that are spread evenly; their addresses are hashes.
    let numbers = (0..changed).map(|index| index * accounts / changed);
    trie.update(numbers.map(|number| entry(number, 1)), &Inline).unwrap();
    assert_ne!(trie.root(), root);
    let reads = source.reads.load(Ordering::Relaxed) - before;
    let each = |count: usize| count as f64 / changed as f64;
    (each(reads), each(permutations(&trie.take_new())))
}

#[test]
fn an_update_costs_little_more_in_a_large_state() {
    let (small, large) = (work(10_000, 1_024), work(100_000, 1_024));
    println!("1e4 {small:?}, 1e5 {large:?}");
    assert!(large.0 <= 2.5 * small.0 && large.1 <= 2.5 * small.1, "{small:?} {large:?}");
    // It does grow: a count that stands still counts nothing.
    assert!(large.0 > 1.2 * small.0 && large.1 > 1.2 * small.1, "{small:?} {large:?}");
}

#[test]
fn many_updates_at_once_cost_less_each() {
    let (few, many) = (work(100_000, 1_024), work(100_000, 8_192));
    println!("K 1024 {few:?}, K 8192 {many:?}");
    assert!(many.0 <= 0.8 * few.0 && many.1 <= 0.8 * few.1, "{few:?} {many:?}");
}

/// Setting a split rule removes those that have ended, so they are looked through; once for a block, not for each rule.
#[test]
fn ended_split_rules_are_looked_for_once() {
    let rule = |end_height| SplitRule {
        initiator: Address::ZERO,
        resource: Vec::new(),
        splits: Vec::new(),
        end_height,
    };
    let source = Arc::new(Counted::default());
    let mut view = StateView::open(EMPTY_ROOT, 99, source.clone()).unwrap();
    for number in 0..500_u64 {
        view.set_split_rule(&number.to_be_bytes(), Some(&rule(50 + number)));
    }
    let root = view.root().unwrap();
    *source.nodes.lock().unwrap() = view.trie().clone().take_new().into_iter().collect();
    let mut view = StateView::open(root, 99, source.clone()).unwrap();
    let left = |view: &StateView| view.records_with(keys::SPLIT).unwrap().len();
    let reads = || source.reads.load(Ordering::Relaxed);
    // Those that end at 50 to 99.
    let start = view.checkpoint();
    view.drop_ended_splits(100).unwrap();
    assert_eq!(left(&view), 450);
    let before = reads();
    view.drop_ended_splits(100).unwrap();
    view.set_split_rule(b"new", Some(&rule(100)));
    view.drop_ended_splits(100).unwrap();
    assert_eq!(reads(), before);
    assert_eq!(left(&view), 451);
    // One that has ended is found however it came, and what is taken back is looked for again.
    view.set_split_rule(b"old", Some(&rule(7)));
    view.drop_ended_splits(100).unwrap();
    assert_eq!(left(&view), 451);
    view.revert(start);
    assert_eq!(left(&view), 500);
    view.drop_ended_splits(100).unwrap();
    assert_eq!(left(&view), 450);
    view.drop_ended_splits(101).unwrap();
    assert_eq!(left(&view), 449);
}

const SENDERS: usize = 20;

fn sender(index: usize) -> SecretKey {
    SecretKey::from_bytes(keccak((index as u64).to_be_bytes()).as_slice()).unwrap()
}

/// Transactions carried out for each of 100 offers to a pool in which `waiting` wait: new ones, every tenth of which comes
/// before the one below it, ten better offers for the last of a row, and five that are not valid.
fn offers(waiting: u64) -> f64 {
    let spec = ChainSpec::privatenet();
    let rich = Coins::tfuel(TFuelWei::whole(1_000_000));
    let keys: Vec<SecretKey> = (0..SENDERS).map(sender).collect();
    let validator = key(9).address();
    let mut genesis =
        GenesisBuilder::new(&spec, 1_700_000_000).validator(validator, validator, ThetaWei::whole(5_000_000));
    for key in &keys {
        genesis = genesis.account(key.address(), rich);
    }
    let genesis = genesis.build();
    let mut ledger = Ledger::builder(spec).open(&genesis).unwrap();
    let (first, _) = extend(&mut ledger, genesis.hash(), &[]);
    ledger.reached(Finality::Settled, &first).unwrap();
    let limits = MempoolLimits { transactions: 1 << 20, per_sender: 1 << 16, ..MempoolLimits::default() };
    let mut pool = Mempool::new(ledger.reader(), limits).unwrap();
    let mut next = [1; SENDERS];
    for number in 0..waiting as usize {
        let who = number % SENDERS;
        insert(&mut pool, send(&keys[who], next[who], 1).bytes, 0).unwrap();
        next[who] += 1;
    }
    let before = pool.carried_out();
    for number in 0..100_u64 {
        let who = number as usize % SENDERS;
        let (key, sequence) = (&keys[who], next[who]);
        // Another mix for each sender.
        let offered = match (number + number / 20 * 3) % 20 {
            0 | 10 => {
                insert(&mut pool, send(key, sequence + 1, 1).bytes, 0).unwrap();
                next[who] += 2;
                insert(&mut pool, send(key, sequence, 1).bytes, 0)
            }
            5 | 15 => insert(&mut pool, offering(key, sequence - 1, "0.5").bytes, 0),
            7 => {
                assert!(insert(&mut pool, send(key, 0, 1).bytes, 0).is_err());
                continue;
            }
            _ => {
                next[who] += 1;
                insert(&mut pool, send(key, sequence, 1).bytes, 0)
            }
        };
        offered.unwrap();
    }
    (pool.carried_out() - before) as f64 / 100.0
}

#[test]
fn an_offer_costs_a_large_pool_no_more() {
    let (small, large) = (offers(100), offers(2_000));
    println!("100 {small}, 2000 {large}");
    assert!(large <= 1.2 * small, "{small} {large}");
    assert!(small >= 1.0, "each is tried once at least");
}

/// Transactions carried out for each of 300 blocks that settle the first of a row and are followed by an offer behind it.
fn offers_between_blocks(waiting: u64) -> f64 {
    let spec = ChainSpec::privatenet();
    let rich = Coins::tfuel(TFuelWei::whole(1_000_000));
    let (sender, validator) = (sender(0), key(9).address());
    let genesis = GenesisBuilder::new(&spec, 1_700_000_000)
        .validator(validator, validator, ThetaWei::whole(5_000_000))
        .account(sender.address(), rich)
        .build();
    let mut ledger = Ledger::builder(spec).open(&genesis).unwrap();
    let (mut parent, _) = extend(&mut ledger, genesis.hash(), &[]);
    ledger.reached(Finality::Settled, &parent).unwrap();
    let limits = MempoolLimits { per_sender: 1 << 16, ..MempoolLimits::default() };
    let mut pool = Mempool::new(ledger.reader(), limits).unwrap();
    for sequence in 1..=waiting {
        insert(&mut pool, send(&sender, sequence, 1).bytes, 0).unwrap();
    }
    let before = pool.carried_out();
    for number in 1..=300 {
        let (hash, block) = extend(&mut ledger, parent, &[Arc::new(send(&sender, number, 1))]);
        ledger.reached(Finality::Settled, &hash).unwrap();
        pool.settled(&[block], 0).unwrap();
        insert(&mut pool, send(&sender, waiting + number, 1).bytes, 0).unwrap();
        parent = hash;
    }
    assert_eq!(pool.len() as u64, waiting);
    (pool.carried_out() - before) as f64 / 300.0
}

#[test]
fn a_block_costs_a_long_row_no_more() {
    let (short, long) = (offers_between_blocks(50), offers_between_blocks(1_000));
    println!("50 {short}, 1000 {long}");
    assert!(long <= 1.2 * short, "{short} {long}");
    assert!((2.0..=4.5).contains(&short), "{short}: what is next, what is offered, and now and then the row");
}
