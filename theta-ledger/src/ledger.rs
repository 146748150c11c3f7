//! The ledger: one writer, many readers.
//!
//! [`Ledger::apply_block`] carries a block out and keeps what it changed in memory; [`Ledger::reached`] writes the newly
//! settled blocks with state, receipts and indexes in one durable batch, so the store always stands at a settled block.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use theta_core::{
    block::{Block, Header, transactions_root},
    context::{BlockContext, Body, Finality, PostState},
    hash::Hash,
    sign::Signer,
    spec::ChainSpec,
    store::{Batch, MemStore, Store},
    trie::{NodeSource, TrieError},
    workers::{Inline, Workers},
};

use crate::{
    block::{self, Executed},
    chain::{self, ContractResult, Place, Status, StoredBlock},
    error::{BlockError, OpenError},
    genesis::Genesis,
    logs::{self, Bloom, FoundLog, LogFilter},
    staking,
    state::{
        Keep, StateError, StateView,
        nodes::{NewNodes, Nodes},
        prune::{self, Pruning},
    },
    tx::{RawTx, Scope, Signatures, SmartContract, TxError, ethereum},
    vm::{ContractVm, NoContracts, VmCall, VmEnv, VmOutcome},
};

/// A block that is executed and not settled.
struct Layer {
    block: Arc<Block>,
    post: PostState,
    results: Vec<ContractResult>,
    index: BTreeMap<Hash, u64>,
    new_nodes: NewNodes,
}

/// The newest settled block.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its hash.
    pub hash: Hash,
    /// Its header.
    pub header: Arc<Header>,
}

struct Moving {
    layers: BTreeMap<Hash, Layer>,
    settled: Head,
    /// Height of the oldest kept state.
    oldest: u64,
}

/// What writer and readers share.
struct Shared {
    spec: ChainSpec,
    genesis: Head,
    store: Arc<dyn Store>,
    nodes: Arc<Nodes>,
    vm: Arc<dyn ContractVm>,
    workers: Arc<dyn Workers>,
    signatures: Signatures,
    keep: Keep,
    moving: RwLock<Moving>,
}

/// Settings of a ledger. Without a store it lives in memory, without a machine it runs no contracts, without workers it
/// uses the caller's thread alone.
pub struct LedgerBuilder {
    spec: ChainSpec,
    store: Arc<dyn Store>,
    vm: Arc<dyn ContractVm>,
    workers: Arc<dyn Workers>,
    keep: Keep,
}

impl std::fmt::Debug for LedgerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerBuilder").field("chain", &self.spec.chain).finish_non_exhaustive()
    }
}

impl LedgerBuilder {
    /// Where blocks and states are kept.
    pub fn store(self, store: Arc<dyn Store>) -> Self {
        Self { store, ..self }
    }

    /// Who runs contracts.
    pub fn contracts(self, vm: Arc<dyn ContractVm>) -> Self {
        Self { vm, ..self }
    }

    /// Who checks signatures and hashes states. What comes out is the same with any number of threads.
    pub fn workers(self, workers: Arc<dyn Workers>) -> Self {
        Self { workers, ..self }
    }

