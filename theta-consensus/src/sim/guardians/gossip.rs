//! The network of guardians: links, queues, who has told whom.

use std::{cmp::Reverse, collections::BinaryHeap, collections::VecDeque, sync::Arc};

use theta_core::hash::{Hash, keccak_parts};

use super::{GuardianReport, GuardianScenario, scheme::Scheme};
use crate::{
    finality::{Groups, Part, Tally},
    pace::{Millis, Settings},
    sim::random::Random,
};

/// Virtual time, in microseconds.
type Micros = u64;

/// Nothing more is waited for then.
const END: Micros = 60_000_000;
/// Bytes of a message besides its bits: kind, block, place, signature and their frames.
const FRAME: u64 = 2 + 33 + 4 + 98 + 8;
/// Links, in the group and to anybody, on which a message of another goes on at once. The other links are told now and then
/// what has come, as gossip does, and ask for what they miss.
const MESH: usize = 4;
/// How often they are told, how many of these times a message is named, and the bytes of its name and of a frame.
const BEAT: Micros = 500_000;
const NAMED: u32 = 3;
/// To how many neighbours at once.
const TOLD: usize = 6;
const NAME: u64 = 18;
const NAMES: u64 = 48;

struct Message<S> {
    part: Part<S>,
    /// Messages in a row that led here, this one included.
    hops: u32,
}

impl<S> Message<S> {
    fn bytes(&self) -> u64 {
        FRAME + self.part.bits.len().div_ceil(8) as u64
    }

    fn is_same(&self, other: &Self) -> bool {
        self.part.first == other.part.first && self.part.bits == other.part.bits
    }
}

/// What a guardian is busy with.
enum Event<S> {
    Settled,
    Arrived {
        from: usize,
        message: Arc<Message<S>>,
    },
    Checked {
        from: usize,
        message: Arc<Message<S>>,
        right: bool,
    },
    Turn,
    Tick,
    Beat,
    /// A neighbour names what it has.
    Has {
        from: usize,
        messages: Arc<Vec<Arc<Message<S>>>>,
    },
    /// A neighbour asks for what was named.
    Asks {
        from: usize,
        messages: Vec<Arc<Message<S>>>,
    },
}

/// What waits to be checked.
struct Queued<S> {
    from: usize,
    /// Of its part.
    first: usize,
    message: Arc<Message<S>>,
}

struct Guardian<S> {
    honest: bool,
    tally: Option<Tally<S>>,
    links: Links,
    /// What came lately, and how often it was named.
    recent: Vec<(u32, Arc<Message<S>>)>,
    asked: Vec<Arc<Message<S>>>,
    ignored: Vec<usize>,
    queue: VecDeque<Queued<S>>,
    busy: bool,
    /// When it wakes next to tell its group's votes.
    turn: Micros,
    /// Longest way of a vote that came to it.
    hops: u32,
    certified: Option<Micros>,
    bytes: u64,
    cpu: u64,
    checked: u64,
}

pub(super) struct Gossip<'a, T: Scheme> {
    scenario: &'a GuardianScenario,
    scheme: T,
    groups: Groups,
    random: Random,
    now: Micros,
    order: BinaryHeap<Reverse<(Micros, usize)>>,
    events: Vec<Option<(usize, Event<T::Signature>)>>,
    free: Vec<usize>,
    guardians: Vec<Guardian<T::Signature>>,
    waiting: usize,
    round: Micros,
}

impl<'a, T: Scheme> Gossip<'a, T> {
    pub(super) fn new(scenario: &'a GuardianScenario, scheme: T) -> Self {
        let mut random = Random::new(scenario.seed);
        let groups = scenario.groups();
        let links = links(scenario, groups, &mut random);
        let mut shuffled: Vec<usize> = (0..scenario.guardians).collect();
        shuffle(&mut shuffled, &mut random);
        let byzantine = scenario.guardians * scenario.byzantine_percent / 100;
        let mut guardians: Vec<Guardian<T::Signature>> = links
            .into_iter()
            .map(|links| Guardian {
                honest: true,
                tally: None,
                links,
                recent: Vec::new(),
                asked: Vec::new(),
                ignored: Vec::new(),
                queue: VecDeque::new(),
                busy: false,
                turn: Micros::MAX,
                hops: 0,
                certified: None,
                bytes: 0,
                cpu: 0,
                checked: 0,
            })
            .collect();
        for index in shuffled.into_iter().take(byzantine) {
            guardians[index].honest = false;
        }
        Self {
            scenario,
            scheme,
            groups,
            random,
            now: 0,
            order: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            waiting: scenario.guardians - byzantine,
            guardians,
            round: Settings::new(theta_core::spec::Pace::Responsive).upper_round * 1_000,
        }
    }

