//! Genesis files: the state and the header that a chain begins with (`ledger.md` 8).
//!
//! A file is records, each a length in eight little-endian bytes and as many bytes of RLP: metadata with the header, a
//! mark, every entry of the state trie, a mark. All of it is checked while it is read; what is given back is whole.

use std::{collections::BTreeMap, convert::Infallible, str::FromStr, sync::Arc};

use theta_core::{
    BigUint,
    amount::{AmountError, Coins, TFuelWei, ThetaWei},
    block::Header,
    bls::{self, PublicKey},
    codec::rlp::{Decode, Encode},
    hash::{Address, Hash, keccak},
    spec::ChainSpec,
    stake::{GuardianPool, VALIDATOR_KEYS, ValidatorPool, ValidatorSet},
    trie::{NoNodes, Trie},
    workers::Inline,
};

pub use theta_core::stake::ValidatorKey;

use crate::{
    error::SnapshotError,
    records::{Entry, Mark, Metadata, Record, Records, Trio, Version, write_record},
    state::{Account, account::HeightList, keys},
};

/// State roots of genesis files that are known, with the hashes of their headers. A file with one of these states and
/// another header has been altered.
const KNOWN: [(&str, &str, &str); 6] = [
    (
        "mainnet",
        "7ada5b5bda556a0573364718e37a189043c80fd8defbd9e28d1bf5c1c197316c",
        "d8836c6cf3c3ccea0b015b4ed0f9efb0ffe6254db793a515843c9d0f68cbab65",
    ),
    (
        "privatenet",
        "1ac082033355eb1071e0a48c18db3e6a08ac8dd7f0744dcb1416069449272a81",
        "45c579eb4d435ffcd37f0f76beaa772072cea146c4ecec2e52066904b80f4e0a",
    ),
    (
        "privatenet",
        "157728ebcca3817170f7280871fdd8701e9a2d3630159a32c494d5e38e52f2b0",
        "a01e8a75e33586ccaf354d4e1377dda94e36fbce310720682984d5427b80aa81",
    ),
    (
        "testnet",
        "73f491c3f94d256490170ee4e089579cd5a7e03a210e6509f59d74d13a680e1e",
        "a58cb754a23975c872ef06d8b54baf16eec88ad60f966368b950a6c16ae52ed9",
    ),
    (
        "testnet_amber",
        "185daca96f50d7444e6620a2f7ae2bb2f7142075192191635d8857a75675fea0",
        "1e58bb5dc3be6d2889c76661173abe1dea5be639a655ea2e3f7b1eddda6f3206",
    ),
    (
        "testnet_sapphire",
        "d840b52a77a2cde745cd8edb1e4772307f425dbd43b67b22ff4aa16cf37fd68e",
        "2789f210f63d15e864ee41a16c87350ffbe02d1f6f9cb723afa3ad956d7a8d25",
    ),
];

