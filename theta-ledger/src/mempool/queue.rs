//! What one sender has waiting, and the state behind it.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use num_bigint::BigUint;
use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    context::BlockContext,
    hash::{Address, Hash},
};

use super::Millis;
use crate::{
    block::run,
    ledger::{At, LedgerReader},
    state::{Checkpoint, StateError, StateView},
    tx::RawTx,
    vm::{ContractVm, VmCall, VmEnv, VmOutcome},
};

pub(super) struct Waiting {
    pub(super) raw: Arc<RawTx>,
    pub(super) price: BigUint,
    /// How many had been admitted when it was.
    pub(super) number: u64,
    /// The hash Ethereum tools know it by, where there is one.
    pub(super) ethereum: Option<Hash>,
    pub(super) since: Millis,
    /// How often a block was built without it although it was offered.
    pub(super) left_out: u32,
}

/// A settled state with the first transactions of a row carried out.
///
/// When a block takes what stands first in a row, as was foreseen, what was carried out stays: what the block adds to the
/// sender's funds is missing, which can make it refuse too much and is why a refusal counts on a fresh state only. So an
/// offer to a long row costs no more after a block than before.
pub(super) struct Ahead {
    /// The settled block on whose state the row was begun.
    begun: Hash,
    /// The settled block whose state is read for what the row has not touched yet.
    base: Hash,
    view: StateView,
    /// The sequence behind those that were carried out.
    pub(super) next: u64,
    /// Where in the view each of them begins.
    starts: Vec<Checkpoint>,
}

/// So many transactions that were settled meanwhile are carried along besides as many as the row still has.
const SPARE: u64 = 16;

impl Ahead {
    fn fresh(base: &Base, sender: Address) -> Result<Self, StateError> {
        let next = base.next(sender)?;
        Ok(Self { begun: base.hash, base: base.hash, view: base.view.clone(), next, starts: Vec::new() })
    }

    /// Whether it was begun on an earlier state.
    pub(super) fn is_carried(&self, base: &Base) -> bool {
        self.begun != base.hash
    }

    /// Goes on over a newer settled state, which asks for `next`; `None` where it is better begun again.
    fn carried(mut self, base: &Base, next: u64) -> Option<Self> {
        let settled = next.checked_sub(self.next - self.starts.len() as u64)?;
        let left = self.next.checked_sub(next)?;
        if settled > left + SPARE {
            return None;
        }
        self.view.rebase(&base.view);
        self.base = base.hash;
        Some(self)
    }

    /// Carries out what follows in the row; `count` rises with each. Whether all of it was valid.
    fn carry_out(
        &mut self,
        reader: &LedgerReader,
        base: &Base,
        waiting: &BTreeMap<u64, Waiting>,
        count: &mut u64,
    ) -> Result<bool, StateError> {
        while let Some(found) = waiting.get(&self.next) {
            let (start, view) = (self.view.checkpoint(), &mut self.view);
            *count += 1;
            match reader.with_scope(&base.context, &Admission, |scope| run(scope, view, &found.raw)) {
                Ok(_) => {
                    self.starts.push(start);
                    self.next += 1;
                }
                Err(error) => match error.state_error() {
                    Some(error) => return Err(error.clone().into()),
                    // It was valid when it came; it stays until the settled state says otherwise.
                    None => return Ok(false),
                },
            }
        }
        Ok(true)
    }

    /// Takes back what stands at a sequence, and all behind it.
    pub(super) fn rewind(&mut self, sequence: u64) {
        while self.next > sequence
            && let Some(start) = self.starts.pop()
        {
            self.view.revert(start);
            self.next -= 1;
        }
    }

    /// The state behind the row.
    pub(super) const fn view(&mut self) -> &mut StateView {
        &mut self.view
    }
}

