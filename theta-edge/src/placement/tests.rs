//! A coordinator, its log, and nodes that work, fail and vanish, in virtual time.

use super::*;
use std::collections::HashMap;
use theta_core::hash::U256;
use theta_core::journal::MemDisk;

fn id(number: u64) -> NodeId {
    NodeId(Address::from_word(U256::from(number + 1).into()))
}

fn hash(number: u64) -> Hash {
    Hash::from(U256::from(number + 1))
}

fn tenant(number: u64) -> Address {
    Address::from_word(U256::from(number + 1_000_000).into())
}

fn job(number: u64, tasks: usize) -> JobRequest {
    JobRequest {
        id: hash(number),
        tenant: tenant(number % 3),
        need: Need { cpu_milli: 1_000, mem_mib: 512, vram_mib: 0 },
        selector: Selector::default(),
        bid: 10,
        reputation: 0,
        kind: 0,
        replicated: false,
        tasks: vec![None; tasks],
        deadline: None,
        priority: 3,
        gang: false,
        expected_ms: 100,
        ..JobRequest::default()
    }
}

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Works(u64),
    Fails,
    /// Takes offers and never answers.
    Mute,
    Refuses,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Done(NodeId, AttemptId),
    Beat(NodeId),
    Do(Input2),
}

/// Inputs that tests plan, in a form that can be ordered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Input2 {
    Vanish(NodeId),
    Return(NodeId),
    Drain(NodeId),
    Cancel(Hash),
    Submit(u64, usize),
}

/// Nodes and clients around a coordinator. What they know outlives it.
struct World {
    settings: Settings,
    placement: Placement,
    log: Vec<Event>,
    now: Millis,
    plan: BTreeSet<(Millis, u64, Happens)>,
    next: u64,
    conduct: HashMap<NodeId, Conduct>,
    /// What each node is running, and since when it is gone.
    running: BTreeMap<NodeId, BTreeSet<AttemptId>>,
    gone: BTreeSet<NodeId>,
    beats: u64,
    jobs: BTreeMap<Hash, JobRequest>,
    accepted: BTreeSet<Hash>,
    ended: BTreeMap<Hash, Ended>,
    /// Who was paid for which task.
    paid: BTreeMap<(Hash, u32), BTreeSet<Option<NodeId>>>,
    cancelled: BTreeSet<Hash>,
    gave_up: Vec<(Hash, u32, GiveUp)>,
    offers: Vec<(NodeId, AttemptId, Hash, u32)>,
    stops: u32,
    spilled: Vec<(usize, AttemptId, Spill)>,
    /// The log is cut after so many events, and whether effects of the step it is cut in had been carried out.
    crash: Option<(usize, bool)>,
    crashed: bool,
}

impl World {
    fn new(settings: Settings) -> Self {
        Self {
            placement: Placement::new(settings.clone(), 0),
            settings,
            log: Vec::new(),
            now: 0,
            plan: BTreeSet::new(),
            next: 0,
            conduct: HashMap::new(),
            running: BTreeMap::new(),
            gone: BTreeSet::new(),
            beats: 0,
            jobs: BTreeMap::new(),
            accepted: BTreeSet::new(),
            ended: BTreeMap::new(),
            paid: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            gave_up: Vec::new(),
            offers: Vec::new(),
            stops: 0,
            spilled: Vec::new(),
            crash: None,
            crashed: false,
        }
    }

    fn plan(&mut self, at: Millis, what: Happens) {
        self.next += 1;
        self.plan.insert((at, self.next, what));
    }

    fn node(&mut self, number: u64, conduct: Conduct, offer: Offer) {
        let node = id(number);
        self.conduct.insert(node, conduct);
        self.running.insert(node, BTreeSet::new());
        self.step(Input::Join { node, offer, status: Status::Active });
        self.plan(self.now + 5_000 + number, Happens::Beat(node));
    }

    fn submit(&mut self, request: JobRequest) {
        self.jobs.insert(request.id, request.clone());
        self.step(Input::Submit(Box::new(request)));
    }

    fn step(&mut self, input: Input) {
        let mut step = Step::default();
        self.placement.step(self.now, input, &mut step);
        self.carry_out(step);
    }

    fn carry_out(&mut self, step: Step) {
        let before = self.log.len();
        self.log.extend(step.events);
        if let Some((at, done)) = self.crash.filter(|(at, _)| self.log.len() >= *at && !self.crashed) {
            self.crashed = true;
            self.log.truncate(at);
            // Effects are carried out only when all events of their step are durable.
            if done && self.log.len() == at && at >= before {
                self.effects(step.effects);
            }
            return self.recover();
        }
        self.effects(step.effects);
        if let Some(at) = step.wake_at {
            let at = at.max(self.now);
            self.wake(at);
        }
    }

    fn wake(&mut self, at: Millis) {
        // One timer is enough: each step says anew.
        self.plan.retain(
            |(_, _, what)| !matches!(what, Happens::Do(Input2::Vanish(node)) if *node == id(u64::MAX - 9)),
        );
        self.plan(at, Happens::Do(Input2::Vanish(id(u64::MAX - 9))));
    }

