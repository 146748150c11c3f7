//! Chains as data: what holds at which height.
//!
//! A [`ChainSpec`] is a name, base rules, and a map from forks to heights; [`ChainSpec::rules`] looks the [`Rules`] of a
//! height up. All other code asks for a rule and never compares a height with a fork. The reference compiles one table of
//! heights into every network (`common/heights.go`); here it is one chain's data.

mod file;
mod forks;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::{
    file::{ForkHeight, SpecError, SpecFile, StakeFile},
    forks::Fork,
};
use crate::{amount::TFuelWei, hash::U256, stake::reward::RewardRule};

/// Which fields a header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HeaderRules {
    /// The first twelve.
    Twelve,
    /// And guardian votes.
    Guardians,
    /// And elite edge votes.
    GuardiansAndElite,
}

/// What a transaction may do and has to pay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TxRules {
    /// Smart contract transactions are accepted, and sends to contracts are not.
    pub contracts: bool,
    /// Least fee of a regular transaction.
    pub min_fee: TFuelWei,
    /// A send pays `max(2, inputs + outputs)` halves of `min_fee` instead of one.
    pub send_fee_by_accounts: bool,
    /// Least gas price in TFuelWei.
    pub min_gas_price: u64,
    /// Most gas of a transaction.
    pub max_gas: u64,
    /// Gas that orders regular transactions in the mempool; a fee buys `fee / this` priority.
    pub regular_gas: u64,
    /// Intrinsic gas has to be within the limit for a contract transaction to be valid at all.
    pub intrinsic_gas_in_limit: bool,
    /// THETA counts against the sender's balance in a contract transaction.
    pub theta_in_contracts: bool,
    /// Wallet signatures by the Ethereum rule are accepted on contract transactions.
    pub ethereum_signatures: bool,
    /// Ethereum's typed transactions are accepted: EIP-2930, EIP-1559 and EIP-7702.
    pub typed_transactions: bool,
    /// The second wrapper of sign bytes is accepted.
    pub second_wrapper: bool,
    /// 360 is added to the base chain id for Ethereum.
    pub chain_id_offset: bool,
    /// A chain named `tsub` and a number has that number as its id for Ethereum.
    pub subchain_ids: bool,
    /// Whoever proves that a payer signed away more than its fund holds has the fund dissolved and its collateral burned.
    pub slash_overspending: bool,
    /// Signatures with high `s` are refused.
    pub low_s: bool,
    /// Bytes behind a transaction are refused; else ignored.
    pub no_trailing_bytes: bool,
}

/// What a stake has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StakeRules {
    /// Deposits with BLS keys (type 10), and guardians' votes in headers.
    pub deposits_with_keys: bool,
    /// Least validator deposit in whole THETA.
    pub min_validator: u64,
    /// Least guardian deposit in whole THETA.
    pub min_guardian: u64,
    /// Elite edge stakes and reward distribution rules.
    pub elite_edge: bool,
    /// Blocks between a withdrawal and the return of the coins.
    pub lock_blocks: u64,
    /// How checkpoints are paid.
    pub reward: RewardRule,
    /// Validators have BLS keys with proofs of possession, written by genesis and by deposits (type 10); who has none is a
    /// candidate and no validator.
    pub validator_keys: bool,
    /// Whoever proves that a validator contradicted itself has all that is staked with it burned.
    pub slash_equivocation: bool,
}

/// Whose rules contracts run by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RuleSet {
    /// The reference's: Petersburg with other prices, accounts that are never cleared, no refunds.
    Theta,
    /// Ethereum's of the fork Osaka, with THETA and Theta's precompiles beside them. The least gas price is the base fee;
    /// nobody gets it.
    Ethereum,
}

/// How contracts run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EvmRules {
    /// Whose rules.
    pub rule_set: RuleSet,
    /// Cheaper curve operations in precompiles 6 to 8.
    pub cheap_curves: bool,
    /// THETA can be sent with a call and by precompile 203, and a creation keeps the balances it finds.
    pub theta_values: bool,
    /// Precompiles 204 to 207.
    pub stake_precompiles: bool,
    /// Most bytes of a contract's code.
    pub code_limit: usize,
}

/// How validators agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsensusRules {
    /// How time moves the protocol.
    pub pace: Pace,
    /// Blocks between checkpoints.
    pub checkpoint_interval: u64,
    /// What guardians' votes are good for.
    pub guardians: GuardianRule,
    /// What certifies a block.
    pub certificate: CertificateRule,
    /// Whose turn it is to propose.
    pub proposer: ProposerRule,
    /// Whoever has let its epoch pass without a block is not drawn to propose until a certificate has its vote again. Needs
    /// [`ProposerRule::ProposerSeeded`].
    pub skips_absent: bool,
}

/// What certifies a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateRule {
    /// The reference's: the votes themselves.
    VoteList,
    /// One BLS signature of all voters, and a bit for each validator. Every vote carries its voter's share, and every header
    /// but the first one's certifies in this form.
    Aggregate,
}

/// Whose turn it is to propose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProposerRule {
    /// The reference's: drawn by the epoch's number alone, so that everybody knows the whole future schedule.
    GoRandom,
    /// Drawn by the epoch and a seed in the parent's header, to which every proposer adds its unique BLS signature over chain
    /// and epoch.
    ProposerSeeded,
}

/// What guardians' votes are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum GuardianRule {
    /// The reference's: they decide who is rewarded, and nothing else.
    RewardOnly,
    /// Those of more than two thirds of the guardians' stake make a checkpoint final as well. Each guardian stands in an
    /// aggregate once at most, and what is signed names chain and height.
    Finalize,
}

