//! Signs a transfer without a network: `theta-offline KEY SEQUENCE TO TFUEL [CHAIN]`.

use std::error::Error;

use theta_ledger::tx::{RawTx, Transaction};
use theta_sdk::{
    core::{
        amount::{Coins, TFuelWei},
        sign::SecretKey,
    },
    wallet::{Wallet, minimum_send_fee},
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [key, sequence, to, tfuel, chain @ ..] = arguments.as_slice() else {
        return Err("usage: theta-offline KEY SEQUENCE TO TFUEL [CHAIN]".into());
    };
    let key: SecretKey = key.parse()?;
    let amount: TFuelWei = tfuel.parse()?;
    let wallet = Wallet::new(chain.first().map_or("mainnet", String::as_str), key);
    let send = wallet.send(sequence.parse()?, to.parse()?, Coins::tfuel(amount), minimum_send_fee());
    let raw = send.sign(wallet.signer())?;
    // What goes out is what a node will read.
    let read = RawTx::decode(raw.bytes.clone())?;
    assert!(matches!(read.transaction, Transaction::Send(_)) && read.hash == raw.hash);
    let digits: String = raw.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{digits}\n{:?}", raw.hash);
    Ok(())
}
