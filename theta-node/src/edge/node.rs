//! An edge node: worker and till of one key, with what they need.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use theta_core::{
    amount::TFuelWei,
    hash::{Address, Hash, keccak_parts},
    sign::SecretKey,
};
use theta_edge::{
    Millis,
    blob::{BlobHash, BlobRef, BlobStore as _},
    chain::{Chain, ChainError, Fund},
    content::manifest::Manifest,
    executor::{Attempt, Engines, Frames, Output, RunError},
    identity::NodeId,
    message::{Envelope, Message},
    payment::{PayError, till::Till, watch::REPEAT_MS},
    placement::HEARTBEAT_MS,
    provider::{self, Ask, Provider, ProviderError},
    worker,
};
use theta_ledger::state::account::SplitRule;
use theta_sdk::{client::Client, wallet::minimum_fee};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinHandle, JoinSet},
};

use super::{
    CLOSING, EVENTS,
    content::{
        Asked, Content, ContentConfig, FundSize, Peers, Relay,
        hls::{self, Source},
    },
    disk, lock,
    nodes::MAX_NODES,
    presence::Presence,
    rules::Rules,
    wire::{Directory, Wire},
};
use crate::{
    clock::now_millis,
    connections::{Listener, listen},
    http::{local_only, own_host},
};

mod status;

/// Receipts that are being looked at at once; more are lost, and come again.
const MAX_RECEIPTS: usize = 64;
/// Bytes of blobs above which a node deletes the oldest, but none that may still be asked for.
const MAX_STORED: u64 = 8 << 30;
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often it says that it is here: a heartbeat, and a fifth less, so that a late one is none that is missing.
const ANNOUNCE_MS: u64 = HEARTBEAT_MS * 4 / 5;
/// How often it looks for a gateway every second before it goes on at that pace.
const QUICK: u32 = 30;
/// Blocks that a fund for content lives.
const FUND_BLOCKS: u64 = 20_000;

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
    /// Where the chain answers `theta.*` calls, for pages.
    pub rpc: String,
    /// Where other nodes are found.
    pub directory: Directory,
    /// Who runs tasks.
    pub engines: Engines,
    /// Its port on the loopback address, 0 for a free one.
    pub port: u16,
    /// Settles every claim above the fee at once; else those worth a hundred fees.
    pub settle_at_once: bool,
    /// What it offers, and at which price.
    pub offer: worker::Settings,
    /// Requesters to which it offers itself, by the URL where they answer `/edge`.
    pub gateways: Vec<String>,
    /// How content is given and fetched.
    pub content: ContentTerms,
}

/// On which terms a node gives content to others and fetches it from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentTerms {
    /// What it asks for a chunk of 256 KiB.
    pub price: TFuelWei,
    /// The most that it pays for one.
    pub most: TFuelWei,
    /// What each of its reserve funds for content holds.
    pub fund: TFuelWei,
}

impl Default for ContentTerms {
    /// 0.0001 TFUEL a chunk, ten times that at most, funds of 20 TFUEL, for which twice that and two fees have to be there.
    fn default() -> Self {
        Self {
            price: TFuelWei::wei(100_000_000_000_000_u64),
            most: TFuelWei::wei(1_000_000_000_000_000_u64),
            fund: TFuelWei::whole(20),
        }
    }
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
        seen: Result<(Option<Fund>, u64, Rule), ChainError>,
    },
    Seen {
        height: u64,
        funds: Vec<(Fund, Rule)>,
    },
    /// Time to say that it is here: the height, and gateways that have answered who they are.
    Announce {
        height: Option<u64>,
        found: Vec<(String, NodeId)>,
    },
    /// A piece of the text that a task makes.
    Frame {
        task: Hash,
        at: u64,
        text: String,
    },
    /// Another edge node asks for content.
    Asked(Box<Asked>),
    /// A content is here, all of it.
    Held(BlobHash),
    /// Where other edge nodes are.
    Found(Vec<libp2p::Multiaddr>),
    /// Somebody looks.
    Look(Box<dyn FnOnce(&EdgeLoop) + Send>),
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

