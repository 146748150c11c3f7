//! A journal that is written anew from what still counts once most of it is past.

use theta_core::journal::{Disk, Journal, JournalError, Record};

/// Records that may stand for one that counts.
const EXCESS: usize = 2;
/// Records up to which nothing is written anew; few in tests, so that they see it happen.
const FLOOR: usize = if cfg!(test) { 8 } else { 256 };

/// A journal whose records are written anew from what still counts.
#[derive(Debug)]
pub struct History<R> {
    journal: Journal<R>,
    len: usize,
}

impl<R: Record> History<R> {
    /// Opens it, and gives its records, oldest first.
    pub fn open(disk: impl Disk + 'static) -> Result<(Self, Vec<R>), JournalError> {
        let (journal, records) = Journal::open(disk)?;
        Ok((Self { journal, len: records.len() }, records))
    }

    /// Adds a record, durably.
    pub fn append(&mut self, record: &R) -> Result<(), JournalError> {
        self.journal.append(record)?;
        self.len += 1;
        Ok(())
    }

    /// Writes the journal anew if it is much longer than what counts, which is about `live` records: those that
    /// `records` gives. They have to say all that the journal says, so no change may be on its way to it.
    pub fn tidy(&mut self, live: usize, records: impl FnOnce() -> Vec<R>) -> Result<(), JournalError> {
        if self.len <= FLOOR.max(live.saturating_mul(EXCESS)) {
            return Ok(());
        }
        let records = records();
        self.journal.replace(&records)?;
        self.len = records.len();
        Ok(())
    }
}
