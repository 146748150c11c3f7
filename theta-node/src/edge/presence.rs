//! How an edge node tells requesters that it is there, and what it has measured of its machine (edge.md 1.2, 1.4, 1.5).

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use theta_core::{
    hash::Hash,
    sign::{SecretKey, SignError, Signature},
};
use theta_edge::{
    Millis,
    identity::NodeId,
    infer::ModelOffer,
    message::Message,
    placement::{Binding, Descriptor, HEARTBEAT_MS, Heartbeat, MAX_BINDING, Offer, Traits},
};

/// Blocks by which a node's height may be ahead of the requester's.
const AHEAD: u64 = 100;
/// Heartbeats for which a descriptor holds.
const HOLDS: Millis = 6;

/// What a machine has, as it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Processors that this process may use.
    pub cores: u32,
    /// Memory in MiB: the machine's, or less where the process is granted less.
    pub memory_mib: u32,
}

impl Capacity {
    /// Looks at this machine.
    pub fn measure() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib >> 10)
        });
        let granted = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok().map(|bytes| bytes >> 20));
        // A machine that says nothing is thought to have little.
        let memory = machine.into_iter().chain(granted).min().unwrap_or(1024);
        let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self { cores: number(cores as u64), memory_mib: number(memory) }
    }
}

/// What a node says of itself, and to whom.
pub(super) struct Presence {
    key: Arc<SecretKey>,
    chain: String,
    offer: Offer,
    models: Vec<ModelOffer>,
    address: SocketAddr,
    binding: Option<Binding>,
    beats: u64,
    /// Gateways by their URL; a name once they answered.
    pub(super) gateways: BTreeMap<String, Option<NodeId>>,
}

impl Presence {
    pub(super) fn new(
        key: Arc<SecretKey>,
        chain: String,
        offer: (u32, u32, Vec<Hash>),
        models: Vec<ModelOffer>,
        address: SocketAddr,
        gateways: Vec<String>,
    ) -> Self {
        let (slots, mem_mib, executors) = offer;
        let traits = Traits { arch: std::env::consts::ARCH.to_owned(), executors, ..Traits::default() };
        let offer = Offer {
            traits,
            cpu_milli: slots.saturating_mul(1000),
            mem_mib,
            gpus: 0,
            vram_mib: 0,
            credits: u16::try_from(slots).unwrap_or(u16::MAX),
            ..Offer::default()
        };
        let trimmed = gateways.into_iter().map(|url| (url.trim_end_matches('/').to_owned(), None));
        Self { key, chain, offer, models, address, binding: None, beats: 0, gateways: trimmed.collect() }
    }

    /// The message of a heartbeat: `busy` slots are taken.
    pub(super) fn here(&mut self, now: Millis, height: u64, busy: u32) -> Result<Message, SignError> {
        let (node, key) = (NodeId(self.key.address()), &*self.key);
        let binding = match self.binding.take() {
            // One that is half over is made anew.
            Some(binding) if height + MAX_BINDING / 2 < binding.not_after => binding,
            _ => {
                let not_before = height.saturating_sub(AHEAD);
                let binding = Binding {
                    chain_id: self.chain.clone(),
                    wallet: node.0,
                    node,
                    not_before,
                    not_after: not_before + MAX_BINDING,
                    seq: now,
                    by_wallet: Signature::EMPTY,
                    by_node: Signature::EMPTY,
                };
                binding.sign(key, key)?
            }
        };
        let descriptor = Descriptor {
            binding: binding.clone(),
            seq: now,
            issued: now,
            ttl_ms: HOLDS * HEARTBEAT_MS,
            offer: self.offer.clone(),
            signature: Signature::EMPTY,
        };
        self.binding = Some(binding);
        self.beats += 1;
        let taken = busy.saturating_mul(1000);
        let beat = Heartbeat {
            seq: self.beats,
            free_cpu_milli: self.offer.cpu_milli.saturating_sub(taken),
            free_mem_mib: self.offer.mem_mib,
            ..Heartbeat::default()
        };
        let descriptor = Box::new(descriptor.sign(key)?);
        Ok(Message::Here { descriptor, address: self.address, beat, models: self.models.clone() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "whatever fails here is a failed test")]
    use super::*;

    #[test]
    fn what_a_node_says_of_itself_is_measured_and_believed() {
        let capacity = Capacity::measure();
        assert!(capacity.cores >= 1 && capacity.memory_mib >= 64, "{capacity:?}");
        let key = Arc::new(SecretKey::from_bytes(&[7; 32]).unwrap());
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let offer = (2, 512, vec![Hash::ZERO]);
        let mut presence =
            Presence::new(key, "privatenet".into(), offer, Vec::new(), address, vec!["http://x/".into()]);
        assert_eq!(presence.gateways.keys().next().unwrap(), "http://x");
        let mut last = 0;
        for (now, height) in [(1_000, 0), (2_000, 500), (3_000, 40_000)] {
            let Message::Here { descriptor, beat, .. } = presence.here(now, height, 1).unwrap() else {
                panic!("it says that it is here")
            };
            descriptor.check("privatenet", height, now).unwrap();
            assert_eq!(
                (descriptor.offer.gpus, descriptor.offer.cpu_milli, beat.free_cpu_milli),
                (0, 2000, 1000)
            );
            assert!(beat.seq > last);
            last = beat.seq;
        }
    }
}
