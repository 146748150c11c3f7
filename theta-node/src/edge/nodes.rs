//! Edge nodes as a requester knows them: who said that it is there, how it stands, who has fallen silent (edge.md 1.3).

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::{Value, json};
use theta_edge::{
    Millis,
    identity::NodeId,
    placement::{Change, Descriptor, Heartbeat, Member, Offer, RegistryError, Status},
};

/// Nodes that are known at once. One that is silent makes room.
pub(super) const MAX_NODES: usize = 256;

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("it says that another node is here")]
    Other,
    #[error("it listens at {0}, which is not this machine")]
    Address(SocketAddr),
    #[error("{MAX_NODES} nodes are known already")]
    Full,
}

struct Known {
    member: Member,
    address: SocketAddr,
    offer: Offer,
    beat: Heartbeat,
}

/// What the scheduler has to be told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    /// It can be asked, and this is what it offers.
    Up(NodeId, Box<Offer>),
    /// It cannot be asked any more.
    Down(NodeId),
}

/// All nodes of a requester.
#[derive(Default)]
pub(super) struct Nodes(BTreeMap<NodeId, Known>);

impl Nodes {
    /// Takes what a node says of itself.
    pub(super) fn here(
        &mut self,
        now: Millis,
        (chain, height): (&str, u64),
        from: NodeId,
        descriptor: &Descriptor,
        address: SocketAddr,
        beat: Heartbeat,
    ) -> Result<Option<News>, NodeError> {
        if descriptor.binding.node != from {
            return Err(NodeError::Other);
        }
        if !address.ip().is_loopback() {
            return Err(NodeError::Address(address));
        }
        descriptor.check(chain, height, now)?;
        if !self.0.contains_key(&from) && self.0.len() >= MAX_NODES {
            let gone = self.0.iter().find(|(_, known)| known.member.status == Status::Lost);
            let gone = gone.map(|(id, _)| *id).ok_or(NodeError::Full)?;
            self.0.remove(&gone);
        }
        let offer = Offer { operator: 0, stake: 0, ..descriptor.offer.clone() };
        let known = self.0.entry(from).or_insert_with(|| Known {
            // Its results are compared from the first on, so it is on probation at once.
            member: Member::new(Status::Lost, now),
            address,
            offer: offer.clone(),
            beat,
        });
        known.member.heard(now, descriptor, &beat)?;
        let (was_open, was_offer) = (known.member.status.is_open(), known.offer.clone());
        if known.member.status == Status::Lost {
            known.member.change(now, Change::Back);
        }
        (known.address, known.offer, known.beat) = (address, offer, beat);
        let open = known.member.status.is_open();
        let news = open && (!was_open || was_offer != known.offer);
        Ok(news.then(|| News::Up(from, Box::new(known.offer.clone()))))
    }

    /// Nobody listens for it: it is lost until it is heard of again.
    pub(super) fn unreachable(&mut self, now: Millis, node: NodeId) -> Option<News> {
        self.change(now, node, Change::Silent)
    }

    /// It showed a wrong result.
    pub(super) fn fault(&mut self, now: Millis, node: NodeId) -> Option<News> {
        self.change(now, node, Change::Fault)
    }

    /// It showed a right one.
    pub(super) fn valid(&mut self, now: Millis, node: NodeId) {
        if let Some(known) = self.0.get_mut(&node) {
            known.member.valid(now);
        }
    }

    fn change(&mut self, now: Millis, node: NodeId, change: Change) -> Option<News> {
        let known = self.0.get_mut(&node)?;
        let was_open = known.member.status.is_open();
        let changed = known.member.change(now, change);
        match (was_open, changed && known.member.status.is_open()) {
            (true, false) if changed => Some(News::Down(node)),
            (false, true) => Some(News::Up(node, Box::new(known.offer.clone()))),
            _ => None,
        }
    }

    /// Looks who has fallen silent, and whose suspension is over.
    pub(super) fn tick(&mut self, now: Millis) -> Vec<News> {
        let due = |known: &Known| match known.member.status {
            Status::Suspended => (known.member.suspended_until <= now).then_some(Change::Served),
            Status::Lost => None,
            _ => (known.member.lost_at() <= now).then_some(Change::Silent),
        };
        let due: Vec<_> = self.0.iter().filter_map(|(id, known)| Some((*id, due(known)?))).collect();
        due.into_iter().filter_map(|(node, change)| self.change(now, node, change)).collect()
    }

