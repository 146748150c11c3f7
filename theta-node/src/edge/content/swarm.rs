//! Edge nodes among themselves, on libp2p: who has which content (Kademlia), and questions from one to another.
//!
//! A node's name here is made of its key, so whoever asks is known by the account that pays.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    allow_block_list::{self, BlockedPeers},
    connection_limits::{self, ConnectionLimits},
    identify,
    identity::PublicKey,
    kad::{self, RecordKey, store::MemoryStore},
    multiaddr::Protocol,
    ping,
    request_response::{self, OutboundRequestId, ProtocolSupport, ResponseChannel},
    swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
};
use parking_lot::RwLock;
use theta_core::{
    hash::{Address, Hash, keccak},
    sign::SecretKey,
};
use theta_edge::identity::NodeId;
use tokio::sync::{mpsc, oneshot};

use super::codec::{Answer, Question};
use crate::net::{codec::Codec, identity, transport};

/// Connections: in all, to one peer, and being made.
const CONNECTIONS: u32 = 256;
const CONNECTIONS_PER_PEER: u32 = 2;
const PENDING_CONNECTIONS: u32 = 64;
/// Questions of others at once.
const STREAMS: usize = 128;
/// Longest wait for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection without use is kept.
const IDLE: Duration = Duration::from_secs(120);
/// Longest look for who has a content, and how many are enough.
const LOOK: Duration = Duration::from_secs(3);
const ENOUGH: usize = 20;
/// Commands that wait.
const QUEUE: usize = 1024;

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    blocked: allow_block_list::Behaviour<BlockedPeers>,
    ping: ping::Behaviour,
    identify: identify::Behaviour,
    kad: kad::Behaviour<MemoryStore>,
    questions: request_response::Behaviour<Codec<Question, Answer>>,
}

/// The node whose name a peer has; `None` for a key of another kind than accounts have.
pub(super) fn node_of(peer: &PeerId) -> Option<NodeId> {
    // The name of a short key is the key itself.
    let key = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?.try_into_secp256k1().ok()?;
    let hash = keccak(&key.to_bytes_uncompressed()[1..]);
    Some(NodeId(Address::from_slice(&hash[12..])))
}

/// A question of a peer, to be answered through [`Peers::answer`].
#[derive(Debug)]
pub(in crate::edge) struct Asked {
    pub(super) from: PeerId,
    pub(super) question: Question,
    pub(super) reply: Reply,
}

/// By which a question is answered; dropping it leaves it without an answer.
#[derive(Debug)]
pub(super) struct Reply(ResponseChannel<Answer>);

enum Command {
    Dial(Multiaddr),
    Ask(PeerId, Question, oneshot::Sender<Answer>),
    Answer(Reply, Answer),
    Provide(Hash),
    Providers(Hash, oneshot::Sender<Vec<PeerId>>),
    Block(PeerId),
}

