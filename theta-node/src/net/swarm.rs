//! The network's task: one loop over what peers do and what the node wants.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, Transport,
    allow_block_list::{self, BlockedPeers},
    connection_limits::{self, ConnectionLimits},
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport, OrTransport},
        upgrade::Version,
    },
    gossipsub::{
        self, IdentTopic, MessageAcceptance, MessageAuthenticity, MessageId, PeerScoreParams,
        PeerScoreThresholds, TopicHash, TopicScoreParams, ValidationMode,
    },
    identify,
    identity::Keypair,
    kad::{self, store::MemoryStore},
    multiaddr::Protocol,
    noise, ping,
    pnet::{PnetConfig, PreSharedKey},
    request_response::{self, ProtocolSupport, ResponseChannel},
    swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp, yamux,
};
use parking_lot::RwLock;
use theta_core::hash::{Hash, keccak_parts};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    Command, Delivery, NetConfig, Packet, Peers, Ticket, Verdict, account,
    codec::Codec,
    wire::{self, Answer, MOST_TRANSACTIONS, Question, Topic},
};

/// Connections: in all, to one peer, and being made.
const CONNECTIONS: u32 = 128;
const CONNECTIONS_PER_PEER: u32 = 2;
const PENDING_CONNECTIONS: u32 = 64;
/// With fewer peers than this others are looked for.
const ENOUGH_PEERS: usize = 16;
/// How often missing peers are dialled, others looked for, and faults forgiven.
const ROUND: Duration = Duration::from_secs(2);
/// Rounds between two looks for other peers.
const LOOK_EVERY: u32 = 15;
/// Faults after which a peer is cut off, and for how long; one is forgiven each round.
const FAULTS: u32 = 20;
const BAN: Duration = Duration::from_secs(10 * 60);
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Questions of others that wait for an answer here, of all peers.
const QUESTIONS: usize = 256;
/// How long transactions are gathered before they are sent, and how many bytes of them at most before one more.
const GATHER: Duration = Duration::from_millis(4);
const GATHER_BYTES: usize = 64 * 1024;
/// How long a connection without use is kept.
const IDLE: Duration = Duration::from_secs(60);

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    blocked: allow_block_list::Behaviour<BlockedPeers>,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
    gossip: gossipsub::Behaviour,
    questions: request_response::Behaviour<Codec<Question, Answer>>,
}

pub(super) struct Network {
    swarm: Swarm<Behaviour>,
    /// What the network's protocols are called; who calls them otherwise is of another chain.
    version: String,
    topics: BTreeMap<TopicHash, Topic>,
    genesis: Hash,
    fixed: Vec<Multiaddr>,
    discover: bool,
    peers: Arc<RwLock<Peers>>,
    deliver: SyncSender<Delivery>,
    waiting: BTreeMap<u64, ResponseChannel<Answer>>,
    next_question: u64,
    faults: BTreeMap<PeerId, u32>,
    banned: BTreeMap<PeerId, Instant>,
    gathered: Gathered,
}

/// Transactions that are about to be sent together.
struct Gathered {
    raw: Vec<Vec<u8>>,
    bytes: usize,
    until: Instant,
}

/// TCP or memory, Noise, Yamux, and one more lock around it for a private network. By features of this crate QUIC beside
/// it, which private networks do without since it has no place for their lock, and addresses with names of hosts.
pub(crate) fn transport(
    identity: &Keypair,
    network_key: Option<[u8; 32]>,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let base = || {
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
        OrTransport::new(MemoryTransport::default(), tcp)
    };
    let noise = noise::Config::new(identity).context("the node's key makes no handshake")?;
    // One more layer, whose key everybody in the network has.
    let transport = match network_key {
        None => {
            let upgrade = base().upgrade(Version::V1Lazy).authenticate(noise);
            upgrade.multiplex(yamux::Config::default()).boxed()
        }
        Some(key) => {
            let locked = PnetConfig::new(PreSharedKey::new(key));
            let upgrade = base().and_then(move |socket, _| locked.handshake(socket)).upgrade(Version::V1Lazy);
            upgrade.authenticate(noise).multiplex(yamux::Config::default()).boxed()
        }
    };
    #[cfg(feature = "quic")]
    let transport = if network_key.is_none() { or_quic(identity, transport) } else { transport };
    #[cfg(feature = "dns")]
    let transport =
        libp2p::dns::tokio::Transport::system(transport).context("the system names no resolver")?.boxed();
    Ok(transport)
}

