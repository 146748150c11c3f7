//! Snapshots: a settled block with its whole state, and the headers that prove it (`ledger.md` 9,
//! `snapshot/snapshot_import.go`, `snapshot/snapshot_export.go`).
//!
//! Version 2 carries entries, versions 3 and 4 carry trie nodes. Versions 2 and 3 prove the validators of the block from
//! the genesis on; version 4 does not, so its block has to be trusted. [`import`] writes nothing that could be opened
//! before all of it has been checked; [`export`] writes the bytes that the reference writes for the same block.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    sync::Arc,
};

use theta_core::{
    block::{Block, Header},
    certificate::{AggregateVotes, CertificateVotes},
    codec::rlp::{Decode, Encode},
    hash::{Hash, keccak},
    rlp_list,
    stake::{ValidatorKey, ValidatorPool, ValidatorSet},
    store::{Batch, Store, Table},
    trie::{self, Node, Trie},
    vote::VoteSet,
    workers::Inline,
};

use crate::{
    chain::{self, Status, StoredBlock},
    error::SnapshotError,
    genesis::{Genesis, GenesisSummary, Tally},
    ledger::{At, LedgerReader, genesis_rows},
    records::{Entry, Mark, Metadata, ProofNode, Record, Records, Trio, Version, write_record},
    staking,
    state::{
        Account, StateError, StateView,
        account::HeightList,
        keys,
        nodes::{NewNodes, Nodes},
        prune,
    },
};

/// Entries or nodes between two writes to the store: bounds the memory of an import.
const BATCH: usize = 50_000;
/// Blocks between two checkpoints.
const CHECKPOINT: u64 = 100;

/// The checkpoint below the snapshot's block, and the headers from its parent down to it.
struct LastCheckpoint {
    checkpoint: Header,
    between: Vec<Header>,
}

rlp_list!(LastCheckpoint { checkpoint, between });

/// What was read from or written to a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Version of the format.
    pub version: u64,
    /// The block.
    pub header: Header,
    /// Its hash.
    pub hash: Hash,
    /// Records of the file.
    pub records: usize,
}

/// Reads a snapshot into an empty store, which then stands at its block. `trusted` is the hash that the block has to
/// have; versions 2 and 3 need none. A store whose import did not end is as empty as before for whoever opens it.
pub fn import(
    file: impl Read,
    genesis: &Genesis,
    trusted: Option<Hash>,
    store: &Arc<dyn Store>,
) -> Result<Snapshot, SnapshotError> {
    let loaded = load(file, Some(genesis), trusted, store)?;
    let heights = stake_heights(&loaded.view)?;
    let mut batch = Batch::default();
    let mut put = |header: &Header, status: Status| {
        let stored = StoredBlock {
            block: Block { header: header.clone(), transactions: Vec::new() },
            status: status.0,
            changes_validators: heights.contains(&header.height),
        };
        chain::put_block(&mut batch, &header.hash(), &stored, &[], &BTreeMap::new());
    };
    loaded.last.between.iter().for_each(|header| put(header, Status::PENDING));
    for header in [&loaded.last.checkpoint, &loaded.parent, &loaded.snapshot.header] {
        put(header, Status::TRUSTED);
    }
    prune::put_oldest(&mut batch, loaded.last.checkpoint.height);
    chain::put_genesis(&mut batch, &genesis.hash());
    chain::put_settled(&mut batch, &loaded.snapshot.hash);
    store.commit(batch)?;
    Ok(loaded.snapshot)
}

/// Checks a snapshot and counts what it holds; the store, which has to be empty, only gets its states. With a genesis the
/// validators are proven from there on, where the version can prove them; without one the file vouches for itself.
pub fn inspect(
    file: impl Read,
    genesis: Option<&Genesis>,
    trusted: Option<Hash>,
    store: &Arc<dyn Store>,
) -> Result<GenesisSummary, SnapshotError> {
    let Loaded { snapshot, mut view, .. } = load(file, genesis, trusted, store)?;
    let mut tally = Tally::default();
    each_account(view.trie(), &mut |account| tally.add(&account))?;
    let pool = view.validators()?.unwrap_or_default();
    Ok(tally.summary(snapshot.version, &snapshot.header, snapshot.records, &pool))
}

