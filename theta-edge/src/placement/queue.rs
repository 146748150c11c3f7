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
const SHAPES: usize = 4;
const TENANTS: usize = 64;

/// A waiting task: its deadline, its place in the order of all, and its slot.
type Key = Reverse<(Millis, u64, u32)>;

/// Tasks of one tenant and one shape.
#[derive(Debug)]
struct Lane {
    shape: u32,
    bands: Vec<(u8, BinaryHeap<Key>)>,
}

#[derive(Debug)]
pub(super) struct Tenant {
    weight: u32,
    used: [u64; 3],
    /// Dominant share over weight, as it was when last looked at.
    share: f64,
    bid: u32,
    lanes: Vec<Lane>,
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
    /// Tenants with tasks of it.
    tenants: Vec<u32>,
}

/// All that waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) tenants: Vec<Tenant>,
    ids: HashMap<Address, u32>,
    shapes: Vec<Shape>,
    ready: Vec<u32>,
    cursor: usize,
    len: usize,
}

/// Whether a slot holds the task that a key was made for, and since when that waits: `None` if it does not.
pub(super) trait Waiting {
    fn since(&self, task: u32, seq: u64) -> Option<Millis>;
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

    /// The tenant of an account.
    pub(super) fn tenant(&mut self, id: Address, burst: f64, now: Millis) -> u32 {
        if let Some(tenant) = self.ids.get(&id) {
            return *tenant;
        }
        let tenant = self.tenants.len() as u32;
        self.tenants.push(Tenant {
            weight: 1,
            used: [0; 3],
            share: 0.0,
            bid: 0,
            lanes: Vec::new(),
            tokens: burst,
            refilled: now,
        });
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
    ) -> Result<(), u64> {
        let tenant = &mut self.tenants[tenant as usize];
        let passed = now.saturating_sub(tenant.refilled) as f64 / 1_000.0;
        tenant.tokens = passed.mul_add(rate, tenant.tokens).min(burst);
        tenant.refilled = now;
        // Never more than the bucket holds, or a large job would wait for ever.
        let wanted = f64::from(tasks).min(burst);
        if tenant.tokens + 1e-9 >= wanted {
            tenant.tokens -= wanted;
            return Ok(());
        }
        Err(((wanted - tenant.tokens) / rate * 1_000.0).ceil() as u64)
    }

    /// Changes what a tenant uses.
    pub(super) fn charge(&mut self, tenant: u32, need: [u64; 3], sign: bool, total: &[u64; 3]) {
        let tenant = &mut self.tenants[tenant as usize];
        let mut share = 0.0_f64;
        for (used, (need, total)) in tenant.used.iter_mut().zip(need.into_iter().zip(total)) {
            *used = if sign { used.saturating_add(need) } else { used.saturating_sub(need) };
            share = share.max(*used as f64 / (*total).max(1) as f64);
        }
        tenant.share = share / f64::from(tenant.weight);
    }

