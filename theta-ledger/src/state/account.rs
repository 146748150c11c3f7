//! Accounts, reserved funds and split rules (`ledger/types/account.go`).

use theta_core::{
    amount::Coins,
    codec::rlp::{Decode, DecodeError, Encode, Item, Reader, encode_list},
    hash::{Address, EMPTY_CODE_HASH, Hash},
    rlp_list,
};

use crate::tx::ServicePayment;

/// Code hash that marks a contract that destroyed itself; it stays a contract.
pub const DEAD_CODE_HASH: Hash = Hash::new(*b"\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad\xde\xad");

/// Blocks after its end before a reserved fund goes back.
pub const FREEZE_BLOCKS: u64 = 5;

/// An account. Its address is part of its record as well as its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The address.
    pub address: Address,
    /// Number of the last transaction; an Ethereum nonce.
    pub sequence: u64,
    /// Free coins.
    pub balance: Coins,
    /// Coins set aside for service payments.
    pub reserved_funds: Vec<ReservedFund>,
    /// H - 1 of the block whose transaction made the account, 0 where a contract or genesis did. Never updated.
    pub last_updated_height: u64,
    /// Root of the contract's storage; zero until the first write.
    pub root: Hash,
    /// Hash of the contract's code.
    pub code_hash: Hash,
}

rlp_list!(Account { address, sequence, balance, reserved_funds, last_updated_height, root, code_hash });

impl Account {
    /// A fresh account, made at view height `height`.
    pub const fn new(address: Address, height: u64) -> Self {
        Self {
            address,
            sequence: 0,
            balance: Coins::ZERO,
            reserved_funds: Vec::new(),
            last_updated_height: height,
            root: Hash::ZERO,
            code_hash: EMPTY_CODE_HASH,
        }
    }

    /// Whether it has, or had, code.
    pub fn is_contract(&self) -> bool {
        self.code_hash != EMPTY_CODE_HASH
    }

    /// Releases every fund whose end lies [`FREEZE_BLOCKS`] behind view height `height`: the collateral and what is left
    /// of the fund. Done whenever a transaction loads the account.
    pub fn release_expired(&mut self, height: u64) {
        let mut balance = self.balance;
        self.reserved_funds.retain(|fund| {
            if fund.end_height.wrapping_add(FREEZE_BLOCKS) > height {
                return true;
            }
            let returned =
                fund.collateral.checked_add(fund.left()).and_then(|coins| balance.checked_add(coins));
            // A sum above 2^256 wei cannot arise from coins that exist.
            balance = returned.unwrap_or(balance);
            false
        });
        self.balance = balance;
    }
}

/// Coins that a payer set aside for payments to providers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedFund {
    /// Lost when the payer promises more than the fund holds.
    pub collateral: Coins,
    /// What may be paid.
    pub initial: Coins,
    /// What has been paid.
    pub used: Coins,
    /// What may be paid for; any bytes, text by convention.
    pub resources: Vec<Vec<u8>>,
    /// Last height at which payments are taken.
    pub end_height: u64,
    /// Sequence of the transaction that made the fund; its name within the account.
    pub reserve_sequence: u64,
    /// The payments so far.
    pub transfers: Vec<TransferRecord>,
}

rlp_list!(ReservedFund { collateral, initial, used, resources, end_height, reserve_sequence, transfers });

impl ReservedFund {
    /// What is left; nothing if either coin is overdrawn.
    pub fn left(&self) -> Coins {
        self.initial.checked_sub(self.used).unwrap_or(Coins::ZERO)
    }
}

/// A payment as the fund remembers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferRecord {
    /// The whole signed transaction.
    pub payment: ServicePayment,
}

rlp_list!(TransferRecord { payment });

/// Who gets part of every payment for a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitRule {
    /// Who set the rule and may change it.
    pub initiator: Address,
    /// The resource.
    pub resource: Vec<u8>,
    /// The parts.
    pub splits: Vec<Split>,
    /// Last height at which it holds.
    pub end_height: u64,
}

rlp_list!(SplitRule { initiator, resource, splits, end_height });

/// One part of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Who gets it.
    pub address: Address,
    /// Percent of the payment.
    pub percentage: u64,
}

rlp_list!(Split { address, percentage });

/// Heights at which validator stakes changed. RLP: `[[height, ...]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeightList(pub Vec<u64>);

impl Encode for HeightList {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_list(out, |out| self.0.encode(out));
    }
}

impl Decode for HeightList {
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut list = input.list()?;
        let heights = Self(list.read()?);
        list.finish()?;
        Ok(heights)
    }
}

impl Item for HeightList {}

#[cfg(test)]
mod tests {
    use theta_core::amount::TFuelWei;

    use super::*;

    #[test]
    fn a_fund_is_released_five_blocks_after_its_end() {
        let fund = ReservedFund {
            collateral: Coins::tfuel(TFuelWei::wei(101)),
            initial: Coins::tfuel(TFuelWei::wei(100)),
            used: Coins::tfuel(TFuelWei::wei(30)),
            resources: vec![b"rid".to_vec()],
            end_height: 1000,
            reserve_sequence: 1,
            transfers: Vec::new(),
        };
        let mut account = Account { reserved_funds: vec![fund], ..Account::new(Address::ZERO, 0) };
        account.release_expired(1004);
        assert_eq!(account.reserved_funds.len(), 1);
        account.release_expired(1005);
        assert!(account.reserved_funds.is_empty());
        assert_eq!(account.balance, Coins::tfuel(TFuelWei::wei(171)));
    }
}
