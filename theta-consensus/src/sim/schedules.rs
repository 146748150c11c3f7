//! Schedules by seed: everything about one, from the number of validators to who breaks which rule, is drawn from it.

use theta_core::spec::ChainSpec;

use super::{Partition, Scenario, Strategy, random::Random};
use crate::pace::Millis;

/// The storm lasts so long.
const STORM: Millis = 6_000;
/// Whoever has settled nothing so long after it never will.
const PATIENCE: Millis = 100_000;

impl Scenario {
    /// Six seconds of loss, duplicates, reordering, partitions and crashes with four to seven validators, of which as many as
    /// agreement stands break the rules, then calm until every honest one has settled something, but a hundred seconds at
    /// most: [`super::Report::healed_after`] says how long that took. In a tenth of them all are guardians and elite edge nodes.
    pub fn schedule(spec: ChainSpec, seed: u64) -> Self {
        // Any mixing of the seed's bits will do; neighbouring seeds must not give neighbouring numbers.
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let pick =
            |random: &mut Random, below: usize| usize::try_from(random.below(below as u64)).unwrap_or(0);
        let validators = 4 + pick(&mut random, 4);
        let first = pick(&mut random, validators);
        let faulty = (0..(validators - 1) / 3).map(|next| (first + next * 2) % validators);
        let adversaries =
            faulty.map(|node| (node, Strategy::ALL[pick(&mut random, Strategy::ALL.len())])).collect();
        let from = random.below(STORM * 6 / 10);
        let guarded = random.below(10) == 0;
        // Everybody at once loses power, and one its log.
        let blackout = random.below(8) == 0;
        let (dark, unlucky) = (random.below(STORM), pick(&mut random, validators));
        Self {
            until: STORM + PATIENCE,
            calm_from: STORM,
            ends_healed: true,
            delay: (1, 10 + random.below(300)),
            loss_per_mille: random.below(150),
            duplicate_per_mille: random.below(100),
            crashes_per_100k: random.below(300),
            blackouts: if blackout { vec![dark] } else { Vec::new() },
            loses_logs: vec![unlucky],
            partitions: vec![Partition {
                from,
                until: from + random.below(STORM * 4 / 10),
                group: (0..validators).filter(|_| random.below(2) == 0).collect(),
            }],
            stake_change_every: if random.below(3) == 0 { 2_000 } else { 0 },
            transaction_every: 900,
            adversaries,
            guardians: if guarded { (0..validators).collect() } else { Vec::new() },
            elite: if guarded { (0..validators).collect() } else { Vec::new() },
            ..Self::honest(spec, validators, seed)
        }
    }

    /// Thirty seconds of messages that take a hundred milliseconds each, nothing lost, with a transaction every 1.7 seconds;
    /// so many of a hundred validators, spread over the set, never run.
    pub fn settling(spec: ChainSpec, validators: usize, stopped_percent: usize, seed: u64) -> Self {
        let stopped = validators * stopped_percent / 100;
        Self {
            delay: (100, 100),
            until: 30_000,
            transaction_every: 1_700,
            stopped: (0..stopped).map(|index| index * validators / stopped).collect(),
            ..Self::honest(spec, validators, seed)
        }
    }

    /// A minute of four validators and nine guardians, of whom five only look on; two validators fork, one more than
    /// agreement stands.
    pub fn forked(spec: ChainSpec, seed: u64) -> Self {
        Self {
            adversaries: vec![(0, Strategy::Equivocate), (1, Strategy::Equivocate)],
            observers: 5,
            guardians: (0..9).collect(),
            ..Self::honest(spec, 4, seed)
        }
    }
}