#[cfg(feature = "quic")]
fn or_quic(identity: &Keypair, other: Boxed<(PeerId, StreamMuxerBox)>) -> Boxed<(PeerId, StreamMuxerBox)> {
    use futures::future::Either;
    let quic = libp2p::quic::tokio::Transport::new(libp2p::quic::Config::new(identity));
    let either = OrTransport::new(quic, other).map(|connected, _| match connected {
        Either::Left((peer, streams)) => (peer, StreamMuxerBox::new(streams)),
        Either::Right(connected) => connected,
    });
    either.boxed()
}

fn gossip(genesis: &Hash) -> Result<gossipsub::Behaviour> {
    let mut config = gossipsub::ConfigBuilder::default();
    // What is signed by its author needs no second signature by whoever passes it on.
    config.validation_mode(ValidationMode::Anonymous).validate_messages();
    config.message_id_fn(|message| {
        let topic = message.topic.as_str();
        let parts = [topic.as_bytes(), &message.data];
        MessageId::new(keccak_parts(&parts).as_slice())
    });
    config.heartbeat_interval(Duration::from_millis(500)).flood_publish(true);
    for topic in Topic::ALL {
        let name = IdentTopic::new(topic.name(genesis)).hash();
        config.max_transmit_size_for_topic(topic.limit(), name);
    }
    config.max_transmit_size(Topic::Blocks.limit());
    let config = config.build().map_err(|error| anyhow!("gossip: {error}"))?;
    let mut gossip = gossipsub::Behaviour::new(MessageAuthenticity::Anonymous, config)
        .map_err(|error| anyhow!("gossip: {error}"))?;
    let mut score = PeerScoreParams { app_specific_weight: 1.0, ..PeerScoreParams::default() };
    // Test networks share one address.
    score.ip_colocation_factor_whitelist.extend([
        std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
    ]);
    for topic in Topic::ALL {
        // Only what is wrong costs standing: a quiet topic is nobody's fault.
        let params = TopicScoreParams {
            topic_weight: 1.0,
            mesh_message_deliveries_weight: 0.0,
            mesh_failure_penalty_weight: 0.0,
            invalid_message_deliveries_weight: -10.0,
            invalid_message_deliveries_decay: 0.97,
            ..TopicScoreParams::default()
        };
        score.topics.insert(IdentTopic::new(topic.name(genesis)).hash(), params);
    }
    gossip
        .with_peer_score(score, PeerScoreThresholds::default())
        .map_err(|error| anyhow!("gossip: {error}"))?;
    for topic in Topic::ALL {
        gossip.subscribe(&IdentTopic::new(topic.name(genesis))).context("gossip")?;
    }
    Ok(gossip)
}

