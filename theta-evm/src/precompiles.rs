//! Contracts that are part of the rules: Ethereum's, and Theta's 201 to 207.
//!
//! An error takes all gas of the call. By Theta's rules it is not looked at whether the call is static, also not by those
//! that change state.

use std::sync::Arc;

use revm::{
    precompile::{
        Precompile, PrecompileHalt, PrecompileStatus, Precompiles, bn254, hash, identity, modexp, secp256k1,
    },
    primitives::hardfork::SpecId,
};
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    hash::{Address, U256},
    spec::{EvmRules, RuleSet},
    store::StoreError,
};
use theta_ledger::{
    staking,
    state::StateError,
    tx::{HolderSummary, Purpose, TxError},
};

use crate::{halt::Halt, machine::Machine};

const SUMMARY_LENGTH: usize = 229;
/// Of the field that curve 6 to 8 is over.
const FIELD_MODULUS: U256 = U256::from_limbs([
    0x3c20_8c16_d87c_fd47,
    0x9781_6a91_6871_ca8d,
    0xb850_45b6_8181_585d,
    0x3064_4e72_e131_a029,
]);

/// What stands at a reserved address.
#[derive(Clone, Debug)]
pub(crate) enum Reserved {
    Ethereum(Precompile),
    ThetaBalance,
    ThetaStake,
    TransferTheta,
    StakeToGuardian,
    UnstakeFromGuardian,
    StakeToElite,
    UnstakeFromElite,
}

/// What stands at an address under these rules.
pub(crate) fn at(address: Address, rules: &EvmRules, spec: SpecId) -> Option<Reserved> {
    if rules.rule_set == RuleSet::Ethereum
        && let Some(precompile) = Precompiles::new(spec.into()).get(&address)
    {
        return Some(Reserved::Ethereum(precompile.clone()));
    }
    let (zeros, last) = address.split_at(19);
    if zeros.iter().any(|byte| *byte != 0) {
        return None;
    }
    let curve = |cheap, dear| if rules.cheap_curves { cheap } else { dear };
    Some(match last {
        [1] => Reserved::Ethereum(secp256k1::ECRECOVER),
        [2] => Reserved::Ethereum(hash::SHA256),
        [3] => Reserved::Ethereum(hash::RIPEMD160),
        [4] => Reserved::Ethereum(identity::FUN),
        [5] => Reserved::Ethereum(modexp::BYZANTIUM),
        [6] => Reserved::Ethereum(curve(bn254::add::ISTANBUL, bn254::add::BYZANTIUM)),
        [7] => Reserved::Ethereum(curve(bn254::mul::ISTANBUL, bn254::mul::BYZANTIUM)),
        [8] => Reserved::Ethereum(curve(bn254::pair::ISTANBUL, bn254::pair::BYZANTIUM)),
        [201] => Reserved::ThetaBalance,
        [202] => Reserved::ThetaStake,
        [203] if rules.theta_values => Reserved::TransferTheta,
        [204] if rules.stake_precompiles => Reserved::StakeToGuardian,
        [205] if rules.stake_precompiles => Reserved::UnstakeFromGuardian,
        [206] if rules.stake_precompiles => Reserved::StakeToElite,
        [207] if rules.stake_precompiles => Reserved::UnstakeFromElite,
        _ => return None,
    })
}

/// Output and gas used.
type Answer = Result<(Vec<u8>, u64), Halt>;

impl Reserved {
    /// Whether it moves coins or stakes.
    pub(crate) const fn changes_state(&self) -> bool {
        !matches!(self, Self::Ethereum(_) | Self::ThetaBalance | Self::ThetaStake)
    }

    /// Runs it. `caller` is who spends.
    pub(crate) fn run(
        &self,
        machine: &mut Machine<'_>,
        caller: Address,
        input: &[u8],
        gas: u64,
    ) -> Result<Answer, StateError> {
        if let Self::Ethereum(precompile) = self {
            return Ok(ethereum(precompile, input, gas, machine.ethereum));
        }
        let price = match self {
            Self::ThetaBalance => 4,
            Self::ThetaStake => 200,
            _ => 21_000,
        };
        if price > gas {
            return Ok(Err(Halt::OutOfGas));
        }
        let nothing = |result: Result<(), Halt>| result.map(|()| Vec::new());
        let output = match self {
            Self::Ethereum(_) => Ok(Vec::new()),
            Self::ThetaBalance => Ok(machine.balance(address_in(input))?.theta.get().to_be_bytes_vec()),
            Self::ThetaStake => Ok(machine.view.theta_stake(address_in(input))?.get().to_be_bytes_vec()),
            Self::TransferTheta => nothing(transfer_theta(machine, caller, input)?),
            Self::StakeToGuardian => {
                let stake = Coins::theta(ThetaWei::from_u256(word(input, SUMMARY_LENGTH)));
                nothing(deposit(machine, Purpose::GUARDIAN, caller, input, stake)?)
            }
            Self::StakeToElite => {
                // 32 bytes behind the summary are not looked at.
                let stake = Coins::tfuel(TFuelWei::from_u256(word(input, SUMMARY_LENGTH + 32)));
                nothing(deposit(machine, Purpose::ELITE_EDGE, caller, input, stake)?)
            }
            Self::UnstakeFromGuardian => {
                nothing(withdraw(machine, Purpose::GUARDIAN, caller, address_in(input))?)
            }
            Self::UnstakeFromElite => {
                nothing(withdraw(machine, Purpose::ELITE_EDGE, caller, address_in(input))?)
            }
        };
        Ok(output.map(|output| (output, price)))
    }
}

