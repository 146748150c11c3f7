//! The ledger in forty lines: a chain in memory, one transfer, one block, settled and read back.
//!
//! `cargo run -p theta-examples --example embed_ledger`

use std::sync::Arc;

use theta_core::amount::{Coins, TFuelWei, ThetaWei};
use theta_core::{context::Finality, hash::Address, sign::SecretKey, spec::ChainSpec};
use theta_ledger::{genesis::GenesisBuilder, ledger::At, ledger::Ledger};
use theta_sdk::wallet::{Wallet, minimum_send_fee};

fn main() -> anyhow::Result<()> {
    let (alice, validator) = (SecretKey::from_bytes(&[1; 32])?, SecretKey::from_bytes(&[2; 32])?);
    let (bob, spec) = (Address::repeat_byte(0xb0), ChainSpec::privatenet());
    let genesis = GenesisBuilder::new(&spec, 1_700_000_000)
        .account(alice.address(), Coins { theta: ThetaWei::whole(100), tfuel: TFuelWei::whole(100) })
        .validator(validator.address(), validator.address(), ThetaWei::whole(5_000_000))
        .build();
    let mut ledger = Ledger::builder(spec.clone()).open(&genesis)?;
    let reader = ledger.reader();

    let wallet = Wallet::new(spec.chain.clone(), alice);
    let transfer = wallet.send(1, bob, Coins::theta(ThetaWei::whole(25)), minimum_send_fee());
    let transfer = Arc::new(transfer.sign(wallet.signer())?);

    let (_, mut context) = reader.next_block(At::Settled)?;
    context.proposer = validator.address();
    let (body, left_out) = ledger.build_block(&context, &[transfer], &validator)?;
    anyhow::ensure!(left_out.is_empty(), "not valid: {left_out:?}");
    let mut block = context.block(spec.rules(context.height()).header, body);
    block.header.sign(&validator)?;
    let hash = block.header.hash();
    ledger.apply_block(&context, hash, Arc::new(block))?;
    ledger.reached(Finality::Settled, &hash)?;

    let balance = reader.state(At::Settled)?.account(bob)?.map_or(Coins::ZERO, |account| account.balance);
    println!("block {} settled; bob has {} ThetaWei", context.height(), balance.theta);
    anyhow::ensure!(balance == Coins::theta(ThetaWei::whole(25)));
    Ok(())
}