    /// Which states are kept: all of them unless told otherwise. A store that kept all is counted through when it is first
    /// opened to keep fewer, and states that are gone do not come back.
    pub fn keep(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// Opens the store, or begins it with this genesis.
    pub fn open(self, genesis: &Genesis) -> Result<Ledger, OpenError> {
        let expected = genesis.hash();
        let settled = match chain::heads(self.store.as_ref())? {
            Some((found, settled)) if found == expected => settled,
            Some((found, _)) => return Err(OpenError::OtherGenesis { found, expected }),
            None => {
                begin(self.store.as_ref(), genesis)?;
                expected
            }
        };
        self.open_at(expected, settled)
    }

    /// Opens a store that holds a chain already, whichever genesis it has.
    pub fn reopen(self) -> Result<Ledger, OpenError> {
        let (genesis, settled) = chain::heads(self.store.as_ref())?.ok_or(OpenError::Empty)?;
        self.open_at(genesis, settled)
    }

    fn open_at(self, genesis: Hash, settled: Hash) -> Result<Ledger, OpenError> {
        let head = |hash| -> Result<Head, OpenError> {
            let stored = chain::block(self.store.as_ref(), &hash)?
                .ok_or(OpenError::Damaged("the block of a head mark is missing"))?;
            Ok(Head { hash, header: Arc::new(stored.block.header) })
        };
        let (genesis, settled) = (head(genesis)?, head(settled)?);
        let nodes = Arc::new(Nodes::new(self.store.clone()));
        if let Keep::Blocks(blocks @ ..Keep::LEAST) = self.keep {
            return Err(OpenError::KeepsTooFew(blocks));
        }
        // A state that cannot be opened is better found now than at the first block.
        let (height, root) = (settled.header.height, settled.header.state_root);
        StateView::open(root, height, nodes.clone())?;
        let store = self.store.as_ref();
        let oldest = match self.keep {
            Keep::All => {
                prune::end(store)?;
                prune::oldest(store)?
            }
            Keep::Blocks(blocks) => {
                let source: Arc<dyn NodeSource> = nodes.clone();
                prune::begin(store, &source, (height, root), blocks)?
            }
        };
        Ok(Ledger {
            built: None,
            shared: Arc::new(Shared {
                spec: self.spec,
                genesis,
                store: self.store,
                nodes,
                vm: self.vm,
                workers: self.workers,
                signatures: Signatures::default(),
                keep: self.keep,
                moving: RwLock::new(Moving { layers: BTreeMap::new(), settled, oldest }),
            }),
        })
    }
}

/// Whether the first block of a path is certified by the second, and the second by what is above it or because it is
/// the last: then it would have been settled by itself, had it not been settled with the others.
fn settled_by_child(moving: &Moving, path: &[Hash]) -> bool {
    let certified = |hash: &Hash| moving.layers[hash].block.header.certificate.block;
    match path {
        [block, child, above @ ..] => {
            certified(child) == *block && above.first().is_none_or(|above| certified(above) == *child)
        }
        _ => false,
    }
}

fn begin(store: &dyn Store, genesis: &Genesis) -> Result<(), OpenError> {
    let hash = genesis.hash();
    let mut batch = genesis_rows(genesis);
    chain::put_genesis(&mut batch, &hash);
    chain::put_settled(&mut batch, &hash);
    store.commit(batch)?;
    Ok(())
}

/// The rows of a genesis, without the marks that make a store one of its chain.
pub(crate) fn genesis_rows(genesis: &Genesis) -> Batch {
    let hash = genesis.hash();
    let mut new = NewNodes::default();
    new.collect(&mut genesis.trie());
    let mut batch = Batch::default();
    for node in &new.new {
        batch.put(theta_core::store::Table::Nodes, node.hash.as_slice(), node.node.encoding());
    }
    let stored = StoredBlock {
        block: Block { header: genesis.header.clone(), transactions: Vec::new() },
        status: Status::TRUSTED.0,
        changes_validators: genesis.changes_validators(),
    };
    chain::put_block(&mut batch, &hash, &stored, &[], &BTreeMap::new());
    batch
}

/// The one writer.
pub struct Ledger {
    shared: Arc<Shared>,
    /// What was built last, so that applying one's own block costs nothing.
    built: Option<(Hash, Vec<Vec<u8>>, Executed)>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("chain", &self.shared.spec.chain).finish_non_exhaustive()
    }
}

impl Ledger {
    /// A ledger of this chain, in memory and without contracts unless told otherwise.
    pub fn builder(spec: ChainSpec) -> LedgerBuilder {
        LedgerBuilder {
            spec,
            store: Arc::new(MemStore::default()),
            vm: Arc::new(NoContracts),
            workers: Arc::new(Inline),
            keep: Keep::default(),
        }
    }

