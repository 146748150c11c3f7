//! Everything that is hashed or stored reads back as it was written, and only as it was written.

use std::fmt::Debug;

use num_bigint::BigUint;
use proptest::prelude::*;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    bits::Bits,
    block::{Block, Bloom, CommitCertificate, Extension, Header, Seed},
    bls::{self, Suite},
    certificate::AggregateVotes,
    codec::rlp::{Decode, Encode},
    hash::{Address, Hash, U256},
    sign::Signature,
    stake::{
        EliteEdgeNode, GuardianPool, Stake, StakeHolder, ValidatorPool, elite::StakeReturn,
        guardian::Guardian, reward::RewardDistribution,
    },
    vote::{EliteVotes, GuardianVotes, Vote, VoteSet},
};
use theta_ledger::{
    ContractResult, Place, Receipt,
    state::{
        Account, ReservedFund, SplitRule,
        account::{HeightList, Split, TransferRecord},
    },
    tx::{
        Coinbase, DepositStake, DepositStakeV2, MAX_TX_BYTES, Purpose, RawTx, ReleaseFund, ReserveFund, Send,
        ServicePayment, SetSplitRule, Slash, SmartContract, StakeRewardDistribution, Transaction, TxCoins,
        TxInput, TxOutput, WithdrawStake,
        ethereum::{Access, Authorization, Typed},
    },
    vm::{BalanceChange, Log},
};

/// Makes values out of a seed, extremes among them often.
pub struct Any(pub u64);

