//! The side that pays: a reserve fund of its own, a chain of ticks for each relay, receipts for what was released.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use theta_core::{
    amount::TFuelWei,
    hash::{Address, Hash, U256, keccak_parts},
    sign::SecretKey,
};
use theta_edge::{
    chain::Chain as _,
    identity::NodeId,
    message::{Envelope, Message},
    payment::{
        PayError,
        purse::{Purse, Tick},
        receipt::Payment,
        tick::WINDOW,
    },
};
use theta_sdk::client::Client;

use crate::edge::{disk, funds};

/// Ticks in a chain: what one relay may be paid before another one is begun.
const CHAIN: u32 = 4 * WINDOW;
/// Shortest chain that is worth a receipt.
const LEAST: u64 = 8;
/// Ticks after which a receipt follows without waiting for the next round: the relay stops at the window.
const ROLL_AFTER: u32 = WINDOW / 2;

/// What is to be sent: to whom, and the sealed message.
pub(super) type Letter = (Address, Vec<u8>);

/// A relay that may be paid.
#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    unit: TFuelWei,
    /// Ticks released since the last receipt.
    released: u32,
    /// The last one, until another follows.
    last: Option<Tick>,
}

/// How much each fund holds, and how many blocks it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge) struct FundSize {
    pub(in crate::edge) tfuel: TFuelWei,
    pub(in crate::edge) blocks: u64,
}

/// A node's purse for content.
pub(super) struct Payer {
    chain: String,
    key: Arc<SecretKey>,
    client: Client,
    size: FundSize,
    purse: Purse,
    channels: BTreeMap<Address, Channel>,
    /// All that was paid since this node began, and for how many chunks.
    pub(super) spent: TFuelWei,
    pub(super) chunks: u64,
}

impl std::fmt::Debug for Payer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payer").field("channels", &self.channels.len()).finish_non_exhaustive()
    }
}

/// A promise's name: one relay, one fund.
fn promise(payee: &Address, fund: u64) -> Hash {
    keccak_parts(&[b"theta-edge/content/v1", payee.as_slice(), &fund.to_be_bytes()])
}

impl Payer {
    pub(super) fn open(
        chain: &str,
        key: Arc<SecretKey>,
        client: Client,
        folder: &Path,
        size: FundSize,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let purse = Purse::open(chain, key.clone(), disk(folder, "purse.journal")?)?;
        Ok(Self {
            chain: chain.to_owned(),
            key,
            client,
            size,
            purse,
            channels: BTreeMap::new(),
            spent: TFuelWei::ZERO,
            chunks: 0,
        })
    }

    /// The present fund, 0 for none.
    pub(super) fn fund(&self) -> u64 {
        self.purse.fund().map_or(0, |(sequence, _)| sequence)
    }

    /// Where the fund's money is.
    pub(super) fn statement(&self) -> Option<theta_edge::payment::purse::Statement> {
        self.purse.statement()
    }

    fn seal(&self, payee: Address, payment: Payment) -> Result<Letter> {
        let message = Message::Payment(payment);
        Ok((payee, Envelope::seal(&self.chain, &*self.key, NodeId(payee), &message)?))
    }

    /// The last tick for a relay: it says that all chunks so far were good.
    pub(super) fn last_tick(&self, payee: &Address) -> Option<Tick> {
        self.channels.get(payee)?.last
    }

    /// Pays a relay for one more chunk. Gives a receipt to send where it is time for one.
    pub(super) fn pay(&mut self, payee: Address) -> Result<Option<Letter>> {
        let Some(channel) = self.channels.get_mut(&payee) else { return Ok(None) };
        let tick = match self.purse.tick(&payee) {
            Ok(tick) => tick,
            // The window is full or the chain at its end: the receipt comes first.
            Err(PayError::Tick(_)) => return self.roll_up(payee).map(Some),
            Err(error) => return Err(error.into()),
        };
        channel.last = Some(tick);
        channel.released += 1;
        self.chunks += 1;
        self.spent = self.spent.checked_add(channel.unit).unwrap_or(self.spent);
        if channel.released >= ROLL_AFTER { self.roll_up(payee).map(Some) } else { Ok(None) }
    }

    /// A receipt for all that was released.
    fn roll_up(&mut self, payee: Address) -> Result<Letter> {
        let payment = self.purse.roll_up(&payee)?;
        if let Some(channel) = self.channels.get_mut(&payee) {
            (channel.released, channel.last) = (0, None);
        }
        self.seal(payee, payment)
    }