impl Network {
    pub(super) fn new(
        config: &NetConfig,
        identity: Keypair,
        peers: Arc<RwLock<Peers>>,
        deliver: SyncSender<Delivery>,
    ) -> Result<Self> {
        let id = identity.public().to_peer_id();
        let genesis = config.genesis;
        let version = format!("/theta/{genesis}/1");
        let protocol = |name: &str| StreamProtocol::try_from_owned(format!("/theta/{genesis}/{name}/1"));
        let limits = ConnectionLimits::default()
            .with_max_established(Some(CONNECTIONS))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
            .with_max_pending_incoming(Some(PENDING_CONNECTIONS))
            .with_max_pending_outgoing(Some(PENDING_CONNECTIONS));
        let mut kad = kad::Behaviour::with_config(
            id,
            MemoryStore::new(id),
            kad::Config::new(protocol("peers").context("a protocol's name")?),
        );
        kad.set_mode(Some(kad::Mode::Server));
        let questions = request_response::Config::default()
            .with_request_timeout(ANSWER_TIMEOUT)
            .with_max_concurrent_streams(QUESTIONS);
        let behaviour = Behaviour {
            limits: connection_limits::Behaviour::new(limits),
            blocked: allow_block_list::Behaviour::default(),
            ping: ping::Behaviour::default(),
            identify: identify::Behaviour::new(
                identify::Config::new(version.clone(), identity.public())
                    .with_agent_version(format!("theta-rust/{}", env!("CARGO_PKG_VERSION"))),
            ),
            kad,
            gossip: gossip(&genesis)?,
            questions: request_response::Behaviour::new(
                [(protocol("ask").context("a protocol's name")?, ProtocolSupport::Full)],
                questions,
            ),
        };
        let transport = transport(&identity, config.network_key)?;
        let swarm_config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
        let swarm = Swarm::new(transport, behaviour, id, swarm_config);
        let topics = Topic::ALL
            .map(|topic| (IdentTopic::new(topic.name(&genesis)).hash(), topic))
            .into_iter()
            .collect();
        Ok(Self {
            swarm,
            version,
            topics,
            genesis,
            fixed: config.peers.clone(),
            discover: config.discover,
            peers,
            deliver,
            waiting: BTreeMap::new(),
            next_question: 0,
            faults: BTreeMap::new(),
            banned: BTreeMap::new(),
            gathered: Gathered { raw: Vec::new(), bytes: 0, until: Instant::now() },
        })
    }

