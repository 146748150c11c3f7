//! Children that have served a task well and wait for the next one like it.
//!
//! A child is as confined on its hundredth task as on its first: its bounds are set once, before it sees the module, and
//! it gets a new store, memory and world for each task. It serves one requester, one module and one set of granted
//! files, so what a program could carry over by breaking out of wasmtime is its own requester's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use theta_core::hash::Address;
use theta_edge::blob::BlobRef;
use theta_edge::executor::Attempt;
use theta_edge::job::{Folder, Limits, WasmWork};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::parent::Child;

/// How many children wait, and how long one serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warm {
    /// Children that wait at most; 0 keeps none.
    pub children: usize,
    /// How long one waits for its next task before it is ended.
    pub idle: Duration,
    /// Tasks that one serves at most.
    pub tasks: u32,
}

impl Warm {
    /// No child serves twice.
    pub const OFF: Self = Self { children: 0, idle: Duration::ZERO, tasks: 1 };
}

impl Default for Warm {
    /// Eight children, ten seconds, a thousand tasks.
    fn default() -> Self {
        Self { children: 8, idle: Duration::from_secs(10), tasks: 1_000 }
    }
}

/// What a child may have used of its processor time when it gets another task. Its bound is the task's wall limit and
/// five seconds more, for all that it ever does, and a task must find its whole wall limit left.
const BUSY: Duration = Duration::from_secs(4);
/// Bytes that a child may have been given and have made in one task and still wait: its memory waits with it.
const LARGEST: usize = 16 << 20;

/// What tasks have in common that one child serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Likeness {
    tenant: Address,
    module: BlobRef,
    inputs: Vec<Folder>,
    memory_mib: u32,
    wall_seconds: u64,
}

impl Likeness {
    /// `None` where nobody says whose task it is: its child serves no other.
    pub(crate) fn of(work: &WasmWork, limits: &Limits, attempt: &Attempt) -> Option<Self> {
        Some(Self {
            tenant: attempt.tenant?,
            module: work.module,
            inputs: work.inputs.clone(),
            memory_mib: limits.memory_mib,
            wall_seconds: limits.wall_seconds,
        })
    }
}

#[derive(Debug)]
struct Waiting {
    likeness: Likeness,
    child: Child,
    until: Instant,
}

#[derive(Debug)]
pub(crate) struct Pool {
    warm: Warm,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that has waited longest stands first.
    waiting: Vec<Waiting>,
    /// Runs while children wait.
    sweeper: Option<JoinHandle<()>>,
}

impl Pool {
    pub(crate) fn new(warm: Warm) -> Arc<Self> {
        Arc::new(Self { warm, state: Mutex::default() })
    }

    /// A child that has served a task like this, if one waits that is still well.
    pub(crate) fn take(&self, likeness: &Likeness) -> Option<Child> {
        loop {
            let mut child = {
                let waiting = &mut self.state().waiting;
                let at = waiting.iter().rposition(|one| one.likeness == *likeness)?;
                waiting.remove(at).child
            };
            if child.is_quiet() {
                return Some(child);
            }
        }
    }

    /// Keeps a child that has served its task well, or ends it.
    pub(crate) fn put(self: &Arc<Self>, likeness: Likeness, child: Child) {
        let spent = child.tasks >= self.warm.tasks || child.busy > BUSY || child.largest > LARGEST;
        if spent || self.warm.children == 0 {
            return;
        }
        let until = Instant::now() + self.warm.idle;
        let mut state = self.state();
        let oldest = (state.waiting.len() >= self.warm.children).then(|| state.waiting.remove(0));
        state.waiting.push(Waiting { likeness, child, until });
        if state.sweeper.as_ref().is_none_or(JoinHandle::is_finished) {
            state.sweeper = Some(tokio::spawn(sweep(Arc::downgrade(self))));
        }
        drop(state);
        drop(oldest);
    }

    /// Ends who has waited too long, and says when the next one will have.
    fn retire(&self) -> Option<Instant> {
        let mut state = self.state();
        let now = Instant::now();
        state.waiting.retain(|one| one.until > now);
        let next = state.waiting.first().map(|one| one.until);
        if next.is_none() {
            state.sweeper = None;
        }
        next
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does not keep the pool, whose end takes all children along.
async fn sweep(pool: Weak<Pool>) {
    while let Some(next) = pool.upgrade().and_then(|pool| pool.retire()) {
        tokio::time::sleep_until(next).await;
    }
}
