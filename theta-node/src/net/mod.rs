//! The network of nodes, on libp2p: TCP (or memory, inside one process), Noise, Yamux.
//!
//! Transactions, votes and blocks are gossip: a node passes on what its own checks accepted (`Port::judge`), and peers
//! that send what is wrong lose their standing. Where a node stands, votes for whoever proposes next and blocks that
//! somebody lacks go to single peers. Peers are found by the ones that are configured, and by Kademlia from there. All of
//! it is one task (`swarm`); a `Port` is the way to it from any thread. Queues are bounded: what does not fit is lost, as
//! on any network, and the protocols recover from that.

pub(crate) mod codec;
mod swarm;
#[cfg(test)]
pub(crate) mod tests;
mod wire;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use anyhow::{Context, Result};
pub use libp2p::{Multiaddr, PeerId};
use libp2p::{gossipsub::MessageId, identity::Keypair};
use parking_lot::RwLock;
use theta_consensus::Message;
use theta_core::{
    block::Block,
    hash::{Address, Hash, address_of_point},
    sign::SecretKey,
};
use tokio::sync::{mpsc, watch};

use self::wire::{Answer, Question, Topic};
pub(crate) use self::{
    swarm::transport,
    wire::{MAX_ANSWERED, MOST_ASKED},
};
use crate::snapshots::Offer;

/// Packets that wait for the node, and commands that wait for the network.
const QUEUE: usize = 8192;

/// A node's place in the network.
#[derive(Clone)]
pub(crate) struct NetConfig {
    /// The chain: nodes of others are not spoken to.
    pub(crate) genesis: Hash,
    /// The node's key, by which peers know it.
    pub(crate) key: SecretKey,
    /// Where it listens: `/ip4/127.0.0.1/tcp/0`, or `/memory/0` inside one process. Port 0 picks a free one.
    pub(crate) listen: Vec<Multiaddr>,
    /// Peers that it always stays connected to, with or without their `/p2p/…`.
    pub(crate) peers: Vec<Multiaddr>,
    /// Whether it looks for others than these.
    pub(crate) discover: bool,
    /// The key of a private network, which all its nodes share.
    pub(crate) network_key: Option<[u8; 32]>,
}

impl std::fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetConfig")
            .field("listen", &self.listen)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// What nodes send each other.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a message is moved a few times at most")]
pub(crate) enum Packet {
    /// A vote, or where a node stands.
    Message(Message),
    /// A new block.
    Block(Arc<Block>),
    /// An answer to a fetch: blocks in a row, lowest first.
    Blocks(Vec<Arc<Block>>),
    /// Asks for a block and its ancestors above a height; answered by [`Port::reply`].
    Fetch {
        /// The block.
        block: Hash,
        /// Settled at the asker.
        above: u64,
    },
    /// Raw transactions. Those that a node sends within a moment travel together.
    Transactions(Vec<Vec<u8>>),
    /// Asks for the newest snapshot; answered by [`Port::reply_snapshot`].
    AskSnapshot,
    /// Asks for a piece of it; answered by [`Port::reply_piece`].
    AskPiece {
        /// Height of its block.
        height: u64,
        /// Which piece.
        index: u64,
    },
    /// The newest snapshot of a peer.
    Snapshot(Offer),
    /// A piece of one.
    Piece {
        /// Height of its block.
        height: u64,
        /// Which piece.
        index: u64,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// Asks what waits in a pool; answered by [`Port::reply_waiting`].
    AskWaiting,
    /// Asks for transactions of it; answered by [`Port::reply_transactions`].
    AskTransactions(Vec<Hash>),
    /// What waits in a peer's pool, the longest first.
    Waiting(Vec<Hash>),
    /// Raw transactions that were asked for.
    Asked(Vec<Vec<u8>>),
}

/// What came in.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The peer it came from, by the number it has while it is connected.
    pub(crate) from: u64,
    /// What it sent.
    pub(crate) packet: Packet,
    /// By which it is answered or judged.
    pub(crate) ticket: Ticket,
}