    /// Begins to listen; gives the addresses, with the ports that were free.
    pub(super) async fn listen(&mut self, addresses: &[Multiaddr]) -> Result<Vec<Multiaddr>> {
        let mut open = HashSet::new();
        for address in addresses {
            let id = self.swarm.listen_on(address.clone());
            open.insert(id.with_context(|| format!("cannot listen on {address}"))?);
        }
        let mut found = Vec::new();
        while !open.is_empty() {
            match self.swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, address } => {
                    open.remove(&listener_id);
                    self.swarm.add_external_address(address.clone());
                    found.push(address);
                }
                SwarmEvent::ListenerClosed { reason: Err(error), addresses, .. } => {
                    return Err(error).with_context(|| format!("cannot listen on {addresses:?}"));
                }
                SwarmEvent::ListenerError { error, .. } => return Err(error).context("cannot listen"),
                _ => {}
            }
        }
        Ok(found)
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0_u32;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                command = commands.recv() => match command {
                    Some(command) => self.carry_out(command),
                    None => return,
                },
                () = tokio::time::sleep_until(self.gathered.until), if !self.gathered.raw.is_empty() => {
                    self.flush();
                }
                event = self.swarm.select_next_some() => self.event(event),
                _ = rounds.tick() => {
                    self.round(round);
                    round = round.wrapping_add(1);
                }
            }
        }
    }

    /// Sends what was gathered as one piece of gossip, whose way through each node costs as much as that of one transaction.
    fn flush(&mut self) {
        let raw = std::mem::take(&mut self.gathered.raw);
        self.gathered.bytes = 0;
        self.carry_out(Command::Publish(Topic::Transactions, wire::transactions(&raw)));
    }

    fn peer(&self, number: u64) -> Option<PeerId> {
        self.peers.read().ids.get(&number).copied()
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Publish(topic, bytes) => {
                let topic = IdentTopic::new(topic.name(&self.genesis));
                // Nobody there yet, or told already: both are told again by those who need it.
                if let Err(error) = self.swarm.behaviour_mut().gossip.publish(topic, bytes) {
                    tracing::debug!(%error, "not published");
                }
            }
            Command::Transaction(raw) => {
                if self.gathered.raw.is_empty() {
                    self.gathered.until = Instant::now() + GATHER;
                }
                self.gathered.bytes += raw.len();
                self.gathered.raw.push(raw);
                if self.gathered.bytes >= GATHER_BYTES || self.gathered.raw.len() >= MOST_TRANSACTIONS {
                    self.flush();
                }
            }
            Command::Ask(to, question) => {
                if let Some(peer) = self.peer(to) {
                    self.swarm.behaviour_mut().questions.send_request(&peer, question);
                }
            }
            Command::Reply(number, answer) => {
                if let Some(channel) = self.waiting.remove(&number) {
                    // Who asked may be gone.
                    let _ = self.swarm.behaviour_mut().questions.send_response(channel, answer);
                }
            }
            Command::Judge(message, from, verdict) => self.judge(&message, &from, verdict),
            Command::Penalize(number) => {
                if let Some(peer) = self.peer(number) {
                    self.fault(peer);
                }
            }
        }
    }

    fn judge(&mut self, message: &MessageId, from: &PeerId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.swarm.behaviour_mut().gossip.report_message_validation_result(message, from, acceptance);
        if verdict == Verdict::Reject {
            self.fault(*from);
        }
    }

    fn fault(&mut self, peer: PeerId) {
        let faults = self.faults.entry(peer).or_default();
        *faults += 1;
        if *faults >= FAULTS {
            tracing::warn!(%peer, "cut off for breaking the protocol too often");
            self.faults.remove(&peer);
            self.banned.insert(peer, Instant::now() + BAN);
            self.swarm.behaviour_mut().blocked.block_peer(peer);
        }
    }

    fn round(&mut self, round: u32) {
        self.faults.retain(|_, faults| {
            *faults -= 1;
            *faults > 0
        });
        let now = Instant::now();
        let over: Vec<_> =
            self.banned.iter().filter(|(_, end)| **end <= now).map(|(peer, _)| *peer).collect();
        for peer in over {
            self.banned.remove(&peer);
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
        let connected: BTreeSet<PeerId> = self.swarm.connected_peers().copied().collect();
        for address in &self.fixed {
            let named = address.iter().find_map(|part| match part {
                Protocol::P2p(peer) => Some(peer),
                _ => None,
            });
            // One that is not named is dialled while there is nobody at all.
            let wanted = named.map_or(connected.is_empty(), |peer| !connected.contains(&peer));
            if wanted && let Err(error) = self.swarm.dial(DialOpts::from(address.clone())) {
                tracing::debug!(%address, %error, "not dialled");
            }
        }
        if self.discover && connected.len() < ENOUGH_PEERS && round % LOOK_EVERY == 1 {
            // Looking for a random place in the network makes acquaintances on the way.
            self.swarm.behaviour_mut().kad.get_closest_peers(PeerId::random());
        }
    }

    /// Hands a packet over; what does not fit is lost, and its sender not blamed.
    fn deliver(&mut self, peer: PeerId, packet: Packet, ticket: Ticket) {
        let from = self.peers.read().numbers.get(&peer).copied();
        let delivered = from.is_some_and(|from| {
            self.deliver.try_send(Delivery { from, packet, ticket: ticket.clone() }).is_ok()
        });
        if delivered {
            return;
        }
        match ticket {
            Ticket::Gossip(message, from) => self.judge(&message, &from, Verdict::Ignore),
            Ticket::Question(number) => {
                self.waiting.remove(&number);
            }
            Ticket::None => {}
        }
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => {
                let mut peers = self.peers.write();
                peers.addresses.insert(peer_id, endpoint.get_remote_address().clone());
                if !peers.numbers.contains_key(&peer_id) {
                    let number = peers.next;
                    peers.next += 1;
                    peers.numbers.insert(peer_id, number);
                    peers.ids.insert(number, peer_id);
                    peers.accounts.extend(account(&peer_id).map(|account| (account, number)));
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                let mut peers = self.peers.write();
                peers.addresses.remove(&peer_id);
                if let Some(number) = peers.numbers.remove(&peer_id) {
                    peers.ids.remove(&number);
                    peers.accounts.retain(|_, other| *other != number);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                if info.protocol_version == self.version {
                    // Kademlia gets acquainted with whomever it hears of.
                    let known = if self.discover { 8 } else { 0 };
                    for address in info.listen_addrs.into_iter().take(known) {
                        self.swarm.behaviour_mut().kad.add_address(&peer_id, address);
                    }
                } else {
                    tracing::debug!(%peer_id, version = info.protocol_version, "of another network");
                    let _ = self.swarm.disconnect_peer_id(peer_id);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message {
                propagation_source,
                message_id,
                message,
            })) => self.gossip(propagation_source, message_id, &message),
            SwarmEvent::Behaviour(BehaviourEvent::Questions(request_response::Event::Message {
                peer,
                message,
                ..
            })) => self.question(peer, message),
            _ => {}
        }
    }

    fn gossip(&mut self, from: PeerId, id: MessageId, message: &gossipsub::Message) {
        let read = match self.topics.get(&message.topic) {
            Some(Topic::Transactions) => wire::read_transactions(&message.data).map(Packet::Transactions),
            Some(Topic::Votes) => wire::read_vote(&message.data).map(Packet::Message),
            Some(Topic::Blocks) => {
                wire::read_block(&message.data).map(|block| Packet::Block(Arc::new(block)))
            }
            None => return,
        };
        match read {
            Ok(packet) => self.deliver(from, packet, Ticket::Gossip(id, from)),
            Err(error) => {
                tracing::debug!(peer = %from, %error, "unreadable gossip");
                self.judge(&id, &from, Verdict::Reject);
            }
        }
    }

    fn question(&mut self, peer: PeerId, message: request_response::Message<Question, Answer>) {
        match message {
            request_response::Message::Request { request, channel, .. } => match request {
                Question::Note(message) => {
                    // Who told it need not know what becomes of it.
                    let _ = self.swarm.behaviour_mut().questions.send_response(channel, Answer::Heard);
                    self.deliver(peer, Packet::Message(message), Ticket::None);
                }
                Question::Fetch { block, above } => {
                    let number = self.wait_for(channel);
                    self.deliver(peer, Packet::Fetch { block, above }, Ticket::Question(number));
                }
                Question::Snapshot => {
                    let number = self.wait_for(channel);
                    self.deliver(peer, Packet::AskSnapshot, Ticket::Question(number));
                }
                Question::Piece { height, index } => {
                    let number = self.wait_for(channel);
                    self.deliver(peer, Packet::AskPiece { height, index }, Ticket::Question(number));
                }
                Question::Waiting => {
                    let number = self.wait_for(channel);
                    self.deliver(peer, Packet::AskWaiting, Ticket::Question(number));
                }
                Question::Transactions(hashes) => {
                    let number = self.wait_for(channel);
                    self.deliver(peer, Packet::AskTransactions(hashes), Ticket::Question(number));
                }
            },
            request_response::Message::Response { response, .. } => {
                let packet = match response {
                    Answer::Blocks(blocks) => Packet::Blocks(blocks),
                    Answer::Snapshot(offer) => Packet::Snapshot(offer),
                    Answer::Piece { height, index, bytes } => Packet::Piece { height, index, bytes },
                    Answer::Waiting(hashes) => Packet::Waiting(hashes),
                    Answer::Transactions(raw) => Packet::Asked(raw),
                    Answer::Heard => return,
                };
                self.deliver(peer, packet, Ticket::None);
            }
        }
    }

    /// Keeps what a question is answered through.
    fn wait_for(&mut self, channel: ResponseChannel<Answer>) -> u64 {
        while self.waiting.len() >= QUESTIONS {
            // The oldest has timed out, or will.
            self.waiting.pop_first();
        }
        let number = self.next_question;
        self.next_question += 1;
        self.waiting.insert(number, channel);
        number
    }
}
