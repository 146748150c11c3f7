//! Which of many nodes suits a task best (edge.md 3.4).

use super::*;

/// Candidates that are compared (edge.md 3.4).
const SAMPLE: usize = 16;
/// Of which may be there because they hold an input.
const LOCAL: usize = 8;
/// Times a sample without a fit is drawn anew.
const RESAMPLES: usize = 3;
/// Nodes looked at one by one after that.
const WALK: usize = 256;

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
    /// When it is, where nodes that have shown to be slow are left out; the queue is so short that it is over before they
    /// would be done.
    pub quick: Option<Millis>,
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

/// Why a node does not suit, for [`crate::placement::Placement::explain`].
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

impl Fleet {
    /// Why a node does not suit, if it does not.
    pub(in crate::placement) fn unfit(&self, node: u32, wish: &Wish<'_>) -> Option<Unfit> {
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
        } else if row.speed < wish.speed || wish.quick.is_some_and(|now| row.is_slow(now)) {
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

    /// Whether a node is good and cheap enough.
    pub(in crate::placement) fn suits(&self, node: u32, bid: u32, reputation: u16, replicated: bool) -> bool {
        let row = &self.rows[node as usize];
        row.price <= bid && row.reputation >= reputation && (replicated || !row.probation)
    }
}