    fn at(&mut self, at: Micros, guardian: usize, event: Event<T::Signature>) {
        let slot = self.free.pop().unwrap_or(self.events.len());
        if slot == self.events.len() {
            self.events.push(None);
        }
        self.events[slot] = Some((guardian, event));
        self.order.push(Reverse((at, slot)));
    }

    pub(super) fn run(mut self) -> GuardianReport {
        for guardian in 0..self.guardians.len() {
            let at = self.random.below(self.scenario.round_trip.max(1) * 500);
            self.at(at, guardian, Event::Settled);
        }
        while let Some(Reverse((at, slot))) = self.order.pop() {
            if at > END || self.waiting == 0 {
                break;
            }
            self.now = at;
            let event = self.events.get_mut(slot).and_then(Option::take);
            self.free.push(slot);
            if let Some((guardian, event)) = event {
                self.happen(guardian, event);
            }
        }
        self.report()
    }

    fn happen(&mut self, me: usize, event: Event<T::Signature>) {
        match event {
            Event::Settled => self.settled(me),
            Event::Arrived { from, message } => {
                let guardian = &mut self.guardians[me];
                if guardian.honest && !guardian.ignored.contains(&from) {
                    let first = message.part.first;
                    guardian.queue.push_back(Queued { from, first, message });
                    self.next(me);
                }
            }
            Event::Checked { from, message, right } => {
                self.guardians[me].busy = false;
                if right {
                    self.take(me, Some(from), &message);
                } else {
                    self.guardians[me].ignored.push(from);
                }
                self.next(me);
            }
            Event::Turn => self.tell(me),
            Event::Beat => self.name(me),
            Event::Has { from, messages } => self.ask(me, from, &messages),
            Event::Asks { from, messages } => {
                if self.guardians[me].honest {
                    messages.iter().for_each(|message| self.post(me, from, message, 0));
                }
            }
            Event::Tick => {
                let best = |tally: &Tally<T::Signature>| tally.best();
                if let Some(part) = self.guardians[me].tally.as_ref().and_then(best) {
                    let hops = self.guardians[me].hops + 1;
                    self.send(me, None, &Arc::new(Message { part, hops }), 0);
                }
                self.at(self.now + self.round, me, Event::Tick);
            }
        }
    }

    fn settled(&mut self, me: usize) {
        if !self.guardians[me].honest {
            let Some(signature) = self.scheme.forged() else { return };
            let message = Arc::new(Message { part: Part::single(me, signature), hops: 1 });
            self.send(me, None, &message, 0);
            return;
        }
        let step = self.round / 8;
        // As the engine, but in microseconds.
        let tally = Tally::new(self.groups, Some(me), self.scenario.seed, self.now, step);
        self.guardians[me].tally = Some(tally);
        self.at(self.now + self.round, me, Event::Tick);
        let phase = self.random.below(BEAT);
        self.at(self.now + phase, me, Event::Beat);
        let (signature, cost) = self.scheme.charge(|costs, _| costs.sign, || self.scheme.sign(me));
        self.guardians[me].cpu += cost;
        if let Some(signature) = signature {
            let message = Arc::new(Message { part: Part::single(me, signature), hops: 1 });
            if self.guardians[me].tally.as_mut().is_some_and(|tally| tally.add(message.part.clone())) {
                self.send(me, None, &message, cost / 1_000);
            }
        }
        self.next(me);
    }

    /// Begins with the next message that is of use.
    fn next(&mut self, me: usize) {
        let guardian = &mut self.guardians[me];
        let Some(tally) = &guardian.tally else { return };
        if guardian.busy {
            return;
        }
        while let Some(Queued { from, message, .. }) = guardian.queue.pop_front() {
            if !tally.wants(&message.part) || guardian.ignored.contains(&from) {
                continue;
            }
            let keys = message.part.bits.count() as u64;
            let (right, cost) = self
                .scheme
                .charge(|costs, _| costs.verify + keys * costs.key, || self.scheme.verify(&message.part));
            guardian.busy = true;
            guardian.cpu += cost;
            guardian.checked += 1;
            let done = self.now + cost / 1_000;
            return self.at(done, me, Event::Checked { from, message, right });
        }
    }

