//! Timers: when an epoch begins and ends, and when the host has to come back.

use super::{Effect, Engine, upper};
use crate::{message::Message, pace::Millis};
use theta_core::spec::Pace;

/// How often within a timeout a node repeats itself while nothing is certified.
pub(super) const AGAIN: u64 = 4;

impl Engine {
    pub(super) fn enter_epoch(&mut self, out: &mut Vec<Effect>) {
        let (pace, busy) = (self.pace(), self.busy());
        // The next proposer has had the votes for a while where it did not pass their certificate on.
        let told =
            self.told_one.take().filter(|_| self.last_vote.is_some_and(|last| last.epoch < self.epoch));
        let begun =
            told.map_or(self.now, |at| at.max(self.now.saturating_sub(self.settings.epoch_timeout / 2)));
        self.timers.enter((begun, self.now), pace, &self.settings, busy);
        if pace == Pace::Responsive {
            self.status_at = self.status_at.min(self.timers.stuck_at(&self.settings));
        }
        // Where nobody can propose, because the tip is of this epoch or a later one, there is nothing to wait for.
        if pace == Pace::Responsive
            && let Some(tip) = self.tree.tip(&self.lock.block, |_| true)
            && self.tree.header(&tip).is_some_and(|header| header.epoch >= self.epoch)
        {
            self.cast_vote(false, out);
        }
    }

    pub(super) fn run_timers(&mut self, out: &mut Vec<Effect>) {
        if self.timers.vote.is_some_and(|at| self.now >= at) {
            self.timers.vote = None;
            self.timers.vote_ready = true;
            if self.timers.block_seen {
                self.cast_vote(false, out);
            }
        }
        if self.now >= self.timers.timeout {
            self.cast_vote(true, out);
            self.timers.miss(self.epoch);
            if self.pace() == Pace::Responsive {
                // The next proposer has to know the highest lock, or whoever holds it cannot vote.
                self.tell_status(out);
            }
            self.enter_epoch(out);
        }
        if self.shown_by().is_some_and(|at| self.now >= at) {
            // It has not, so everybody has to hear the votes.
            self.timers.failing = true;
            self.status_at = self.now;
        }
        if self.timers.awaits.is_some() && self.timers.propose.is_some() && !self.awaits_certificate() {
            self.propose_again();
        }
        if self.timers.propose.is_some_and(|at| self.now >= at) {
            self.timers.propose = None;
            self.propose(out);
        }
        self.run_ballot(out);
        if self.now >= self.status_at {
            // While nothing is certified, a vote that got lost would be missing until the next timeout: who has voted says
            // so again, several times within one. So a network that has healed goes on at once.
            let stuck = self.pace() == Pace::Responsive && self.timers.is_stuck(self.now, &self.settings);
            let again =
                if stuck { self.settings.epoch_timeout / AGAIN } else { self.settings.status_interval };
            self.status_at = self.now + again.max(1);
            if stuck && self.last_vote.is_some_and(|last| last.epoch == self.epoch) {
                self.cast_vote(true, out);
            }
            self.tell_status(out);
        }
    }

    /// When the next proposer should have shown the certificate that it was given votes for.
    fn shown_by(&self) -> Option<Millis> {
        let told = self.told_one.filter(|_| !self.timers.failing);
        told.map(|at| at.saturating_add(self.settings.epoch_timeout / AGAIN))
    }

    fn tell_status(&mut self, out: &mut Vec<Effect>) {
        self.show_opening(out);
        self.told_at = self.now;
        out.push(Effect::Broadcast(Message::Status(self.status())));
    }

    pub(super) fn wake(&mut self, out: &mut Vec<Effect>) {
        let wants = self.wants.values().map(|want| want.next);
        let timers = [Some(self.timers.timeout), self.timers.vote, self.timers.propose];
        let ballot = self.ballot.as_ref().map(upper::Ballot::wakes);
        let shown = self.shown_by();
        let next = timers
            .into_iter()
            .flatten()
            .chain(wants)
            .chain(ballot)
            .chain(shown)
            .chain([self.status_at])
            .min();
        if next != self.wake_at {
            self.wake_at = next;
            out.extend(next.map(Effect::WakeAt));
        }
    }

    pub(super) fn on_work(&mut self) {
        self.work = true;
        let pace = self.pace();
        self.timers.hurry(self.now, pace, &self.settings);
    }
}