    fn recover(&mut self) {
        let (placement, step) = Placement::recover(self.settings.clone(), &self.log, self.now);
        self.placement = placement;
        self.carry_out(step);
        for (node, running) in self.running.clone() {
            if !self.gone.contains(&node) {
                // Nodes connect again. Some may not have been on record.
                let known = self.placement.member(&node).is_some();
                if !known {
                    self.step(Input::Join { node, offer: Offer::default(), status: Status::Active });
                }
                self.step(Input::Announce { node, running: running.into_iter().collect() });
            }
        }
        // Clients ask again for what they have no end of.
        for job in
            self.jobs.values().filter(|job| !self.ended.contains_key(&job.id)).cloned().collect::<Vec<_>>()
        {
            self.step(Input::Submit(Box::new(job)));
        }
        for job in self.cancelled.clone() {
            self.step(Input::Cancel { job });
        }
    }

    fn effects(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Accepted { job } => drop(self.accepted.insert(job)),
                Effect::Offer { node, attempt, job, index, .. } => {
                    self.offers.push((node, attempt, job, index));
                    if self.gone.contains(&node) {
                        continue;
                    }
                    match self.conduct[&node] {
                        Conduct::Mute => {}
                        Conduct::Refuses => {
                            self.answer(node, attempt, Answer::Refused);
                        }
                        Conduct::Fails => {
                            self.answer(node, attempt, Answer::Accepted);
                            self.answer(node, attempt, Answer::Failed);
                        }
                        Conduct::Works(ms) => {
                            self.running.get_mut(&node).unwrap().insert(attempt);
                            self.answer(node, attempt, Answer::Accepted);
                            self.plan(self.now + ms, Happens::Done(node, attempt));
                        }
                    }
                }
                Effect::Stop { node: Some(node), attempt } => {
                    self.stops += 1;
                    self.running.get_mut(&node).unwrap().remove(&attempt);
                }
                Effect::Committed { node, job, index, success, .. } => {
                    assert!(success);
                    self.paid.entry((job, index)).or_default().insert(node);
                }
                Effect::GaveUp { job, index, why } => self.gave_up.push((job, index, why)),
                Effect::Finished { job, ended } => drop(self.ended.insert(job, ended)),
                Effect::Spill { pool, attempt, why, .. } => self.spilled.push((pool, attempt, why)),
                _ => {}
            }
        }
    }

    fn answer(&mut self, node: NodeId, attempt: AttemptId, answer: Answer) {
        self.step(Input::Answer { node: Some(node), attempt, answer });
    }

    fn run(&mut self, until: Millis) {
        while let Some((at, _, what)) = self.plan.first().cloned() {
            if at > until {
                break;
            }
            self.plan.pop_first();
            self.now = self.now.max(at);
            match what {
                Happens::Done(node, attempt) => {
                    if !self.gone.contains(&node) && self.running.get_mut(&node).unwrap().remove(&attempt) {
                        self.answer(node, attempt, Answer::Done { success: true });
                    }
                }
                Happens::Beat(node) => {
                    self.beats += 1;
                    let seq = self.beats;
                    if !self.gone.contains(&node) {
                        self.step(Input::Heartbeat { node, beat: Heartbeat { seq, ..Heartbeat::default() } });
                    }
                    self.plan(at + HEARTBEAT_MS, Happens::Beat(node));
                }
                Happens::Do(Input2::Vanish(node)) if node == id(u64::MAX - 9) => self.step(Input::Tick),
                Happens::Do(Input2::Vanish(node)) => drop(self.gone.insert(node)),
                Happens::Do(Input2::Return(node)) => {
                    self.gone.remove(&node);
                    let running = self.running[&node].iter().copied().collect();
                    self.step(Input::Announce { node, running });
                    // What it finished in the meantime it has the result of.
                    for attempt in self.running[&node].clone() {
                        self.plan(self.now + 10, Happens::Done(node, attempt));
                    }
                }
                Happens::Do(Input2::Drain(node)) => self.step(Input::Change { node, change: Change::Drain }),
                Happens::Do(Input2::Cancel(job)) => {
                    self.cancelled.insert(job);
                    self.step(Input::Cancel { job });
                }
                Happens::Do(Input2::Submit(number, tasks)) => self.submit(job(number, tasks)),
            }
        }
        self.now = self.now.max(until);
    }

    fn settle(&mut self, until: Millis) {
        self.run(until);
        for (id, job) in &self.jobs {
            let ended = self
                .ended
                .get(id)
                .unwrap_or_else(|| panic!("{id} has no end: {:?}", self.placement.explain(id, 0)));
            assert_eq!((ended.done + ended.failed) as usize, job.tasks.len(), "{id}");
            for index in 0..job.tasks.len() as u32 {
                let paid = self.paid.get(&(*id, index)).map_or(0, BTreeSet::len);
                assert!(paid <= 1, "{id} task {index} was paid {paid} times");
                assert!(
                    paid == 1 || self.cancelled.contains(id) || ended.failed > 0,
                    "{id} task {index} is lost"
                );
            }
        }
        assert_eq!((self.placement.running(), self.placement.queued()), (0, 0));
        assert_eq!(self.placement.fleet().free(), self.placement.fleet().total(), "all of it was given back");
    }
}