    fn take(&mut self, me: usize, from: Option<usize>, message: &Arc<Message<T::Signature>>) {
        let guardian = &mut self.guardians[me];
        let Some(tally) = &mut guardian.tally else { return };
        if !tally.add(message.part.clone()) {
            return;
        }
        guardian.hops = guardian.hops.max(message.hops);
        let is_whole = message.part.bits.len() == self.scenario.guardians && self.groups.count() > 1;
        // Every guardian has the same stake.
        if guardian.certified.is_none() && tally.signers() * 3 > self.scenario.guardians * 2 {
            guardian.certified = Some(self.now);
            self.waiting -= 1;
        }
        if !is_whole {
            let part = message.part.clone();
            let onwards = Arc::new(Message { part, hops: message.hops + 1 });
            guardian.recent.push((0, onwards.clone()));
            self.send(me, from, &onwards, 0);
        }
        self.tell(me);
    }

    /// Tells what the group has voted, or looks when that is to be.
    fn tell(&mut self, me: usize) {
        // The tally's clock is this one, in microseconds.
        let now: Millis = self.now;
        let Some(tally) = &mut self.guardians[me].tally else { return };
        let singles = |part: &Option<Part<T::Signature>>| part.as_ref().map_or(0, |part| part.bits.count());
        let (part, cost) =
            self.scheme.charge(|costs, part| singles(part) as u64 * costs.sum, || tally.tell(now));
        let turn = tally.turn().map(|turn| turn.max(self.now + 1));
        if let Some(part) = part {
            self.guardians[me].cpu += cost;
            let hops = self.guardians[me].hops + 1;
            self.send(me, None, &Arc::new(Message { part, hops }), cost / 1_000);
        }
        if let Some(turn) = turn
            && !(self.now..=turn).contains(&self.guardians[me].turn)
        {
            self.guardians[me].turn = turn;
            self.at(turn, me, Event::Turn);
        }
    }

    /// To neighbours that may want it, single votes to those of the group: what is this guardian's own to all of them, what
    /// came from another to some. Whoever has sent the same has it.
    fn send(&mut self, me: usize, from: Option<usize>, message: &Arc<Message<T::Signature>>, later: Micros) {
        let queue = self.guardians[me].queue.iter();
        let same =
            queue.filter(|queued| queued.first == message.part.first && queued.message.is_same(message));
        let has: Vec<usize> = same.map(|queued| queued.from).chain(from).collect();
        let links = &self.guardians[me].links;
        let single = message.part.bits.len() == 1;
        let to: Vec<usize> = match (single, from) {
            (true, None) => links.group.iter().chain(&links.group_lazy).copied().collect(),
            (true, Some(_)) => links.group.clone(),
            (false, None) => links.all().collect(),
            (false, Some(_)) => links.anybody.clone(),
        };
        for to in to.into_iter().filter(|to| !has.contains(to)) {
            self.post(me, to, message, later);
        }
    }

    /// When what is sent now arrives.
    fn delay(&mut self) -> Micros {
        let half = self.scenario.round_trip * 500;
        half - half / 5 + self.random.below(half * 2 / 5 + 1)
    }

    fn post(&mut self, me: usize, to: usize, message: &Arc<Message<T::Signature>>, later: Micros) {
        self.guardians[me].bytes += message.bytes();
        let at = self.now + later + self.delay();
        self.at(at, to, Event::Arrived { from: me, message: message.clone() });
    }

    /// Names what came lately to the neighbours that did not get it at once.
    fn name(&mut self, me: usize) {
        self.at(self.now + BEAT, me, Event::Beat);
        let guardian = &mut self.guardians[me];
        for (named, _) in &mut guardian.recent {
            *named += 1;
        }
        guardian.recent.retain(|(named, _)| *named <= NAMED);
        let of = |single: bool| {
            let all = guardian.recent.iter().map(|(_, message)| message);
            all.filter(|message| (message.part.bits.len() == 1) == single).cloned().collect::<Vec<_>>()
        };
        let links = &guardian.links;
        // Neighbours of the group are as good as others for what everybody is told.
        let others = links.lazy.iter().chain(&links.group_lazy).chain(&links.group).copied().collect();
        let lists = [(of(true), links.group_lazy.clone()), (of(false), others)];
        for (messages, mut links) in lists {
            if messages.is_empty() {
                continue;
            }
            let messages = Arc::new(messages);
            shuffle(&mut links, &mut self.random);
            for to in links.into_iter().take(TOLD) {
                self.guardians[me].bytes += NAMES + NAME * messages.len() as u64;
                let at = self.now + self.delay();
                self.at(at, to, Event::Has { from: me, messages: messages.clone() });
            }
        }
    }