/// The split rule of a resource, if there is one.
type Rule = Option<SplitRule>;

/// A running edge node. Dropping it stops it.
#[derive(Debug)]
pub struct EdgeNode {
    /// Its name, and where it is paid.
    pub id: NodeId,
    /// Where it listens.
    pub listener: Listener,
    events: mpsc::Sender<NodeEvent>,
    task: JoinHandle<()>,
    _lock: std::fs::File,
}

impl Drop for EdgeNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct EdgeLoop {
    id: NodeId,
    chain: String,
    /// Where its chain node answers, for pages.
    rpc: String,
    provider: Provider,
    /// Its own, for pieces of texts.
    events: mpsc::Sender<NodeEvent>,
    wire: Wire,
    client: Client,
    engines: Engines,
    tasks: JoinSet<NodeEvent>,
    running: BTreeMap<Hash, AbortHandle>,
    /// Places for receipts that are being looked at.
    receipts: Arc<Semaphore>,
    /// The look at the chain, or the claims that follow from it.
    closing: Option<AbortHandle>,
    /// Funds whose payers were handed in as overspenders.
    punished: BTreeSet<(Address, u64)>,
    rules: Rules,
    settle_at_once: bool,
    presence: Presence,
    peers: Peers,
    relay: Relay,
    content: Content,
    /// Contents that are here whole, since the node began.
    held: BTreeSet<BlobHash>,
    /// The look for gateways.
    announcing: Option<AbortHandle>,
}

impl EdgeNode {
    /// Opens the node's folder and starts it.
    pub async fn start(config: EdgeConfig) -> Result<Self> {
        std::fs::create_dir_all(&config.folder).with_context(|| config.folder.display().to_string())?;
        let lock = lock(&config.folder)?;
        // Binds results to this node; whoever knew it could copy another node's claim.
        let secret = keccak_parts(&[b"theta edge results", &*config.key.to_bytes()]).0;
        let key: Arc<SecretKey> = Arc::new(config.key);
        let id = NodeId(key.address());
        let till = Till::open(&config.chain, key.clone(), disk(&config.folder, "till.journal")?)?;
        let terms = worker::Settings { kinds: config.engines.kinds(), ..config.offer };
        let offer = (terms.slots as u32, memory(&terms), config.engines.digests());
        let mut models = config.engines.models();
        models.iter_mut().for_each(|model| model.price = terms.token_price);
        let provider = Provider::new(&config.chain, key.clone(), terms, secret, till);
        let wire = Wire::new(&config.folder, config.directory)?;
        let (events, queue) = mpsc::channel(EVENTS);
        let asked = events.clone();
        let peers = Peers::open(&config.chain, &key, move |question| {
            // What does not fit is not answered; whoever asked asks another node.
            let _ = asked.try_send(NodeEvent::Asked(Box::new(question)));
        })
        .await?;
        let content = Content::open(ContentConfig {
            chain: &config.chain,
            key: key.clone(),
            client: config.client.clone(),
            folder: &config.folder,
            wire: wire.clone(),
            peers: peers.clone(),
            origins: config.gateways.iter().map(|url| url.trim_end_matches('/').to_owned()).collect(),
            fund: FundSize { tfuel: config.content.fund, blocks: FUND_BLOCKS },
            most: config.content.most,
        })?;
        let routes = status::routes(events.clone(), content.clone(), peers.clone());
        let routes = wire.routes(id, events.clone(), NodeEvent::Envelope).merge(routes);
        // Players are pages of any server; all else is for this machine's own.
        let open = hls::routes(Source::Fetched(content.clone()));
        let listener = listen(config.port, own_host(local_only(routes).merge(open))).await?;
        wire.directory.add(id, format!("http://{}", listener.address));
        let presence =
            Presence::new(key, config.chain.clone(), offer, models, listener.address, config.gateways);
        let edge = EdgeLoop {
            id,
            chain: config.chain.clone(),
            rpc: config.rpc,
            provider,
            events: events.clone(),
            wire,
            client: config.client,
            engines: config.engines,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            receipts: Arc::new(Semaphore::new(MAX_RECEIPTS)),
            closing: None,
            punished: BTreeSet::new(),
            rules: Rules::default(),
            settle_at_once: config.settle_at_once,
            presence,
            peers,
            relay: Relay::new(config.content.price),
            content,
            held: BTreeSet::new(),
            announcing: None,
        };
        let task = tokio::spawn(async move {
            if let Err(error) = edge.run(queue).await {
                tracing::error!(?id, "an edge node stops: {error:#}");
            }
        });
        Ok(Self { id, listener, events, task, _lock: lock })
    }

