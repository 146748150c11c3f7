//! What a node counts and times, in Prometheus's text form.
//!
//! What can be read off the node when it is asked (heights, peers, the pool) is; the rest is counted where it happens.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{clock::now_millis, node::NodeHandle};

/// By what a family of counters is told apart.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct Label {
    /// What happened.
    pub(crate) result: &'static str,
}

fn seconds() -> Histogram {
    // From half a millisecond to half a minute.
    Histogram::new(exponential_buckets(0.0005, 2.0, 17))
}

/// A node's counters. Clones are one.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    /// Carrying out a block.
    pub(crate) execute: Histogram,
    /// Storing blocks that are settled.
    pub(crate) commit: Histogram,
    /// Writing to the log of consensus.
    pub(crate) log: Histogram,
    /// Transactions in settled blocks.
    pub(crate) settled: Counter,
    /// Transactions that came, by what became of them.
    pub(crate) arrived: Family<Label, Counter>,
    /// Messages and blocks of peers that broke a rule.
    pub(crate) refused: Counter,
    now: Now,
}

/// What is read off the node when it is asked.
#[derive(Clone, Debug, Default)]
struct Now {
    settled_height: Gauge,
    final_height: Gauge,
    tip_height: Gauge,
    epoch: Gauge,
    peers: Gauge,
    waiting: Gauge,
    syncing: Gauge,
    block_age: Gauge,
    memory: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("theta");
        let now = Now::default();
        for (name, help, gauge) in [
            ("settled_height", "Height of the newest settled block", &now.settled_height),
            (
                "final_height",
                "Height of the newest final checkpoint, 0 before there is one",
                &now.final_height,
            ),
            ("tip_height", "Height of the newest executed block", &now.tip_height),
            ("epoch", "The epoch that this node is in", &now.epoch),
            ("peers", "Connected peers", &now.peers),
            ("pool_transactions", "Transactions that wait", &now.waiting),
            ("syncing", "1 while this node is far behind its peers", &now.syncing),
        ] {
            registry.register(name, help, gauge.clone());
        }
        let age = "Since the newest settled block's timestamp";
        registry.register_with_unit("settled_age", age, Unit::Seconds, now.block_age.clone());
        registry.register_with_unit("memory", "Resident memory", Unit::Bytes, now.memory.clone());
        let counted = Self {
            execute: seconds(),
            commit: seconds(),
            log: seconds(),
            settled: Counter::default(),
            arrived: Family::default(),
            refused: Counter::default(),
            registry: Arc::default(),
            now,
        };
        for (name, help, histogram) in [
            ("block_execution", "Carrying out a block", &counted.execute),
            ("block_commit", "Storing settled blocks durably", &counted.commit),
            ("consensus_log", "Writing to the log of consensus durably", &counted.log),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        registry.register("settled_transactions", "Transactions in settled blocks", counted.settled.clone());
        let help = "Transactions that came, by what became of them";
        registry.register("arrived_transactions", help, counted.arrived.clone());
        let help = "Messages and blocks of peers that broke a rule";
        registry.register("refused_messages", help, counted.refused.clone());
        *counted.registry.lock() = registry;
        counted
    }
}

impl Metrics {
    /// All of it, as Prometheus reads it.
    pub(crate) fn text(&self, node: &NodeHandle) -> String {
        let progress = *node.progress.borrow();
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let now = &self.now;
        now.settled_height.set(number(progress.settled));
        now.final_height.set(number(progress.final_checkpoint.map_or(0, |(_, height)| height)));
        now.tip_height.set(number(progress.tip.1));
        now.epoch.set(number(progress.epoch));
        now.peers.set(number(node.peer_count() as u64));
        now.waiting.set(number(node.mempool.lock().len() as u64));
        now.syncing.set(i64::from(progress.syncing));
        now.block_age.set(number(settled_age(node)));
        now.memory.set(number(memory()));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}

/// Seconds since the newest settled block's timestamp; 0 where its clock is ahead.
pub(crate) fn settled_age(node: &NodeHandle) -> u64 {
    let made = u64::try_from(&node.reader.settled().header.timestamp).unwrap_or(u64::MAX);
    (now_millis() / 1000).saturating_sub(made)
}

/// Resident memory in bytes as Linux tells; 0 elsewhere.
fn memory() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * 4096
}
