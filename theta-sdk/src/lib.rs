//! What a Theta wallet or dApp needs: keys, transactions, and a client for a node's RPC.
//!
//! Signing needs no network and no runtime. [`wallet`] builds transactions, [`hd`] and [`keystore`] hold keys,
//! [`message`] signs text; [`client::Client`] talks to a node over any [`client::Transport`]. A wallet names two crates:
//! this one, and `theta-ledger` for the transactions themselves.
//!
//! ```
//! use theta_core::amount::{Coins, TFuelWei};
//! use theta_sdk::{hd, wallet::{Wallet, minimum_send_fee}};
//!
//! let key = hd::derive("test test test test test test test test test test test junk", hd::Path::Theta(0))?;
//! let wallet = Wallet::new("mainnet", key);
//! let to = "0x9f1233798e905e173560071255140b4a8abd3ec6".parse()?;
//! let send = wallet.send(7, to, Coins::tfuel(TFuelWei::whole(10)), minimum_send_fee());
//! println!("a device could sign {:?}", send.digest());
//! let raw = send.sign(wallet.signer())?;
//! println!("{} bytes, hash {:?}", raw.bytes.len(), raw.hash);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Features: `hd` and `keystore` (default), `http` (brings tokio), `edge` (the chain port of edge nodes), `cli`
//! (`thetacli`).

pub mod client;
#[cfg(feature = "edge")]
pub mod edge;
#[cfg(feature = "hd")]
pub mod hd;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "keystore")]
pub mod keystore;
pub mod message;
pub mod rpc;
pub mod wallet;

#[cfg(feature = "cli")]
pub mod cli;

pub use theta_core as core;
pub use theta_ledger as ledger;
