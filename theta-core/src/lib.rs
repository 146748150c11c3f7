//! Types, crypto, codecs, chain specs and ports that every Theta crate shares.
//!
//! Nothing here opens a socket, reads a clock or starts a task; a host lends those through ports
//! ([`store::Store`], [`journal::Disk`], [`sign::Signer`]). Start at [`block`] for what travels on the wire, at
//! [`spec`] for what a chain's rules are, at [`stake`] for pools and rewards.
//!
//! ```
//! use theta_core::{amount::TFuelWei, hash::keccak, sign::SecretKey};
//! let key = SecretKey::from_bytes(&[7; 32])?;
//! let digest = keccak(b"hello");
//! assert_eq!(key.sign_digest(&digest).recover(&digest)?, key.address());
//! assert_eq!(TFuelWei::whole(2).to_string(), "2000000000000000000");
//! # Ok::<(), theta_core::sign::SignError>(())
//! ```
//!
//! Features: `bls` checks and makes BLS signatures (C code of blst), `native-secp` uses the C library for secp256k1
//! (twice as fast), `fjall` brings the default disk store. None changes what existing calls do.

pub mod amount;
pub mod bits;
pub mod block;
pub mod bls;
pub mod certificate;
pub mod codec;
pub mod context;
pub mod evidence;
pub mod hash;
pub mod hash_rand;
pub mod journal;
pub mod sign;
pub mod spec;
pub mod stake;
pub mod store;
pub mod trie;
pub mod vote;
pub mod workers;

pub use num_bigint::BigUint;
