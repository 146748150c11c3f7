//! Loads a network through its own RPC and measures what comes of it.
//!
//! Everything is signed before the clock starts. Workers send batches over connections that they keep, each to one node,
//! each with senders of its own; one watcher at another node takes down when a transaction is told to be settled. At a
//! fixed rate a transaction's time runs from when it was to be sent, also where the node was too slow to take it then.
//! At the end everything that was accepted has to be accounted for, all nodes have to hold the same state, and every
//! sender exactly what it did not spend; otherwise the figures are worth nothing and the run fails.

mod audit;
mod endpoint;
mod offer;
mod sweep;
mod usage;
mod watch;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use serde::Serialize;
use theta_core::sign::SecretKey;

pub use self::sweep::{Step, Sweep, sweep};
use self::{
    audit::Audit,
    endpoint::Endpoint,
    offer::{Book, Offer},
    usage::Usage,
};

/// Whom to load.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// URLs of `theta.*` servers, one for each node; empty where only Ethereum's are spoken.
    pub theta: Vec<String>,
    /// URLs of `eth_*` servers, one for each node.
    pub ethereum: Vec<String>,
    /// The nodes' processes on this machine, whose use of it is measured.
    pub pids: Vec<u32>,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One wei of TFUEL to an account: a native transaction where `theta.*` is spoken, else a plain transfer.
    Send,
    /// One wei as an Ethereum wallet sends it.
    Transfer,
}

/// How fast.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many transactions a second, whether or not they are taken.
    Rate(f64),
    /// As fast as so many unsettled ones allow.
    Closed(usize),
}

/// What to do to a network.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is sent.
    pub kind: Kind,
    /// How fast.
    pub pace: Pace,
    /// For how long, the warm-up of [`WARM_UP`] included.
    pub seconds: u64,
    /// Transactions in a call.
    pub batch: usize,
    /// Connections to each node.
    pub connections: usize,
    /// Who pays; each has coins.
    pub senders: Vec<SecretKey>,
    /// How many different accounts receive.
    pub receivers: u64,
    /// Who receives follows from this.
    pub seed: u64,
}

/// What comes before is not counted.
pub const WARM_UP: Duration = Duration::from_secs(5);
/// Most transactions of one run: a day of a thousand a second is no load test, and all are signed first.
const MOST: usize = 5_000_000;
/// Without a rate so many are signed for each second.
const SIGNED_PER_SECOND: usize = 8_000;
/// How long after the last settled transaction the others are waited for.
const QUIET: Duration = Duration::from_secs(20);

/// Milliseconds from when a transaction was to be sent to when it was told to be settled.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Latency {
    fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let at = |share: f64| {
            let place = ((micros.len() as f64 * share) as usize).min(micros.len().saturating_sub(1));
            micros.get(place).map_or(0.0, |micros| *micros as f64 / 1000.0)
        };
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
    }
}

/// What came of it. Rates are transactions a second, without the warm-up.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was sent.
    pub kind: Kind,
    /// How many were sent.
    pub offered: usize,
    /// How many a node took.
    pub accepted: usize,
    /// How many were refused, by what the node said.
    pub refused: BTreeMap<String, usize>,
    /// How many were settled.
    pub settled: usize,
    /// How many that were taken were dropped, by what a node says of them.
    pub dropped: BTreeMap<String, usize>,
    /// How many were sent in a second.
    pub offered_rate: f64,
    /// How many were settled in a second.
    pub settled_rate: f64,
    /// From send to settled.
    pub latency_ms: Latency,
    /// Blocks with transactions.
    pub blocks: usize,
    /// Seconds of processor that the nodes used, for each settled transaction, in millionths.
    pub cpu_micros_per_transaction: Option<f64>,
    /// The nodes' memory before and after, in bytes.
    pub memory_bytes: Option<(u64, u64)>,
    /// And after each minute.
    pub memory_by_minute: Vec<u64>,
    /// Bytes that the nodes wrote to disk, for each settled transaction.
    pub written_bytes_per_transaction: Option<f64>,
    /// How many processes wanted a core in the last minute.
    pub load_average: f64,
    /// What does not add up; empty in a run that counts.
    pub wrong: Vec<String>,
}

