//! How time moves the protocol: when an epoch times out, when a vote may leave, when a proposer proposes.
//!
//! *Clocked* is the reference: a vote waits for the vote timer and the first block of the current or previous epoch, an
//! epoch that times out is entered again with the same length. *Responsive* has no floor: a vote follows the execution
//! of a block of the current epoch, a proposer with work proposes at once, and the wait for a dead proposer is short. It
//! grows only on evidence that it is too short: a block, or its certificate, that comes after the epoch has timed out. From
//! a dead proposer or across a cut nothing comes, so neither makes anybody more patient, and a network that has healed
//! goes on at its usual pace.

use std::collections::BTreeSet;

use theta_core::spec;

/// Milliseconds on the host's clock.
pub type Millis = u64;

/// Durations, in milliseconds; each node's own business, with defaults by pace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an epoch waits for its proposer.
    pub epoch_timeout: Millis,
    /// Responsive: from the second block on that comes too late the wait doubles with each more, up to this.
    pub epoch_timeout_cap: Millis,
    /// Clocked: how long a vote waits at least; the interval between blocks.
    pub vote_delay: Millis,
    /// Responsive: how long a proposer without work waits before it proposes an empty block.
    pub idle_interval: Millis,
    /// How long a voted block may be missing before it is asked for; usually it is on its way.
    pub fetch_delay: Millis,
    /// How long an asked peer has before another is asked.
    pub fetch_timeout: Millis,
    /// How often a node tells where it stands.
    pub status_interval: Millis,
    /// How long a round of guardians' and elite edge nodes' votes takes.
    pub upper_round: Millis,
    /// How many transactions a block has that carries nothing: the coinbase.
    pub empty_transactions: usize,
}

impl Settings {
    /// Defaults of a pace: the reference's 12 s and 6 s, or 1 s for everything that waits.
    pub const fn new(pace: spec::Pace) -> Self {
        match pace {
            spec::Pace::Clocked => Self {
                epoch_timeout: 12_000,
                epoch_timeout_cap: 12_000,
                vote_delay: 6_000,
                idle_interval: 0,
                fetch_delay: 1_000,
                fetch_timeout: 3_000,
                status_interval: 6_000,
                upper_round: 30_000,
                empty_transactions: 1,
            },
            spec::Pace::Responsive => Self {
                epoch_timeout: 1_000,
                epoch_timeout_cap: 8_000,
                vote_delay: 0,
                idle_interval: 1_000,
                fetch_delay: 150,
                fetch_timeout: 500,
                status_interval: 1_000,
                upper_round: 2_000,
                empty_transactions: 1,
            },
        }
    }
}

/// The timers of the current epoch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    /// The epoch times out.
    pub(crate) timeout: Millis,
    /// Clocked: a vote may leave from then on.
    pub(crate) vote: Option<Millis>,
    /// A proposer proposes then.
    pub(crate) propose: Option<Millis>,
    /// Responsive: a proposer gives the certificate of the epoch before until then to come.
    pub(crate) awaits: Option<Millis>,
    /// Clocked: the vote timer has fired.
    pub(crate) vote_ready: bool,
    /// Clocked: a block of the current or previous epoch has been executed.
    pub(crate) block_seen: bool,
    /// An epoch has timed out since a block was certified last, or votes that went to the next proposer alone were in vain.
    pub(crate) failing: bool,
    /// When the epoch was entered, or again after a timeout.
    entered: Millis,
    /// Responsive: from then on the proposer of the epoch is waited for.
    since: Millis,
    /// Responsive: blocks that came too late, less those that came in good time.
    slow: u32,
    /// Responsive: the latest epochs that timed out here and of which nothing has come yet.
    missed: BTreeSet<u64>,
}

/// Epochs of which a late block still counts.
const MISSED: usize = 8;

impl Timers {
    /// Starts an epoch, in which the proposer's time has begun before it was entered perhaps. `busy` says whether anything
    /// waits to be put into a block or to be settled.
    pub(crate) fn enter(
        &mut self,
        (begun, now): (Millis, Millis),
        pace: spec::Pace,
        settings: &Settings,
        busy: bool,
    ) {
        self.block_seen = false;
        self.awaits = None;
        self.entered = now;
        match pace {
            spec::Pace::Clocked => {
                self.vote_ready = false;
                self.vote = Some(now + settings.vote_delay);
                self.timeout = now + settings.epoch_timeout;
                self.propose = Some(now);
            }
            spec::Pace::Responsive => {
                self.vote_ready = true;
                self.vote = None;
                let idle = if busy { 0 } else { settings.idle_interval };
                self.propose = Some(begun + idle);
                self.since = begun + idle;
                self.timeout = self.since + wait(self.slow, settings);
            }
        }
    }

    /// A vote for the block of this epoch has left, and the next proposer has its time.
    pub(crate) fn has_voted(&mut self, now: Millis, settings: &Settings) {
        self.timeout = self.timeout.max(now + wait(self.slow, settings));
    }

