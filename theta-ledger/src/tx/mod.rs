//! Transactions: the envelope, what all kinds share, and one file for each kind with all of it.
//!
//! Raw bytes are two RLP items in a row, the kind's number and its body ([`RawTx::decode`]). A kind's file holds its
//! fields, what is signed, what is checked (`check`) and what it does (`apply`), in the order in which the reference
//! checks. [`Scope`] is all that a check or an effect may look at besides the state.

mod coinbase;
mod deposit_stake;
mod equivocation;
mod error;
pub mod ethereum;
mod release_fund;
mod reserve_fund;
mod reward_distribution;
mod send;
mod service_payment;
mod sign;
mod slash;
mod smart_contract;
mod split_rule;
mod withdraw_stake;

use std::sync::Arc;

use num_bigint::BigUint;
use serde::{Serialize, Serializer};
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei, from_big, to_big},
    codec::rlp::{Decode, DecodeError, Encode, Fault, Reader},
    context::BlockContext,
    hash::{Address, Hash, U256, keccak},
    rlp_list,
    sign::Signature,
    spec::{ChainSpec, Rules},
};

pub use self::{
    coinbase::{Coinbase, expected_rewards},
    deposit_stake::{DepositStake, DepositStakeV2, HolderSummary, Purpose},
    equivocation::EquivocationError,
    error::TxError,
    release_fund::ReleaseFund,
    reserve_fund::ReserveFund,
    reward_distribution::StakeRewardDistribution,
    send::Send,
    service_payment::ServicePayment,
    sign::{Signatures, Unsigned, sign_bytes},
    slash::{MAX_PROOF_PAYMENTS, OverspendingProof, Slash},
    smart_contract::{SmartContract, intrinsic_gas},
    split_rule::SetSplitRule,
    withdraw_stake::WithdrawStake,
};
use crate::{
    state::{Account, StateError, StateView},
    vm::{ContractVm, VmOutcome},
};

/// A raw transaction is never larger (`ledger/types/serialization.go`).
pub const MAX_TX_BYTES: usize = 8 * 1024 * 1024;
/// A transaction never touches more accounts.
pub const MAX_ACCOUNTS: usize = 512;

/// Coins as a transaction names them: without a width limit, since a field that no rule looks at may hold any number and
/// still be part of what is signed and hashed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxCoins {
    /// Wei of THETA.
    pub theta: BigUint,
    /// Wei of TFUEL.
    pub tfuel: BigUint,
}

rlp_list!(TxCoins { theta, tfuel });

impl TxCoins {
    /// The same coins, or `None` where a number is above 2^256 - 1: more than anybody has.
    pub fn coins(&self) -> Option<Coins> {
        Some(Coins {
            theta: ThetaWei::from_u256(from_big(&self.theta)?),
            tfuel: TFuelWei::from_u256(from_big(&self.tfuel)?),
        })
    }
}

impl From<Coins> for TxCoins {
    fn from(coins: Coins) -> Self {
        Self { theta: to_big(coins.theta.get()), tfuel: to_big(coins.tfuel.get()) }
    }
}

impl Serialize for TxCoins {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut coins = serializer.serialize_struct("Coins", 2)?;
        coins.serialize_field("thetawei", &self.theta.to_string())?;
        coins.serialize_field("tfuelwei", &self.tfuel.to_string())?;
        coins.end()
    }
}

/// Who pays, with the signature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TxInput {
    /// The account.
    pub address: Address,
    /// What is taken, the fee included where the kind says so.
    pub coins: TxCoins,
    /// One above the account's sequence.
    #[serde(serialize_with = "json::text")]
    pub sequence: u64,
    /// Over the transaction's sign bytes.
    pub signature: Signature,
}

rlp_list!(TxInput { address, coins, sequence, signature });

impl TxInput {
    /// An input that is not signed yet.
    pub fn new(address: Address, coins: Coins, sequence: u64) -> Self {
        Self { address, coins: coins.into(), sequence, signature: Signature::EMPTY }
    }