/// The version of a genesis file or a snapshot, by its first record; 1 is a genesis.
pub fn version(file: impl Read) -> Result<u64, SnapshotError> {
    version_of(&mut Records::new(file))
}

fn version_of(records: &mut Records<impl Read>) -> Result<u64, SnapshotError> {
    let head = records.require("the file is empty")?;
    Ok(head.decode::<Version>().map_or(1, |version| version.version))
}

/// A snapshot that has been checked, and its states in the store.
struct Loaded {
    snapshot: Snapshot,
    last: LastCheckpoint,
    parent: Header,
    view: StateView,
}

fn load(
    file: impl Read,
    genesis: Option<&Genesis>,
    trusted: Option<Hash>,
    store: &Arc<dyn Store>,
) -> Result<Loaded, SnapshotError> {
    if chain::heads(store.as_ref()).map_or(true, |heads| heads.is_some()) {
        return Err(SnapshotError::NotEmpty);
    }
    let mut records = Records::new(file);
    let version = version_of(&mut records)?;
    if !(2..=4).contains(&version) {
        return Err(SnapshotError::Version(version));
    }
    let record = records.require("the last checkpoint belongs here")?;
    let last: LastCheckpoint = record.decode()?;
    let metadata_record = records.require("the headers that prove the block belong here")?;
    let metadata: Metadata = metadata_record.decode()?;
    let tail = &metadata.tail;
    let hash = tail.second.hash();
    check_checkpoint(&record, &last, &tail.second)?;
    match trusted {
        Some(expected) if expected != hash => {
            return Err(SnapshotError::OtherBlock { found: hash, expected });
        }
        None if version == 4 && genesis.is_some() => {
            return Err(SnapshotError::Untrusted { version, block: hash });
        }
        _ => {}
    }
    let refuse = |what| Err(metadata_record.unexpected(what));
    if genesis.is_some_and(|genesis| tail.second.chain != genesis.header.chain) {
        return refuse("the snapshot is of another chain");
    }
    if tail.first.0.hash() != tail.second.parent || tail.third.0.parent != hash {
        return refuse("the three last headers are not one above the other");
    }
    check_top(&metadata_record, &tail.third)?;
    // A chain has keys from its genesis on, or never.
    let keyed = genesis.map_or(tail.third.0.seed.is_some(), Genesis::has_validator_keys);
    let parents = proven_set(&metadata_record, &tail.first, keyed)?;
    let proven = match genesis {
        Some(genesis) if version < 4 => prove_validators(&metadata_record, &metadata.proofs, genesis, keyed)?,
        _ => vec![parents],
    };
    // The votes in the block above, by the newest proven set or, where it has just changed, the one before.
    let certificate = &tail.third.0.certificate;
    if certificate.block != hash
        || !proven.iter().rev().take(2).any(|set| certifies(set, &certificate.votes, &tail.second))
    {
        return refuse("the block above does not hold votes of two thirds for the snapshot's block");
    }
    let mut import = Import { store, nodes: Arc::new(Nodes::new(store.clone())), version };
    if let Some(genesis) = genesis {
        store.commit(genesis_rows(genesis))?;
    }
    // Without a genesis to hold against the file names its own, if it carries that state.
    let first = genesis
        .map(|genesis| &genesis.header)
        .or_else(|| metadata.proofs.first().map(|trio| &trio.second).filter(|header| header.height == 0));
    let headers = [&last.checkpoint, &tail.first.0, &tail.second].into_iter().chain(first);
    let roots: BTreeMap<u64, Hash> = headers.map(|header| (header.height, header.state_root)).collect();
    match version {
        2 => import.sections(&mut records, &roots)?,
        _ => import.nodes(&mut records)?,
    }
    import.check_whole(&roots, tail.second.height)?;
    let mut view = StateView::open(tail.second.state_root, tail.second.height, import.nodes.clone())?;
    let stored = view.validators()?.unwrap_or_default();
    if proven.last() != Some(&staking::validators_of(&mut view, &stored, keyed)?) {
        return refuse("the validators in the state are not those that the file proves");
    }
    let Trio { first: (parent, _), second: header, .. } = metadata.tail;
    let snapshot = Snapshot { version, header, hash, records: records.count() };
    Ok(Loaded { snapshot, last, parent, view })
}

