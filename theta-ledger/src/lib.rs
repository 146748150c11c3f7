//! Theta accounts, transactions, state and blocks: from raw transactions to a state root, byte for byte as the reference.
//!
//! Everything is a function of its arguments: who proposes and why, how contracts run ([`vm::ContractVm`]), where bytes
//! are kept (`theta_core::store::Store`) and what time it is are the host's to say. Start at [`ledger::Ledger`] to run a
//! chain, at [`tx`] to make transactions, at [`replay`] to hold both against recordings of the reference.
//!
//! ```
//! use theta_core::{amount::{Coins, TFuelWei}, hash::Address, sign::SecretKey};
//! use theta_ledger::tx::{Send, TxInput, TxOutput, Unsigned};
//!
//! let key = SecretKey::from_bytes(&[7; 32])?;
//! let (ten, fee) = (Coins::tfuel(TFuelWei::whole(10)), Coins::tfuel("0.3".parse()?));
//! let both = ten.checked_add(fee).expect("far from the limit");
//! let send = Send {
//!     fee: fee.into(),
//!     inputs: vec![TxInput::new(key.address(), both, 1)],
//!     outputs: vec![TxOutput::new(Address::repeat_byte(0x11), ten)],
//! };
//! let raw = Unsigned::new("mainnet", send).sign(&key)?;
//! assert_eq!(raw.bytes[0], 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Feature `bls` reads and checks the BLS keys of guardian and elite edge stakes (C code).

mod block;
mod chain;
pub mod chain_file;
pub mod error;
pub mod follow;
pub mod genesis;
pub mod history;
pub mod ledger;
pub mod logs;
pub mod mempool;
mod records;
pub mod replay;
pub mod snapshot;
pub mod staking;
pub mod state;
pub mod tx;
mod validators;
pub mod vm;

pub use self::{
    block::MAX_BLOCK_TXS,
    chain::{ContractResult, Place, Receipt, Status},
};