    /// Waits until it stops because it can no longer keep what it promised.
    pub async fn failed(&self) {
        self.events.closed().await;
    }

    /// URL of its listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.listener.address)
    }
}

/// Memory that all its slots may take together, in MiB.
fn memory(offer: &worker::Settings) -> u32 {
    let slots = u32::try_from(offer.slots).unwrap_or(u32::MAX);
    offer.limits.memory_mib.saturating_mul(slots)
}

impl EdgeLoop {
    async fn run(mut self, mut queue: mpsc::Receiver<NodeEvent>) -> Result<()> {
        let mut closing = tokio::time::interval(CLOSING);
        let mut repeating = tokio::time::interval(Duration::from_millis(REPEAT_MS));
        repeating.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut announce = tokio::time::interval(Duration::from_millis(ANNOUNCE_MS));
        announce.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut quick = 0;
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
                    // Until every gateway has answered it is asked for more often.
                    if self.presence.gateways.values().any(Option::is_none) && quick < QUICK {
                        quick += 1;
                        self.look_for_gateways();
                    }
                    NodeEvent::Nothing
                }
                _ = announce.tick() => {
                    quick = 0;
                    self.look_for_gateways();
                    let blobs = self.wire.blobs.clone();
                    self.tasks.spawn_blocking(move || {
                        blobs.prune(MAX_STORED, KEPT);
                        NodeEvent::Nothing
                    });
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
            NodeEvent::Envelope(bytes) => self.envelope(now, &bytes),
            NodeEvent::Ran { task, result } => {
                self.running.remove(&task);
                own_fault(self.provider.ran(now, task, result))
            }
            NodeEvent::Frame { task, at, text } => own_fault(self.provider.frame(now, task, at, text)),
            NodeEvent::LookedUp { ask, seen: Ok((fund, height, rule)) } => {
                if let Some(resource) = resource(&ask, fund.as_ref()) {
                    self.provider.till_mut().set_rule(&resource, rule);
                }
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
            NodeEvent::Announce { height, found } => {
                for (url, id) in found {
                    self.wire.directory.add(id, url.clone());
                    self.presence.gateways.insert(url, Some(id));
                }
                // Without the chain nothing can be promised.
                if let Some(height) = height {
                    self.announce(now, height)?;
                }
                Ok(Vec::new())
            }
            NodeEvent::Asked(asked) => {
                let (peers, blobs) = (&self.peers, &self.wire.blobs);
                let envelope = self.relay.take(now, self.provider.till_mut(), (peers, blobs), *asked);
                envelope.map_or(Ok(Vec::new()), |bytes| self.envelope(now, &bytes))
            }
            NodeEvent::Held(manifest) => {
                self.content.provide(manifest);
                self.held.insert(manifest);
                Ok(Vec::new())
            }
            NodeEvent::Found(addresses) => {
                addresses.into_iter().for_each(|address| self.peers.dial(address));
                Ok(Vec::new())
            }
            NodeEvent::Look(look) => {
                look(self);
                Ok(Vec::new())
            }
            NodeEvent::Nothing => Ok(Vec::new()),
        }
    }

