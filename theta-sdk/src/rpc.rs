//! The `theta.*` methods: arguments and answers, defined once for clients and for the node's server.
//!
//! Heights, epochs and sequences are decimal text, as the reference writes them; numbers are read too. Amounts are decimal
//! text in wei, `data` is base64, hashes and addresses are lower-case hexadecimal with `0x`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::Value;
use theta_core::{
    amount::Coins,
    hash::{Address, Hash},
    sign::Signature,
};

/// A method: its arguments are the value itself.
pub trait Method: Serialize + Sync {
    /// Its name.
    const NAME: &'static str;
    /// What it answers.
    type Answer: DeserializeOwned;
}

macro_rules! method {
    ($(#[$doc:meta])* $name:ident -> $answer:ty { $($(#[$field_doc:meta])* $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
        }
        impl Method for $name {
            const NAME: &'static str = concat!("theta.", stringify!($name));
            type Answer = $answer;
        }
    };
}

/// A number that travels as decimal text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub u64);

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Number(u64),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map(Self).map_err(serde::de::Error::custom)
            }
            Form::Text(text) => Err(serde::de::Error::custom(format!("`{text}` is not a decimal number"))),
        }
    }
}

method!(
    /// What program answers.
    GetVersion -> Version {}
);
method!(
    /// Where the node stands.
    GetStatus -> Status {}
);
method!(
    /// The node's keys for votes on checkpoints: what a stake behind it needs.
    GetGuardianInfo -> GuardianInfo {}
);
method!(
    /// An account; one that was never used is an error.
    GetAccount -> Account {
        /// The address; short forms such as `0x0` are padded.
        address: String,
        /// Height, 0 for the newest settled state.
        height: Text,
        /// Whether waiting transactions count.
        preview: bool,
    }
);
method!(
    /// A transaction by its native or Ethereum hash.
    GetTransaction -> Transaction {
        /// The hash.
        hash: String,
    }
);
method!(
    /// A block by hash.
    GetBlock -> Block {
        /// The hash.
        hash: Hash,
        /// Adds the hashes by which Ethereum wallets know transactions.
        include_eth_tx_hashes: bool,
    }
);
method!(
    /// A settled block by height; an empty object where there is none.
    GetBlockByHeight -> Value {
        /// The height.
        height: Text,
        /// Adds the hashes by which Ethereum wallets know transactions.
        include_eth_tx_hashes: bool,
    }
);
method!(
    /// What a light client needs to follow the chain from a settled block to the newest: each change of the validators on
    /// the way, and the newest block that its child's votes settle. At most 64 updates; whoever got so many asks on.
    GetLightUpdate -> LightUpdates {
        /// Height of the newest block that the client trusts.
        from: Text,
    }
);
method!(
    /// Nodes that prove records of a settled state, or that it has none.
    GetProof -> Proofs {
        /// Keys of records in the state, hexadecimal; at most 100 of at most 256 bytes.
        keys: Vec<String>,
        /// Height, 0 for the newest settled state.
        height: Text,
    }
);
method!(
    /// Transactions that wait.
    GetPendingTransactions -> PendingTransactions {}
);
method!(
    /// A contract's code, hexadecimal without `0x`.
    GetCode -> Code {
        /// The contract.
        address: String,
        /// Height, 0 for the newest settled state.
        height: Text,
    }
);
method!(
    /// The split rule of a resource; an empty object where there is none.
    GetSplitRule -> Value {
        /// The resource.
        resource_id: String,
    }
);
method!(
    /// Validator candidates at a height.
    GetVcpByHeight -> Value {
        /// The height.
        height: Text,
    }
);
method!(
    /// Guardian candidates at a height.
    GetGcpByHeight -> Value {
        /// The height.
        height: Text,
    }
);
method!(
    /// Elite edge nodes at a height.
    GetEenpByHeight -> Value {
        /// The height.
        height: Text,
    }
);
method!(
    /// One account's stake behind an elite edge node.
    GetEenpStakeByHeight -> Value {
        /// The height.
        height: Text,
        /// Whose stake.
        source: Address,
        /// The node.
        holder: Address,
        /// Leaves stakes out that are not withdrawn.
        withdrawn_only: bool,
    }
);
method!(
    /// How holders share rewards, at a height.
    GetStakeRewardDistributionByHeight -> Value {
        /// The height.
        height: Text,
        /// One holder's rule; all rules when empty.
        address: String,
    }
);
method!(
    /// Stakes of elite edge nodes that return at a height.
    GetEliteEdgeNodeStakeReturnsByHeight -> Value {
        /// The height.
        height: Text,
    }
);
method!(
    /// Stakes of elite edge nodes that are on their way back.
    GetAllPendingEliteEdgeNodeStakeReturns -> Value {}
);
method!(
    /// Settled blocks in a row, 5,000 at most.
    GetBlocksByRange -> Value {
        /// The first height.
        start: Text,
        /// The last one.
        end: Text,
        /// Adds the hashes by which Ethereum wallets know transactions.
        include_eth_tx_hashes: bool,
    }
);
method!(
    /// Hashes on the way from a block down to what is settled, or up to the tip.
    TraceBlocks -> Value {
        /// The block.
        hash: Hash,
        /// Down instead of up.
        upstream: bool,
    }
);
method!(
    /// A word of a contract's storage, 64 digits.
    GetStorageAt -> Value {
        /// The contract.
        address: String,
        /// The word's key, as the reference spells it.
        storage_positon: String,
        /// The same, spelt right.
        storage_position: String,
        /// Height, 0 for the newest settled state.
        height: Text,
    }
);
method!(
    /// Names of connected peers.
    GetPeers -> Value {
        /// Leaves edge nodes out.
        skip_edge_node: bool,
    }
);
method!(
    /// Where connected peers are.
    GetPeerURLs -> Value {
        /// Leaves edge nodes out.
        skip_edge_node: bool,
    }
);
method!(
    /// Sends a transaction and waits until it is settled.
    BroadcastRawTransaction -> Broadcast {
        /// Hexadecimal, `0x` optional.
        tx_bytes: String,
    }
);
method!(
    /// Sends a transaction and does not wait.
    BroadcastRawTransactionAsync -> BroadcastAsync {
        /// Hexadecimal, `0x` optional.
        tx_bytes: String,
    }
);
method!(
    /// Sends an Ethereum wallet's transaction and waits until it is settled; answers the native hash.
    BroadcastRawEthTransaction -> Broadcast {
        /// Hexadecimal, `0x` optional.
        tx_bytes: String,
    }
);
method!(
    /// Sends an Ethereum wallet's transaction and does not wait; answers the Ethereum hash.
    BroadcastRawEthTransactionAsync -> BroadcastAsync {
        /// Hexadecimal, `0x` optional.
        tx_bytes: String,
    }
);
method!(
    /// Runs a contract call without sending it.
    CallSmartContract -> CallResult {
        /// An encoded smart contract transaction, hexadecimal, `0x` optional; its signature may be empty.
        sctx_bytes: String,
    }
);

