//! The network: who gets what when, who crashes, and the books on what happened.

use std::{collections::BTreeMap, sync::Arc};

use theta_core::{
    amount::ThetaWei,
    block::{Block, Header},
    bls,
    certificate::is_signed,
    codec::rlp::Encode,
    evidence::Evidence,
    hash::{Address, Hash, keccak_parts},
    journal::MemDisk,
    sign::{SecretKey, Signer},
    stake::{Validator, ValidatorSet},
    vote::Vote,
};

use super::{
    Report, Scenario, Violation,
    adversary::{Adversary, Hand},
    audit::Audit,
    ledger::{self, Ledger},
    node::{Node, Outcome, Packet},
    random::Random,
    setup::{Pretender, checkpoint_key, pools, pretends, roles, vote_key},
};
use crate::{
    certificate::{Shares, VoteKey, make_believe},
    message::{Message, Peer},
    pace::Millis,
    round::Aggregate,
    signer::Signed,
};

/// 1 January 2024; where virtual time starts.
const DAWN: Millis = 1_704_067_200_000;

#[derive(Debug)]
enum Event {
    Deliver { to: usize, from: usize, packet: Packet },
    Wake { node: usize, life: u64 },
    Executed { node: usize, life: u64, hash: Hash },
    Restart { node: usize },
    Blackout,
    Sample,
    Calm,
    Transaction(Vec<u8>),
}

pub(super) struct Network {
    pub(super) scenario: Scenario,
    random: Random,
    now: Millis,
    queue: BTreeMap<(Millis, u64), Event>,
    sequence: u64,
    pub(super) nodes: Vec<Node>,
    adversaries: BTreeMap<usize, Box<dyn Adversary>>,
    allies: Vec<usize>,
    keys: Vec<Arc<dyn Signer>>,
    vote_keys: Vec<VoteKey>,
    shares: Shares,
    checkpoint_keys: Vec<Option<bls::SecretKey>>,
    audit: Audit,
    /// When a transaction came up, and at how many honest nodes it has settled.
    born: BTreeMap<Vec<u8>, (Millis, usize)>,
    /// Since the network is whole: of each epoch that an honest node was in the highest lock there and whether the proposer
    /// drawn on that is faulty.
    drawn: BTreeMap<u64, (u64, bool)>,
    report: Report,
    #[cfg(test)]
    pub(super) lose_disks_at_blackout: bool,
}

impl Network {
    pub(super) fn new(scenario: Scenario) -> Self {
        let signers: Vec<Arc<dyn Signer>> = (0..scenario.validators + scenario.observers)
            .map(|index| {
                let seed = keccak_parts(&[b"simulated validator", &index.to_be_bytes()]);
                match SecretKey::from_bytes(seed.as_slice()) {
                    Ok(key) if scenario.real_signatures => Arc::new(key) as Arc<dyn Signer>,
                    _ => Arc::new(Pretender(Address::from_slice(&seed[12..]))),
                }
            })
            .collect();
        let stake = ThetaWei::whole(1_000_000);
        let vote_keys: Vec<VoteKey> = (0..signers.len()).map(|node| vote_key(&scenario, node)).collect();
        let validators = Arc::new(ValidatorSet::new(
            signers[..scenario.validators].iter().zip(&vote_keys).map(|(key, vote_key)| Validator {
                bls: Some(vote_key.public_key()),
                ..Validator::new(key.address(), stake)
            }),
        ));
        let header = Header { chain: scenario.spec.chain.clone(), ..Header::zero() };
        let genesis = Arc::new(Block { header, transactions: Vec::new() });
        let spec = Arc::new(scenario.spec.clone());
        let constant = scenario.stake_change_every == 0 && !scenario.slashes;
        let constant = constant.then(|| validators.clone());
        let mut audit = Audit::new(scenario.spec.clone(), constant);
        audit.seen(&genesis);
        if scenario.real_signatures {
            audit = audit.with_light_client(genesis.header.clone());
        }
        let keys = signers.clone();
        let checkpoint_keys: Vec<Option<bls::SecretKey>> =
            (0..signers.len()).map(|node| checkpoint_key(&scenario, node)).collect();
        let pools = pools(&scenario, &signers, &checkpoint_keys);
        let places = signers.iter().enumerate().map(|(index, key)| (key.address(), index));
        let places: Arc<BTreeMap<Address, usize>> = Arc::new(places.collect());
        let node = |(index, key): (usize, Arc<dyn Signer>)| Node {
            places: places.clone(),
            spec: spec.clone(),
            settings: scenario.settings.clone(),
            roles: roles(&scenario, index, key.address(), checkpoint_keys[index].as_ref()),
            vote_key: vote_keys[index].clone(),
            checkpoint_key: checkpoint_keys[index].clone(),
            checkpoint_mark: MemDisk::default(),
            key,
            wal: MemDisk::default(),
            mark: MemDisk::default(),
            ledger: Ledger::new(spec.clone(), genesis.clone(), validators.clone(), pools.clone()),
            running: None,
            life: 0,
            real: scenario.real_signatures,
            settled_height: 0,
            final_height: 0,
            locked: 0,
            has_lost_log: false,
            has_restarted: true,
            recorded: None,
        };
        let nodes = signers.into_iter().enumerate().map(node).collect();
        let shares = if scenario.real_signatures { Shares::Curve } else { Shares::MakeBelieve };
        Self {
            random: Random::new(scenario.seed),
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes,
            adversaries: scenario.adversaries.iter().map(|(node, how)| (*node, how.start())).collect(),
            allies: scenario.adversaries.iter().map(|(node, _)| *node).collect(),
            keys,
            vote_keys,
            shares,
            checkpoint_keys,
            audit,
            born: BTreeMap::new(),
            drawn: BTreeMap::new(),
            #[cfg(test)]
            lose_disks_at_blackout: false,
            report: Report {
                settled: Vec::new(),
                finals: Vec::new(),
                validators: Vec::new(),
                votes_in_headers: (0, 0),
                before_calm: Vec::new(),
                healed_after: None,
                whole_after: 0,
                patience: 0,
                faulty_epochs: 0,
                samples: Vec::new(),
                epochs: Vec::new(),
                violations: Vec::new(),
                restarts: 0,
                reported: 0,
                latencies: Vec::new(),
                everywhere: Vec::new(),
                settled_after: Vec::new(),
                transactions: 0,
                trace: Hash::ZERO,
            },
            scenario,
        }
    }