/// What an incoming packet waits for.
#[derive(Clone, Debug)]
pub(crate) enum Ticket {
    /// Nothing.
    None,
    /// A verdict, before it is passed on.
    Gossip(MessageId, PeerId),
    /// A reply.
    Question(u64),
}

/// What a node thinks of gossip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Right, and new: it is passed on.
    Accept,
    /// Of no use here; nobody's fault.
    Ignore,
    /// Wrong in itself: its sender should have known.
    Reject,
}

#[derive(Debug)]
enum Command {
    Publish(Topic, Vec<u8>),
    Transaction(Vec<u8>),
    Ask(u64, Question),
    Reply(u64, Answer),
    Judge(MessageId, PeerId, Verdict),
    Penalize(u64),
}

/// Who is connected.
#[derive(Debug, Default)]
struct Peers {
    numbers: BTreeMap<PeerId, u64>,
    addresses: BTreeMap<PeerId, Multiaddr>,
    ids: BTreeMap<u64, PeerId>,
    /// By the accounts of their keys.
    accounts: BTreeMap<Address, u64>,
    next: u64,
}

/// The way to the network. Clones are one node's.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    addresses: Arc<[Multiaddr]>,
    peers: Arc<RwLock<Peers>>,
    commands: mpsc::Sender<Command>,
}

/// The name of a node with this key, which its addresses end in.
pub(crate) fn peer_id(key: &SecretKey) -> Result<PeerId> {
    Ok(identity(key)?.public().to_peer_id())
}

/// The account of a node's key, which is its validator's. `None` where the name is not made of such a key.
fn account(id: &PeerId) -> Option<Address> {
    let key = libp2p::identity::PublicKey::try_decode_protobuf(id.as_ref().digest()).ok()?;
    let point = key.try_into_secp256k1().ok()?.to_bytes_uncompressed();
    Some(address_of_point(point[1..].try_into().ok()?))
}

pub(crate) fn identity(key: &SecretKey) -> Result<Keypair> {
    let secret = libp2p::identity::secp256k1::SecretKey::try_from_bytes(key.to_bytes().to_vec())
        .context("the node's key is none of the network's")?;
    Ok(Keypair::from(libp2p::identity::secp256k1::Keypair::from(secret)))
}

impl Port {
    /// Joins; gives the way to the network and what comes from it. The network's task ends when `stop` says so.
    pub(crate) async fn open(
        config: NetConfig,
        stop: watch::Receiver<bool>,
    ) -> Result<(Self, Receiver<Delivery>)> {
        let identity = identity(&config.key)?;
        let id = identity.public().to_peer_id();
        let (deliver, deliveries): (SyncSender<Delivery>, _) = sync_channel(QUEUE);
        let (commands, queue) = mpsc::channel(QUEUE);
        let peers = Arc::new(RwLock::new(Peers::default()));
        let mut network = swarm::Network::new(&config, identity, peers.clone(), deliver)?;
        let addresses = network.listen(&config.listen).await?;
        let addresses = addresses.into_iter().filter_map(|address| address.with_p2p(id).ok()).collect();
        tokio::spawn(network.run(queue, stop));
        Ok((Self { addresses, peers, commands }, deliveries))
    }

    /// Where it listens, each with its `/p2p/…`: what another node's configuration names.
    pub(crate) fn addresses(&self) -> &[Multiaddr] {
        &self.addresses
    }

    /// All connected peers.
    pub(crate) fn others(&self) -> Vec<u64> {
        self.peers.read().ids.keys().copied().collect()
    }

    /// The name of a connected peer.
    pub(crate) fn peer_id(&self, peer: u64) -> Option<PeerId> {
        self.peers.read().ids.get(&peer).copied()
    }

    /// Where connected peers are.
    pub(crate) fn peer_addresses(&self) -> Vec<Multiaddr> {
        let peers = self.peers.read();
        peers
            .addresses
            .iter()
            .map(|(id, address)| address.clone().with_p2p(*id).unwrap_or_else(|same| same))
            .collect()
    }

    /// A full queue loses what is sent: the task behind it is slower than the node, and waiting would stop the chain.
    fn command(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok()
    }

