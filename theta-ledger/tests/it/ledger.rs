//! The facade: blocks built and applied, settled, reopened.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    block::{Block, Bloom},
    bls,
    context::{BlockContext, Body, Finality},
    hash::{Address, EMPTY_ROOT, Hash, U256},
    sign::SecretKey,
    spec::ChainSpec,
    store::{Batch, FjallStore, MemStore, RedbStore, Rows, Store, StoreError, Table},
};
use theta_ledger::{
    error::{BlockError, OpenError},
    genesis::{Genesis, GenesisBuilder},
    ledger::{At, Ledger, LedgerReader},
    mempool::{AdmitError, Mempool, MempoolLimits},
    tx::{RawTx, Send, SmartContract, TxError, TxInput, TxOutput, Unsigned},
    vm::VmCall,
};

use super::{bytes, fixture, json, mempool::insert};

pub fn key(index: u8) -> SecretKey {
    SecretKey::from_bytes(&[index; 32]).unwrap()
}

fn rich() -> Coins {
    Coins { theta: ThetaWei::whole(1_000_000), tfuel: TFuelWei::whole(1_000_000) }
}

pub fn genesis(spec: &ChainSpec) -> Genesis {
    GenesisBuilder::new(spec, 1_700_000_000)
        .account(key(1).address(), rich())
        .account(key(2).address(), rich())
        .validator_with_key(key(9).address(), key(9).address(), ThetaWei::whole(5_000_000), &bls_key(9))
        .build()
}

/// A validator's.
pub fn bls_key(byte: u8) -> bls::SecretKey {
    bls::SecretKey::from_bytes(&[byte; 32]).unwrap()
}

pub fn send(from: &SecretKey, sequence: u64, tfuel: u64) -> RawTx {
    let (amount, fee) = (Coins::tfuel(TFuelWei::whole(tfuel)), Coins::tfuel("0.3".parse().unwrap()));
    let body = Send {
        fee: fee.into(),
        inputs: vec![TxInput::new(from.address(), amount.checked_add(fee).unwrap(), sequence)],
        outputs: vec![TxOutput::new(Address::repeat_byte(0xaa), amount)],
    };
    Unsigned::new("privatenet", body).sign(from).unwrap()
}

/// Builds, signs and applies a block on top of `parent`.
pub fn extend(ledger: &mut Ledger, parent: Hash, candidates: &[Arc<RawTx>]) -> (Hash, Arc<Block>) {
    let reader = ledger.reader();
    let (_, mut context) = reader.next_block(At::Block(parent)).unwrap();
    context.proposer = key(9).address();
    let (body, _) = ledger.build_block(&context, candidates, &key(9)).unwrap();
    let block = sealed(&reader, &context, body.transactions, body.state_root);
    let hash = block.header.hash();
    ledger.apply_block(&context, hash, block.clone()).unwrap();
    (hash, block)
}

fn sealed(
    reader: &LedgerReader,
    context: &BlockContext,
    transactions: Vec<Vec<u8>>,
    state_root: Hash,
) -> Arc<Block> {
    let body = Body { transactions, state_root, receipts_root: EMPTY_ROOT, bloom: Bloom::ZERO };
    let mut block = context.block(reader.spec().rules(context.height()).header, body);
    block.header.sign(&key(9)).unwrap();
    Arc::new(block)
}

fn balance(reader: &LedgerReader, at: At, address: Address) -> Coins {
    reader.state(at).unwrap().account(address).unwrap().map_or(Coins::ZERO, |account| account.balance)
}

fn run_on(store: Arc<dyn Store>) {
    let spec = ChainSpec::privatenet();
    let genesis = genesis(&spec);
    let target = Address::repeat_byte(0xaa);
    let settled = {
        let mut ledger = Ledger::builder(spec.clone()).store(store.clone()).open(&genesis).unwrap();
        let reader = ledger.reader();
        let (first, _) = extend(&mut ledger, genesis.hash(), &[]);
        let candidates = [Arc::new(send(&key(1), 1, 5)), Arc::new(send(&key(1), 3, 5))];
        let (second, block) = extend(&mut ledger, first, &candidates);
        assert_eq!(block.transactions.len(), 2, "the coinbase and the one that is in sequence");
        let (other, _) = extend(&mut ledger, first, &[Arc::new(send(&key(2), 1, 7))]);
        let waiting = reader.transaction(&candidates[0].hash).unwrap().unwrap();
        assert!(!waiting.settled && waiting.place.height == 2 && waiting.raw == *candidates[0]);
        assert!(reader.transaction(&candidates[1].hash).unwrap().is_none());
        assert_eq!(balance(&reader, At::Settled, target), Coins::ZERO);
        assert_eq!(balance(&reader, At::Block(second), target), Coins::tfuel(TFuelWei::whole(5)));
        assert_eq!(balance(&reader, At::Block(other), target), Coins::tfuel(TFuelWei::whole(7)));
        let blocks = ledger.reached(Finality::Settled, &second).unwrap();
        assert_eq!(blocks.len(), 2);
        assert!(ledger.reached(Finality::Settled, &second).unwrap().is_empty(), "again changes nothing");
        assert!(reader.block(At::Block(other)).unwrap().is_none(), "the other branch is dropped");
        let found = reader.transaction(&candidates[0].hash).unwrap().unwrap();
        assert!(found.settled);
        assert_eq!((found.place.height, found.place.index), (2, 1));
        assert_eq!(reader.block(At::Height(1)).unwrap().unwrap().status, 5);
        assert_eq!(reader.block(At::Height(2)).unwrap().unwrap().status, 4);
        // One more that does not settle before the node stops.
        extend(&mut ledger, second, &[Arc::new(send(&key(1), 2, 5))]);
        second
    };
    let mut ledger = Ledger::builder(spec.clone()).store(store.clone()).open(&genesis).unwrap();
    let reader = ledger.reader();
    assert_eq!(reader.settled().hash, settled);
    assert_eq!(balance(&reader, At::Settled, target), Coins::tfuel(TFuelWei::whole(5)));
    let (third, _) = extend(&mut ledger, settled, &[Arc::new(send(&key(1), 2, 1))]);
    ledger.reached(Finality::Settled, &third).unwrap();
    assert_eq!(balance(&reader, At::Settled, target), Coins::tfuel(TFuelWei::whole(6)));
    let other = GenesisBuilder::new(&spec, 1).build();
    let refused = Ledger::builder(spec).store(store).open(&other);
    assert!(matches!(refused, Err(OpenError::OtherGenesis { .. })));
}