fn ethereum(precompile: &Precompile, input: &[u8], gas: u64, newest: bool) -> Answer {
    // A fatal error of a precompile without state cannot be.
    let Ok(output) = precompile.execute(input, gas, 0) else { return Err(Halt::OutOfGas) };
    match output.status {
        PrecompileStatus::Success => Ok((output.bytes.to_vec(), output.gas_used)),
        PrecompileStatus::Halt(PrecompileHalt::OutOfGas) => Err(Halt::OutOfGas),
        PrecompileStatus::Halt(reason) if newest => Err(Halt::Precompile(reason.to_string())),
        PrecompileStatus::Halt(PrecompileHalt::Bn254PairLength) => Err(Halt::PairingSize),
        PrecompileStatus::Halt(PrecompileHalt::Bn254AffineGFailedToCreate) => Err(Halt::CurvePoint),
        PrecompileStatus::Halt(PrecompileHalt::Bn254FieldPointNotAMember) => Err(coordinate(input)),
        // Lengths that do not fit a word cost more than there is.
        _ => Err(Halt::OutOfGas),
    }
}

/// The first coordinate that is not of the field decides the text.
fn coordinate(input: &[u8]) -> Halt {
    let mut words = (0..input.len()).step_by(32).map(|offset| word(input, offset));
    let first = words.find(|word| *word >= FIELD_MODULUS);
    if first == Some(FIELD_MODULUS) { Halt::CoordinateEqual } else { Halt::CoordinateAbove }
}

/// `N` bytes from `offset`; zeros where the input has ended.
fn padded<const N: usize>(input: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let rest = input.get(offset..).unwrap_or_default();
    let length = rest.len().min(N);
    bytes[..length].copy_from_slice(&rest[..length]);
    bytes
}

fn word(input: &[u8], offset: usize) -> U256 {
    U256::from_be_bytes(padded::<32>(input, offset))
}

/// The last 20 bytes; a shorter input is a small number.
fn address_in(input: &[u8]) -> Address {
    let mut bytes = [0; 20];
    let length = input.len().min(20);
    bytes[20 - length..].copy_from_slice(&input[input.len() - length..]);
    Address::from(bytes)
}

fn transfer_theta(
    machine: &mut Machine<'_>,
    caller: Address,
    input: &[u8],
) -> Result<Result<(), Halt>, StateError> {
    let amount = word(input, 20);
    if machine.balance(caller)?.theta.get() < amount {
        return Ok(Err(Halt::InsufficientTheta));
    }
    machine.move_theta(caller, Address::from(padded::<20>(input, 0)), amount)?;
    Ok(Ok(()))
}

fn deposit(
    machine: &mut Machine<'_>,
    purpose: Purpose,
    caller: Address,
    input: &[u8],
    stake: Coins,
) -> Result<Result<(), Halt>, StateError> {
    let has = machine.balance(caller)?.checked_sub(stake).is_some();
    let enough =
        purpose != Purpose::GUARDIAN || stake.theta >= ThetaWei::whole(machine.env.rules.stake.min_guardian);
    if !has || !enough {
        return Ok(Err(Halt::Stake));
    }
    let summary = staking::parse_summary(&padded::<SUMMARY_LENGTH>(input, 0));
    let done = summary.and_then(|summary: HolderSummary| {
        staking::deposit(machine.view, purpose, caller, summary.holder, stake, Some(&summary))
    });
    if let Err(halt) = accepted(done)? {
        return Ok(Err(halt));
    }
    machine.take(caller, stake)?;
    Ok(Ok(()))
}

fn withdraw(
    machine: &mut Machine<'_>,
    purpose: Purpose,
    caller: Address,
    holder: Address,
) -> Result<Result<(), Halt>, StateError> {
    let parent_height = machine.view.height();
    accepted(staking::withdraw(machine.view, machine.env.rules, parent_height, purpose, caller, holder))
}

/// Every refusal has one text; what could not be read is no refusal.
fn accepted(result: Result<(), TxError>) -> Result<Result<(), Halt>, StateError> {
    match result {
        Ok(()) => Ok(Ok(())),
        Err(TxError::State(error)) => {
            // Only where somebody else holds it too is its kind lost, and its text kept.
            Err(Arc::try_unwrap(error)
                .unwrap_or_else(|shared| StoreError::Backend(shared.to_string()).into()))
        }
        Err(_) => Ok(Err(Halt::Stake)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_cannot_be_read_is_an_error_whoever_else_holds_it() {
        let broken = || TxError::from(StateError::UnknownBlock("7".to_owned()));
        assert!(matches!(accepted(Err(broken())), Err(StateError::UnknownBlock(_))));
        let shared = broken();
        let TxError::State(held) = &shared else { panic!("{shared}") };
        let _held = held.clone();
        assert!(accepted(Err(shared)).is_err_and(|error| error.to_string().contains("no block 7")));
    }
}
