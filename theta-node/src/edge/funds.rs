//! The reserve funds of a requester: each has a purse with a journal of its own, so that jobs in hand keep theirs when a
//! fund is replaced.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use theta_core::{
    amount::TFuelWei,
    hash::U256,
    journal::{Deferred, FileDisk},
    sign::SecretKey,
};
use theta_edge::{
    chain::{Chain, Fund},
    payment::{purse::Purse, split, till::MARGIN},
};
use theta_ledger::state::account::SplitRule;
use theta_sdk::{
    client::Client,
    wallet::{Wallet, minimum_fee},
};

use super::disk;

/// Percent of a fund that may be spent, or of its life that may pass, before it is replaced (edge.md appendix A).
const REFRESH: u64 = 60;
/// What the collateral is above the fund, in whole TFUEL.
const MORE: u64 = 1;

/// Blocks before the end of a fund from which on no new job is paid from it: twice those in which nodes take no receipt.
const LAST_BLOCKS: u64 = 2 * MARGIN;

/// Where a requester's money comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Funds {
    /// The fund of this sequence, which has to be fresh, and no other.
    Given(u64),
    /// Funds that it reserves itself, one after another.
    Kept {
        /// How much each holds; a job cannot cost more.
        size: TFuelWei,
        /// How many blocks each lives, 300 to 43,200.
        blocks: u64,
    },
}

/// A fund as the chain last showed it.
pub(super) struct Open {
    pub(super) fund: Fund,
    /// Of its purse.
    journal: Deferred<FileDisk>,
}

impl Open {
    /// What no job may claim yet: all that is not signed, less what `open` jobs may still cost.
    pub(super) fn available(purse: Option<&Purse>, open: TFuelWei) -> TFuelWei {
        let Some(all) = purse.and_then(Purse::statement) else { return TFuelWei::ZERO };
        all.free.checked_add(all.promised).unwrap_or(all.free).saturating_sub(open)
    }

    /// Whether so much of it is spent or over that another should follow.
    pub(super) fn is_stale(&self, purse: Option<&Purse>, height: u64, blocks: u64) -> bool {
        let begun = self.fund.end_height.saturating_sub(blocks);
        let over = height.saturating_sub(begun).saturating_mul(100) >= blocks.saturating_mul(REFRESH);
        let Some(all) = purse.and_then(Purse::statement) else { return true };
        let spent = [all.signed, all.settled, all.exposed]
            .into_iter()
            .try_fold(TFuelWei::ZERO, TFuelWei::checked_add);
        let bound = self.fund.initial.checked_ratio(U256::from(REFRESH), U256::from(100));
        over || spent.zip(bound).is_none_or(|(spent, bound)| spent >= bound)
    }
}

/// The funds in use, by their sequence; the last is the present one.
pub(super) struct OpenFunds {
    folder: PathBuf,
    chain: String,
    key: Arc<SecretKey>,
    pub(super) open: BTreeMap<u64, Open>,
}

impl OpenFunds {
    pub(super) const fn new(folder: PathBuf, chain: String, key: Arc<SecretKey>) -> Self {
        Self { folder, chain, key, open: BTreeMap::new() }
    }

    fn folder_of(&self, sequence: u64) -> PathBuf {
        self.folder.join(format!("fund-{sequence}"))
    }

    /// Sequences of the funds that were in use when the program ended.
    pub(super) fn kept(folder: &Path) -> Vec<u64> {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let mut kept: Vec<u64> = names.filter_map(|name| name.strip_prefix("fund-")?.parse().ok()).collect();
        kept.sort_unstable();
        kept
    }

    /// Opens a fund's journal, or begins it.
    pub(super) fn adopt(&mut self, fund: Fund) -> Result<Purse> {
        let folder = self.folder_of(fund.reserve_sequence);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let journal = Deferred::new(disk(&folder, "purse.journal")?);
        let mut purse = Purse::open(&self.chain, self.key.clone(), journal.clone())?;
        purse.adopt(&fund)?;
        journal.commit()?;
        self.open.insert(fund.reserve_sequence, Open { fund, journal });
        Ok(purse)
    }