/// The first block's header and the whole state behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The header; its hash names the network.
    pub header: Header,
    /// Every entry of the state, by key.
    pub entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Genesis {
    /// Reads a genesis file and checks all of it. `expected` is the hash that the header has to have, where it is known
    /// from elsewhere; the main network's is built in.
    pub fn read(file: &[u8], expected: Option<Hash>) -> Result<Self, SnapshotError> {
        let mut records = Records::new(file);
        let head = records.require("the file is empty")?;
        if let Ok(version) = head.decode::<Version>() {
            return Err(SnapshotError::Version(version.version));
        }
        let metadata: Metadata = head.decode()?;
        let empty = (Header::zero(), Vec::new());
        if !metadata.proofs.is_empty() || metadata.tail.first != empty {
            return Err(head.unexpected("a genesis file proves nothing before its header"));
        }
        if metadata.tail.third != (Header::zero(), theta_core::vote::VoteSet::default()) {
            return Err(head.unexpected("a genesis file has nothing behind its header"));
        }
        let header = metadata.tail.second;
        if header.height != 0 {
            return Err(head.unexpected("the header is not at height 0"));
        }
        let start = records.require("the file ends behind its header")?;
        if start.decode::<Entry>()?.as_mark() != Some((Mark::Open, 0)) {
            return Err(start.unexpected("the opening mark of height 0 belongs here"));
        }
        let mut entries = BTreeMap::new();
        loop {
            let record = records.require("the file ends before its closing mark")?;
            let entry: Entry = record.decode()?;
            if entry.key.len() == 1 {
                if entry.as_mark() != Some((Mark::Close, 0)) {
                    return Err(record.unexpected("the closing mark of height 0 belongs here"));
                }
                break;
            }
            if entry.value.is_empty() {
                return Err(record.unexpected("an entry has no value"));
            }
            check_entry(&record, &entry)?;
            if entries.insert(entry.key, entry.value).is_some() {
                return Err(record.unexpected("a key stands twice"));
            }
        }
        if let Some(surplus) = records.next()? {
            return Err(surplus.unexpected("something stands behind the closing mark"));
        }
        let genesis = Self { header, entries };
        let computed = genesis.trie().root();
        if computed != genesis.header.state_root {
            return Err(SnapshotError::StateRoot {
                entries: genesis.entries.len(),
                at: head.at,
                computed,
                header: genesis.header.state_root,
            });
        }
        genesis.check_hash(head.at, expected)?;
        Ok(genesis)
    }

    fn check_hash(&self, at: usize, expected: Option<Hash>) -> Result<(), SnapshotError> {
        let found = self.header.hash();
        let refuse = |chain: &str, expected| {
            Err(SnapshotError::OtherGenesis { at, chain: chain.to_owned(), found, expected })
        };
        let parse = |text: &str| text.parse::<Hash>().unwrap_or_default();
        let known = KNOWN
            .iter()
            .find(|(_, root, _)| parse(root) == self.header.state_root)
            .or_else(|| KNOWN.iter().find(|(chain, ..)| *chain == "mainnet" && *chain == self.header.chain));
        if let Some((chain, _, hash)) = known
            && parse(hash) != found
        {
            return refuse(chain, parse(hash));
        }
        match expected {
            Some(expected) if expected != found => refuse(&self.header.chain, expected),
            _ => Ok(()),
        }
    }

    /// Writes the file.
    pub fn write(&self) -> Vec<u8> {
        let zero = Header::zero();
        let metadata = Metadata {
            proofs: Vec::new(),
            tail: Trio {
                first: (zero.clone(), Vec::new()),
                second: self.header.clone(),
                third: (zero, theta_core::vote::VoteSet::default()),
            },
        };
        let mut out = Vec::new();
        let mut record = |bytes: Vec<u8>| write_record(&mut out, &bytes).expect("memory takes it");
        record(metadata.to_rlp());
        record(Entry::mark(Mark::Open, self.header.height).to_rlp());
        let write = &mut |key: &[u8], value: &[u8]| {
            record(Entry { key: key.to_vec(), value: value.to_vec() }.to_rlp());
            true
        };
        self.trie().visit(&[], write).expect("nothing is read from a source");
        record(Entry::mark(Mark::Close, self.header.height).to_rlp());
        out
    }

    /// The state as a trie in memory.
    pub(crate) fn trie(&self) -> Trie {
        let mut trie = Trie::empty(Arc::new(NoNodes));
        let entries = self.entries.iter().map(|(key, value)| (key.clone(), value.clone()));
        trie.update(entries, &Inline).expect("nothing is read from a source");
        trie
    }

    /// Hash of the header: the network's name for machines.
    pub fn hash(&self) -> Hash {
        self.header.hash()
    }

    fn record<T: Decode>(&self, key: &[u8]) -> Option<T> {
        let bytes = self.entries.get(key)?;
        T::from_rlp(bytes, bytes.len()).ok()
    }

    /// The validator candidates.
    pub fn validators(&self) -> ValidatorPool {
        self.record(keys::VALIDATORS).unwrap_or_default()
    }

    /// The validators of the first blocks.
    pub fn validator_set(&self, spec: &ChainSpec) -> ValidatorSet {
        self.set(spec.rules(self.header.height).stake.validator_keys)
    }

    /// Whether the chain's validators have keys.
    pub(crate) fn has_validator_keys(&self) -> bool {
        self.entries.keys().any(|key| key.starts_with(VALIDATOR_KEYS))
    }

    pub(crate) fn set(&self, keyed: bool) -> ValidatorSet {
        let pool = self.validators();
        if !keyed {
            return ValidatorSet::of_pool(&pool);
        }
        let key = |holder| self.record::<ValidatorKey>(&keys::validator_key(holder)).map(|key| key.key);
        let Ok(set) = ValidatorSet::keyed(&pool, |holder| Ok::<_, Infallible>(key(holder)));
        set
    }

    /// The guardians.
    pub fn guardians(&self) -> GuardianPool {
        self.record(keys::GUARDIANS).unwrap_or_default()
    }

    /// Whether validator stakes changed in this block, as the set-change rule counts it.
    pub fn changes_validators(&self) -> bool {
        self.record::<HeightList>(keys::STAKE_HEIGHTS)
            .is_some_and(|heights| heights.0.contains(&self.header.height))
    }

    /// Every account, ascending by address.
    pub fn accounts(&self) -> impl Iterator<Item = Account> {
        self.entries
            .iter()
            .filter(|(key, _)| key.starts_with(keys::ACCOUNT))
            .filter_map(|(_, value)| Account::from_rlp(value, value.len()).ok())
    }
}