/// Six nodes, of which one is slow, one fails, one vanishes and comes back and one drains; jobs of three tenants, one of
/// them cancelled.
fn busy_world(crash: Option<(usize, bool)>) -> World {
    let mut world = World::new(Settings { seed: 5, ..Settings::default() });
    world.crash = crash;
    for (number, conduct) in [
        Conduct::Works(100),
        Conduct::Works(130),
        Conduct::Works(9_000),
        Conduct::Fails,
        Conduct::Works(90),
        Conduct::Works(110),
    ]
    .into_iter()
    .enumerate()
    {
        world.node(number as u64, conduct, Offer::default());
    }
    for (at, what) in [
        (10, Input2::Submit(1, 6)),
        (20, Input2::Submit(2, 5)),
        (60, Input2::Submit(3, 4)),
        (70, Input2::Vanish(id(0))),
        (150, Input2::Cancel(hash(3))),
        (300, Input2::Submit(4, 6)),
        (320, Input2::Drain(id(1))),
        (400, Input2::Return(id(0))),
        (45_000, Input2::Submit(5, 3)),
    ] {
        world.plan(at, Happens::Do(what));
    }
    world
}

#[test]
fn every_task_of_a_busy_fleet_is_done_and_paid_once() {
    let mut world = busy_world(None);
    world.settle(120_000);
    assert_eq!(world.ended.len(), 5);
    assert!(world.ended[&hash(3)].failed > 0, "it was cancelled in time");
    assert!(world.log.iter().any(|event| matches!(event, Event::Dropped { loss: Loss::Fault, .. })));
    let states: Vec<Status> =
        (0..6).map(|number| world.placement.member(&id(number)).unwrap().status).collect();
    assert_eq!(states[0], Status::Active, "it came back");
}

#[test]
fn a_crash_at_any_place_of_the_log_loses_and_doubles_nothing() {
    let length = {
        let mut world = busy_world(None);
        world.settle(120_000);
        world.log.len()
    };
    assert!(length > 80, "{length}");
    for at in 0..=length {
        for done in [false, true] {
            let mut world = busy_world(Some((at, done)));
            world.settle(200_000);
            assert!(world.crashed || at >= length, "{at}");
            assert_eq!(world.ended.len(), 5, "crash at {at}");
        }
    }
}

#[test]
fn a_log_written_anew_at_any_place_leads_to_the_same_end() {
    let mut world = busy_world(None);
    world.settle(120_000);
    let log = world.log.clone();
    for at in 0..=log.len() {
        let (before, _) = Placement::recover(world.settings.clone(), &log[..at], 0);
        let snapshot = before.snapshot();
        let (after, _) = Placement::recover(world.settings.clone(), &snapshot, 0);
        assert_eq!(after.snapshot(), snapshot, "at {at}");
        // The rest of the log fits both.
        let both = |head: &[Event]| {
            let all: Vec<Event> = head.iter().chain(&log[at..]).cloned().collect();
            Placement::recover(world.settings.clone(), &all, 0).0
        };
        let (old, new) = (both(&log[..at]), both(&snapshot));
        assert_eq!(new.snapshot(), old.snapshot(), "from {at} on");
        assert_eq!(old.ended(&hash(1)), new.ended(&hash(1)));
    }
}

#[test]
fn events_survive_on_disk_step_by_step() {
    let mut world = busy_world(None);
    world.settle(120_000);
    let disk = MemDisk::default();
    let (mut log, _) = Log::open(disk.clone()).unwrap();
    for events in world.log.chunks(7) {
        log.append(events.to_vec()).unwrap();
    }
    drop(log);
    disk.crash(0);
    let (mut log, events) = Log::open(disk.clone()).unwrap();
    assert_eq!(events, world.log);
    let (placement, _) = Placement::recover(world.settings.clone(), &events, 0);
    log.replace(placement.snapshot()).unwrap();
    drop(log);
    assert_eq!(Log::open(disk).unwrap().1, placement.snapshot());
}

#[test]
fn a_tenth_of_the_fleet_lost_at_once_is_made_up_for_within_a_second() {
    let mut world = World::new(Settings::default());
    for number in 0..200 {
        let offer = Offer { cpu_milli: 3_000, credits: 3, ..Offer::default() };
        world.node(number, Conduct::Works(600_000), offer);
    }
    world.submit(JobRequest { expected_ms: 600_000, ..job(1, 400) });
    assert_eq!(world.placement.running(), 400);
    // Before their first heartbeat, so that all are missed at 30 s.
    world.gone.extend((0..20).map(id));
    let with_lost = |world: &World| -> usize {
        let nodes = (0..20).map(|number| world.placement.state.fleet.find(&id(number)).unwrap());
        nodes.map(|node| world.placement.state.attempts_of(node).len()).sum()
    };
    world.run(29_900);
    assert!(with_lost(&world) > 20);
    world.run(31_000);
    assert_eq!((with_lost(&world), world.placement.running()), (0, 400));
}

