//! Content at an edge node: it gives chunks to others ([`relay`]), fetches what it has not ([`fetch`]) and pays for it
//! ([`payer`]), and lets players on this machine play it ([`hls`]). [`swarm`] joins edge nodes.
//!
//! Nothing is kept, played or given on before its hash was checked, whoever gave it.

mod codec;
mod fetch;
pub(super) mod hls;
mod payer;
pub(super) mod publish;
pub(super) mod ranges;
mod relay;
mod swarm;

pub(super) use self::{
    fetch::{Content, ContentConfig},
    payer::FundSize,
    relay::Relay,
    swarm::{Asked, Peers},
};
