//! Where each wei that a node has earned is, in double entry.
//!
//! Money only ever moves from one account to another, so what was earned is at any time the sum of all places it can be
//! in. An amount that is not where an entry takes it from is refused and changes nothing.

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;

/// Where money can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Account {
    /// The payer's fund: where all of it comes from.
    Payer,
    /// Paid by ticks that no receipt covers yet: lost if the payer goes away now.
    Exposed,
    /// In a receipt that was not settled yet.
    Accrued,
    /// On the own account of the chain, fees of settlements not yet taken off.
    Settled,
    /// The burn share of what was settled.
    Burned,
    /// What others got of it by the resource's split rule.
    Shared,
    /// Fees of settlements.
    Fees,
    /// Never paid: ticks or receipts of a fund that ended.
    Lost,
}

/// Why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BookError {
    /// The account has less than is taken from it.
    #[error("{from:?} holds {held} wei and {asked} are to leave it")]
    Missing {
        /// The account.
        from: Account,
        /// What it holds.
        held: TFuelWei,
        /// What was to leave it.
        asked: TFuelWei,
    },
    /// More money than there can be.
    #[error("the sum is more money than there can be")]
    Overflow,
}

/// The accounts of one node, or of its part in one fund.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// All that ever left the payer's account.
    pub earned: TFuelWei,
    /// [`Account::Exposed`].
    pub exposed: TFuelWei,
    /// [`Account::Accrued`].
    pub accrued: TFuelWei,
    /// [`Account::Settled`].
    pub settled: TFuelWei,
    /// [`Account::Burned`].
    pub burned: TFuelWei,
    /// [`Account::Shared`].
    pub shared: TFuelWei,
    /// [`Account::Fees`].
    pub fees: TFuelWei,
    /// [`Account::Lost`].
    pub lost: TFuelWei,
}

impl Book {
    const fn place(&mut self, account: Account) -> Option<&mut TFuelWei> {
        Some(match account {
            Account::Payer => return None,
            Account::Exposed => &mut self.exposed,
            Account::Accrued => &mut self.accrued,
            Account::Settled => &mut self.settled,
            Account::Burned => &mut self.burned,
            Account::Shared => &mut self.shared,
            Account::Fees => &mut self.fees,
            Account::Lost => &mut self.lost,
        })
    }

    /// Moves money from one account to another.
    pub fn post(&mut self, from: Account, to: Account, amount: TFuelWei) -> Result<(), BookError> {
        let mut next = *self;
        match next.place(from) {
            None => next.earned = next.earned.checked_add(amount).ok_or(BookError::Overflow)?,
            Some(place) => {
                let held = *place;
                let missing = BookError::Missing { from, held, asked: amount };
                *place = held.checked_sub(amount).ok_or(missing)?;
            }
        }
        match next.place(to) {
            None => {
                let missing = BookError::Missing { from: to, held: next.earned, asked: amount };
                next.earned = next.earned.checked_sub(amount).ok_or(missing)?;
            }
            Some(place) => *place = place.checked_add(amount).ok_or(BookError::Overflow)?,
        }
        *self = next;
        Ok(())
    }

    /// Adds another book's accounts to these.
    pub fn add(&mut self, other: &Self) -> Result<(), BookError> {
        let sum = |a: TFuelWei, b| a.checked_add(b).ok_or(BookError::Overflow);
        *self = Self {
            earned: sum(self.earned, other.earned)?,
            exposed: sum(self.exposed, other.exposed)?,
            accrued: sum(self.accrued, other.accrued)?,
            settled: sum(self.settled, other.settled)?,
            burned: sum(self.burned, other.burned)?,
            shared: sum(self.shared, other.shared)?,
            fees: sum(self.fees, other.fees)?,
            lost: sum(self.lost, other.lost)?,
        };
        Ok(())
    }

    /// Whether all that was earned is somewhere, and nothing else is.
    pub fn balances(&self) -> bool {
        [self.exposed, self.accrued, self.settled, self.burned, self.shared, self.fees, self.lost]
            .into_iter()
            .try_fold(TFuelWei::ZERO, TFuelWei::checked_add)
            == Some(self.earned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn money_that_is_not_there_does_not_move() {
        let mut book = Book::default();
        book.post(Account::Payer, Account::Exposed, TFuelWei::wei(5)).unwrap();
        let before = book;
        let missing =
            BookError::Missing { from: Account::Exposed, held: TFuelWei::wei(5), asked: TFuelWei::wei(6) };
        assert_eq!(book.post(Account::Exposed, Account::Accrued, TFuelWei::wei(6)), Err(missing));
        let huge = TFuelWei::from_u256(theta_core::hash::U256::MAX);
        assert_eq!(book.post(Account::Payer, Account::Accrued, huge), Err(BookError::Overflow));
        assert_eq!(book, before);
        book.post(Account::Exposed, Account::Accrued, TFuelWei::wei(5)).unwrap();
        assert!(book.exposed.is_zero() && book.balances());
    }

    proptest! {
        #[test]
        fn no_order_of_entries_makes_or_loses_a_wei(
            entries in proptest::collection::vec((0..8_usize, 0..8_usize, 0..20_u64), 0..200)
        ) {
            const ALL: [Account; 8] = [
                Account::Payer, Account::Exposed, Account::Accrued, Account::Settled,
                Account::Burned, Account::Shared, Account::Fees, Account::Lost,
            ];
            let mut book = Book::default();
            for (from, to, amount) in entries {
                let _refused = book.post(ALL[from], ALL[to], TFuelWei::wei(amount));
                prop_assert!(book.balances(), "{book:?}");
            }
        }
    }
}