#[test]
fn blocks_settle_and_survive_in_memory() {
    run_on(Arc::new(MemStore::default()));
}

#[test]
fn blocks_settle_and_survive_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    run_on(Arc::new(FjallStore::open(&folder.path().join("fjall")).unwrap()));
    run_on(Arc::new(RedbStore::open(&folder.path().join("redb")).unwrap()));
}

#[test]
fn a_block_that_lies_is_refused_and_changes_nothing() {
    let spec = ChainSpec::privatenet();
    let genesis = genesis(&spec);
    let mut ledger = Ledger::builder(spec).open(&genesis).unwrap();
    let reader = ledger.reader();
    let (_, mut context) = reader.next_block(At::Settled).unwrap();
    context.proposer = key(9).address();
    let late = Arc::new(send(&key(1), 7, 5));
    let candidates = [Arc::new(send(&key(1), 1, 5)), late.clone()];
    let (body, left_out) = ledger.build_block(&context, &candidates, &key(9)).unwrap();
    assert!(matches!(left_out.as_slice(), [(hash, TxError::Sequence { .. })] if *hash == late.hash));
    let apply = |ledger: &mut Ledger, block: Arc<Block>| {
        ledger.apply_block(&context, block.header.hash(), block).expect_err("a lie")
    };
    let root = apply(&mut ledger, sealed(&reader, &context, body.transactions.clone(), Hash::repeat_byte(1)));
    assert!(matches!(root, BlockError::StateRoot { .. }) && root.condemns_block());
    let mut missing = body.transactions.clone();
    missing.pop();
    let missing = apply(&mut ledger, sealed(&reader, &context, missing, body.state_root));
    assert!(matches!(missing, BlockError::StateRoot { .. }));
    let mut twice = body.transactions.clone();
    twice.push(twice[1].clone());
    let twice = apply(&mut ledger, sealed(&reader, &context, twice, body.state_root));
    assert!(matches!(
        twice,
        BlockError::Transaction { index: 2, source: TxError::Sequence { got: 1, expected: 2 } }
    ));
    let mut other = (*sealed(&reader, &context, body.transactions.clone(), body.state_root)).clone();
    other.header.transactions_root = Hash::ZERO;
    assert!(matches!(apply(&mut ledger, Arc::new(other)), BlockError::TransactionsRoot { .. }));
    let good = sealed(&reader, &context, body.transactions, body.state_root);
    assert!(ledger.apply_block(&context, good.header.hash(), good).is_ok());
}

/// Counts blocks that are read.
#[derive(Default)]
struct Counting(MemStore, AtomicUsize);

impl Store for Counting {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.1.fetch_add(usize::from(table == Table::Blocks), Ordering::SeqCst);
        self.0.get(table, key)
    }
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, StoreError> {
        self.0.scan(table, prefix, after, limit)
    }
    fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.0.commit(batch)
    }
}

