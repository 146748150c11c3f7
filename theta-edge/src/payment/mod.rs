//! Paying for work: receipts off the chain that settle on it (edge.md 5).
//!
//! A payer locks money in a reserve fund. Its [`purse::Purse`] is the only way to a receipt and never signs for more
//! than the fund holds; a payee's [`till::Till`] keeps the best receipt it was given and turns it into one
//! `ServicePayment` transaction. Between two receipts [`tick`]s pay for small units at the cost of a hash. The chain alone
//! would notice an overspend only at the settlement, so the till looks at the fund before it believes a receipt, and
//! payees of one fund [`watch`] it together. [`book`] says where each earned wei is, [`split`] who shares in it.

pub mod book;
pub mod purse;
pub mod receipt;
pub mod split;
pub mod tick;
pub mod till;
pub mod watch;

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::hash::U256;

use crate::executor::{Ending, Output};

/// Share of the price, in percent, that a program's run earns when the program fails by its own fault: all run ticks
/// and nothing for a verified result (edge.md 5.6).
const RUN_SHARE: u64 = 75;
/// Fuel is sold by the million.
const FUEL_UNIT: u64 = 1_000_000;

/// What a node asks for one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// For taking the task at all: moving its inputs and starting a process.
    pub base: TFuelWei,
    /// For each million units of fuel begun.
    pub per_million_fuel: TFuelWei,
}

impl Default for Price {
    /// One TFUEL and a ten-thousandth for each million of fuel: with the fee of 0.3 TFUEL for a settlement, even a
    /// single small job is worth settling.
    fn default() -> Self {
        Self { base: TFuelWei::whole(1), per_million_fuel: TFuelWei::wei(100_000_000_000_000_u64) }
    }
}

impl Price {
    /// The price of a run that used so much fuel; `None` where it is more money than there can be.
    pub fn of(&self, fuel: u64) -> Option<TFuelWei> {
        self.per_million_fuel.checked_mul(fuel.div_ceil(FUEL_UNIT))?.checked_add(self.base)
    }

    /// What a node earns with this result: the price for a program that ran to its end with exit code 0; the share of
    /// the run for one that failed by its own fault; nothing where no work is proven.
    pub fn earned(&self, output: &Output) -> Option<TFuelWei> {
        if output.ending == Ending::TimeLimit || output.fuel_used == 0 {
            return Some(TFuelWei::ZERO);
        }
        let whole = self.of(output.fuel_used)?;
        if output.ending.is_success() {
            return Some(whole);
        }
        whole.checked_ratio(U256::from(RUN_SHARE), U256::from(100))
    }
}

/// Why money does not move.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayError {
    /// No fund is open, or another than the one named.
    #[error("there is no such reserve fund")]
    NoFund,
    /// The fund is in use by receipts this purse knows nothing of.
    #[error("the reserve fund was paid from before; open a new one for this purse")]
    FundInUse,
    /// Promises are still open against the present fund.
    #[error("the present fund still has promises to keep")]
    Promised,
    /// Signed and promised together would exceed the fund.
    #[error("{asked} wei are asked and {left} wei of the fund are free")]
    BudgetExceeded {
        /// What was asked for.
        asked: TFuelWei,
        /// What neither a receipt nor a promise holds.
        left: TFuelWei,
    },
    /// Nothing was promised under this name, or it was released.
    #[error("no promise covers this payment")]
    NoPromise,
    /// The fund does not pay for this resource.
    #[error("the fund does not list resource `{0}`")]
    Resource(String),
    /// The payee has not acknowledged what it was sent before.
    #[error("the payee has too many payments unacknowledged")]
    Unacknowledged,
    /// Payer and payee are one account, which the chain refuses.
    #[error("payer and payee are the same account")]
    SameAccount,
    /// The journal could not be written, so nothing was signed.
    #[error("the payment journal cannot be written")]
    Journal(#[from] theta_core::journal::JournalError),
    /// The key did not sign.
    #[error("the payment could not be signed")]
    Sign(#[from] theta_core::sign::SignError),
    /// A receipt with a field that belongs to another chain, payee or fund.
    #[error("the receipt is for another {0}")]
    Foreign(&'static str),
    /// A signature of the receipt is not the payer's.
    #[error("the receipt is not signed by its payer")]
    Signature,
    /// The sequence is not the one that can settle next.
    #[error("the receipt has payment sequence {found} where {expected} is next")]
    Sequence {
        /// What the receipt says.
        found: u64,
        /// What can settle next.
        expected: u64,
    },
    /// The receipt pays less than one that is already here.
    #[error("the receipt pays less than an earlier one")]
    Stale,
    /// The items do not add up to the receipt.
    #[error("the items of the payment do not add up to its receipt")]
    Items,
    /// The fund could not pay this receipt.
    #[error("the fund has less left than the receipt claims")]
    Uncovered,
    /// Too few blocks are left to settle in.
    #[error("the fund ends too soon")]
    Expiring,
    /// So many funds are watched already; one that ends makes room.
    #[error("the till watches {0} funds already; send the receipt again later")]
    Crowded(usize),
    /// A tick that is not of the chain it is said to be of, or comes too far ahead of the receipt.
    #[error(transparent)]
    Tick(#[from] tick::TickError),
    /// A chain of ticks was opened for this payee already, or by none, or one of a length that is not allowed.
    #[error("the chain of ticks {0}")]
    Chain(&'static str),
    /// The receipt does not pay for the ticks before it.
    #[error("the receipt pays {paid} wei more and {owed} wei of ticks came before it")]
    Rolled {
        /// By how much the receipt is above the one before it.
        paid: TFuelWei,
        /// What the ticks since then pay.
        owed: TFuelWei,
    },
    /// The resource's split rule burns less than this node insists on.
    #[error("the resource's split rule burns {burned} percent where {least} are asked for")]
    NoBurn {
        /// What it burns.
        burned: u64,
        /// What is asked for.
        least: u64,
    },
    /// The books do not add up; nothing changed.
    #[error(transparent)]
    Book(#[from] book::BookError),
    /// This sequence is being settled; the payer continues with the next.
    #[error("payment sequence {0} is being settled")]
    Settling(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_costs_its_run_and_nothing_unproven_costs_anything() {
        let price = Price { base: TFuelWei::wei(100), per_million_fuel: TFuelWei::wei(10) };
        let earned = |ending, fuel| price.earned(&Output::silent(ending, fuel)).unwrap();
        assert_eq!(earned(Ending::Exit(0), 1_000_001), TFuelWei::wei(120));
        assert_eq!(earned(Ending::Exit(3), 1_000_001), TFuelWei::wei(90));
        assert_eq!(earned(Ending::OutOfFuel, 2_000_000), TFuelWei::wei(90));
        assert_eq!(earned(Ending::Trap(String::new()), 1), TFuelWei::wei(82));
        assert_eq!(earned(Ending::InvalidModule(String::new()), 0), TFuelWei::ZERO);
        assert_eq!(earned(Ending::TimeLimit, 0), TFuelWei::ZERO);
        let huge = Price { base: TFuelWei::ZERO, per_million_fuel: TFuelWei::from_u256(U256::MAX) };
        assert_eq!(huge.of(2_000_000), None);
    }
}
