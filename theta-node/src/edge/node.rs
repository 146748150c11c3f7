//! An edge node: worker and till of one key, with what they need.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use theta_core::{
    hash::{Address, Hash, keccak_parts},
    sign::SecretKey,
};
use theta_edge::{
    chain::{Chain, ChainError, Fund},
    executor::{Attempt, Executor, Output, RunError},
    identity::NodeId,
    payment::{till::Till, watch::REPEAT_MS},
    provider::{self, Ask, Provider},
    worker,
};
use theta_sdk::{client::Client, wallet::minimum_fee};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinHandle, JoinSet},
};

use super::{
    CLOSING, EVENTS, disk,
    wire::{Directory, Wire},
};
use crate::{clock::now_millis, http::Listener};

/// Receipts that are being looked at at once; more are lost, and come again.
const MAX_RECEIPTS: usize = 64;

/// What an edge node is made of.
pub struct EdgeConfig {
    /// Chain id as text.
    pub chain: String,
    /// The node's key, which is also where it is paid.
    pub key: SecretKey,
    /// Folder of its till and blobs.
    pub folder: PathBuf,
    /// Its access to the chain.
    pub client: Client,
    /// Where other nodes are found.
    pub directory: Directory,
    /// Who runs tasks.
    pub engine: Arc<dyn Executor>,
    /// Its port on the loopback address, 0 for a free one.
    pub port: u16,
    /// Settles every claim above the fee at once; else those worth a hundred fees.
    pub settle_at_once: bool,
}

impl std::fmt::Debug for EdgeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeConfig").field("folder", &self.folder).finish_non_exhaustive()
    }
}

enum NodeEvent {
    Envelope(Vec<u8>),
    Ran {
        task: Hash,
        result: Result<Output, RunError>,
    },
    LookedUp {
        ask: Box<Ask>,
        seen: Result<(Option<Fund>, u64), ChainError>,
    },
    Seen {
        height: u64,
        funds: Vec<Fund>,
    },
    /// A payer has signed away more than its fund holds; the node's next sequence is known.
    Punish {
        payer: Address,
        reserve_sequence: u64,
        sequence: u64,
    },
    /// Others may have missed what was said.
    Repeat,
    /// A task ended that has nothing to tell.
    Nothing,
}

/// A running edge node. Dropping it stops it.
#[derive(Debug)]
pub struct EdgeNode {
    /// Its name, and where it is paid.
    pub id: NodeId,
    /// Where it listens.
    pub listener: Listener,
    task: JoinHandle<()>,
}

impl Drop for EdgeNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct EdgeLoop {
    id: NodeId,
    provider: Provider,
    wire: Wire,
    client: Client,
    engine: Arc<dyn Executor>,
    tasks: JoinSet<NodeEvent>,
    running: BTreeMap<Hash, AbortHandle>,
    /// Places for receipts that are being looked at.
    receipts: Arc<Semaphore>,
    /// The look at the chain, or the claims that follow from it.
    closing: Option<AbortHandle>,
    /// Funds whose payers were handed in as overspenders.
    punished: BTreeSet<(Address, u64)>,
    settle_at_once: bool,
}

impl EdgeNode {
    /// Opens the node's folder and starts it.
    pub async fn start(config: EdgeConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.folder).with_context(|| config.folder.display().to_string())?;
        // Binds results to this node; whoever knew it could copy another node's claim.
        let secret = keccak_parts(&[b"theta edge results", &*config.key.to_bytes()]).0;
        let key: Arc<SecretKey> = Arc::new(config.key);
        let id = NodeId(key.address());
        let till = Till::open(&config.chain, key.clone(), disk(&config.folder, "till.journal")?)?;
        let provider = Provider::new(&config.chain, key, worker::Settings::default(), secret, till);
        let wire = Wire::new(&config.folder, config.directory)?;
        let (events, queue) = mpsc::channel(EVENTS);
        let listener = wire.serve(config.port, events, NodeEvent::Envelope).await?;
        wire.directory.add(id, format!("http://{}", listener.address));
        let edge = EdgeLoop {
            id,
            provider,
            wire,
            client: config.client,
            engine: config.engine,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            receipts: Arc::new(Semaphore::new(MAX_RECEIPTS)),
            closing: None,
            punished: BTreeSet::new(),
            settle_at_once: config.settle_at_once,
        };
        let task = tokio::spawn(async move {
            if let Err(error) = edge.run(queue).await {
                tracing::error!(?id, "an edge node stops: {error:#}");
            }
        });
        Ok(Self { id, listener, task })
    }
}