    /// Makes what the purses wrote durable.
    pub(super) fn commit(&self) -> Result<()> {
        self.open.values().try_for_each(|open| open.journal.commit()).context("the journal of a fund")
    }

    /// Funds that have blocks left to settle in, the newest first.
    pub(super) fn usable(&self, height: u64) -> impl Iterator<Item = u64> + '_ {
        let lasts = move |open: &Open| height.saturating_add(LAST_BLOCKS) < open.fund.end_height;
        self.open.iter().rev().filter(move |(_, open)| lasts(open)).map(|(sequence, _)| *sequence)
    }

    /// The newest fund.
    pub(super) fn present(&self) -> Option<(u64, &Open)> {
        self.open.last_key_value().map(|(sequence, open)| (*sequence, open))
    }

    /// Forgets a fund that has ended and has no job in hand.
    pub(super) fn close(&mut self, sequence: u64) -> Result<()> {
        self.open.remove(&sequence);
        let folder = self.folder_of(sequence);
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())
    }
}

/// What a requester's funds pay for: its own resource, so that the split rule is its own too.
pub(super) fn resource(key: &SecretKey) -> String {
    format!("edge1/{:?}", key.address())
}

/// Reserves a fund, or takes one that was reserved and never used, and sets the rule by which a share of each payment is
/// burned (edge.md 5.7). Waits until all of it is settled.
pub(super) async fn reserve(
    client: Client,
    chain: String,
    key: Arc<SecretKey>,
    (size, blocks): (TFuelWei, u64),
    newest: u64,
) -> Result<(Fund, Option<SplitRule>)> {
    let (payer, resource) = (key.address(), resource(&key));
    let wallet = Wallet::new(chain, SecretKey::from_bytes(&*key.to_bytes())?);
    let height = client.height().await?;
    let account = client.account(payer).await?;
    ensure!(account.is_some(), "account {payer} has no coins; send it TFUEL");
    let mut rule = client.split_rule(&resource).await?;
    // Receipts of the fund have to burn as long as they may settle.
    let until = height.saturating_add(2 * blocks);
    if rule.as_ref().is_none_or(|rule| rule.end_height < height.saturating_add(blocks + blocks / 2)) {
        let splits = split::burning(&[]).context("the burn share is less than all")?;
        let sequence = client.next_sequence(payer).await?;
        let raw = wallet
            .split_rule(sequence, resource.clone().into_bytes(), splits, until - height, minimum_fee())
            .sign(wallet.signer())?;
        client.broadcast(&raw).await.context("the burn share was not set")?;
        rule = client.split_rule(&resource).await?;
    }
    let fresh = account.iter().flat_map(|account| &account.reserved_funds).find(|fund| {
        fund.reserve_sequence.0 > newest
            && fund.used_fund.tfuel.is_zero()
            && fund.transfer_records.is_empty()
            && fund.resource_ids.first() == Some(&resource)
            && fund.initial_fund.tfuel >= size
            && fund.end_block_height.0 > height + blocks / 2
    });
    let sequence = match fresh {
        Some(fund) => fund.reserve_sequence.0,
        None => {
            let collateral = size.checked_add(TFuelWei::whole(MORE)).context("the fund is too large")?;
            let sequence = client.next_sequence(payer).await?;
            let raw = wallet
                .reserve(sequence, size, collateral, vec![resource.into_bytes()], blocks, minimum_fee())
                .sign(wallet.signer())?;
            client.broadcast(&raw).await.context("no fund could be reserved")?;
            sequence
        }
    };
    let fund = client.fund(payer, sequence).await?.context("the new fund is not on the chain")?;
    Ok((fund, rule))
}