impl Any {
    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % end
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }

    fn number(&mut self) -> u64 {
        let random = self.below(u64::MAX);
        self.pick(&[0, 1, 127, 128, 255, 256, u64::from(u32::MAX), u64::MAX - 1, u64::MAX, random])
    }

    fn word(&mut self) -> U256 {
        let random = U256::from_be_bytes(self.hash().0) >> self.below(256) as usize;
        self.pick(&[U256::ZERO, U256::from(1), U256::from(128), U256::MAX, U256::MAX - U256::from(1), random])
    }

    /// Of any width, as transactions may have it.
    fn big(&mut self) -> BigUint {
        let wide = BigUint::from(1_u8) << (250 + self.below(600));
        let word = BigUint::from_bytes_be(&self.word().to_be_bytes::<32>());
        self.pick(&[word.clone(), word, wide])
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.pick(&[0, 1, 1, 2, 31, 32, 33, 55, 56, 255, 256, 300]);
        (0..length).map(|_| self.below(256) as u8).collect()
    }

    fn access(&mut self) -> Access {
        Access { address: self.address(), slots: self.list(Self::hash) }
    }

    fn authorization(&mut self) -> Authorization {
        Authorization {
            chain_id: self.word(),
            address: self.address(),
            nonce: self.number(),
            parity: self.pick(&[0, 1, 2, 255]),
            r: self.word(),
            s: self.word(),
        }
    }

    fn typed(&mut self) -> Option<Typed> {
        let access = self.list(Self::access);
        let dynamic = Typed::DynamicFee { tip: self.big(), access: access.clone() };
        let delegating = Typed::Delegating {
            tip: self.big(),
            access: access.clone(),
            authorizations: self.list(Self::authorization),
        };
        self.pick(&[None, None, Some(Typed::AccessList(access)), Some(dynamic), Some(delegating)])
    }

    fn hash(&mut self) -> Hash {
        let mut hash = Hash::ZERO;
        hash.0.iter_mut().for_each(|byte| *byte = self.below(256) as u8);
        self.pick(&[Hash::ZERO, Hash::repeat_byte(0xff), hash, hash])
    }

    fn address(&mut self) -> Address {
        Address::from_slice(&self.hash()[..20])
    }

    fn signature(&mut self) -> Signature {
        let whole = [self.hash().0, self.hash().0].concat();
        let whole = [whole.as_slice(), &[self.below(256) as u8]].concat();
        let other = self.bytes();
        Signature::from_bytes(self.pick(&[whole.clone(), whole, Vec::new(), other]))
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let length = self.pick(&[0, 1, 2, 5]);
        (0..length).map(|_| make(self)).collect()
    }

    fn bls(&mut self) -> bls::SecretKey {
        bls::SecretKey::from_bytes(&[self.below(3) as u8 + 1; 32]).unwrap()
    }

    fn coins(&mut self) -> Coins {
        Coins { theta: ThetaWei::from_u256(self.word()), tfuel: TFuelWei::from_u256(self.word()) }
    }

    fn tx_coins(&mut self) -> TxCoins {
        TxCoins { theta: self.big(), tfuel: self.big() }
    }

    fn input(&mut self) -> TxInput {
        let (address, coins) = (self.address(), self.tx_coins());
        TxInput { address, coins, sequence: self.number(), signature: self.signature() }
    }

    fn output(&mut self) -> TxOutput {
        TxOutput { address: self.address(), coins: self.tx_coins() }
    }

    fn many<T: Clone>(&mut self, make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut few = self.list(make);
        // As many as a transaction may name.
        if let (Some(one), 0) = (few.first().cloned(), self.below(20)) {
            few.resize(512, one);
        }
        few
    }

    fn payment(&mut self) -> ServicePayment {
        ServicePayment {
            fee: self.tx_coins(),
            source: self.input(),
            target: self.input(),
            payment_sequence: self.number(),
            reserve_sequence: self.number(),
            resource_id: self.bytes(),
        }
    }

    fn split(&mut self) -> Split {
        Split { address: self.address(), percentage: self.number() }
    }

    fn purpose(&mut self) -> Purpose {
        Purpose(self.pick(&[0, 1, 2, 3, 127, 128, 255]))
    }

    fn transaction(&mut self, kind: u16) -> Transaction {
        let fee = self.tx_coins();
        match kind {
            0 => Coinbase {
                proposer: self.input(),
                outputs: self.many(Self::output),
                block_height: self.number(),
            }
            .into(),
            1 => Slash {
                proposer: self.input(),
                slashed_address: self.address(),
                reserve_sequence: self.number(),
                slash_proof: self.bytes(),
            }
            .into(),
            2 => Send { fee, inputs: self.many(Self::input), outputs: self.many(Self::output) }.into(),
            3 => ReserveFund {
                fee,
                source: self.input(),
                collateral: self.tx_coins(),
                resource_ids: self.list(Self::bytes),
                duration: self.number(),
            }
            .into(),
            4 => ReleaseFund { fee, source: self.input(), reserve_sequence: self.number() }.into(),
            5 => self.payment().into(),
            6 => SetSplitRule {
                fee,
                resource_id: self.bytes(),
                initiator: self.input(),
                splits: self.many(Self::split),
                duration: self.number(),
            }
            .into(),
            7 => SmartContract {
                from: self.input(),
                to: self.output(),
                gas_limit: self.number(),
                gas_price: self.big(),
                data: self.bytes(),
                typed: self.typed(),
            }
            .into(),
            8 => DepositStake { fee, source: self.input(), holder: self.output(), purpose: self.purpose() }
                .into(),
            9 => WithdrawStake { fee, source: self.input(), holder: self.output(), purpose: self.purpose() }
                .into(),
            10 => {
                let key = self.bls();
                let proof = key.proof_of_possession(Suite::Theta2020);
                DepositStakeV2 {
                    fee,
                    source: self.input(),
                    holder: self.output(),
                    purpose: self.purpose(),
                    key: self.pick(&[None, Some(key.public_key())]),
                    proof: self.pick(&[None, Some(proof)]),
                    holder_signature: self.signature(),
                }
                .into()
            }
            _ => StakeRewardDistribution {
                fee,
                holder: self.input(),
                beneficiary: self.output(),
                split_basis_point: self.number(),
            }
            .into(),
        }
    }

    fn vote(&mut self) -> Vote {
        let (block, voter) = (self.hash(), self.address());
        let share = [None, Some(self.bls().proof_of_possession(Suite::Rfc9380))];
        let share = self.pick(&share);
        Vote {
            signature: self.signature(),
            share,
            ..Vote::unsigned(block, self.number(), self.number(), voter)
        }
    }

    fn certificate(&mut self) -> CommitCertificate {
        let mut signers = Bits::new(self.below(100) as usize);
        (0..signers.len()).for_each(|index| {
            if self.below(2) == 0 {
                signers.set(index)
            }
        });
        let signature = self.bls().proof_of_possession(Suite::Rfc9380);
        let aggregate = AggregateVotes { epoch: self.number(), signers, signature };
        let both = [VoteSet::new(self.list(Self::vote)).into(), aggregate.into()];
        CommitCertificate { votes: self.pick(&both), block: self.hash() }
    }

    fn guardian_votes(&mut self) -> GuardianVotes {
        GuardianVotes {
            block: self.hash(),
            pool: self.hash(),
            multipliers: self.list(|any| any.number() as u32),
            signature: self.bls().proof_of_possession(Suite::Theta2020),
        }
    }

    fn elite_votes(&mut self) -> EliteVotes {
        EliteVotes {
            block: self.hash(),
            multipliers: self.list(|any| any.number() as u32),
            addresses: self.list(Self::address),
            signature: self.bls().proof_of_possession(Suite::Theta2020),
        }
    }

    fn header(&mut self) -> Header {
        let guardians = [Some(self.guardian_votes()), None];
        let (guardians, elite) = (self.pick(&guardians), [Some(self.elite_votes()), None]);
        let elite = self.pick(&elite);
        let extension = self.pick(&[
            Extension::None,
            Extension::Guardians(guardians.clone()),
            Extension::GuardiansAndElite(guardians, elite),
        ]);
        let seeds = [None, Some(Seed::after(&self.hash(), self.bls().proof_of_possession(Suite::Rfc9380)))];
        let seed = self.pick(&seeds);
        let absent = self.list(Self::address);
        Header {
            seed,
            absent,
            chain: self
                .pick(&[
                    "",
                    "mainnet",
                    "a name of more than fifty-five bytes, which no chain has, is one too",
                ])
                .into(),
            epoch: self.number(),
            height: self.number(),
            parent: self.hash(),
            certificate: self.certificate(),
            transactions_root: self.hash(),
            receipts_root: self.hash(),
            bloom: Bloom::repeat_byte(self.below(256) as u8),
            state_root: self.hash(),
            timestamp: self.big(),
            proposer: self.address(),
            signature: self.signature(),
            extension,
        }
    }

    fn result(&mut self) -> ContractResult {
        let log = |any: &mut Self| Log {
            address: any.address(),
            topics: any.list(Self::hash).into_iter().take(4).collect(),
            data: any.bytes(),
        };
        let change = |any: &mut Self| BalanceChange {
            address: any.address(),
            token: any.below(2) as u8,
            negative: any.below(2) == 0,
            delta: any.word(),
        };
        ContractResult {
            receipt: Receipt {
                hash: self.hash(),
                logs: self.list(log),
                output: self.bytes(),
                contract: self.address(),
                gas_used: self.number(),
                error: self.pick(&["", "evm: execution reverted"]).into(),
            },
            balance_changes: self.list(change),
        }
    }

    fn fund(&mut self) -> ReservedFund {
        ReservedFund {
            collateral: self.coins(),
            initial: self.coins(),
            used: self.coins(),
            resources: self.list(Self::bytes),
            end_height: self.number(),
            reserve_sequence: self.number(),
            transfers: self.list(|any| TransferRecord { payment: any.payment() }),
        }
    }

    fn account(&mut self) -> Account {
        Account {
            address: self.address(),
            sequence: self.number(),
            balance: self.coins(),
            reserved_funds: self.list(Self::fund),
            last_updated_height: self.number(),
            root: self.hash(),
            code_hash: self.hash(),
        }
    }

    fn stake<W>(&mut self, of: fn(U256) -> W) -> Stake<W> {
        let withdrawn = self.below(2) == 0;
        Stake { source: self.address(), amount: of(self.word()), withdrawn, return_height: self.number() }
    }

    fn holder<W>(&mut self, of: fn(U256) -> W) -> StakeHolder<W> {
        StakeHolder { holder: self.address(), stakes: self.list(|any| any.stake(of)) }
    }
}

