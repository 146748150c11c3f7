//! A host of one engine: the same loop as a real node's, over disks in memory.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use theta_core::{
    block::Block,
    bls,
    context::Finality,
    evidence::Evidence,
    hash::{Address, Hash},
    journal::{Disk, Journal, MemDisk},
    sign::Signer,
    spec::ChainSpec,
};

use super::{audit::Witness, ledger::Ledger, setup::pretends};
use crate::{
    certificate::VoteKey,
    checks::Fault,
    engine::{Effect, Engine, Input, Roles, Start},
    message::{Message, Peer},
    pace::{Millis, Settings},
    signer::{Intent, LocalSigner, RoleSigner, Signed},
    wal::WalRecord,
};

/// Blocks in one answer to a fetch.
const ANSWER: usize = 32;

#[derive(Clone, Debug)]
pub(super) enum Packet {
    Message(Arc<Message>),
    Block(Arc<Block>),
    Fetch { block: Hash, above: u64 },
    Blocks(Vec<Arc<Block>>),
}

impl From<Message> for Packet {
    fn from(message: Message) -> Self {
        Self::Message(Arc::new(message))
    }
}

impl Packet {
    /// The message in it, if it is one.
    pub(super) fn message(&self) -> Option<&Message> {
        match self {
            Self::Message(message) => Some(message),
            _ => None,
        }
    }
}

/// What a turn of a node does to the world.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// To one node or to all.
    pub(super) packets: Vec<(Option<usize>, Packet)>,
    /// To a node that has something, or to any.
    pub(super) requests: Vec<(Option<Peer>, Packet)>,
    pub(super) signed: Vec<Signed>,
    pub(super) settled: Vec<(Hash, u64, Vec<Arc<Block>>)>,
    pub(super) finals: Vec<(Hash, u64)>,
    pub(super) execute: Vec<Hash>,
    pub(super) wake_at: Option<Millis>,
    pub(super) crashed: bool,
    pub(super) fell: bool,
    pub(super) stuck: bool,
    pub(super) blamed: Vec<(u64, Fault)>,
    pub(super) accused: Vec<Address>,
    pub(super) reported: Vec<Evidence>,
    pub(super) witness: Option<Witness>,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) engine: Engine,
    wal: Journal<WalRecord>,
    signer: LocalSigner,
    executing: Vec<(Hash, Arc<Block>)>,
    seen: (u64, u64, u64),
    pub(super) final_height: u64,
}

pub(super) struct Node {
    pub(super) spec: Arc<ChainSpec>,
    pub(super) settings: Settings,
    pub(super) key: Arc<dyn Signer>,
    pub(super) roles: Roles,
    pub(super) vote_key: VoteKey,
    pub(super) checkpoint_key: Option<bls::SecretKey>,
    pub(super) checkpoint_mark: MemDisk,
    pub(super) wal: MemDisk,
    pub(super) mark: MemDisk,
    pub(super) ledger: Ledger,
    pub(super) running: Option<Running>,
    /// Counts starts, so that timers of an earlier life are told apart.
    pub(super) life: u64,
    pub(super) real: bool,
    pub(super) settled_height: u64,
    /// Rank of the lock after the last turn that no crash ended.
    pub(super) locked: u64,
    /// It has not voted since it started.
    pub(super) has_restarted: bool,
    /// Its signer knows of votes that it does not, and refuses what contradicts them.
    pub(super) has_lost_log: bool,
    /// Of the newest final checkpoint, ever.
    pub(super) final_height: u64,
    /// Where who is.
    pub(super) places: Arc<BTreeMap<Address, usize>>,
    /// All inputs, where they are wanted.
    pub(super) recorded: Option<Vec<(Millis, Input)>>,
}

type Dice<'a> = &'a mut dyn FnMut() -> bool;

impl Node {
    pub(super) fn start(&mut self, now: Millis) -> Outcome {
        self.life += 1;
        let stuck = Outcome { stuck: true, ..Outcome::default() };
        let (Ok((wal, records)), Ok(signer)) =
            (Journal::open(self.wal.clone()), LocalSigner::open(self.key.clone(), self.mark.clone()))
        else {
            return stuck;
        };
        let signer = signer.with_any_vote_key(self.vote_key.clone());
        let signer = match &self.checkpoint_key {
            Some(key) => signer.with_checkpoint_key(key.clone(), self.checkpoint_mark.clone()),
            None => Ok(signer),
        };
        let Ok(signer) = signer else { return stuck };
        let Some((genesis, ..)) = self.ledger.settled.first() else { return stuck };
        let start = Start { root: *genesis, settled: self.ledger.tail(200), wal: records };
        let roles = self.roles.clone();
        let Ok(engine) = Engine::recover(self.spec.clone(), self.settings.clone(), roles, start) else {
            return stuck;
        };
        let engine = engine.reminded(signer.voted());
        let engine = if self.real { engine } else { engine.making_believe() };
        let final_height = engine.final_checkpoint().map_or(0, |(_, height)| height);
        if final_height < self.final_height && !self.has_lost_log || engine.lock_rank() < self.locked {
            return Outcome { fell: true, ..stuck };
        }
        let seen = (engine.settled().1, engine.lock_rank(), engine.epoch());
        self.running = Some(Running { engine, wal, signer, executing: Vec::new(), seen, final_height });
        self.drive(now, vec![Input::Tick, Input::Work], &mut || false)
    }