impl EdgeLoop {
    async fn run(mut self, mut queue: mpsc::Receiver<NodeEvent>) -> Result<()> {
        let mut closing = tokio::time::interval(CLOSING);
        let mut repeating = tokio::time::interval(Duration::from_millis(REPEAT_MS));
        repeating.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                _ = repeating.tick() => NodeEvent::Repeat,
                event = queue.recv() => match event {
                    None => return Ok(()),
                    Some(event) => event,
                },
                Some(done) = self.tasks.join_next() => match done {
                    Ok(event) => event,
                    Err(error) => match self.running.iter().find(|(_, run)| run.id() == error.id()) {
                        Some((task, _)) => {
                            let result = Err(RunError::Lost("its engine panicked".to_owned()));
                            NodeEvent::Ran { task: *task, result }
                        }
                        // It was stopped.
                        None => NodeEvent::Nothing,
                    },
                },
                _ = closing.tick() => {
                    self.look_around();
                    NodeEvent::Nothing
                }
            };
            let todo = self.take(event)?;
            self.carry_out(todo)?;
        }
    }

    fn take(&mut self, event: NodeEvent) -> Result<Vec<provider::Todo>> {
        let now = now_millis();
        match event {
            NodeEvent::Envelope(bytes) => own_fault(self.provider.receive(now, &bytes)),
            NodeEvent::Ran { task, result } => {
                self.running.remove(&task);
                own_fault(self.provider.ran(now, task, result))
            }
            NodeEvent::LookedUp { ask, seen: Ok((fund, height)) } => {
                own_fault(self.provider.looked_up(now, *ask, fund.as_ref(), height))
            }
            NodeEvent::LookedUp { ask, seen: Err(error) } => {
                tracing::warn!(%error, "a fund could not be looked up");
                match *ask {
                    // Nothing is promised without an answer, and the place is free for another offer.
                    ask @ Ask::Vet { .. } => own_fault(self.provider.looked_up(now, ask, None, 0)),
                    // The requester sends the payment again.
                    _ => Ok(Vec::new()),
                }
            }
            NodeEvent::Seen { height, funds } => {
                self.settle(height, &funds)?;
                Ok(Vec::new())
            }
            NodeEvent::Repeat => own_fault(self.provider.repeat(now)),
            NodeEvent::Punish { payer, reserve_sequence, sequence } => {
                self.punish(payer, reserve_sequence, sequence)?;
                Ok(Vec::new())
            }
            NodeEvent::Nothing => Ok(Vec::new()),
        }
    }

    /// Hands the proof against an overspender in. Where receipts alone prove nothing yet, the next one that is shown may.
    fn punish(&mut self, payer: Address, reserve_sequence: u64, sequence: u64) -> Result<()> {
        let Some(raw) = self.provider.slash(payer, reserve_sequence, &[], sequence)? else { return Ok(()) };
        self.punished.insert((payer, reserve_sequence));
        let client = self.client.clone();
        self.tasks.spawn(async move {
            match client.submit(raw.bytes).await {
                Ok(hash) => tracing::warn!(%payer, %hash, "an overspender was handed in"),
                Err(error) => {
                    tracing::warn!(%payer, %error, "the proof against an overspender was not taken")
                }
            }
            NodeEvent::Nothing
        });
        Ok(())
    }

    fn carry_out(&mut self, todo: Vec<provider::Todo>) -> Result<()> {
        for next in todo {
            match next {
                provider::Todo::Send { to, envelope } => self.wire.send(to, envelope),
                provider::Todo::LookUp(ask) => self.look_up(ask),
                provider::Todo::Run { requester, task } => {
                    let (wire, engine, id) = (self.wire.clone(), self.engine.clone(), task.id());
                    let run = self.tasks.spawn(async move {
                        let result = if wire.fetch(requester, &task.work.blobs()).await {
                            engine.run(&task, Attempt { blobs: Arc::new(wire.blobs.clone()) }).await
                        } else {
                            Err(RunError::Lost("its inputs could not be fetched".to_owned()))
                        };
                        NodeEvent::Ran { task: id, result }
                    });
                    self.running.insert(id, run);
                }
                provider::Todo::Stop { task } => {
                    // Dropping the run kills its child process.
                    if let Some(run) = self.running.remove(&task) {
                        run.abort();
                    }
                }
                provider::Todo::Tell(message) => {
                    // Any of them may be paid from the same fund; who is not passes it over.
                    for to in self.wire.directory.others(self.id) {
                        self.wire.send(to, self.provider.envelope(to, &message)?);
                    }
                }
                provider::Todo::Overspent { payer, reserve_sequence } => {
                    if self.punished.contains(&(payer, reserve_sequence)) {
                        continue;
                    }
                    let (client, me) = (self.client.clone(), self.id.0);
                    self.tasks.spawn(async move {
                        // A node that has no account yet begins with the first sequence.
                        let account = client.account(me).await.ok().flatten();
                        let sequence = account.map_or(0, |account| account.sequence.0) + 1;
                        NodeEvent::Punish { payer, reserve_sequence, sequence }
                    });
                }
                other => bail!("the edge node asks for what this host cannot do: {other:?}"),
            }
        }
        Ok(())
    }

    fn look_up(&mut self, ask: Ask) {
        let place = match &ask {
            // Its place at the worker bounds it.
            Ask::Vet { .. } => None,
            _ => match self.receipts.clone().try_acquire_owned() {
                Ok(place) => Some(place),
                Err(_) => {
                    tracing::debug!("a receipt was lost: too many are being looked at");
                    return;
                }
            },
        };
        let (client, (payer, sequence)) = (self.client.clone(), ask.fund());
        self.tasks.spawn(async move {
            let _place = place;
            let seen = async { Ok((client.fund(payer, sequence).await?, client.height().await?)) };
            NodeEvent::LookedUp { seen: seen.await, ask: Box::new(ask) }
        });
    }

    /// Looks at the funds that owe something, unless the last look or its claims are still on their way.
    fn look_around(&mut self) {
        if self.closing.as_ref().is_some_and(|closing| !closing.is_finished()) {
            return;
        }
        let owing = self.provider.till().book().filter(|(_, _, claimed, _)| !claimed.is_zero());
        let owing: Vec<_> = owing.map(|(payer, sequence, ..)| (payer, sequence)).collect();
        let client = self.client.clone();
        self.closing = Some(self.tasks.spawn(async move {
            // The height comes first: what settled by then is seen in every fund.
            let Ok(height) = client.height().await else { return NodeEvent::Nothing };
            let mut funds = Vec::new();
            for (payer, sequence) in owing {
                // One that cannot be seen now is left for the next look.
                funds.extend(client.fund(payer, sequence).await.ok().flatten());
            }
            NodeEvent::Seen { height, funds }
        }));
    }

    fn settle(&mut self, height: u64, funds: &[Fund]) -> Result<()> {
        for fund in funds {
            self.provider.observe(fund)?;
        }
        self.provider.forget_ended(height)?;
        let fee = minimum_fee();
        let mut claims = Vec::new();
        for due in self.provider.due(height, fee, self.settle_at_once) {
            let of_due =
                |fund: &&Fund| (fund.payer, fund.reserve_sequence) == (due.payer, due.reserve_sequence);
            let Some(fund) = funds.iter().find(of_due) else { continue };
            match self.provider.settle(&due, fund, fee, height) {
                Ok(raw) => claims.push(raw.bytes),
                Err(error) => tracing::warn!(%error, "a claim cannot be settled"),
            }
        }
        if claims.is_empty() {
            return Ok(());
        }
        let client = self.client.clone();
        self.closing = Some(self.tasks.spawn(async move {
            for claim in claims {
                // Not waited for: the till looks for it on the chain, and hands it in again if it is not there.
                if let Err(error) = client.submit(claim).await {
                    tracing::warn!(%error, "a claim was not taken; it is tried again");
                }
            }
            NodeEvent::Nothing
        }));
        Ok(())
    }
}

/// A peer's fault is noted and passed over; one's own ends the node.
fn own_fault(todo: Result<Vec<provider::Todo>, provider::ProviderError>) -> Result<Vec<provider::Todo>> {
    match todo {
        Ok(todo) => Ok(todo),
        Err(error) if error.is_own_fault() => Err(error.into()),
        Err(error) => {
            tracing::warn!("a peer's envelope was not taken: {error}");
            Ok(Vec::new())
        }
    }
}
