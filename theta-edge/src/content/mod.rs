//! Content that edge nodes hand on: what it consists of, how every piece of it is believed, whom it is asked of.
//!
//! A clip is a [`manifest::Manifest`] of renditions and their segments, each a blob. A blob's [`outline::Outline`] lets each
//! 256 KiB of it be verified by itself, from whomever it comes; [`sources::Sources`] says whom to ask next, and forgets
//! nobody who gave something else than what was asked for.

pub mod manifest;
pub mod outline;
pub mod sources;
