//! How long tasks of a shape take: counts in buckets of a quarter power of two (edge.md 3.3).

/// Observed run times.
#[derive(Clone, Debug)]
pub(super) struct Runtimes {
    counts: [u32; 128],
    all: u32,
    /// The p50 and the p95 as of the last look.
    cached: (u64, u64, u32),
}

impl Runtimes {
    pub(super) const fn new() -> Self {
        Self { counts: [0; 128], all: 0, cached: (0, 0, 0) }
    }

    const fn bucket(ms: u64) -> usize {
        if ms < 4 {
            return ms as usize;
        }
        let log = ms.ilog2();
        let at = (log as usize - 1) * 4 + ((ms >> (log - 2)) & 3) as usize;
        if at < 128 { at } else { 127 }
    }

    /// The upper end of a bucket.
    const fn upper(bucket: usize) -> u64 {
        if bucket < 4 {
            return bucket as u64;
        }
        let (log, part) = (bucket / 4 + 1, bucket as u64 % 4);
        ((4 + part + 1) << (log - 2)) - 1
    }

    pub(super) fn note(&mut self, ms: u64) {
        self.counts[Self::bucket(ms)] += 1;
        self.all += 1;
        if self.all >= 1 << 16 {
            // Old times fade.
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.all = self.counts.iter().sum();
        }
    }

    fn quantile(&self, percent: u64) -> u64 {
        let wanted = (u64::from(self.all) * percent).div_ceil(100);
        let mut sum = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            let count = u64::from(*count);
            if sum + count >= wanted {
                // As if those of a bucket lay evenly in it.
                let (below, upper) = (bucket.checked_sub(1).map_or(0, Self::upper), Self::upper(bucket));
                return below + ((upper - below) * (wanted - sum)).div_ceil(count.max(1));
            }
            sum += count;
        }
        Self::upper(127)
    }

    /// Median and 95th percentile in milliseconds; `None` before there are enough to say.
    pub(super) fn p50_p95(&mut self) -> Option<(u64, u64)> {
        if self.all < 20 {
            return None;
        }
        if self.cached.2 == 0 || self.all.abs_diff(self.cached.2) >= 64 {
            self.cached = (self.quantile(50), self.quantile(95), self.all);
        }
        Some((self.cached.0, self.cached.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_quarter() {
        let mut times = Runtimes::new();
        (1..=19).for_each(|ms| times.note(ms));
        assert_eq!(times.p50_p95(), None);
        let mut times = Runtimes::new();
        (1..=1_000).for_each(|ms| times.note(ms));
        let (p50, p95) = times.p50_p95().unwrap();
        assert!((500..=625).contains(&p50) && (950..=1_190).contains(&p95), "{p50} {p95}");
        (0..200_000).for_each(|_| times.note(10));
        let (p50, p95) = times.p50_p95().unwrap();
        assert!((10..=12).contains(&p50) && (10..=12).contains(&p95), "old ones fade: {p50} {p95}");
    }

    #[test]
    fn a_bucket_holds_what_is_below_its_end() {
        for ms in (0..10_000).chain([1 << 20, (1 << 31) + 17]) {
            let bucket = Runtimes::bucket(ms);
            assert!(
                ms <= Runtimes::upper(bucket) && (bucket == 0 || ms > Runtimes::upper(bucket - 1)),
                "{ms}"
            );
        }
    }
}