/// What can be said of an entry alone: it is what belongs under its key.
fn check_entry(record: &Record, entry: &Entry) -> Result<(), SnapshotError> {
    let inside = |source| SnapshotError::Malformed { record: record.number, at: record.at, source };
    if let Some(address) = entry.key.strip_prefix(keys::ACCOUNT) {
        let account = Account::from_rlp(&entry.value, entry.value.len()).map_err(inside)?;
        if account.address.as_slice() != address {
            return Err(record.unexpected("an account stands under another address"));
        }
    } else if entry.key == keys::VALIDATORS {
        ValidatorPool::from_rlp(&entry.value, entry.value.len()).map_err(inside)?;
    } else if entry.key == keys::STAKE_HEIGHTS {
        HeightList::from_rlp(&entry.value, entry.value.len()).map_err(inside)?;
    }
    Ok(())
}

/// Makes a genesis.
#[derive(Clone, Debug)]
pub struct GenesisBuilder {
    chain: String,
    /// Whether validators have keys.
    keyed: bool,
    timestamp: u64,
    accounts: BTreeMap<Address, Coins>,
    contracts: BTreeMap<Address, Vec<u8>>,
    pool: ValidatorPool,
    guardians: GuardianPool,
    keys: BTreeMap<Address, ValidatorKey>,
}

impl GenesisBuilder {
    /// A genesis of this chain at this time, in seconds since 1970.
    pub fn new(spec: &ChainSpec, timestamp: u64) -> Self {
        Self {
            chain: spec.chain.clone(),
            keyed: spec.rules(0).stake.validator_keys,
            timestamp,
            accounts: BTreeMap::new(),
            contracts: BTreeMap::new(),
            pool: ValidatorPool::default(),
            guardians: GuardianPool::default(),
            keys: BTreeMap::new(),
        }
    }

    /// Gives an account coins; a later call for the same account replaces them.
    pub fn account(mut self, address: Address, coins: Coins) -> Self {
        self.accounts.insert(address, coins);
        self
    }

    /// Puts a contract at an address, as a creation leaves it.
    pub fn contract(mut self, address: Address, code: Vec<u8>) -> Self {
        self.contracts.insert(address, code);
        self.accounts.entry(address).or_default();
        self
    }

    /// Stakes THETA behind a validator, in addition to what its source has.
    pub fn validator(mut self, source: Address, holder: Address, stake: ThetaWei) -> Self {
        // A first deposit of one source cannot be refused, and a second one only adds.
        let _ = self.pool.deposit(source, holder, stake);
        self.accounts.entry(source).or_default();
        self
    }

    /// The same for a validator that has this key, where the chain's validators have keys.
    #[cfg(feature = "bls")]
    pub fn validator_with_key(
        self,
        source: Address,
        holder: Address,
        stake: ThetaWei,
        key: &bls::SecretKey,
    ) -> Self {
        let proof = key.proof_of_possession(bls::Suite::Rfc9380);
        let record = ValidatorKey { key: key.public_key(), proof };
        let keyed = self.keyed;
        let builder = self.validator(source, holder, stake);
        if keyed { builder.validator_key(holder, record) } else { builder }
    }