/// All that one sender has waiting.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: BTreeMap<u64, Waiting>,
    /// Service payments have no place in a row.
    pub(super) payments: BTreeMap<Hash, Waiting>,
    pub(super) ahead: Option<Ahead>,
    /// What [`Mempool::offers`] and [`Mempool::lasts`] hold of the row.
    pub(super) indexed: [Option<Head>; 2],
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.payments.len()
    }

    pub(super) fn get(&self, place: Place) -> Option<&Waiting> {
        match place {
            Place::Row(sequence) => self.waiting.get(&sequence),
            Place::Payment(hash) => self.payments.get(&hash),
        }
    }

    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut Waiting> {
        match place {
            Place::Row(sequence) => self.waiting.get_mut(&sequence),
            Place::Payment(hash) => self.payments.get_mut(&hash),
        }
    }
}

/// Where in its sender's queue a transaction stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Row(u64),
    Payment(Hash),
}

/// A transaction in an order of offers; the greatest offers most, and of equal ones has waited longest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head {
    pub(super) price: BigUint,
    pub(super) number: Reverse<u64>,
    pub(super) hash: Hash,
    pub(super) sender: Address,
    pub(super) place: Place,
}

impl Head {
    pub(super) fn of(queue: &Queue, sender: Address, place: Place) -> Option<Self> {
        let waiting = queue.get(place)?;
        let (price, number) = (waiting.price.clone(), Reverse(waiting.number));
        Some(Self { price, number, hash: waiting.raw.hash, sender, place })
    }
}

/// The newest settled block's state and the context of a block on top of it.
pub(super) struct Base {
    pub(super) hash: Hash,
    pub(super) view: StateView,
    pub(super) context: BlockContext,
}

impl Base {
    pub(super) fn newest(reader: &LedgerReader) -> Result<Arc<Self>, StateError> {
        let hash = reader.settled().hash;
        let (view, context) = reader.next_block(At::Block(hash))?;
        Ok(Arc::new(Self { hash, view, context }))
    }

    /// The sequence that an account's next transaction needs.
    pub(super) fn next(&self, sender: Address) -> Result<u64, StateError> {
        Ok(next_sequence(&mut self.view.clone(), sender)?.unwrap_or(1))
    }
}

pub(super) fn next_sequence(view: &mut StateView, sender: Address) -> Result<Option<u64>, StateError> {
    Ok(view.account(sender)?.map(|account| account.sequence.wrapping_add(1)))
}

/// Takes the most that a contract call may cost, and runs nothing.
pub(super) struct Admission;

impl ContractVm for Admission {
    fn execute(&self, _: &VmEnv<'_>, call: &VmCall, view: &mut StateView) -> Result<VmOutcome, StateError> {
        let mut account = view.load_or_new(call.from)?;
        let value = Coins { theta: ThetaWei::from_u256(call.theta), tfuel: TFuelWei::from_u256(call.tfuel) };
        // The check before has seen that the balance covers it.
        account.balance = account.balance.checked_sub(value).unwrap_or(account.balance);
        if call.to.is_none() {
            account.sequence = account.sequence.wrapping_add(1);
        }
        view.store(account);
        Ok(VmOutcome { gas_used: call.gas_limit, ..VmOutcome::default() })
    }
}

/// Carries out, in the queue's own view, what waits in a row: on what stands there from earlier states, or on the settled
/// state alone.
pub(super) fn advance<'a>(
    reader: &LedgerReader,
    base: &Base,
    sender: Address,
    queue: &'a mut Queue,
    fresh: bool,
    count: &mut u64,
) -> Result<&'a mut Ahead, StateError> {
    let kept = match queue.ahead.take() {
        Some(ahead) if fresh && ahead.is_carried(base) => None,
        Some(ahead) if ahead.base == base.hash => Some(ahead),
        Some(ahead) => ahead.carried(base, base.next(sender)?),
        None => None,
    };
    if let Some(mut ahead) = kept {
        let all = ahead.carry_out(reader, base, &queue.waiting, count)?;
        if all || !ahead.is_carried(base) {
            return Ok(queue.ahead.insert(ahead));
        }
    }
    let ahead = queue.ahead.insert(Ahead::fresh(base, sender)?);
    ahead.carry_out(reader, base, &queue.waiting, count)?;
    Ok(ahead)
}
