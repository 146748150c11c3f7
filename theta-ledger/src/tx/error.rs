//! Why a transaction was refused.

use std::sync::Arc;

use theta_core::{
    amount::{Coins, TFuelWei},
    codec::rlp::DecodeError,
    hash::Address,
    stake::{StakeError, reward::UnknownValidator},
};

use super::{TxCoins, equivocation::EquivocationError};
use crate::state::StateError;

/// Why a transaction was not applied. Every node gives the same variant for the same input and state.
///
/// Texts keep the reference's wording where client libraries read them.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TxError {
    /// Not the bytes of a transaction.
    #[error("malformed transaction: {0}")]
    Decode(#[from] DecodeError),
    /// Bytes behind the transaction, where the chain refuses them.
    #[error("{0} bytes behind the end of the transaction")]
    Trailing(usize),
    /// No such kind of transaction at this height.
    #[error("tx type not supported yet")]
    UnsupportedKind,
    /// Only validators make this kind, inside their blocks.
    #[error("unauthorized tx: only a block's proposer makes this kind")]
    Unauthorized,
    /// Signed by another key, or not at all.
    #[error("Signature verification failed: it is not the sender's over the sign bytes of this chain")]
    Signature,
    /// Signed by another key under the Ethereum rule.
    #[error(
        "ETH Signature verification failed: it is neither the sender's native signature nor its EIP-155 one for chain id {0}"
    )]
    EthereumSignature(String),
    /// A typed transaction where the chain takes none.
    #[error(
        "transaction type not supported: type {0} cannot be put on this chain, send a legacy transaction with chain id"
    )]
    Typed(u8),
    /// A typed transaction that breaks its form's own rules.
    #[error("invalid typed transaction: {0}")]
    TypedForm(&'static str),
    /// Longer code that makes a contract than the chain takes.
    #[error("max initcode size exceeded: at most {0} bytes")]
    InitCode(usize),
    /// Out of order.
    #[error("ValidateInputAdvanced: Got {got}, expected {expected}. (acc.seq={})", expected.wrapping_sub(1))]
    Sequence {
        /// The transaction's.
        got: u64,
        /// The only one that fits.
        expected: u64,
    },
    /// The account cannot pay.
    #[error(
        "Insufficient fund: balance is {} ThetaWei, {} TFuelWei, tried to send {} ThetaWei, {} TFuelWei",
        .0.balance.theta, .0.balance.tfuel, .0.wanted.theta, .0.wanted.tfuel
    )]
    Insufficient(Box<Shortage>),
    /// Balance below what the transaction may cost in all.
    #[error(
        "Source balance is {} ThetaWei, {} TFuelWei, but required minimal balance is {} ThetaWei, {} TFuelWei",
        .0.balance.theta, .0.balance.tfuel, .0.wanted.theta, .0.wanted.tfuel
    )]
    BelowMinimalBalance(Box<Shortage>),
    /// The fee is too low, or in THETA.
    #[error("Insufficient fee. Transaction fee needs to be at least {minimum} TFuelWei")]
    Fee {
        /// The least fee.
        minimum: TFuelWei,
    },
    /// The account cannot pay the fee. (A code of its own exists only for some kinds.)
    #[error("balance does not cover the fee")]
    InsufficientFee,
    /// The account does not exist.
    #[error("Failed to get the account (the address has no Theta nor TFuel): {0}")]
    NoAccount(Address),
    /// Too few or too many accounts.
    #[error("between one and 512 accounts have to take part, with at least one input and one output")]
    Accounts,
    /// An address twice, as input or output.
    #[error("Duplicated address: {0}")]
    Duplicate(Address),
    /// A plain send to or from a contract.
    #[error("{0} is a contract: use a smart contract transaction")]
    Contract(Address),
    /// Inputs are not outputs plus fee.
    #[error("sum of inputs is not sum of outputs plus fee")]
    Unbalanced,
    /// A sum above 2^256 wei.
    #[error("amount is too large")]
    Overflow,
    /// The coinbase does not fit its block.
    #[error("invalid coinbase: {0}")]
    Coinbase(&'static str),
    /// A validator of the set has no entry in the pool.
    #[error(transparent)]
    UnknownValidator(#[from] UnknownValidator),
    /// Nothing to reserve.
    #[error("Reserved fund not specified")]
    NothingReserved,
    /// Only TFUEL can be reserved.
    #[error("Cannot reserve Theta as service fund")]
    ReservedTheta,
    /// The fund breaks a rule of reserved funds.
    #[error("reserve fund check failed: {0}")]
    Reserve(&'static str),
    /// Nothing can be released.
    #[error("release fund check failed: {0}")]
    Release(&'static str),
    /// The payment fits no reserved fund.
    #[error("transfer reserved fund check failed: {0}")]
    Transfer(&'static str),
    /// Not 65 bytes.
    #[error("a signature has 65 bytes")]
    SignatureLength,
    /// The payment's form is wrong.
    #[error("invalid service payment: {0}")]
    Payment(&'static str),
    /// The proof does not show that a payer signed away more than its fund holds.
    #[error("invalid proof of overspending: {0}")]
    Overspending(&'static str),
    /// The validator is not punished.
    #[error(transparent)]
    Equivocation(#[from] EquivocationError),
    /// The rule belongs to somebody else.
    #[error("Unauthorized to update the split rule of this resource")]
    SplitOwner,
    /// The split breaks a rule.
    #[error("invalid split rule: {0}")]
    Split(&'static str),
    /// The gas price is too low.
    #[error("Insufficient gas price. Gas price needs to be at least {0} TFuelWei")]
    GasPrice(u64),
    /// The gas limit is too high.
    #[error("Invalid gas limit. Gas limit needs to be at most {0}")]
    GasLimit(u64),
    /// The gas limit does not cover what the bytes alone cost.
    #[error("intrinsic gas too low: {limit} given, {needed} needed")]
    IntrinsicGas {
        /// The limit.
        limit: u64,
        /// What the bytes cost.
        needed: u64,
    },
    /// Gas price times limit has more than 255 bits.
    #[error("Fee limit is too high")]
    FeeLimit,
    /// THETA in a transaction signed by an Ethereum wallet.
    #[error("a transaction signed by an Ethereum wallet cannot carry Theta")]
    EthereumTheta,
    /// What the contract cost could not be charged any more.
    #[error("failed to charge transaction fee")]
    ChargeGas,
    /// No such purpose.
    #[error("Invalid stake purpose: 0 is validator, 1 guardian, 2 elite edge node")]
    Purpose,
    /// The wrong coin.
    #[error("Invalid stake: {0}")]
    Stake(&'static str),
    /// Below the minimum, or more than there is.
    #[error("Insufficient stake: {0}")]
    InsufficientStake(String),
    /// More than may back one elite edge node.
    #[error("Stake exceeds the cap of 500,000 TFuel for one elite edge node")]
    StakeCap,
    /// The pool refused.
    #[error("stake operation failed: {0}")]
    Pool(#[from] StakeError),
    /// BLS key, proof of possession or the holder's signature is missing or wrong.
    #[error("invalid BLS key of the holder: {0}")]
    BlsKey(&'static str),
    /// The part is above a tenth.
    #[error("at most 1000 basis points can be split off")]
    SplitBasisPoint,
    /// Our own state could not be read; says nothing about the transaction.
    #[error("state is not readable: {0}")]
    State(Arc<StateError>),
}

/// What is there and what was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// What the account has.
    pub balance: Coins,
    /// What it would take.
    pub wanted: TxCoins,
}

impl TxError {
    pub(super) fn insufficient(balance: Coins, wanted: TxCoins) -> Self {
        Self::Insufficient(Box::new(Shortage { balance, wanted }))
    }

    pub(super) fn below_minimal(balance: Coins, wanted: TxCoins) -> Self {
        Self::BelowMinimalBalance(Box::new(Shortage { balance, wanted }))
    }

    /// The reference's result code (`common/result/error_code.go`).
    pub const fn code(&self) -> u32 {
        match self {
            Self::Signature | Self::EthereumSignature(_) => 100_001,
            Self::Sequence { .. } => 100_002,
            Self::Insufficient(_) | Self::BelowMinimalBalance(_) => 100_003,
            Self::Unauthorized => 100_005,
            Self::Fee { .. } => 100_006,
            Self::Reserve(_) => 101_001,
            Self::NothingReserved => 101_002,
            Self::ReservedTheta => 101_003,
            Self::Release(_) => 102_001,
            Self::Transfer(_) => 103_001,
            Self::SplitOwner => 104_001,
            Self::GasPrice(_) => 105_003,
            Self::FeeLimit => 105_004,
            Self::GasLimit(_) | Self::IntrinsicGas { .. } => 105_005,
            Self::Purpose => 106_001,
            Self::Stake(_) => 106_002,
            Self::InsufficientStake(_) => 106_003,
            Self::StakeCap => 106_005,
            _ => 100_000,
        }
    }

    /// Whether whoever relayed it should have known: it can never become valid.
    pub const fn is_peer_fault(&self) -> bool {
        matches!(self, Self::Decode(_) | Self::Signature | Self::EthereumSignature(_) | Self::Unauthorized)
    }

    /// The failed read, where the node and not the transaction is to blame.
    pub const fn state_error(&self) -> Option<&Arc<StateError>> {
        match self {
            Self::State(error) => Some(error),
            _ => None,
        }
    }
}