/// How time moves the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Pace {
    /// The reference's timers: a vote waits for its timer.
    Clocked,
    /// A vote follows the block at once; timers only bound the wait for a dead proposer.
    Responsive,
}

/// Everything that holds at one height.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rules {
    /// Fields of headers.
    pub header: HeaderRules,
    /// Headers commit to receipts: receipts root and bloom are those of the block and checked.
    pub commits_receipts: bool,
    /// Transactions.
    pub tx: TxRules,
    /// Stakes and rewards.
    pub stake: StakeRules,
    /// Contracts.
    pub evm: EvmRules,
    /// Agreement.
    pub consensus: ConsensusRules,
}

impl Rules {
    /// Whether a height is a checkpoint: the first of its interval.
    pub const fn is_checkpoint(&self, height: u64) -> bool {
        height % self.consensus.checkpoint_interval == 1
    }
}

/// A chain: its name and its rules by height.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSpec {
    /// The chain id in headers and sign bytes, such as `mainnet`.
    pub chain: String,
    forks: BTreeMap<Fork, u64>,
    /// First height of each set of rules, ascending; the first is 0.
    table: Vec<(u64, Rules)>,
}

impl ChainSpec {
    /// A chain with forks at the given heights, over the oldest rules.
    pub fn new(chain: impl Into<String>, forks: impl IntoIterator<Item = (Fork, u64)>) -> Self {
        let forks: BTreeMap<_, _> = forks.into_iter().collect();
        let mut heights: Vec<u64> = forks.values().copied().chain([0]).collect();
        heights.sort_unstable();
        heights.dedup();
        let rules = |height| {
            let mut rules = forks::oldest();
            // In the order of the enum, so that a later fork of the same height wins.
            for (fork, _) in forks.iter().filter(|(_, at)| **at <= height) {
                fork.change(&mut rules);
            }
            rules
        };
        let table = heights.into_iter().map(|height| (height, rules(height))).collect();
        Self { chain: chain.into(), forks, table }
    }

    /// The same chain with another time between a withdrawal and the return of the coins, at every height.
    pub fn with_lock_blocks(mut self, blocks: u64) -> Self {
        for (_, rules) in &mut self.table {
            rules.stake.lock_blocks = blocks;
        }
        self
    }

    /// The main network.
    pub fn mainnet() -> Self {
        Self::new("mainnet", Fork::MAINNET)
    }

    /// A private network with the newest rules of the main network from height 2 on, and a lock of 1,000 blocks; genesis
    /// keeps its twelve fields.
    pub fn privatenet() -> Self {
        let forks = Fork::MAINNET.iter().map(|(fork, _)| (*fork, 2));
        Self::new("privatenet", forks.chain([(Fork::ShortLock, 0)]))
    }

    /// Our own development network: [`Self::privatenet`] and every improvement.
    pub fn devnet() -> Self {
        let forks = Self::privatenet().forks;
        Self::new("privatenet", forks.into_iter().chain([(Fork::Improved, 0), (Fork::SkipAbsent, 0)]))
    }

    /// The rules of a height.
    pub fn rules(&self, height: u64) -> &Rules {
        let above = self.table.partition_point(|(from, _)| *from <= height);
        &self.table[above - 1].1
    }

    /// The forks and their heights.
    pub const fn forks(&self) -> &BTreeMap<Fork, u64> {
        &self.forks
    }

    /// The chain id that Ethereum wallets sign for at a height (`ledger/types/tx.go`, MapChainID).
    pub fn ethereum_chain_id(&self, height: u64) -> U256 {
        let rules = &self.rules(height).tx;
        if rules.subchain_ids
            && let Some(id) = subchain_id(&self.chain)
        {
            return U256::from(id);
        }
        let base = match self.chain.as_str() {
            "mainnet" => U256::from(1),
            "testnet_sapphire" => U256::from(3),
            "testnet_amber" => U256::from(4),
            "testnet" => U256::from(5),
            "privatenet" => U256::from(6),
            other => U256::from_be_bytes(crate::hash::keccak(other).0),
        };
        if rules.chain_id_offset { base.wrapping_add(U256::from(360)) } else { base }
    }
}

fn subchain_id(chain: &str) -> Option<i64> {
    let digits = chain.strip_prefix("tsub")?;
    if digits.starts_with('0') || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|id| *id >= 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fork_holds_from_its_height_on() {
        let mainnet = ChainSpec::mainnet();
        for (height, header) in [
            (0, HeaderRules::Twelve),
            (5_877_349, HeaderRules::Twelve),
            (5_877_350, HeaderRules::Guardians),
            (10_968_061, HeaderRules::GuardiansAndElite),
        ] {
            assert_eq!(mainnet.rules(height).header, header, "{height}");
        }
        assert_eq!(mainnet.rules(8_411_426).stake.min_guardian, 10_000);
        assert_eq!(mainnet.rules(8_411_427).stake.min_guardian, 1_000);
        assert_eq!(mainnet.rules(u64::MAX).evm.code_limit, 49_152);
    }

    #[test]
    fn a_private_net_has_the_newest_rules_from_height_two() {
        let (private, newest) = (ChainSpec::privatenet(), ChainSpec::mainnet());
        assert_eq!(private.rules(1).header, HeaderRules::Twelve);
        let mut expected = newest.rules(u64::MAX).clone();
        expected.stake.lock_blocks = 1_000;
        assert_eq!(*private.rules(2), expected);
        assert_ne!(*ChainSpec::devnet().rules(2), expected);
    }
}