/// The way to the other edge nodes. Clones are one node's.
#[derive(Clone)]
pub(in crate::edge) struct Peers {
    pub(super) id: PeerId,
    addresses: Arc<[Multiaddr]>,
    connected: Arc<RwLock<BTreeMap<NodeId, PeerId>>>,
    commands: mpsc::Sender<Command>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Peers {
    /// Listens on the loopback address. Questions of others go to `take`, which may refuse them. The task ends with the
    /// last clone.
    pub(in crate::edge) async fn open(
        chain: &str,
        key: &SecretKey,
        take: impl Fn(Asked) + Send + 'static,
    ) -> Result<Self> {
        let identity = identity(key)?;
        let id = identity.public().to_peer_id();
        let protocol = |name: &str| {
            StreamProtocol::try_from_owned(format!("/theta-edge/{chain}/{name}/1"))
                .context("a protocol's name")
        };
        let limits = ConnectionLimits::default()
            .with_max_established(Some(CONNECTIONS))
            .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER))
            .with_max_pending_incoming(Some(PENDING_CONNECTIONS))
            .with_max_pending_outgoing(Some(PENDING_CONNECTIONS));
        let mut kad =
            kad::Behaviour::with_config(id, MemoryStore::new(id), kad::Config::new(protocol("peers")?));
        kad.set_mode(Some(kad::Mode::Server));
        let version = format!("/theta-edge/{chain}/1");
        let questions = request_response::Config::default()
            .with_request_timeout(ANSWER_TIMEOUT)
            .with_max_concurrent_streams(STREAMS);
        let behaviour = Behaviour {
            limits: connection_limits::Behaviour::new(limits),
            blocked: allow_block_list::Behaviour::default(),
            ping: ping::Behaviour::default(),
            identify: identify::Behaviour::new(identify::Config::new(version, identity.public())),
            kad,
            questions: request_response::Behaviour::new(
                [(protocol("content")?, ProtocolSupport::Full)],
                questions,
            ),
        };
        let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
        let mut swarm = Swarm::new(transport(&identity, None)?, behaviour, id, config);
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?).context("cannot listen for other edge nodes")?;
        let address = loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => break address,
                SwarmEvent::ListenerError { error, .. } => {
                    return Err(error).context("cannot listen for other edge nodes");
                }
                _ => {}
            }
        };
        swarm.add_external_address(address.clone());
        let addresses = [address.with_p2p(id).unwrap_or_else(|same| same)];
        let (commands, queue) = mpsc::channel(QUEUE);
        let connected = Arc::new(RwLock::new(BTreeMap::new()));
        let task = Task {
            swarm,
            connected: connected.clone(),
            asked: HashMap::new(),
            looking: HashMap::new(),
            take: Box::new(take),
        };
        tokio::spawn(task.run(queue));
        Ok(Self { id, addresses: Arc::new(addresses), connected, commands })
    }

    /// Where others reach this node.
    pub(in crate::edge) fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    /// Whether a node is connected.
    pub(in crate::edge) fn knows(&self, node: &NodeId) -> bool {
        self.connected.read().contains_key(node)
    }

    /// Brings a sealed message to a node that is connected; gives it back where it is not.
    pub(in crate::edge) fn tell_node(&self, node: &NodeId, envelope: Vec<u8>) -> Option<Vec<u8>> {
        match self.peer_of(node) {
            Some(peer) => {
                self.tell(peer, Question::Envelope(envelope));
                None
            }
            None => Some(envelope),
        }
    }

    /// The peer by whose name a node is connected.
    pub(super) fn peer_of(&self, node: &NodeId) -> Option<PeerId> {
        self.connected.read().get(node).copied()
    }

    /// Nodes that are connected.
    pub(super) fn connected(&self) -> Vec<(NodeId, PeerId)> {
        self.connected.read().iter().map(|(node, peer)| (*node, *peer)).collect()
    }

    /// What does not fit is lost, as on any network.
    fn command(&self, command: Command) {
        let _ = self.commands.try_send(command);
    }

    /// Gets acquainted with a node.
    pub(in crate::edge) fn dial(&self, address: Multiaddr) {
        self.command(Command::Dial(address));
    }

    /// Asks; nothing where no answer came in time.
    pub(super) async fn ask(&self, peer: PeerId, question: Question) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Ask(peer, question, answer)).await.ok()?;
        answered.await.ok()
    }

    /// Sends what needs no answer.
    pub(super) fn tell(&self, peer: PeerId, question: Question) {
        self.command(Command::Ask(peer, question, oneshot::channel().0));
    }

    /// Answers.
    pub(super) fn answer(&self, reply: Reply, answer: Answer) {
        self.command(Command::Answer(reply, answer));
    }

    /// Says to all that this node has a content.
    pub(super) fn provide(&self, content: Hash) {
        self.command(Command::Provide(content));
    }

    /// Who says so.
    pub(super) async fn providers(&self, content: Hash) -> Vec<PeerId> {
        let (answer, answered) = oneshot::channel();
        self.command(Command::Providers(content, answer));
        tokio::time::timeout(LOOK, answered).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Never speaks to a peer again.
    pub(super) fn block(&self, peer: PeerId) {
        self.command(Command::Block(peer));
    }
}

