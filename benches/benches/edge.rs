//! `sched/place/{nodes}`, `sched/durable`, `pay/{receipt,tick,settle}/{payers}`: who gets a task, and what a payment costs.
//!
//! Payers come each as likely as any or, under `/zipf`, the k-th 1/k times as likely as the first; with `settle` that is how
//! large their claims are.

#![allow(missing_docs, reason = "criterion's macros make items without any")]

use std::{
    collections::{HashMap, VecDeque},
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use theta_benches::{
    Random, SEED, Times, asked_for, busy, named, only_test, prim, report, report_peer, state::address, timed,
};
use theta_core::{
    amount::TFuelWei,
    hash::{Address, Hash, U256, keccak},
    journal::{FileDisk, MemDisk},
    sign::SecretKey,
};
use theta_edge::{
    chain::{Fund, Settled},
    identity::NodeId,
    payment::{
        purse::{Purse, Tick},
        receipt::Payment,
        tick::WINDOW,
        till::{self, Due, Till},
    },
    placement::{
        Answer, AttemptId, Change, Effect, Event, HEARTBEAT_MS, Heartbeat, Input, JobRequest, Log, Need,
        Offer, Placement, Selector, Settings, Status, Step, Traits,
    },
};
use theta_ledger::tx::Transaction;

const CHAIN: &str = "privatenet";
const TENANTS: u64 = 64;
/// Tasks of one job.
const TASKS: usize = 100;

fn node(number: u64) -> NodeId {
    NodeId(address(number))
}

/// One of 64 classes: 4 architectures, 4 regions, without GPU or with one of three.
fn offer(random: &mut Random) -> Offer {
    let gpu = random.below(4);
    let traits = Traits {
        arch: format!("arch{}", random.below(4)),
        region: format!("region{}", random.below(4)),
        gpu: (gpu > 0).then(|| format!("gpu{gpu}")),
        ..Traits::default()
    };
    Offer {
        traits,
        cpu_milli: 4_000 + 1_000 * random.below(13) as u32,
        mem_mib: 4_096 + 1_024 * random.below(29) as u32,
        gpus: u8::from(gpu > 0),
        vram_mib: [0, 8_192, 24_576, 81_920][gpu as usize],
        credits: 16,
        speed: 60 + random.below(80) as u16,
        operator: random.below(10_000) as u32,
        ..Offer::default()
    }
}

fn job(number: u64, random: &mut Random) -> JobRequest {
    let gpu = random.below(4) == 0;
    JobRequest {
        id: keccak(number.to_be_bytes()),
        tenant: address(1_000_000_000 + number % TENANTS),
        need: Need {
            cpu_milli: [500, 1_000, 2_000, 4_000][random.below(4) as usize],
            mem_mib: [256, 1_024, 2_048, 4_096][random.below(4) as usize],
            vram_mib: if gpu { [4_096, 8_192, 16_384][random.below(3) as usize] } else { 0 },
        },
        selector: Selector {
            arch: (random.below(2) == 0).then(|| format!("arch{}", random.below(4))),
            ..Selector::default()
        },
        bid: 10,
        tasks: vec![None; TASKS],
        priority: random.below(8) as u8,
        expected_ms: 5_000,
        limit_ms: u32::MAX,
        ..JobRequest::default()
    }
}

/// A full fleet with ten waiting tasks for each node, in which one attempt ends after the other.
struct Fleet {
    placement: Placement,
    random: Random,
    running: VecDeque<(NodeId, AttemptId)>,
    step: Step,
    jobs: u64,
    nodes: u64,
    now: u64,
    churned: u64,
    beat: u64,
    events: Vec<Event>,
    keep_events: bool,
}

impl Fleet {
    fn new(nodes: u64) -> Self {
        let settings = Settings { tenant_rate: (1e9, 1e9), ..Settings::default() };
        let mut fleet = Self {
            placement: Placement::new(settings, 0),
            random: Random::new(SEED),
            running: VecDeque::new(),
            step: Step::default(),
            jobs: 0,
            nodes,
            now: 0,
            churned: 0,
            beat: 0,
            events: Vec::new(),
            keep_events: false,
        };
        for number in 0..nodes {
            let offer = offer(&mut fleet.random);
            fleet.put(Input::Join { node: node(number), offer, status: Status::Active });
        }
        fleet.fill();
        fleet
    }

    fn put(&mut self, input: Input) {
        self.step.effects.clear();
        self.step.events.clear();
        self.placement.step(self.now, input, &mut self.step);
        for effect in &self.step.effects {
            if let Effect::Offer { node, attempt, .. } = effect {
                self.running.push_back((*node, *attempt));
            }
        }
        if self.keep_events {
            self.events.append(&mut self.step.events);
        }
    }

    fn fill(&mut self) {
        while (self.placement.queued() as u64) < 10 * self.nodes {
            let job = job(self.jobs, &mut self.random);
            self.jobs += 1;
            self.put(Input::Submit(Box::new(job)));
        }
        // Every offer is taken.
        for (node, attempt) in self.running.clone() {
            self.put(Input::Answer { node: Some(node), attempt, answer: Answer::Accepted });
        }
    }

    /// Ends one attempt, which gives room for others. Gives the time it took and how many decisions were made.
    fn turn(&mut self) -> (Duration, u64) {
        let place = self.random.below(self.running.len() as u64) as usize;
        let Some((node, attempt)) = self.running.swap_remove_back(place) else {
            unreachable!("the fleet is full")
        };
        let input = Input::Answer { node: Some(node), attempt, answer: Answer::Done { success: true } };
        let before = self.running.len();
        let start = Instant::now();
        self.put(input);
        // Each offer that followed is taken.
        for place in before..self.running.len() {
            let (node, attempt) = self.running[place];
            self.put(Input::Answer { node: Some(node), attempt, answer: Answer::Accepted });
        }
        let time = start.elapsed();
        (time, (self.running.len() - before) as u64)
    }

    /// One percent of the nodes in a minute goes and comes.
    fn churn(&mut self, decisions: u64) {
        // So many tasks of five seconds run at once, so many end in a millisecond.
        let rate = (self.running.len() as u64 / 5_000).max(1);
        self.now += decisions / rate;
        if self.now / HEARTBEAT_MS > self.beat {
            self.beat = self.now / HEARTBEAT_MS;
            self.heartbeats();
        }
        let due = self.now * self.nodes / 100 / 60_000;
        while self.churned < due {
            self.churned += 1;
            let number = self.random.below(self.nodes);
            self.put(Input::Change { node: node(number), change: Change::Leave });
            let gone = node(number);
            self.running.retain(|(node, _)| *node != gone);
            let offer = offer(&mut self.random);
            self.put(Input::Join { node: gone, offer, status: Status::Active });
        }
    }

    /// Every node gives a sign of life.
    fn heartbeats(&mut self) {
        for number in 0..self.nodes {
            let beat = Heartbeat { seq: self.beat, ..Heartbeat::default() };
            self.put(Input::Heartbeat { node: node(number), beat });
        }
    }

    /// Makes so many decisions and gives the time of each turn.
    fn decide(&mut self, count: u64, times: &mut Vec<Duration>) -> (Duration, u64) {
        let (mut all, mut made) = (Duration::ZERO, 0);
        while made < count {
            if (self.placement.queued() as u64) < 5 * self.nodes {
                self.fill();
            }
            let mut decisions = 0;
            for _ in 0..256 {
                let (time, more) = self.turn();
                times.push(time);
                all += time;
                decisions += more;
            }
            made += decisions;
            self.churn(decisions);
        }
        (all, made)
    }
}

/// The peer: looks at every node.
struct Scan(Vec<(u32, u32, u32)>);

impl Scan {
    fn new(nodes: u64) -> Self {
        let mut random = Random::new(SEED);
        let row = |offer: Offer| (offer.cpu_milli, offer.mem_mib, offer.vram_mib);
        Self((0..nodes).map(|_| row(offer(&mut random))).collect())
    }

    fn decide(&mut self, need: &Need) {
        let fits = self.0.iter().enumerate().filter(|(_, (cpu, mem, vram))| {
            *cpu >= need.cpu_milli && *mem >= need.mem_mib && *vram >= need.vram_mib
        });
        let score = |(cpu, mem, _): &(u32, u32, u32)| {
            need.cpu_milli as f32 / *cpu as f32 + need.mem_mib as f32 / *mem as f32
        };
        let best = fits.max_by(|(_, a), (_, b)| score(a).total_cmp(&score(b)));
        black_box(best);
    }
}

fn rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn sched_place(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sched");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(1));
    let sizes: &[(&str, u64)] =
        if only_test() { &[("1e3", 100)] } else { &[("1e3", 1_000), ("1e4", 10_000), ("1e5", 100_000)] };
    for (name, nodes) in sizes {
        let id = format!("sched/place/{name}");
        if !asked_for(&id) {
            continue;
        }
        let before = rss_mb();
        let mut fleet = Fleet::new(*nodes);
        let mb = rss_mb() - before;
        let mut times = Vec::new();
        group.bench_function(format!("place/{name}"), |bencher| {
            bencher.iter_custom(|count| {
                times.clear();
                let (time, made) = fleet.decide(count, &mut times);
                time.mul_f64(count as f64 / made as f64)
            });
        });
        // A B A B beside the peer.
        let (mut ours, mut peer, mut all) = (Vec::new(), Vec::new(), Vec::new());
        let mut scan = Scan::new(*nodes);
        let (rounds, count) = if only_test() { (1, 100) } else { (7, 50_000) };
        for _ in 0..rounds {
            let (time, made) = fleet.decide(count, &mut all);
            ours.push(time.div_f64(made as f64));
            let need = Need { cpu_milli: 1_000, mem_mib: 1_024, vram_mib: 0 };
            let scans = (20_000_000 / nodes).clamp(1, 2_000) as u32;
            peer.push(timed(|| (0..scans).for_each(|_| scan.decide(&need))).1 / scans);
        }
        all.sort_unstable();
        let at = |percent: usize| all[all.len() * percent / 100].as_secs_f64() * 1e6;
        let rate = |times: Vec<Duration>| 1.0 / Times::of(times).median.as_secs_f64();
        let beats = if only_test() { 1 } else { 5 };
        let beats: Vec<Duration> = (0..beats)
            .map(|_| {
                fleet.beat += 1;
                timed(|| fleet.heartbeats()).1.div_f64(*nodes as f64)
            })
            .collect();
        println!(r#"{{"bench":"sched/heartbeat/{name}","value":{:.0},"unit":"heartbeats/s"}}"#, rate(beats));
        report_peer(&id, "decisions", rate(ours), (at(50), at(99)), mb, ("full scan", rate(peer)));
    }
    group.finish();
}

/// Tasks that have no end yet.
fn open_tasks(placement: &Placement) -> usize {
    let open = |event: &Event| match event {
        Event::Kept { tasks, .. } => tasks.iter().filter(|task| !task.ended).count(),
        _ => 0,
    };
    placement.snapshot().iter().map(open).sum()
}

fn sched_durable(_criterion: &mut Criterion) {
    if !asked_for("sched/durable") {
        return;
    }
    let mut fleet = Fleet::new(if only_test() { 100 } else { 10_000 });
    fleet.keep_events = true;
    let settings = Settings { tenant_rate: (1e9, 1e9), ..Settings::default() };
    let mut events = fleet.placement.snapshot();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = || Log::open(FileDisk::open(&folder.path().join("log")).expect("opens")).expect("whole");
    let (mut log, _) = open();
    let (mut times, mut count) = (Vec::new(), 0);
    log.append(events.clone()).expect("written");
    let rounds = if only_test() { 2 } else { 200 };
    for _ in 0..rounds {
        let ((), time) = timed(|| {
            let mut turns = Vec::new();
            while fleet.events.len() < 1_000 {
                fleet.decide(1, &mut turns);
            }
            count += fleet.events.len();
            log.append(fleet.events.clone()).expect("written");
        });
        times.push(time);
        events.append(&mut fleet.events);
    }
    let sync = prim::sync(folder.path()).expect("a disk");
    let per_round = count as f64 / f64::from(rounds);
    report("sched/durable", "events", per_round, Times::of(times), per_round / sync.as_secs_f64());
    // A crash: what is read back is what was there.
    drop(log);
    let ((placement, _), time) = timed(|| Placement::recover(settings, &open().1, fleet.now));
    assert_eq!(open_tasks(&placement), open_tasks(&fleet.placement));
    println!(
        r#"{{"bench":"sched/recover","value":{:.0},"unit":"events/s","events":{}}}"#,
        events.len() as f64 / time.as_secs_f64(),
        events.len()
    );
}

/// What comes from a payer, in its order.
enum Coming {
    Payment(Box<Payment>),
    Tick(Tick),
}

/// What a payer is to send: so many receipts, each this much more, or so many ticks.
#[derive(Clone, Copy)]
struct Wish {
    receipts: u64,
    amount: TFuelWei,
    ticks: u32,
}

/// How payers are drawn: each as likely as any, or the k-th 1/k times as likely as the first.
#[derive(Clone, Copy, PartialEq)]
enum Draw {
    Uniform,
    Zipf,
}

impl Draw {
    /// Payers in the order in which something comes from them.
    fn order(self, payers: u64, count: usize, random: &mut Random) -> Vec<u32> {
        if self == Self::Uniform {
            return (0..count).map(|_| random.below(payers) as u32).collect();
        }
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=payers)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        let point = |random: &mut Random| random.next_u64() as f64 / u64::MAX as f64 * sum;
        (0..count)
            .map(|_| {
                let point = point(random);
                sums.partition_point(|upto| *upto < point).min(payers as usize - 1) as u32
            })
            .collect()
    }

    /// How often each payer comes.
    fn counts(payers: u64, order: &[u32]) -> Vec<u32> {
        let mut counts = vec![0; payers as usize];
        order.iter().for_each(|payer| counts[*payer as usize] += 1);
        counts
    }
}

/// A payee with many payers, each with a fund and what is to come from it.
struct Payers {
    till: Till,
    funds: Vec<Fund>,
    coming: Vec<VecDeque<Coming>>,
}

const UNIT: u64 = 1_000_000_000_000_000;

impl Payers {
    /// One for each wish, made on all cores.
    fn new(wishes: &[Wish]) -> Self {
        let payee = Arc::new(SecretKey::from_bytes(&[9; 32]).expect("in range"));
        let settings = till::Settings { max_funds: 2_000_000, ..till::Settings::default() };
        let till = Till::open_with(CHAIN, payee.clone(), MemDisk::default(), settings).expect("empty");
        let mut all = Self { till, funds: Vec::new(), coming: Vec::new() };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let part = wishes.len().div_ceil(cores).max(1);
        let payee = payee.address();
        let parts: Vec<Vec<_>> = std::thread::scope(|scope| {
            let parts = wishes.chunks(part).enumerate().map(|(number, wishes)| {
                scope.spawn(move || {
                    let first = (number * part) as u64;
                    let payers = (first..).zip(wishes);
                    payers.map(|(number, wish)| Self::payer(number, *wish, payee)).collect::<Vec<_>>()
                })
            });
            let parts: Vec<_> = parts.collect();
            parts.into_iter().map(|part| part.join().expect("no panic")).collect()
        });
        for (fund, coming) in parts.into_iter().flatten() {
            all.funds.push(fund);
            all.coming.push(coming);
        }
        all
    }

    fn payer(number: u64, wish: Wish, payee: Address) -> (Fund, VecDeque<Coming>) {
        let key = SecretKey::from_bytes(keccak(number.to_be_bytes()).as_slice())
            .expect("nearly all words are keys");
        let fund = Fund {
            payer: key.address(),
            reserve_sequence: 1,
            initial: TFuelWei::whole(1_000),
            used: TFuelWei::ZERO,
            resource_ids: vec!["edge1/any".into()],
            end_height: 1_000,
            settled: Vec::new(),
        };
        let mut purse = Purse::open(CHAIN, Arc::new(key), MemDisk::default()).expect("empty");
        purse.adopt(&fund).expect("fresh");
        let job = Hash::ZERO;
        purse.promise(job, TFuelWei::whole(900)).expect("it has so much");
        let mut coming = VecDeque::new();
        if wish.ticks > 0 {
            let seed = keccak(number.to_le_bytes()).0;
            let payment = purse.open_ticks(&job, payee, TFuelWei::wei(UNIT), wish.ticks, seed);
            coming.push_back(Coming::Payment(Box::new(payment.expect("promised"))));
        }
        for item in 0..wish.receipts {
            let item = Hash::from(U256::from(item + 1));
            let payment = purse.pay(&job, payee, item, wish.amount).expect("promised");
            purse.acknowledged(payee, 1, payment.receipt.amount).expect("in memory");
            coming.push_back(Coming::Payment(Box::new(payment)));
        }
        for tick in 0..wish.ticks {
            if tick > 0 && tick % WINDOW == 0 {
                let payment = purse.roll_up(&payee).expect("in memory");
                coming.push_back(Coming::Payment(Box::new(payment)));
            }
            coming.push_back(Coming::Tick(purse.tick(&payee).expect("in the window")));
        }
        (fund, coming)
    }

    fn accept_all(&mut self) {
        for payer in 0..self.funds.len() {
            self.accept(payer);
        }
    }

    /// Takes the next payment of a payer, as it comes in an envelope of its own.
    fn accept(&mut self, payer: usize) {
        let Some(Coming::Payment(payment)) = self.coming[payer].pop_front() else {
            unreachable!("as many as were drawn")
        };
        let fund = &self.funds[payer];
        self.till.accept_from_payer(fund.payer, &payment, fund, 100).expect("it is good");
    }

    /// Takes the next tick of a payer, and the receipt before it where its window was full.
    fn tick(&mut self, payer: usize) {
        while let Some(Coming::Payment(_)) = self.coming[payer].front() {
            self.accept(payer);
        }
        let Some(Coming::Tick(tick)) = self.coming[payer].pop_front() else {
            unreachable!("as many as were drawn")
        };
        assert!(!self.till.tick(0, self.funds[payer].payer, &tick).expect("it is good").is_zero());
    }
}

/// Receipts in the order of draws.
fn pay_receipt(id: &str, payers: u64, draw: Draw, count: usize, limit: f64) {
    let order = draw.order(payers, count, &mut Random::new(SEED));
    let amount = TFuelWei::wei(UNIT);
    let counts = Draw::counts(payers, &order);
    let wishes: Vec<Wish> =
        counts.iter().map(|count| Wish { receipts: (*count).into(), amount, ticks: 0 }).collect();
    let mut all = Payers::new(&wishes);
    let mut times = Vec::new();
    for part in order.chunks((order.len() / 20).max(1)) {
        let ((), time) = busy(|| part.iter().for_each(|payer| all.accept(*payer as usize)));
        times.push(time.div_f64(part.len() as f64));
    }
    let book = all.till.earnings().expect("it adds up");
    assert!(book.balances());
    assert_eq!(book.earned, amount.checked_mul(count as u64).expect("small"));
    report(id, "receipts", 1.0, Times::of(times), limit);
}

/// Ticks in the order of draws; one that fills a payer's window brings a receipt with it.
fn pay_tick(id: &str, payers: u64, draw: Draw, count: usize) {
    let order = draw.order(payers, count, &mut Random::new(SEED));
    let counts = Draw::counts(payers, &order);
    // Who sends none has no chain, and nothing to begin with.
    let wish = |count: &u32| Wish { receipts: 0, amount: TFuelWei::ZERO, ticks: *count };
    let mut all = Payers::new(&counts.iter().map(wish).collect::<Vec<_>>());
    for (payer, count) in counts.iter().enumerate() {
        if *count > 0 {
            all.accept(payer);
        }
    }
    let mut times = Vec::new();
    for part in order.chunks((order.len() / 21).max(1)) {
        let ((), time) = busy(|| part.iter().for_each(|payer| all.tick(*payer as usize)));
        times.push(time.div_f64(part.len() as f64));
    }
    let book = all.till.earnings().expect("it adds up");
    let expected = TFuelWei::wei(UNIT).checked_mul(order.len() as u64).expect("small");
    assert_eq!(book.earned, expected);
    report(id, "ticks", 1.0, Times::of(times), 1.0 / prim::permutation().as_secs_f64());
}

/// One claim of each payer, settled; what the transactions pay and what the book says then is what was owed, to the wei.
fn pay_settle(id: &str, payers: u64, draw: Draw, limit: f64) {
    let amount = |rank: u64| {
        let more = match draw {
            Draw::Uniform => TFuelWei::wei(rank * 7_919 % 1_000_000_007),
            Draw::Zipf => {
                TFuelWei::whole(800).checked_ratio(U256::from(1), U256::from(rank + 1)).expect("a part of it")
            }
        };
        more.checked_add(TFuelWei::whole(1)).expect("small")
    };
    let owed = (0..payers).map(amount);
    let owed = owed.fold(TFuelWei::ZERO, |sum, more| sum.checked_add(more).expect("small"));
    let wishes: Vec<Wish> =
        (0..payers).map(|rank| Wish { receipts: 1, amount: amount(rank), ticks: 0 }).collect();
    let mut all = Payers::new(&wishes);
    all.accept_all();
    let fee = TFuelWei::wei(300_000_000_000_000_000_u64);
    let due = all.till.due(100, fee, true);
    assert_eq!(due.len() as u64, payers);
    let places: HashMap<Address, usize> =
        all.funds.iter().enumerate().map(|(place, fund)| (fund.payer, place)).collect();
    let (mut times, mut paid) = (Vec::new(), TFuelWei::ZERO);
    for part in due.chunks((due.len() / 20).max(1)) {
        let (claims, time) = busy(|| {
            let settle = |due: &Due| {
                let fund = &all.funds[places[&due.payer]];
                all.till.settle(due, fund, fee, 100).expect("it is due")
            };
            part.iter().map(settle).collect::<Vec<_>>()
        });
        times.push(time.div_f64(part.len() as f64));
        // The chain carries them out.
        for (due, claim) in part.iter().zip(claims) {
            let Transaction::ServicePayment(payment) = claim.transaction else { unreachable!("a claim") };
            let settled = Settled::of(&payment).expect("no more than there can be");
            paid = paid.checked_add(settled.amount).expect("small");
            let fund = &mut all.funds[places[&due.payer]];
            fund.settled.push(settled);
            all.till.observe(fund).expect("in memory");
            fund.settled.clear();
        }
    }
    let book = all.till.earnings().expect("it adds up");
    assert!(book.balances());
    assert_eq!((paid, book.earned, book.accrued), (owed, owed, TFuelWei::ZERO));
    // One signature each; the limit is as for a receipt.
    report(id, "settlements", 1.0, Times::of(times), limit);
}

fn pay(_criterion: &mut Criterion) {
    let limit = 1.0 / (prim::verify() + 2 * prim::permutation()).as_secs_f64();
    // Receipts and ticks of a payer, on average.
    let sizes: &[(&str, u64, usize, usize)] = if only_test() {
        &[("1e3", 10, 60, 300)]
    } else {
        &[("1e3", 1_000, 60, 250), ("1e5", 100_000, 3, 12)]
    };
    // A million takes more than six minutes.
    let largest = named("1e6").then_some(("1e6", 1_000_000, 1, 1));
    for (name, payers, receipts, ticks) in sizes.iter().chain(&largest) {
        for (draw, suffix) in [(Draw::Uniform, ""), (Draw::Zipf, "/zipf")] {
            let count = *payers as usize;
            let id = format!("pay/receipt/{name}{suffix}");
            if asked_for(&id) {
                pay_receipt(&id, *payers, draw, count * receipts, limit);
            }
            let id = format!("pay/tick/{name}{suffix}");
            if asked_for(&id) {
                pay_tick(&id, *payers, draw, count * ticks);
            }
            let id = format!("pay/settle/{name}{suffix}");
            if asked_for(&id) {
                pay_settle(&id, *payers, draw, limit);
            }
        }
    }
}

criterion_group!(benches, sched_place, sched_durable, pay);
criterion_main!(benches);