    /// Asks for what is of use and was not asked for yet.
    fn ask(&mut self, me: usize, from: usize, messages: &[Arc<Message<T::Signature>>]) {
        let guardian = &mut self.guardians[me];
        let Some(tally) = &guardian.tally else { return };
        if guardian.ignored.contains(&from) {
            return;
        }
        let mut wanted = Vec::new();
        for message in messages.iter().filter(|message| tally.wants(&message.part)) {
            let queued = guardian.queue.iter().any(|queued| queued.message.is_same(message));
            if !queued && !guardian.asked.iter().any(|asked| asked.is_same(message)) {
                guardian.asked.push(message.clone());
                wanted.push(message.clone());
            }
        }
        if !wanted.is_empty() {
            guardian.bytes += NAMES + NAME * wanted.len() as u64;
            let at = self.now + self.delay();
            self.at(at, from, Event::Asks { from: me, messages: wanted });
        }
    }

    fn report(self) -> GuardianReport {
        let honest: Vec<&Guardian<T::Signature>> =
            self.guardians.iter().filter(|guardian| guardian.honest).collect();
        let mut times: Vec<Micros> = honest.iter().filter_map(|guardian| guardian.certified).collect();
        let trace = times
            .iter()
            .fold(Hash::ZERO, |trace, time| keccak_parts(&[trace.as_slice(), &time.to_be_bytes()]));
        times.sort_unstable();
        let millis = |micros: Micros| micros as f64 / 1_000.0;
        let share = |percent: usize| {
            let needed = (honest.len() * percent).div_ceil(100).max(1);
            times.get(needed - 1).copied().map(millis)
        };
        let of = |value: &dyn Fn(&Guardian<T::Signature>) -> u64| {
            let sum: u64 = honest.iter().map(|guardian| value(guardian)).sum();
            let most = honest.iter().map(|guardian| value(guardian)).max().unwrap_or(0);
            (sum as f64 / honest.len().max(1) as f64, most)
        };
        let cpu = of(&|guardian| guardian.cpu);
        GuardianReport {
            honest: honest.len(),
            certified: times.len(),
            half: share(50),
            most: share(99),
            last: times.last().copied().map_or(0.0, millis),
            hops: honest.iter().map(|guardian| guardian.hops).max().unwrap_or(0),
            bytes: of(&|guardian| guardian.bytes),
            cpu: (cpu.0 / 1e6, cpu.1 as f64 / 1e6),
            checked: of(&|guardian| guardian.checked).0,
            trace,
        }
    }
}

fn shuffle(items: &mut [usize], random: &mut Random) {
    for last in (1..items.len()).rev() {
        let other = usize::try_from(random.below(last as u64 + 1)).unwrap_or(0);
        items.swap(last, other);
    }
}

/// Whom a guardian is linked with. Every link is the other's too, of the same kind.
#[derive(Clone, Default)]
struct Links {
    /// Of the group: those that get a vote at once, and the others.
    group: Vec<usize>,
    group_lazy: Vec<usize>,
    /// Anybody, the same.
    anybody: Vec<usize>,
    lazy: Vec<usize>,
}

impl Links {
    fn all(&self) -> impl Iterator<Item = usize> {
        [&self.group, &self.group_lazy, &self.anybody, &self.lazy].into_iter().flatten().copied()
    }
}

/// Half of the links within the group, the others to anybody: pairs of a shuffled list in which each stands so often.
fn links(scenario: &GuardianScenario, groups: Groups, random: &mut Random) -> Vec<Links> {
    let mut links = vec![Links::default(); scenario.guardians];
    let mut pair = |members: std::ops::Range<usize>,
                    times: usize,
                    kind: fn(&mut Links) -> &mut Vec<usize>,
                    random: &mut Random| {
        let mut ends: Vec<usize> = (0..times).flat_map(|_| members.clone()).collect();
        shuffle(&mut ends, random);
        for pair in ends.chunks_exact(2) {
            if pair[0] != pair[1] && !links[pair[0]].all().any(|one| one == pair[1]) {
                kind(&mut links[pair[0]]).push(pair[1]);
                kind(&mut links[pair[1]]).push(pair[0]);
            }
        }
    };
    let inside = scenario.degree / 2;
    for group in 0..groups.count() {
        pair(groups.range(group), inside.min(MESH), |links| &mut links.group, random);
        pair(groups.range(group), inside.saturating_sub(MESH), |links| &mut links.group_lazy, random);
    }
    let everybody = 0..scenario.guardians;
    let outside = scenario.degree - inside;
    pair(everybody.clone(), outside.min(MESH), |links| &mut links.anybody, random);
    pair(everybody, outside.saturating_sub(MESH), |links| &mut links.lazy, random);
    links
}