#[test]
fn a_late_result_of_a_node_that_was_given_up_changes_nothing() {
    let mut world = World::new(Settings::default());
    world.node(0, Conduct::Works(1_000_000), Offer::default());
    world.submit(job(1, 1));
    let (node, attempt, ..) = world.offers[0];
    world.gone.insert(node);
    world.node(1, Conduct::Works(50), Offer::default());
    world.run(60_000);
    assert_eq!(world.ended[&hash(1)], Ended { done: 1, failed: 0 });
    let (paid, events) = (world.paid.clone(), world.log.len());
    assert_eq!(paid[&(hash(1), 0)], BTreeSet::from([Some(id(1))]));
    world.answer(node, attempt, Answer::Done { success: true });
    assert_eq!((&world.paid, world.log.len()), (&paid, events));
    // Nor does a result that another node claims for an attempt.
    world.submit(job(2, 1));
    let (owner, attempt, ..) = *world.offers.last().unwrap();
    let other = if owner == id(1) { id(0) } else { id(1) };
    let events = world.log.len();
    world.answer(other, attempt, Answer::Done { success: true });
    assert_eq!(world.log.len(), events);
}

#[test]
fn a_task_fails_after_four_different_nodes() {
    let mut world = World::new(Settings::default());
    for number in 0..6 {
        world.node(
            number,
            [Conduct::Fails, Conduct::Mute, Conduct::Refuses][number as usize % 3],
            Offer::default(),
        );
    }
    world.submit(job(1, 1));
    world.run(60_000);
    assert_eq!(world.gave_up, [(hash(1), 0, GiveUp::Attempts)]);
    let nodes: BTreeSet<NodeId> = world.offers.iter().map(|(node, ..)| *node).collect();
    assert_eq!(world.offers.len(), nodes.len(), "never the same twice");
    let refusals = nodes.iter().filter(|node| world.conduct[node] == Conduct::Refuses).count();
    assert_eq!(nodes.len() - refusals, 4, "a refusal is no fault");
}

#[test]
fn a_straggler_gets_one_clone_elsewhere_and_the_first_result_counts() {
    let mut world = World::new(Settings { clone_percent: 25, ..Settings::default() });
    let offer = |operator| Offer { operator, credits: 1, ..Offer::default() };
    for number in 0..4 {
        world.node(number, Conduct::Works(100), offer(number as u32 + 1));
    }
    world.submit(job(1, 40));
    world.run(10_000);
    world.conduct.insert(id(2), Conduct::Works(30_000));
    world.submit(job(2, 4));
    world.run(15_000);
    assert_eq!(world.ended[&hash(2)], Ended { done: 4, failed: 0 });
    let slow: Vec<_> = world.offers.iter().filter(|(.., job, _)| *job == hash(2)).collect();
    assert_eq!(slow.len(), 5, "one clone");
    assert_eq!(world.stops, 1, "the slow one is stopped");
    assert!(
        world.paid.iter().filter(|((job, _), _)| *job == hash(2)).all(|(_, by)| !by.contains(&Some(id(2))))
    );
}

#[test]
fn once_nothing_waits_a_late_attempt_gets_its_clone_at_the_p95() {
    let mut world = World::new(Settings { clone_percent: 25, ..Settings::default() });
    for number in 0..4 {
        let offer = Offer { operator: number as u32 + 1, credits: 1, ..Offer::default() };
        world.node(number, Conduct::Works(10_000), offer);
    }
    let job = |number, tasks| JobRequest { expected_ms: 10_000, ..job(number, tasks) };
    world.submit(job(1, 40));
    world.run(200_000);
    world.conduct.insert(id(2), Conduct::Works(100_000));
    let begun = world.now;
    world.submit(job(2, 4));
    while !world.ended.contains_key(&hash(2)) {
        let next = world.plan.first().unwrap().0;
        world.run(next);
    }
    // The p95 is ten seconds and some percent, and the clone takes ten.
    let took = world.now - begun;
    assert!((20_000..22_500).contains(&took), "{took} ms");
    assert_eq!(world.offers.iter().filter(|(.., job, _)| *job == hash(2)).count(), 5, "one clone");
}

#[test]
fn where_all_nodes_have_become_slow_tasks_are_given_to_them() {
    // Over in less than it would take to be tried again, and longer than that.
    for (quick, slow, most) in [(20, 200, 1_000), (2_000, 20_000, 30_000)] {
        let mut world = World::new(Settings::default());
        for number in 0..2 {
            world.node(
                number,
                Conduct::Works(quick),
                Offer { operator: number as u32 + 1, ..Offer::default() },
            );
        }
        world.submit(job(1, 40));
        world.run(60 * quick);
        assert_eq!(world.ended[&hash(1)].done, 40);
        world.conduct.extend((0..2).map(|number| (id(number), Conduct::Works(slow))));
        for number in 2..20 {
            let begun = world.now;
            world.submit(job(number, 1));
            while !world.ended.contains_key(&hash(number)) {
                let next = world.plan.first().unwrap().0;
                world.run(next);
                assert!(world.now - begun < most, "job {number} has taken {} ms", world.now - begun);
            }
        }
    }
}