    fn unsigned(&self) -> Self {
        Self { signature: Signature::EMPTY, ..self.clone() }
    }
}

/// Who gets what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TxOutput {
    /// The account.
    pub address: Address,
    /// What it gets.
    pub coins: TxCoins,
}

rlp_list!(TxOutput { address, coins });

impl TxOutput {
    /// An output.
    pub fn new(address: Address, coins: Coins) -> Self {
        Self { address, coins: coins.into() }
    }
}

/// What every kind of transaction has.
pub trait Body: Encode + Decode + Clone {
    /// Its number on the wire.
    const KIND: u16;
    /// The kind and the body as they are signed.
    fn signed_part(&self) -> Vec<u8>;
    /// The same where a kind is signed with more of it, as deposits behind validators with keys.
    fn signed_part_with_key(&self) -> Vec<u8> {
        self.signed_part()
    }
    /// Puts the signer's signature in.
    fn attach(&mut self, signature: Signature);
}

/// Kind and body in a row.
fn enveloped<T: Encode>(kind: u16, body: &T) -> Vec<u8> {
    // Most transactions fit.
    let mut out = Vec::with_capacity(256);
    kind.encode(&mut out);
    body.encode(&mut out);
    out
}

macro_rules! transactions {
    ($($(#[$doc:meta])* $name:ident($body:ty)),* $(,)?) => {
        /// A transaction of any kind.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        #[serde(untagged)]
        pub enum Transaction {
            $($(#[$doc])* $name($body)),*
        }

        impl Transaction {
            /// Its number on the wire.
            pub const fn kind(&self) -> u16 {
                match self {
                    $(Self::$name(_) => <$body>::KIND),*
                }
            }

            /// Raw bytes: kind and body.
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $(Self::$name(body) => enveloped(<$body>::KIND, body)),*
                }
            }

            /// Kind and body as they are signed.
            pub fn signed_part(&self) -> Vec<u8> {
                match self {
                    $(Self::$name(body) => body.signed_part()),*
                }
            }

            fn decode_body(kind: u16, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                $(if kind == <$body>::KIND {
                    return input.read().map(Self::$name);
                })*
                Err(input.error(Fault::Value("no such kind of transaction")))
            }

            /// Whether it is valid on the state as it stands. Changes nothing.
            pub fn check(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<(), TxError> {
                self.check_kind(scope.rules)?;
                match self {
                    $(Self::$name(body) => body.check(scope, view)),*
                }
            }

            /// Carries it out after [`Self::check`]. On an error the caller reverts the view.
            pub fn apply(&self, scope: &Scope<'_>, view: &mut StateView) -> Result<Option<VmOutcome>, TxError> {
                match self {
                    $(Self::$name(body) => body.apply(scope, view)),*
                }
            }
        }

        $(impl From<$body> for Transaction {
            fn from(body: $body) -> Self {
                Self::$name(body)
            }
        })*
    };
}

transactions! {
    /// Pays the block's rewards.
    Coinbase(Coinbase),
    /// Punishes an overspending payer or a validator that contradicted itself; never valid under the reference's rules.
    Slash(Slash),
    /// Moves coins.
    Send(Send),
    /// Sets coins aside for service payments.
    ReserveFund(ReserveFund),
    /// Takes them back.
    ReleaseFund(ReleaseFund),
    /// Pays for a service out of a reserved fund.
    ServicePayment(ServicePayment),
    /// Sets who shares in payments for a resource.
    SplitRule(SetSplitRule),
    /// Creates or calls a contract.
    SmartContract(SmartContract),
    /// Stakes.
    DepositStake(DepositStake),
    /// Begins the return of a stake.
    WithdrawStake(WithdrawStake),
    /// Stakes with a BLS key.
    DepositStakeV2(DepositStakeV2),
    /// Sets who shares in a node's rewards.
    StakeRewardDistribution(StakeRewardDistribution),
}

impl Transaction {
    /// Reads kind and body; gives the bytes behind them too, which the reference ignores.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), DecodeError> {
        let mut reader = Reader::new(bytes, MAX_TX_BYTES)?;
        let kind = reader.read()?;
        // A length that lies is found before a body of any kind is begun.
        if !reader.list_fits() {
            return Err(reader.error(Fault::Cut));
        }
        let transaction = Self::decode_body(kind, &mut reader)?;
        Ok((transaction, reader.rest().len()))
    }

    fn check_kind(&self, rules: &Rules) -> Result<(), TxError> {
        let supported = match self {
            Self::SmartContract(_) => rules.tx.contracts,
            Self::StakeRewardDistribution(_) => rules.stake.elite_edge,
            Self::Slash(_) => rules.tx.slash_overspending,
            _ => true,
        };
        if supported { Ok(()) } else { Err(TxError::UnsupportedKind) }
    }

    /// Recovers the signers that [`Self::check`] will ask for, so that it finds them in the cache. Says nothing of whether
    /// they are right.
    pub(crate) fn recover(&self, scope: &Scope<'_>) {
        let of = |input: &TxInput, part: &[u8]| {
            scope.is_signed(input.address, &input.signature, part);
        };
        match self {
            Self::Coinbase(tx) => of(&tx.proposer, &tx.signed_part()),
            Self::Slash(tx) => of(&tx.proposer, &tx.signed_part()),
            Self::Send(tx) => {
                let part = tx.signed_part();
                tx.inputs.iter().for_each(|input| of(input, &part));
            }
            Self::ReserveFund(tx) => of(&tx.source, &tx.signed_part()),
            Self::ReleaseFund(tx) => of(&tx.source, &tx.signed_part()),
            Self::ServicePayment(tx) => tx.recover(scope),
            Self::SplitRule(tx) => of(&tx.initiator, &tx.signed_part()),
            Self::SmartContract(tx) => drop(tx.check_signer(scope)),
            Self::DepositStake(tx) => of(&tx.source, &tx.signed_part()),
            Self::WithdrawStake(tx) => of(&tx.source, &tx.signed_part()),
            Self::DepositStakeV2(tx) => of(&tx.source, &tx.signed_part_by(scope.rules)),
            Self::StakeRewardDistribution(tx) => of(&tx.holder, &tx.signed_part()),
        }
    }

    /// The account whose queue it waits in, and its sequence there (`ledger/execution`, getTxInfo). A service payment goes
    /// by its payment sequence; the reference takes the target's sequence, which no rule looks at.
    pub fn sender(&self) -> (Address, u64) {
        let of = |input: &TxInput| (input.address, input.sequence);
        match self {
            Self::Coinbase(tx) => of(&tx.proposer),
            Self::Slash(tx) => of(&tx.proposer),
            Self::Send(tx) => tx.inputs.first().map_or((Address::ZERO, 0), of),
            Self::ReserveFund(tx) => of(&tx.source),
            Self::ReleaseFund(tx) => of(&tx.source),
            Self::ServicePayment(tx) => (tx.target.address, tx.payment_sequence),
            Self::SplitRule(tx) => of(&tx.initiator),
            Self::SmartContract(tx) => of(&tx.from),
            Self::DepositStake(tx) => of(&tx.source),
            Self::WithdrawStake(tx) => of(&tx.source),
            Self::DepositStakeV2(tx) => of(&tx.source),
            Self::StakeRewardDistribution(tx) => of(&tx.holder),
        }
    }

    /// Whose sequence it raises or whose balance or fund it lowers; contracts may touch others too.
    pub fn payers(&self) -> Vec<Address> {
        match self {
            Self::Send(tx) => tx.inputs.iter().map(|input| input.address).collect(),
            Self::ServicePayment(tx) => vec![tx.source.address, tx.target.address],
            Self::Slash(tx) => vec![tx.proposer.address, tx.slashed_address],
            _ => vec![self.sender().0],
        }
    }

    /// What it offers for a unit of gas, in TFuelWei: its rank in the mempool.
    pub fn gas_price(&self, rules: &Rules) -> BigUint {
        let per = |fee: &TxCoins, gas: u64| &fee.tfuel / gas;
        let regular = rules.tx.regular_gas;
        match self {
            Self::Coinbase(_) => BigUint::ZERO,
            // It pays nothing and takes a collateral or a stake: nobody makes many, and none of them should wait.
            Self::Slash(_) if rules.tx.slash_overspending => BigUint::from(u128::MAX),
            Self::Slash(_) => BigUint::ZERO,
            Self::Send(tx) => per(&tx.fee, (tx.inputs.len() + tx.outputs.len()).max(2) as u64 * regular / 2),
            Self::SmartContract(tx) => tx.effective_price(rules),
            Self::ReserveFund(tx) => per(&tx.fee, regular),
            Self::ReleaseFund(tx) => per(&tx.fee, regular),
            Self::ServicePayment(tx) => per(&tx.fee, regular),
            Self::SplitRule(tx) => per(&tx.fee, regular),
            Self::DepositStake(tx) => per(&tx.fee, regular),
            Self::WithdrawStake(tx) => per(&tx.fee, regular),
            Self::DepositStakeV2(tx) => per(&tx.fee, regular),
            Self::StakeRewardDistribution(tx) => per(&tx.fee, regular),
        }
    }

    /// Whether it raises the flag of the set-change rule: a deposit or withdrawal of a validator's stake by the old kinds
    /// (`ledger/ledger.go`; a type 10 deposit changes the pool too and is not counted), or the burning of such stakes.
    pub fn changes_validators(&self) -> bool {
        match self {
            Self::DepositStake(tx) => tx.purpose == Purpose::VALIDATOR,
            Self::WithdrawStake(tx) => tx.purpose == Purpose::VALIDATOR,
            Self::Slash(tx) => tx.is_of_equivocation(),
            _ => false,
        }
    }

    /// Whether it has to wait while stakes are frozen: the old kinds, whatever their purpose.
    pub const fn is_freezable(&self) -> bool {
        matches!(self, Self::DepositStake(_) | Self::WithdrawStake(_))
    }
}

/// A transaction with the bytes it came in, which are what is hashed and stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTx {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Keccak-256 of the bytes: the transaction's public hash.
    pub hash: Hash,
    /// What they say.
    pub transaction: Transaction,
    /// Bytes behind the body, part of the hash and of nothing else.
    pub trailing: usize,
}

impl RawTx {
    /// Reads raw bytes of [`MAX_TX_BYTES`] at most.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        let (transaction, trailing) = Transaction::decode(&bytes)?;
        Ok(Self { hash: keccak(&bytes), bytes, transaction, trailing })
    }

    /// A transaction made here.
    pub fn new(transaction: Transaction) -> Self {
        let bytes = transaction.encode();
        Self { hash: keccak(&bytes), bytes, transaction, trailing: 0 }
    }
}

