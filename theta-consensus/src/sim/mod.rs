//! A network of engines in virtual time: loss, delay, partitions, crashes at any effect, torn writes.
//!
//! Everything depends on [`Scenario::seed`] alone. Each run checks what must hold whatever happens (no two settled blocks
//! conflict, nobody signs two blocks of one height or epoch, nothing falls) and reports what was violated.
//!
//! ```
//! use theta_consensus::sim::Scenario;
//! use theta_core::spec::ChainSpec;
//!
//! let report = Scenario::honest(ChainSpec::devnet(), 4, 42).run();
//! assert!(report.violations.is_empty());
//! assert!(report.settled.iter().all(|height| *height > 5));
//! ```

mod ledger;
mod node;
mod random;

use std::{collections::BTreeMap, sync::Arc};

use theta_core::{
    amount::ThetaWei,
    block::{Block, Header},
    codec::rlp::Encode,
    hash::{Address, Hash, keccak_parts},
    journal::MemDisk,
    sign::{SecretKey, SignError, Signature, Signer},
    spec::{ChainSpec, Pace},
    stake::{Validator, ValidatorSet},
};

use self::{
    ledger::Ledger,
    node::{Node, Outcome, Packet},
    random::Random,
};
use crate::{
    message::{Message, Peer},
    pace::{Millis, Settings},
    signer::Signed,
};

/// 1 January 2024; where virtual time starts.
const DAWN: Millis = 1_704_067_200_000;

/// Some nodes that hear only each other for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Start, in milliseconds from the beginning.
    pub from: Millis,
    /// End.
    pub until: Millis,
    /// The nodes on one side.
    pub group: Vec<usize>,
}

/// What happens in a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The chain.
    pub spec: ChainSpec,
    /// How many validators, with equal stake.
    pub validators: usize,
    /// What all chance depends on.
    pub seed: u64,
    /// How long, in milliseconds.
    pub until: Millis,
    /// Durations of every node.
    pub settings: Settings,
    /// Least and greatest delay of a message in milliseconds.
    pub delay: (Millis, Millis),
    /// Messages lost in a thousand.
    pub loss_per_mille: u64,
    /// Nodes that never run.
    pub stopped: Vec<usize>,
    /// Partitions.
    pub partitions: Vec<Partition>,
    /// Effects in a hundred thousand before which the node crashes; it restarts up to two seconds later.
    pub crashes_per_100k: u64,
    /// From then on nothing is lost and nobody crashes.
    pub calm_from: Millis,
    /// All nodes crash at these times.
    pub blackouts: Vec<Millis>,
    /// A transaction comes up at all nodes so often; 0 for never.
    pub transaction_every: Millis,
    /// A stake changes so often; 0 for never.
    pub stake_change_every: Millis,
    /// How long executing a block takes; building takes no time.
    pub execution: Millis,
    /// Whether signatures are made and checked, which costs most of the time of a run.
    pub real_signatures: bool,
}

impl Scenario {
    /// A minute of a quiet network with a transaction each second.
    pub fn honest(spec: ChainSpec, validators: usize, seed: u64) -> Self {
        let settings = Settings::new(spec.rules(1).consensus.pace);
        Self {
            spec,
            validators,
            seed,
            until: 60_000,
            settings,
            delay: (5, 40),
            loss_per_mille: 0,
            stopped: Vec::new(),
            partitions: Vec::new(),
            crashes_per_100k: 0,
            calm_from: Millis::MAX,
            blackouts: Vec::new(),
            transaction_every: 1_000,
            stake_change_every: 0,
            execution: 0,
            real_signatures: false,
        }
    }

