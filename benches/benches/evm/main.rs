//! `evm/transfer`, `evm/erc20/{1e3,1e5,1e6}`, `evm/{snailtracer,storage_heavy,deploy,precompiles}`: our machine by Ethereum's
//! rules on a view of our state, beside raw revm: the same calls in the same run, by turns, and the same gas.
//!
//! Prints one JSON line for each. `warm` begins every round with everything read: our view and the peer's database in
//! memory. `block` begins every 512 transactions having read nothing, as blocks do: our view and the peer's cache read the
//! same tries. The heavy ones are one call a round, on what is warm.

mod parallel;
mod programs;

use theta_benches::{
    Random, SEED, asked_for,
    evm::{Contract, Run, World, token, transfer},
    load, only_test,
};
use theta_ledger::vm::VmCall;

const BLOCK: usize = 512;
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One line: time for each transaction on both sides, and the median of the ratios of the rounds.
fn line(bench: &str, rounds: &[(Run, Run)], count: usize, peer: &str) {
    let each = |run: &Run| run.time.as_nanos() as f64 / count as f64;
    for (ours, theirs) in rounds {
        assert_eq!(ours.gas, theirs.gas, "{bench}: gas");
    }
    let column = |of: fn(&(Run, Run)) -> Run| median(rounds.iter().map(|pair| each(&of(pair))).collect());
    let (own, other) = (column(|pair| pair.0), column(|pair| pair.1));
    let ratio = median(rounds.iter().map(|(ours, theirs)| each(ours) / each(theirs)).collect());
    let gas = rounds[0].0.gas as f64 / count as f64;
    println!(
        "{{\"bench\":\"{bench}\",\"seed\":{SEED},\"unit\":\"ns/tx\",\"median\":{own:.0},\"mgas_s\":{:.0},\"peer\":\"{peer}\",\"peer_value\":{other:.0},\"ratio\":{ratio:.3},\"rounds\":{},\"loadavg\":\"{}\"}}",
        gas * 1e3 / own,
        rounds.len(),
        load(),
    );
}

fn transfers(bench: &str, accounts: u64, token_calls: bool) {
    // A large state takes longer to lay out again than to run calls on.
    let (count, rounds) = match accounts {
        _ if only_test() => (64, 1),
        ..=100_000 => (8 * BLOCK, 11),
        _ => (8 * BLOCK, 5),
    };
    let world = World::new(accounts, vec![token(accounts)]);
    let (warm, mut database) = (world.warm_view(), world.warm_database());
    let mut random = Random::new(SEED);
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    // The first round fills caches.
    for round in 0..=rounds {
        let calls: Vec<VmCall> = (0..count)
            .map(|_| (random.below(world.accounts()), random.below(world.accounts())))
            .map(|pair| transfer(pair, token_calls))
            .collect();
        let (mut view, mut blocks) = (warm.clone(), (Run::default(), Run::default()));
        let pair = (world.ours(&mut view, &calls), world.theirs(&mut database, &calls));
        for calls in calls.chunks(BLOCK) {
            blocks.0 += world.ours(&mut world.view(), calls);
            blocks.1 += world.theirs(&mut world.database(), calls);
        }
        if round > 0 {
            read.push(pair);
            unread.push(blocks);
        }
    }
    line(&format!("{bench}/warm"), &read, count, "raw revm, database in memory");
    line(&format!("{bench}/block"), &unread, count, "raw revm, the same tries below its cache");
}

fn heavy(bench: &str, contracts: Vec<Contract>, call: &VmCall) {
    let rounds = if only_test() { 1 } else { 21 };
    let world = World::new(1_000, contracts);
    let (warm, base) = (world.warm_view(), world.warm_database());
    let mut runs = Vec::new();
    for round in 0..=rounds {
        let (mut view, mut database) = (warm.clone(), base.clone());
        let calls = std::slice::from_ref(call);
        let pair = (world.ours(&mut view, calls), world.theirs(&mut database, calls));
        if round > 0 {
            runs.push(pair);
        }
    }
    line(bench, &runs, 1, "raw revm, database in memory");
}

fn main() {
    let size = |accounts| if only_test() { 2_000 } else { accounts };
    for (bench, accounts, token_calls) in [
        ("evm/transfer", 1_000, false),
        ("evm/erc20/1e3", 1_000, true),
        ("evm/erc20/1e5", size(100_000), true),
        ("evm/erc20/1e6", size(1_000_000), true),
    ] {
        if asked_for(bench) {
            transfers(bench, accounts, token_calls);
        }
    }
    for (bench, program) in programs::all() {
        if asked_for(bench) {
            let (contracts, call) = program();
            heavy(bench, contracts, &call);
        }
    }
    parallel::run();
}
