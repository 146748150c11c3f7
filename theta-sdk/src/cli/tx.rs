//! `thetacli tx`.

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;
use theta_core::{
    amount::{AmountError, Coins, TFuelWei, ThetaWei, Wei},
    hash::Address,
};
use theta_ledger::{
    staking::parse_summary,
    tx::{HolderSummary, Purpose},
};

use super::{Session, ask_secret, key::address};
use crate::{
    rpc,
    wallet::{Wallet, minimum_fee},
};

#[derive(Debug, Subcommand)]
pub(super) enum Tx {
    /// Send coins.
    #[command(after_help = "Example:\n  thetacli tx send --from 2E83… --to 9F12… --theta 1.5 --tfuel 20")]
    Send {
        #[command(flatten)]
        common: Common,
        /// Whose coins.
        #[arg(long, value_parser = address)]
        from: Address,
        /// Who gets them.
        #[arg(long, value_parser = address)]
        to: Address,
        /// THETA: whole tokens, or an integer with the suffix wei.
        #[arg(long, default_value = "0", value_parser = theta)]
        theta: ThetaWei,
        /// TFUEL: whole tokens, or an integer with the suffix wei.
        #[arg(long, default_value = "0", value_parser = tfuel)]
        tfuel: TFuelWei,
    },
    /// Stake behind a node.
    #[command(
        after_help = "Example:\n  thetacli tx deposit --source 2E83… --holder 9F12… --stake 200000 --purpose 0\n  thetacli tx deposit --source 2E83… --holder $(thetacli query guardian) --stake 200000 --purpose 0   (where validators have keys)\n  thetacli tx deposit --source 2E83… --holder $(thetacli query guardian) --stake 1000 --purpose 1"
    )]
    Deposit {
        #[command(flatten)]
        common: Common,
        /// Whose coins.
        #[arg(long, value_parser = address)]
        source: Address,
        /// The node: its address, or the 458 digits by which `thetacli query guardian` introduces a guardian or elite edge
        /// node that the chain does not know yet.
        #[arg(long, value_parser = holder)]
        holder: Holder,
        /// Whole tokens, or an integer with the suffix wei: THETA, for elite edge nodes TFUEL.
        #[arg(long, value_parser = tfuel)]
        stake: TFuelWei,
        /// 0 validator, 1 guardian, 2 elite edge node.
        #[arg(long, default_value_t = 0)]
        purpose: u8,
    },
    /// Begin the return of a stake.
    #[command(after_help = "Example:\n  thetacli tx withdraw --source 2E83… --holder 9F12… --purpose 0")]
    Withdraw {
        #[command(flatten)]
        common: Common,
        /// Whose stake.
        #[arg(long, value_parser = address)]
        source: Address,
        /// The node.
        #[arg(long, value_parser = address)]
        holder: Address,
        /// 0 validator, 1 guardian, 2 elite edge node.
        #[arg(long, default_value_t = 0)]
        purpose: u8,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Chain id as text; asked from the node when missing.
    #[arg(long, env = "THETA_CHAIN")]
    chain: Option<String>,
    /// Sequence; asked from the node when missing.
    #[arg(long)]
    seq: Option<u64>,
    /// Fee in TFUEL; the least one when missing.
    #[arg(long, value_parser = tfuel)]
    fee: Option<TFuelWei>,
    /// Do not wait until it is settled.
    #[arg(long = "async")]
    no_wait: bool,
    /// Password of the key. Other users of this machine can see arguments; without it, it is asked for.
    #[arg(long, env = "THETA_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

impl Common {
    async fn open(&self, session: &Session, from: Address) -> anyhow::Result<(Wallet, u64, TFuelWei)> {
        let keystore = session.keystore()?;
        let password = match &self.password {
            Some(password) => zeroize::Zeroizing::new(password.clone()),
            None => ask_secret(&format!("Password of {}", from.to_checksum(None)))?,
        };
        let key = keystore.unlock(from, &password)?;
        let chain = match &self.chain {
            Some(chain) => chain.clone(),
            None => session.client.call(&rpc::GetStatus::default()).await?.chain_id,
        };
        let sequence = match self.seq {
            Some(sequence) => sequence,
            None => session.client.next_sequence(from).await?,
        };
        Ok((Wallet::new(chain, key), sequence, self.fee.unwrap_or_else(minimum_fee)))
    }

    async fn finish(&self, session: &Session, raw: theta_ledger::tx::RawTx) -> anyhow::Result<()> {
        if self.no_wait {
            let hash = session.client.broadcast_async(&raw).await?;
            return session.print(&json!({ "hash": hash, "block": null }), || {
                format!("Sent, not waited for: {hash:?}")
            });
        }
        let done = session.client.broadcast(&raw).await?;
        let height = done.block.as_ref().map_or(0, |block| block.height);
        session.print(&serde_json::to_value(&done)?, || format!("Settled in block {height}: {:?}", done.hash))
    }
}

/// An amount of which digits below one wei are cut off (`wallet.md` 5); whoever wrote them is told.
fn told<W: Wei>(text: &str, (amount, cut): (W, bool)) -> W {
    if cut {
        eprintln!("notice: `{text}` has digits below one wei, which are cut off: {}wei", amount.get());
    }
    amount
}

fn theta(text: &str) -> Result<ThetaWei, AmountError> {
    ThetaWei::parse_cut(text).map(|parsed| told(text, parsed))
}

fn tfuel(text: &str) -> Result<TFuelWei, AmountError> {
    TFuelWei::parse_cut(text).map(|parsed| told(text, parsed))
}

/// A node as a deposit names it.
#[derive(Clone, Debug)]
pub(super) enum Holder {
    Address(Address),
    Summary(Box<HolderSummary>),
}

fn holder(text: &str) -> anyhow::Result<Holder> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text);
    match digits.len() {
        40 => address(text).map(Holder::Address),
        // Tools for elite edge nodes append 32 bytes, which the transaction does not carry.
        458 | 522 => {
            let bytes = hex::decode(&digits[..458]).context("a node's summary is hexadecimal")?;
            let node = parse_summary(&bytes)?;
            node.check()?;
            Ok(Holder::Summary(Box::new(node)))
        }
        other => anyhow::bail!("{other} digits are no node: an address has 40, a node's summary 458"),
    }
}

