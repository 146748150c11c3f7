//! `bft/*` and `guardian/*` of `benchmarks.md` C.
//!
//! `bft/step/{4,31,100}`: a block through one engine, all messages checked before. `bft/sim/{4,31,100}/{lan,wan}`: blocks and
//! settling in virtual time, some validators stopped, ten seeds; `wan` is 100 ms round trip and one message in a hundred
//! lost. `bft/wal`: a vote appended and synced, beside the disk's own sync; and 100,000 records read again.
//! `guardian/{verify,merge}/{1e3,1e4}`: an aggregate with 10, 50 and 90 % of the guardians, beside a check of one signature and
//! what their keys cost. `guardian/sim/{1e3,4e3,1e4}`: until every honest guardian has a certificate, in virtual time.

use std::{collections::BTreeMap, hint::black_box, time::Instant};

use theta_benches::{SEED, Times, asked_for, load, only_test, prim, timed};
use theta_consensus::{
    Checkpoint, Engine, Input, WalRecord, WalVote, merge_guardian_votes,
    sim::{Costs, GuardianScenario, Scenario, Steps},
};
use theta_core::{
    amount::ThetaWei,
    bls::{self, Suite, aggregate_public_keys, aggregate_signatures},
    hash::{Address, Hash, keccak},
    journal::{FileDisk, Journal},
    spec::{ChainSpec, GuardianRule},
    stake::GuardianPool,
    vote::GuardianVotes,
};

