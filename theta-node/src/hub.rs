//! A network inside one process: channels between nodes. Queues are bounded; what does not fit is lost, as on a real
//! network, and the protocols recover from that.

use std::sync::{
    Arc,
    mpsc::{Receiver, SyncSender, sync_channel},
};

use parking_lot::RwLock;
use theta_consensus::Message;
use theta_core::{block::Block, hash::Hash};

/// Packets that wait for one node.
const QUEUE: usize = 8192;

/// What nodes send each other.
#[derive(Clone, Debug)]
pub enum Packet {
    /// A vote, or where a node stands.
    Message(Message),
    /// A new block.
    Block(Arc<Block>),
    /// An answer to a fetch: blocks in a row, lowest first.
    Blocks(Vec<Arc<Block>>),
    /// Asks for a block and its ancestors above a height.
    Fetch {
        /// The block.
        block: Hash,
        /// Settled at the asker.
        above: u64,
    },
    /// A raw transaction.
    Transaction(Arc<Vec<u8>>),
}

/// A packet and the number of the node that sent it.
pub type Delivery = (u64, Packet);

/// The network. Clones are one network.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    nodes: Arc<RwLock<Vec<SyncSender<Delivery>>>>,
}

/// One node's end.
#[derive(Clone, Debug)]
pub struct Port {
    hub: Hub,
    id: u64,
}

impl Hub {
    /// Joins; gives the node's end and what is sent to it.
    pub fn join(&self) -> (Port, Receiver<Delivery>) {
        let (sender, receiver) = sync_channel(QUEUE);
        let mut nodes = self.nodes.write();
        nodes.push(sender);
        (Port { hub: self.clone(), id: nodes.len() as u64 - 1 }, receiver)
    }
}

impl Port {
    /// Sends to one node; false if there is no such node or its queue is full.
    pub fn send(&self, to: u64, packet: Packet) -> bool {
        let nodes = self.hub.nodes.read();
        usize::try_from(to)
            .ok()
            .and_then(|to| nodes.get(to))
            .is_some_and(|node| node.try_send((self.id, packet)).is_ok())
    }

    /// Sends to all others.
    pub fn broadcast(&self, packet: &Packet) {
        for to in self.others() {
            self.send(to, packet.clone());
        }
    }

    /// All other nodes.
    pub fn others(&self) -> Vec<u64> {
        let count = self.hub.nodes.read().len() as u64;
        (0..count).filter(|other| *other != self.id).collect()
    }
}
