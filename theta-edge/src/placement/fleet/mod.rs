//! The nodes that work can go to: their free capacity, and which of them suits a task best (edge.md 3.3, 3.4).
//!
//! A node's row is about a hundred bytes. Rows of a class stand in buckets by what is free of each resource, so that a
//! few that fit are found without looking at the rest; the best of those gets the task. Equal nodes are told apart by how
//! long they have had nothing to do, never by their names.

mod pick;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use theta_core::hash::Hash;

use super::class::{Classes, Selector, Traits};
use crate::Millis;
use crate::identity::NodeId;
pub use pick::{Pick, Unfit, Weights, Wish};

/// GPUs of one node.
pub const MAX_GPUS: usize = 8;
/// GPU memory is counted in units of so many MiB.
const VRAM_UNIT: u32 = 64;
/// Resources that are indexed: processor, memory, GPU memory.
const RESOURCES: usize = 3;
/// Results after which it is believed how fast a node is.
const PROVEN: u8 = 3;
/// A node whose tasks take so many percent of what they take elsewhere is slow.
const SLOW_PERCENT: u16 = 200;
/// Hundredths of a second without work after which a slow node is tried again.
const SECOND_CHANCE: u32 = 6_000;
/// No place in a bucket.
const NOWHERE: u32 = u32::MAX;

/// What one attempt takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Need {
    /// Thousandths of a core.
    pub cpu_milli: u32,
    /// Memory in MiB.
    pub mem_mib: u32,
    /// Memory of one GPU in MiB; 0 for none.
    pub vram_mib: u32,
}

/// What a node offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// What it is told apart by.
    pub traits: Traits,
    /// Thousandths of a core.
    pub cpu_milli: u32,
    /// Memory in MiB.
    pub mem_mib: u32,
    /// GPUs, at most [`MAX_GPUS`].
    pub gpus: u8,
    /// Memory of each in MiB.
    pub vram_mib: u32,
    /// Whose it is; replicas and clones go to different ones.
    pub operator: u32,
    /// Attempts at a time.
    pub credits: u16,
    /// What an hour of a core costs, in millionths of a TFUEL.
    pub price: u32,
    /// Speed beside a middling node, in percent.
    pub speed: u16,
    /// TFUEL staked to it as an elite edge node.
    pub stake: u64,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            traits: Traits::default(),
            cpu_milli: 2_000,
            mem_mib: 2_048,
            gpus: 0,
            vram_mib: 0,
            operator: 0,
            credits: 2,
            price: 1,
            speed: 100,
            stake: 0,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) id: NodeId,
    free: [u32; 2],
    total: [u32; 2],
    /// Free memory of each GPU, in units.
    gpus: [u16; MAX_GPUS],
    gpu_total: u16,
    gpu_count: u8,
    pub(super) open: bool,
    /// It gets only what others do as well.
    pub(super) probation: bool,
    pub(super) class: u16,
    credits: u16,
    pub(super) operator: u32,
    price: u32,
    speed: u16,
    pub(super) reputation: u16,
    stake: u8,
    /// In hundredths of a second, when it last was given something.
    last_given: u32,
    version: u32,
    buckets: [u8; RESOURCES],
    places: [u32; RESOURCES],
    /// First of its attempts.
    pub(super) attempts: u32,
    pub(super) running: u16,
    /// How long its tasks took beside the median of their shapes, in percent: a moving mean over some sixteen.
    took: u16,
    /// Results that went into it, up to [`PROVEN`].
    timed: u8,
}

impl Row {
    /// Whether its results have come much later than those of others. One that was given nothing for long gets another
    /// chance: what it was measured by may have changed.
    pub(super) const fn is_slow(&self, now: Millis) -> bool {
        let idle = ((now / 10) as u32).wrapping_sub(self.last_given);
        self.timed >= PROVEN && self.took >= SLOW_PERCENT && idle < SECOND_CHANCE
    }

    pub(super) const fn speed(&self) -> u16 {
        self.speed
    }
}

/// The rows of one class by what is free of one resource.
#[derive(Clone, Debug)]
struct Buckets {
    bits: u128,
    rows: Vec<Vec<u32>>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { bits: 0, rows: vec![Vec::new(); 128] }
    }
}