    /// Runs it.
    pub fn run(self) -> Report {
        Network::new(self).run()
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Two different settled blocks of one height.
    Conflict {
        /// The height.
        height: u64,
    },
    /// A validator signed votes for two blocks of one height, or of one epoch at the responsive pace.
    DoubleVote {
        /// Which.
        validator: usize,
        /// The height or epoch.
        rank: u64,
    },
    /// A validator signed two blocks of one epoch.
    DoubleProposal {
        /// Which.
        validator: usize,
        /// The epoch.
        epoch: u64,
    },
    /// Settled height, lock or epoch fell, or the settled block is not below the lock.
    Fell {
        /// Which node.
        node: usize,
    },
    /// An engine could not start again, or did something that the host cannot carry out.
    Stuck {
        /// Which node.
        node: usize,
    },
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Settled height of every node.
    pub settled: Vec<u64>,
    /// Settled height of every node every ten seconds, from the start on.
    pub samples: Vec<Vec<u64>>,
    /// Epoch of every node.
    pub epochs: Vec<u64>,
    /// What was broken; empty in a right implementation.
    pub violations: Vec<Violation>,
    /// Restarts of all nodes.
    pub restarts: u64,
    /// Time from a transaction's coming up to its being settled at the first node, in milliseconds, ascending.
    pub latencies: Vec<Millis>,
    /// Transactions that came up.
    pub transactions: usize,
    /// Hash over all that happened; equal runs have equal ones.
    pub trace: Hash,
}

/// A signer whose signatures only look like some.
#[derive(Debug)]
struct Pretender(Address);

impl Signer for Pretender {
    fn address(&self) -> Address {
        self.0
    }
    fn sign(&self, digest: &Hash) -> Result<Signature, SignError> {
        let first = keccak_parts(&[self.0.as_slice(), digest.as_slice()]);
        Ok(Signature::from_bytes([first.as_slice(), &[0; 33]].concat()))
    }
}

#[derive(Debug)]
enum Event {
    Deliver { to: usize, from: usize, packet: Packet },
    Wake { node: usize, life: u64 },
    Executed { node: usize, life: u64, hash: Hash },
    Restart { node: usize },
    Blackout,
    Sample,
    Transaction(Vec<u8>),
}

struct Network {
    scenario: Scenario,
    random: Random,
    now: Millis,
    queue: BTreeMap<(Millis, u64), Event>,
    sequence: u64,
    nodes: Vec<Node>,
    settled: BTreeMap<u64, Hash>,
    votes: BTreeMap<(usize, u64), Hash>,
    /// Epochs of all blocks that were proposed.
    epochs: BTreeMap<Hash, u64>,
    proposals: BTreeMap<(usize, u64), Hash>,
    born: BTreeMap<Vec<u8>, Millis>,
    report: Report,
    #[cfg(test)]
    lose_disks_at_blackout: bool,
}

impl Network {
    fn new(scenario: Scenario) -> Self {
        let signers: Vec<Arc<dyn Signer>> = (0..scenario.validators)
            .map(|index| {
                let seed = keccak_parts(&[b"simulated validator", &index.to_be_bytes()]);
                match SecretKey::from_bytes(seed.as_slice()) {
                    Ok(key) if scenario.real_signatures => Arc::new(key) as Arc<dyn Signer>,
                    _ => Arc::new(Pretender(Address::from_slice(&seed[12..]))),
                }
            })
            .collect();
        let stake = ThetaWei::whole(1_000_000);
        let validators = Arc::new(ValidatorSet::new(
            signers.iter().map(|signer| Validator { address: signer.address(), stake }),
        ));
        let header = Header { chain: scenario.spec.chain.clone(), ..Header::zero() };
        let genesis = Arc::new(Block { header, transactions: Vec::new() });
        let spec = Arc::new(scenario.spec.clone());
        let nodes = signers
            .into_iter()
            .map(|signer| Node {
                spec: spec.clone(),
                settings: scenario.settings.clone(),
                key: signer,
                wal: MemDisk::default(),
                mark: MemDisk::default(),
                ledger: Ledger::new(genesis.clone(), validators.clone()),
                running: None,
                life: 0,
                real: scenario.real_signatures,
                settled_height: 0,
            })
            .collect();
        Self {
            random: Random::new(scenario.seed),
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            nodes,
            settled: BTreeMap::new(),
            votes: BTreeMap::new(),
            epochs: BTreeMap::new(),
            proposals: BTreeMap::new(),
            born: BTreeMap::new(),
            #[cfg(test)]
            lose_disks_at_blackout: false,
            report: Report {
                settled: Vec::new(),
                samples: Vec::new(),
                epochs: Vec::new(),
                violations: Vec::new(),
                restarts: 0,
                latencies: Vec::new(),
                transactions: 0,
                trace: Hash::ZERO,
            },
            scenario,
        }
    }

    fn run(mut self) -> Report {
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
        for at in (0..until).step_by(10_000) {
            self.at(at, Event::Sample);
        }
        let times =
            |every: Millis| (1..).map(move |n| n * every).take_while(move |at| every > 0 && *at < until);
        for at in times(self.scenario.transaction_every).collect::<Vec<_>>() {
            self.at(at, Event::Transaction(ledger::plain(at)));
        }
        for at in times(self.scenario.stake_change_every).collect::<Vec<_>>() {
            let index = usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or(0);
            let stake = self.random.between((900_000, 1_100_000));
            let address = self.nodes[index].key.address();
            self.at(at, Event::Transaction(ledger::stake(at, address, stake)));
        }
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > until {
                break;
            }
            self.now = at;
            self.happen(event);
        }
        for node in &self.nodes {
            self.report.settled.push(node.settled_height);
            self.report.epochs.push(node.running.as_ref().map_or(0, |running| running.engine.epoch()));
        }
        self.report.latencies.sort_unstable();
        self.report
    }