/// Runs the plan. `say` is told once a second where it is.
pub async fn run(target: &Target, plan: &Plan, say: impl Fn(&str)) -> Result<Report> {
    ensure!(!plan.senders.is_empty(), "nobody can send: name keys of accounts with coins");
    ensure!((1..=100).contains(&plan.batch), "a call holds 1 to 100 transactions");
    ensure!(plan.connections > 0, "at least one connection to each node is needed");
    ensure!(
        plan.seconds > WARM_UP.as_secs(),
        "the first {} seconds are not counted; run longer",
        WARM_UP.as_secs()
    );
    let native = !target.theta.is_empty();
    let ethereum = plan.kind == Kind::Transfer || !native;
    let urls = if ethereum { &target.ethereum } else { &target.theta };
    ensure!(!urls.is_empty(), "no server takes this kind: name --rpc or --eth-rpc");
    let endpoints: Vec<_> = urls.iter().map(|url| Endpoint::new(url, ethereum)).collect::<Result<_>>()?;
    let workers = endpoints.len() * plan.connections;
    ensure!(workers <= plan.senders.len(), "{workers} connections need as many senders at least");

    let most = match plan.pace {
        Pace::Rate(rate) => (rate * plan.seconds as f64).ceil() as usize,
        Pace::Closed(_) => SIGNED_PER_SECOND * plan.seconds as usize,
    };
    ensure!((1..=MOST).contains(&most), "a run sends 1 to {MOST} transactions, this would be {most}");
    say(&format!("signing {most} transactions of {} senders", plan.senders.len()));
    let audit = Audit::begin(target, &plan.senders).await?;
    let offers = offer::sign(plan, &endpoints, workers, most, native).await?;
    let book = std::sync::Arc::new(Book::new(&offers));

    let before = Usage::of(&target.pids);
    let started = Instant::now();
    let watching = if native {
        tokio::spawn(watch::theta(target.theta.clone(), book.clone(), started))
    } else {
        tokio::spawn(watch::ethereum(Endpoint::new(&target.ethereum[0], true)?, book.clone(), started))
    };
    let sending = Sending {
        started,
        end: Duration::from_secs(plan.seconds),
        batch: plan.batch,
        pace: plan.pace,
        workers,
        refused: Mutex::default(),
    };
    let sending = std::sync::Arc::new(sending);
    let mut tasks = tokio::task::JoinSet::new();
    for (worker, offers) in offers.into_iter().enumerate() {
        let endpoint = endpoints[worker % endpoints.len()].clone();
        tasks.spawn(send(sending.clone(), worker, endpoint, offers, book.clone()));
    }
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let (mut last, mut minutes) = (0, Vec::new());
    let mut quiet = Instant::now();
    let mut done_sending = false;
    loop {
        tokio::select! {
            ended = tasks.join_next(), if !done_sending => match ended {
                Some(ended) => ended?,
                None => done_sending = true,
            },
            _ = tick.tick() => {
                let (accepted, settled) = (book.accepted(), book.settled());
                say(&format!(
                    "{:>4} s: {accepted} accepted, {settled} settled, {} in the last second",
                    started.elapsed().as_secs(),
                    settled - last,
                ));
                if settled != last {
                    quiet = Instant::now();
                }
                last = settled;
                if !target.pids.is_empty() && started.elapsed().as_secs() / 60 > minutes.len() as u64 {
                    minutes.push(Usage::of(&target.pids).memory);
                }
            }
        }
        if done_sending && (book.settled() >= book.accepted() || quiet.elapsed() > QUIET) {
            break;
        }
    }
    let after = Usage::of(&target.pids);
    watching.abort();
    // What it ended with before it was told to is what counts.
    let watched = match watching.await {
        Ok(Err(error)) => Some(format!("the watcher stopped: {error:#}")),
        _ => None,
    };
    let (mut wrong, dropped) = audit.end(target, &book, plan.kind, native).await?;
    wrong.extend(watched);
    let refused = std::mem::take(&mut *sending.refused.lock());
    let counted = book.counted(WARM_UP, Duration::from_secs(plan.seconds));
    let span = (plan.seconds - WARM_UP.as_secs()) as f64;
    let settled = book.settled();
    let each = |all: u64| (settled > 0 && !target.pids.is_empty()).then(|| all as f64 / settled as f64);
    Ok(Report {
        kind: plan.kind,
        offered: book.offered(),
        accepted: book.accepted(),
        refused,
        settled,
        dropped,
        offered_rate: counted.offered as f64 / span,
        settled_rate: counted.settled as f64 / span,
        latency_ms: Latency::of(counted.latencies),
        blocks: book.blocks(),
        cpu_micros_per_transaction: each(after.cpu_micros.saturating_sub(before.cpu_micros)),
        memory_bytes: (!target.pids.is_empty()).then_some((before.memory, after.memory)),
        memory_by_minute: minutes,
        written_bytes_per_transaction: each(after.written.saturating_sub(before.written)),
        load_average: usage::load_average(),
        wrong,
    })
}

/// What all workers share.
struct Sending {
    started: Instant,
    end: Duration,
    batch: usize,
    pace: Pace,
    workers: usize,
    refused: Mutex<BTreeMap<String, usize>>,
}

impl Sending {
    /// When a worker's transaction is to be sent, where the pace says so.
    fn due(&self, worker: usize, place: usize) -> Option<Duration> {
        match self.pace {
            Pace::Rate(rate) => {
                let nth = (place * self.workers + worker) as f64;
                Some(Duration::from_secs_f64(nth / rate))
            }
            Pace::Closed(_) => None,
        }
    }
}

async fn send(
    all: std::sync::Arc<Sending>,
    worker: usize,
    endpoint: Endpoint,
    offers: Vec<Offer>,
    book: std::sync::Arc<Book>,
) {
    for (nth, batch) in offers.chunks(all.batch).enumerate() {
        let first = nth * all.batch;
        if let Some(due) = all.due(worker, first + batch.len() - 1) {
            tokio::time::sleep_until((all.started + due).into()).await;
        }
        if let Pace::Closed(unsettled) = all.pace {
            while book.unsettled(worker) + batch.len() > (unsettled / all.workers).max(batch.len()) {
                if all.started.elapsed() >= all.end {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let now = all.started.elapsed();
        if now >= all.end && matches!(all.pace, Pace::Closed(_)) {
            return;
        }
        for (place, offer) in batch.iter().enumerate() {
            book.sent(offer, all.due(worker, first + place).unwrap_or(now));
        }
        for (offer, answer) in batch.iter().zip(endpoint.submit(batch).await) {
            match answer {
                Ok(()) => book.took(worker, offer),
                Err(text) => *all.refused.lock().entry(text).or_default() += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_places_in_the_sorted_row() {
        let latency = Latency::of((1..=1000).rev().map(|milli| milli * 1000).collect());
        assert_eq!((latency.p50, latency.p95, latency.p99, latency.max), (501.0, 951.0, 991.0, 1000.0));
        let none = Latency::of(Vec::new());
        assert_eq!((none.p50, none.max), (0.0, 0.0));
    }
}