#[test]
fn tenants_with_equal_weight_get_equal_shares_of_what_they_need_most() {
    let mut world = World::new(Settings::default());
    for number in 0..20 {
        world.node(
            number,
            Conduct::Works(1_000),
            Offer { cpu_milli: 10_000, mem_mib: 10_000, credits: 99, ..Offer::default() },
        );
    }
    for tenant_number in 0..4 {
        let (cpu_milli, mem_mib) = if tenant_number % 2 == 0 { (1_000, 200) } else { (200, 1_000) };
        let mut request = job(tenant_number, 4_000);
        request.tenant = tenant(tenant_number);
        request.need = Need { cpu_milli, mem_mib, vram_mib: 0 };
        world.submit(request);
    }
    world.run(10_000);
    let shares: Vec<f64> =
        (0..4).map(|number| world.placement.explain(&hash(number), 3_999).unwrap().share).collect();
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|share| share * share).sum::<f64>());
    let jain = sum * sum / (4.0 * squares);
    assert!(jain >= 0.95, "{shares:?}");
    assert!(shares.iter().all(|share| *share > 0.35), "the fleet is used: {shares:?}");
}

#[test]
fn too_much_is_refused_with_the_time_to_come_back() {
    let settings = Settings { tenant_rate: (10.0, 20.0), max_queued: 50, ..Settings::default() };
    let mut placement = Placement::new(settings, 0);
    let mut submit = |request: JobRequest, now| {
        let mut step = Step::default();
        placement.step(now, Input::Submit(Box::new(request)), &mut step);
        step.effects[0].clone()
    };
    let refused = |number, retry_ms| Effect::Refused { job: hash(number), why: Refusal::Busy { retry_ms } };
    assert_eq!(submit(job(0, 15), 0), Effect::Accepted { job: hash(0) });
    assert_eq!(submit(job(3, 15), 0), refused(3, 1_000), "ten tokens are missing");
    assert_eq!(submit(job(3, 15), 1_000), Effect::Accepted { job: hash(3) });
    assert_eq!(
        submit(job(3, 15), 1_000),
        Effect::Accepted { job: hash(3) },
        "the same again is the same job"
    );
    assert_eq!(submit(job(1, 30), 1_000), refused(1, 1_000), "more would wait than may");
    let repair = JobRequest { priority: 9, ..job(1, 30) };
    assert_eq!(submit(repair, 1_000), Effect::Accepted { job: hash(1) });
    assert!(matches!(submit(job(9, 0), 0), Effect::Refused { why: Refusal::Tasks, .. }));
    let late = JobRequest { deadline: Some(1_050), priority: 9, ..job(10, 1) };
    assert!(matches!(submit(late, 1_000), Effect::Refused { why: Refusal::Deadline, .. }));
}

#[test]
fn kinds_of_tasks_do_not_grow_without_end() {
    let mut placement = Placement::new(Settings::default(), 0);
    let mut step = Step::default();
    for bid in 0..state::MAX_SHAPES as u32 + 10 {
        let request = JobRequest { bid, ..job(u64::from(bid), 1) };
        placement.step(0, Input::Submit(Box::new(request)), &mut step);
    }
    let refused = |effect: &&Effect| matches!(effect, Effect::Refused { why: Refusal::Shapes, .. });
    assert_eq!(step.effects.iter().filter(refused).count(), 10);
    step.effects.clear();
    placement.step(0, Input::Submit(Box::new(JobRequest { bid: 7, ..job(1 << 40, 1) })), &mut step);
    assert!(matches!(step.effects[0], Effect::Accepted { .. }), "one like another is taken");
}

#[test]
fn a_job_whose_time_is_over_ends() {
    let mut world = World::new(Settings::default());
    world.submit(JobRequest { deadline: Some(5_000), ..job(1, 3) });
    world.run(6_000);
    assert_eq!(world.ended[&hash(1)], Ended { done: 0, failed: 3 });
    assert!(world.gave_up.iter().all(|(.., why)| *why == GiveUp::Deadline));
    // A job in the same place with a later deadline is left alone.
    world.submit(JobRequest { deadline: Some(100_000), ..job(2, 3) });
    world.run(50_000);
    assert_eq!(world.placement.open_tasks(&hash(2)), Some(3));
}

#[test]
fn a_gang_starts_together_or_not_at_all() {
    let mut world = World::new(Settings::default());
    for number in 0..3 {
        world.node(number, Conduct::Works(4_000), Offer { credits: 1, ..Offer::default() });
    }
    world.submit(JobRequest { gang: true, expected_ms: 4_000, ..job(1, 4) });
    world.submit(job(2, 1));
    world.run(1_000);
    assert!(world.offers.is_empty(), "three nodes are held for it: {:?}", world.offers);
    world.run(2_100);
    assert_eq!(world.offers.len(), 1, "the other one goes on when the hold is over");
    assert_eq!(world.offers[0].2, hash(2));
    world.node(3, Conduct::Works(100), Offer { credits: 1, ..Offer::default() });
    world.run(30_000);
    let times: Vec<_> = world.offers.iter().filter(|(.., job, _)| *job == hash(1)).collect();
    assert_eq!(times.len(), 4);
    assert_eq!(world.ended[&hash(1)], Ended { done: 4, failed: 0 });
}