/// All that a check or an effect may look at besides the state.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    /// The chain.
    pub spec: &'a ChainSpec,
    /// Its rules at the block's height.
    pub rules: &'a Rules,
    /// The block.
    pub block: &'a BlockContext,
    /// Who runs contracts.
    pub vm: &'a dyn ContractVm,
    /// Signers that were recovered before.
    pub signatures: &'a Signatures,
}

impl std::fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scope").field("height", &self.block.height()).finish_non_exhaustive()
    }
}

impl Scope<'_> {
    /// Height H of the block.
    pub fn height(&self) -> u64 {
        self.block.height()
    }

    /// Height of the state, H - 1.
    pub fn parent_height(&self) -> u64 {
        self.block.parent.height
    }

    /// The account of an input, as a transaction loads it.
    fn existing(&self, view: &mut StateView, address: Address) -> Result<Account, TxError> {
        view.load(address)?.ok_or(TxError::NoAccount(address))
    }

    /// Sequence, balance and signature of an input, in this order.
    fn check_input(&self, account: &Account, input: &TxInput, signed_part: &[u8]) -> Result<(), TxError> {
        let expected = account.sequence.wrapping_add(1);
        if input.sequence != expected {
            return Err(TxError::Sequence { got: input.sequence, expected });
        }
        if affordable(account, &input.coins).is_none() {
            return Err(TxError::insufficient(account.balance, input.coins.clone()));
        }
        self.check_signature(account.address, &input.signature, signed_part)
    }

    /// The native signature rule over either wrapper of sign bytes.
    fn check_signature(&self, signer: Address, signature: &Signature, signed: &[u8]) -> Result<(), TxError> {
        if self.is_signed(signer, signature, signed) { Ok(()) } else { Err(TxError::Signature) }
    }

    fn is_signed(&self, signer: Address, signature: &Signature, signed: &[u8]) -> bool {
        self.is_signed_first(signer, signature, signed)
            || (self.rules.tx.second_wrapper && self.is_signed_as(signer, signature, signed, true))
    }

    /// The native signature rule over the first wrapper alone: coinbases and service payments.
    fn is_signed_first(&self, signer: Address, signature: &Signature, signed: &[u8]) -> bool {
        self.is_signed_as(signer, signature, signed, false)
    }

    fn is_signed_as(&self, signer: Address, signature: &Signature, signed: &[u8], second: bool) -> bool {
        if self.rules.tx.low_s && !signature.is_low_s() {
            return false;
        }
        let digest = keccak(sign_bytes(&self.spec.chain, signed, second));
        self.signatures.recover(signature, &digest) == Ok(signer)
    }

    /// The fee of a kind that pays the plain minimum.
    fn check_fee(&self, fee: &TxCoins) -> Result<Coins, TxError> {
        self.check_fee_of(fee, self.rules.tx.min_fee)
    }

    fn check_fee_of(&self, fee: &TxCoins, minimum: TFuelWei) -> Result<Coins, TxError> {
        let too_low = TxError::Fee { minimum };
        if fee.theta != BigUint::ZERO || fee.tfuel < to_big(minimum.get()) {
            return Err(too_low);
        }
        fee.coins().ok_or(too_low)
    }
}

