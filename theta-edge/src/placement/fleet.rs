//! The nodes that work can go to: their free capacity, and which of them suits a task best (edge.md 3.3, 3.4).
//!
//! A node's row is about a hundred bytes. Rows of a class stand in buckets by what is free of each resource, so that a
//! few that fit are found without looking at the rest; the best of those gets the task. Equal nodes are told apart by how
//! long they have had nothing to do, never by their names.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use theta_core::hash::Hash;

use super::class::{Classes, Selector, Traits};
use crate::Millis;
use crate::identity::NodeId;

/// Candidates that are compared (edge.md 3.4).
const SAMPLE: usize = 16;
/// Of which may be there because they hold an input.
const LOCAL: usize = 8;
/// Times a sample without a fit is drawn anew.
const RESAMPLES: usize = 3;
/// Nodes looked at one by one after that.
const WALK: usize = 256;
/// GPUs of one node.
pub const MAX_GPUS: usize = 8;
/// GPU memory is counted in units of so many MiB.
const VRAM_UNIT: u32 = 64;
/// Resources that are indexed: processor, memory, GPU memory.
const RESOURCES: usize = 3;
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

/// How much each side of a candidate counts (edge.md 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Little is left over.
    pub fit: f32,
    /// The input is there.
    pub locality: f32,
    /// It did well before, and has something to lose.
    pub reputation: f32,
    /// It is cheap beside the bid.
    pub price: f32,
    /// It is fast.
    pub speed: f32,
    /// It has had nothing to do for long.
    pub idle: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { fit: 1.0, locality: 1.5, reputation: 0.5, price: 0.3, speed: 0.3, idle: 0.2 }
    }
}

/// What is asked for one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// How much.
    pub need: Need,
    /// Of which classes ([`Fleet::selector`]).
    pub selector: u32,
    /// The most that an hour of a core may cost.
    pub bid: u32,
    /// Least reputation, in 65536ths.
    pub reputation: u16,
    /// Nodes that have the input.
    pub holders: &'a [u32],
    /// Nodes that are not asked.
    pub exclude: &'a [u32],
    /// Operators that are not asked.
    pub exclude_operators: &'a [u32],
    /// Least speed in percent.
    pub speed: u16,
    /// Others do the same, so that a node on probation will do.
    pub replicated: bool,
    /// How candidates are compared.
    pub weights: &'a Weights,
}

/// A node that suits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// Which.
    pub node: u32,
    /// As it was when it was looked at.
    pub version: u32,
    /// How well it suits.
    pub score: f32,
}

/// Why a node does not suit, for [`super::Placement::explain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Unfit {
    /// It is gone, is leaving or is not trusted yet.
    Closed,
    /// Its class lacks something.
    Class,
    /// All its places are taken.
    Credits,
    /// Too little processor is free.
    Cpu,
    /// Too little memory is free.
    Memory,
    /// No GPU has so much free.
    Vram,
    /// It asks for more than is bid.
    Price,
    /// It did too badly before.
    Reputation,
    /// It is too slow.
    Speed,
    /// It had its chance.
    Excluded,
    /// Its operator has another attempt of the task.
    Operator,
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
}

impl Row {
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

    /// Why a node does not suit, if it does not.
    pub(super) fn unfit(&self, node: u32, wish: &Wish<'_>) -> Option<Unfit> {
        let row = &self.rows[node as usize];
        let need = &wish.need;
        if !row.open || (row.probation && !wish.replicated) {
            Some(Unfit::Closed)
        } else if row.credits == 0 {
            Some(Unfit::Credits)
        } else if row.free[0] < need.cpu_milli {
            Some(Unfit::Cpu)
        } else if row.free[1] < need.mem_mib {
            Some(Unfit::Memory)
        } else if need.vram_mib > 0 && Self::free_of(row, 2) < need.vram_mib.div_ceil(VRAM_UNIT) {
            Some(Unfit::Vram)
        } else if row.price > wish.bid {
            Some(Unfit::Price)
        } else if row.reputation < wish.reputation {
            Some(Unfit::Reputation)
        } else if row.speed < wish.speed {
            Some(Unfit::Speed)
        } else if !self.classes.set(wish.selector).contains(row.class) {
            Some(Unfit::Class)
        } else if wish.exclude.contains(&node) {
            Some(Unfit::Excluded)
        } else if wish.exclude_operators.contains(&row.operator) {
            Some(Unfit::Operator)
        } else {
            None
        }
    }

