//! One block: built from candidates, or carried out as it came.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use theta_core::{
    block::Bloom,
    codec::rlp::{DecodeError, Encode},
    context::{BlockContext, Body},
    hash::{EMPTY_ROOT, Hash},
    sign::Signer,
    stake::{Pools, ValidatorSet},
    trie::list_root,
    workers::{Workers, each_mut},
};

use crate::{
    chain::ContractResult,
    error::BlockError,
    history,
    logs::bloom,
    staking,
    state::{StateView, nodes::NewNodes},
    tx::{Coinbase, RawTx, Scope, Transaction, TxError, TxInput, TxOutput, Unsigned, expected_rewards},
    vm::VmOutcome,
};
use theta_core::amount::Coins;

/// Transactions that a proposer puts into a block besides the coinbase.
pub const MAX_BLOCK_TXS: usize = 512;

/// What carrying out a block gave.
#[derive(Clone)]
pub(crate) struct Executed {
    pub(crate) root: Hash,
    /// Receipts root and bloom, where headers commit to them.
    pub(crate) receipts: Option<(Hash, Bloom)>,
    pub(crate) results: Vec<ContractResult>,
    /// The hashes under which the transactions are found, native and Ethereum's, with their places in the block.
    pub(crate) index: BTreeMap<Hash, u64>,
    pub(crate) new_nodes: NewNodes,
    pub(crate) validators: Arc<ValidatorSet>,
    pub(crate) changes_validators: bool,
    pub(crate) pools: Option<Arc<Pools>>,
}

/// Checks a transaction and carries it out, or leaves the view as it was.
pub(crate) fn run(
    scope: &Scope<'_>,
    view: &mut StateView,
    raw: &RawTx,
) -> Result<Option<VmOutcome>, TxError> {
    if scope.rules.tx.no_trailing_bytes && raw.trailing > 0 {
        return Err(TxError::Trailing(raw.trailing));
    }
    let before = view.checkpoint();
    let outcome = raw.transaction.check(scope, view).and_then(|()| raw.transaction.apply(scope, view));
    if outcome.is_err() {
        view.revert(before);
    }
    outcome
}

struct Execution {
    results: Vec<ContractResult>,
    index: BTreeMap<Hash, u64>,
    count: u64,
    changes_validators: bool,
}

impl Execution {
    const fn new() -> Self {
        Self { results: Vec::new(), index: BTreeMap::new(), count: 0, changes_validators: false }
    }

    fn done(&mut self, scope: &Scope<'_>, raw: &RawTx, outcome: Option<VmOutcome>) {
        if let Transaction::SmartContract(transaction) = &raw.transaction {
            self.index.extend(transaction.ethereum_hash(scope).map(|other| (other, self.count)));
        }
        self.index.insert(raw.hash, self.count);
        self.count += 1;
        self.changes_validators |= raw.transaction.changes_validators();
        self.results.extend(outcome.map(|outcome| ContractResult::new(raw.hash, outcome)));
    }

    fn finish(
        self,
        scope: &Scope<'_>,
        mut view: StateView,
        workers: &dyn Workers,
    ) -> Result<Executed, BlockError> {
        staking::end_of_block(&mut view, scope.rules).map_err(BlockError::End)?;
        let validators = staking::validators(&mut view, scope.rules)?;
        let pools = staking::pools(&mut view, scope.rules, scope.height())?;
        let root = view.root_by(workers)?;
        let receipts = scope.rules.commits_receipts.then(|| {
            let rows: Vec<_> = self.results.iter().map(|result| result.receipt.to_rlp()).collect();
            let logs = self.results.iter().flat_map(|result| &result.receipt.logs);
            (list_root(&rows), Bloom::new(bloom(logs)))
        });
        Ok(Executed {
            root,
            receipts,
            results: self.results,
            index: self.index,
            new_nodes: view.into_new_nodes(),
            validators,
            changes_validators: self.changes_validators,
            pools,
        })
    }
}

/// Transactions that are read in one go.
const PART_SIZE: usize = 8;

type Part = Vec<Result<RawTx, DecodeError>>;

/// Transactions of a block while they are decoded and their signers recovered, which takes no state.
struct Reading<'a> {
    scope: &'a Scope<'a>,
    parts: Vec<(&'a [Vec<u8>], OnceLock<Part>)>,
    next: AtomicUsize,
}

impl<'a> Reading<'a> {
    fn new(scope: &'a Scope<'a>, transactions: &'a [Vec<u8>]) -> Self {
        let parts = transactions.chunks(PART_SIZE).map(|part| (part, OnceLock::new())).collect();
        Self { scope, parts, next: AtomicUsize::new(0) }
    }