    fn envelope(&mut self, now: Millis, bytes: &[u8]) -> Result<Vec<provider::Todo>> {
        match Envelope::open(&self.chain, self.id, bytes) {
            Ok((from, Message::Peers(peers))) => {
                let mut gateways = self.presence.gateways.values().flatten();
                if gateways.any(|gateway| *gateway == from) {
                    for (node, address) in peers.into_iter().take(MAX_NODES) {
                        let known = self.presence.gateways.values().flatten().any(|known| *known == node);
                        if address.ip().is_loopback() && node != self.id && !known {
                            let url = format!("http://{address}");
                            self.wire.directory.add(node, url.clone());
                            self.get_acquainted(node, url);
                        }
                    }
                }
                Ok(Vec::new())
            }
            Ok((from, Message::Hold(manifest))) => {
                let mut gateways = self.presence.gateways.values().flatten();
                if gateways.any(|gateway| *gateway == from) {
                    self.hold(from, manifest);
                }
                Ok(Vec::new())
            }
            Ok((from, Message::Acknowledged { reserve_sequence, payment_sequence, total })) => {
                self.content.acknowledged(from.0, reserve_sequence, (payment_sequence, total));
                Ok(Vec::new())
            }
            Ok((from, message)) => own_fault(self.provider.take(now, from, message)),
            Err(error) => own_fault(Err(error.into())),
        }
    }

    /// Asks a node where other edge nodes reach it, unless it is connected.
    fn get_acquainted(&mut self, node: NodeId, url: String) {
        if self.peers.knows(&node) {
            return;
        }
        let wire = self.wire.clone();
        self.tasks.spawn(async move {
            match wire.peers_of(&url).await {
                Ok(addresses) => NodeEvent::Found(addresses),
                Err(error) => {
                    tracing::debug!(%url, "an edge node does not say where it is: {error:#}");
                    NodeEvent::Nothing
                }
            }
        });
    }

    /// Fetches all of a content from the gateway that published it.
    fn hold(&mut self, from: NodeId, manifest: BlobRef) {
        let wire = self.wire.clone();
        self.tasks.spawn(async move {
            let all = async {
                anyhow::ensure!(wire.fetch(from, &[manifest]).await, "its manifest did not come");
                let held = Manifest::parse(&wire.blobs.read_all(&manifest).await?)?;
                for blob in held.blobs() {
                    anyhow::ensure!(wire.fetch(from, &[blob]).await, "blob {} did not come", blob.hash.0);
                }
                Ok(())
            };
            match all.await {
                Ok(()) => NodeEvent::Held(manifest.hash),
                Err(error) => {
                    tracing::warn!(manifest = %manifest.hash.0, "a content cannot be held: {error:#}");
                    NodeEvent::Nothing
                }
            }
        });
    }

    /// Asks gateways that have not answered yet who they are, and the chain for its height.
    fn look_for_gateways(&mut self) {
        let busy = self.announcing.as_ref().is_some_and(|looking| !looking.is_finished());
        if busy || self.presence.gateways.is_empty() {
            return;
        }
        let (client, wire) = (self.client.clone(), self.wire.clone());
        let urls: Vec<String> = self.presence.gateways.keys().cloned().collect();
        self.announcing = Some(self.tasks.spawn(async move {
            let mut found = Vec::new();
            for url in urls {
                match wire.who(&url).await {
                    Ok(id) => found.push((url, id)),
                    Err(error) => tracing::debug!(%url, "a gateway does not answer: {error:#}"),
                }
            }
            NodeEvent::Announce { height: client.height().await.ok(), found }
        }));
    }

