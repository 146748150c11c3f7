//! Edge nodes as a requester knows them: who said that it is there, and where. How they stand, and who gets what, is
//! placement's ([`theta_edge::placement`]).

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::{Value, json};
use theta_core::hash::Hash;
use theta_edge::{
    Millis,
    identity::NodeId,
    infer::{ModelOffer, TOKEN},
    placement::{Descriptor, HEARTBEAT_MS, Heartbeat, Member, Offer, RegistryError, Status},
    scheduler::Scheduler,
};

/// Nodes that are known at once. One that is silent makes room.
pub(super) const MAX_NODES: usize = 256;
/// Models that one node may have.
const MAX_MODELS: usize = 64;
/// Milliseconds after which a node counts as silent.
const SILENT_MS: Millis = 4 * HEARTBEAT_MS;

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
    /// What it said last, so that a replay is known.
    said: Member,
    address: SocketAddr,
    offer: Offer,
    beat: Heartbeat,
    models: Vec<ModelOffer>,
}

/// All nodes of a requester.
#[derive(Default)]
pub(super) struct Nodes(BTreeMap<NodeId, Known>);

impl Nodes {
    /// Takes what a node says of itself, and gives what it offers.
    pub(super) fn here(
        &mut self,
        now: Millis,
        (chain, height): (&str, u64),
        from: NodeId,
        descriptor: &Descriptor,
        address: SocketAddr,
        beat: Heartbeat,
    ) -> Result<Box<Offer>, NodeError> {
        if descriptor.binding.node != from {
            return Err(NodeError::Other);
        }
        if !address.ip().is_loopback() {
            return Err(NodeError::Address(address));
        }
        descriptor.check(chain, height, now)?;
        if !self.0.contains_key(&from) && self.0.len() >= MAX_NODES {
            let silent = |known: &Known| now.saturating_sub(known.said.last_seen) > SILENT_MS;
            let gone = self.0.iter().find(|(_, known)| silent(known));
            let gone = gone.map(|(id, _)| *id).ok_or(NodeError::Full)?;
            self.0.remove(&gone);
        }
        // Whose it is is known from the binding, which both keys signed; stake is looked up, not believed.
        let mut wallet = [0; 4];
        wallet.copy_from_slice(&descriptor.binding.wallet[..4]);
        let operator = u32::from_be_bytes(wallet).max(1);
        let offer = Offer { operator, stake: 0, ..descriptor.offer.clone() };
        let known = self.0.entry(from).or_insert_with(|| Known {
            said: Member::new(Status::Joining, now),
            address,
            offer: offer.clone(),
            beat,
            models: Vec::new(),
        });
        known.said.heard(now, descriptor, &beat)?;
        (known.address, known.offer, known.beat) = (address, offer.clone(), beat);
        Ok(Box::new(offer))
    }

    /// Where the others listen, for one that may be paid from the same fund.
    pub(super) fn others(&self, than: NodeId, scheduler: &Scheduler) -> Vec<(NodeId, SocketAddr)> {
        let is_open = |id: &NodeId| scheduler.status(id).is_some_and(Status::is_open);
        let open = self.0.iter().filter(|(id, _)| **id != than && is_open(id));
        open.map(|(id, known)| (*id, known.address)).collect()
    }

    /// Takes what a node that was let in says of its models. What cannot be true is left out.
    pub(super) fn has_models(&mut self, node: &NodeId, models: Vec<ModelOffer>) {
        if let Some(known) = self.0.get_mut(node) {
            let has = |model: &ModelOffer| known.offer.traits.executors.contains(&model.executor);
            known.models = models.into_iter().filter(|model| model.is_sane() && has(model)).collect();
            known.models.truncate(MAX_MODELS);
        }
    }

