//! Payer and payee in one place: one pays for each unit by a hash, the other checks, and a receipt that settles on the
//! chain sums it up. `pay_between_programs` has them in two programs.
//!
//! `cargo run -p theta-examples --example pay_by_ticks`

use std::sync::Arc;

use anyhow::Context;
use theta_core::amount::TFuelWei;
use theta_core::hash::Hash;
use theta_core::journal::MemDisk;
use theta_core::sign::SecretKey;
use theta_edge::chain::Fund;
use theta_edge::payment::{purse::Purse, till::Till};

const CHAIN: &str = "privatenet";

fn main() -> anyhow::Result<()> {
    let (payer, payee) =
        (Arc::new(SecretKey::from_bytes(&[1; 32])?), Arc::new(SecretKey::from_bytes(&[2; 32])?));
    // A reserve fund, as the chain shows it.
    let fund = Fund {
        payer: payer.address(),
        reserve_sequence: 1,
        initial: TFuelWei::whole(100),
        used: TFuelWei::ZERO,
        resource_ids: vec!["edge1/any".into()],
        end_height: 1_000,
        settled: Vec::new(),
    };
    let mut purse = Purse::open(CHAIN, payer.clone(), MemDisk::default())?;
    let mut till = Till::open(CHAIN, payee.clone(), MemDisk::default())?;
    purse.adopt(&fund)?;

    // Up to 40 TFUEL may go into this; a tick is a hundredth of one.
    let (what, unit) = (Hash::repeat_byte(7), "0.01".parse::<TFuelWei>()?);
    purse.promise(what, TFuelWei::whole(40))?;
    // A real program takes the seed from its source of randomness.
    let opening = purse.open_ticks(&what, payee.address(), unit, 4_000, [9; 32])?;
    till.accept(&opening, &fund, 10)?;
    for served in 1..=500_u64 {
        let tick = purse.tick(&payee.address())?;
        till.tick(served, payer.address(), &tick)?;
        // A receipt for every 200 ticks bounds what the payee has at risk.
        if served % 200 == 0 {
            let receipt = purse.roll_up(&payee.address())?;
            till.accept(&receipt, &fund, 10)?;
            purse.acknowledged(payee.address(), 1, receipt.receipt.amount)?;
        }
        anyhow::ensure!(till.may_serve(served, payer.address(), 1), "it would stop here");
    }
    let book = till.earnings()?;
    println!("the payee: {} wei in receipts, {} wei in ticks only", book.accrued, book.exposed);
    anyhow::ensure!(book.balances() && book.earned == TFuelWei::whole(5));

    let last = purse.close_ticks(&payee.address())?.context("something is owed")?;
    till.accept(&last, &fund, 10)?;
    purse.release(&what)?;
    let statement = purse.statement().context("a fund is open")?;
    println!("the payer: {} wei signed, {} wei free", statement.signed, statement.free);
    anyhow::ensure!(statement.signed == TFuelWei::whole(5) && statement.free == TFuelWei::whole(95));

    let fee = "0.3".parse::<TFuelWei>()?;
    for due in till.due(10, fee, true) {
        let transaction = till.settle(&due, &fund, fee, 10)?;
        println!("one transaction of {} bytes settles {} wei", transaction.bytes.len(), due.amount);
    }
    Ok(())
}