fn stake_heights(view: &StateView) -> Result<Vec<u64>, SnapshotError> {
    let Some(bytes) = view.trie().get(keys::STAKE_HEIGHTS)? else { return Ok(Vec::new()) };
    let heights = HeightList::from_rlp(&bytes, bytes.len());
    let damaged = |source| StateError::Damaged { key: "ls/sthl".to_owned(), source };
    Ok(heights.map_err(damaged)?.0)
}

/// The headers lead from the block's parent down to the checkpoint, at most one checkpoint's distance.
fn check_checkpoint(record: &Record, last: &LastCheckpoint, block: &Header) -> Result<(), SnapshotError> {
    if last.between.len() as u64 > CHECKPOINT {
        return Err(record.unexpected("the checkpoint is more than 100 blocks below the snapshot's block"));
    }
    let mut above = block;
    for header in &last.between {
        if header.hash() != above.parent {
            return Err(record.unexpected("the headers down to the checkpoint are not one below the other"));
        }
        above = header;
    }
    if *above == last.checkpoint {
        Ok(())
    } else {
        Err(record.unexpected("the headers do not end at the checkpoint"))
    }
}

/// Whether votes for a block are valid and of more than two thirds of the stake.
fn certifies(set: &ValidatorSet, votes: &CertificateVotes, header: &Header) -> bool {
    let block = header.hash();
    if let Some(aggregate) = votes.aggregate() {
        return is_signed(set, aggregate, header, &block);
    }
    let valid = votes.list().iter().filter(|vote| vote.block == block && vote.verify().is_ok());
    let voters: BTreeSet<_> = valid.map(|vote| vote.voter).collect();
    set.is_quorum(set.stake_of(voters))
}

#[cfg(feature = "bls")]
fn is_signed(set: &ValidatorSet, votes: &AggregateVotes, header: &Header, block: &Hash) -> bool {
    votes.verify((&header.chain, block, header.epoch), set).is_ok()
}

/// Without BLS nothing is certified in this form.
#[cfg(not(feature = "bls"))]
const fn is_signed(_: &ValidatorSet, _: &AggregateVotes, _: &Header, _: &Hash) -> bool {
    false
}

/// No header above holds the hash of the uppermost one, so it has to be signed, and its votes have to be its own.
fn check_top(record: &Record, (header, votes): &(Header, VoteSet)) -> Result<(), SnapshotError> {
    let hash = header.hash();
    if header.verify().is_err() {
        return Err(record.unexpected("the uppermost of three headers is not signed by its proposer"));
    }
    // The height in a vote is not signed.
    let own_height = votes.as_slice().iter().all(|vote| vote.height == header.height);
    if !own_height || !votes.are_for(&hash) {
        return Err(record.unexpected("a vote for the uppermost of three headers is not valid"));
    }
    Ok(())
}

/// The validators in the state of a header, by the proof beside it.
fn proven_set(
    record: &Record,
    (header, proof): &(Header, Vec<ProofNode>),
    keyed: bool,
) -> Result<ValidatorSet, SnapshotError> {
    if proof.iter().any(|node| keccak(&node.node).as_slice() != node.hash) {
        return Err(record.unexpected("a node of a proof is not the one that its hash names"));
    }
    let nodes: Vec<Vec<u8>> = proof.iter().map(|node| node.node.clone()).collect();
    let value = trie::verify(&header.state_root, keys::VALIDATORS, &nodes)
        .ok()
        .flatten()
        .ok_or_else(|| record.unexpected("the proof of a validator set proves none"))?;
    let pool = ValidatorPool::from_rlp(&value, value.len()).map_err(|source| record.malformed(source))?;
    if !keyed {
        return Ok(ValidatorSet::of_pool(&pool));
    }
    ValidatorSet::keyed(&pool, |holder| {
        let value = trie::verify(&header.state_root, &keys::validator_key(holder), &nodes)
            .map_err(|_| record.unexpected("the proof of a validator set lacks a candidate's key"))?;
        let key = value.map(|value| ValidatorKey::from_rlp(&value, value.len())).transpose();
        Ok(key.map_err(|source| record.malformed(source))?.map(|key| key.key))
    })
}