#[test]
fn a_cancel_frees_nodes_at_once_and_twice_is_once() {
    let mut world = World::new(Settings::default());
    for number in 0..2 {
        world.node(number, Conduct::Works(100_000), Offer { credits: 1, ..Offer::default() });
    }
    world.submit(job(1, 5));
    assert_eq!(world.placement.running(), 2);
    world.cancelled.insert(hash(1));
    world.step(Input::Cancel { job: hash(1) });
    assert_eq!((world.placement.running(), world.placement.queued(), world.stops), (0, 0, 2));
    assert_eq!(world.ended[&hash(1)], Ended { done: 0, failed: 5 });
    let events = world.log.len();
    world.step(Input::Cancel { job: hash(1) });
    assert_eq!(world.log.len(), events);
    world.submit(job(2, 2));
    assert_eq!(world.placement.running(), 2);
}

#[test]
fn work_spills_to_a_pool_within_its_budget_and_comes_back() {
    let pool = Pool { name: "cloud".into(), slots: 3, price: 5, startup_ms: 1_000, speed: 100, tier: 3 };
    let mut world = World::new(Settings { pools: vec![pool], ..Settings::default() });
    world.node(0, Conduct::Works(100), Offer { credits: 1, ..Offer::default() });
    // No edge node is trusted so far.
    let request = JobRequest { spill: 2, selector: Selector { tier: 2, ..Selector::default() }, ..job(1, 4) };
    world.submit(request);
    assert_eq!(world.spilled.len(), 2, "its budget: {:?}", world.spilled);
    assert!(world.spilled.iter().all(|(pool, _, why)| *pool == 0 && *why == Spill::Tier));
    let (_, attempt, _) = world.spilled[0];
    world.step(Input::Answer { node: None, attempt, answer: Answer::Done { success: true } });
    assert_eq!(world.paid.len(), 1);
    // The other has not begun; the edge is idle, so it comes back.
    let (_, waiting, _) = world.spilled[1];
    let mut step = Step::default();
    world.placement.drain_back(world.now, &[waiting], &mut step);
    assert!(step.effects.contains(&Effect::Stop { node: None, attempt: waiting }));
    world.carry_out(step);
    assert_eq!((world.placement.running(), world.placement.queued()), (0, 3));
}

/// With a pool that costs what is bid and begins within half a second.
fn beside_a_cloud() -> World {
    let pool = Pool { name: "cloud".into(), slots: 9, price: 10, startup_ms: 500, speed: 100, tier: 3 };
    World::new(Settings { pools: vec![pool], ..Settings::default() })
}

#[test]
fn work_spills_in_time_from_an_edge_that_stands_still() {
    let mut world = beside_a_cloud();
    world.node(0, Conduct::Works(600_000), Offer { credits: 1, ..Offer::default() });
    world.submit(job(1, 1));
    world.submit(JobRequest { spill: 2, deadline: Some(5_000), ..job(2, 3) });
    // It takes 200, and the edge may still have room.
    world.run(3_000);
    assert_eq!((world.spilled.len(), world.placement.queued()), (0, 3));
    world.run(4_400);
    assert_eq!((world.spilled.len(), world.placement.queued()), (2, 1), "as many as may");
    assert!(world.spilled.iter().all(|(_, _, why)| *why == Spill::Deadline));
}

#[test]
fn work_spills_from_an_edge_whose_queue_is_too_long_though_nothing_ends_there() {
    let mut world = beside_a_cloud();
    world.node(0, Conduct::Works(100), Offer { credits: 1, ..Offer::default() });
    world.submit(job(1, 30));
    world.run(4_000);
    assert_eq!(world.paid.len(), 30);
    // Ten of them end in a second, and this one does not.
    world.conduct.insert(id(0), Conduct::Works(600_000));
    world.submit(job(2, 1));
    let begun = world.now;
    world.submit(JobRequest { spill: 9, deadline: Some(begun + 2_000), ..job(3, 20) });
    world.run(begun + 300);
    let (there, here) = (world.spilled.len(), world.placement.queued());
    assert!(there > 3 && there + here == 20 && there <= 9, "{there} there, {here} here");
    assert!(world.spilled.iter().all(|(_, _, why)| *why == Spill::Deadline));
}

#[test]
fn a_decision_can_be_explained() {
    let mut world = World::new(Settings::default());
    for number in 0..10 {
        let offer = Offer {
            price: if number < 3 { 99 } else { 1 },
            mem_mib: if number < 6 { 2_048 } else { 100 },
            ..Offer::default()
        };
        world.node(number, Conduct::Works(1_000), offer);
    }
    world.submit(job(1, 8));
    let placed = world.placement.explain(&hash(1), 0).unwrap();
    assert_eq!((placed.state, placed.nodes.len()), ("it is with a node", 1));
    assert_eq!(placed.decided, Some(0));
    let chosen = |looked: &&Considered| looked.chosen && looked.score.is_some() && looked.unfit.is_none();
    assert_eq!(placed.considered.iter().find(chosen).unwrap().node, placed.nodes[0]);
    let waits = world.placement.explain(&hash(1), 7).unwrap();
    assert_eq!((waits.waiting, waits.blocked, waits.fit), (2, true, 0));
    let expected = [(Unfit::Credits, 3), (Unfit::Memory, 4), (Unfit::Price, 3)];
    assert_eq!(waits.unfit.into_iter().collect::<Vec<_>>(), expected);
    assert!(world.placement.explain(&hash(9), 0).is_none());
}

