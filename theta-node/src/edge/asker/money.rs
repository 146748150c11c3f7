//! Funds of the loop: looked at, replaced, closed.

use std::time::Duration;

use anyhow::Result;
use theta_edge::{
    Millis,
    chain::{Chain as _, ChainError, Fund},
};
use theta_ledger::state::account::SplitRule;

use super::{AGES, AskerEvent, AskerLoop, MAX_STORED, PRUNE_MS, RETRY_MS, Refused};
use crate::edge::{Funds, funds};

impl AskerLoop {
    /// Looks at the funds, unless the last look is still on its way.
    pub(super) fn look_around(&mut self, now: Millis) -> Result<()> {
        self.keep_funds(now)?;
        if now.saturating_sub(self.pruned) >= PRUNE_MS {
            self.pruned = now;
            let (blobs, mut used) = (self.wire.blobs.clone(), self.book.used_blobs());
            used.extend(self.publications.blobs());
            used.extend(self.requester.scheduler().inputs().map(|blob| blob.hash));
            let ages = (Duration::from_secs(AGES.0), Duration::from_secs(AGES.1));
            self.tasks.spawn_blocking(move || {
                blobs.prune_unused(MAX_STORED, ages, &used);
                AskerEvent::Nothing
            });
        }
        if self.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return Ok(());
        }
        let (client, payer) = (self.client.clone(), self.id.0);
        let funds: Vec<u64> = self.funds.open.keys().copied().collect();
        self.looking = Some(self.tasks.spawn(async move {
            let look = async {
                let mut seen = Vec::new();
                let height = client.height().await?;
                for sequence in funds {
                    seen.push((sequence, client.fund(payer, sequence).await?));
                }
                Ok::<_, ChainError>((height, seen))
            };
            // What cannot be seen now is left for the next look.
            let (height, funds) = look.await.unwrap_or_default();
            AskerEvent::Seen { height, funds }
        }));
        Ok(())
    }

    pub(super) fn seen(&mut self, height: u64, funds: Vec<(u64, Option<Fund>)>) -> Result<()> {
        self.height = height.max(self.height);
        let present = self.funds.present().map(|(sequence, _)| sequence);
        for (sequence, fund) in funds {
            let Some(fund) = fund else {
                // It has ended, and the chain has given back what was left.
                let in_hand = self.book.open_jobs().any(|(_, entry)| entry.fund == sequence);
                if Some(sequence) != present && !in_hand {
                    self.requester.remove(sequence);
                    self.funds.close(sequence)?;
                }
                continue;
            };
            self.book.settled(sequence, &fund.settled)?;
            self.settled.insert(sequence, fund.settled.clone());
            let Some(open) = self.funds.open.get_mut(&sequence) else { continue };
            let todo = self.requester.observe(&fund);
            open.fund = fund;
            self.done(todo)?;
        }
        let todo = self.requester.remind();
        self.done(todo)
    }

    /// Reserves the next fund where the present one will not do.
    pub(super) fn keep_funds(&mut self, now: Millis) -> Result<()> {
        let Funds::Kept { size, blocks } = self.policy else {
            let problem = "the reserve fund has ended";
            self.refuse_waiting(problem);
            return Ok(());
        };
        let busy = self.reserving.as_ref().is_some_and(|reserving| !reserving.is_finished());
        let early = self.trouble.as_ref().is_some_and(|(_, again)| now < *again);
        let stale = self.funds.present().is_none_or(|(sequence, open)| {
            open.is_stale(self.requester.purse(sequence), self.height, blocks)
        });
        if busy || early || (!stale && self.queue.is_empty()) {
            return Ok(());
        }
        let newest = self.funds.present().map_or(0, |(sequence, _)| sequence);
        let (client, chain, key) = (self.client.clone(), self.chain.clone(), self.key.clone());
        self.reserving = Some(self.tasks.spawn(async move {
            AskerEvent::Reserved(funds::reserve(client, chain, key, (size, blocks), newest).await)
        }));
        Ok(())
    }

    pub(super) fn reserved(
        &mut self,
        now: Millis,
        reserved: Result<(Fund, Option<SplitRule>)>,
    ) -> Result<()> {
        self.reserving = None;
        match reserved {
            Ok((fund, rule)) => {
                (self.trouble, self.rule) = (None, rule);
                let sequence = fund.reserve_sequence;
                self.settled.insert(sequence, fund.settled.clone());
                self.requester.add(self.funds.adopt(fund)?);
                for (order, taken, ended) in std::mem::take(&mut self.queue) {
                    self.submit(now, order, taken, ended)?;
                }
            }
            Err(error) => {
                let problem = format!("no fund could be reserved: {error:#}");
                tracing::warn!("{problem}");
                self.trouble = Some((problem.clone(), now.saturating_add(RETRY_MS)));
                self.refuse_waiting(&problem);
            }
        }
        Ok(())
    }

    pub(super) fn refuse_waiting(&mut self, problem: &str) {
        for (_, taken, _) in self.queue.drain(..) {
            let _gone = taken.send(Err(Refused::Budget(problem.to_owned())));
        }
    }
}