    /// Loses everything but the disks, and of those what was being written but for some bytes.
    pub(super) fn crash(&mut self, torn: usize) {
        for disk in [&mut self.wal, &mut self.mark, &mut self.checkpoint_mark] {
            // A write that never got synced; memory cannot fail.
            let _ = disk.append(&vec![0x5a; torn]);
            disk.crash(torn);
        }
        self.running = None;
        self.life += 1;
        self.ledger.crash();
    }

    pub(super) fn offer(&mut self, transaction: &[u8]) {
        let settled = self.ledger.settled.iter().rev().take(200);
        let mut held = settled.flat_map(|(_, block, _)| &block.transactions);
        if !held.any(|other| other == transaction) {
            self.ledger.pool.insert(transaction.to_vec());
        }
    }

    pub(super) fn tick(&mut self, now: Millis, dice: Dice<'_>) -> Outcome {
        self.drive(now, vec![Input::Tick], dice)
    }

    pub(super) fn work(&mut self, now: Millis, dice: Dice<'_>) -> Outcome {
        self.drive(now, vec![Input::Work], dice)
    }

    pub(super) fn executed(&mut self, now: Millis, hash: Hash, dice: Dice<'_>) -> Outcome {
        let inputs = self.finish_execution(hash);
        self.drive(now, inputs, dice)
    }

    pub(super) fn receive(&mut self, now: Millis, from: Peer, packet: Packet, dice: Dice<'_>) -> Outcome {
        let Some(running) = &self.running else { return Outcome::default() };
        match packet {
            Packet::Message(message) => {
                let input = self.check_message(running, from, Arc::unwrap_or_clone(message));
                self.drive(now, input.into_iter().collect(), dice)
            }
            Packet::Block(block) => {
                let input = self.check_block(running, from, &block);
                self.drive(now, input.into_iter().collect(), dice)
            }
            Packet::Blocks(blocks) => {
                // One after the other: each has to find its parent.
                let mut outcome = Outcome::default();
                for block in blocks {
                    let Some(running) = &self.running else { break };
                    let input = self.check_block(running, from, &block);
                    let next = self.drive(now, input.into_iter().collect(), dice);
                    let crashed = next.crashed;
                    outcome.extend(next);
                    if crashed {
                        break;
                    }
                }
                outcome
            }
            Packet::Fetch { block, above } => {
                let settled = self.ledger.above(above).map(|(_, block)| block.clone());
                let unsettled = running.engine.branch(&block);
                let known = !unsettled.is_empty() || self.ledger.above(above).any(|(hash, _)| *hash == block);
                let blocks: Vec<_> = settled
                    .chain(unsettled)
                    .filter(|block| block.header.height > above)
                    .take(ANSWER)
                    .collect();
                let mut outcome = Outcome::default();
                if let Peer::Remote(peer) = from
                    && known
                {
                    let to = usize::try_from(peer).ok();
                    outcome.packets.push((to, Packet::Blocks(blocks)));
                }
                outcome
            }
        }
    }

    fn check_message(&self, running: &Running, from: Peer, message: Message) -> Option<Input> {
        let checks = running.engine.wants(from, message)?;
        let checked = if self.real { checks.verify() } else { checks.verify_by(&pretends, false) };
        Some(Input::Message(checked.ok()?))
    }

    fn check_block(&self, running: &Running, from: Peer, block: &Arc<Block>) -> Option<Input> {
        let checks = running.engine.wants_block(from, block.as_ref().clone())?;
        let checked = if self.real { checks.verify() } else { checks.verify_by(&pretends, false) };
        Some(Input::Block(checked.ok()?))
    }

