//! `diff_ledger*.jsonl`: candidates one by one, then the block made of them.

use std::{collections::BTreeMap, io::BufRead, sync::Arc};

use serde::Deserialize;
use theta_core::{
    block::{Header, transactions_root},
    context::BlockContext,
    hash::{Address, Bytes, Hash, keccak},
    spec::{ChainSpec, Fork},
    stake::ValidatorSet,
    workers::Inline,
};

use super::{
    Changes, Difference, Outcome, Output, ReplayError, Replayed, Report, Stop, add_trie, header, lines,
    new_nodes, next_set, parse, refused, same, same_receipt, shown, validators_text,
};
use crate::{
    block,
    staking::end_of_block,
    state::{StateView, nodes::Nodes},
    tx::{
        Body, RawTx, Scope, Signatures, SmartContract, Transaction, TxError, ethereum, expected_rewards,
        sign_bytes,
    },
    vm::ContractVm,
};

#[derive(Deserialize)]
struct Kind<'a> {
    t: &'a str,
}

#[derive(Deserialize)]
struct SequenceLine {
    seq: u64,
    name: String,
    chain_id: String,
    root_header: Bytes,
    root_hash: Hash,
    state: BTreeMap<Bytes, Bytes>,
    state_root: Hash,
    storage: BTreeMap<Address, BTreeMap<Bytes, Bytes>>,
}

#[derive(Deserialize)]
struct BlockLine {
    height: u64,
    hash: Hash,
    header: Bytes,
    validators: Vec<(Address, String)>,
    rewards: Vec<(Address, String, String)>,
    txs: Vec<TxLine>,
    end: Changes,
    state_root: Hash,
    has_validator_update: bool,
}

#[derive(Deserialize)]
struct TxLine {
    kind: String,
    step: String,
    raw: Bytes,
    hash: Hash,
    accepted: bool,
    code: u32,
    #[serde(default)]
    message: String,
    tx_id: Option<Hash>,
    mempool: Option<(Address, String, String)>,
    root: Option<Hash>,
    #[serde(flatten)]
    changes: Changes,
    evm: Option<Receipt>,
    eth: Option<Wallet>,
}

#[derive(Deserialize)]
struct Receipt {
    gas_used: u64,
    err: String,
    ret: Output,
    contract: Address,
    #[serde(default)]
    logs: Vec<(Address, Vec<Hash>, Bytes)>,
    #[serde(default)]
    balance_changes: Vec<(Address, u8, bool, String)>,
}

/// The transaction as an Ethereum wallet signed it.
#[derive(Deserialize)]
struct Wallet {
    raw: Bytes,
    translate_error: Option<String>,
    tx_hash: Option<Hash>,
}

pub(super) fn replay(input: impl BufRead, vm: &dyn ContractVm) -> Result<Report, ReplayError> {
    let mut report = Report::default();
    let mut chain: Option<Chain> = None;
    for line in lines(input) {
        let (number, text) = line?;
        match parse::<Kind<'_>>(number, &text)?.t {
            "seq" => {
                let line: SequenceLine = parse(number, &text)?;
                report.sequences.push(Replayed {
                    name: format!("sequence {} ({})", line.seq, line.name),
                    ..Replayed::default()
                });
                chain = Some(Chain::new(number, &line)?);
            }
            "block" => {
                let line: BlockLine = parse(number, &text)?;
                let (Some(chain), Some(replayed)) = (&mut chain, report.sequences.last_mut()) else {
                    let what = "a block before any sequence".to_owned();
                    return Err(ReplayError::Unfit { line: number, what });
                };
                replayed.blocks += 1;
                replayed.transactions += line.txs.len();
                if replayed.difference.is_none() {
                    let place = format!("{} height {}", replayed.name, line.height);
                    replayed.difference = chain.block(number, &line, vm, &place, &mut replayed.passed)?;
                }
            }
            _ => {}
        }
    }
    Ok(report)
}

/// A sequence's chain so far.
struct Chain {
    spec: ChainSpec,
    nodes: Arc<Nodes>,
    signatures: Signatures,
    trusted: Hash,
    tip: Arc<Header>,
    tip_hash: Hash,
    /// State root and pool's validators of every block.
    roots: BTreeMap<Hash, Hash>,
    sets: BTreeMap<Hash, Arc<ValidatorSet>>,
}

impl Chain {
    fn new(number: usize, line: &SequenceLine) -> Result<Self, ReplayError> {
        let nodes = new_nodes();
        for slots in line.storage.values() {
            add_trie(&nodes, slots)?;
        }
        let root = add_trie(&nodes, &line.state)?;
        let header = header(number, &line.root_header)?;
        if root != line.state_root || root != header.state_root || header.hash() != line.root_hash {
            let what = "state, its root and the root header do not fit".to_owned();
            return Err(ReplayError::Unfit { line: number, what });
        }
        let mut view = StateView::open(root, header.height, nodes.clone())?;
        let set = ValidatorSet::of_pool(&view.validators()?.unwrap_or_default());
        Ok(Self {
            spec: ChainSpec::new(line.chain_id.clone(), Fork::MAINNET),
            nodes,
            signatures: Signatures::default(),
            trusted: line.root_hash,
            tip: Arc::new(header),
            tip_hash: line.root_hash,
            roots: BTreeMap::from([(line.root_hash, root)]),
            sets: BTreeMap::from([(line.root_hash, Arc::new(set))]),
        })
    }