#[test]
fn equal_tasks_go_to_different_operators_and_a_bound_one_frees_its_node() {
    let mut world = World::new(Settings::default());
    for number in 0..4 {
        let offer = Offer { operator: 1 + number as u32 / 2, credits: 1, ..Offer::default() };
        world.node(number, Conduct::Mute, offer);
    }
    world.submit(JobRequest { spread: true, tasks: vec![None; 3], exclude: vec![id(9)], ..job(1, 3) });
    let operator = |world: &World, at: usize| {
        let node = world.placement.state.fleet.find(&world.offers[at].0).unwrap();
        world.placement.state.fleet.rows[node as usize].operator
    };
    assert_eq!(world.offers.len(), 2, "there are two operators: {:?}", world.offers);
    assert_ne!(operator(&world, 0), operator(&world, 1));
    let (node, attempt, ..) = world.offers[0];
    world.answer(node, attempt, Answer::Accepted);
    world.answer(node, attempt, Answer::Bound);
    assert_eq!(world.placement.running(), 1, "its place is free");
    assert_eq!(world.placement.attempts(&hash(1)).len(), 2, "and it is on record");
    assert_eq!(
        world.placement.explain(&hash(1), world.offers[0].3).unwrap().state,
        "its result is compared with others"
    );
    // After a crash as well.
    let (after, _) = Placement::recover(world.settings.clone(), &world.log, world.now);
    let (again, _) = Placement::recover(world.settings.clone(), &after.snapshot(), world.now);
    for placement in [&after, &again] {
        assert_eq!(
            (placement.running(), placement.attempts(&hash(1))),
            (1, world.placement.attempts(&hash(1)))
        );
        assert_eq!(placement.fleet().free(), world.placement.fleet().free());
    }
    // What it shows is wrong: another one of its operator may not have it either.
    world.answer(node, attempt, Answer::Failed);
    world.run(5_000);
    let operators: BTreeSet<u32> = (0..world.offers.len()).map(|at| operator(&world, at)).collect();
    assert_eq!((world.offers.len(), operators.len()), (2, 2), "{:?}", world.offers);
    world.node(4, Conduct::Works(10), Offer { operator: 3, credits: 1, ..Offer::default() });
    world.node(5, Conduct::Works(10), Offer { operator: 4, credits: 1, ..Offer::default() });
    world.run(8_000);
    let (done, running) = (world.paid.len(), world.placement.running());
    assert_eq!((done, running, world.placement.queued()), (2, 0, 0));
}

#[test]
fn a_busy_node_is_left_alone_for_as_long_as_it_asks() {
    let mut world = World::new(Settings::default());
    world.node(0, Conduct::Mute, Offer::default());
    world.submit(job(1, 1));
    let (node, attempt, ..) = world.offers[0];
    world.answer(node, attempt, Answer::Busy { retry_ms: 1_500 });
    world.run(1_400);
    assert_eq!(world.offers.len(), 1);
    world.run(1_700);
    assert_eq!(world.offers.len(), 2);
    assert_eq!(world.placement.member(&node).unwrap().status, Status::Active);
}

#[test]
fn a_node_on_probation_gets_what_others_do_as_well() {
    let mut world = World::new(Settings::default());
    let node = id(0);
    world.conduct.insert(node, Conduct::Works(10));
    world.running.insert(node, BTreeSet::new());
    world.step(Input::Join { node, offer: Offer::default(), status: Status::Joining });
    world.submit(job(1, 1));
    world.submit(JobRequest { replicated: true, ..job(2, 1) });
    assert!(world.offers.is_empty(), "it was not measured");
    world.step(Input::Change { node, change: Change::Measured });
    world.run(100);
    assert_eq!(world.offers.iter().map(|(.., job, _)| *job).collect::<Vec<_>>(), [hash(2)]);
    for _ in 0..PROBATION {
        world.step(Input::Evidence { node, kind: 0, evidence: Evidence::Valid, weight: 1_000 });
    }
    world.run(200);
    assert_eq!(world.ended.len(), 2);
    // One wrong result, and it gets nothing for ten minutes.
    world.step(Input::Evidence { node, kind: 0, evidence: Evidence::Wrong, weight: 1_000 });
    assert_eq!(world.placement.member(&node).unwrap().status, Status::Suspended);
    world.submit(job(3, 1));
    world.run(599_000);
    assert_eq!(world.placement.open_tasks(&hash(3)), Some(1));
}

