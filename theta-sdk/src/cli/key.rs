//! `thetacli key`.

use anyhow::bail;
use clap::Subcommand;
use serde_json::json;
use theta_core::{hash::Address, sign::SecretKey};

use super::{Session, ask_secret};
use crate::{
    hd::{self, Path},
    keystore::fresh_key,
};

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Make a key. The password is asked for, or read from standard input.
    #[command(after_help = "Example:\n  thetacli key new")]
    New,
    /// List the addresses of all keys.
    #[command(after_help = "Example:\n  thetacli key list --json")]
    List,
    /// Take a key from a private key or a mnemonic phrase, which is asked for, and then its password.
    #[command(
        after_help = "Example:\n  thetacli key import\n  thetacli key import --path \"m/44'/60'/0'/0/0\""
    )]
    Import {
        /// Where in the phrase's tree the key lies; Theta Wallet's by default.
        #[arg(long, default_value = "m/44'/500'/0'/0/0")]
        path: String,
    },
    /// Encrypt a key with another password.
    #[command(after_help = "Example:\n  thetacli key password 2E833968E5bB786Ae419c4d13189fB081Cc43bab")]
    Password {
        /// The key.
        #[arg(value_parser = address)]
        address: Address,
    },
    /// Delete a key. Without a copy of it, its coins are lost.
    #[command(after_help = "Example:\n  thetacli key delete 2E833968E5bB786Ae419c4d13189fB081Cc43bab --yes")]
    Delete {
        /// The key.
        #[arg(value_parser = address)]
        address: Address,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn address(text: &str) -> anyhow::Result<Address> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text);
    match format!("0x{digits}").parse() {
        Ok(address) => Ok(address),
        Err(_) => bail!("`{text}` is no address: 40 hexadecimal digits are needed"),
    }
}

fn new_password() -> anyhow::Result<zeroize::Zeroizing<String>> {
    let password = ask_secret("Password for the new key")?;
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) && *ask_secret("Again")? != *password {
        bail!("the passwords differ");
    }
    Ok(password)
}

fn stored(session: &Session, key: &SecretKey, password: &str) -> anyhow::Result<()> {
    let path = session.keystore()?.store(key, password)?;
    let address = key.address().to_checksum(None);
    session.print(&json!({ "address": address, "file": path }), || {
        format!(
            "Key of {address} is stored in {}. Keep a copy of this file and its password.",
            path.display()
        )
    })
}

pub(super) fn run(session: &Session, command: Key) -> anyhow::Result<()> {
    match command {
        Key::New => stored(session, &fresh_key()?, &new_password()?),
        Key::List => {
            let addresses: Vec<String> =
                session.keystore()?.list()?.iter().map(|address| address.to_checksum(None)).collect();
            session.print(&json!({ "addresses": addresses }), || match addresses.as_slice() {
                [] => "No keys yet. `thetacli key new` makes one.".to_owned(),
                some => some.join("\n"),
            })
        }
        Key::Import { path } => {
            let secret = ask_secret("Private key or mnemonic phrase")?;
            let key = if secret.split_whitespace().count() > 1 {
                hd::derive(&secret, Path::Custom(path))?
            } else {
                secret.parse()?
            };
            stored(session, &key, &new_password()?)
        }
        Key::Password { address } => {
            let old = ask_secret("Password")?;
            session.keystore()?.change_password(address, &old, &new_password()?)?;
            let address = address.to_checksum(None);
            session.print(&json!({ "address": address }), || format!("Password of {address} is changed."))
        }
        Key::Delete { address, yes } => {
            if !yes {
                let answer =
                    ask_secret(&format!("Type the address {} to delete its key", address.to_checksum(None)))?;
                if self::address(&answer).ok() != Some(address) {
                    bail!("nothing was deleted");
                }
            }
            session.keystore()?.delete(address)?;
            let address = address.to_checksum(None);
            session.print(&json!({ "address": address }), || format!("Key of {address} is deleted."))
        }
    }
}