#[test]
fn results_of_a_block_are_found_without_reading_it_again() {
    let spec = ChainSpec::privatenet();
    let (genesis, store) = (genesis(&spec), Arc::new(Counting::default()));
    let mut ledger = Ledger::builder(spec).store(store.clone()).open(&genesis).unwrap();
    let reader = ledger.reader();
    let call = VmCall {
        gas_limit: 100_000,
        gas_price: U256::from(4_000_000_000_000_u64),
        data: vec![0],
        ..VmCall::default()
    };
    let contract = |sequence| {
        let from = TxInput::new(key(1).address(), Coins::ZERO, sequence);
        let body = SmartContract::new(from, &call);
        Arc::new(Unsigned::new("privatenet", body).sign(&key(1)).unwrap())
    };
    let candidates: Vec<_> = (1..=5).map(contract).collect();
    // No contracts in the first block.
    let (first, _) = extend(&mut ledger, genesis.hash(), &[]);
    let (hash, block) = extend(&mut ledger, first, &candidates);
    assert_eq!(block.transactions.len(), 6);
    let found = |raw: &Hash| reader.result(raw).unwrap().is_some();
    assert!(candidates.iter().all(|raw| found(&raw.hash)), "in a block that is not settled");
    ledger.reached(Finality::Settled, &hash).unwrap();
    let before = store.1.load(Ordering::SeqCst);
    assert!(candidates.iter().all(|raw| found(&raw.hash)), "in a settled block");
    assert_eq!(store.1.load(Ordering::SeqCst), before);
    assert!(reader.block(At::Block(hash)).unwrap().is_some());
    assert_eq!(store.1.load(Ordering::SeqCst), before + 1, "blocks are counted");
}

/// Real transactions of theta-js on the main network's genesis state: the senders are not in it, so it is told so, and a
/// sender that is there by our hand gets its sequence, balance and fee checked as on the network.
#[test]
fn theta_js_transactions_on_the_main_network() {
    let mut genesis = Genesis::read(&fixture("mainnet.genesis"), None).unwrap();
    let cases = json("theta-js-tx.json");
    let sends: Vec<_> = cases
        .as_array()
        .unwrap()
        .iter()
        .filter(|case| case["type"] == "SendTx" && case["chainId"] == "mainnet")
        .map(|case| RawTx::decode(bytes(&case["rawTx"])).unwrap())
        .collect();
    assert!(!sends.is_empty());
    let unknown = Ledger::builder(ChainSpec::mainnet()).open(&genesis).unwrap();
    let mut pool = Mempool::new(unknown.reader(), MempoolLimits::default()).unwrap();
    let refused = insert(&mut pool, sends[0].bytes.clone(), 0).expect_err("no such account");
    assert!(matches!(refused, AdmitError::Invalid(TxError::NoAccount(_))), "{refused}");
    for raw in &sends {
        let (sender, sequence) = raw.transaction.sender();
        let account = theta_ledger::state::Account {
            sequence: sequence - 1,
            balance: rich(),
            ..theta_ledger::state::Account::new(sender, 0)
        };
        let record = theta_core::codec::rlp::Encode::to_rlp(&account);
        genesis.entries.insert(theta_ledger::state::keys::account(sender), record);
    }
    let mut trie = theta_core::trie::Trie::empty(Arc::new(theta_core::trie::NoNodes));
    for (key, value) in &genesis.entries {
        trie.set(key, value.clone()).unwrap();
    }
    genesis.header.state_root = trie.root();
    let folder = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn Store>; 3] = [
        Arc::new(MemStore::default()),
        Arc::new(FjallStore::open(&folder.path().join("fjall")).unwrap()),
        Arc::new(RedbStore::open(&folder.path().join("redb")).unwrap()),
    ];
    let mut roots = Vec::new();
    for store in stores {
        let mut ledger = Ledger::builder(ChainSpec::mainnet()).store(store).open(&genesis).unwrap();
        let reader = ledger.reader();
        let mut pool = Mempool::new(reader.clone(), MempoolLimits::default()).unwrap();
        for raw in &sends {
            insert(&mut pool, raw.bytes.clone(), 0).unwrap();
        }
        let (mut view, mut context) = reader.next_block(At::Settled).unwrap();
        context.proposer = context.validators.as_slice()[0].address;
        let candidates = pool.candidates(&mut view, 100, usize::MAX).unwrap();
        assert_eq!(candidates.len(), sends.len());
        let signer = Imposter(context.proposer);
        // The validators' keys are not ours, so the block is applied without a coinbase, which the ledger allows.
        assert!(ledger.build_block(&context, &candidates, &signer).is_err());
        let transactions: Vec<_> = candidates.iter().map(|raw| raw.bytes.clone()).collect();
        let mut block = sealed(&reader, &context, transactions.clone(), Hash::ZERO).as_ref().clone();
        let BlockError::StateRoot { computed, .. } = ledger
            .apply_block(&context, block.header.hash(), Arc::new(block.clone()))
            .expect_err("the root is not known yet")
        else {
            panic!("only the root is wrong")
        };
        block.header.state_root = computed;
        let hash = block.header.hash();
        ledger.apply_block(&context, hash, Arc::new(block)).unwrap();
        ledger.reached(Finality::Settled, &hash).unwrap();
        for raw in &sends {
            assert!(reader.transaction(&raw.hash).unwrap().unwrap().settled);
        }
        roots.push(computed);
    }
    assert!(roots.iter().all(|root| *root == roots[0]), "memory and disks agree");
}

/// Claims an address it has no key of.
struct Imposter(Address);

impl theta_core::sign::Signer for Imposter {
    fn address(&self) -> Address {
        self.0
    }
    fn sign(&self, digest: &Hash) -> Result<theta_core::sign::Signature, theta_core::sign::SignError> {
        Ok(key(1).sign_digest(digest))
    }
}
