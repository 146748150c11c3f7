//! Where events are kept: one record and one sync for all of a step.

use serde::{Deserialize, Serialize};
use theta_core::journal::{Disk, Journal, JournalError, Record};

use super::Event;

/// The events of one or more steps.
#[derive(Debug, Serialize, Deserialize)]
struct Batch(Vec<Event>);

impl Record for Batch {
    const VERSION: u8 = 1;
}

/// A journal of events.
#[derive(Debug)]
pub struct Log(Journal<Batch>);

impl Log {
    /// Opens it and reads what is there, oldest first.
    pub fn open(disk: impl Disk + 'static) -> Result<(Self, Vec<Event>), JournalError> {
        let (journal, batches) = Journal::open(disk)?;
        Ok((Self(journal), batches.into_iter().flat_map(|Batch(events)| events).collect()))
    }

    /// Adds events; they are durable when this returns. After an error every later call fails too.
    pub fn append(&mut self, events: Vec<Event>) -> Result<(), JournalError> {
        if events.is_empty() { Ok(()) } else { self.0.append(&Batch(events)) }
    }

    /// Puts a state ([`super::Placement::snapshot`]) in place of all events that led to it.
    pub fn replace(&mut self, snapshot: Vec<Event>) -> Result<(), JournalError> {
        self.0.replace(&[Batch(snapshot)])
    }
}