/// Answer of [`GetVersion`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Version of the program.
    pub version: String,
    /// Commit it was built from, where known.
    pub git_hash: String,
    /// When it was built, where known.
    pub timestamp: String,
}

/// Answer of [`GetGuardianInfo`]; all hexadecimal, without `0x` but for the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardianInfo {
    /// The BLS key, 48 bytes.
    #[serde(rename = "BLSPubkey")]
    pub key: String,
    /// The proof of possession, 96 bytes.
    #[serde(rename = "BLSPop")]
    pub proof: String,
    /// The node's address, mixed case.
    #[serde(rename = "Address")]
    pub address: String,
    /// The node's signature on the proof, 65 bytes.
    #[serde(rename = "Signature")]
    pub signature: String,
}

impl GuardianInfo {
    /// The 458 digits that a deposit takes: address, key, proof, signature.
    pub fn summary(&self) -> String {
        let address = self.address.trim_start_matches("0x").to_lowercase();
        format!("{address}{}{}{}", self.key, self.proof, self.signature)
    }
}

/// Answer of [`GetStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's address, mixed case.
    pub address: String,
    /// Chain id as text.
    pub chain_id: String,
    /// The node's name on the network.
    pub peer_id: String,
    /// Newest settled block.
    pub latest_finalized_block_hash: Hash,
    /// Its height.
    pub latest_finalized_block_height: Text,
    /// Its time, seconds since 1970.
    pub latest_finalized_block_time: String,
    /// Its epoch.
    pub latest_finalized_block_epoch: Text,
    /// The engine's epoch.
    pub current_epoch: Text,
    /// Height of the tip.
    pub current_height: Text,
    /// Hash of the tip.
    pub current_hash: Hash,
    /// The node's clock, seconds since 1970.
    pub current_time: Text,
    /// Whether it is catching up.
    pub syncing: bool,
    /// Hash of the tip.
    pub tip_hash: Hash,
    /// Hash of the first block.
    pub genesis_block_hash: Hash,
    /// Height the node began from.
    pub snapshot_block_height: Text,
    /// Hash of the block the node began from.
    pub snapshot_block_hash: Hash,
    /// Newest checkpoint that guardians made final; not in the reference, and missing where there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latest_final_block_hash: Option<Hash>,
    /// Its height.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latest_final_block_height: Option<Text>,
}

