//! Ticks: payments at the cost of one hash (edge.md 5.4).
//!
//! A payer commits to `w_0` in a signed receipt, where `w_i = keccak(w_{i+1})`. Whoever holds `w_i` was paid `i` units on
//! top of the receipt. The next receipt rolls them up: its amount is higher by what was released, and its anchor is the
//! last word released, so the same chain goes on. A payee's risk is what was not rolled up yet, which it bounds itself.

use serde::{Deserialize, Serialize};
use theta_core::amount::TFuelWei;
use theta_core::hash::{Hash, keccak, keccak_parts};

/// Ticks that a payee takes before it insists on a receipt for them (edge.md appendix A).
pub const WINDOW: u32 = 256;
/// Milliseconds after which it insists on one however few they are.
pub const WINDOW_MS: u64 = 2_000;
/// The longest chain; making one costs a hash for each word.
pub const MAX_TICKS: u32 = 1 << 20;

/// What a receipt says about ticks: those of the chain behind `anchor` pay `unit` each on top of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickCommit {
    /// `w_0`.
    pub anchor: Hash,
    /// What one tick pays.
    pub unit: TFuelWei,
    /// How many there are; none where no ticks are paid.
    pub max: u32,
}

theta_core::rlp_list!(TickCommit { anchor, unit, max });

impl TickCommit {
    /// No ticks.
    pub const NONE: Self = Self { anchor: Hash::ZERO, unit: TFuelWei::ZERO, max: 0 };

    /// What all of them pay; `None` above what a word holds.
    pub fn exposure(&self) -> Option<TFuelWei> {
        self.unit.checked_mul(u64::from(self.max))
    }
}

/// A payer's hash chain: memory and the cost of the next word grow with the root of its length.
#[derive(Clone)]
pub struct TickChain {
    max: u32,
    step: u32,
    /// `w_0`, `w_step`, `w_2step`, ..., `w_max`.
    ladder: Vec<Hash>,
    /// The block of words that is being released: its number, and the words from its lowest on.
    block: (u32, Vec<Hash>),
}

impl std::fmt::Debug for TickChain {
    /// Leaves out the words, which are money.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TickChain").field("max", &self.max).finish_non_exhaustive()
    }
}

impl TickChain {
    /// The chain of a seed, which nobody else may know. `None` unless it has between one and [`MAX_TICKS`] ticks.
    pub fn new(seed: &[u8; 32], max: u32) -> Option<Self> {
        if max == 0 || max > MAX_TICKS {
            return None;
        }
        let step = max.isqrt().max(1);
        let mut word = keccak_parts(&[b"theta-edge/tick/v1", seed]);
        let mut ladder = vec![word];
        for index in (0..max).rev() {
            word = keccak(word);
            if index % step == 0 {
                ladder.push(word);
            }
        }
        ladder.reverse();
        Some(Self { max, step, ladder, block: (u32::MAX, Vec::new()) })
    }

    /// `w_0`.
    pub fn anchor(&self) -> Hash {
        self.ladder[0]
    }

    /// How many ticks it has.
    pub const fn len(&self) -> u32 {
        self.max
    }

    /// Whether it has none, which no chain does.
    pub const fn is_empty(&self) -> bool {
        self.max == 0
    }

    /// `w_index`, which pays `index` units; `None` behind its end. Words in order cost about one hash each.
    pub fn word(&mut self, index: u32) -> Option<Hash> {
        if index > self.max {
            return None;
        }
        let number = index / self.step;
        if self.block.0 != number {
            let low = number * self.step;
            let high = low.saturating_add(self.step).min(self.max);
            let mut words = vec![self.ladder[number as usize + usize::from(high > low)]];
            while words.len() <= (high - low) as usize {
                words.push(keccak(words[words.len() - 1]));
            }
            words.reverse();
            self.block = (number, words);
        }
        self.block.1.get((index - number * self.step) as usize).copied()
    }
}

/// Why a tick is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TickError {
    /// No receipt commits to this chain.
    #[error("no receipt commits to this chain of ticks")]
    Anchor,
    /// The word is not the one of this index.
    #[error("the word is not tick {0} of its chain")]
    Word(u32),
    /// Behind the end of the chain.
    #[error("the chain has {0} ticks")]
    End(u32),
    /// Too many were not rolled up into a receipt.
    #[error("more than {0} ticks wait for a receipt")]
    Window(u32),
}