    fn announce(&mut self, now: Millis, height: u64) -> Result<()> {
        let busy = u32::try_from(self.provider.worker().busy()).unwrap_or(u32::MAX);
        let message = self.presence.here(now, height, busy)?;
        for to in self.presence.gateways.values().flatten() {
            self.wire.send(*to, self.provider.envelope(*to, &message)?);
        }
        Ok(())
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
                provider::Todo::Send { to, envelope } => {
                    if let Some(envelope) = self.peers.tell_node(&to, envelope) {
                        self.wire.send(to, envelope);
                    }
                }
                provider::Todo::LookUp(ask) => self.look_up(ask),
                provider::Todo::Run { requester, task } => {
                    let (wire, engines, id) = (self.wire.clone(), self.engines.clone(), task.id());
                    let (events, shown) = (self.events.clone(), AtomicU64::new(0));
                    let frames: Frames = Arc::new(move |text: String| {
                        let at = shown.fetch_add(text.len() as u64, Ordering::Relaxed);
                        // A piece that finds no place is in the result.
                        let _ = events.try_send(NodeEvent::Frame { task: id, at, text });
                    });
                    let run = self.tasks.spawn(async move {
                        let result = if wire.fetch(requester, &task.work.blobs()).await {
                            let blobs = Arc::new(wire.blobs.clone());
                            let tenant = Some(requester.0);
                            let attempt = Attempt { blobs, frames: Some(frames), tenant };
                            match engines.get(task.work.kind()) {
                                Ok(engine) => engine.run(&task, attempt).await,
                                Err(error) => Err(error),
                            }
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
        let (client, rules, (payer, sequence)) = (self.client.clone(), self.rules.clone(), ask.fund());
        self.tasks.spawn(async move {
            let _place = place;
            let seen = async {
                let fund = client.fund(payer, sequence).await?;
                let height = client.height().await?;
                let rule = match resource(&ask, fund.as_ref()) {
                    Some(resource) => rules.get(&client, &resource, height).await?,
                    None => None,
                };
                Ok((fund, height, rule))
            };
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
        let (client, rules) = (self.client.clone(), self.rules.clone());
        self.closing = Some(self.tasks.spawn(async move {
            // The height comes first: what settled by then is seen in every fund.
            let Ok(height) = client.height().await else { return NodeEvent::Nothing };
            let mut funds = Vec::new();
            for (payer, sequence) in owing {
                // One that cannot be seen now is left for the next look.
                let Some(fund) = client.fund(payer, sequence).await.ok().flatten() else { continue };
                let rule = match fund.resource_ids.first() {
                    Some(resource) => rules.get(&client, resource, height).await,
                    None => Ok(None),
                };
                funds.extend(rule.ok().map(|rule| (fund, rule)));
            }
            NodeEvent::Seen { height, funds }
        }));
    }

    fn settle(&mut self, height: u64, funds: &[(Fund, Rule)]) -> Result<()> {
        for (fund, rule) in funds {
            if let Some(resource) = fund.resource_ids.first() {
                self.provider.till_mut().set_rule(resource, rule.clone());
            }
            self.provider.observe(fund)?;
        }
        self.provider.forget_ended(height)?;
        let fee = minimum_fee();
        let mut claims = Vec::new();
        for due in self.provider.due(height, fee, self.settle_at_once) {
            let of_due =
                |fund: &&Fund| (fund.payer, fund.reserve_sequence) == (due.payer, due.reserve_sequence);
            let Some(fund) = funds.iter().map(|(fund, _)| fund).find(of_due) else { continue };
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

/// The resource that a look-up is about.
fn resource(ask: &Ask, fund: Option<&Fund>) -> Option<String> {
    match ask {
        Ask::Vet { pool, .. } => Some(pool.resource_id.clone()),
        Ask::Collect { payment, .. } => Some(payment.receipt.resource_id.clone()),
        _ => fund?.resource_ids.first().cloned(),
    }
}

/// A peer's fault is noted and passed over; one's own ends the node.
fn own_fault(todo: Result<Vec<provider::Todo>, provider::ProviderError>) -> Result<Vec<provider::Todo>> {
    match todo {
        Ok(todo) => Ok(todo),
        Err(error) if error.is_own_fault() => Err(error.into()),
        // Receipts overtake each other, and are sent again until the newest is acknowledged.
        Err(ProviderError::Pay(PayError::Stale | PayError::Settling(_) | PayError::Sequence { .. })) => {
            Ok(Vec::new())
        }
        Err(error) => {
            tracing::warn!("a peer's envelope was not taken: {:#}", anyhow::Error::from(error));
            Ok(Vec::new())
        }
    }
}
