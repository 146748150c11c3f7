//! The value plane alone, between two programs: this one pays, and a child that it starts serves and is paid. All that
//! goes through the pipe between them is sealed by its sender's key. No job, no scheduler, no network, no chain node.
//!
//! `cargo run -p theta-examples --example pay_between_programs`

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use theta_core::amount::TFuelWei;
use theta_core::hash::Hash;
use theta_core::journal::MemDisk;
use theta_core::sign::SecretKey;
use theta_edge::chain::Fund;
use theta_edge::identity::NodeId;
use theta_edge::message::{Envelope, Message};
use theta_edge::payment::purse::Purse;
use theta_edge::payment::till::Till;

const CHAIN: &str = "privatenet";
const HEIGHT: u64 = 10;
/// Units that are bought, at a hundredth of a TFUEL each.
const UNITS: u64 = 500;
/// Bytes of one unit.
const UNIT: usize = 1 << 10;

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("payee") { payee() } else { payer() }
}

/// Real programs have a key each, and know the other's address only.
fn keys() -> anyhow::Result<(Arc<SecretKey>, Arc<SecretKey>)> {
    let key = |byte| SecretKey::from_bytes(&[byte; 32]).map(Arc::new);
    Ok((key(1)?, key(2)?))
}

/// The payer's reserve fund, which each side would look up on the chain by itself.
fn fund(payer: &SecretKey) -> Fund {
    Fund {
        payer: payer.address(),
        reserve_sequence: 1,
        initial: TFuelWei::whole(100),
        used: TFuelWei::ZERO,
        resource_ids: vec!["edge1/any".into()],
        end_height: 1_000,
        settled: Vec::new(),
    }
}

fn write(pipe: &mut impl Write, frame: &[u8]) -> anyhow::Result<()> {
    pipe.write_all(&u32::try_from(frame.len())?.to_le_bytes())?;
    pipe.write_all(frame)?;
    Ok(pipe.flush()?)
}

/// `None` where the other side has closed the pipe between two frames.
fn read(pipe: &mut impl Read) -> anyhow::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    if pipe.read(&mut len[..1])? == 0 {
        return Ok(None);
    }
    pipe.read_exact(&mut len[1..])?;
    let len = u32::from_le_bytes(len);
    ensure!(len <= 1 << 20, "a frame of {len} bytes");
    let mut frame = vec![0; len as usize];
    pipe.read_exact(&mut frame)?;
    Ok(Some(frame))
}

fn payer() -> anyhow::Result<()> {
    let (key, payee) = keys()?;
    let payee = NodeId(payee.address());
    let mut purse = Purse::open(CHAIN, key.clone(), MemDisk::default())?;
    purse.adopt(&fund(&key))?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("payee")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut to = child.stdin.take().context("a pipe")?;
    let mut from = child.stdout.take().context("a pipe")?;
    let mut ask = |message: &Message| -> anyhow::Result<Vec<u8>> {
        write(&mut to, &Envelope::seal(CHAIN, &*key, payee, message)?)?;
        read(&mut from)?.context("the payee has gone")
    };
    // A payment is good once the payee says that it is safe.
    let acknowledge = |purse: &mut Purse, answer: &[u8]| -> anyhow::Result<()> {
        match Envelope::open(CHAIN, NodeId(purse.payer()), answer)? {
            (node, Message::Acknowledged { payment_sequence, total, .. }) => {
                Ok(purse.acknowledged(node.0, payment_sequence, total)?)
            }
            (_, other) => bail!("not an acknowledgement: {other:?}"),
        }
    };

    // Up to 40 TFUEL may go into this.
    let what = Hash::repeat_byte(7);
    purse.promise(what, TFuelWei::whole(40))?;
    // A real program takes the seed from its source of randomness.
    let opening = purse.open_ticks(&what, payee.0, "0.01".parse()?, 4_000, [9; 32])?;
    acknowledge(&mut purse, &ask(&Message::Payment(opening))?)?;
    let mut bytes = 0;
    for unit in 1..=UNITS {
        // The unit before it is here, so this one is paid for: a tick is all that is ever at risk.
        bytes += ask(&Message::Tick(purse.tick(&payee.0)?))?.len();
        // A receipt for every 200 ticks bounds what the payee has at risk.
        if unit % 200 == 0 {
            let receipt = purse.roll_up(&payee.0)?;
            acknowledge(&mut purse, &ask(&Message::Payment(receipt))?)?;
        }
    }
    let last = purse.close_ticks(&payee.0)?.context("something is owed")?;
    acknowledge(&mut purse, &ask(&Message::Payment(last))?)?;
    purse.release(&what)?;
    drop(to);
    let book = read(&mut from)?.context("the payee's book")?;
    ensure!(child.wait()?.success(), "the payee failed");

    let statement = purse.statement().context("a fund is open")?;
    println!("the payer: {bytes} bytes, {} wei signed, {} wei free", statement.signed, statement.free);
    println!("the payee: {}", String::from_utf8(book)?);
    ensure!(bytes == UNITS as usize * UNIT);
    ensure!(statement.signed == TFuelWei::whole(5) && statement.free == TFuelWei::whole(95));
    Ok(())
}

fn payee() -> anyhow::Result<()> {
    let (payer, key) = keys()?;
    let (fund, me) = (fund(&payer), NodeId(key.address()));
    let mut till = Till::open(CHAIN, key.clone(), MemDisk::default())?;
    let (mut from, mut to) = (io::stdin().lock(), io::stdout().lock());
    let mut served = 0;
    while let Some(frame) = read(&mut from)? {
        let (payer, message) = Envelope::open(CHAIN, me, &frame)?;
        match message {
            Message::Payment(payment) => {
                till.accept_from_payer(payer.0, &payment, &fund, HEIGHT)?;
                let receipt = payment.receipt;
                let answer = Message::Acknowledged {
                    reserve_sequence: receipt.reserve_sequence,
                    payment_sequence: receipt.payment_sequence,
                    total: receipt.amount,
                };
                write(&mut to, &Envelope::seal(CHAIN, &*key, payer, &answer)?)?;
            }
            Message::Tick(tick) => {
                ensure!(!till.tick(served, payer.0, &tick)?.is_zero(), "a tick that pays nothing");
                ensure!(till.may_serve(served, payer.0, 1), "a receipt is due first");
                served += 1;
                write(&mut to, &[served as u8; UNIT])?;
            }
            other => bail!("not about money: {other:?}"),
        }
    }
    // One transaction settles all of it.
    let fee = "0.3".parse::<TFuelWei>()?;
    let book = till.earnings()?;
    ensure!(book.balances());
    for due in till.due(HEIGHT, fee, true) {
        let transaction = till.settle(&due, &fund, fee, HEIGHT)?;
        let len = transaction.bytes.len();
        let text =
            format!("{served} units, {} wei earned, {} wei settle by {len} bytes", book.earned, due.amount);
        write(&mut to, text.as_bytes())?;
    }
    Ok(())
}