/// A payee's place in a payer's chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickMeter {
    commit: TickCommit,
    index: u32,
    word: Hash,
}

impl TickMeter {
    /// At the beginning of a chain.
    pub const fn new(commit: TickCommit) -> Self {
        Self { commit, index: 0, word: commit.anchor }
    }

    /// The chain.
    pub const fn commit(&self) -> &TickCommit {
        &self.commit
    }

    /// Ticks that were taken.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// The last word that was taken: the proof of all ticks up to it.
    pub const fn word(&self) -> Hash {
        self.word
    }

    /// What they pay.
    pub fn amount(&self) -> TFuelWei {
        // Within the exposure, which was checked to fit when the receipt was taken.
        self.commit.unit.checked_mul(u64::from(self.index)).unwrap_or_default()
    }

    /// Takes the tick of an index and says how many more units are paid by it: none for one from before. Costs a hash
    /// for each tick that was left out, so at most `window` of them.
    pub fn take(&mut self, index: u32, word: Hash, window: u32) -> Result<u32, TickError> {
        if index > self.commit.max {
            return Err(TickError::End(self.commit.max));
        }
        if index > window {
            return Err(TickError::Window(window));
        }
        let more = index.saturating_sub(self.index);
        if more == 0 {
            return Ok(0);
        }
        let mut below = word;
        for _ in 0..more {
            below = keccak(below);
        }
        if below != self.word {
            return Err(TickError::Word(index));
        }
        (self.index, self.word) = (index, word);
        Ok(more)
    }
}

/// Names the ticks of a chain up to an index as an item of a receipt.
pub(super) fn item(anchor: &Hash, index: u32) -> Hash {
    keccak_parts(&[b"theta-edge/ticks/v1", anchor.as_slice(), &index.to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_hashes_to_the_one_before_it_down_to_the_anchor() {
        for max in [1, 2, 3, 9, 10, 100, 1000] {
            let mut chain = TickChain::new(&[7; 32], max).unwrap();
            let mut below = chain.anchor();
            assert_eq!(chain.word(0), Some(below));
            for index in 1..=max {
                let word = chain.word(index).unwrap();
                assert_eq!(keccak(word), below, "{index} of {max}");
                below = word;
            }
            assert_eq!(chain.word(max + 1), None);
            // Out of order as well.
            let mut again = TickChain::new(&[7; 32], max).unwrap();
            assert_eq!(again.word(max), Some(below));
            assert_eq!(again.word(0), Some(chain.anchor()));
            assert_ne!(TickChain::new(&[8; 32], max).unwrap().anchor(), chain.anchor());
        }
        assert!(TickChain::new(&[7; 32], 0).is_none());
        assert!(TickChain::new(&[7; 32], MAX_TICKS + 1).is_none());
    }

    #[test]
    fn memory_grows_with_the_root() {
        let mut chain = TickChain::new(&[7; 32], 10_000).unwrap();
        chain.word(5_000);
        assert!(chain.ladder.len() + chain.block.1.len() <= 2 * 101, "{}", chain.ladder.len());
    }

    #[test]
    fn a_meter_takes_each_tick_once_and_no_forged_one() {
        let mut chain = TickChain::new(&[7; 32], 300).unwrap();
        let commit = TickCommit { anchor: chain.anchor(), unit: TFuelWei::wei(5), max: 300 };
        let mut meter = TickMeter::new(commit);
        assert_eq!(meter.take(1, chain.word(1).unwrap(), WINDOW), Ok(1));
        assert_eq!(meter.take(1, chain.word(1).unwrap(), WINDOW), Ok(0), "a replay pays nothing");
        assert_eq!(meter.take(4, chain.word(4).unwrap(), WINDOW), Ok(3), "lost ones are made up for");
        assert_eq!(meter.take(3, chain.word(3).unwrap(), WINDOW), Ok(0));
        assert_eq!(meter.amount(), TFuelWei::wei(20));
        assert_eq!(meter.take(6, chain.word(5).unwrap(), WINDOW), Err(TickError::Word(6)));
        assert_eq!(meter.take(5, Hash::ZERO, WINDOW), Err(TickError::Word(5)));
        assert_eq!(meter.take(257, chain.word(257).unwrap(), WINDOW), Err(TickError::Window(256)));
        assert_eq!(meter.take(301, Hash::ZERO, 1000), Err(TickError::End(300)));
        assert_eq!(meter.amount(), TFuelWei::wei(20), "nothing of it counted");
    }
}