    fn at(&mut self, at: Millis, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    fn is_calm(&self) -> bool {
        self.now >= self.scenario.calm_from
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Restart { node } => {
                self.report.restarts += 1;
                for (transaction, _) in self.born.iter().filter(|(_, born)| **born != Millis::MAX) {
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
                    #[cfg(test)]
                    if self.lose_disks_at_blackout {
                        self.nodes[node].wal = MemDisk::default();
                        self.nodes[node].mark = MemDisk::default();
                    }
                }
            }
            Event::Sample => {
                self.report.samples.push(self.nodes.iter().map(|node| node.settled_height).collect());
            }
            Event::Transaction(transaction) => {
                self.report.transactions += 1;
                self.born.insert(transaction.clone(), self.now);
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
        for signed in &outcome.signed {
            self.audit(node, signed);
        }
        for (hash, height, blocks) in &outcome.settled {
            self.note(node, hash.as_slice());
            for block in blocks {
                let (height, hash) = (block.header.height, block.header.hash());
                if *self.settled.entry(height).or_insert(hash) != hash {
                    self.report.violations.push(Violation::Conflict { height });
                }
                for transaction in &block.transactions {
                    if let Some(born) = self.born.get_mut(transaction)
                        && *born != Millis::MAX
                    {
                        self.report.latencies.push(self.now - *born);
                        // Settled; nodes that start later need not be offered it.
                        *born = Millis::MAX;
                    }
                }
            }
            if *height < self.nodes[node].settled_height {
                self.report.violations.push(Violation::Fell { node });
            }
            self.nodes[node].settled_height = *height;
        }
        if outcome.fell {
            self.report.violations.push(Violation::Fell { node });
        }
        if outcome.stuck {
            self.report.violations.push(Violation::Stuck { node });
        }
        let life = self.nodes[node].life;
        if let Some(at) = outcome.wake_at {
            self.at(at.saturating_sub(DAWN).max(self.now + 1), Event::Wake { node, life });
        }
        for hash in outcome.execute {
            self.at(self.now + self.scenario.execution, Event::Executed { node, life, hash });
        }
        for (to, packet) in outcome.packets {
            match to {
                Some(to) => self.send(node, to, packet),
                None => (0..self.nodes.len()).for_each(|to| self.send(node, to, packet.clone())),
            }
        }
        for (from, packet) in outcome.requests {
            let to = match from {
                Some(Peer::Remote(peer)) => usize::try_from(peer).unwrap_or(node),
                _ => usize::try_from(self.random.below(self.nodes.len() as u64)).unwrap_or(node),
            };
            self.send(node, to, packet);
        }
        if outcome.crashed {
            self.crash(node);
        }
    }

    fn audit(&mut self, node: usize, signed: &Signed) {
        match signed {
            Signed::Message(Message::Vote(vote)) => {
                self.note(node, &vote.to_rlp());
                let rank = match self.scenario.spec.rules(vote.height).consensus.pace {
                    Pace::Clocked => vote.height,
                    Pace::Responsive => self.epochs.get(&vote.block).copied().unwrap_or(0),
                };
                if *self.votes.entry((node, rank)).or_insert(vote.block) != vote.block {
                    self.report.violations.push(Violation::DoubleVote { validator: node, rank });
                }
            }
            Signed::Proposal(proposal) => {
                let (epoch, digest) = (proposal.block.header.epoch, proposal.block.header.digest());
                self.note(node, digest.as_slice());
                self.epochs.insert(proposal.block.header.hash(), epoch);
                if *self.proposals.entry((node, epoch)).or_insert(digest) != digest {
                    self.report.violations.push(Violation::DoubleProposal { validator: node, epoch });
                }
            }
            Signed::Message(_) => {}
        }
    }

    fn send(&mut self, from: usize, to: usize, packet: Packet) {
        if from == to || self.scenario.stopped.contains(&to) {
            return;
        }
        let cut = self.scenario.partitions.iter().any(|partition| {
            (partition.from..partition.until).contains(&self.now)
                && partition.group.contains(&from) != partition.group.contains(&to)
        });
        let lost = !self.is_calm() && self.random.below(1_000) < self.scenario.loss_per_mille;
        if !cut && !lost {
            let delay = self.random.between(self.scenario.delay);
            self.at(self.now + delay, Event::Deliver { to, from, packet });
        }
    }
}

#[cfg(test)]
mod tests;