    fn finish_execution(&mut self, hash: Hash) -> Vec<Input> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let Some(index) = running.executing.iter().position(|(other, _)| *other == hash) else {
            return Vec::new();
        };
        let (hash, block) = running.executing.remove(index);
        let post = self.ledger.execute(hash, &block);
        let more = !self.ledger.candidates(&hash, false).is_empty();
        let mut inputs = vec![Input::Executed { hash, post }];
        inputs.extend(more.then_some(Input::Work));
        inputs
    }

    /// The host loop.
    fn drive(&mut self, now: Millis, inputs: Vec<Input>, dice: Dice<'_>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut inputs = VecDeque::from(inputs);
        while let Some(input) = inputs.pop_front() {
            let Some(running) = &mut self.running else { return outcome };
            let mut effects = Vec::new();
            if let Some(recorded) = &mut self.recorded {
                recorded.push((now, input.clone()));
            }
            running.engine.step(now, input, &mut effects);
            for effect in effects {
                if dice() {
                    outcome.crashed = true;
                    return outcome;
                }
                self.carry_out(effect, &mut inputs, &mut outcome);
            }
            self.look(&mut outcome);
        }
        outcome
    }

    fn carry_out(&mut self, effect: Effect, inputs: &mut VecDeque<Input>, outcome: &mut Outcome) {
        let Some(running) = &mut self.running else { return };
        match effect {
            Effect::Append(record) => outcome.stuck |= running.wal.append(&record).is_err(),
            Effect::Rewrite(record) => outcome.stuck |= running.wal.replace(&[record]).is_err(),
            Effect::Sign { intent, to } => self.sign(&intent, to, inputs, outcome),
            Effect::Build(context) => match self.ledger.build(&context) {
                Some(body) => {
                    inputs.push_back(Input::Built { parent: context.parent_hash, epoch: context.epoch, body })
                }
                None => outcome.stuck = true,
            },
            Effect::Execute { hash, block, .. } => {
                running.executing.push((hash, block));
                outcome.execute.push(hash);
            }
            Effect::Relay { .. } => {
                // Everybody is everybody's neighbour here.
            }
            Effect::Broadcast(message) => outcome.packets.push((None, Packet::from(message))),
            Effect::Fetch { block, above, from } => {
                outcome.requests.push((from, Packet::Fetch { block, above }));
            }
            Effect::Reached { finality: Finality::Settled, hash, header } => {
                let blocks = self.ledger.settle(&hash);
                outcome.settled.push((hash, header.height, blocks));
            }
            Effect::Reached { hash, header, .. } => outcome.finals.push((hash, header.height)),
            Effect::WakeAt(at) => outcome.wake_at = Some(at),
            Effect::Report(evidence) => outcome.reported.push(evidence),
            Effect::Penalize { peer, fault } => outcome.blamed.push((peer, fault)),
            Effect::Accuse { validator, .. } => outcome.accused.push(validator),
        }
    }

    fn sign(
        &mut self,
        intent: &Intent,
        to: Option<Address>,
        inputs: &mut VecDeque<Input>,
        outcome: &mut Outcome,
    ) {
        let Some(running) = &mut self.running else { return };
        let Ok(signed) = running.signer.sign(intent) else {
            outcome.stuck |= !self.has_lost_log;
            return;
        };
        outcome.signed.push(signed.clone());
        let Some(running) = &self.running else { return };
        match signed {
            Signed::Message(message) => {
                if to != Some(self.key.address()) {
                    let to = to.and_then(|to| self.places.get(&to)).copied();
                    outcome.packets.push((to, Packet::from(message.clone())));
                }
                inputs.extend(self.check_message(running, Peer::Own, message));
            }
            Signed::Proposal(proposal) => {
                let block = Arc::new(proposal.block);
                outcome.packets.push((None, Packet::Block(block.clone())));
                for vote in proposal.votes.as_slice() {
                    outcome.packets.push((None, Packet::from(Message::Vote(vote.clone()))));
                }
                inputs.extend(self.check_block(running, Peer::Own, &block));
            }
        }
    }

    /// What must never fall has not fallen, and the lock descends from the settled block.
    fn look(&mut self, outcome: &mut Outcome) {
        let Some(running) = &mut self.running else { return };
        let engine = &running.engine;
        let ((settled, settled_height), (lock, _)) = (engine.settled(), engine.certified());
        let now = (settled_height, engine.lock_rank(), engine.epoch());
        let final_height = engine.final_checkpoint().map_or(0, |(_, height)| height);
        outcome.fell |= final_height < running.final_height;
        running.final_height = final_height;
        let before = running.seen;
        outcome.fell |= now.0 < before.0 || now.1 < before.1 || now.2 < before.2;
        let branch = engine.unsettled(&lock);
        let below = branch.first().map_or(lock, |block| block.header.parent);
        outcome.fell |= below != settled;
        if now.0 > before.0
            && let Some((child, certificate)) = engine.settled_by()
        {
            let newest = self.ledger.settled.last().map(|(_, block, _)| block.clone());
            outcome.witness = newest.map(|block| Witness { block, child, certificate });
        }
        running.seen = now;
    }
}

impl Outcome {
    fn extend(&mut self, next: Self) {
        self.packets.extend(next.packets);
        self.requests.extend(next.requests);
        self.signed.extend(next.signed);
        self.settled.extend(next.settled);
        self.finals.extend(next.finals);
        self.execute.extend(next.execute);
        self.wake_at = next.wake_at.or(self.wake_at);
        self.crashed |= next.crashed;
        self.fell |= next.fell;
        self.stuck |= next.stuck;
        self.blamed.extend(next.blamed);
        self.accused.extend(next.accused);
        self.reported.extend(next.reported);
        self.witness = next.witness.or(self.witness.take());
    }
}