    pub(super) fn run(mut self) -> Report {
        self.play();
        for node in &self.nodes {
            self.report.settled.push(node.settled_height);
            self.report.finals.push(node.final_height);
            let newest = node.ledger.settled.last();
            self.report.validators.push(newest.map_or(0, |(.., post)| post.validators.as_slice().len()));
            self.report.epochs.push(node.running.as_ref().map_or(0, |running| running.engine.epoch()));
        }
        self.report.latencies.sort_unstable();
        self.report.everywhere.sort_unstable();
        self.report.violations = self.audit.violations;
        self.report
    }

    /// Lets happen what happens.
    pub(super) fn play(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.scenario.stopped.contains(&node) {
                let at = self.random.below(50);
                self.at(at, Event::Restart { node });
            }
        }
        for at in self.scenario.blackouts.clone() {
            self.at(at, Event::Blackout);
        }
        let until = self.scenario.until;
        if self.scenario.calm_from < until {
            self.at(self.scenario.calm_from, Event::Calm);
        }
        for at in (0..until).step_by(10_000) {
            self.at(at, Event::Sample);
        }
        let times =
            |every: Millis| (1..).map(move |n| n * every).take_while(move |at| every > 0 && *at < until);
        for at in times(self.scenario.transaction_every).collect::<Vec<_>>() {
            self.at(at, Event::Transaction(ledger::plain(at)));
        }
        for at in times(self.scenario.stake_change_every).collect::<Vec<_>>() {
            let index = usize::try_from(self.random.below(self.scenario.validators as u64)).unwrap_or(0);
            let stake = self.random.between((900_000, 1_100_000));
            let address = self.nodes[index].key.address();
            self.at(at, Event::Transaction(ledger::stake(at, address, stake)));
        }
        while let Some(((at, _), event)) = self.queue.pop_first() {
            let healed = self.report.healed_after.filter(|_| self.scenario.ends_healed);
            if at > until || healed.is_some_and(|after| at > self.scenario.calm_from + after + 1_000) {
                break;
            }
            self.now = at;
            self.happen(event);
        }
    }

    fn at(&mut self, at: Millis, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    /// Notes when every honest node has settled something since the calm began.
    fn heal(&mut self) {
        let before = &self.report.before_calm;
        if before.is_empty() || self.report.healed_after.is_some() {
            return;
        }
        let stopped = &self.scenario.stopped;
        let mut honest =
            (0..self.nodes.len()).filter(|node| !self.allies.contains(node) && !stopped.contains(node));
        if honest.all(|node| self.nodes[node].settled_height > before[node]) {
            self.report.healed_after = Some(self.now - self.scenario.calm_from);
            let spoilt = self.drawn.values().filter(|(_, is_faulty)| *is_faulty).count();
            self.report.faulty_epochs = u32::try_from(spoilt).unwrap_or(u32::MAX);
        }
    }

    /// An honest node is there that was not: it has restarted, or its signer, whose log was lost, lets it vote again. Until then
    /// it is one silent validator more than agreement stands.
    fn come_back(&mut self) {
        if self.is_calm() && self.report.healed_after.is_none() {
            self.report.whole_after = self.now - self.scenario.calm_from;
            self.count_epochs();
        }
    }

    /// The network is whole, as far as one knows: what epochs faulty proposers get is counted from here, with the one that the
    /// furthest node is in.
    fn count_epochs(&mut self) {
        let honest = (0..self.nodes.len()).filter(|node| !self.allies.contains(node));
        let running = honest.filter_map(|node| self.nodes[node].running.as_ref());
        self.report.patience = running.map(|running| running.engine.patience()).max().unwrap_or(0);
        self.drawn.clear();
        (0..self.nodes.len()).for_each(|node| self.draw(node));
        let newest = self.drawn.last_key_value().map_or(0, |(epoch, _)| *epoch);
        self.drawn.retain(|epoch, _| *epoch == newest);
    }

    /// Notes who proposes in the epoch of an honest node. Nodes with different locks expect different ones; the one drawn on
    /// the highest lock gets the votes.
    fn draw(&mut self, node: usize) {
        if !self.is_calm() || self.report.healed_after.is_some() || self.allies.contains(&node) {
            return;
        }
        let Some(running) = &self.nodes[node].running else { return };
        let (epoch, lock) = (running.engine.epoch(), running.engine.lock_rank());
        let is_lower = self.drawn.get(&epoch).is_some_and(|(highest, _)| lock <= *highest);
        if is_lower || self.drawn.first_key_value().is_some_and(|(first, _)| epoch < *first) {
            return;
        }
        let proposer = running.engine.proposer();
        let is_faulty = self.allies.iter().any(|ally| Some(self.keys[*ally].address()) == proposer);
        self.drawn.insert(epoch, (lock, is_faulty));
    }

    fn is_calm(&self) -> bool {
        self.now >= self.scenario.calm_from
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Restart { node } => {
                self.report.restarts += 1;
                if !self.allies.contains(&node) {
                    self.come_back();
                }
                self.nodes[node].has_restarted = true;
                // What has settled need not be offered to it.
                for (transaction, _) in self.born.iter().filter(|(_, (_, settled))| *settled == 0) {
                    self.nodes[node].offer(transaction);
                }
                let outcome = self.nodes[node].start(DAWN + self.now);
                self.carry_out(node, outcome);
            }
            Event::Blackout => {
                for node in 0..self.nodes.len() {
                    if self.nodes[node].running.is_some() {
                        self.crash(node);
                    }
                    if self.scenario.loses_logs.contains(&node) {
                        self.nodes[node].wal = MemDisk::default();
                        self.nodes[node].locked = 0;
                        self.nodes[node].has_lost_log = true;
                    }
                    #[cfg(test)]
                    if self.lose_disks_at_blackout {
                        self.nodes[node].locked = 0;
                        self.nodes[node].wal = MemDisk::default();
                        self.nodes[node].mark = MemDisk::default();
                    }
                }
            }
            Event::Calm => {
                self.report.before_calm = self.nodes.iter().map(|node| node.settled_height).collect();
                self.count_epochs();
            }
            Event::Sample => {
                self.report.samples.push(self.nodes.iter().map(|node| node.settled_height).collect());
            }
            Event::Transaction(transaction) => {
                self.report.transactions += 1;
                self.born.insert(transaction.clone(), (self.now, 0));
                for node in 0..self.nodes.len() {
                    self.nodes[node].offer(&transaction);
                    self.turn(node, |node, now, dice| node.work(now, dice));
                }
            }
            Event::Wake { node, life } if self.nodes[node].life == life => {
                self.turn(node, |node, now, dice| node.tick(now, dice));
            }
            Event::Executed { node, life, hash } if self.nodes[node].life == life => {
                self.turn(node, |node, now, dice| node.executed(now, hash, dice));
            }
            Event::Wake { .. } | Event::Executed { .. } => {}
            Event::Deliver { to, from, packet } => {
                if let Some(mut adversary) = self.adversaries.remove(&to) {
                    let mut hand = self.hand(to);
                    adversary.incoming(&mut hand, &packet);
                    let sent = hand.sent;
                    self.adversaries.insert(to, adversary);
                    self.send_all(to, sent);
                }
                let peer = Peer::Remote(from as u64);
                self.turn(to, |node, now, dice| node.receive(now, peer, packet, dice));
            }
        }
    }

    /// Lets a running node act. The dice say before which effect it crashes.
    fn turn(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Node, Millis, &mut dyn FnMut() -> bool) -> Outcome,
    ) {
        if self.nodes[index].running.is_none() {
            return;
        }
        let rate = if self.is_calm() { 0 } else { self.scenario.crashes_per_100k };
        let random = &mut self.random;
        let mut dice = || rate > 0 && random.below(100_000) < rate;
        let outcome = act(&mut self.nodes[index], DAWN + self.now, &mut dice);
        self.carry_out(index, outcome);
    }

    fn crash(&mut self, node: usize) {
        let torn = self.random.below(16);
        self.nodes[node].crash(usize::try_from(torn).unwrap_or(0));
        let pause = self.random.between((1, 2_000));
        self.at(self.now + pause, Event::Restart { node });
    }

    fn note(&mut self, node: usize, what: &[u8]) {
        let parts = [self.report.trace.as_slice(), &self.now.to_be_bytes(), &[node as u8], what];
        self.report.trace = keccak_parts(&parts);
    }

    fn carry_out(&mut self, node: usize, outcome: Outcome) {
        let honest = !self.allies.contains(&node);
        for signed in &outcome.signed {
            match signed {
                Signed::Message(message) => self.note(node, &message.to_rlp()),
                Signed::Proposal(proposal) => {
                    self.note(node, proposal.block.header.digest().as_slice());
                    self.audit.seen(&proposal.block);
                }
            }
            if honest {
                // A first vote may go to what is certified already, and the first after a crash may have been decided on before
                // it, on the lock of then.
                let node_now = &mut self.nodes[node];
                let lock = node_now.running.as_ref().map(|running| running.engine.certified().0);
                let voted = match signed {
                    Signed::Message(Message::Vote(vote)) => Some(vote.block),
                    _ => None,
                };
                let is_first = voted.is_some() && std::mem::take(&mut node_now.has_restarted);
                let is_found = is_first && node_now.has_lost_log;
                let locked = if is_first || voted == lock { 0 } else { node_now.locked };
                self.audit.signed(node, signed, locked);
                if is_found {
                    self.come_back();
                }
            }
        }
        let live = self.nodes.len() - self.scenario.stopped.len() - self.allies.len();
        for (hash, height, blocks) in &outcome.settled {
            self.note(node, hash.as_slice());
            for block in blocks.iter().filter(|_| honest) {
                self.audit.settled(block);
                let extension = &block.header.extension;
                let guardians = extension.guardian_votes().map_or(0, Aggregate::signers);
                let elite = extension.elite_votes().map_or(0, Aggregate::signers);
                let most = &mut self.report.votes_in_headers;
                *most = (most.0.max(guardians), most.1.max(elite));
                for transaction in &block.transactions {
                    let Some((born, nodes)) = self.born.get_mut(transaction) else { continue };
                    let took = self.now - *born;
                    *nodes += 1;
                    if *nodes == 1 {
                        self.report.latencies.push(took);
                        self.report.settled_after.push((*born, took));
                    }
                    if *nodes == live {
                        self.report.everywhere.push(took);
                    }
                }
            }
            if *height < self.nodes[node].settled_height && honest {
                self.audit.broken(Violation::Fell { node });
            }
            self.nodes[node].settled_height = *height;
            self.heal();
        }
        for (hash, height) in &outcome.finals {
            self.note(node, &[b"final", hash.as_slice()].concat());
            self.nodes[node].final_height = self.nodes[node].final_height.max(*height);
            if honest {
                let index = usize::try_from(*height).unwrap_or(usize::MAX);
                let settled = self.nodes[node].ledger.settled.get(index).map(|(hash, ..)| *hash);
                let faulty = |one: &&usize| self.allies.contains(one);
                let guardians = &self.scenario.guardians;
                let count = (guardians.len(), guardians.iter().filter(faulty).count());
                self.audit.finalized(node, (*hash, *height), settled, count);
            }
        }
        if honest {
            self.check(node, &outcome);
            if self.scenario.slashes {
                for evidence in &outcome.reported {
                    // The next of those that know of it who proposes brings it.
                    self.nodes[node].ledger.pool.insert(ledger::slash(evidence.offender()));
                }
            }
            self.draw(node);
        }
        if let Some(running) = &self.nodes[node].running
            && !outcome.crashed
        {
            self.nodes[node].locked = running.engine.lock_rank();
        }
        let life = self.nodes[node].life;
        if let Some(at) = outcome.wake_at {
            self.at(at.saturating_sub(DAWN).max(self.now + 1), Event::Wake { node, life });
        }
        for hash in outcome.execute {
            self.at(self.now + self.scenario.execution, Event::Executed { node, life, hash });
        }
        for (to, packet) in outcome.packets {
            match (to, self.adversaries.remove(&node)) {
                (to, Some(mut adversary)) => {
                    let mut hand = self.hand(node);
                    adversary.outgoing(&mut hand, to, packet);
                    let sent = hand.sent;
                    self.adversaries.insert(node, adversary);
                    self.send_all(node, sent);
                }
                (Some(to), None) => self.send(node, to, 0, packet),
                (None, None) => {
                    (0..self.nodes.len()).for_each(|to| self.send(node, to, 0, packet.clone()));
                }
            }
        }
        for (from, packet) in outcome.requests {
            let to = match from {
                Some(Peer::Remote(peer)) => usize::try_from(peer).unwrap_or(node),
                // Anybody else.
                _ => {
                    let other = self.random.below(self.nodes.len().saturating_sub(1) as u64);
                    usize::try_from(other).map_or(node, |other| if other < node { other } else { other + 1 })
                }
            };
            self.send(node, to, 0, packet);
        }
        if outcome.crashed {
            self.crash(node);
        }
    }

    /// The checks after a turn of an honest node.
    fn check(&mut self, node: usize, outcome: &Outcome) {
        if outcome.fell {
            self.audit.broken(Violation::Fell { node });
        }
        if outcome.stuck {
            self.audit.broken(Violation::Stuck { node });
        }
        for (peer, fault) in &outcome.blamed {
            if let Some(peer) = usize::try_from(*peer).ok().filter(|peer| !self.allies.contains(peer)) {
                self.audit.broken(Violation::Blamed { node: peer, fault: *fault });
            }
        }
        let accused = outcome.accused.iter().copied();
        for offender in outcome.reported.iter().map(Evidence::offender).chain(accused) {
            let guilty = self.allies.iter().any(|ally| self.keys[*ally].address() == offender);
            if !guilty {
                self.audit.broken(Violation::Accused { by: node });
            }
        }
        self.report.reported += outcome.reported.len() as u64;
        if let Some(witness) = &outcome.witness {
            let real = self.scenario.real_signatures;
            let voted = |vote: &Vote| match real {
                true => vote.verify().is_ok(),
                false => pretends(&vote.signature, &vote.digest(), vote.voter),
            };
            let summed = if real { is_signed } else { make_believe::is_signed };
            self.audit.witness(witness, voted, summed);
        }
        // Some of them; encoding all would take most of the time.
        if let Some((_, packet)) = outcome.packets.first().filter(|_| self.sequence.is_multiple_of(16)) {
            self.audit.encoding(node, packet);
        }
        if let Some(running) = &self.nodes[node].running
            && self.sequence.is_multiple_of(8)
        {
            self.audit.held(node, &running.engine.held(), self.keys.len());
        }
    }

    fn hand(&mut self, me: usize) -> Hand<'_> {
        Hand {
            me,
            nodes: self.nodes.len(),
            validators: self.scenario.validators,
            spec: &self.scenario.spec,
            pool: self.nodes[me].ledger.guardians(),
            checkpoint_keys: &self.checkpoint_keys,
            allies: &self.allies,
            keys: &self.keys,
            vote_keys: &self.vote_keys,
            shares: self.shares,
            headers: &self.audit.headers,
            random: &mut self.random,
            sent: Vec::new(),
        }
    }

    fn send_all(&mut self, from: usize, sent: Vec<(usize, Millis, Packet)>) {
        for (to, later, packet) in sent {
            match &packet {
                Packet::Block(block) => self.audit.seen(block),
                Packet::Blocks(blocks) => blocks.iter().for_each(|block| self.audit.seen(block)),
                _ => {}
            }
            self.send(from, to, later, packet);
        }
    }

    fn send(&mut self, from: usize, to: usize, later: Millis, packet: Packet) {
        if from == to || self.scenario.stopped.contains(&to) {
            return;
        }
        let cut = self.scenario.partitions.iter().any(|partition| {
            (partition.from..partition.until).contains(&self.now)
                && partition.group.contains(&from) != partition.group.contains(&to)
        });
        let calm = self.is_calm();
        let lost = !calm && self.random.below(1_000) < self.scenario.loss_per_mille;
        if cut || lost {
            return;
        }
        let again = !calm && self.random.below(1_000) < self.scenario.duplicate_per_mille;
        for packet in [Some(packet.clone()), again.then_some(packet)].into_iter().flatten() {
            let delay = later + self.random.between(self.scenario.delay);
            self.at(self.now + delay, Event::Deliver { to, from, packet });
        }
    }
}
