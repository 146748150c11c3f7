//! What several commands take: chains, genesis files, chain-spec files.

use std::{io::Read, path::Path};

use anyhow::{Context, Result, bail, ensure};
use theta_core::spec::{ChainSpec, SpecFile};
use theta_ledger::genesis::{Genesis, GenesisFile};

use super::work::Watch;

/// The chain-spec form, for the help of the commands that take one.
pub(super) const SPEC_HELP: &str = "A chain-spec file is TOML; only `base` has to be there:

  base = \"privatenet\"        # mainnet, privatenet (also called theta), devnet, or oldest: no fork at all
  chain = \"mynet\"            # chain id in headers and signatures; the base's own when missing
  [forks]                    # heights that differ from the base's; \"never\" takes a fork out
  theta2 = 100               # also by the reference's names: HeightEnableTheta2 = 100
  metachain = \"never\"
  [stake]
  lock_blocks = 28800        # blocks between a withdrawal and the return of the coins

Forks: validator_reward theta2 small_guardians contracts sampled_reward june2021 theta3 rpc_compatibility tx_wrapper
theta_in_contracts small_validators wrapped_theta metachain short_lock improved skip_absent. A section [genesis] is for
`theta genesis build` and ignored elsewhere.";

/// Largest chain-spec file.
const MAX_SPEC: u64 = 64 << 20;

/// A chain by a preset's name or by its file.
pub(super) fn chain(text: &str) -> Result<ChainSpec> {
    if let Some(spec) = ChainSpec::preset(text) {
        return Ok(spec);
    }
    let path = Path::new(text);
    if !path.exists() && !text.contains(['.', '/']) {
        bail!(
            "`{text}` is no chain: write one of {} or name a chain-spec file",
            ChainSpec::PRESETS.join(", ")
        );
    }
    Ok(spec_file(path)?.0)
}

/// A chain-spec file and what it says of a genesis.
pub(super) fn spec_file(path: &Path) -> Result<(ChainSpec, Option<GenesisFile>)> {
    let name = || path.display().to_string();
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(name)?;
    file.take(MAX_SPEC).read_to_string(&mut text).with_context(name)?;
    let mut table: toml::Table = text.parse().with_context(name)?;
    let genesis = table.remove("genesis").map(toml::Value::try_into).transpose().with_context(name)?;
    let file: SpecFile = table.try_into().with_context(name)?;
    Ok((ChainSpec::from_file(&file).with_context(name)?, genesis))
}

/// The chain that a genesis begins: the one that is named, else the one that its name stands for.
pub(super) fn chain_of(
    genesis: &Genesis,
    named: Option<&str>,
    stated: Option<ChainSpec>,
) -> Result<ChainSpec> {
    let name = &genesis.header.chain;
    let spec = match (named, stated) {
        (Some(named), _) => chain(named)?,
        (None, Some(stated)) => stated,
        (None, None) => match name.as_str() {
            "mainnet" => ChainSpec::mainnet(),
            "privatenet" => ChainSpec::privatenet(),
            other => bail!(
                "the fork heights of chain {other} are not built in; name a chain-spec file with --spec"
            ),
        },
    };
    ensure!(
        spec.chain == *name,
        "the genesis is of chain {name}, the chain spec of {}; name the spec that belongs to it with --spec",
        spec.chain
    );
    Ok(spec)
}

/// Reads a genesis file.
pub(super) fn genesis(watch: &Watch, path: &Path) -> Result<Genesis> {
    let name = || path.display().to_string();
    let mut bytes = Vec::new();
    watch.open(path)?.read_to_end(&mut bytes).with_context(name)?;
    Genesis::read(&bytes, None).with_context(name)
}