    pub(super) fn share(&self, tenant: u32) -> f64 {
        self.tenants[tenant as usize].share
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
        let key = Reverse((deadline, seq, task));
        let owner = &mut self.tenants[tenant as usize];
        owner.bid = owner.bid.max(bid);
        let lanes = &mut owner.lanes;
        let place = lanes.iter().position(|lane| lane.shape == shape).unwrap_or_else(|| {
            lanes.push(Lane { shape, bands: Vec::new() });
            self.shapes[shape as usize].tenants.push(tenant);
            lanes.len() - 1
        });
        let bands = &mut lanes[place].bands;
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
            self.make_unready(shape);
        }
    }

    /// Takes out the task whose turn it is.
    pub(super) fn pop(&mut self, now: Millis, waiting: &impl Waiting, random: u64) -> Option<u32> {
        loop {
            if self.ready.is_empty() {
                return None;
            }
            let mut turn: Option<(f64, u32, u32)> = None;
            for step in 0..SHAPES.min(self.ready.len()) {
                let shape = self.ready[(self.cursor + step) % self.ready.len()];
                let tenants = &self.shapes[shape as usize].tenants;
                let start = if tenants.len() > TENANTS { random as usize % tenants.len() } else { 0 };
                for step in 0..TENANTS.min(tenants.len()) {
                    let tenant = tenants[(start + step) % tenants.len()];
                    let (share, bid) =
                        (self.tenants[tenant as usize].share, self.tenants[tenant as usize].bid);
                    let first = turn.is_none_or(|(least, best, _)| {
                        share < least || (share == least && bid > self.tenants[best as usize].bid)
                    });
                    if first {
                        turn = Some((share, tenant, shape));
                    }
                }
            }
            self.cursor = (self.cursor + 1) % self.ready.len();
            let (_, tenant, shape) = turn?;
            if let Some((task, shape)) = self.take(tenant, now, waiting) {
                self.forget(shape);
                return Some(task);
            }
            // Only keys of tasks that are gone: it has none of this shape.
            self.drop_lane(tenant, shape);
        }
    }

    /// The first task of a tenant among its lanes that are ready.
    fn take(&mut self, tenant: u32, now: Millis, waiting: &impl Waiting) -> Option<(u32, u32)> {
        let mut best: Option<(Reverse<u8>, Millis, u64, usize, usize)> = None;
        let mut emptied = None;
        let lanes = &mut self.tenants[tenant as usize].lanes;
        for (place, lane) in lanes.iter_mut().enumerate() {
            let state = &self.shapes[lane.shape as usize];
            if state.blocked {
                continue;
            }
            for (band_place, (band, heap)) in lane.bands.iter_mut().enumerate() {
                let head = loop {
                    let Some(Reverse((deadline, seq, task))) = heap.peek().copied() else { break None };
                    match waiting.since(task, seq) {
                        Some(since) => break Some((deadline, seq, since)),
                        None => drop(heap.pop()),
                    }
                };
                let Some((deadline, seq, since)) = head else { continue };
                let aged = u64::from(*band) + now.saturating_sub(since) / AGE_MS;
                let band = if *band > TOP_BAND { *band } else { aged.min(u64::from(TOP_BAND)) as u8 };
                let key = (Reverse(band), deadline, seq, place, band_place);
                if best.is_none_or(|best| key < best) {
                    best = Some(key);
                }
            }
            lane.bands.retain(|(_, heap)| !heap.is_empty() || heap.capacity() < 1024);
            if lane.bands.iter().all(|(_, heap)| heap.is_empty()) {
                emptied = Some(lane.shape);
            }
        }
        let Some((.., place, band_place)) = best else {
            if let Some(shape) = emptied {
                self.drop_lane(tenant, shape);
            }
            return None;
        };
        let lane = &mut self.tenants[tenant as usize].lanes[place];
        let shape = lane.shape;
        let Reverse((_, _, task)) = lane.bands.get_mut(band_place)?.1.pop()?;
        if lane.bands.iter().all(|(_, heap)| heap.is_empty()) {
            self.drop_lane(tenant, shape);
        }
        Some((task, shape))
    }

    fn drop_lane(&mut self, tenant: u32, shape: u32) {
        self.tenants[tenant as usize].lanes.retain(|lane| lane.shape != shape);
        self.shapes[shape as usize].tenants.retain(|known| *known != tenant);
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
        assert_eq!(queue.admit(tenant, 10, 2.0, 10.0, 0), Ok(()));
        assert_eq!(queue.admit(tenant, 4, 2.0, 10.0, 500), Err(1_500));
        assert_eq!(queue.admit(tenant, 4, 2.0, 10.0, 2_000), Ok(()));
        assert_eq!(queue.admit(tenant, 1_000, 2.0, 10.0, 10_000), Ok(()), "a large job takes a full bucket");
    }
}
