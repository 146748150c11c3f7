//! The jobs of a requester as whoever asked for them sees them, on record beside the journals of its funds.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use theta_core::{
    amount::TFuelWei,
    hash::Hash,
    journal::{Deferred, FileDisk},
};
use theta_edge::{
    Millis,
    blob::{BlobHash, BlobRef},
    chain::Settled,
    executor::OutFile,
    history::History,
    identity::NodeId,
    job::{JobSpec, KindTag},
    map::MapSpec,
    placement::Spill,
    scheduler::{Report, State, Verification},
};

use super::disk;

/// Jobs that have ended and are remembered.
const REMEMBERED: usize = 1_000;

/// A job as it was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Spec {
    /// One task.
    Task(Box<JobSpec>),
    Map(Box<MapSpec>),
}

impl Spec {
    pub(super) fn id(&self) -> Hash {
        match self {
            Self::Task(spec) => spec.id(),
            Self::Map(spec) => spec.id(),
        }
    }

    fn fund(&self) -> u64 {
        match self {
            Self::Task(spec) => spec.pool.reserve_sequence,
            Self::Map(spec) => spec.pool.reserve_sequence,
        }
    }

    fn cap(&self) -> TFuelWei {
        match self {
            Self::Task(spec) => spec.total_cap,
            Self::Map(spec) => spec.total_cap,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Task(spec) => match spec.work.kind() {
                KindTag::Transcode => "transcode",
                KindTag::Infer => "infer",
                _ => "wasm",
            },
            Self::Map(_) => "map",
        }
    }
}

/// What one node gets for one task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Paid {
    pub(super) node: NodeId,
    pub(super) amount: TFuelWei,
    /// Of which so much is burned.
    pub(super) burned: TFuelWei,
    /// [`theta_edge::payment::purse::Purse::position`].
    pub(super) position: Option<TFuelWei>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) at: Millis,
    pub(super) state: State,
    pub(super) error: Option<(String, String)>,
    pub(super) stdout: Option<BlobRef>,
    pub(super) stderr: Option<BlobRef>,
    pub(super) files: Vec<OutFile>,
    pub(super) exit: Option<i32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) at: Millis,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) fund: u64,
    pub(super) cap: TFuelWei,
    /// Until it has ended.
    pub(super) spec: Option<Spec>,
    /// Tasks that have ended, in that order; of an open map job alone.
    pub(super) parts: Vec<Report>,
    pub(super) paid: Vec<Paid>,
    pub(super) tasks: u32,
    pub(super) attempts: u32,
    pub(super) wrong: Vec<NodeId>,
    pub(super) spilled: Vec<(NodeId, Spill)>,
    pub(super) verification: Option<String>,
    pub(super) ended: Option<Ended>,
    /// Transactions that paid for it, once all have settled.
    pub(super) settled: Option<Vec<Hash>>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Record {
    /// Taken, with what there is of it, or as all earlier records left it.
    Job {
        id: Hash,
        entry: Box<Entry>,
    },
    /// A task of it ended.
    Part {
        id: Hash,
        report: Report,
        paid: Vec<Paid>,
    },
    Ended {
        id: Hash,
        ended: Ended,
    },
    Settled {
        id: Hash,
        transactions: Vec<Hash>,
    },
}

impl theta_core::journal::Record for Record {
    const VERSION: u8 = 2;
}

/// All jobs, open ones and those that are remembered.
pub(super) struct Book {
    journal: History<Record>,
    file: Deferred<FileDisk>,
    jobs: BTreeMap<Hash, Entry>,
    /// In the order in which they came.
    order: VecDeque<Hash>,
}

fn sum(amounts: impl Iterator<Item = TFuelWei>) -> TFuelWei {
    // Sums are within a fund.
    amounts.fold(TFuelWei::ZERO, |sum, amount| sum.checked_add(amount).unwrap_or(sum))
}

impl Entry {
    fn paid(&self) -> TFuelWei {
        sum(self.paid.iter().map(|paid| paid.amount))
    }

    /// What it may still cost.
    fn left(&self) -> TFuelWei {
        if self.ended.is_some() { TFuelWei::ZERO } else { self.cap.saturating_sub(self.paid()) }
    }