    /// A reader; any number of them may read while blocks are applied.
    pub fn reader(&self) -> LedgerReader {
        LedgerReader { shared: self.shared.clone() }
    }

    /// Builds a block on its parent from candidates in the order given. What is not valid there is left out, and given back
    /// with its reason.
    pub fn build_block(
        &mut self,
        context: &BlockContext,
        candidates: &[Arc<RawTx>],
        coinbase: &dyn Signer,
    ) -> Result<(Body, Vec<(Hash, TxError)>), BlockError> {
        let view = self.parent_view(context)?;
        let workers = self.shared.workers.as_ref();
        let (body, executed, left_out) =
            self.shared.scoped(context, |scope| block::build(scope, view, candidates, coinbase, workers))?;
        self.built = Some((context.parent_hash, body.transactions.clone(), executed));
        Ok((body, left_out))
    }

    /// Carries a block out on its parent's state and keeps the result until it settles or another block does.
    pub fn apply_block(
        &mut self,
        context: &BlockContext,
        hash: Hash,
        block: Arc<Block>,
    ) -> Result<PostState, BlockError> {
        if let Some(layer) = self.shared.moving.read().layers.get(&hash) {
            return Ok(layer.post.clone());
        }
        let header = &block.header;
        let computed = transactions_root(&block.transactions);
        if computed != header.transactions_root {
            return Err(BlockError::TransactionsRoot { header: header.transactions_root, computed });
        }
        let executed = match self.built.take() {
            Some((parent, transactions, executed))
                if parent == context.parent_hash && transactions == block.transactions =>
            {
                executed
            }
            _ => {
                let view = self.parent_view(context)?;
                let workers = self.shared.workers.as_ref();
                self.shared
                    .scoped(context, |scope| block::execute(scope, view, &block.transactions, workers))?
            }
        };
        if executed.root != header.state_root {
            return Err(BlockError::StateRoot { header: header.state_root, computed: executed.root });
        }
        if let Some((computed, bloom)) = executed.receipts
            && (computed, bloom) != (header.receipts_root, header.bloom)
        {
            return Err(BlockError::Receipts { header: header.receipts_root, computed });
        }
        let post = PostState {
            root: executed.root,
            validators: executed.validators,
            changes_validators: executed.changes_validators,
            pools: executed.pools,
        };
        self.shared.nodes.add(&executed.new_nodes);
        let layer = Layer {
            block,
            post: post.clone(),
            results: executed.results,
            index: executed.index,
            new_nodes: executed.new_nodes,
        };
        self.shared.moving.write().layers.insert(hash, layer);
        Ok(post)
    }