/// Answer of [`GetAccount`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Number of the last transaction.
    pub sequence: Text,
    /// Free coins.
    pub coins: Coins,
    /// Coins set aside.
    pub reserved_funds: Vec<ReservedFund>,
    /// Height of the block below the one that made the account.
    pub last_updated_block_height: Text,
    /// Storage root.
    pub root: Hash,
    /// Hash of the code.
    pub code: Hash,
}

/// A reserved fund in an [`Account`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedFund {
    /// Lost by overspending.
    pub collateral: Coins,
    /// What may be paid.
    pub initial_fund: Coins,
    /// What has been paid.
    pub used_fund: Coins,
    /// What may be paid for.
    pub resource_ids: Vec<String>,
    /// Last height at which payments are taken.
    pub end_block_height: Text,
    /// Name of the fund.
    pub reserve_sequence: Text,
    /// The payments so far, as transactions.
    pub transfer_records: Vec<Value>,
}

/// Answer of [`GetTransaction`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// The block it stands in.
    pub block_hash: Hash,
    /// That block's height.
    pub block_height: Text,
    /// `not_found`, `pending`, `finalized` or `abandoned`.
    pub status: String,
    /// Its native hash.
    pub hash: Hash,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: u16,
    /// The transaction, by kind.
    pub transaction: Option<Value>,
    /// What a contract transaction did.
    pub receipt: Option<Receipt>,
    /// Moves of coins of a contract transaction, under the reference's misspelt name.
    pub blance_changes: Option<Value>,
    /// The same under its right name.
    #[serde(default)]
    pub balance_changes: Option<Value>,
}

/// What a contract transaction did, under the reference's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Receipt {
    /// Native hash of the transaction.
    pub tx_hash: Hash,
    /// Logs.
    pub logs: Vec<Log>,
    /// What was returned, base64.
    pub evm_ret: String,
    /// The contract made or called.
    pub contract_address: Address,
    /// Gas used.
    pub gas_used: u64,
    /// Why it failed.
    pub evm_err: String,
}

/// A log in a [`Receipt`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// The contract.
    pub address: Address,
    /// Words to search by.
    pub topics: Vec<Hash>,
    /// The rest, base64.
    pub data: String,
}

