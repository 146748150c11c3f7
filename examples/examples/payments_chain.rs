//! A chain for payments alone: the ledger as a library, in memory, without contracts, network or consensus.
//!
//! `cargo run -p theta-examples --example payments_chain`

use std::sync::Arc;

use anyhow::Context;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    context::Finality,
    hash::{Address, Hash},
    sign::SecretKey,
    spec::ChainSpec,
};
use theta_ledger::{
    genesis::GenesisBuilder,
    ledger::{At, Ledger, LedgerReader},
    tx::RawTx,
};
use theta_sdk::wallet::{Wallet, minimum_send_fee};

fn main() -> anyhow::Result<()> {
    let (alice, validator) = (SecretKey::from_bytes(&[1; 32])?, SecretKey::from_bytes(&[2; 32])?);
    let bob = Address::repeat_byte(0xb0);
    let spec = ChainSpec::privatenet();
    let genesis = GenesisBuilder::new(&spec, 1_700_000_000)
        .account(alice.address(), Coins { theta: ThetaWei::whole(100), tfuel: TFuelWei::whole(100) })
        .validator(validator.address(), validator.address(), ThetaWei::whole(5_000_000))
        .build();
    // Without a store it lives in memory, without a machine it runs no contracts.
    let mut ledger = Ledger::builder(spec.clone()).open(&genesis)?;
    let reader = ledger.reader();
    let show = |what: &str, at| -> anyhow::Result<()> {
        let of = |address| balance(&reader, at, address);
        println!("{what}\n  alice {}\n  bob   {}", of(alice.address())?, of(bob)?);
        Ok(())
    };
    show("at genesis", At::Settled)?;

    let wallet = Wallet::new(spec.chain.clone(), alice.clone());
    let coins = Coins { theta: ThetaWei::whole(25), tfuel: TFuelWei::whole(3) };
    let transfer = Arc::new(wallet.send(1, bob, coins, minimum_send_fee()).sign(wallet.signer())?);

    let (hash, height) = extend(&mut ledger, &validator, std::slice::from_ref(&transfer))?;
    show("executed, not settled: the tip has it", At::Tip)?;
    show("and the settled state does not", At::Settled)?;

    // Whoever decides what is settled says so here: two validators' votes, one authority, a test.
    ledger.reached(Finality::Settled, &hash)?;
    show("settled", At::Settled)?;

    let found = reader.transaction(&transfer.hash)?.context("the transfer is in the chain")?;
    println!("transfer {:?} stands in block {height}, settled: {}", transfer.hash, found.settled);
    anyhow::ensure!(found.settled && found.place.height == height);
    anyhow::ensure!(reader.state(At::Settled)?.account(bob)?.is_some_and(|account| account.balance == coins));
    Ok(())
}

/// Builds a block of these transactions on the settled one, signs it and carries it out.
fn extend(
    ledger: &mut Ledger,
    proposer: &SecretKey,
    transactions: &[Arc<RawTx>],
) -> anyhow::Result<(Hash, u64)> {
    let reader = ledger.reader();
    let (_, mut context) = reader.next_block(At::Settled)?;
    context.proposer = proposer.address();
    let (body, left_out) = ledger.build_block(&context, transactions, proposer)?;
    anyhow::ensure!(left_out.is_empty(), "not valid here: {left_out:?}");
    let mut block = context.block(reader.spec().rules(context.height()).header, body);
    block.header.sign(proposer)?;
    let (hash, height) = (block.header.hash(), block.header.height);
    ledger.apply_block(&context, hash, Arc::new(block))?;
    Ok((hash, height))
}

fn balance(reader: &LedgerReader, at: At, address: Address) -> anyhow::Result<String> {
    let mut state = reader.state(at)?;
    let coins = state.account(address)?.map_or(Coins::ZERO, |account| account.balance);
    Ok(format!("{} ThetaWei, {} TFuelWei", coins.theta, coins.tfuel))
}