/// Four buckets for each power of two, in order.
const fn bucket(free: u32) -> u8 {
    if free < 4 {
        return free as u8;
    }
    let log = free.ilog2();
    ((log - 1) * 4 + ((free >> (log - 2)) & 3)) as u8
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Fleet {
    pub(super) classes: Classes,
    pub(super) rows: Vec<Row>,
    ids: HashMap<NodeId, u32>,
    index: Vec<[Buckets; RESOURCES]>,
    /// Of all open nodes: processor, memory, GPU memory in units.
    total: [u64; RESOURCES],
    free: [u64; RESOURCES],
    random: u64,
    /// Rows that were looked at, for growth laws.
    looked_at: u64,
}

impl Fleet {
    /// An empty one; equal seeds choose equally.
    pub fn new(seed: u64) -> Self {
        Self { random: seed, ..Self::default() }
    }

    /// Chooses by this from here on, so that a choice hangs on what it is for.
    pub fn reseed(&mut self, seed: &Hash) {
        let mut word = [0; 8];
        word.copy_from_slice(&seed[..8]);
        self.random = u64::from_le_bytes(word);
    }

    pub(super) const fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`, which is above 0.
    fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.random()) * end as u128) >> 64) as usize
    }

    /// Compiles a selector.
    pub fn selector(&mut self, selector: &Selector) -> u32 {
        self.classes.selector(selector)
    }

    /// The place of a node.
    pub fn find(&self, node: &NodeId) -> Option<u32> {
        self.ids.get(node).copied()
    }

    /// The node at a place.
    pub fn id(&self, node: u32) -> Option<NodeId> {
        self.rows.get(node as usize).map(|row| row.id)
    }

    /// Nodes that were ever there.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there never were any.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Processor, memory and GPU memory (in units of 64 MiB) of all open nodes.
    pub const fn total(&self) -> [u64; 3] {
        self.total
    }

    /// The same of what is free, of open nodes.
    pub const fn free(&self) -> [u64; 3] {
        self.free
    }

    /// How many rows picks have looked at so far, for counting work.
    pub const fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// Takes a node in, or its new offer, and opens it. `None` where there are too many classes.
    pub fn join(&mut self, id: NodeId, offer: &Offer) -> Option<u32> {
        let mut traits = offer.traits.clone();
        traits.executors.sort_unstable();
        let gpu_count = offer.gpus.min(MAX_GPUS as u8);
        if gpu_count == 0 {
            (traits.gpu, traits.vram_class) = (None, 0);
        } else {
            traits.gpu.get_or_insert_default();
            traits.vram_class = super::class::vram_class(offer.vram_mib);
        }
        let class = self.classes.class(&traits)?;
        self.index.resize_with(self.classes.len(), Default::default);
        let gpu_total = (offer.vram_mib / VRAM_UNIT).min(u32::from(u16::MAX)) as u16;
        let mut gpus = [0; MAX_GPUS];
        gpus[..usize::from(gpu_count)].fill(gpu_total);
        let total = [offer.cpu_milli, offer.mem_mib];
        let mut row = Row {
            id,
            free: total,
            total,
            gpus,
            gpu_total,
            gpu_count,
            open: false,
            probation: false,
            class,
            credits: offer.credits,
            operator: offer.operator,
            price: offer.price,
            speed: offer.speed,
            reputation: 0,
            // 10,000 TFUEL count one, twice as much one more, six at most (edge.md 1.6).
            stake: (offer.stake / 10_000).saturating_add(1).ilog2().min(6) as u8,
            last_given: 0,
            version: 0,
            buckets: [0; RESOURCES],
            places: [NOWHERE; RESOURCES],
            attempts: NOWHERE,
            running: 0,
            took: 100,
            timed: 0,
        };
        let node = match self.ids.get(&id) {
            Some(node) => {
                let node = *node;
                self.close(node);
                let old = &self.rows[node as usize];
                // What it is doing stays taken.
                for (free, (total, (old_free, old_total))) in
                    row.free.iter_mut().zip(row.total.iter().zip(old.free.iter().zip(&old.total)))
                {
                    *free = total.saturating_sub(old_total - old_free);
                }
                for (gpu, free) in row.gpus.iter_mut().take(usize::from(gpu_count)).zip(old.gpus) {
                    *gpu = gpu_total.saturating_sub(old.gpu_total.saturating_sub(free));
                }
                row.credits = offer.credits.saturating_sub(old.running);
                (row.attempts, row.running, row.reputation) = (old.attempts, old.running, old.reputation);
                row.probation = old.probation;
                (row.took, row.timed) = (old.took, old.timed);
                (row.last_given, row.version) = (old.last_given, old.version.wrapping_add(1));
                self.rows[node as usize] = row;
                node
            }
            None => {
                let node = self.rows.len() as u32;
                self.rows.push(row);
                self.ids.insert(id, node);
                node
            }
        };
        self.open(node);
        Some(node)
    }

    fn free_of(row: &Row, resource: usize) -> u32 {
        match resource {
            2 => u32::from(row.gpus.iter().copied().max().unwrap_or(0)),
            resource => row.free[resource],
        }
    }

    fn frees(row: &Row) -> [u64; RESOURCES] {
        let vram = row.gpus.iter().map(|free| u64::from(*free)).sum();
        [u64::from(row.free[0]), u64::from(row.free[1]), vram]
    }

    fn totals(row: &Row) -> [u64; RESOURCES] {
        let vram = u64::from(row.gpu_total) * u64::from(row.gpu_count);
        [u64::from(row.total[0]), u64::from(row.total[1]), vram]
    }

    /// Lets a node be given work.
    pub fn open(&mut self, node: u32) {
        let Some(row) = self.rows.get_mut(node as usize).filter(|row| !row.open) else { return };
        row.open = true;
        let (totals, frees) = (Self::totals(row), Self::frees(row));
        self.total.iter_mut().zip(totals).for_each(|(sum, part)| *sum += part);
        self.free.iter_mut().zip(frees).for_each(|(sum, part)| *sum += part);
        for resource in 0..RESOURCES {
            self.put(node, resource);
        }
    }

    /// Gives a node no more work; what it is doing goes on.
    pub fn close(&mut self, node: u32) {
        let Some(row) = self.rows.get_mut(node as usize).filter(|row| row.open) else { return };
        row.open = false;
        let (totals, frees) = (Self::totals(row), Self::frees(row));
        self.total.iter_mut().zip(totals).for_each(|(sum, part)| *sum -= part);
        self.free.iter_mut().zip(frees).for_each(|(sum, part)| *sum -= part);
        for resource in 0..RESOURCES {
            self.take_out(node, resource);
        }
    }

    fn put(&mut self, node: u32, resource: usize) {
        let row = &mut self.rows[node as usize];
        if resource == 2 && row.gpu_count == 0 {
            return;
        }
        let at = bucket(Self::free_of(row, resource));
        let buckets = &mut self.index[usize::from(row.class)][resource];
        let list = &mut buckets.rows[usize::from(at)];
        (row.buckets[resource], row.places[resource]) = (at, list.len() as u32);
        list.push(node);
        buckets.bits |= 1 << at;
    }

    fn take_out(&mut self, node: u32, resource: usize) {
        let row = &mut self.rows[node as usize];
        let place = std::mem::replace(&mut row.places[resource], NOWHERE);
        if place == NOWHERE {
            return;
        }
        let at = row.buckets[resource];
        let buckets = &mut self.index[usize::from(row.class)][resource];
        let list = &mut buckets.rows[usize::from(at)];
        list.swap_remove(place as usize);
        if let Some(moved) = list.get(place as usize) {
            self.rows[*moved as usize].places[resource] = place;
        } else if list.is_empty() {
            buckets.bits &= !(1 << at);
        }
    }

    fn moved(&mut self, node: u32) {
        for resource in 0..RESOURCES {
            let row = &self.rows[node as usize];
            if row.open
                && row.places[resource] != NOWHERE
                && row.buckets[resource] != bucket(Self::free_of(row, resource))
            {
                self.take_out(node, resource);
                self.put(node, resource);
            }
        }
    }

    /// Whether a node is as it was when it was picked.
    pub(super) fn is_fresh(&self, pick: &Pick) -> bool {
        self.rows.get(pick.node as usize).is_some_and(|row| row.version == pick.version)
    }

    /// Takes what an attempt needs from a node, unless the node has changed since it was picked: then it is to be picked
    /// again. Gives the GPU.
    pub fn reserve(&mut self, pick: &Pick, need: &Need, now: Millis) -> Option<u8> {
        if self.is_fresh(pick) { Some(self.take(pick.node, need, now)) } else { None }
    }

    /// The same whatever the node has free now, for an attempt that is on it already.
    pub(crate) fn take(&mut self, node: u32, need: &Need, now: Millis) -> u8 {
        let row = &mut self.rows[node as usize];
        let before = Self::frees(row);
        row.free[0] = row.free[0].saturating_sub(need.cpu_milli);
        row.free[1] = row.free[1].saturating_sub(need.mem_mib);
        row.credits = row.credits.saturating_sub(1);
        row.running += 1;
        row.version = row.version.wrapping_add(1);
        row.last_given = (now / 10) as u32;
        let mut device = u8::MAX;
        if need.vram_mib > 0 {
            let need = need.vram_mib.div_ceil(VRAM_UNIT) as u16;
            let gpus = row.gpus.iter_mut().take(usize::from(row.gpu_count)).enumerate();
            let fits = gpus.filter(|(_, free)| **free >= need);
            if let Some((index, free)) = fits.min_by_key(|(_, free)| **free) {
                *free -= need;
                device = index as u8;
            }
        }
        self.counted(node, before);
        device
    }

    /// Brings the sums and the index up to date after a row was changed.
    fn counted(&mut self, node: u32, before: [u64; RESOURCES]) {
        let row = &self.rows[node as usize];
        if row.open {
            let after = Self::frees(row);
            for ((sum, before), after) in self.free.iter_mut().zip(before).zip(after) {
                *sum = *sum + after - before;
            }
            self.moved(node);
        }
    }

    /// A task took a node so many percent of the median of its shape.
    pub(super) fn timed(&mut self, node: u32, percent: u64) {
        let Some(row) = self.rows.get_mut(node as usize) else { return };
        let percent = percent.min(5_000) as i32;
        // The first ones count in full, so that it starts from no guess.
        let weight = (i32::from(row.timed) + 1).min(16);
        row.took = (i32::from(row.took) + (percent - i32::from(row.took)) / weight) as u16;
        row.timed = row.timed.saturating_add(1).min(PROVEN.max(16));
    }

    /// Gives back what an attempt took.
    pub fn release(&mut self, node: u32, need: &Need, device: u8) {
        let Some(row) = self.rows.get_mut(node as usize) else { return };
        let before = Self::frees(row);
        row.free[0] = row.free[0].saturating_add(need.cpu_milli).min(row.total[0]);
        row.free[1] = row.free[1].saturating_add(need.mem_mib).min(row.total[1]);
        row.credits = row.credits.saturating_add(1);
        row.running = row.running.saturating_sub(1);
        row.version = row.version.wrapping_add(1);
        if let Some(free) = row.gpus.get_mut(usize::from(device)) {
            *free = free.saturating_add(need.vram_mib.div_ceil(VRAM_UNIT) as u16).min(row.gpu_total);
        }
        self.counted(node, before);
    }

    /// Whether a node would suit a job if it did nothing else.
    pub(super) fn could(&self, node: u32, job: &super::JobRequest) -> bool {
        let Some(row) = self.rows.get(node as usize) else { return false };
        let selector = Selector { vram_mib: job.need.vram_mib, ..job.selector.clone() };
        row.total[0] >= job.need.cpu_milli
            && row.total[1] >= job.need.mem_mib
            && u32::from(row.gpu_total) >= job.need.vram_mib.div_ceil(VRAM_UNIT)
            && row.price <= job.bid
            && row.reputation >= job.reputation
            && selector.matches(self.classes.traits(row.class))
    }

    /// Whether an open node has this much free and a place.
    pub fn has(&self, node: u32, need: &Need) -> bool {
        let Some(row) = self.rows.get(node as usize) else { return false };
        row.open
            && row.credits > 0
            && row.free[0] >= need.cpu_milli
            && row.free[1] >= need.mem_mib
            && (need.vram_mib == 0 || Self::free_of(row, 2) >= need.vram_mib.div_ceil(VRAM_UNIT))
    }

    /// How many attempts of this kind the open nodes of a selector could do at once if they did nothing else, at most;
    /// looks at every node.
    pub fn slots(&self, selector: u32, need: &Need) -> u64 {
        let set = self.classes.set(selector);
        let rows = self.rows.iter().filter(|row| row.open && set.contains(row.class));
        let of = |row: &Row| {
            let by = |total: u32, need: u32| total.checked_div(need).map_or(u64::MAX, u64::from);
            let vram = need.vram_mib.div_ceil(VRAM_UNIT);
            let gpus = by(u32::from(row.gpu_total), vram).saturating_mul(u64::from(row.gpu_count));
            let gpus = if vram == 0 { u64::MAX } else { gpus };
            let places = u64::from(row.credits) + u64::from(row.running);
            by(row.total[0], need.cpu_milli).min(by(row.total[1], need.mem_mib)).min(gpus).min(places)
        };
        rows.map(of).sum()
    }
}

#[cfg(test)]
mod tests;
