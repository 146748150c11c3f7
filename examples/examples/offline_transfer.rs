//! A transfer signed without a network: key from a phrase, bytes and hash to stdout.
//!
//! `cargo run -p theta-examples --example offline_transfer`

use theta_core::amount::{Coins, TFuelWei, ThetaWei};
use theta_sdk::{
    hd,
    wallet::{Wallet, minimum_send_fee},
};

/// Everybody knows this phrase.
const PHRASE: &str = "test test test test test test test test test test test junk";

fn main() -> anyhow::Result<()> {
    let wallet = Wallet::new("privatenet", hd::derive(PHRASE, hd::Path::Theta(0))?);
    println!("from   {}", wallet.address());

    // The account's next sequence: one above what `theta.GetAccount` says.
    let sequence = 1;
    let to = "0x9f1233798e905e173560071255140b4a8abd3ec6".parse()?;
    let coins = Coins { theta: ThetaWei::whole(2), tfuel: "0.5".parse::<TFuelWei>()? };
    let send = wallet.send(sequence, to, coins, minimum_send_fee());

    // A hardware wallet would sign this.
    println!("digest {:?}", send.digest());

    // `theta.BroadcastRawTransaction` takes the bytes as hexadecimal.
    let raw = send.sign(wallet.signer())?;
    let digits: String = raw.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("bytes  0x{digits}");
    println!("hash   {:?}", raw.hash);
    Ok(())
}
