//! The forks and, for each, the whole of what it changes.

use super::{
    CertificateRule, ConsensusRules, EvmRules, GuardianRule, HeaderRules, Pace, ProposerRule, RuleSet, Rules,
    StakeRules, TxRules,
};
use crate::{amount::TFuelWei, stake::reward::RewardRule};

/// A change of rules. In the order in which they apply where heights are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fork {
    /// Validators are paid in TFUEL.
    ValidatorReward,
    /// Guardians.
    Theta2,
    /// Guardians stake from 1,000 THETA.
    SmallGuardians,
    /// Contracts.
    Contracts,
    /// Rewards by sampling.
    SampledReward,
    /// Fees of June 2021.
    June2021,
    /// Elite edge nodes.
    Theta3,
    /// Ethereum wallets.
    RpcCompatibility,
    /// The second wrapper of sign bytes.
    TxWrapper,
    /// THETA in contracts.
    ThetaInContracts,
    /// Validators stake from 200,000 THETA.
    SmallValidators,
    /// Stakes by precompile.
    WrappedTheta,
    /// Subchain ids and larger contracts.
    Metachain,
    /// Withdrawn stakes return after 1,000 blocks, as on the reference's private net.
    ShortLock,
    /// What the reference gets wrong, put right; our own networks only, and from their first block on.
    Improved,
    /// Validators that let their epoch pass are not drawn to propose until they vote again; where [`Self::Improved`] holds.
    SkipAbsent,
}

impl Fork {
    /// All of them, in the order in which they apply.
    pub const ALL: [Self; 16] = [
        Self::ValidatorReward,
        Self::Theta2,
        Self::SmallGuardians,
        Self::Contracts,
        Self::SampledReward,
        Self::June2021,
        Self::Theta3,
        Self::RpcCompatibility,
        Self::TxWrapper,
        Self::ThetaInContracts,
        Self::SmallValidators,
        Self::WrappedTheta,
        Self::Metachain,
        Self::ShortLock,
        Self::Improved,
        Self::SkipAbsent,
    ];