/// Follows the changes of the validators from the genesis on; gives every set, in their order.
fn prove_validators(
    record: &Record,
    trios: &[Trio],
    genesis: &Genesis,
    keyed: bool,
) -> Result<Vec<ValidatorSet>, SnapshotError> {
    let Some((first, changes)) = trios.split_first() else {
        return Err(record.unexpected("nothing proves the validators"));
    };
    let nothing = (Header::zero(), VoteSet::default());
    if first.second != genesis.header || first.first != (Header::zero(), Vec::new()) || first.third != nothing
    {
        return Err(record.unexpected("the proof does not begin with this chain's genesis"));
    }
    let mut sets = vec![genesis.set(keyed)];
    for trio in changes {
        let (first, second, third) = (&trio.first.0, &trio.second, &trio.third.0);
        let (lower, middle) = (first.hash(), second.hash());
        if second.parent != lower
            || third.parent != middle
            || second.certificate.block != lower
            || third.certificate.block != middle
        {
            return Err(record.unexpected("the headers that prove a validator set are not linked"));
        }
        check_top(record, &trio.third)?;
        // The last set that was proven is the one that votes, or the one before where two changes follow closely.
        if !sets.iter().rev().take(2).any(|set| certifies(set, &third.certificate.votes, second)) {
            return Err(record.unexpected("a change of the validators lacks the votes of two thirds"));
        }
        sets.push(proven_set(record, &trio.first, keyed)?);
    }
    Ok(sets)
}

/// An import's way into the store.
struct Import<'a> {
    store: &'a Arc<dyn Store>,
    nodes: Arc<Nodes>,
    version: u64,
}

