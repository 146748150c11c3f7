//! What one engine goes through in a quiet network, to be gone through again: counted in tests, timed in benches.

use std::sync::Arc;

use theta_core::{context::Finality, hash::Hash, spec::ChainSpec};

use super::{Scenario, network::Network, setup::roles};
use crate::{
    engine::{Effect, Engine, Input, Roles, Start},
    pace::{Millis, Settings},
    tree::SettledBlock,
};

/// The inputs of the first of some validators, their signatures checked already.
#[derive(Clone, Debug)]
pub struct Steps {
    spec: Arc<ChainSpec>,
    settings: Settings,
    roles: Roles,
    root: Hash,
    genesis: Vec<SettledBlock>,
    inputs: Vec<(Millis, Input)>,
}

/// What an engine did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Blocks that settled.
    pub blocks: u64,
    /// Messages and blocks that came in, its own among them.
    pub taken: u64,
    /// Messages and blocks that it made.
    pub made: u64,
}

impl Steps {
    /// So many milliseconds of a network in which nothing goes wrong, with a transaction each 300 ms.
    pub fn record(spec: ChainSpec, validators: usize, until: Millis) -> Self {
        let quiet = Scenario::honest(spec, validators, 1);
        Self::record_of(Scenario { until, transaction_every: 300, ..quiet })
    }

    /// The inputs of the first validator in another network.
    pub(crate) fn record_of(scenario: Scenario) -> Self {
        let mut network = Network::new(scenario);
        let key = network.nodes[0].key.address();
        let roles = roles(&network.scenario, 0, key, None);
        let genesis = network.nodes[0].ledger.tail(1);
        let root = genesis.first().map_or(Hash::ZERO, |block| block.header.hash());
        network.nodes[0].recorded = Some(Vec::new());
        network.play();
        let inputs = network.nodes[0].recorded.take().unwrap_or_default();
        let (spec, settings) = (network.nodes[0].spec.clone(), network.scenario.settings.clone());
        Self { spec, settings, roles, root, genesis, inputs }
    }

    /// An engine that stands at the beginning; `None` if there is no beginning.
    pub fn engine(&self) -> Option<Engine> {
        let start = Start { root: self.root, settled: self.genesis.clone(), wal: Vec::new() };
        let engine = Engine::recover(self.spec.clone(), self.settings.clone(), self.roles.clone(), start);
        engine.ok().map(Engine::making_believe)
    }

    /// The inputs, to be given away.
    pub fn inputs(&self) -> Vec<(Millis, Input)> {
        self.inputs.clone()
    }

    /// Takes an engine of [`Self::engine`] through inputs of [`Self::inputs`].
    pub fn replay(engine: &mut Engine, inputs: Vec<(Millis, Input)>) -> Counts {
        let mut counts = Counts::default();
        let mut effects = Vec::new();
        for (now, input) in inputs {
            counts.taken += u64::from(matches!(input, Input::Message(_) | Input::Block(_)));
            engine.step(now, input, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::Reached { finality: Finality::Settled, header, .. } => {
                        counts.blocks = header.height
                    }
                    Effect::Sign { .. } | Effect::Broadcast(_) => counts.made += 1,
                    _ => {}
                }
            }
        }
        counts
    }
}