    fn block(
        &mut self,
        number: usize,
        line: &BlockLine,
        vm: &dyn ContractVm,
        place: &str,
        passed: &mut usize,
    ) -> Result<Option<Difference>, ReplayError> {
        let header = header(number, &line.header)?;
        let fits = header.parent == self.tip_hash && self.tip.height.checked_add(1) == Some(header.height);
        if header.hash() != line.hash || !fits {
            let what = "the block's hash is another, or it does not stand on the block before".to_owned();
            return Err(ReplayError::Unfit { line: number, what });
        }
        let guardian_votes = header.extension.guardian_votes().cloned();
        let validators =
            next_set(&self.sets, self.tip_hash, &self.tip, self.trusted).cloned().unwrap_or_default();
        let context = BlockContext {
            epoch: header.epoch,
            timestamp: header.timestamp.clone(),
            proposer: header.proposer,
            voted_state: guardian_votes.as_ref().and_then(|votes| self.roots.get(&votes.block).copied()),
            guardian_votes,
            elite_votes: header.extension.elite_votes().cloned(),
            ..BlockContext::on(self.tip_hash, self.tip.clone(), validators)
        };
        let scope = Scope {
            spec: &self.spec,
            rules: self.spec.rules(context.height()),
            block: &context,
            vm,
            signatures: &self.signatures,
        };
        let open = || StateView::open(self.tip.state_root, self.tip.height, self.nodes.clone());
        let mut view = open()?;
        if let Err(stop) = before(&scope, &mut view, line) {
            return stop.at(place).map(Some);
        }
        for (index, tx) in line.txs.iter().enumerate() {
            if let Err(stop) = candidate(&scope, &mut view, tx) {
                let label = format!("{place} transaction {index} ({} {})", tx.kind, tx.step);
                return stop.at(label).map(Some);
            }
            *passed += 1;
        }
        let after = end(&scope, &mut view, line)
            .and_then(|()| in_a_row(&scope, open()?, line))
            .and_then(|()| whole(&scope, open()?, &header, line));
        let executed = match after {
            Ok(executed) => executed,
            Err(stop) => return stop.at(format!("{place} as a whole")).map(Some),
        };
        self.nodes.add(&executed.new_nodes);
        self.roots.insert(line.hash, executed.root);
        self.sets.insert(line.hash, executed.validators);
        self.tip = Arc::new(header);
        self.tip_hash = line.hash;
        Ok(None)
    }
}

/// What is known before the first transaction: who may propose and what they are paid.
fn before(scope: &Scope<'_>, view: &mut StateView, line: &BlockLine) -> Result<(), Stop> {
    let validators: Vec<_> =
        line.validators.iter().map(|(address, stake)| format!("{address} {stake}")).collect();
    same("validators", validators.join(", "), validators_text(&scope.block.validators))?;
    let rewards = expected_rewards(scope, view)
        .map_err(|error| Stop::differs("rewards", format_args!("{} entries", line.rewards.len()), error))?;
    let expected: BTreeMap<_, _> = line
        .rewards
        .iter()
        .map(|(address, theta, tfuel)| (*address, (theta.clone(), tfuel.clone())))
        .collect();
    let found: BTreeMap<_, _> =
        rewards.iter().map(|(address, tfuel)| (*address, ("0".to_owned(), tfuel.to_string()))).collect();
    same("rewards", format!("{expected:?}"), format!("{found:?}"))
}

/// One candidate on the state that the accepted ones before it left.
fn candidate(scope: &Scope<'_>, view: &mut StateView, line: &TxLine) -> Result<(), Stop> {
    same("hash", line.hash, keccak(&line.raw))?;
    let before = view.root()?;
    let decoded = RawTx::decode(line.raw.to_vec());
    if let Some(wallet) = &line.eth {
        translated(scope, decoded.as_ref().ok(), wallet)?;
    }
    if let Ok(raw) = &decoded {
        described(scope, raw, line)?;
    }
    let result = decoded.map_err(TxError::from).and_then(|raw| block::run(scope, view, &raw));
    if let Some(error) = result.as_ref().err().and_then(TxError::state_error) {
        return Err(Stop::differs("state", "readable", error));
    }
    let (code, why) = match &result {
        Ok(_) => (0, "accepted".to_owned()),
        Err(error) => (error.code(), error.to_string()),
    };
    if code != line.code || result.is_ok() != line.accepted {
        let expected = if line.accepted { "accepted" } else { line.message.as_str() };
        let texts = (format_args!("{} ({expected})", line.code), format_args!("{code} ({why})"));
        return Err(Stop::differs("code", texts.0, texts.1));
    }
    let receipt = line.evm.as_ref().map(Receipt::outcome);
    same_receipt(receipt.as_ref(), result.ok().flatten().as_ref())?;
    let root = view.root()?;
    line.changes.check(view)?;
    same("root", line.root.unwrap_or(before), root)
}