    /// Work has come up in an epoch that was idle.
    pub(crate) fn hurry(&mut self, now: Millis, pace: spec::Pace, settings: &Settings) {
        if pace == spec::Pace::Responsive {
            self.propose = self.propose.map(|at| at.min(now));
            if now < self.since {
                self.since = now;
                self.timeout = self.timeout.min(now + wait(self.slow, settings));
            }
        }
    }

    /// How long the epoch has lasted, or its last timeout.
    pub(crate) const fn lasts(&self, now: Millis) -> Millis {
        now.saturating_sub(self.entered)
    }

    /// How long a proposer is waited for now.
    #[cfg(feature = "sim")]
    pub(crate) fn patience(&self, settings: &Settings) -> Millis {
        wait(self.slow, settings)
    }

    /// Whether the epoch goes on for so long that somebody may have missed how it began.
    pub(crate) fn is_stuck(&self, now: Millis, settings: &Settings) -> bool {
        self.failing || now >= self.stuck_at(settings)
    }

    /// When it will, at the latest.
    pub(crate) const fn stuck_at(&self, settings: &Settings) -> Millis {
        self.since.saturating_add(settings.epoch_timeout / 2)
    }

    /// An epoch has timed out.
    pub(crate) fn miss(&mut self, epoch: u64) {
        self.failing = true;
        self.missed.insert(epoch);
        if self.missed.len() > MISSED {
            self.missed.pop_first();
        }
    }

    /// A block of an epoch has come on its own, or has been certified. If the epoch had timed out the wait was too short;
    /// counted once for each epoch, so a proposer that is late on purpose doubles one wait and the next good blocks halve
    /// it again. Says whether it was late.
    pub(crate) fn comes(&mut self, epoch: u64) -> bool {
        let is_late = self.missed.remove(&epoch);
        self.slow = self.slow.saturating_add(is_late.into()).min(16);
        is_late
    }

    /// The block of the epoch at hand has been certified: the wait shortens if half of the shorter one would have done.
    pub(crate) fn certified(&mut self, now: Millis, settings: &Settings) {
        let shorter = self.slow.saturating_sub(1);
        if now.saturating_sub(self.since) <= wait(shorter, settings) / 2 {
            self.slow = shorter;
        }
    }
}

/// The patience when so many blocks have come too late.
fn wait(slow: u32, settings: &Settings) -> Millis {
    // One may be chance; only more hint at a slow network.
    let doublings = slow.saturating_sub(1).min(16);
    let doubled = settings.epoch_timeout.saturating_mul(1 << doublings);
    doubled.min(settings.epoch_timeout_cap.max(settings.epoch_timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_doubles_up_to_its_cap() {
        let settings = Settings::new(spec::Pace::Responsive);
        let waits: Vec<_> = (0..6).map(|slow| wait(slow, &settings)).collect();
        assert_eq!(waits, [1_000, 1_000, 2_000, 4_000, 8_000, 8_000]);
        assert_eq!(wait(u32::MAX, &settings), 8_000);
    }

    #[test]
    fn only_what_comes_too_late_makes_patient() {
        let settings = Settings::new(spec::Pace::Responsive);
        let mut timers = Timers::default();
        let patience = |timers: &mut Timers| {
            timers.enter((0, 0), spec::Pace::Responsive, &settings, true);
            timers.timeout
        };
        // Dead proposers, as many as there may be.
        (1..100).for_each(|epoch| timers.miss(epoch));
        assert_eq!(patience(&mut timers), 1_000);
        assert_eq!(timers.missed.len(), MISSED);
        // What was not missed, and what was missed long ago.
        assert!(!timers.comes(100) && !timers.comes(5));
        for (epoch, expected) in [(97, 1_000), (98, 2_000), (99, 4_000)] {
            assert!(timers.comes(epoch) && !timers.comes(epoch), "once for each epoch");
            assert_eq!(patience(&mut timers), expected);
        }
        // A block that takes more than half of the shorter wait changes nothing, quicker ones do.
        timers.certified(1_001, &settings);
        assert_eq!(patience(&mut timers), 4_000);
        for expected in [2_000, 1_000, 1_000] {
            timers.certified(100, &settings);
            assert_eq!(patience(&mut timers), expected);
        }
    }

    #[test]
    fn the_reference_waits_the_same_in_every_epoch() {
        let settings = Settings::new(spec::Pace::Clocked);
        let mut timers = Timers { slow: 5, ..Timers::default() };
        timers.enter((100, 100), spec::Pace::Clocked, &settings, false);
        assert_eq!((timers.vote, timers.timeout, timers.propose), (Some(6_100), 12_100, Some(100)));
        timers.hurry(200, spec::Pace::Clocked, &settings);
        assert_eq!(timers.timeout, 12_100);
    }

    #[test]
    fn work_ends_an_idle_wait() {
        let settings = Settings::new(spec::Pace::Responsive);
        let mut timers = Timers::default();
        timers.enter((0, 0), spec::Pace::Responsive, &settings, false);
        assert_eq!((timers.propose, timers.timeout), (Some(1_000), 2_000));
        timers.hurry(300, spec::Pace::Responsive, &settings);
        assert_eq!((timers.propose, timers.timeout), (Some(300), 1_300));
    }
}