pub(super) async fn run(session: &Session, command: Tx) -> anyhow::Result<()> {
    match command {
        Tx::Send { common, from, to, theta, tfuel } => {
            let (wallet, sequence, fee) = common.open(session, from).await?;
            let raw = wallet.send(sequence, to, Coins { theta, tfuel }, fee).sign(wallet.signer())?;
            common.finish(session, raw).await
        }
        Tx::Deposit { common, source, holder, stake, purpose } => {
            let purpose = Purpose(purpose);
            let stake = match purpose {
                Purpose::ELITE_EDGE => Coins::tfuel(stake),
                _ => Coins::theta(ThetaWei::from_u256(stake.get())),
            };
            let (wallet, sequence, fee) = common.open(session, source).await?;
            let raw = match holder {
                Holder::Address(holder) => {
                    wallet.deposit(sequence, holder, purpose, stake, fee).sign(wallet.signer())?
                }
                Holder::Summary(node) => {
                    wallet.deposit_behind(sequence, &node, purpose, stake, fee).sign(wallet.signer())?
                }
            };
            common.finish(session, raw).await
        }
        Tx::Withdraw { common, source, holder, purpose } => {
            let (wallet, sequence, fee) = common.open(session, source).await?;
            let raw = wallet.withdraw(sequence, holder, Purpose(purpose), fee).sign(wallet.signer())?;
            common.finish(session, raw).await
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    const WHO: &str = "0x2E833968E5bB786Ae419c4d13189fB081Cc43bab";

    fn sent(amount: &str, option: &str) -> Result<Coins, i32> {
        let arguments = ["thetacli", "tx", "send", "--from", WHO, "--to", WHO, option, amount];
        match Cli::try_parse_from(arguments).map_err(|error| error.exit_code())?.command {
            Command::Tx(Tx::Send { theta, tfuel, .. }) => Ok(Coins { theta, tfuel }),
            _ => Err(0),
        }
    }

    #[test]
    fn amounts_are_exact_or_wrong_usage() {
        for (text, wei) in [
            ("0.07", 70_000_000_000_000_000_u128),
            ("0.1", 100_000_000_000_000_000),
            ("1.1", 1_100_000_000_000_000_000),
            ("0.00000012", 120_000_000_000),
            ("123456.789123456789123456", 123_456_789_123_456_789_123_456),
            // Cut off, and told on stderr.
            ("0.0000000000000000019", 1),
            (".5", 500_000_000_000_000_000),
            ("5.", 5_000_000_000_000_000_000),
            ("70000000000000000wei", 70_000_000_000_000_000),
            ("1WEI", 1),
        ] {
            assert_eq!(sent(text, "--theta"), Ok(Coins::theta(ThetaWei::wei(wei))), "{text}");
            assert_eq!(sent(text, "--tfuel"), Ok(Coins::tfuel(TFuelWei::wei(wei))), "{text}");
        }
        for text in ["1e3", "1,5", "+1", "-1", "1_000", " 1", "1.5wei", ""] {
            assert_eq!((sent(text, "--theta"), sent(text, "--tfuel")), (Err(2), Err(2)), "{text}");
        }
    }

    #[test]
    fn a_stake_is_an_amount_of_its_purposes_coin() {
        let arguments = ["thetacli", "tx", "deposit", "--source", WHO, "--holder", WHO, "--stake"];
        let with = |stake| Cli::try_parse_from(arguments.into_iter().chain([stake]));
        assert!(with("200000").is_ok());
        assert_eq!(with("lots").expect_err("no amount").exit_code(), 2);
    }
}