impl Import<'_> {
    /// Version 2: a section of entries for each state; in all but the genesis an account's storage follows it.
    fn sections(
        &mut self,
        records: &mut Records<impl Read>,
        roots: &BTreeMap<u64, Hash>,
    ) -> Result<(), SnapshotError> {
        while let Some(record) = records.next()? {
            let Some((Mark::Open, height)) = record.decode::<Entry>()?.as_mark() else {
                return Err(record.unexpected("the opening mark of a state belongs here"));
            };
            let Some(expected) = roots.get(&height) else {
                return Err(record.unexpected("no header of the file belongs to a state of this height"));
            };
            self.section(records, height, *expected, height > 0)?;
        }
        Ok(())
    }

    /// Reads entries up to the closing mark.
    fn section(
        &mut self,
        records: &mut Records<impl Read>,
        height: u64,
        expected: Hash,
        storage: bool,
    ) -> Result<(), SnapshotError> {
        let mut trie = Trie::empty(self.nodes.clone());
        let mut entries = Vec::new();
        loop {
            let record = records.require("the file ends before a closing mark")?;
            let entry: Entry = record.decode()?;
            if entry.key.len() == 1 {
                if entry.as_mark() != Some((Mark::Close, height)) {
                    return Err(record.unexpected("the closing mark of the open section belongs here"));
                }
                let computed = self.write(&mut trie, entries)?;
                if computed != expected {
                    return Err(SnapshotError::SectionRoot {
                        height,
                        at: record.at,
                        computed,
                        header: expected,
                    });
                }
                return Ok(());
            }
            if storage && entry.key.starts_with(keys::ACCOUNT) {
                let account = Account::from_rlp(&entry.value, entry.value.len());
                let account = account.map_err(|source| record.malformed(source))?;
                if account.root != Hash::ZERO {
                    let open = records.require("the storage of an account belongs here")?;
                    if open.decode::<Entry>()?.as_mark() != Some((Mark::Open, height)) {
                        return Err(open.unexpected("the storage of the account before belongs here"));
                    }
                    self.section(records, height, account.root, false)?;
                }
            }
            entries.push((entry.key, entry.value));
            if entries.len() == BATCH {
                self.write(&mut trie, std::mem::take(&mut entries))?;
            }
        }
    }

    fn write(&self, trie: &mut Trie, entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Hash, SnapshotError> {
        trie.update(entries, &Inline)?;
        let root = trie.root();
        let (mut new, mut batch) = (NewNodes::default(), Batch::default());
        new.collect(trie);
        self.nodes.store(&new, &mut batch);
        self.store.commit(batch)?;
        Ok(root)
    }

    /// Versions 3 and 4: nodes by hash, in any order, some of them more than once.
    fn nodes(&mut self, records: &mut Records<impl Read>) -> Result<(), SnapshotError> {
        let (mut batch, mut count) = (Batch::default(), 0);
        while let Some(record) = records.next()? {
            let Entry { key, value } = record.decode()?;
            let hash = keccak(&value);
            if key != hash.as_slice() {
                return Err(record.unexpected("a node is not the one that its hash names"));
            }
            Node::decode(&value).map_err(|source| record.malformed(source))?;
            batch.put(Table::Nodes, key, value);
            count += 1;
            if count % BATCH == 0 {
                self.store.commit(std::mem::take(&mut batch))?;
            }
        }
        Ok(self.store.commit(batch)?)
    }

    /// Every node of the states is there, and of the storage of the accounts whose storage the version carries.
    fn check_whole(&self, roots: &BTreeMap<u64, Hash>, newest: u64) -> Result<(), SnapshotError> {
        let all = &mut |_: Hash, _: &Node| true;
        let mut base: Option<Trie> = None;
        for (height, root) in roots {
            let trie = Trie::open(*root, self.nodes.clone())?;
            trie.nodes(base.as_ref(), all)?;
            if *height == newest || (self.version == 2 && *height > 0) {
                for root in storage_roots(&trie)? {
                    Trie::open(root, self.nodes.clone())?.nodes(None, all)?;
                }
            }
            base = Some(trie);
        }
        Ok(())
    }
}

/// Storage roots of all accounts that have one, in the order of their addresses.
fn storage_roots(trie: &Trie) -> Result<Vec<Hash>, SnapshotError> {
    let mut roots = Vec::new();
    each_account(trie, &mut |account| {
        if account.root != Hash::ZERO {
            roots.push(account.root);
        }
    })?;
    Ok(roots)
}

