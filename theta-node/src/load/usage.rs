//! What processes use of this machine, as Linux tells.

use std::fs::read_to_string;

/// Sums over processes; one that is gone counts as nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    pub(super) cpu_micros: u64,
    /// Bytes in memory.
    pub(super) memory: u64,
    /// Bytes given to the disk since the process began.
    pub(super) written: u64,
}

/// Linux counts processor time in hundredths of a second for programs, on every architecture.
const MICROS_PER_TICK: u64 = 10_000;
const PAGE: u64 = 4096;

impl Usage {
    pub(super) fn of(pids: &[u32]) -> Self {
        pids.iter().fold(Self::default(), |sum, pid| {
            let file = |name: &str| read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let number =
                |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
            // Behind the name, which may hold anything: user and system time are the 12th and 13th.
            let stat = file("stat");
            let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
            let mut fields = after.split_whitespace().skip(11);
            let ticks = number(fields.next()) + number(fields.next());
            let statm = file("statm");
            let io = file("io");
            let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
            Self {
                cpu_micros: sum.cpu_micros + ticks * MICROS_PER_TICK,
                memory: sum.memory + number(statm.split_whitespace().nth(1)) * PAGE,
                written: sum.written + number(written),
            }
        })
    }
}

/// How many processes wanted a core in the last minute.
pub(super) fn load_average() -> f64 {
    let text = read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        let start = std::time::Instant::now();
        let mut sum = 0_u64;
        while start.elapsed().as_millis() < 60 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let usage = Usage::of(&[std::process::id()]);
        assert!(usage.cpu_micros >= 10_000 && usage.memory > 1 << 20, "{usage:?}");
        assert_eq!(Usage::of(&[u32::MAX]).memory, 0);
    }
}