    /// Its name in chain-spec files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ValidatorReward => "validator_reward",
            Self::Theta2 => "theta2",
            Self::SmallGuardians => "small_guardians",
            Self::Contracts => "contracts",
            Self::SampledReward => "sampled_reward",
            Self::June2021 => "june2021",
            Self::Theta3 => "theta3",
            Self::RpcCompatibility => "rpc_compatibility",
            Self::TxWrapper => "tx_wrapper",
            Self::ThetaInContracts => "theta_in_contracts",
            Self::SmallValidators => "small_validators",
            Self::WrappedTheta => "wrapped_theta",
            Self::Metachain => "metachain",
            Self::ShortLock => "short_lock",
            Self::Improved => "improved",
            Self::SkipAbsent => "skip_absent",
        }
    }

    /// The name of its height in the reference (`common/heights.go`); ours have none there.
    pub const fn reference_name(self) -> Option<&'static str> {
        Some(match self {
            Self::ValidatorReward => "HeightEnableValidatorReward",
            Self::Theta2 => "HeightEnableTheta2",
            Self::SmallGuardians => "HeightLowerGNStakeThresholdTo1000",
            Self::Contracts => "HeightEnableSmartContract",
            Self::SampledReward => "HeightSampleStakingReward",
            Self::June2021 => "HeightJune2021FeeAdjustment",
            Self::Theta3 => "HeightEnableTheta3",
            Self::RpcCompatibility => "HeightRPCCompatibility",
            Self::TxWrapper => "HeightTxWrapperExtension",
            Self::ThetaInContracts => "HeightSupportThetaTokenInSmartContract",
            Self::SmallValidators => "HeightValidatorStakeChangedTo200K",
            Self::WrappedTheta => "HeightSupportWrappedTheta",
            Self::Metachain => "HeightEnableMetachainSupport",
            Self::ShortLock | Self::Improved | Self::SkipAbsent => return None,
        })
    }

    /// The fork of this name, ours or the reference's.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fork| fork.name() == name || fork.reference_name() == Some(name))
    }

    /// The main network's heights (`common/heights.go`).
    pub const MAINNET: [(Self, u64); 13] = [
        (Self::ValidatorReward, 4_164_982),
        (Self::Theta2, 5_877_350),
        (Self::SmallGuardians, 8_411_427),
        (Self::Contracts, 8_411_427),
        (Self::SampledReward, 9_497_418),
        (Self::June2021, 10_709_540),
        (Self::Theta3, 10_968_061),
        (Self::RpcCompatibility, 11_354_820),
        (Self::TxWrapper, 12_749_952),
        (Self::ThetaInContracts, 13_123_789),
        (Self::SmallValidators, 14_526_120),
        (Self::WrappedTheta, 17_285_755),
        (Self::Metachain, 17_790_756),
    ];

    pub(super) fn change(self, rules: &mut Rules) {
        match self {
            Self::ValidatorReward => rules.stake.reward = RewardRule::Validators,
            Self::Theta2 => {
                rules.header = HeaderRules::Guardians;
                rules.stake.deposits_with_keys = true;
                rules.stake.reward = RewardRule::Guardians;
            }
            Self::SmallGuardians => rules.stake.min_guardian = 1_000,
            Self::Contracts => rules.tx.contracts = true,
            Self::SampledReward => rules.stake.reward = RewardRule::Sampled,
            Self::June2021 => {
                rules.tx.min_fee = TFuelWei::wei(300_000_000_000_000_000_u64);
                rules.tx.send_fee_by_accounts = true;
                rules.tx.min_gas_price = 4_000_000_000_000;
                rules.tx.max_gas = 20_000_000;
                rules.tx.regular_gas = 80_000;
                rules.evm.cheap_curves = true;
            }
            Self::Theta3 => {
                rules.header = HeaderRules::GuardiansAndElite;
                rules.stake.elite_edge = true;
                rules.stake.reward = RewardRule::Elite;
            }
            Self::RpcCompatibility => {
                rules.tx.ethereum_signatures = true;
                rules.tx.chain_id_offset = true;
            }
            Self::TxWrapper => rules.tx.second_wrapper = true,
            Self::ThetaInContracts => {
                rules.tx.theta_in_contracts = true;
                rules.evm.theta_values = true;
            }
            Self::SmallValidators => rules.stake.min_validator = 200_000,
            Self::WrappedTheta => {
                rules.tx.intrinsic_gas_in_limit = true;
                rules.evm.stake_precompiles = true;
            }
            Self::Metachain => {
                rules.tx.subchain_ids = true;
                rules.evm.code_limit = 49_152;
            }
            Self::ShortLock => rules.stake.lock_blocks = 1_000,
            Self::Improved => {
                rules.commits_receipts = true;
                rules.tx.slash_overspending = true;
                rules.tx.low_s = true;
                rules.tx.no_trailing_bytes = true;
                rules.tx.typed_transactions = true;
                // EIP-7825.
                rules.tx.max_gas = 1 << 24;
                rules.evm.rule_set = RuleSet::Ethereum;
                rules.stake.validator_keys = true;
                rules.stake.slash_equivocation = true;
                rules.consensus = ConsensusRules {
                    pace: Pace::Responsive,
                    checkpoint_interval: 10,
                    guardians: GuardianRule::Finalize,
                    certificate: CertificateRule::Aggregate,
                    proposer: ProposerRule::ProposerSeeded,
                    skips_absent: false,
                };
            }
            Self::SkipAbsent => rules.consensus.skips_absent = true,
        }
    }
}

pub(super) fn oldest() -> Rules {
    Rules {
        header: HeaderRules::Twelve,
        commits_receipts: false,
        tx: TxRules {
            contracts: false,
            min_fee: TFuelWei::wei(1_000_000_000_000_u64),
            send_fee_by_accounts: false,
            min_gas_price: 100_000_000,
            max_gas: 10_000_000,
            regular_gas: 10_000,
            intrinsic_gas_in_limit: false,
            theta_in_contracts: false,
            ethereum_signatures: false,
            typed_transactions: false,
            second_wrapper: false,
            chain_id_offset: false,
            subchain_ids: false,
            slash_overspending: false,
            low_s: false,
            no_trailing_bytes: false,
        },
        stake: StakeRules {
            deposits_with_keys: false,
            min_validator: 2_000_000,
            min_guardian: 10_000,
            elite_edge: false,
            lock_blocks: 28_800,
            reward: RewardRule::Zero,
            validator_keys: false,
            slash_equivocation: false,
        },
        evm: EvmRules {
            rule_set: RuleSet::Theta,
            cheap_curves: false,
            theta_values: false,
            stake_precompiles: false,
            code_limit: 24_576,
        },
        consensus: ConsensusRules {
            pace: Pace::Clocked,
            checkpoint_interval: 100,
            guardians: GuardianRule::RewardOnly,
            certificate: CertificateRule::VoteList,
            proposer: ProposerRule::GoRandom,
            skips_absent: false,
        },
    }
}
