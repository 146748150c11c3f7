//! What waits, and whose turn it is (edge.md 3.6).
//!
//! Tenants are served by dominant share: whoever uses the least of what it uses most comes next. Within a tenant the
//! higher band comes first, and in a band the earlier deadline. Waiting raises the band, one for each minute, up to 8.
//!
//! Tasks of one shape ask for the same, so when no node fits one of them none fits the others: a shape is then blocked as
//! a whole and its tasks are not looked at until a node of one of its classes has room again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use theta_core::hash::Address;

use crate::Millis;

/// The highest band that waiting leads to; the one above is for protocol work.
pub(super) const TOP_BAND: u8 = 8;
/// Milliseconds of waiting that raise a task by a band.
const AGE_MS: Millis = 60_000;
/// Shapes, and tenants of a shape, that one choice looks at.
pub(super) const SHAPES: usize = 8;
const TENANTS: usize = 32;

/// A waiting task: its deadline, its place in the order of all, and its slot.
type Key = Reverse<(Millis, u64, u32)>;

/// Tasks of one tenant and one shape.
#[derive(Debug)]
struct Lane {
    tenant: u32,
    shape: u32,
    bands: Vec<(u8, BinaryHeap<Key>)>,
}

#[derive(Debug)]
struct Tenant {
    weight: u32,
    used: [u64; 3],
    bid: u32,
    /// Tasks that may come in now, and since when that counts.
    tokens: f64,
    refilled: Millis,
}

#[derive(Debug, Default)]
struct Shape {
    pending: u32,
    blocked: bool,
    /// Place in the list of those that are ready.
    ready: Option<u32>,
    /// Tenants with tasks of it, and where those are.
    lanes: Vec<(u32, u32)>,
}

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    tenants: Vec<Tenant>,
    /// Dominant share over weight of each tenant.
    shares: Vec<f64>,
    ids: HashMap<Address, u32>,
    shapes: Vec<Shape>,
    lanes: Vec<Lane>,
    free_lanes: Vec<u32>,
    /// The lane of a tenant and a shape.
    places: HashMap<(u32, u32), u32>,
    ready: Vec<u32>,
    cursor: usize,
    len: usize,
}

/// Whether a slot holds the task that a key was made for, and since when that waits: `None` if it does not.
pub(super) trait Waiting {
    fn since(&self, task: u32, seq: u64) -> Option<Millis>;
}

/// What comes first: the band, the deadline, the order of submission, and the place of the band.
type Head = (Reverse<u8>, Millis, u64, usize);

impl Lane {
    /// The first task, as it stands now; drops keys of tasks that are gone.
    fn head(&mut self, now: Millis, waiting: &impl Waiting) -> Option<Head> {
        let mut best: Option<Head> = None;
        for (place, (band, heap)) in self.bands.iter_mut().enumerate() {
            while let Some(Reverse((deadline, seq, task))) = heap.peek().copied() {
                let Some(since) = waiting.since(task, seq) else {
                    heap.pop();
                    continue;
                };
                let aged = u64::from(*band) + now.saturating_sub(since) / AGE_MS;
                let band = if *band > TOP_BAND { *band } else { aged.min(u64::from(TOP_BAND)) as u8 };
                let head = (Reverse(band), deadline, seq, place);
                best = Some(best.map_or(head, |best| best.min(head)));
                break;
            }
        }
        best
    }
}

impl Queue {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Whether a task could be tried now.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn pending(&self, shape: u32) -> u32 {
        self.shapes.get(shape as usize).map_or(0, |shape| shape.pending)
    }

    pub(super) fn is_blocked(&self, shape: u32) -> bool {
        self.shapes.get(shape as usize).is_some_and(|shape| shape.blocked)
    }

    /// Whether tasks of this shape wait for nothing but room.
    pub(super) fn waits_for_room(&self, shape: u32) -> bool {
        self.shapes.get(shape as usize).is_some_and(|shape| shape.blocked && shape.pending > 0)
    }

    pub(super) fn find(&self, id: &Address) -> Option<u32> {
        self.ids.get(id).copied()
    }