    /// What is sent where a relay wants to be paid: a receipt for what was released, or the first one of a chain of ticks.
    /// Reserves a fund where there is none, or where the present one is spent.
    pub(super) async fn begin(
        &mut self,
        payee: Address,
        unit: TFuelWei,
        seed: [u8; 32],
    ) -> Result<Vec<Letter>> {
        let mut letters = Vec::new();
        if let Some(channel) = self.channels.get(&payee).copied() {
            if channel.unit == unit && channel.released > 0 {
                return Ok(vec![self.roll_up(payee)?]);
            }
            if let Some(payment) = self.purse.payment(&payee)?
                && channel.unit == unit
                && payment.receipt.tick.max > 0
            {
                return Ok(vec![self.seal(payee, payment)?]);
            }
        }
        letters.extend(self.close(payee)?);
        let least = unit.checked_mul(LEAST).context("the price is more than there is")?;
        if self.purse.fund().is_none() || self.purse.free() < least {
            letters.extend(self.replace_fund().await?);
            ensure!(self.purse.free() >= least, "the fund is too small for this price");
        }
        // A quarter of what is free, so that others can be paid too.
        let part = self.purse.free().get() / U256::from(4);
        let fits = part.checked_div(unit.get()).unwrap_or_default();
        let max = u32::try_from(fits).unwrap_or(CHAIN).clamp(LEAST as u32, CHAIN);
        let amount = unit.checked_mul(u64::from(max)).context("the price is more than there is")?;
        let job = promise(&payee, self.fund());
        self.purse.promise(job, amount)?;
        let payment = self.purse.open_ticks(&job, payee, unit, max, seed)?;
        self.channels.insert(payee, Channel { unit, ..Channel::default() });
        letters.push(self.seal(payee, payment)?);
        Ok(letters)
    }

    /// Ends the chain of a relay, also one of a run before: what was released is owed, the rest is free.
    fn close(&mut self, payee: Address) -> Result<Option<Letter>> {
        self.channels.remove(&payee);
        self.purse.release(&promise(&payee, self.fund()))?;
        if self.fund() == 0 {
            return Ok(None);
        }
        let owed = self.purse.payment(&payee)?;
        owed.map(|payment| self.seal(payee, payment)).transpose()
    }

    async fn replace_fund(&mut self) -> Result<Vec<Letter>> {
        let mut letters = Vec::new();
        for payee in self.channels.keys().copied().collect::<Vec<_>>() {
            letters.extend(self.close(payee)?);
        }
        // Those of a run before.
        for job in self.purse.promises() {
            self.purse.release(&job)?;
        }
        let size = (self.size.tfuel, self.size.blocks);
        let reserved =
            funds::reserve(self.client.clone(), self.chain.clone(), self.key.clone(), size, self.fund());
        let (fund, _) = reserved.await.with_context(|| {
            let payer = self.key.address().to_checksum(None);
            format!("no fund for content could be reserved; {payer} needs twice {} wei and the fees", size.0)
        })?;
        self.purse.adopt(&fund)?;
        Ok(letters)
    }

    /// A relay has a receipt of a fund safe, by its sequence and amount. One of an earlier fund says nothing of this one.
    pub(super) fn acknowledged(
        &mut self,
        payee: Address,
        fund: u64,
        (sequence, total): (u64, TFuelWei),
    ) -> Result<()> {
        if fund != self.fund() {
            return Ok(());
        }
        Ok(self.purse.acknowledged(payee, sequence, total)?)
    }

    /// What is due each second: receipts for released ticks, and again those that nobody acknowledged.
    pub(super) async fn round(&mut self) -> Result<Vec<Letter>> {
        let mut letters = Vec::new();
        let ticking: Vec<_> =
            self.channels.iter().filter(|(_, one)| one.released > 0).map(|(payee, _)| *payee).collect();
        let mut waiting = self.purse.unacknowledged();
        if ticking.is_empty() && waiting.is_empty() {
            return Ok(letters);
        }
        let fund = self.fund();
        if let Some(seen) = self.client.fund(self.key.address(), fund).await? {
            // Receipts that came too late to settle are owed in the next sequence.
            waiting.extend(self.purse.observe(&seen)?);
        }
        waiting.retain(|payee| !ticking.contains(payee));
        for payee in ticking {
            letters.push(self.roll_up(payee)?);
        }
        waiting.sort_unstable();
        waiting.dedup();
        for payee in waiting {
            if let Some(payment) = self.purse.payment(&payee)? {
                letters.push(self.seal(payee, payment)?);
            }
        }
        Ok(letters)
    }
}