    /// Stakes THETA behind a guardian that votes with this key, in addition to what its source has.
    pub fn guardian(mut self, source: Address, holder: Address, stake: ThetaWei, key: PublicKey) -> Self {
        // As for validators; a holder that is new comes with its key.
        let _ = self.guardians.deposit(source, holder, stake, Some(key));
        self.accounts.entry(source).or_default();
        self
    }

    /// Gives a validator a BLS key.
    pub fn validator_key(mut self, holder: Address, key: ValidatorKey) -> Self {
        self.keys.insert(holder, key);
        self
    }

    /// Builds the state and its header.
    pub fn build(self) -> Genesis {
        let mut entries = BTreeMap::new();
        for (address, balance) in self.accounts {
            let mut account = Account { balance, ..Account::new(address, 0) };
            if let Some(code) = self.contracts.get(&address) {
                account.sequence = 1;
                account.code_hash = keccak(code);
                entries.insert(keys::code(account.code_hash), code.clone());
            }
            entries.insert(keys::account(address), account.to_rlp());
        }
        entries.insert(keys::VALIDATORS.to_vec(), self.pool.to_rlp());
        entries.insert(keys::STAKE_HEIGHTS.to_vec(), HeightList(vec![0]).to_rlp());
        if !self.guardians.guardians.is_empty() {
            entries.insert(keys::GUARDIANS.to_vec(), self.guardians.to_rlp());
        }
        for (holder, key) in self.keys {
            entries.insert(keys::validator_key(holder), key.to_rlp());
        }
        let header = Header { chain: self.chain, timestamp: BigUint::from(self.timestamp), ..Header::zero() };
        let mut genesis = Genesis { header, entries };
        genesis.header.state_root = genesis.trie().root();
        genesis
    }
}

/// What a description of a genesis says, besides the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisFile {
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Accounts with coins.
    #[serde(default)]
    pub accounts: Vec<AccountFile>,
    /// Stakes behind validators.
    #[serde(default)]
    pub validators: Vec<ValidatorFile>,
}

/// An account of a [`GenesisFile`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountFile {
    /// The account.
    pub address: Address,
    /// THETA: whole tokens, or an integer with the suffix `wei`.
    #[serde(default)]
    pub theta: String,
    /// TFUEL, likewise.
    #[serde(default)]
    pub tfuel: String,
}

/// A stake of a [`GenesisFile`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidatorFile {
    /// The validator.
    pub holder: Address,
    /// Whose THETA it is; the validator's own when missing.
    pub source: Option<Address>,
    /// THETA: whole tokens, or an integer with the suffix `wei`.
    pub stake: String,
    /// Its BLS key, on chains where validators have one.
    pub bls_key: Option<PublicKey>,
    /// The key's signature on its own bytes.
    pub bls_proof: Option<bls::Signature>,
}

/// Why a description gives no genesis.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenesisFileError {
    /// An account is named twice.
    #[error("account {0} stands twice; name it once with all its coins")]
    Twice(Address),
    /// An amount is none.
    #[error("{0}: {1}")]
    Amount(Address, AmountError),
    /// Nobody could make a block.
    #[error("there are no validators; name at least one under genesis.validators")]
    NoValidators,
    /// A stake is too small to count.
    #[error("the stake behind validator {0} is below {1} THETA, the least that this chain takes")]
    SmallStake(Address, u64),
    /// A key without its proof, or a proof without its key.
    #[error("validator {0} has one of bls_key and bls_proof; write both or none")]
    Key(Address),
}

impl GenesisBuilder {
    /// A genesis of this chain as a description has it.
    pub fn from_file(spec: &ChainSpec, file: &GenesisFile) -> Result<Self, GenesisFileError> {
        let mut builder = Self::new(spec, file.timestamp);
        for AccountFile { address, theta, tfuel } in &file.accounts {
            let coins = Coins { theta: amount(*address, theta)?, tfuel: amount(*address, tfuel)? };
            if builder.accounts.insert(*address, coins).is_some() {
                return Err(GenesisFileError::Twice(*address));
            }
        }
        let least = spec.rules(0).stake.min_validator.min(spec.rules(u64::MAX).stake.min_validator);
        for validator in &file.validators {
            let holder = validator.holder;
            let stake: ThetaWei = amount(holder, &validator.stake)?;
            if stake < ThetaWei::whole(least) {
                return Err(GenesisFileError::SmallStake(holder, least));
            }
            builder = builder.validator(validator.source.unwrap_or(holder), holder, stake);
            match (validator.bls_key, validator.bls_proof) {
                (None, None) => {}
                (Some(key), Some(proof)) => {
                    builder = builder.validator_key(holder, ValidatorKey { key, proof });
                }
                _ => return Err(GenesisFileError::Key(holder)),
            }
        }
        if builder.pool.candidates.is_empty() {
            return Err(GenesisFileError::NoValidators);
        }
        Ok(builder)
    }
}