    /// Nodes that can be asked.
    pub(super) fn open(&self) -> impl Iterator<Item = News> + '_ {
        let open = self.0.iter().filter(|(_, known)| known.member.status.is_open());
        open.map(|(id, known)| News::Up(*id, Box::new(known.offer.clone())))
    }

    /// Where the others listen, for one that may be paid from the same fund.
    pub(super) fn others(&self, than: NodeId) -> Vec<(NodeId, SocketAddr)> {
        let open = self.0.iter().filter(|(id, known)| **id != than && known.member.status.is_open());
        open.map(|(id, known)| (*id, known.address)).collect()
    }

    /// What `/api/nodes` says.
    pub(super) fn view(&self, now: Millis) -> Vec<Value> {
        let row = |(id, known): (&NodeId, &Known)| {
            json!({
                "node": id.0.to_checksum(None),
                "url": format!("http://{}", known.address),
                "status": known.member.status,
                "silentMs": now.saturating_sub(known.member.last_seen),
                "arch": known.offer.traits.arch,
                "cpuMilli": known.offer.cpu_milli,
                "memoryMiB": known.offer.mem_mib,
                "gpus": known.offer.gpus,
                "slots": known.offer.credits,
                "freeCpuMilli": known.beat.free_cpu_milli,
            })
        };
        self.0.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]
    use std::sync::Arc;

    use theta_core::{hash::Hash, sign::SecretKey};
    use theta_edge::{message::Message, placement::HEARTBEAT_MS};

    use super::*;
    use crate::edge::presence::Presence;

    const CHAIN: (&str, u64) = ("privatenet", 10);

    struct Node {
        id: NodeId,
        presence: Presence,
    }

    fn node(byte: u16) -> Node {
        let mut bytes = [1; 32];
        bytes[..2].copy_from_slice(&byte.to_be_bytes());
        let key = Arc::new(SecretKey::from_bytes(&bytes).unwrap());
        let address = SocketAddr::from(([127, 0, 0, 1], 1000 + byte));
        let id = NodeId(key.address());
        Node {
            id,
            presence: Presence::new(key, "privatenet".into(), (2, 64, vec![Hash::ZERO]), address, Vec::new()),
        }
    }

    impl Node {
        fn says(&mut self, nodes: &mut Nodes, now: Millis) -> Result<Option<News>, NodeError> {
            let Message::Here { descriptor, address, beat } = self.presence.here(now, 10, 0).unwrap() else {
                panic!("it says that it is here")
            };
            nodes.here(now, CHAIN, self.id, &descriptor, address, beat)
        }
    }

    #[test]
    fn a_silent_node_is_forgotten_and_comes_back() {
        let (mut nodes, mut one) = (Nodes::default(), node(1));
        assert!(matches!(one.says(&mut nodes, 0).unwrap(), Some(News::Up(id, _)) if id == one.id));
        assert_eq!(one.says(&mut nodes, HEARTBEAT_MS).unwrap(), None, "nothing is new");
        assert!(nodes.tick(4 * HEARTBEAT_MS - 1).is_empty());
        assert_eq!(nodes.tick(4 * HEARTBEAT_MS), [News::Down(one.id)]);
        assert!(matches!(one.says(&mut nodes, 5 * HEARTBEAT_MS).unwrap(), Some(News::Up(..))));
        assert_eq!(nodes.unreachable(5 * HEARTBEAT_MS, one.id), Some(News::Down(one.id)));
    }

    #[test]
    fn what_is_replayed_foreign_or_elsewhere_is_not_believed() {
        let (mut nodes, mut one, two) = (Nodes::default(), node(1), node(2));
        let Message::Here { descriptor, address, beat } = one.presence.here(5, 10, 0).unwrap() else {
            panic!("it says that it is here")
        };
        let away = SocketAddr::from(([10, 0, 0, 1], 1));
        let mut say = |chain, from, address| nodes.here(5, chain, from, &descriptor, address, beat);
        assert!(matches!(say(CHAIN, two.id, address), Err(NodeError::Other)));
        assert!(matches!(say(CHAIN, one.id, away), Err(NodeError::Address(_))));
        assert!(matches!(
            say(("mainnet", 10), one.id, address),
            Err(NodeError::Registry(RegistryError::Chain))
        ));
        assert!(say(CHAIN, one.id, address).is_ok());
        assert!(matches!(say(CHAIN, one.id, address), Err(NodeError::Registry(RegistryError::Replaced))));
    }

    #[test]
    fn a_fault_suspends_and_so_many_nodes_are_known_at_once() {
        let (mut nodes, mut one) = (Nodes::default(), node(0));
        one.says(&mut nodes, 0).unwrap();
        assert_eq!(nodes.fault(0, one.id), Some(News::Down(one.id)));
        assert_eq!(one.says(&mut nodes, 1).unwrap(), None, "it is suspended");
        for byte in 1..MAX_NODES as u16 {
            node(byte).says(&mut nodes, 1).unwrap();
        }
        assert!(matches!(node(1000).says(&mut nodes, 1), Err(NodeError::Full)));
        nodes.unreachable(1, node(5).id);
        node(1000).says(&mut nodes, 1).unwrap();
        assert_eq!(nodes.view(1).len(), MAX_NODES);
        assert_eq!(
            nodes.tick(600_000).iter().filter(|news| matches!(news, News::Up(..))).count(),
            1,
            "served"
        );
    }
}