    /// Makes a block and all below it settled: one durable batch. Gives the newly settled blocks, oldest first. Blocks
    /// that can no longer settle are dropped. A block that is settled already changes nothing.
    pub fn reached(&mut self, finality: Finality, block: &Hash) -> Result<Vec<Arc<Block>>, StateError> {
        if finality == Finality::Final {
            return Ok(Vec::new());
        }
        let shared = &self.shared;
        let path = {
            let moving = shared.moving.read();
            let mut path = Vec::new();
            let mut at = *block;
            while let Some(layer) = moving.layers.get(&at) {
                path.push(at);
                at = layer.block.header.parent;
            }
            if path.is_empty() {
                return match chain::block(shared.store.as_ref(), block)? {
                    Some(_) => Ok(Vec::new()),
                    None => Err(StateError::UnknownBlock(block.to_string())),
                };
            }
            if at != moving.settled.hash {
                return Err(StateError::UnknownBlock(at.to_string()));
            }
            path.reverse();
            path
        };
        let mut batch = Batch::default();
        let mut blocks: Vec<Arc<Block>> = Vec::new();
        let mut pruning = match shared.keep {
            Keep::All => None,
            Keep::Blocks(keep) => Some((Pruning::new(shared.store.as_ref(), shared.nodes.clone()), keep)),
        };
        let mut oldest;
        {
            let moving = shared.moving.read();
            let mut below = moving.settled.header.state_root;
            oldest = moving.oldest;
            for (place, hash) in path.iter().enumerate() {
                let layer = &moving.layers[hash];
                let direct = hash == block || settled_by_child(&moving, &path[place..]);
                let stored = StoredBlock {
                    block: (*layer.block).clone(),
                    status: if direct { Status::DIRECT.0 } else { Status::INDIRECT.0 },
                    changes_validators: layer.post.changes_validators,
                };
                chain::put_block(&mut batch, hash, &stored, &layer.results, &layer.index);
                let header = &layer.block.header;
                if let Some((pruning, _)) = &mut pruning {
                    pruning.settle(header.height, below, header.state_root)?;
                }
                below = header.state_root;
                shared.nodes.store(&layer.new_nodes, &mut batch);
                blocks.push(layer.block.clone());
            }
        }
        let newest = &blocks.last().expect("the path is not empty").header;
        let mut dead = Vec::new();
        if let Some((pruning, keep)) = pruning {
            let keep_from = newest.height.saturating_sub(keep).max(oldest);
            dead = pruning.finish(&mut batch, oldest, keep_from)?;
            oldest = keep_from;
        }
        chain::put_settled(&mut batch, block);
        shared.store.commit(batch)?;
        shared.nodes.forget(&dead);
        let mut moving = shared.moving.write();
        moving.settled = Head { hash: *block, header: Arc::new(newest.clone()) };
        moving.oldest = oldest;
        self.drop_dead(&mut moving);
        Ok(blocks)
    }

    /// Keeps only layers that descend from the settled block.
    fn drop_dead(&self, moving: &mut Moving) {
        let mut order: Vec<(u64, Hash, Hash)> = moving
            .layers
            .iter()
            .map(|(hash, layer)| (layer.block.header.height, *hash, layer.block.header.parent))
            .collect();
        order.sort_unstable();
        let mut alive = std::collections::BTreeSet::from([moving.settled.hash]);
        for (height, hash, parent) in order {
            if height > moving.settled.header.height && alive.contains(&parent) {
                alive.insert(hash);
            } else if let Some(layer) = moving.layers.remove(&hash) {
                self.shared.nodes.remove(&layer.new_nodes);
            }
        }
    }

    fn parent_view(&self, context: &BlockContext) -> Result<StateView, BlockError> {
        let parent = &context.parent;
        Ok(StateView::open(parent.state_root, parent.height, self.shared.nodes.clone())?)
    }
}

impl Shared {
    fn scoped<T>(&self, context: &BlockContext, act: impl FnOnce(&Scope<'_>) -> T) -> T {
        act(&Scope {
            spec: &self.spec,
            rules: self.spec.rules(context.height()),
            block: context,
            vm: self.vm.as_ref(),
            signatures: &self.signatures,
        })
    }
}

/// Which block's state or which block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest settled block.
    Settled,
    /// The highest executed block.
    Tip,
    /// The settled block of a height.
    Height(u64),
    /// A block by hash, settled or not.
    Block(Hash),
}

fn transaction_at(block: &Block, index: u64) -> Option<RawTx> {
    let bytes = block.transactions.get(usize::try_from(index).ok()?)?;
    RawTx::decode(bytes.clone()).ok()
}

/// Reads blocks, states and receipts at any kept block.
#[derive(Clone)]
pub struct LedgerReader {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for LedgerReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LedgerReader").field("chain", &self.shared.spec.chain).finish_non_exhaustive()
    }
}

/// A block as readers get it.
#[derive(Clone, Debug)]
pub struct BlockInfo {
    /// Its hash.
    pub hash: Hash,
    /// The block.
    pub block: Arc<Block>,
    /// The reference's status number.
    pub status: u8,
    /// Whether the set-change rule counts it.
    pub changes_validators: bool,
}