    /// The tenant of an account.
    pub(super) fn tenant(&mut self, id: Address, burst: f64, now: Millis) -> u32 {
        if let Some(tenant) = self.ids.get(&id) {
            return *tenant;
        }
        let tenant = self.tenants.len() as u32;
        self.tenants.push(Tenant { weight: 1, used: [0; 3], bid: 0, tokens: burst, refilled: now });
        self.shares.push(0.0);
        self.ids.insert(id, tenant);
        tenant
    }

    pub(super) fn set_weight(&mut self, tenant: u32, weight: u32) {
        self.tenants[tenant as usize].weight = weight.max(1);
    }

    /// Takes so many tokens, or says in how many milliseconds they are there.
    pub(super) fn admit(
        &mut self,
        tenant: u32,
        tasks: u32,
        rate: f64,
        burst: f64,
        now: Millis,
        takes: bool,
    ) -> Result<(), u64> {
        let tenant = &mut self.tenants[tenant as usize];
        let passed = now.saturating_sub(tenant.refilled) as f64 / 1_000.0;
        tenant.tokens = passed.mul_add(rate, tenant.tokens).min(burst);
        tenant.refilled = now;
        // Never more than the bucket holds, or a large job would wait for ever.
        let wanted = f64::from(tasks).min(burst);
        if tenant.tokens + 1e-9 >= wanted {
            tenant.tokens -= if takes { wanted } else { 0.0 };
            return Ok(());
        }
        Err(((wanted - tenant.tokens) / rate * 1_000.0).ceil() as u64)
    }

    /// Changes what a tenant uses.
    pub(super) fn charge(&mut self, tenant: u32, need: [u64; 3], sign: bool, total: &[u64; 3]) {
        let row = &mut self.tenants[tenant as usize];
        let mut share = 0.0_f64;
        for (used, (need, total)) in row.used.iter_mut().zip(need.into_iter().zip(total)) {
            *used = if sign { used.saturating_add(need) } else { used.saturating_sub(need) };
            share = share.max(*used as f64 / (*total).max(1) as f64);
        }
        self.shares[tenant as usize] = share / f64::from(row.weight);
    }

    pub(super) fn share(&self, tenant: u32) -> f64 {
        self.shares[tenant as usize]
    }

    #[allow(clippy::too_many_arguments, reason = "a key in its parts")]
    pub(super) fn push(
        &mut self,
        tenant: u32,
        shape: u32,
        band: u8,
        bid: u32,
        deadline: Millis,
        seq: u64,
        task: u32,
    ) {
        if self.shapes.len() <= shape as usize {
            self.shapes.resize_with(shape as usize + 1, Shape::default);
        }
        let owner = &mut self.tenants[tenant as usize];
        owner.bid = owner.bid.max(bid);
        let lane = match self.places.get(&(tenant, shape)) {
            Some(lane) => *lane,
            None => {
                let fresh = Lane { tenant, shape, bands: Vec::new() };
                let lane = match self.free_lanes.pop() {
                    Some(lane) => {
                        self.lanes[lane as usize] = fresh;
                        lane
                    }
                    None => {
                        self.lanes.push(fresh);
                        self.lanes.len() as u32 - 1
                    }
                };
                self.places.insert((tenant, shape), lane);
                self.shapes[shape as usize].lanes.push((tenant, lane));
                lane
            }
        };
        let (bands, key) = (&mut self.lanes[lane as usize].bands, Reverse((deadline, seq, task)));
        match bands.iter_mut().find(|(known, _)| *known == band) {
            Some((_, heap)) => heap.push(key),
            None => bands.push((band, BinaryHeap::from([key]))),
        }
        self.len += 1;
        self.shapes[shape as usize].pending += 1;
        self.make_ready(shape);
    }

    fn make_ready(&mut self, shape: u32) {
        let state = &mut self.shapes[shape as usize];
        if !state.blocked && state.pending > 0 && state.ready.is_none() {
            state.ready = Some(self.ready.len() as u32);
            self.ready.push(shape);
        }
    }

    fn make_unready(&mut self, shape: u32) {
        if let Some(place) = self.shapes[shape as usize].ready.take() {
            self.ready.swap_remove(place as usize);
            if let Some(moved) = self.ready.get(place as usize) {
                self.shapes[*moved as usize].ready = Some(place);
            }
        }
    }

    /// No node fits this shape now.
    pub(super) fn block(&mut self, shape: u32) {
        self.shapes[shape as usize].blocked = true;
        self.make_unready(shape);
    }

