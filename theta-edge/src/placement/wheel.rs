//! A hierarchical timing wheel: setting and firing a timer cost the same however many there are (edge.md 3.3).

use crate::Millis;

/// Milliseconds of one slot of the lowest wheel.
const TICK: Millis = 10;
const SLOTS: usize = 256;
/// Wheels; together they reach 497 days.
const LEVELS: usize = 4;
/// Slots after which timers are looked through instead of waited for: about three hours.
const JUMP: u64 = 1 << 20;

/// Timers that each carry a value.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    now: u64,
    slots: Vec<Vec<(u64, T)>>,
    len: usize,
}

impl<T> Wheel<T> {
    pub(super) fn new(now: Millis) -> Self {
        Self { now: now / TICK, slots: (0..LEVELS * SLOTS).map(|_| Vec::new()).collect(), len: 0 }
    }

    /// Fires at that time or at most one tick after it; at once if that has passed.
    pub(super) fn set(&mut self, at: Millis, value: T) {
        self.len += 1;
        self.put(at.div_ceil(TICK).max(self.now + 1), value);
    }

    fn put(&mut self, at: u64, value: T) {
        let distance = at - self.now;
        let mut level = 0;
        while level + 1 < LEVELS && distance >= (SLOTS as u64) << (8 * level) {
            level += 1;
        }
        // Beyond the last wheel it goes round once more.
        let at_slot = (at >> (8 * level)) as usize % SLOTS;
        self.slots[level * SLOTS + at_slot].push((at, value));
    }

    /// Gives what is due at this time, earliest slot first.
    pub(super) fn advance(&mut self, now: Millis, due: &mut Vec<T>) {
        let now = now / TICK;
        if self.len == 0 {
            self.now = self.now.max(now);
            return;
        }
        if now - self.now.min(now) > JUMP {
            // A clock that leaps is not walked after.
            self.now = now;
            let all: Vec<(u64, T)> = self.slots.iter_mut().flat_map(std::mem::take).collect();
            for (at, value) in all {
                if at <= now {
                    self.len -= 1;
                    due.push(value);
                } else {
                    self.put(at, value);
                }
            }
            return;
        }
        while self.now < now {
            self.now += 1;
            for level in (1..LEVELS).rev() {
                if self.now.trailing_zeros() >= 8 * level as u32 {
                    let slot = (self.now >> (8 * level)) as usize % SLOTS;
                    for (at, value) in std::mem::take(&mut self.slots[level * SLOTS + slot]) {
                        if at <= self.now {
                            self.slots[self.now as usize % SLOTS].push((at, value));
                        } else {
                            self.put(at, value);
                        }
                    }
                }
            }
            let slot = self.now as usize % SLOTS;
            for (_, value) in self.slots[slot].drain(..) {
                self.len -= 1;
                due.push(value);
            }
        }
    }

    /// When [`Self::advance`] should be called next, at the latest: exact within the lowest wheel.
    pub(super) fn next(&self) -> Option<Millis> {
        if self.len == 0 {
            return None;
        }
        let near = (1..=SLOTS as u64).find(|step| !self.slots[(self.now + step) as usize % SLOTS].is_empty());
        Some((self.now + near.unwrap_or(SLOTS as u64)) * TICK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_timer_fires_once_and_within_a_tick(
            times in proptest::collection::vec(0..3_000_000_u64, 1..60), step in 1_000..400_000_u64
        ) {
            let mut wheel = Wheel::new(1_000);
            for (index, at) in times.iter().enumerate() {
                wheel.set(*at, index);
            }
            let (mut now, mut fired) = (1_000, vec![None; times.len()]);
            while wheel.next().is_some() {
                let before = now;
                now += step;
                let mut due = Vec::new();
                wheel.advance(now, &mut due);
                for index in due {
                    prop_assert!(fired[index].replace((before, now)).is_none(), "twice");
                }
            }
            for (at, fired) in times.iter().zip(fired) {
                let (before, now) = fired.expect("fired");
                let at = (*at).max(1_001);
                prop_assert!(now + TICK > at && before < at + 2 * TICK, "{at} fired in {before}..{now}");
            }
        }
    }

    #[test]
    fn a_leap_of_the_clock_fires_what_is_due_and_no_more() {
        let mut wheel = Wheel::new(0);
        for at in [50, 1_000_000, 2_000_000_000_000, u64::MAX / 4] {
            wheel.set(at, at);
        }
        let mut due = Vec::new();
        wheel.advance(1_700_000_000_000, &mut due);
        due.sort_unstable();
        assert_eq!(due, [50, 1_000_000]);
        wheel.advance(2_000_000_000_000, &mut due);
        assert_eq!(due.last(), Some(&2_000_000_000_000));
        assert_eq!(due.len(), 3);
    }

    #[test]
    fn it_says_when_to_come_back() {
        let mut wheel = Wheel::new(0);
        assert_eq!(wheel.next(), None);
        wheel.set(95, 'a');
        assert_eq!(wheel.next(), Some(100));
        wheel.set(1_000_000, 'b');
        let mut due = Vec::new();
        wheel.advance(100, &mut due);
        assert_eq!(due, ['a']);
        while let Some(next) = wheel.next() {
            assert!(next <= 1_000_000);
            wheel.advance(next, &mut due);
        }
        assert_eq!(due, ['a', 'b']);
    }
}