/// A transaction as readers get it.
#[derive(Clone, Debug)]
pub struct TransactionInfo {
    /// The transaction.
    pub raw: RawTx,
    /// Where it stands.
    pub place: Place,
    /// Whether its block is settled.
    pub settled: bool,
    /// What it did, for contract transactions.
    pub result: Option<ContractResult>,
}

impl LedgerReader {
    /// The chain.
    pub fn spec(&self) -> &ChainSpec {
        &self.shared.spec
    }

    /// The genesis block.
    pub fn genesis(&self) -> &Head {
        &self.shared.genesis
    }

    /// The newest settled block.
    pub fn settled(&self) -> Head {
        self.shared.moving.read().settled.clone()
    }

    fn resolve(&self, at: At) -> Result<Option<Hash>, StateError> {
        let moving = self.shared.moving.read();
        Ok(match at {
            At::Block(hash) => Some(hash),
            At::Settled => Some(moving.settled.hash),
            At::Tip => moving
                .layers
                .iter()
                .max_by_key(|(_, layer)| layer.block.header.height)
                .map(|(hash, _)| *hash)
                .or(Some(moving.settled.hash)),
            At::Height(height) => {
                drop(moving);
                chain::hash_of_height(self.shared.store.as_ref(), height)?
            }
        })
    }

    /// A block, or `None` where there is none.
    pub fn block(&self, at: At) -> Result<Option<BlockInfo>, StateError> {
        let Some(hash) = self.resolve(at)? else { return Ok(None) };
        if let Some(layer) = self.shared.moving.read().layers.get(&hash) {
            return Ok(Some(BlockInfo {
                hash,
                block: layer.block.clone(),
                status: Status::VALID.0,
                changes_validators: layer.post.changes_validators,
            }));
        }
        Ok(chain::block(self.shared.store.as_ref(), &hash)?.map(|stored| BlockInfo {
            hash,
            block: Arc::new(stored.block),
            status: stored.status,
            changes_validators: stored.changes_validators,
        }))
    }

    fn existing(&self, at: At) -> Result<BlockInfo, StateError> {
        self.block(at)?.ok_or_else(|| match at {
            At::Height(height) => StateError::Absent { height, oldest: self.oldest_state() },
            other => StateError::UnknownBlock(format!("{other:?}")),
        })
    }

    /// The state after a block.
    pub fn state(&self, at: At) -> Result<StateView, StateError> {
        self.open_state(&self.existing(at)?.block.header)
    }

    fn open_state(&self, header: &Header) -> Result<StateView, StateError> {
        let (root, height) = (header.state_root, header.height);
        StateView::open(root, height, self.shared.nodes.clone()).map_err(|error| match error {
            StateError::Trie(TrieError::Missing(missing)) if missing == root => {
                StateError::Absent { height, oldest: self.oldest_state() }
            }
            other => other,
        })
    }

    /// Height of the oldest kept state. Below it there is none, but for the genesis's where a snapshot brought it.
    pub fn oldest_state(&self) -> u64 {
        self.shared.moving.read().oldest
    }

    /// The state after a block and the context of the block that would come on top of it now.
    pub fn next_block(&self, at: At) -> Result<(StateView, BlockContext), StateError> {
        let info = self.existing(at)?;
        let parent = Arc::new(info.block.header.clone());
        let view = self.state(At::Block(info.hash))?;
        let validators = self.post_state(At::Block(info.hash))?.validators;
        let context = BlockContext::on(info.hash, parent, validators);
        Ok((view, context))
    }

    /// What consensus was told after a block was executed.
    pub fn post_state(&self, at: At) -> Result<PostState, StateError> {
        let info = self.existing(at)?;
        if let Some(layer) = self.shared.moving.read().layers.get(&info.hash) {
            return Ok(layer.post.clone());
        }
        let header = &info.block.header;
        let mut view = self.open_state(header)?;
        let rules = self.shared.spec.rules(header.height);
        Ok(PostState {
            root: header.state_root,
            validators: staking::validators(&mut view, rules)?,
            changes_validators: info.changes_validators,
            pools: staking::pools(&mut view, rules, header.height)?,
        })
    }