fn each_account(trie: &Trie, act: &mut dyn FnMut(Account)) -> Result<(), SnapshotError> {
    let mut failed = None;
    trie.visit(keys::ACCOUNT, &mut |key, value| {
        match account(key, value) {
            Ok(account) => act(account),
            Err(error) => failed = Some(error),
        }
        failed.is_none()
    })?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn account(key: &[u8], value: &[u8]) -> Result<Account, StateError> {
    let damaged = |source| StateError::Damaged { key: hex::encode(key), source };
    Account::from_rlp(value, value.len()).map_err(damaged)
}

/// Writes a snapshot of a settled block, of which the block two above is settled too. Version 2 or 3 needs the states of
/// the genesis and of all blocks at which the validators changed; version 4 does with those of a ledger that keeps few.
pub fn export(
    reader: &LedgerReader,
    height: u64,
    version: u64,
    out: &mut impl Write,
) -> Result<Snapshot, SnapshotError> {
    if !(2..=4).contains(&version) {
        return Err(SnapshotError::Version(version));
    }
    let mut export = Export { reader, out, records: 0 };
    let block = export.header(height)?;
    let parent = export.header(height.checked_sub(1).ok_or(SnapshotError::NotHere(height))?)?;
    let child = export.header(height + 1)?;
    let votes = export.votes_for(&child)?;
    let at_checkpoint = match height / CHECKPOINT * CHECKPOINT + 1 {
        below if below <= height => below,
        _ => height,
    };
    let between = (at_checkpoint..height).rev().map(|height| export.header(height));
    let last = LastCheckpoint {
        between: between.collect::<Result<_, _>>()?,
        checkpoint: export.header(at_checkpoint)?,
    };
    let state = |height| reader.state(At::Height(height));
    let heights = stake_heights(&state(height)?)?;
    let proofs = match version {
        4 => Vec::new(),
        _ => heights.iter().map(|height| export.trio(*height)).collect::<Result<_, _>>()?,
    };
    let tail = Trio {
        first: (parent.clone(), export.proof(parent.height)?),
        second: block.clone(),
        third: (child, votes),
    };
    export.record(&Version::new(version))?;
    export.record(&last)?;
    export.record(&Metadata { proofs, tail })?;
    let (parent, newest) = (state(height - 1)?, state(height)?);
    let checkpoint = if at_checkpoint == height { None } else { Some(state(at_checkpoint)?) };
    match version {
        2 => {
            export.section(&state(0)?, false)?;
            for view in checkpoint.iter().chain([&parent, &newest]) {
                export.section(view, true)?;
            }
        }
        3 => {
            let genesis = state(0)?;
            export.nodes(genesis.trie(), None)?;
            if let Some(view) = &checkpoint {
                export.nodes(view.trie(), Some(genesis.trie()))?;
            }
            export.nodes(parent.trie(), Some(genesis.trie()))?;
            export.newest(&newest, &parent)?;
        }
        _ => {
            if let Some(view) = &checkpoint {
                export.nodes(view.trie(), None)?;
            }
            export.nodes(parent.trie(), None)?;
            export.newest(&newest, &parent)?;
        }
    }
    export.out.flush()?;
    Ok(Snapshot { version, hash: block.hash(), header: block, records: export.records })
}

struct Export<'a, W> {
    reader: &'a LedgerReader,
    out: &'a mut W,
    records: usize,
}