/// Whether an account can pay coins of any width; the coins where it can.
fn affordable(account: &Account, coins: &TxCoins) -> Option<Coins> {
    coins.coins().filter(|coins| account.balance.checked_sub(*coins).is_some())
}

/// Takes coins from an account.
fn charge(account: &mut Account, coins: Coins) -> Result<(), TxError> {
    account.balance = account
        .balance
        .checked_sub(coins)
        .ok_or_else(|| TxError::insufficient(account.balance, coins.into()))?;
    Ok(())
}

/// Gives coins to an account.
fn credit(account: &mut Account, coins: Coins) -> Result<(), TxError> {
    account.balance = account.balance.checked_add(coins).ok_or(TxError::Overflow)?;
    Ok(())
}

/// Balances and counters of JSON forms.
mod json {
    use base64::Engine;
    use serde::Serializer;

    /// A number as decimal text.
    pub(super) fn text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.to_string())
    }

    /// Bytes in base64.
    pub(super) fn base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
    }

    /// Bytes that are text by convention.
    pub(super) fn lossy<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(bytes))
    }
}

/// Transactions that the mempool and blocks share.
pub type SharedTx = Arc<RawTx>;

/// The word form of an amount that was checked to fit.
fn word(value: &BigUint) -> U256 {
    from_big(value).unwrap_or(U256::MAX)
}

impl From<StateError> for TxError {
    fn from(error: StateError) -> Self {
        Self::State(Arc::new(error))
    }
}