    /// One may.
    pub(super) fn unblock(&mut self, shape: u32) {
        if let Some(state) = self.shapes.get_mut(shape as usize) {
            state.blocked = false;
            self.make_ready(shape);
        }
    }

    /// One task less, of which a key may still be in a lane.
    pub(super) fn forget(&mut self, shape: u32) {
        let state = &mut self.shapes[shape as usize];
        state.pending = state.pending.saturating_sub(1);
        self.len = self.len.saturating_sub(1);
        if state.pending == 0 {
            // The next one is tried: there may be room that nobody wanted.
            state.blocked = false;
            self.make_unready(shape);
        }
    }

    /// Takes out the task whose turn it is among those that can be tried.
    pub(super) fn pop(&mut self, now: Millis, waiting: &impl Waiting, random: u64) -> Option<u32> {
        while !self.ready.is_empty() {
            let mut shapes = [0; SHAPES];
            let count = SHAPES.min(self.ready.len());
            for (step, shape) in shapes[..count].iter_mut().enumerate() {
                *shape = self.ready[(self.cursor + step) % self.ready.len()];
            }
            self.cursor = (self.cursor + 1) % self.ready.len();
            if let Some(task) = self.pop_of(&shapes[..count], now, waiting, random) {
                return Some(task);
            }
            // They had only keys of tasks that are gone.
            for shape in &shapes[..count] {
                if self.shapes[*shape as usize].lanes.is_empty() {
                    self.make_unready(*shape);
                }
            }
        }
        None
    }

    /// Takes out the task whose turn it is among those of a few shapes, blocked or not.
    pub(super) fn pop_of(
        &mut self,
        shapes: &[u32],
        now: Millis,
        waiting: &impl Waiting,
        random: u64,
    ) -> Option<u32> {
        loop {
            // The tenant with the least share, the higher bid among equals, and its lane with the first task.
            let mut turn: Option<(f64, u32, u32, Option<Head>)> = None;
            for shape in shapes {
                let lanes = &self.shapes[*shape as usize].lanes;
                let start = if lanes.len() > TENANTS { random as usize % lanes.len() } else { 0 };
                for step in 0..TENANTS.min(lanes.len()) {
                    let (tenant, lane) = lanes[(start + step) % lanes.len()];
                    let share = self.shares[tenant as usize];
                    let first = match &mut turn {
                        None => true,
                        Some((_, best, best_lane, best_head)) if *best == tenant => {
                            let old =
                                best_head.or_else(|| self.lanes[*best_lane as usize].head(now, waiting));
                            *best_head = old;
                            let head = self.lanes[lane as usize].head(now, waiting);
                            // A lane without any is found below, when it is the only one.
                            if head.is_some_and(|head| old.is_none_or(|old| head < old)) {
                                (*best_lane, *best_head) = (lane, head);
                            }
                            false
                        }
                        Some((least, best, ..)) => {
                            share < *least
                                || (share == *least
                                    && self.tenants[tenant as usize].bid > self.tenants[*best as usize].bid)
                        }
                    };
                    if first {
                        turn = Some((share, tenant, lane, None));
                    }
                }
            }
            let (.., lane, head) = turn?;
            let row = &mut self.lanes[lane as usize];
            let (shape, tenant) = (row.shape, row.tenant);
            let head = head.or_else(|| row.head(now, waiting));
            let popped = head.and_then(|(.., place)| row.bands.get_mut(place)?.1.pop());
            if row.bands.iter().all(|(_, heap)| heap.is_empty()) {
                self.drop_lane(tenant, shape, lane);
            }
            if let Some(Reverse((.., task))) = popped {
                self.forget(shape);
                return Some(task);
            }
        }
    }