impl<W: Write> Export<'_, W> {
    fn header(&self, height: u64) -> Result<Header, SnapshotError> {
        let info = self.reader.block(At::Height(height))?.ok_or(SnapshotError::NotHere(height))?;
        Ok(info.block.header.clone())
    }

    /// Votes for a block as the block above it holds them; an aggregate has no place in the format, and no reader needs it.
    fn votes_for(&self, block: &Header) -> Result<VoteSet, SnapshotError> {
        let certificate = self.header(block.height + 1)?.certificate;
        Ok(match certificate.votes {
            CertificateVotes::List(votes) if certificate.block == block.hash() => votes,
            _ => VoteSet::default(),
        })
    }

    fn proof(&self, height: u64) -> Result<Vec<ProofNode>, SnapshotError> {
        let nodes = self.reader.prove_validators(At::Height(height))?;
        let node = |node: Vec<u8>| ProofNode { hash: keccak(&node).to_vec(), node };
        Ok(nodes.into_iter().map(node).collect())
    }

    /// The proof of a change of the validators.
    fn trio(&self, height: u64) -> Result<Trio, SnapshotError> {
        let zero = (Header::zero(), VoteSet::default());
        if height == 0 {
            return Ok(Trio { first: (Header::zero(), Vec::new()), second: self.header(0)?, third: zero });
        }
        Ok(Trio {
            first: (self.header(height)?, self.proof(height)?),
            second: self.header(height + 1)?,
            third: (self.header(height + 2)?, VoteSet::default()),
        })
    }

    fn record(&mut self, value: &impl Encode) -> Result<(), SnapshotError> {
        self.records += 1;
        Ok(write_record(self.out, &value.to_rlp())?)
    }

    fn section(&mut self, view: &StateView, storage: bool) -> Result<(), SnapshotError> {
        self.record(&Entry::mark(Mark::Open, view.height()))?;
        self.entries(view.trie(), view.height(), storage)?;
        self.record(&Entry::mark(Mark::Close, view.height()))
    }

    fn entries(&mut self, trie: &Trie, height: u64, storage: bool) -> Result<(), SnapshotError> {
        let mut failed = None;
        trie.visit(&[], &mut |key, value| {
            let done = self.entry(trie, height, storage, key, value);
            failed = done.err();
            failed.is_none()
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn entry(
        &mut self,
        trie: &Trie,
        height: u64,
        storage: bool,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), SnapshotError> {
        self.record(&Entry { key: key.to_vec(), value: value.to_vec() })?;
        if !storage || !key.starts_with(keys::ACCOUNT) {
            return Ok(());
        }
        let account = account(key, value)?;
        if account.root == Hash::ZERO {
            return Ok(());
        }
        self.record(&Entry::mark(Mark::Open, height))?;
        let storage = Trie::open(account.root, trie.source().clone())?;
        self.entries(&storage, height, false)?;
        self.record(&Entry::mark(Mark::Close, height))
    }

    fn nodes(&mut self, trie: &Trie, base: Option<&Trie>) -> Result<(), SnapshotError> {
        let mut failed = None;
        trie.nodes(base, &mut |hash, node| {
            failed = self.record(&Entry { key: hash.to_vec(), value: node.encoding().to_vec() }).err();
            failed.is_none()
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// The newest state as far as its parent's is another, and all its storage.
    fn newest(&mut self, newest: &StateView, parent: &StateView) -> Result<(), SnapshotError> {
        self.nodes(newest.trie(), Some(parent.trie()))?;
        for root in storage_roots(newest.trie())? {
            self.nodes(&Trie::open(root, newest.nodes().clone())?, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use theta_core::store::MemStore;

    use super::*;

    /// Files of the reference's exporters from a chain of two blocks (`ledger.json`, group `snapshots`). Nobody voted
    /// there, so what is held against them is all but the votes.
    #[test]
    fn files_of_the_reference_are_read_and_hold_the_states_they_name() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/ledger.json");
        let fixture: Value =
            serde_json::from_slice(&std::fs::read(path).expect("a fixture")).expect("well formed");
        let cases = fixture["snapshots"].as_array().expect("a list");
        assert_eq!(cases.len(), 3);
        for case in cases {
            let text = |key: &str| hex::decode(case[key].as_str().expect("a text")).expect("hexadecimal");
            let (file, version) = (text("file_hex"), case["version"].as_u64().expect("a number"));
            let mut records = Records::new(file.as_slice());
            assert_eq!(version_of(&mut records).expect("a version"), version);
            let record = records.require("a checkpoint").expect("there");
            let last: LastCheckpoint = record.decode().expect("a checkpoint");
            let metadata_record = records.require("headers").expect("there");
            let metadata: Metadata = metadata_record.decode().expect("headers");
            let mut head = Vec::new();
            for part in [Version::new(version).to_rlp(), last.to_rlp(), metadata.to_rlp()] {
                write_record(&mut head, &part).expect("memory takes it");
            }
            assert!(file.starts_with(&head), "what was read is what was written");
            let block = &metadata.tail.second;
            assert_eq!(block.hash().as_slice(), text("snapshot_block_hash"));
            check_checkpoint(&record, &last, block).expect("linked");
            assert_eq!(metadata.tail.first.0.hash(), block.parent);
            assert_eq!(metadata.tail.third.0.parent, block.hash());
            let proven = proven_set(&metadata_record, &metadata.tail.first, false).expect("a proof");
            let store: Arc<dyn Store> = Arc::new(MemStore::default());
            let mut import = Import { store: &store, nodes: Arc::new(Nodes::new(store.clone())), version };
            let first = metadata.proofs.first().map(|trio| &trio.second);
            let headers = [&last.checkpoint, &metadata.tail.first.0, block].into_iter().chain(first);
            let roots = headers.map(|header| (header.height, header.state_root)).collect();
            match version {
                2 => import.sections(&mut records, &roots).expect("sections with the roots of their headers"),
                _ => import.nodes(&mut records).expect("nodes with their hashes"),
            }
            import.check_whole(&roots, block.height).expect("no node is missing");
            let mut view =
                StateView::open(block.state_root, block.height, import.nodes.clone()).expect("the root");
            let pool = view.validators().expect("readable").unwrap_or_default();
            assert_eq!(ValidatorSet::of_pool(&pool), proven, "version {version}");
            assert!(!storage_roots(view.trie()).expect("whole").is_empty(), "a contract with storage");
        }
    }
}