    fn part(&self, number: usize) -> &Part {
        let (bytes, read) = &self.parts[number];
        read.get_or_init(|| {
            let read = |bytes: &Vec<u8>| {
                let raw = RawTx::decode(bytes.clone())?;
                raw.transaction.recover(self.scope);
                Ok(raw)
            };
            bytes.iter().map(read).collect()
        })
    }

    /// Reads the next part that nobody has begun, if there is one.
    fn help(&self) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let begun = number < self.parts.len();
        if begun {
            self.part(number);
        }
        begun
    }

    /// All transactions, in order; whoever takes them reads others while the next one is not ready.
    fn all(&self) -> impl Iterator<Item = &Result<RawTx, DecodeError>> {
        (0..self.parts.len()).flat_map(|number| {
            while self.parts[number].1.get().is_none() && self.help() {}
            self.part(number)
        })
    }
}

enum Job<'a> {
    CarryOut(&'a mut StateView, &'a mut Result<Execution, BlockError>),
    Read,
}

fn carry_out(
    scope: &Scope<'_>,
    view: &mut StateView,
    reading: &Reading<'_>,
) -> Result<Execution, BlockError> {
    let mut execution = Execution::new();
    for (index, raw) in reading.all().enumerate() {
        let failed = |source| BlockError::Transaction { index, source };
        let raw = raw.as_ref().map_err(|error| failed((*error).into()))?;
        let outcome = run(scope, view, raw).map_err(failed)?;
        execution.done(scope, raw, outcome);
    }
    Ok(execution)
}

/// Carries out all transactions of a block on its parent's state, one after the other, while other cores read those behind.
pub(crate) fn execute(
    scope: &Scope<'_>,
    mut view: StateView,
    transactions: &[Vec<u8>],
    workers: &dyn Workers,
) -> Result<Executed, BlockError> {
    history::note(scope, &mut view)?;
    let reading = Reading::new(scope, transactions);
    let mut execution = Ok(Execution::new());
    let mut jobs = vec![Job::CarryOut(&mut view, &mut execution)];
    jobs.extend(reading.parts.iter().map(|_| Job::Read));
    each_mut(workers, &mut jobs, |job| match job {
        Job::CarryOut(view, execution) => **execution = carry_out(scope, view, &reading),
        Job::Read => _ = reading.help(),
    });
    execution?.finish(scope, view, workers)
}

/// A built block and the candidates that were left out because they are not valid on it.
pub(crate) type Built = (Body, Executed, Vec<(Hash, TxError)>);

/// Builds a block: the coinbase, then the candidates that are valid, in their order.
pub(crate) fn build(
    scope: &Scope<'_>,
    mut view: StateView,
    candidates: &[Arc<RawTx>],
    signer: &dyn Signer,
    workers: &dyn Workers,
) -> Result<Built, BlockError> {
    let mut execution = Execution::new();
    let mut transactions = Vec::with_capacity(candidates.len() + 1);
    history::note(scope, &mut view)?;
    let coinbase = coinbase(scope, &mut view, signer)?;
    let failed = |source| BlockError::Transaction { index: 0, source };
    execution.done(scope, &coinbase, run(scope, &mut view, &coinbase).map_err(failed)?);
    transactions.push(coinbase.bytes);
    let mut left_out = Vec::new();
    for raw in candidates {
        if transactions.len() > MAX_BLOCK_TXS {
            break;
        }
        if scope.block.freeze_stakes && raw.transaction.is_freezable() {
            continue;
        }
        match run(scope, &mut view, raw) {
            Ok(outcome) => {
                execution.done(scope, raw, outcome);
                transactions.push(raw.bytes.clone());
            }
            Err(error) if error.state_error().is_some() => {
                return Err(BlockError::Transaction { index: transactions.len(), source: error });
            }
            Err(error) => left_out.push((raw.hash, error)),
        }
    }
    let executed = execution.finish(scope, view, workers)?;
    let (receipts_root, bloom) = executed.receipts.unwrap_or((EMPTY_ROOT, Bloom::ZERO));
    Ok((Body { transactions, state_root: executed.root, receipts_root, bloom }, executed, left_out))
}

fn coinbase(scope: &Scope<'_>, view: &mut StateView, signer: &dyn Signer) -> Result<RawTx, BlockError> {
    let failed = |source| BlockError::Transaction { index: 0, source };
    let outputs = expected_rewards(scope, view)
        .map_err(failed)?
        .into_iter()
        .map(|(address, tfuel)| TxOutput::new(address, Coins::tfuel(tfuel)))
        .collect();
    let body = Coinbase {
        proposer: TxInput::new(scope.block.proposer, Coins::ZERO, 0),
        outputs,
        block_height: scope.parent_height(),
    };
    let context: &BlockContext = scope.block;
    debug_assert_eq!(context.proposer, signer.address());
    Ok(Unsigned::new(scope.spec.chain.clone(), body).sign(signer)?)
}