/// What hangs on the transaction alone: identity and place in the mempool.
fn described(scope: &Scope<'_>, raw: &RawTx, line: &TxLine) -> Result<(), Stop> {
    let transaction = &raw.transaction;
    if let Some(expected) = line.tx_id {
        let found = keccak(sign_bytes(&scope.spec.chain, &transaction.signed_part(), false));
        same("tx_id", expected, found)?;
    }
    if let Some((address, sequence, price)) = &line.mempool {
        let (sender, number) = transaction.sender();
        same("mempool's sender", *address, sender)?;
        // The reference names the target's sequence, which no rule looks at; our mempool goes by the payment's.
        if !matches!(transaction, Transaction::ServicePayment(_)) {
            same("mempool's sequence", sequence.clone(), number.to_string())?;
        }
        same("gas price", price.clone(), transaction.gas_price(scope.rules).to_string())?;
    }
    Ok(())
}

/// How a transaction of an Ethereum wallet became this one. Some refused ones were made by hand instead.
fn translated(scope: &Scope<'_>, raw: Option<&RawTx>, wallet: &Wallet) -> Result<(), Stop> {
    let translated = ethereum::translate(&wallet.raw);
    match (&translated, &wallet.translate_error) {
        (Ok(_), Some(error)) => return Err(Stop::differs("translation", error, "accepted")),
        (Err(error), None) => return Err(Stop::differs("translation", "accepted", error)),
        _ => {}
    }
    let (Some(expected), Ok(translated)) = (wallet.tx_hash, translated) else { return Ok(()) };
    let (Some(Transaction::SmartContract(recorded)), Transaction::SmartContract(translated)) =
        (raw.map(|raw| &raw.transaction), &translated.transaction)
    else {
        return Err(Stop::differs("translation", "a contract transaction", "another kind"));
    };
    // The last byte of a signature has aliases (`ledger.md` 2.2), which the recording uses too.
    let fields = |transaction: &SmartContract| {
        let point = shown(transaction.from.signature.as_bytes().get(..64));
        format!("{} signed {point}", hex::encode(transaction.signed_part()))
    };
    same("translation", fields(recorded), fields(translated))?;
    let chain_id = scope.spec.ethereum_chain_id(scope.height());
    let found = ethereum::ethereum_hash(recorded, chain_id, scope.signatures);
    same("Ethereum hash", expected, found.unwrap_or_default())
}

fn end(scope: &Scope<'_>, view: &mut StateView, line: &BlockLine) -> Result<(), Stop> {
    end_of_block(view, scope.rules).map_err(|error| Stop::differs("end of block", "carried out", error))?;
    let root = view.root()?;
    line.end.check(view)?;
    same("state root", line.state_root, root)
}

/// All candidates without a root in between, as a proposer tries them: what a refused one did is taken back.
fn in_a_row(scope: &Scope<'_>, mut view: StateView, line: &BlockLine) -> Result<(), Stop> {
    for tx in &line.txs {
        let accepted =
            RawTx::decode(tx.raw.to_vec()).is_ok_and(|raw| block::run(scope, &mut view, &raw).is_ok());
        same("verdict in a row", tx.accepted, accepted)?;
    }
    end_of_block(&mut view, scope.rules)
        .map_err(|error| Stop::differs("end of block", "carried out", error))?;
    same("state root in a row", line.state_root, view.root()?)
}

/// The accepted transactions as one block.
fn whole(
    scope: &Scope<'_>,
    view: StateView,
    header: &Header,
    line: &BlockLine,
) -> Result<block::Executed, Stop> {
    let transactions: Vec<Vec<u8>> =
        line.txs.iter().filter(|tx| tx.accepted).map(|tx| tx.raw.to_vec()).collect();
    same("transactions root", header.transactions_root, transactions_root(&transactions))?;
    let executed = block::execute(scope, view, &transactions, &Inline).map_err(refused)?;
    same("state root", header.state_root, executed.root)?;
    same("has_validator_update", line.has_validator_update, executed.changes_validators)?;
    Ok(executed)
}

impl Receipt {
    fn outcome(&self) -> Outcome<'_> {
        Outcome {
            gas: self.gas_used,
            error: &self.err,
            output: &self.ret,
            contract: self.contract,
            logs: &self.logs,
            balance_changes: self.balance_changes.clone(),
        }
    }
}