    /// The models that can be asked now, by name: at the dearest price that one of their nodes wants. Where nodes mean
    /// different models by one name, it is the one that most of them have.
    pub(super) fn models(&self, scheduler: &Scheduler) -> BTreeMap<String, ModelOffer> {
        let is_open = |id: &NodeId| scheduler.status(id).is_some_and(Status::is_open);
        let open = self.0.iter().filter(|(id, _)| is_open(id)).flat_map(|(_, known)| &known.models);
        let mut counts: BTreeMap<(&str, Hash), (usize, ModelOffer)> = BTreeMap::new();
        for model in open {
            let (count, dearest) =
                counts.entry((&model.name, model.executor)).or_insert_with(|| (0, model.clone()));
            *count += 1;
            if model.price.of(TOKEN) > dearest.price.of(TOKEN) {
                dearest.price = model.price;
            }
        }
        let mut models: BTreeMap<String, (usize, ModelOffer)> = BTreeMap::new();
        for ((name, _), (count, model)) in counts {
            if models.get(name).is_none_or(|(most, _)| count > *most) {
                models.insert(name.to_owned(), (count, model));
            }
        }
        models.into_iter().map(|(name, (_, model))| (name, model)).collect()
    }

    /// Tokens that the model of a digest has room for.
    pub(super) fn context(&self, executor: &Hash) -> Option<u32> {
        let models = self.0.values().flat_map(|known| &known.models);
        models.filter(|model| model.executor == *executor).map(|model| model.context).max()
    }

    /// What `/api/nodes` says.
    pub(super) fn view(&self, now: Millis, scheduler: &Scheduler) -> Vec<Value> {
        let row = |(id, known): (&NodeId, &Known)| {
            json!({
                "node": id.0.to_checksum(None),
                "url": format!("http://{}", known.address),
                "status": scheduler.status(id),
                "silentMs": now.saturating_sub(known.said.last_seen),
                "arch": known.offer.traits.arch,
                "cpuMilli": known.offer.cpu_milli,
                "memoryMiB": known.offer.mem_mib,
                "gpus": known.offer.gpus,
                "slots": known.offer.credits,
                "models": known.models.iter().map(|model| &model.name).collect::<Vec<_>>(),
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

    use theta_core::sign::SecretKey;
    use theta_edge::message::Message;

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
            presence: Presence::new(
                key,
                "privatenet".into(),
                (2, 64, vec![Hash::ZERO]),
                Vec::new(),
                address,
                Vec::new(),
            ),
        }
    }

    impl Node {
        fn says(&mut self, nodes: &mut Nodes, now: Millis) -> Result<Box<Offer>, NodeError> {
            let Message::Here { descriptor, address, beat, .. } = self.presence.here(now, 10, 0).unwrap()
            else {
                panic!("it says that it is here")
            };
            nodes.here(now, CHAIN, self.id, &descriptor, address, beat)
        }
    }

    #[test]
    fn what_is_replayed_foreign_or_elsewhere_is_not_believed() {
        let (mut nodes, mut one, two) = (Nodes::default(), node(1), node(2));
        let Message::Here { descriptor, address, beat, .. } = one.presence.here(5, 10, 0).unwrap() else {
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
    fn so_many_nodes_are_known_at_once_and_a_silent_one_makes_room() {
        let mut nodes = Nodes::default();
        for byte in 0..MAX_NODES as u16 {
            let offer = node(byte).says(&mut nodes, u64::from(byte)).unwrap();
            assert_ne!(offer.operator, 0, "its operator is its wallet");
        }
        assert!(matches!(node(1000).says(&mut nodes, SILENT_MS), Err(NodeError::Full)));
        node(1000).says(&mut nodes, SILENT_MS + 1).unwrap();
        let scheduler = Scheduler::new(theta_edge::scheduler::Settings::default());
        let view = nodes.view(1, &scheduler);
        let gone = node(0).id.0.to_checksum(None);
        assert!(view.len() == MAX_NODES && view.iter().all(|row| row["node"] != gone.as_str()));
    }
}