/// Who was found to have a content, and who wants to know.
type Look = (Vec<PeerId>, Option<oneshot::Sender<Vec<PeerId>>>);

struct Task {
    swarm: Swarm<Behaviour>,
    connected: Arc<RwLock<BTreeMap<NodeId, PeerId>>>,
    asked: HashMap<OutboundRequestId, oneshot::Sender<Answer>>,
    looking: HashMap<kad::QueryId, Look>,
    take: Box<dyn Fn(Asked) + Send>,
}

fn content_key(content: &Hash) -> RecordKey {
    RecordKey::new(&content.as_slice())
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = queue.recv() => match command {
                    Some(command) => self.carry_out(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.event(event),
            }
        }
    }

    fn carry_out(&mut self, command: Command) {
        let behaviour = self.swarm.behaviour_mut();
        match command {
            Command::Dial(address) => {
                let peer = address.iter().find_map(|part| match part {
                    Protocol::P2p(peer) => Some(peer),
                    _ => None,
                });
                let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) else { return };
                self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
                if let Err(error) = self.swarm.dial(DialOpts::from(address)) {
                    tracing::debug!(%peer, %error, "an edge node was not dialled");
                }
            }
            Command::Ask(peer, question, answer) => {
                let id = behaviour.questions.send_request(&peer, question);
                self.asked.insert(id, answer);
            }
            Command::Answer(reply, answer) => {
                // Who asked may be gone.
                let _ = behaviour.questions.send_response(reply.0, answer);
            }
            Command::Provide(content) => {
                if let Err(error) = behaviour.kad.start_providing(content_key(&content)) {
                    tracing::warn!(%error, "a content was not announced");
                }
            }
            Command::Providers(content, answer) => {
                let id = behaviour.kad.get_providers(content_key(&content));
                self.looking.insert(id, (Vec::new(), Some(answer)));
            }
            Command::Block(peer) => {
                behaviour.blocked.block_peer(peer);
            }
        }
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                if let Some(node) = node_of(&peer_id) {
                    self.connected.write().insert(node, peer_id);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                if let Some(node) = node_of(&peer_id) {
                    self.connected.write().remove(&node);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                for address in info.listen_addrs.into_iter().take(4) {
                    self.swarm.behaviour_mut().kad.add_address(&peer_id, address);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetProviders(found),
                step,
                ..
            })) => {
                let Some((peers, answer)) = self.looking.get_mut(&id) else { return };
                if let Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) = &found {
                    peers.extend(providers.iter().copied());
                }
                if (step.last || peers.len() >= ENOUGH)
                    && let Some(answer) = answer.take()
                {
                    // Who asked may have stopped waiting.
                    let _ = answer.send(std::mem::take(peers));
                }
                if step.last {
                    self.looking.remove(&id);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Questions(event)) => match event {
                request_response::Event::Message {
                    peer,
                    message: request_response::Message::Request { request, channel, .. },
                    ..
                } => (self.take)(Asked { from: peer, question: request, reply: Reply(channel) }),
                request_response::Event::Message {
                    message: request_response::Message::Response { request_id, response },
                    ..
                } => {
                    if let Some(answer) = self.asked.remove(&request_id) {
                        let _ = answer.send(response);
                    }
                }
                request_response::Event::OutboundFailure { request_id, peer, error, .. } => {
                    tracing::debug!(%peer, %error, "a question was not answered");
                    self.asked.remove(&request_id);
                }
                _ => {}
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]
    use super::*;

    #[test]
    fn a_peer_is_known_by_the_account_that_pays() {
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let peer = crate::net::peer_id(&key).unwrap();
        assert_eq!(node_of(&peer), Some(NodeId(key.address())));
        let other = libp2p::identity::Keypair::generate_ed25519().public().to_peer_id();
        assert_eq!(node_of(&other), None);
    }
}