    fn score(&self, node: u32, wish: &Wish<'_>, now: Millis) -> f32 {
        let row = &self.rows[node as usize];
        let (need, weights) = (&wish.need, wish.weights);
        let used = |need: u32, free: u32| need as f32 / free.max(1) as f32;
        let fit = if need.vram_mib > 0 {
            // The least that is left of a GPU, and best nothing or half of it.
            let need = need.vram_mib.div_ceil(VRAM_UNIT);
            let gpus = row.gpus.iter().take(usize::from(row.gpu_count));
            let left = gpus.filter_map(|free| u32::from(*free).checked_sub(need)).min().unwrap_or(0);
            let total = u32::from(row.gpu_total).max(1);
            let whole = left == 0 || left.is_power_of_two();
            0.9 * (1.0 - left as f32 / total as f32) + if whole { 0.1 } else { 0.0 }
        } else {
            // A node with GPUs is kept for tasks that need one.
            let fit = f32::midpoint(used(need.cpu_milli, row.free[0]), used(need.mem_mib, row.free[1]));
            if row.gpu_count > 0 { fit - 1.0 } else { fit }
        };
        let locality = if wish.holders.contains(&node) { 1.0 } else { 0.0 };
        let trust = f32::from(row.reputation) / 65_536.0 + f32::from(row.stake) / 60.0;
        let price = 1.0 - row.price as f32 / wish.bid.max(1) as f32;
        let speed = f32::from(row.speed.min(400)) / 400.0;
        let idle = ((now / 10) as u32).wrapping_sub(row.last_given).min(100_000) as f32 / 100_000.0;
        weights.fit * fit
            + weights.locality * locality
            + weights.reputation * trust
            + weights.price * price
            + weights.speed * speed
            + weights.idle * idle
    }

    /// The resource of which a task takes the largest share of the fleet: the one that it is searched by.
    fn bottleneck(&self, need: &Need) -> (usize, u32) {
        let needs = [need.cpu_milli, need.mem_mib, need.vram_mib.div_ceil(VRAM_UNIT)];
        let share = |resource: usize| u128::from(needs[resource]) << 32;
        let mut best = 0;
        for resource in 1..RESOURCES {
            let (a, b) = (u128::from(self.total[resource].max(1)), u128::from(self.total[best].max(1)));
            if share(resource) * b > share(best) * a {
                best = resource;
            }
        }
        (best, needs[best])
    }

