//! Whether everything adds up once the load is over.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use theta_core::{
    amount::{Coins, TFuelWei},
    hash::{Address, Hash},
    sign::SecretKey,
};
use theta_sdk::{
    client::Client,
    rpc::{self, Text},
    wallet::minimum_send_fee,
};

use super::{Kind, Target, offer::Book};

/// What the senders had at the beginning.
pub(super) struct Audit {
    senders: Vec<(Address, Coins)>,
}

/// Longest wait until every node has settled what one has.
const CATCH_UP: Duration = Duration::from_secs(60);

impl Audit {
    pub(super) async fn begin(target: &Target, senders: &[SecretKey]) -> Result<Self> {
        let mut had = Vec::new();
        if let Some(url) = target.theta.first() {
            let client = Client::http(url)?;
            for key in senders {
                let account = client.account(key.address()).await?;
                let coins = account.map_or(Coins::ZERO, |account| account.coins);
                ensure!(!coins.tfuel.is_zero(), "{} has no TFUEL to send", key.address());
                had.push((key.address(), coins));
            }
        }
        Ok(Self { senders: had })
    }

    /// What does not add up, and why transactions were dropped.
    pub(super) async fn end(
        self,
        target: &Target,
        book: &Book,
        kind: Kind,
        native: bool,
    ) -> Result<(Vec<String>, BTreeMap<String, usize>)> {
        let (mut wrong, mut dropped) = (Vec::new(), BTreeMap::<String, usize>::new());
        let open: Vec<(Hash, bool)> = book.open().collect();
        if !native {
            let accepted = open.iter().filter(|(_, accepted)| *accepted).count();
            if accepted > 0 {
                wrong.push(format!("{accepted} accepted transactions were never in a block"));
            }
            return Ok((wrong, dropped));
        }
        let clients: Vec<Client> = target.theta.iter().map(Client::http).collect::<Result<_, _>>()?;
        let heights = self.level(&clients).await?;
        let (lowest, highest) = (heights.iter().min().copied(), heights.iter().max().copied());
        let lowest = lowest.unwrap_or_default();
        let mut roots = Vec::new();
        for client in &clients {
            let block = rpc::GetBlockByHeight { height: Text(lowest), include_eth_tx_hashes: false };
            roots.push(client.call(&block).await?["state_hash"].clone());
        }
        if roots.iter().any(|root| *root != roots[0]) {
            wrong.push(format!("nodes have different states at height {lowest}: {roots:?}"));
        }
        if highest > Some(lowest + 50) {
            wrong.push(format!("nodes stand at heights {heights:?}"));
        }
        // Whichever node is asked.
        let mut untold = 0;
        for (place, (hash, accepted)) in open.iter().enumerate() {
            let client = &clients[place % clients.len()];
            let found = client.transaction(hash).await?;
            match found.status.as_str() {
                "finalized" => {
                    untold += 1;
                    wrong.push(format!("{hash} is settled, and the watcher was not told"));
                }
                "not_found" if !accepted => {}
                status if *accepted => *dropped.entry(status.to_owned()).or_default() += 1,
                _ => {}
            }
        }
        for status in ["not_found", "pending"] {
            if let Some(lost) = dropped.get(status) {
                wrong.push(format!("{lost} accepted transactions are {status} at the end"));
            }
        }
        wrong.truncate(20);
        if kind == Kind::Send && untold == 0 {
            let each = minimum_send_fee().checked_add(TFuelWei::wei(1_u64)).unwrap_or_default();
            let counts = book.settled_of_senders(self.senders.len());
            for ((address, had), count) in self.senders.iter().zip(counts) {
                let spent = each.checked_mul(count).unwrap_or_default();
                let has = clients[clients.len() - 1].account(*address).await?;
                let has = has.map_or(TFuelWei::ZERO, |account| account.coins.tfuel);
                if had.tfuel.checked_sub(spent) != Some(has) {
                    wrong.push(format!(
                        "{address} had {} wei, {count} transfers of it were settled, and it has {has} wei",
                        had.tfuel
                    ));
                }
            }
        }
        Ok((wrong, dropped))
    }

    /// Waits until all nodes stand where the highest stood at first.
    async fn level(&self, clients: &[Client]) -> Result<Vec<u64>> {
        let deadline = tokio::time::Instant::now() + CATCH_UP;
        let mut goal = 0;
        loop {
            let mut heights = Vec::new();
            for client in clients {
                let status = client.call(&rpc::GetStatus::default()).await?;
                heights.push(status.latest_finalized_block_height.0);
            }
            if goal == 0 {
                goal = heights.iter().max().copied().unwrap_or_default();
            }
            if heights.iter().all(|height| *height >= goal) || tokio::time::Instant::now() > deadline {
                return Ok(heights);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
