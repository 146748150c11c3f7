//! Theta accounts, transactions, state and blocks.
pub mod staking;
pub mod state;
pub mod tx;
pub mod vm;
