//! Money: two kinds of wei that cannot be mixed, and the pair of both.
//!
//! Arithmetic is checked everywhere; there is no `+`. One token is 10^18 wei.

use std::{fmt, str::FromStr};

use num_bigint::BigUint;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    codec::rlp::{Decode, DecodeError, Encode, Reader},
    hash::U256,
};

/// Wei in a whole token.
pub const WEI_PER_TOKEN: u64 = 1_000_000_000_000_000_000;

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AmountError {
    /// Neither a decimal number of tokens nor an integer with the suffix `wei`.
    #[error(
        "`{0}` is no amount: write a number of whole tokens such as 1.5, or an integer with the suffix wei"
    )]
    Format(String),
    /// More digits behind the point than a token has wei.
    #[error("`{0}` has more than 18 digits behind the point; one wei is the smallest amount")]
    TooFine(String),
    /// Above 2^256 - 1 wei.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

/// One kind of money; [`ThetaWei`] or [`TFuelWei`].
pub trait Wei: Copy + Ord + fmt::Debug + Default + crate::codec::rlp::Item {
    /// The number of wei.
    fn get(self) -> U256;
    /// The sum, or `None` above 2^256 - 1 wei.
    fn checked_add(self, other: Self) -> Option<Self>;
}

macro_rules! wei {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(U256);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(U256::ZERO);

            /// An amount in wei.
            pub fn wei(wei: impl TryInto<U256>) -> Self {
                Self(wei.try_into().unwrap_or(U256::MAX))
            }

            /// Reads an amount as [`FromStr`] does, but cuts off what is below one wei; whether anything was.
            pub fn parse_cut(text: &str) -> Result<(Self, bool), AmountError> {
                parse_amount(text).map(|(wei, cut)| (Self(wei), cut))
            }

            /// An amount in wei.
            pub const fn from_u256(wei: U256) -> Self {
                Self(wei)
            }

            /// An amount in whole tokens.
            pub fn whole(tokens: u64) -> Self {
                Self(U256::from(tokens) * U256::from(WEI_PER_TOKEN))
            }

            /// The number of wei.
            pub const fn get(self) -> U256 {
                self.0
            }

            /// Whether it is nothing.
            pub fn is_zero(self) -> bool {
                self.0.is_zero()
            }

            /// The sum, or `None` above 2^256 - 1 wei.
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).map(Self)
            }

            /// The difference, or `None` below zero.
            pub fn checked_sub(self, other: Self) -> Option<Self> {
                self.0.checked_sub(other.0).map(Self)
            }

            /// The product, or `None` above 2^256 - 1 wei.
            pub fn checked_mul(self, factor: u64) -> Option<Self> {
                self.0.checked_mul(U256::from(factor)).map(Self)
            }

            /// The difference, or nothing where it would be below zero.
            pub fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// `self * numerator / denominator`, rounded down and exact in between; `None` where the result does not
            /// fit or the denominator is zero.
            pub fn checked_ratio(self, numerator: U256, denominator: U256) -> Option<Self> {
                if denominator.is_zero() {
                    return None;
                }
                let exact = to_big(self.0) * to_big(numerator) / to_big(denominator);
                from_big(&exact).map(Self)
            }
        }

        impl Wei for $name {
            fn get(self) -> U256 {
                self.0
            }
            fn checked_add(self, other: Self) -> Option<Self> {
                self.checked_add(other)
            }
        }

        impl crate::codec::rlp::Item for $name {}

        impl fmt::Display for $name {
            /// The number of wei in decimal.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = AmountError;
            /// `"1.5"` is one and a half token, `"15wei"` is 15 wei.
            fn from_str(text: &str) -> Result<Self, AmountError> {
                match parse_amount(text)? {
                    (wei, false) => Ok(Self(wei)),
                    (_, true) => Err(AmountError::TooFine(text.to_owned())),
                }
            }
        }

        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }
        }

        impl Decode for $name {
            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                U256::decode(input).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            /// A decimal number of wei in a string.
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                U256::from_str_radix(&text, 10).map(Self).map_err(D::Error::custom)
            }
        }
    };
}

wei!(
    /// Wei of THETA, the token that governs and is staked by validators and guardians.
    ThetaWei
);
wei!(
    /// Wei of TFUEL, the token that pays for gas and edge work.
    TFuelWei
);

/// Both balances of an account. RLP: `[theta, tfuel]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Coins {
    /// Wei of THETA.
    #[serde(rename = "thetawei")]
    pub theta: ThetaWei,
    /// Wei of TFUEL.
    #[serde(rename = "tfuelwei")]
    pub tfuel: TFuelWei,
}

crate::rlp_list!(Coins { theta, tfuel });

impl Coins {
    /// Nothing of either.
    pub const ZERO: Self = Self { theta: ThetaWei::ZERO, tfuel: TFuelWei::ZERO };

    /// THETA alone.
    pub const fn theta(theta: ThetaWei) -> Self {
        Self { theta, tfuel: TFuelWei::ZERO }
    }

    /// TFUEL alone.
    pub const fn tfuel(tfuel: TFuelWei) -> Self {
        Self { theta: ThetaWei::ZERO, tfuel }
    }

    /// Whether both are nothing.
    pub fn is_zero(&self) -> bool {
        self.theta.is_zero() && self.tfuel.is_zero()
    }

