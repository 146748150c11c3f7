//! A light client: it has the genesis and a URL, believes votes and proofs, and nothing that a node merely says.
//!
//! `cargo run -p theta-examples --example light_client` starts a network of its own to ask. Against another one:
//! `cargo run -p theta-examples --example light_client -- http://127.0.0.1:16888/rpc GENESIS 0xADDRESS`

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use theta_consensus::light::{LightClient, Update};
use theta_core::{
    block::{CommitCertificate, Header},
    codec::rlp::Decode,
    hash::Address,
    spec::ChainSpec,
};
use theta_ledger::{
    genesis::Genesis,
    state::{Account, keys},
};
use theta_node::devnet::{Devnet, DevnetConfig, TEST_MNEMONIC};
use theta_sdk::{
    client::Client,
    rpc::{GetLightUpdate, GetProof, Text},
};

fn bytes(text: &str) -> Result<Vec<u8>> {
    Ok(hex::decode(text.trim_start_matches("0x"))?)
}

fn nodes(proof: &[String]) -> Result<Vec<Vec<u8>>> {
    proof.iter().map(|node| bytes(node)).collect()
}

fn read<T: Decode>(text: &str) -> Result<T> {
    let bytes = bytes(text)?;
    Ok(T::from_rlp(&bytes, bytes.len())?)
}

/// Follows the chain to the newest block that it can prove.
async fn follow(light: &mut LightClient, node: &Client) -> Result<()> {
    loop {
        let from = Text(light.trusted().height);
        let answer = node.call(&GetLightUpdate { from }).await?;
        for update in &answer.updates {
            let validators = update.validators.as_deref().map(nodes).transpose()?;
            light.advance(&Update {
                block: read::<Header>(&update.block)?,
                child: read::<Header>(&update.child)?,
                certificate: read::<CommitCertificate>(&update.certificate)?,
                validators,
            })?;
        }
        if answer.updates.len() < 64 {
            return Ok(());
        }
    }
}

async fn check(url: &str, genesis: &Genesis, spec: ChainSpec, address: Address) -> Result<()> {
    let node = Client::http(url)?;
    let validators = genesis.validator_set(&spec);
    let mut light = LightClient::new(Arc::new(spec), genesis.header.clone(), validators);
    follow(&mut light, &node).await?;
    let height = light.trusted().height;
    println!(
        "block {height} is settled: {} validators voted for its child",
        light.validators().as_slice().len()
    );

    let key = keys::account(address);
    let proof = GetProof { keys: vec![hex::encode(&key)], height: Text(height) };
    let mut proof = nodes(&node.call(&proof).await?.proofs[0])?;
    let value = light.verify(&key, &proof)?.context("the account was never used, and that is proven, too")?;
    let account = Account::from_rlp(&value, value.len())?;
    println!("{address} has {} TFuelWei, proven against that block's state root", account.balance.tfuel);

    // A node that gives itself a little more.
    let last = proof.last_mut().context("a proof has nodes")?;
    let end = last.len() - 40;
    last[end] ^= 1;
    let refused = light.verify(&key, &proof).expect_err("the root does not lead there");
    println!("a forged balance is refused: {refused}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [url, genesis, address] = arguments.as_slice() {
        let genesis = Genesis::read(&std::fs::read(genesis)?, None)?;
        return check(url, &genesis, ChainSpec::devnet(), address.parse()?).await;
    }
    ensure!(arguments.is_empty(), "arguments: URL GENESIS ADDRESS, or none");
    let folder = tempfile::tempdir()?;
    let devnet = Devnet::start(DevnetConfig {
        spec: ChainSpec::devnet(),
        validators: 4,
        guardians: 4,
        accounts: 1,
        mnemonic: TEST_MNEMONIC.to_owned(),
        data_dir: folder.path().to_owned(),
        rpc_port: 0,
        eth_rpc_port: 0,
        block_interval_ms: 100,
        vm: Arc::new(theta_evm::Evm),
    })
    .await?;
    let mut progress = devnet.nodes[0].node.handle().progress;
    progress.wait_for(|progress| progress.settled > 5).await?;
    let address = devnet.accounts[0].key.address();
    check(&devnet.nodes[0].theta_url(), &devnet.genesis, devnet.spec().clone(), address).await
}