    /// Transactions that have settled what is paid for it; whether that is all of them.
    fn settlement(&self, settled: &[Settled]) -> (Vec<Hash>, bool) {
        let (mut transactions, mut all) = (Vec::new(), true);
        for paid in self.paid.iter().filter(|paid| !paid.amount.is_zero()) {
            let mut total = TFuelWei::ZERO;
            let covers = settled.iter().filter(|settled| settled.payee == paid.node.0).find(|settled| {
                total = total.checked_add(settled.amount).unwrap_or(total);
                // A position that is not known was settled before anybody looked.
                paid.position.is_some_and(|position| total >= position)
            });
            match covers {
                Some(settled) if !transactions.contains(&settled.transaction) => {
                    transactions.push(settled.transaction);
                }
                Some(_) => {}
                None => all &= paid.position.is_none(),
            }
        }
        (transactions, all)
    }
}

impl Book {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let file = Deferred::new(disk(folder, "book.journal")?);
        let (journal, records) = History::open(file.clone())?;
        let mut book = Self { journal, file, jobs: BTreeMap::new(), order: VecDeque::new() };
        records.into_iter().for_each(|record| book.apply(record));
        Ok(book)
    }

    /// Makes what was written durable.
    pub(super) fn commit(&self) -> Result<()> {
        self.file.commit().context("the book of jobs")
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Job { id, entry } => {
                if self.jobs.insert(id, *entry).is_none() {
                    self.order.push_back(id);
                }
            }
            Record::Part { id, report, paid } => {
                let Some(entry) = self.jobs.get_mut(&id) else { return };
                entry.tasks += 1;
                entry.attempts = entry.attempts.saturating_add(report.attempts);
                entry.paid.extend(paid);
                entry.spilled.extend(&report.spilled);
                for node in &report.wrong {
                    if !entry.wrong.contains(node) {
                        entry.wrong.push(*node);
                    }
                }
                if report.verification != Verification::None {
                    let how = report.verification.to_string();
                    let several = entry.verification.as_ref().is_some_and(|known| *known != how);
                    // Of a map job the weakest is not known from the text; it says that there are several.
                    entry.verification = Some(if several { "several".to_owned() } else { how });
                }
                if matches!(entry.spec, Some(Spec::Map(_))) {
                    entry.parts.push(report);
                }
            }
            Record::Ended { id, ended } => {
                if let Some(entry) = self.jobs.get_mut(&id) {
                    (entry.spec, entry.parts, entry.ended) = (None, Vec::new(), Some(ended));
                }
            }
            Record::Settled { id, transactions } => {
                if let Some(entry) = self.jobs.get_mut(&id) {
                    entry.settled = Some(transactions);
                }
            }
        }
    }

    fn write(&mut self, record: Record) -> Result<()> {
        self.journal.append(&record)?;
        self.apply(record);
        while self.order.len() > REMEMBERED {
            let ended = |id: &Hash| self.jobs.get(id).is_none_or(|entry| entry.ended.is_some());
            let Some(place) = self.order.iter().position(ended) else { break };
            self.order.remove(place).map(|id| self.jobs.remove(&id));
        }
        let live = self.jobs.values().map(|entry| 1 + entry.parts.len()).sum();
        self.journal.tidy(live, || {
            let entries = self.order.iter().filter_map(|id| Some((*id, self.jobs.get(id)?)));
            entries.map(|(id, entry)| Record::Job { id, entry: Box::new(entry.clone()) }).collect()
        })?;
        Ok(())
    }

    /// Puts a job on record. One that is known changes nothing.
    pub(super) fn take(&mut self, at: Millis, name: String, spec: Spec) -> Result<()> {
        let id = spec.id();
        if self.jobs.contains_key(&id) {
            return Ok(());
        }
        let entry = Entry {
            at,
            name,
            kind: spec.kind().to_owned(),
            fund: spec.fund(),
            cap: spec.cap(),
            spec: Some(spec),
            parts: Vec::new(),
            paid: Vec::new(),
            tasks: 0,
            attempts: 0,
            wrong: Vec::new(),
            spilled: Vec::new(),
            verification: None,
            ended: None,
            settled: None,
        };
        self.write(Record::Job { id, entry: Box::new(entry) })
    }

    /// A task of a job ended.
    pub(super) fn part(&mut self, id: Hash, report: Report, paid: Vec<Paid>) -> Result<()> {
        self.write(Record::Part { id, report, paid })
    }

    /// A job ended. The first end counts.
    pub(super) fn end(&mut self, id: Hash, ended: Ended) -> Result<()> {
        match self.jobs.get(&id) {
            Some(entry) if entry.ended.is_none() => self.write(Record::Ended { id, ended }),
            _ => Ok(()),
        }
    }

    /// Learns what a fund has paid.
    pub(super) fn settled(&mut self, fund: u64, settled: &[Settled]) -> Result<()> {
        let waits = |entry: &Entry| entry.fund == fund && entry.ended.is_some() && entry.settled.is_none();
        let done = self.jobs.iter().filter(|(_, entry)| waits(entry)).filter_map(|(id, entry)| {
            let (transactions, all) = entry.settlement(settled);
            all.then_some((*id, transactions))
        });
        for (id, transactions) in done.collect::<Vec<_>>() {
            self.write(Record::Settled { id, transactions })?;
        }
        Ok(())
    }

    pub(super) fn get(&self, id: &Hash) -> Option<&Entry> {
        self.jobs.get(id)
    }

    /// Jobs in the order in which they came.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Hash, &Entry)> {
        self.order.iter().filter_map(|id| Some((id, self.jobs.get(id)?)))
    }

    /// Jobs that have not ended.
    pub(super) fn open_jobs(&self) -> impl Iterator<Item = (&Hash, &Entry)> {
        self.iter().filter(|(_, entry)| entry.ended.is_none())
    }

    /// Blobs that open jobs read, or that their parts gave.
    pub(super) fn used_blobs(&self) -> BTreeSet<BlobHash> {
        let mut used = BTreeSet::new();
        for (_, entry) in self.open_jobs() {
            let outputs = entry.parts.iter().filter_map(|part| part.output.as_ref());
            used.extend(outputs.flat_map(|output| output.blobs()).map(|blob| blob.hash));
            let blobs = match &entry.spec {
                Some(Spec::Task(spec)) => spec.work.blobs(),
                Some(Spec::Map(spec)) => spec.blobs(),
                None => Vec::new(),
            };
            used.extend(blobs.into_iter().map(|blob| blob.hash));
        }
        used
    }

    /// What the open jobs of a fund may still cost.
    pub(super) fn claimed(&self, fund: u64) -> TFuelWei {
        sum(self.open_jobs().filter(|(_, entry)| entry.fund == fund).map(|(_, entry)| entry.left()))
    }

    /// A job as the command contract shows it (cli.md). `state` is that of an open one, `settled` what its fund has paid.
    pub(super) fn view(&self, id: &Hash, state: State, settled: &[Settled]) -> Option<Value> {
        let entry = self.jobs.get(id)?;
        let mut workers: BTreeMap<NodeId, (u32, TFuelWei)> = BTreeMap::new();
        for paid in &entry.paid {
            let (tasks, amount) = workers.entry(paid.node).or_default();
            (*tasks, *amount) = (*tasks + 1, sum([*amount, paid.amount].into_iter()));
        }
        let workers: Vec<Value> = workers
            .iter()
            .map(|(node, (tasks, amount))| {
                json!({ "node": node.0.to_checksum(None), "tasks": tasks, "paidTfuelWei": amount })
            })
            .collect();
        let spilled = |(node, why): &(NodeId, Spill)| json!({ "node": node.0.to_checksum(None), "why": why });
        let ended = entry.ended.as_ref();
        let error = ended.and_then(|ended| ended.error.as_ref());
        let (now, all) = entry.settlement(settled);
        let (settlement, complete) = match &entry.settled {
            Some(transactions) => (transactions.clone(), true),
            None => (now, all && ended.is_some()),
        };
        Some(json!({
            "jobId": id,
            "kind": entry.kind,
            "name": entry.name,
            "state": ended.map_or(state, |ended| ended.state),
            "submittedMs": entry.at,
            "endedMs": ended.map(|ended| ended.at),
            "tasks": entry.tasks,
            "attempts": entry.attempts,
            "outputHash": ended.and_then(|ended| ended.stdout).map(|stdout| stdout.hash),
            "exitCode": ended.and_then(|ended| ended.exit),
            "maxTfuelWei": entry.cap,
            "paidTfuelWei": entry.paid(),
            "burnedTfuelWei": sum(entry.paid.iter().map(|paid| paid.burned)),
            "workers": workers,
            "wrong": entry.wrong.iter().map(|node| node.0.to_checksum(None)).collect::<Vec<_>>(),
            "spilled": entry.spilled.iter().map(spilled).collect::<Vec<_>>(),
            "verification": entry.verification.as_deref().unwrap_or("none"),
            "settlement": settlement,
            "settled": complete,
            "error": error.map(|(code, message)| json!({ "code": code, "message": message })),
        }))
    }
}