/// Reads back what it wrote; whatever else it reads out of bytes that were changed is written as those bytes, where only
/// one form is allowed.
fn holds<T: Encode + Decode + PartialEq + Debug>(any: &mut Any, value: &T, one_form: bool) {
    let bytes = value.to_rlp();
    assert_eq!(T::from_rlp(&bytes, bytes.len()).as_ref(), Ok(value));
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(T::from_rlp(&longer, longer.len()).is_err(), "a byte behind it");
    assert!(
        bytes.is_empty() || T::from_rlp(&bytes[..bytes.len() - 1], bytes.len()).is_err(),
        "a byte too few"
    );
    for _ in 0..8 {
        let changed = changed(any, &bytes);
        if let Ok(other) = T::from_rlp(&changed, changed.len()) {
            let again = other.to_rlp();
            if one_form {
                assert_eq!(again, changed, "{other:?}");
            }
            assert_eq!(T::from_rlp(&again, again.len()), Ok(other));
        }
    }
}

fn changed(any: &mut Any, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=any.below(2) {
        // Lengths stand in front: half of the changes are there.
        let within = if any.below(2) == 0 { bytes.len().min(16) } else { bytes.len() };
        let at = any.below(within.max(1) as u64) as usize;
        match any.below(4) {
            0 if at < bytes.len() => bytes[at] ^= 1 << any.below(8),
            1 if at < bytes.len() => bytes[at] = any.pick(&[0, 1, 0x7f, 0x80, 0x81, 0xb8, 0xc0, 0xf8, 0xff]),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.insert(at, any.below(256) as u8),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn transactions_of_every_kind(seed in any::<u64>()) {
        let mut any = Any(seed);
        for kind in 0..12 {
            let raw = RawTx::new(any.transaction(kind));
            prop_assert_eq!(raw.transaction.kind(), kind);
            prop_assert!(raw.bytes.len() <= MAX_TX_BYTES);
            prop_assert_eq!(RawTx::decode(raw.bytes.clone()), Ok(raw.clone()));
            // Bytes behind the body belong to the hash and to nothing else.
            let longer = RawTx::decode([raw.bytes.as_slice(), b"more"].concat()).unwrap();
            prop_assert_eq!((&longer.transaction, longer.trailing), (&raw.transaction, 4));
            prop_assert!(longer.hash != raw.hash);
            prop_assert!(RawTx::decode(raw.bytes[..raw.bytes.len() - 1].to_vec()).is_err());
            for _ in 0..8 {
                let changed = changed(&mut any, &raw.bytes);
                let Ok(other) = RawTx::decode(changed.clone()) else { continue };
                let again = other.transaction.encode();
                // A point of a BLS key may have surplus bytes, as in the reference.
                if !matches!(other.transaction, Transaction::DepositStakeV2(_)) {
                    prop_assert_eq!(&again, &changed[..changed.len() - other.trailing]);
                }
                prop_assert_eq!(RawTx::decode(again).unwrap().transaction, other.transaction);
            }
        }
    }

    #[test]
    fn headers_and_votes(seed in any::<u64>()) {
        let any = &mut Any(seed);
        // Points may be written in several ways there.
        let header = any.header();
        holds(any, &header, matches!(header.extension, Extension::None));
        prop_assert_eq!(Header::from_rlp(&header.to_rlp(), 1 << 20).unwrap().hash(), header.hash());
        let block = Block { header: Header::zero(), transactions: any.list(Any::bytes) };
        holds(any, &block, true);
        let vote = any.vote();
        holds(any, &vote, true);
        let votes = VoteSet::new(any.list(Any::vote));
        holds(any, &votes, true);
        let certificate = any.certificate();
        holds(any, &certificate, true);
        let votes = any.guardian_votes();
        holds(any, &votes, false);
        let votes = any.elite_votes();
        holds(any, &votes, false);
    }

    #[test]
    fn records_of_the_state(seed in any::<u64>()) {
        let any = &mut Any(seed);
        let account = any.account();
        holds(any, &account, true);
        let fund = any.fund();
        holds(any, &fund, true);
        let rule = SplitRule {
            initiator: any.address(),
            resource: any.bytes(),
            splits: any.many(Any::split),
            end_height: any.number(),
        };
        holds(any, &rule, true);
        let heights = HeightList(any.list(Any::number));
        holds(any, &heights, true);
        let pool = ValidatorPool { candidates: any.list(|any| any.holder(ThetaWei::from_u256)) };
        holds(any, &pool, true);
        let guardians = any.list(|any| Guardian {
            stakes: any.holder(ThetaWei::from_u256),
            key: any.bls().public_key(),
        });
        holds(any, &GuardianPool { guardians }, false);
        let node = EliteEdgeNode { stakes: any.holder(TFuelWei::from_u256), key: any.bls().public_key() };
        holds(any, &node, false);
        let returns = any.list(|any| StakeReturn { holder: any.address(), stake: any.stake(TFuelWei::from_u256) });
        holds(any, &returns, true);
        let (holder, beneficiary) = (any.address(), any.address());
        let distribution = RewardDistribution { holder, beneficiary, split_basis_point: any.number() };
        holds(any, &distribution, true);
    }

    #[test]
    fn what_blocks_leave(seed in any::<u64>()) {
        let any = &mut Any(seed);
        let result = any.result();
        holds(any, &result, true);
        holds(any, &result.receipt, true);
        let place = Place { block: any.hash(), height: any.number(), index: any.number() };
        holds(any, &place, true);
    }
}