    fn drop_lane(&mut self, tenant: u32, shape: u32, lane: u32) {
        self.lanes[lane as usize].bands = Vec::new();
        self.free_lanes.push(lane);
        self.places.remove(&(tenant, shape));
        self.shapes[shape as usize].lanes.retain(|(_, known)| *known != lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every task waits since its submission, which is its sequence in milliseconds, but for those that are gone.
    struct All(Vec<u32>);

    impl Waiting for All {
        fn since(&self, task: u32, seq: u64) -> Option<Millis> {
            (!self.0.contains(&task)).then_some(seq)
        }
    }

    fn queue(tenants: u8) -> Queue {
        let mut queue = Queue::default();
        for tenant in 0..tenants {
            queue.tenant(Address::repeat_byte(tenant + 1), 1.0, 0);
        }
        queue
    }

    #[test]
    fn a_tenant_with_less_comes_first_and_weights_count() {
        let mut queue = queue(2);
        for task in 0..40 {
            queue.push(task / 20, 0, 3, 1, u64::MAX, u64::from(task), task);
        }
        queue.set_weight(1, 3);
        let total = [100, 100, 0];
        let mut taken = [0, 0];
        for _ in 0..20 {
            let task = queue.pop(0, &All(vec![]), 0).unwrap();
            let tenant = task / 20;
            taken[tenant as usize] += 1;
            queue.charge(tenant, [1, 1, 0], true, &total);
        }
        assert_eq!(taken, [5, 15]);
        // Whoever gives back is served again.
        queue.charge(0, [5, 5, 0], false, &total);
        assert!(queue.pop(0, &All(vec![]), 0).unwrap() < 20);
    }

    #[test]
    fn bands_come_first_then_deadlines_and_waiting_raises() {
        let mut queue = queue(1);
        for (task, (band, deadline)) in
            [(0, u64::MAX), (5, 900), (5, 800), (9, u64::MAX)].into_iter().enumerate()
        {
            queue.push(0, task as u32 % 2, band, 1, deadline, task as u64, task as u32);
        }
        let mut order = Vec::new();
        while let Some(task) = queue.pop(0, &All(vec![]), 0) {
            order.push(task);
        }
        assert_eq!(order, [3, 2, 1, 0]);
        queue.push(0, 0, 0, 1, u64::MAX, 10, 10);
        queue.push(0, 0, 4, 1, u64::MAX, 300_000, 11);
        assert_eq!(queue.pop(300_010, &All(vec![]), 0), Some(10), "five minutes are five bands");
        assert_eq!((queue.pop(300_010, &All(vec![]), 0), queue.len()), (Some(11), 0));
    }

    #[test]
    fn a_blocked_shape_holds_nobody_else_up() {
        let mut queue = queue(2);
        queue.push(0, 0, 9, 1, u64::MAX, 0, 0);
        queue.push(0, 1, 1, 1, u64::MAX, 1, 1);
        queue.push(1, 0, 9, 1, u64::MAX, 2, 2);
        queue.block(0);
        assert_eq!(queue.pop(0, &All(vec![]), 0), Some(1));
        assert_eq!(queue.pop(0, &All(vec![]), 0), None);
        assert_eq!((queue.len(), queue.pending(0)), (2, 2));
        queue.unblock(0);
        assert_eq!(queue.pop(0, &All(vec![]), 0), Some(0));
        assert_eq!(queue.pop(0, &All(vec![]), 0), Some(2));
    }

    #[test]
    fn what_is_gone_is_passed_over() {
        let mut queue = queue(1);
        for task in 0..5 {
            queue.push(0, 0, 1, 1, u64::MAX, task, task as u32);
        }
        (0..4).for_each(|_| queue.forget(0));
        assert_eq!(queue.pop(0, &All(vec![0, 1, 2, 3]), 0), Some(4));
        assert_eq!((queue.pop(0, &All(vec![0, 1, 2, 3]), 0), queue.len()), (None, 0));
    }

    #[test]
    fn tokens_come_back_at_their_rate() {
        let mut queue = queue(0);
        let tenant = queue.tenant(Address::ZERO, 10.0, 0);
        assert_eq!(queue.admit(tenant, 10, 2.0, 10.0, 0, false), Ok(()), "asking takes nothing");
        assert_eq!(queue.admit(tenant, 10, 2.0, 10.0, 0, true), Ok(()));
        assert_eq!(queue.admit(tenant, 4, 2.0, 10.0, 500, true), Err(1_500));
        assert_eq!(queue.admit(tenant, 4, 2.0, 10.0, 2_000, true), Ok(()));
        assert_eq!(
            queue.admit(tenant, 1_000, 2.0, 10.0, 10_000, true),
            Ok(()),
            "a large job takes a full bucket"
        );
    }
}