fn amount<T: FromStr<Err = AmountError> + Default>(of: Address, text: &str) -> Result<T, GenesisFileError> {
    if text.is_empty() {
        Ok(T::default())
    } else {
        text.parse().map_err(|error| GenesisFileError::Amount(of, error))
    }
}

/// Checks that every validator of a genesis has a BLS key with a valid proof, where the chain has such keys.
#[cfg(feature = "bls")]
pub fn check_validator_keys(genesis: &Genesis, spec: &ChainSpec) -> Result<(), SnapshotError> {
    if !spec.rules(0).stake.validator_keys {
        return Ok(());
    }
    for validator in ValidatorSet::of_pool(&genesis.validators()).as_slice() {
        let holder = validator.address;
        genesis
            .record::<ValidatorKey>(&keys::validator_key(holder))
            .filter(|key| bls::verify_possession(bls::Suite::Rfc9380, &key.key, &key.proof).is_ok())
            .ok_or(SnapshotError::ValidatorKey(holder))?;
    }
    Ok(())
}

/// What a genesis or a snapshot holds, in numbers.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GenesisSummary {
    /// Version of the file format.
    pub version: u64,
    /// Chain id.
    pub chain_id: String,
    /// Height of the header.
    pub height: u64,
    /// Hash of the header.
    pub block_hash: Hash,
    /// Root of the state.
    pub state_root: Hash,
    /// Whether the entries have that root; a file where they have not is refused before this is made.
    pub state_root_matches_header: bool,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Records in the file, header and marks included.
    pub records: usize,
    /// Accounts in the state.
    pub accounts: usize,
    /// THETA in accounts.
    pub theta_wei: ThetaWei,
    /// TFUEL in accounts.
    pub tfuel_wei: TFuelWei,
    /// THETA staked with validators.
    pub staked_theta_wei: ThetaWei,
    /// Validators in their stored order.
    pub validators: Vec<ValidatorSummary>,
}

/// A validator in a [`GenesisSummary`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidatorSummary {
    /// The node.
    pub holder: Address,
    /// Its stake.
    pub stake_theta_wei: ThetaWei,
}

impl Genesis {
    /// Counts and sums.
    pub fn summary(&self) -> GenesisSummary {
        let mut tally = Tally::default();
        self.accounts().for_each(|account| tally.add(&account));
        tally.summary(1, &self.header, self.entries.len() + 3, &self.validators())
    }
}

/// Counts accounts.
#[derive(Default)]
pub(crate) struct Tally {
    accounts: usize,
    sum: Coins,
}

impl Tally {
    pub(crate) fn add(&mut self, account: &Account) {
        self.accounts += 1;
        self.sum = self.sum.checked_add(account.balance).unwrap_or(self.sum);
    }

    /// What a file holds whose state has the root that its header says.
    pub(crate) fn summary(
        self,
        version: u64,
        header: &Header,
        records: usize,
        pool: &ValidatorPool,
    ) -> GenesisSummary {
        let validators: Vec<_> = pool
            .candidates
            .iter()
            .map(|candidate| ValidatorSummary {
                holder: candidate.holder,
                stake_theta_wei: candidate.total(),
            })
            .collect();
        let staked = validators
            .iter()
            .fold(ThetaWei::ZERO, |sum, validator| sum.checked_add(validator.stake_theta_wei).unwrap_or(sum));
        GenesisSummary {
            version,
            chain_id: header.chain.clone(),
            height: header.height,
            block_hash: header.hash(),
            state_root: header.state_root,
            state_root_matches_header: true,
            timestamp: u64::try_from(&header.timestamp).unwrap_or(u64::MAX),
            records,
            accounts: self.accounts,
            theta_wei: self.sum.theta,
            tfuel_wei: self.sum.tfuel,
            staked_theta_wei: staked,
            validators,
        }
    }
}
