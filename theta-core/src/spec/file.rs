//! A chain in a file: a preset, other heights for its forks, a lock of its own.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ChainSpec, Fork};

/// Why a chain-spec file describes no chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The base is none of the presets.
    #[error(
        "`{0}` is no base: write one of {list}, where oldest is the first rules without any fork",
        list = ChainSpec::PRESETS.join(", ")
    )]
    Base(String),
    /// A name under `forks` is no fork.
    #[error("`{0}` is no fork: write one of {list}", list = names())]
    Fork(String),
    /// A fork's height is neither a number nor `never`.
    #[error("fork {fork} is at `{height}`: write a height, or \"never\"")]
    Height {
        /// The fork.
        fork: String,
        /// As written.
        height: String,
    },
    /// Only proposers that are drawn from a seed can be skipped.
    #[error("fork skip_absent needs fork improved: leave it out, or write improved = 0")]
    SkipAbsent,
    /// Validators' keys are in the first block's state or nowhere.
    #[error("fork improved is at {0}: validators' BLS keys come with genesis, so write 0 or \"never\"")]
    Improved(u64),
    /// The chain has no name.
    #[error("the chain has no name: write chain = \"…\"")]
    NoName,
    /// Coins that never return are no stake.
    #[error("stake.lock_blocks is 0: write at least 1")]
    NoLock,
}

fn names() -> String {
    Fork::ALL.map(Fork::name).join(", ")
}

/// What a chain-spec file says. Every part but `base` may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecFile {
    /// Chain id in headers and sign bytes; the base's own when missing.
    pub chain: Option<String>,
    /// The preset whose forks hold where `forks` says nothing, see [`ChainSpec::preset`].
    pub base: String,
    /// Heights by the names of [`Fork::name`] or those of the reference.
    #[serde(default)]
    pub forks: BTreeMap<String, ForkHeight>,
    /// Stakes.
    #[serde(default)]
    pub stake: StakeFile,
}

/// Where a fork begins.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ForkHeight {
    /// From this height on.
    At(u64),
    /// The word `never`.
    Word(String),
}

/// What a chain-spec file says of stakes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StakeFile {
    /// Blocks between a withdrawal and the return of the coins, at every height.
    pub lock_blocks: Option<u64>,
}

impl ChainSpec {
    /// Names of the presets.
    pub const PRESETS: [&str; 4] = ["mainnet", "privatenet", "devnet", "oldest"];

    /// A chain by its preset's name. `theta` is another word for `privatenet`.
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name {
            "mainnet" => Self::mainnet(),
            "privatenet" | "theta" => Self::privatenet(),
            "devnet" => Self::devnet(),
            "oldest" => Self::new("privatenet", []),
            _ => return None,
        })
    }

    /// The chain that a file describes.
    pub fn from_file(file: &SpecFile) -> Result<Self, SpecError> {
        let base = Self::preset(&file.base).ok_or_else(|| SpecError::Base(file.base.clone()))?;
        let chain = file.chain.clone().unwrap_or(base.chain);
        if chain.is_empty() {
            return Err(SpecError::NoName);
        }
        let mut forks = base.forks;
        for (name, height) in &file.forks {
            let fork = Fork::named(name).ok_or_else(|| SpecError::Fork(name.clone()))?;
            match height {
                ForkHeight::At(height) => drop(forks.insert(fork, *height)),
                ForkHeight::Word(word) if word == "never" => drop(forks.remove(&fork)),
                ForkHeight::Word(word) => {
                    return Err(SpecError::Height { fork: name.clone(), height: word.clone() });
                }
            }
        }
        if let Some(height) = forks.get(&Fork::Improved).filter(|height| **height > 0) {
            return Err(SpecError::Improved(*height));
        }
        if forks.contains_key(&Fork::SkipAbsent) && !forks.contains_key(&Fork::Improved) {
            return Err(SpecError::SkipAbsent);
        }
        let spec = Self::new(chain, forks);
        match file.stake.lock_blocks {
            Some(0) => Err(SpecError::NoLock),
            Some(blocks) => Ok(spec.with_lock_blocks(blocks)),
            None => Ok(spec),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> SpecFile {
        serde_json::from_str(text).expect("well formed")
    }

    #[test]
    fn a_file_changes_its_base() {
        let file = r#"{"base": "privatenet", "chain": "mine", "forks": {"theta2": 100, "HeightEnableTheta3": 7, "metachain": "never"}, "stake": {"lock_blocks": 60}}"#;
        let spec = ChainSpec::from_file(&read(file)).expect("a chain");
        assert_eq!((spec.chain.as_str(), spec.forks()[&Fork::Theta2]), ("mine", 100));
        assert_eq!(spec.forks()[&Fork::Theta3], 7);
        assert!(!spec.forks().contains_key(&Fork::Metachain));
        assert_eq!(spec.rules(2).evm.code_limit, 24_576);
        assert!([0, 2, 100].iter().all(|height| spec.rules(*height).stake.lock_blocks == 60));
        assert!(spec.rules(50).stake.elite_edge && !spec.rules(99).stake.deposits_with_keys);
        let plain = ChainSpec::from_file(&read(r#"{"base": "devnet"}"#)).expect("a chain");
        assert_eq!(plain, ChainSpec::devnet());
    }

    #[test]
    fn a_file_that_describes_no_chain_says_why() {
        let refused = |text| ChainSpec::from_file(&read(text)).expect_err("no chain").to_string();
        assert!(refused(r#"{"base": "main"}"#).contains("privatenet"));
        assert!(refused(r#"{"base": "devnet", "forks": {"theta4": 1}}"#).contains("theta2"));
        assert!(refused(r#"{"base": "devnet", "forks": {"theta2": "soon"}}"#).contains("never"));
        assert!(refused(r#"{"base": "devnet", "chain": ""}"#).contains("chain ="));
        assert!(refused(r#"{"base": "devnet", "forks": {"improved": 5}}"#).contains("genesis"));
        assert!(refused(r#"{"base": "privatenet", "forks": {"skip_absent": 9}}"#).contains("improved = 0"));
        assert!(refused(r#"{"base": "devnet", "stake": {"lock_blocks": 0}}"#).contains("at least 1"));
        assert!(serde_json::from_str::<SpecFile>(r#"{"base": "devnet", "fork": {}}"#).is_err());
    }

    #[test]
    fn every_fork_has_a_name_of_its_own() {
        for fork in Fork::ALL {
            assert_eq!(Fork::named(fork.name()), Some(fork));
            assert_eq!(fork.reference_name().map_or(Some(fork), Fork::named), Some(fork));
        }
        assert_eq!(Fork::ALL.len(), Fork::MAINNET.len() + 3);
    }
}