    /// The best of a few nodes that suit; `None` where none was found. `tell` hears of each that was looked at.
    pub fn pick(
        &mut self,
        wish: &Wish<'_>,
        now: Millis,
        mut tell: impl FnMut(u32, Result<f32, Unfit>),
    ) -> Option<Pick> {
        let mut best: Option<Pick> = None;
        let mut looked = 0;
        let mut look = |fleet: &Self, node: u32, best: &mut Option<Pick>| {
            looked += 1;
            if let Some(unfit) = fleet.unfit(node, wish) {
                tell(node, Err(unfit));
                return;
            }
            let score = fleet.score(node, wish, now);
            tell(node, Ok(score));
            if best.is_none_or(|best| score > best.score) {
                let version = fleet.rows[node as usize].version;
                *best = Some(Pick { node, version, score });
            }
        };
        for node in wish.holders.iter().filter(|node| (**node as usize) < self.rows.len()).take(LOCAL) {
            look(self, *node, &mut best);
        }
        let (resource, need) = self.bottleneck(&wish.need);
        let at = bucket(need);
        let enough = u128::MAX << at;
        let classes = self.classes.list(wish.selector).len();
        if classes == 0 {
            return best;
        }
        for round in 0..=RESAMPLES {
            if best.is_some() && round > 0 {
                break;
            }
            let start = self.below(classes);
            let mut missed = 0;
            let mut found = 0;
            // Classes in turn, until there are enough or all of them have none.
            let mut turn = start;
            while found < SAMPLE && missed < classes {
                let class = self.classes.list(wish.selector)[turn];
                turn = if turn + 1 == classes { 0 } else { turn + 1 };
                let bits = self.index[usize::from(class)][resource].bits & enough;
                if bits == 0 {
                    missed += 1;
                    continue;
                }
                missed = 0;
                // By turns from the tightest bucket that holds enough for sure, and from any.
                let tight = bits & (enough << 1);
                let bits = if found % 2 == 0 && tight != 0 { tight } else { bits };
                let list = if found % 2 == 0 || bits.count_ones() == 1 {
                    bits.trailing_zeros()
                } else {
                    let skip = self.below(bits.count_ones() as usize);
                    (0..skip).fold(bits, |bits, _| bits & (bits - 1)).trailing_zeros()
                };
                let length = self.index[usize::from(class)][resource].rows[list as usize].len();
                let place = self.below(length);
                let node = self.index[usize::from(class)][resource].rows[list as usize][place];
                found += 1;
                look(self, node, &mut best);
            }
            if found == 0 {
                break;
            }
        }
        if best.is_none() {
            // Where few suit, a sample may miss them all.
            let mut left = WALK;
            let start = self.below(classes);
            'walk: for turn in 0..classes {
                let class = self.classes.list(wish.selector)[(start + turn) % classes];
                let buckets = &self.index[usize::from(class)][resource];
                let mut bits = buckets.bits & enough;
                while bits != 0 {
                    for node in &buckets.rows[bits.trailing_zeros() as usize] {
                        if left == 0 {
                            break 'walk;
                        }
                        left -= 1;
                        look(self, *node, &mut best);
                        if best.is_some() {
                            break 'walk;
                        }
                    }
                    bits &= bits - 1;
                }
            }
        }
        self.looked_at += looked;
        best
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

    /// Whether an open node has this much free and a place.
    pub fn has(&self, node: u32, need: &Need) -> bool {
        let Some(row) = self.rows.get(node as usize) else { return false };
        row.open
            && row.credits > 0
            && row.free[0] >= need.cpu_milli
            && row.free[1] >= need.mem_mib
            && (need.vram_mib == 0 || Self::free_of(row, 2) >= need.vram_mib.div_ceil(VRAM_UNIT))
    }

    /// Whether a node is good and cheap enough.
    pub(super) fn suits(&self, node: u32, bid: u32, reputation: u16, replicated: bool) -> bool {
        let row = &self.rows[node as usize];
        row.price <= bid && row.reputation >= reputation && (replicated || !row.probation)
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
mod tests {
    use super::*;
    use theta_core::hash::Address;

    fn id(number: u64) -> NodeId {
        NodeId(Address::from_word(theta_core::hash::U256::from(number + 1).into()))
    }

    fn wish<'a>(need: Need, selector: u32, weights: &'a Weights) -> Wish<'a> {
        Wish {
            need,
            selector,
            bid: 10,
            reputation: 0,
            holders: &[],
            exclude: &[],
            exclude_operators: &[],
            speed: 0,
            replicated: false,
            weights,
        }
    }

    #[test]
    fn buckets_keep_the_order() {
        let mut last = 0;
        for free in (0..100_000).chain([1 << 20, 1 << 24, 1 << 30, u32::MAX]) {
            let at = bucket(free);
            assert!(at >= last && at < 128, "{free}");
            last = at;
        }
    }

    #[test]
    fn the_only_node_that_fits_is_found_among_many_that_do_not() {
        let mut fleet = Fleet::new(1);
        let any = fleet.selector(&Selector::default());
        // All have processor enough, one has memory enough, one other has both and is too dear.
        for number in 0..10_000 {
            let mem_mib = if number % 5_000 == 77 { 4_000 } else { 100 };
            let price = if number == 77 { 11 } else { 1 };
            fleet.join(id(number), &Offer { cpu_milli: 8_000, mem_mib, price, ..Offer::default() });
        }
        let weights = Weights::default();
        let need = Need { cpu_milli: 1_000, mem_mib: 2_000, vram_mib: 0 };
        let pick = fleet.pick(&wish(need, any, &weights), 0, |_, _| {}).unwrap();
        assert_eq!(pick.node, 5_077);
        let excluded = Wish { exclude: &[5_077], ..wish(need, any, &weights) };
        assert!(fleet.pick(&excluded, 0, |_, _| {}).is_none());
    }

