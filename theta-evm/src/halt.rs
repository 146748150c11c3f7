//! Why a frame failed, in the reference's words.

use theta_core::hash::U256;

use crate::opcodes;

/// Why a frame failed. The texts of the outermost frame are part of receipts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Halt {
    /// The contract took its changes back; the only failure that gives data and gas back.
    #[error("evm: execution reverted")]
    Reverted,
    #[error("out of gas")]
    OutOfGas,
    #[error("gas uint64 overflow")]
    GasOverflow,
    #[error("contract creation code storage out of gas")]
    CodeStoreOutOfGas,
    #[error("evm: max code size exceeded")]
    CodeSize,
    #[error("max call depth exceeded")]
    Depth,
    #[error("insufficient balance for transfer")]
    InsufficientTfuel,
    #[error("insufficient Theta balance for transfer")]
    InsufficientTheta,
    #[error("contract address collision")]
    Collision,
    #[error("invalid gas limit")]
    GasLimit,
    #[error("invalid stake operation")]
    Stake,
    #[error("evm: write protection")]
    WriteProtection,
    #[error("evm: return data out of bounds")]
    ReturnData,
    #[error("invalid opcode {0:#x}")]
    InvalidOpcode(u8),
    #[error("{0} not supported")]
    Unsupported(&'static str),
    #[error("stack underflow ({have} <=> {need})")]
    StackUnderflow { have: usize, need: u8 },
    #[error("stack limit reached {0} (1024)")]
    StackLimit(usize),
    /// `opcode` is the byte at the target.
    #[error("invalid jump destination ({}) {target}", opcodes::mnemonic(*.opcode))]
    Jump { opcode: u8, target: U256 },
    #[error("bad elliptic curve pairing size")]
    PairingSize,
    // By Ethereum's rules only.
    #[error("invalid jump destination")]
    InvalidJump,
    #[error("max initcode size exceeded")]
    InitCodeSize,
    #[error("invalid code: must not begin with 0xef")]
    CodeStart,
    #[error("nonce uint64 overflow")]
    Sequence,
    #[error("precompile: {0}")]
    Precompile(String),
    #[error("bn256: malformed point")]
    CurvePoint,
    #[error("bn256: coordinate exceeds modulus")]
    CoordinateAbove,
    #[error("bn256: coordinate equals modulus")]
    CoordinateEqual,
}