fn line(bench: &str, fields: &str) {
    println!(r#"{{"bench":"{bench}","seed":{SEED},{fields},"loadavg":"{}"}}"#, load());
}

fn step() {
    let mut of_four = None;
    for validators in [4, 31, 100] {
        let name = format!("bft/step/{validators}");
        if !asked_for("bft/step") {
            continue;
        }
        let steps = Steps::record(ChainSpec::devnet(), validators, 60_000);
        let rounds = if only_test() { 1 } else { 21 };
        let mut blocks = 0;
        let times = (0..rounds).map(|_| {
            let (mut engine, inputs): (Engine, Vec<(u64, Input)>) =
                (steps.engine().expect("a beginning"), steps.inputs());
            let (counts, time) = timed(|| Steps::replay(&mut engine, inputs));
            blocks = counts.blocks;
            time / u32::try_from(counts.blocks.max(1)).expect("some")
        });
        let times = Times::of(times.collect());
        let micros = times.median.as_secs_f64() * 1e6;
        let ratio = micros / *of_four.get_or_insert(micros);
        line(
            &name,
            &format!(
                r#""value":{micros:.1},"min":{:.1},"unit":"us/validator/block","blocks":{blocks},"times_that_of_4":{ratio:.2},"per_vote":{:.2}"#,
                times.min.as_secs_f64() * 1e6,
                micros / validators as f64
            ),
        );
    }
}

fn simulated() {
    let seeds = if only_test() { 1 } else { 10 };
    for validators in [4_usize, 31, 100] {
        for (net, half, loss) in [("lan", 1_u64, 0), ("wan", 50, 10)] {
            let name = format!("bft/sim/{validators}/{net}");
            if !asked_for("bft/sim") || (only_test() && validators > 4) {
                continue;
            }
            for stopped in [0, 10, 20, 30] {
                let (mut first, mut latencies, mut everywhere) = (Vec::new(), Vec::new(), Vec::new());
                let (mut blocks, mut stalled) = (0, 0);
                // The last thirty seconds are when the stopped ones have had their turn; the first are when they have it.
                let span = 30_000;
                let until = if stopped == 0 { span } else { 2 * span + 3_000 * validators as u64 };
                for seed in 0..seeds {
                    let settling = Scenario::settling(ChainSpec::devnet(), validators, stopped, seed);
                    let delay = (half - half / 5, half + half / 5);
                    let report = Scenario { delay, loss_per_mille: loss, until, ..settling }.run();
                    assert!(report.violations.is_empty(), "{:?}", report.violations);
                    let settled = report.settled.iter().max().copied().unwrap_or(0);
                    stalled += u64::from(settled == 0);
                    blocks += settled;
                    first.extend(report.latencies_between(0, span));
                    latencies.extend(report.latencies_between(until - span, until));
                    everywhere.extend(report.everywhere);
                }
                latencies.sort_unstable();
                first.sort_unstable();
                everywhere.sort_unstable();
                let at = |latencies: &[u64], share: usize| {
                    latencies.get(latencies.len() * share / 100).copied().unwrap_or(0) as f64 / half as f64
                };
                line(
                    &name,
                    &format!(
                        r#""stopped_percent":{stopped},"value":{:.1},"p99":{:.1},"first_half":{:.1},"first_p99":{:.1},"everywhere_half":{:.1},"unit":"delays","blocks_per_s":{:.2},"stalled":{stalled},"floor":6,"good":4,"aim":3"#,
                        at(&latencies, 50),
                        at(&latencies, 99),
                        at(&first, 50),
                        at(&first, 99),
                        at(&everywhere, 50),
                        blocks as f64 / seeds as f64 / (until as f64 / 1e3)
                    ),
                );
            }
        }
    }
}

fn wal() {
    if !asked_for("bft/wal") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (appends, records) = if only_test() { (10, 100) } else { (200, 100_000) };
    let record = |number: u64| WalRecord {
        vote: Some(WalVote { block: keccak(number.to_be_bytes()), height: number, epoch: number }),
        ..WalRecord::default()
    };
    let disk = |name: &str| FileDisk::open(&folder.path().join(name)).expect("a disk");
    let (mut log, _) = Journal::<WalRecord>::open(disk("steps")).expect("empty");
    let mut times = Vec::new();
    let mut syncs = Vec::new();
    for number in 0..appends {
        // By turns, so that a disk that is busy for a while slows both.
        if number % 20 == 0 {
            syncs.push(prim::sync(folder.path()).expect("a disk"));
        }
        times.push(timed(|| log.append(&record(number)).expect("a disk")).1);
    }
    let (times, sync) = (Times::of(times), Times::of(syncs).median.as_secs_f64() * 1e6);
    let micros = times.median.as_secs_f64() * 1e6;
    line(
        "bft/wal/append",
        &format!(
            r#""value":{micros:.0},"min":{:.0},"unit":"us","sync":{sync:.0},"over_sync":{:.0},"floor":1000,"good":200,"aim":50"#,
            times.min.as_secs_f64() * 1e6,
            micros - sync
        ),
    );
    let all: Vec<WalRecord> = (0..records).map(record).collect();
    log.replace(&all).expect("a disk");
    drop(log);
    let ((_, read), time) = timed(|| Journal::<WalRecord>::open(disk("steps")).expect("whole"));
    assert_eq!(read.len() as u64, records);
    line(
        "bft/wal/replay",
        &format!(r#""value":{:.0},"unit":"records/s""#, records as f64 / time.as_secs_f64()),
    );
}

struct Guardians {
    pool: GuardianPool,
    /// By their holders.
    keys: BTreeMap<Address, bls::SecretKey>,
}

impl Guardians {
    fn new(count: usize) -> Self {
        let (mut pool, mut keys) = (GuardianPool::default(), BTreeMap::new());
        for index in 0..count as u64 {
            let mut seed = keccak(index.to_be_bytes());
            // Below the group order.
            seed.0[0] &= 0x3f;
            let key = bls::SecretKey::from_bytes(seed.as_slice()).expect("in range");
            let holder = Address::from_slice(&keccak(seed)[12..]);
            pool.deposit(holder, holder, ThetaWei::whole(1_000), Some(key.public_key())).expect("new");
            keys.insert(holder, key);
        }
        Self { pool, keys }
    }

    fn checkpoint(&self) -> Checkpoint<'_> {
        Checkpoint { chain: "privatenet", height: 11, rule: GuardianRule::Finalize, pool: &self.pool }
    }

    /// The votes of a share of them, which begin at a place of the pool.
    fn votes(&self, from: usize, percent: usize) -> GuardianVotes {
        let (block, pool) = (Hash::repeat_byte(7), self.pool.hash());
        let message = self.checkpoint().message(&block, &pool);
        let mut multipliers = vec![0; self.keys.len()];
        let mut signatures = Vec::new();
        let count = self.keys.len() * percent / 100;
        for (place, guardian) in self.pool.with_stake().enumerate().skip(from).take(count) {
            let key = &self.keys[&guardian.stakes.holder];
            multipliers[place] = 1;
            signatures.push(key.sign(Suite::Rfc9380, &message));
        }
        let all = signatures.iter().map(|signature| (signature, 1));
        let signature = aggregate_signatures(Suite::Theta2020, all).expect("points");
        GuardianVotes { block, pool, multipliers, signature }
    }
}

fn guardians() {
    for (count, name) in [(1_000_usize, "1e3"), (10_000, "1e4")] {
        let count = if only_test() { count / 50 } else { count };
        if !asked_for("guardian/verify") && !asked_for("guardian/merge") {
            continue;
        }
        let all = Guardians::new(count);
        let rounds = if only_test() { 1 } else { 21 };
        let key = all.keys.values().next().expect("some");
        let one = key.sign(Suite::Rfc9380, b"checkpoint");
        for percent in [10, 50, 90] {
            let votes = all.votes(0, percent);
            let rest = all.votes(count * percent / 100, 100 - percent);
            let publics: Vec<bls::PublicKey> =
                all.pool.with_stake().take(count * percent / 100).map(|one| one.key).collect();
            let (mut verify, mut floor, mut merge) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                verify.push(timed(|| all.checkpoint().verify(&votes).expect("right")).1);
                let bare = timed(|| {
                    let keys = publics.iter().map(|key| (key, 1));
                    _ = black_box(aggregate_public_keys(Suite::Theta2020, keys));
                    bls::verify(Suite::Rfc9380, &key.public_key(), b"checkpoint", &one).expect("right");
                });
                floor.push(bare.1);
                merge.push(timed(|| merge_guardian_votes(&votes, &rest).expect("fits")).1);
            }
            let micros = |times: &[std::time::Duration]| Times::of(times.to_vec()).median.as_secs_f64() * 1e6;
            let (verify, floor, merge) = (micros(&verify), micros(&floor), micros(&merge));
            line(
                &format!("guardian/verify/{name}"),
                &format!(
                    r#""percent":{percent},"value":{verify:.0},"unit":"us","ceiling":{floor:.0},"fraction":{:.3},"floor":0.25,"good":0.5,"aim":0.8"#,
                    floor / verify
                ),
            );
            line(
                &format!("guardian/merge/{name}"),
                &format!(r#""percent":{percent},"value":{merge:.0},"unit":"us""#),
            );
        }
    }
}

fn gathered() {
    let begun = Instant::now();
    let costs = Costs::measure(&|| u64::try_from(begun.elapsed().as_nanos()).expect("no century"));
    for (guardians, name) in [(1_000_usize, "1e3"), (4_000, "4e3"), (10_000, "1e4")] {
        for degree in [8_usize, 20] {
            for byzantine_percent in [0, 10, 20, 30] {
                let name = format!("guardian/sim/{name}");
                if !asked_for(&name) || (only_test() && (guardians > 1_000 || byzantine_percent > 0)) {
                    continue;
                }
                let honest = GuardianScenario::honest(guardians, SEED, costs);
                let report = GuardianScenario { degree, byzantine_percent, ..honest }.run();
                assert_eq!(report.certified, report.honest);
                // The least number of rounds, as `benchmarks.md` counts them.
                let rounds = ((guardians as f64).ln() / (degree as f64 + 1.0).ln()).ceil();
                line(
                    &name,
                    &format!(
                        r#""degree":{degree},"byzantine_percent":{byzantine_percent},"value":{:.0},"unit":"ms","hops":{},"least_rounds":{rounds},"kb_sent":{:.0},"most_kb":{:.0},"cpu_ms":{:.0},"floor":30000,"good":5000,"aim":1500,"kb_goal":120"#,
                        report.last,
                        report.hops,
                        report.bytes.0 / 1e3,
                        report.bytes.1 as f64 / 1e3,
                        report.cpu.0
                    ),
                );
            }
        }
    }
}

fn main() {
    step();
    simulated();
    wal();
    guardians();
    if asked_for("guardian/sim") {
        gathered();
    }
}