    /// Tells all peers. Gossip is passed on by them; where this node stands is not.
    pub(crate) fn broadcast(&self, packet: &Packet) {
        let (topic, bytes) = match packet {
            Packet::Message(message @ Message::Status(_)) => {
                for peer in self.others() {
                    self.command(Command::Ask(peer, Question::Note(message.clone())));
                }
                return;
            }
            Packet::Message(message) => (Topic::Votes, wire::vote(message)),
            Packet::Block(block) => (Topic::Blocks, wire::block(block)),
            Packet::Transactions(raw) => {
                for raw in raw {
                    self.command(Command::Transaction(raw.clone()));
                }
                return;
            }
            // These are for one peer.
            _ => return,
        };
        self.command(Command::Publish(topic, bytes));
    }

    /// Tells one node, by the account of its key; false if it is not connected.
    pub(crate) fn tell(&self, to: Address, message: &Message) -> bool {
        let peer = self.peers.read().accounts.get(&to).copied();
        peer.is_some_and(|peer| self.command(Command::Ask(peer, Question::Note(message.clone()))))
    }

    /// Asks one peer for a block and its ancestors above a height; false if it is not connected.
    pub(crate) fn fetch(&self, from: u64, block: Hash, above: u64) -> bool {
        self.peer_id(from).is_some() && self.command(Command::Ask(from, Question::Fetch { block, above }))
    }

    /// Answers a fetch.
    pub(crate) fn reply(&self, ticket: &Ticket, blocks: Vec<Arc<Block>>) {
        if let Ticket::Question(number) = ticket {
            self.command(Command::Reply(*number, Answer::Blocks(blocks)));
        }
    }

    /// Asks a peer for its newest snapshot.
    pub(crate) fn ask_snapshot(&self, from: u64) {
        self.command(Command::Ask(from, Question::Snapshot));
    }

    /// Asks a peer for a piece of its newest snapshot.
    pub(crate) fn ask_piece(&self, from: u64, height: u64, index: u64) {
        self.command(Command::Ask(from, Question::Piece { height, index }));
    }

    /// Answers what the newest snapshot here is; the default says that there is none.
    pub(crate) fn reply_snapshot(&self, ticket: &Ticket, offer: Offer) {
        if let Ticket::Question(number) = ticket {
            self.command(Command::Reply(*number, Answer::Snapshot(offer)));
        }
    }

    /// Answers with a piece; an empty one says that there is none.
    pub(crate) fn reply_piece(&self, ticket: &Ticket, height: u64, index: u64, bytes: Vec<u8>) {
        if let Ticket::Question(number) = ticket {
            self.command(Command::Reply(*number, Answer::Piece { height, index, bytes }));
        }
    }

    /// Asks a peer what waits in its pool.
    pub(crate) fn ask_waiting(&self, from: u64) {
        self.command(Command::Ask(from, Question::Waiting));
    }

    /// Asks a peer for transactions that wait there, [`MOST_ASKED`] at most.
    pub(crate) fn ask_transactions(&self, from: u64, hashes: Vec<Hash>) {
        self.command(Command::Ask(from, Question::Transactions(hashes)));
    }

    /// Answers what waits here.
    pub(crate) fn reply_waiting(&self, ticket: &Ticket, hashes: Vec<Hash>) {
        if let Ticket::Question(number) = ticket {
            self.command(Command::Reply(*number, Answer::Waiting(hashes)));
        }
    }

    /// Answers with transactions, of [`MAX_ANSWERED`] bytes at most.
    pub(crate) fn reply_transactions(&self, ticket: &Ticket, raw: Vec<Vec<u8>>) {
        if let Ticket::Question(number) = ticket {
            self.command(Command::Reply(*number, Answer::Transactions(raw)));
        }
    }

    /// Says what became of gossip, of which nothing is passed on before.
    pub(crate) fn judge(&self, ticket: &Ticket, verdict: Verdict) {
        if let Ticket::Gossip(message, from) = ticket {
            self.command(Command::Judge(message.clone(), *from, verdict));
        }
    }

    /// A peer broke the protocol. Who does so often is cut off for a while.
    pub(crate) fn penalize(&self, peer: u64) {
        self.command(Command::Penalize(peer));
    }
}
