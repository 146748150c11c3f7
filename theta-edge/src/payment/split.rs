//! Who gets how much of a settled payment: the burn share and what a resource's rule gives to others (edge.md 5.7).
//!
//! The ledger knows no burn of a payment; a share of the resource's split rule that goes to [`BURN_ADDRESS`], of which
//! nobody has the key, is the burn. Shares are computed as the ledger does: whole percent, rounded down, the rest is the
//! payee's (ledger.md on `SplitRuleTx`).

use theta_core::amount::TFuelWei;
use theta_core::hash::{Address, U256};
use theta_ledger::state::account::{Split, SplitRule};

use super::PayError;

/// Where burned TFUEL goes.
pub const BURN_ADDRESS: Address = Address::ZERO;
/// Percent of each payment that are burned on the network (edge.md appendix A).
pub const BURN_SHARE: u64 = 25;

/// How one settled amount is divided. The three add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Division {
    /// The payee's own.
    pub kept: TFuelWei,
    /// The burn share.
    pub burned: TFuelWei,
    /// Everybody else's.
    pub shared: TFuelWei,
}

/// Parts of a rule that burns: `BURN_SHARE` to nobody, and what is given to others. `None` if that is more than all.
pub fn burning(others: &[(Address, u64)]) -> Option<Vec<Split>> {
    let all = others.iter().try_fold(BURN_SHARE, |sum, (_, percent)| sum.checked_add(*percent))?;
    let burn = Split { address: BURN_ADDRESS, percentage: BURN_SHARE };
    let rest =
        others.iter().map(|(address, percentage)| Split { address: *address, percentage: *percentage });
    (all <= 100).then(|| [burn].into_iter().chain(rest).collect())
}

/// Whether a resource's rule burns at least so many percent at this height and at the end of the fund, which is as long
/// as its receipts may settle.
pub fn check_burn(rule: Option<&SplitRule>, percent: u64, until: u64) -> Result<(), PayError> {
    let burned = rule.filter(|rule| rule.end_height >= until).map_or(0, |rule| {
        rule.splits
            .iter()
            .filter(|split| split.address == BURN_ADDRESS)
            .fold(0_u64, |sum, split| sum.saturating_add(split.percentage))
    });
    if burned >= percent { Ok(()) } else { Err(PayError::NoBurn { burned, least: percent }) }
}

/// What becomes of an amount that settles for a payee under a rule at a height.
pub fn divide(amount: TFuelWei, payee: Address, rule: Option<&SplitRule>, height: u64) -> Division {
    let (mut kept, mut division) = (amount, Division::default());
    for split in rule.filter(|rule| height <= rule.end_height).into_iter().flat_map(|rule| &rule.splits) {
        if split.percentage > 100 || split.address == payee {
            continue;
        }
        let part = amount.checked_ratio(U256::from(split.percentage), U256::from(100)).unwrap_or_default();
        // A rule that gives more than all away never gets into the chain.
        let part = part.min(kept);
        kept = kept.saturating_sub(part);
        let place = if split.address == BURN_ADDRESS { &mut division.burned } else { &mut division.shared };
        *place = place.checked_add(part).unwrap_or(*place);
    }
    Division { kept, ..division }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(splits: Vec<Split>) -> SplitRule {
        SplitRule {
            initiator: Address::repeat_byte(9),
            resource: b"edge1/any".to_vec(),
            splits,
            end_height: 100,
        }
    }

    #[test]
    fn parts_are_rounded_down_and_add_up() {
        let (payee, platform) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let rule = rule(burning(&[(platform, 10), (payee, 5)]).unwrap());
        let divided = divide(TFuelWei::wei(39), payee, Some(&rule), 100);
        assert_eq!(
            (divided.burned, divided.shared, divided.kept),
            (TFuelWei::wei(9), TFuelWei::wei(3), TFuelWei::wei(27))
        );
        assert_eq!(
            divide(TFuelWei::wei(39), payee, Some(&rule), 101).kept,
            TFuelWei::wei(39),
            "it has ended"
        );
        assert_eq!(divide(TFuelWei::wei(39), payee, None, 1).kept, TFuelWei::wei(39));
    }

    #[test]
    fn a_rule_without_the_burn_or_with_an_early_end_is_refused() {
        assert_eq!(burning(&[(Address::repeat_byte(2), 76)]), None);
        let good = rule(burning(&[]).unwrap());
        assert!(check_burn(Some(&good), BURN_SHARE, 100).is_ok());
        assert!(check_burn(Some(&good), BURN_SHARE, 101).is_err());
        assert!(check_burn(None, BURN_SHARE, 1).is_err());
        assert!(check_burn(None, 0, 1).is_ok());
        let little = rule(vec![Split { address: BURN_ADDRESS, percentage: 24 }]);
        let error = check_burn(Some(&little), BURN_SHARE, 100).unwrap_err();
        assert!(matches!(error, PayError::NoBurn { burned: 24, least: 25 }));
    }
}
