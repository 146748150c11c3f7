//! Theta nodes assembled: what the other crates decide, this one gives threads, sockets, files and a clock.
//!
//! Start at [`devnet::Devnet`] for a whole network in one process, at [`node::Node`] for one node, at [`rpc`] for what it
//! answers. No rule of the protocol lives here.

pub mod admin;
mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connections;
pub mod demo;
pub mod devnet;
pub mod edge;
mod evidence;
mod fetch;
pub mod folder;
pub mod http;
pub mod intake;
pub mod judge;
pub mod load;
pub mod metrics;
pub mod net;
pub mod node;
pub mod processes;
mod promised;
pub mod rpc;
mod snapshots;
mod sorter;
pub mod vote_key;

pub use chain::Progress;