    #[test]
    fn what_is_reserved_cannot_be_given_twice_and_comes_back() {
        let mut fleet = Fleet::new(1);
        let any = fleet.selector(&Selector { vram_mib: 1, ..Selector::default() });
        let offer = Offer { gpus: 2, vram_mib: 24_000, credits: 8, ..Offer::default() };
        fleet.join(id(0), &offer);
        let weights = Weights::default();
        let need = Need { cpu_milli: 100, mem_mib: 100, vram_mib: 16_000 };
        let mut given = Vec::new();
        while let Some(pick) = fleet.pick(&wish(need, any, &weights), 0, |_, _| {}) {
            given.push(fleet.reserve(&pick, &need, 0).unwrap());
        }
        given.sort_unstable();
        assert_eq!(given, [0, 1], "one on each GPU, though 16 GB are free in all");
        let small = Need { vram_mib: 8_000, ..need };
        let pick = fleet.pick(&wish(small, any, &weights), 0, |_, _| {}).unwrap();
        fleet.release(0, &need, 0);
        assert!(fleet.reserve(&pick, &small, 0).is_none(), "it has changed since");
        assert!(fleet.has(0, &need));
        fleet.close(0);
        assert!(fleet.pick(&wish(need, any, &weights), 0, |_, _| {}).is_none());
        assert_eq!(fleet.total(), [0; 3]);
    }

    #[test]
    fn equal_nodes_share_the_work() {
        let mut fleet = Fleet::new(1);
        let any = fleet.selector(&Selector::default());
        for number in 0..50 {
            fleet.join(id(number), &Offer::default());
        }
        let (weights, need) = (Weights::default(), Need { cpu_milli: 100, mem_mib: 10, vram_mib: 0 });
        let mut count = [0_u32; 50];
        for round in 0..5_000_u64 {
            let now = round * 1_000;
            let pick = fleet.pick(&wish(need, any, &weights), now, |_, _| {}).unwrap();
            let device = fleet.reserve(&pick, &need, now).unwrap();
            fleet.release(pick.node, &need, device);
            count[pick.node as usize] += 1;
        }
        assert!(count.iter().all(|count| (60..=140).contains(count)), "{count:?}");
    }

    #[test]
    fn an_input_draws_its_task_and_a_gpu_is_not_wasted() {
        let mut fleet = Fleet::new(1);
        let any = fleet.selector(&Selector::default());
        for number in 0..100 {
            let gpus = u8::from(number % 2 == 0);
            fleet.join(id(number), &Offer { gpus, vram_mib: 24_000, ..Offer::default() });
        }
        let (weights, need) = (Weights::default(), Need { cpu_milli: 100, mem_mib: 10, vram_mib: 0 });
        let local = Wish { holders: &[51], ..wish(need, any, &weights) };
        assert_eq!(fleet.pick(&local, 0, |_, _| {}).unwrap().node, 51);
        for _ in 0..50 {
            let pick = fleet.pick(&wish(need, any, &weights), 0, |_, _| {}).unwrap();
            assert_eq!(pick.node % 2, 1, "no GPU is needed");
        }
    }

    /// Growth law: a pick looks at no more rows of a fleet ten times as large.
    #[test]
    fn a_pick_costs_the_same_in_a_fleet_ten_times_as_large() {
        let looked = |nodes: u64| {
            let mut fleet = Fleet::new(1);
            let any = fleet.selector(&Selector::default());
            for number in 0..nodes {
                fleet.join(id(number), &Offer::default());
            }
            let (weights, need) = (Weights::default(), Need { cpu_milli: 500, mem_mib: 10, vram_mib: 0 });
            for _ in 0..nodes {
                let pick = fleet.pick(&wish(need, any, &weights), 0, |_, _| {}).unwrap();
                fleet.reserve(&pick, &need, 0).unwrap();
            }
            fleet.looked_at() as f64 / nodes as f64
        };
        let (small, large) = (looked(1_000), looked(10_000));
        assert!(large <= 2.0 * small, "{small} rows in a small one, {large} in a large one");
        assert!(large <= 20.0, "{large}");
    }
}