/// Answer of [`GetBlock`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Chain id as text.
    pub chain_id: String,
    /// The proposer's epoch.
    pub epoch: Text,
    /// Height.
    pub height: Text,
    /// Hash of the block below.
    pub parent: Hash,
    /// Root over the transactions.
    pub transactions_hash: Hash,
    /// State root.
    pub state_hash: Hash,
    /// Seconds since 1970.
    pub timestamp: String,
    /// Who proposed it.
    pub proposer: Address,
    /// The certificate it carries.
    pub hcc: Value,
    /// Guardian votes it carries.
    pub guardian_votes: Value,
    /// Always null here, as in the reference.
    pub elite_edge_node_votes: Value,
    /// Hashes of blocks on top of it.
    pub children: Vec<Hash>,
    /// The reference's status number.
    pub status: u8,
    /// Hash.
    pub hash: Hash,
    /// Transactions; null for genesis.
    pub transactions: Option<Vec<BlockTransaction>>,
}

/// A transaction in a [`Block`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockTransaction {
    /// The transaction, by kind.
    pub raw: Value,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: u16,
    /// Its native hash.
    pub hash: Hash,
    /// What a contract transaction did.
    pub receipt: Option<Receipt>,
    /// Moves of coins of a contract transaction.
    pub balance_changes: Option<Value>,
    /// The hash by which an Ethereum wallet knows it; zero where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eth_tx_hash: Option<Hash>,
}

/// Answer of [`GetPendingTransactions`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingTransactions {
    /// Hashes.
    pub tx_hashes: Vec<Hash>,
}

/// Answer of [`GetLightUpdate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LightUpdates {
    /// Ascending by height.
    pub updates: Vec<LightUpdate>,
}

/// A settled block and why it is, each as RLP in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LightUpdate {
    /// Height of the block.
    pub height: Text,
    /// Its header.
    pub block: String,
    /// Its child's header.
    pub child: String,
    /// The certificate of the child.
    pub certificate: String,
    /// Proof of the validators in the block's state, where the block changes them.
    pub validators: Option<Vec<String>>,
}

/// Answer of [`GetProof`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proofs {
    /// The block after which the state stands.
    pub block_hash: Hash,
    /// Its height.
    pub height: Text,
    /// Root of the state.
    pub state_root: Hash,
    /// For each key its nodes from the root down, hexadecimal.
    pub proofs: Vec<Vec<String>>,
}

/// Answer of [`GetCode`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// As asked.
    pub address: String,
    /// Hexadecimal without `0x`.
    pub code: String,
}

/// Answer of the waiting broadcasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broadcast {
    /// Native hash.
    pub hash: Hash,
    /// Header of the block it settled in.
    pub block: Option<Header>,
}

/// A header under the reference's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Header {
    /// Chain id as text.
    #[serde(rename = "ChainID")]
    pub chain_id: String,
    /// The proposer's epoch.
    pub epoch: u64,
    /// Height.
    pub height: u64,
    /// Hash of the block below.
    pub parent: Hash,
    /// The certificate it carries.
    #[serde(rename = "HCC")]
    pub hcc: Value,
    /// Guardian votes it carries.
    pub guardian_votes: Value,
    /// Elite edge votes it carries.
    pub elite_edge_node_votes: Value,
    /// Root over the transactions.
    pub tx_hash: Hash,
    /// State root.
    pub state_hash: Hash,
    /// Seconds since 1970.
    pub timestamp: Value,
    /// Who proposed it.
    pub proposer: Address,
    /// The proposer's.
    pub signature: Signature,
}

/// Answer of the broadcasts that do not wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastAsync {
    /// Hash.
    pub hash: Hash,
}

/// Answer of [`CallSmartContract`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallResult {
    /// What was returned, hexadecimal without `0x`.
    pub vm_return: String,
    /// The contract made or called.
    pub contract_address: Address,
    /// Gas used.
    pub gas_used: Text,
    /// Why it failed; empty on success.
    pub vm_error: String,
}