    /// Component-wise sum.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Some(Self {
            theta: self.theta.checked_add(other.theta)?,
            tfuel: self.tfuel.checked_add(other.tfuel)?,
        })
    }

    /// Component-wise difference; `None` if either would be below zero.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        Some(Self {
            theta: self.theta.checked_sub(other.theta)?,
            tfuel: self.tfuel.checked_sub(other.tfuel)?,
        })
    }
}

/// The same number as an integer without a width limit.
pub fn to_big(value: U256) -> BigUint {
    match value.as_limbs() {
        // What fits two words is nearly every amount there is.
        [low, high, 0, 0] => BigUint::from(u128::from(*high) << 64 | u128::from(*low)),
        _ => BigUint::from_bytes_be(&value.to_be_bytes::<32>()),
    }
}

/// The same number as a word, or `None` above 2^256 - 1.
pub fn from_big(value: &BigUint) -> Option<U256> {
    let mut limbs = [0; 4];
    for (index, digit) in value.iter_u64_digits().enumerate() {
        *limbs.get_mut(index)? = digit;
    }
    Some(U256::from_limbs(limbs))
}

/// The number of wei, and whether digits below one wei were cut off.
fn parse_amount(text: &str) -> Result<(U256, bool), AmountError> {
    let format = || AmountError::Format(text.to_owned());
    let too_large = || AmountError::TooLarge(text.to_owned());
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let number = |part: &str| U256::from_str_radix(part, 10).map_err(|_| too_large());
    if let Some(wei) = text
        .len()
        .checked_sub(3)
        .filter(|at| text.is_char_boundary(*at) && text[*at..].eq_ignore_ascii_case("wei"))
    {
        let wei = text[..wei].trim_end();
        return if wei.is_empty() || !digits(wei) { Err(format()) } else { Ok((number(wei)?, false)) };
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(format());
    }
    let significant = fraction.trim_end_matches('0');
    let (kept, below) = significant.split_at_checked(18).unwrap_or((significant, ""));
    let whole = if whole.is_empty() { U256::ZERO } else { number(whole)? };
    let fraction = number(&format!("{kept:0<18}"))?;
    let wei = whole.checked_mul(U256::from(WEI_PER_TOKEN)).and_then(|wei| wei.checked_add(fraction));
    Ok((wei.ok_or_else(too_large)?, !below.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        assert_eq!("1.5".parse(), Ok(TFuelWei::wei(1_500_000_000_000_000_000_u64)));
        assert_eq!("0.000000000000000001".parse(), Ok(TFuelWei::wei(1)));
        assert_eq!("15wei".parse(), Ok(ThetaWei::wei(15)));
        assert_eq!("15 WEI".parse(), Ok(ThetaWei::wei(15)));
        for bad in ["", ".", "-1", "1e5", "1.5wei", "wei", "1,5", "0x10", "é", "ééé"] {
            assert!(matches!(bad.parse::<ThetaWei>(), Err(AmountError::Format(_))), "{bad}");
        }
        assert!(matches!("0.0000000000000000001".parse::<ThetaWei>(), Err(AmountError::TooFine(_))));
        let huge = "9".repeat(80);
        assert!(matches!(huge.parse::<ThetaWei>(), Err(AmountError::TooLarge(_))));
    }

    /// Amounts that went through floating point elsewhere.
    #[test]
    fn no_amount_is_guessed() {
        for (text, wei) in [
            ("0.07", 70_000_000_000_000_000),
            ("0.1", 100_000_000_000_000_000),
            ("1.1", 1_100_000_000_000_000_000),
            ("0.00000012", 120_000_000_000),
            ("123456.789123456789123456", 123_456_789_123_456_789_123_456),
            (".5", 500_000_000_000_000_000),
            ("5.", 5_000_000_000_000_000_000),
            ("70000000000000000wei", 70_000_000_000_000_000),
            ("1WEI", 1_u128),
        ] {
            assert_eq!(text.parse(), Ok(TFuelWei::wei(wei)), "{text}");
            assert_eq!(text.parse(), Ok(ThetaWei::wei(wei)), "{text}");
        }
        for text in
            ["1e3", "1,5", "+1", "-1", "1_000", " 1", "1 ", "1.5wei", "-1wei", "+1wei", "1.2.3", "1.-5"]
        {
            assert!(matches!(text.parse::<TFuelWei>(), Err(AmountError::Format(_))), "{text}");
        }
        // Below one wei the caller decides what is cut off.
        let fine = "0.0000000000000000019";
        assert!(matches!(fine.parse::<TFuelWei>(), Err(AmountError::TooFine(_))));
        assert_eq!(TFuelWei::parse_cut(fine), Ok((TFuelWei::wei(1), true)));
        assert_eq!(TFuelWei::parse_cut("0.0000000000000000010"), Ok((TFuelWei::wei(1), false)));
        assert!(matches!(TFuelWei::parse_cut("1e3"), Err(AmountError::Format(_))));
    }

    #[test]
    fn coins_compare_by_component() {
        let a = Coins { theta: ThetaWei::wei(1), tfuel: TFuelWei::ZERO };
        let b = Coins { theta: ThetaWei::ZERO, tfuel: TFuelWei::wei(1) };
        assert_eq!(a.checked_sub(b), None);
        assert_eq!(b.checked_sub(a), None);
    }

    #[test]
    fn a_ratio_does_not_overflow_in_between() {
        let all = TFuelWei::from_u256(U256::MAX);
        assert_eq!(all.checked_ratio(U256::from(3), U256::from(3)), Some(all));
        assert_eq!(all.checked_ratio(U256::from(2), U256::from(1)), None);
        assert_eq!(all.checked_ratio(U256::from(2), U256::ZERO), None);
    }
}