/// Field report: on other edge nodes a long computation that was interrupted for a video job never moved again.
#[test]
fn a_long_job_goes_on_after_urgent_ones_without_being_told() {
    let mut world = World::new(Settings::default());
    world.node(0, Conduct::Works(18_000), Offer { credits: 1, ..Offer::default() });
    world.submit(JobRequest { expected_ms: 18_000, ..job(1, 10) });
    world.run(20_000);
    let urgent =
        |number| JobRequest { priority: 8, expected_ms: 18_000, tenant: tenant(1), ..job(number, 2) };
    world.submit(urgent(2));
    world.run(40_000);
    world.submit(urgent(3));
    let done = |world: &World, job: u64| world.paid.keys().filter(|(of, _)| *of == hash(job)).count();
    world.run(110_000);
    assert_eq!((done(&world, 2), done(&world, 3)), (2, 2), "they come first");
    let before = done(&world, 1);
    world.run(140_000);
    assert!(done(&world, 1) > before, "it moves again within 30 s");
    world.settle(400_000);
    assert!(world.ended.values().all(|ended| ended.failed == 0));
    assert_eq!(world.offers.len(), 14, "nothing was done twice");
}

/// Field report: a job that had succeeded was run again after its worker restarted or changed state.
#[test]
fn a_finished_job_is_never_run_again() {
    let mut world = World::new(Settings::default());
    for number in 0..2 {
        world.node(number, Conduct::Works(100), Offer::default());
    }
    world.submit(job(1, 4));
    world.run(1_000);
    let (offers, paid) = (world.offers.len(), world.paid.clone());
    assert_eq!((world.ended.len(), offers), (1, 4));
    // The worker restarts, drains, comes back; the coordinator restarts; the client asks again.
    let (worker, attempt) = (world.offers[0].0, world.offers[0].1);
    world.step(Input::Announce { node: worker, running: vec![attempt] });
    world.step(Input::Change { node: worker, change: Change::Drain });
    world.step(Input::Change { node: worker, change: Change::Back });
    world.answer(worker, attempt, Answer::Done { success: true });
    world.recover();
    world.submit(job(1, 4));
    world.answer(worker, attempt, Answer::Done { success: true });
    world.run(100_000);
    assert_eq!((world.offers.len(), &world.paid), (offers, &paid));
    // Frozen in the middle of a task for three heartbeats, and then continued.
    world.submit(job(2, 1));
    let (frozen, attempt, ..) = *world.offers.last().unwrap();
    world.gone.insert(frozen);
    world.run(170_000);
    let paid = world.paid.clone();
    assert_eq!((world.ended.len(), world.offers.len()), (2, offers + 2), "another one did it");
    world.plan(world.now, Happens::Do(Input2::Return(frozen)));
    world.run(172_000);
    world.answer(frozen, attempt, Answer::Done { success: true });
    assert_eq!(world.paid, paid, "the late result changes nothing");
}

/// Field report: a requester that went away left agreements unpaid and workers that kept their slots.
#[test]
fn a_requester_that_goes_away_frees_its_workers_and_is_owed_nothing_more() {
    let mut world = World::new(Settings::default());
    for number in 0..3 {
        world.node(number, Conduct::Works(20_000), Offer { credits: 1, ..Offer::default() });
    }
    world.submit(JobRequest { expected_ms: 20_000, ..job(1, 9) });
    world.run(50_000);
    let done = world.paid.len();
    assert!((3..9).contains(&done), "{done}");
    world.cancelled.insert(hash(1));
    world.step(Input::Cancel { job: hash(1) });
    world.step(Input::Cancel { job: hash(1) });
    assert_eq!((world.placement.running(), world.stops), (0, 3), "free before the next heartbeat");
    assert_eq!(world.ended[&hash(1)], Ended { done: done as u32, failed: 9 - done as u32 });
    world.settle(200_000);
    assert_eq!(world.paid.len(), done, "what was done is paid once, and nothing after it");
}

/// Growth law: what a decision looks at does not grow with the fleet or the queue.
#[test]
fn a_decision_costs_the_same_with_ten_times_the_nodes_and_tasks() {
    let looked = |nodes: u64| {
        let mut placement = Placement::new(Settings { explained: 0, ..Settings::default() }, 0);
        let mut step = Step::default();
        for number in 0..nodes {
            let offer = Offer { credits: 4, ..Offer::default() };
            placement.step(0, Input::Join { node: id(number), offer, status: Status::Active }, &mut step);
        }
        for number in 0..nodes / 10 {
            placement.step(0, Input::Submit(Box::new(job(number, 100))), &mut step);
        }
        let (mut done, before) = (0, placement.fleet().looked_at());
        let mut at = 0;
        while done < nodes {
            step.effects.clear();
            step.events.clear();
            at += 1;
            let node = (at * 7_919) % nodes as u32;
            let Some(slot) = placement.state.attempts_of(node).first().copied() else { continue };
            let attempt = placement.state.attempts[slot as usize];
            let attempt = AttemptId { task: attempt.task, epoch: attempt.epoch };
            let answer = Answer::Done { success: true };
            placement.step(10, Input::Answer { node: Some(id(u64::from(node))), attempt, answer }, &mut step);
            done += 1;
        }
        (placement.fleet().looked_at() - before) as f64 / done as f64
    };
    let (small, large) = (looked(1_000), looked(10_000));
    assert!(large <= 2.0 * small, "{small} and {large}");
}