    /// A transaction by its native or its Ethereum hash, settled or in a block that is not.
    pub fn transaction(&self, hash: &Hash) -> Result<Option<TransactionInfo>, StateError> {
        // Layers first: one that settles meanwhile is in the store before it leaves them.
        if let Some(found) = self.unsettled(hash) {
            return Ok(Some(found));
        }
        let store = self.shared.store.as_ref();
        let Some(place) = chain::place(store, hash)? else { return Ok(None) };
        let stored = chain::block(store, &place.block)?
            .ok_or_else(|| StateError::UnknownBlock(place.block.to_string()))?;
        let Some(raw) = transaction_at(&stored.block, place.index) else { return Ok(None) };
        let result = chain::result(store, &raw.hash)?;
        Ok(Some(TransactionInfo { raw, place, settled: true, result }))
    }

    fn unsettled(&self, hash: &Hash) -> Option<TransactionInfo> {
        let moving = self.shared.moving.read();
        moving.layers.iter().find_map(|(block, layer)| {
            let index = *layer.index.get(hash)?;
            let raw = transaction_at(&layer.block, index)?;
            let result = layer.results.iter().find(|result| result.receipt.hash == raw.hash).cloned();
            let place = Place { block: *block, height: layer.block.header.height, index };
            Some(TransactionInfo { raw, place, settled: false, result })
        })
    }

    /// The hash by which an Ethereum wallet knows a contract transaction of a block of this height.
    pub fn ethereum_hash(&self, transaction: &SmartContract, height: u64) -> Option<Hash> {
        let chain_id = self.shared.spec.ethereum_chain_id(height);
        ethereum::ethereum_hash(transaction, chain_id, &self.shared.signatures)
    }

    /// What a contract transaction did, by its native hash.
    pub fn result(&self, hash: &Hash) -> Result<Option<ContractResult>, StateError> {
        if let Some(found) = self.unsettled(hash) {
            return Ok(found.result);
        }
        chain::result(self.shared.store.as_ref(), hash)
    }

    /// Logs of settled blocks in the chain's order, `limit` at most: where that many are given there may be more.
    pub fn logs(&self, filter: &LogFilter, limit: usize) -> Result<Vec<FoundLog>, StateError> {
        logs::search(self.shared.store.as_ref(), self.settled().header.height, filter, limit)
    }

    /// The bloom of a settled block's logs; an empty one where there is no block.
    pub fn bloom(&self, height: u64) -> Result<Bloom, StateError> {
        logs::bloom_at(self.shared.store.as_ref(), height)
    }

    /// Runs a call as the first of the block on top of `at`, on a view that is then dropped.
    pub fn call(&self, at: At, call: &VmCall) -> Result<VmOutcome, StateError> {
        let (mut view, context) = self.next_block(at)?;
        self.call_on(&mut view, &context, call)
    }

    /// Runs a call on a view that the caller has prepared.
    pub fn call_on(
        &self,
        view: &mut StateView,
        context: &BlockContext,
        call: &VmCall,
    ) -> Result<VmOutcome, StateError> {
        let env = VmEnv::new(&self.shared.spec, context);
        self.shared.vm.execute(&env, call, view)
    }

    /// Checks transactions against a view, with this ledger's chain and its cache of recovered signers.
    pub fn with_scope<T>(
        &self,
        context: &BlockContext,
        vm: &dyn ContractVm,
        act: impl FnOnce(&Scope<'_>) -> T,
    ) -> T {
        self.shared.scoped(context, |scope| act(&Scope { vm, ..*scope }))
    }

    /// Nodes that prove records of a state under its root, one list for each key.
    pub fn prove(&self, at: At, keys: &[Vec<u8>]) -> Result<Vec<Vec<Vec<u8>>>, StateError> {
        let view = self.state(at)?;
        keys.iter().map(|key| view.prove(key)).collect()
    }
}
