//! Takes packets from the network: transactions go into the pool, the rest to the chain thread; what pools of peers have
//! waiting and this one lacks is fetched.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender},
    },
    time::Duration,
};

use parking_lot::Mutex;
use theta_core::{block::Block, hash::Hash};
use theta_ledger::{
    ledger::{At, LedgerReader},
    mempool::{AdmitError, Admitted, Mempool, Millis},
    tx::TxError,
};
use tokio::sync::watch;

use crate::{
    chain::Event,
    clock::now_millis,
    fetch::RANGE,
    metrics::{Label, Metrics},
    net::{Delivery, MAX_ANSWERED, MOST_ASKED, Packet, Port, Verdict},
    snapshots::Shelf,
};

/// Puts a transaction into the pool; signatures are recovered before the pool is locked.
pub(crate) fn admit(
    pool: &Mutex<Mempool>,
    metrics: &Metrics,
    bytes: Vec<u8>,
) -> Result<Admitted, AdmitError> {
    let screen = pool.lock().screen();
    let admitted = screen.check(bytes).and_then(|screened| pool.lock().insert(screened, now_millis()));
    let result = match &admitted {
        Ok(Admitted::Ready(_)) => "ready",
        Ok(Admitted::Parked { .. }) => "parked",
        Err(AdmitError::Known) => "known",
        Err(AdmitError::Full) => "full",
        Err(_) => "refused",
    };
    metrics.arrived.get_or_create(&Label { result }).inc();
    admitted
}

/// A transaction that nobody can have thought right is its sender's fault. All else depends on what a node knows.
fn verdict(admitted: &Result<Admitted, AdmitError>) -> Verdict {
    match admitted {
        Ok(_) => Verdict::Accept,
        Err(
            AdmitError::TooLarge(..)
            | AdmitError::Invalid(
                TxError::Decode(_)
                | TxError::Signature
                | TxError::EthereumSignature(_)
                | TxError::Unauthorized,
            ),
        ) => Verdict::Reject,
        Err(_) => Verdict::Ignore,
    }
}

/// The thread that does it.
pub(crate) struct Sorter {
    pub(crate) reader: LedgerReader,
    pub(crate) mempool: Arc<Mutex<Mempool>>,
    pub(crate) metrics: Metrics,
    pub(crate) shelf: Option<Arc<Shelf>>,
    pub(crate) port: Port,
    pub(crate) events: SyncSender<Event>,
    pub(crate) stop: watch::Receiver<bool>,
}

/// How often one peer is asked what waits there, in milliseconds.
const COMPARE_EVERY: Millis = 2_000;
/// How long it may take over all its answers before the next one is asked: a slow peer is waited for, a silent one
/// holds nothing up.
const ANSWER_WITHIN: Millis = 10_000;
/// What has waited for less is still on its way as gossip.
const ON_ITS_WAY: Millis = 1_000;
/// Transactions that a peer names at most, and those of them that are fetched before it is asked again.
const NAMED: usize = 16_384;
const FETCHED: usize = 2_048;

/// What waits at one peer and not here. Gossip reaches who is there when it is told; a pool that died with its node, or
/// was behind a cut cable, is filled again by asking one peer after the other.
#[derive(Debug, Default)]
struct Compare {
    /// When a peer was asked last.
    at: Millis,
    turn: usize,
    /// That peer.
    peer: Option<u64>,
    /// It has not answered yet.
    open: bool,
    missing: VecDeque<Hash>,
}

impl Sorter {
    fn far_below(&self, above: u64) -> bool {
        self.reader.settled().header.height > above.saturating_add(RANGE)
    }

    /// The settled blocks above a height; none where they cannot be read, which the chain's thread finds out by itself.
    fn range(&self, above: u64) -> Vec<Arc<Block>> {
        let heights = above + 1..=above + RANGE;
        heights
            .map_while(|height| self.reader.block(At::Height(height)).ok()?.map(|info| info.block))
            .collect()
    }

    /// Asks the next peer what waits there, once it is time.
    fn compare(&self, compare: &mut Compare) {
        let now = now_millis();
        let pause = if compare.open { ANSWER_WITHIN } else { COMPARE_EVERY };
        // A clock that was set back only makes it ask once more.
        if (compare.at..compare.at + pause).contains(&now) {
            return;
        }
        compare.at = now;
        let others = self.port.others();
        if others.is_empty() {
            return;
        }
        compare.turn = compare.turn.wrapping_add(1);
        let peer = others[compare.turn % others.len()];
        compare.peer = Some(peer);
        compare.open = true;
        compare.missing.clear();
        self.port.ask_waiting(peer);
    }

    /// Keeps what is not here of that which waits at a peer, and begins to fetch it.
    fn named(&self, compare: &mut Compare, peer: u64, hashes: Vec<Hash>) {
        if compare.peer != Some(peer) {
            return;
        }
        let unknown: Vec<_> = {
            let pool = self.mempool.lock();
            hashes.into_iter().take(NAMED).filter(|hash| !pool.knows(hash)).collect()
        };
        // What is in a block that never settles has to wait here too. What cannot be read here the chain's thread finds out
        // by itself.
        let settled = |hash: &Hash| {
            self.reader.transaction(hash).is_ok_and(|found| found.is_some_and(|found| found.settled))
        };
        compare.missing = unknown.into_iter().take(FETCHED).filter(|hash| !settled(hash)).collect();
        self.fetch_missing(compare, peer);
    }

    fn fetch_missing(&self, compare: &mut Compare, peer: u64) {
        let count = compare.missing.len().min(MOST_ASKED);
        compare.open = count > 0;
        if compare.open {
            self.port.ask_transactions(peer, compare.missing.drain(..count).collect());
        }
    }

    /// Takes transactions that were asked for, late ones too; whether any of them is of use.
    fn fetched(&self, compare: &mut Compare, peer: u64, raw: Vec<Vec<u8>>) -> bool {
        let mut taken = false;
        for raw in raw {
            match verdict(&admit(&self.mempool, &self.metrics, raw)) {
                Verdict::Accept => taken = true,
                Verdict::Ignore => {}
                Verdict::Reject => {
                    self.port.penalize(peer);
                    if compare.peer == Some(peer) {
                        compare.missing.clear();
                        compare.open = false;
                    }
                    return taken;
                }
            }
        }
        if compare.peer == Some(peer) {
            self.fetch_missing(compare, peer);
        }
        taken
    }

    /// The transactions of these hashes that wait here, as many as fit into an answer.
    fn waiting(&self, hashes: &[Hash]) -> Vec<Vec<u8>> {
        let found: Vec<_> = {
            let pool = self.mempool.lock();
            hashes.iter().filter_map(|hash| pool.find(hash)).collect()
        };
        let mut room = MAX_ANSWERED;
        let fits = found.iter().take_while(|raw| {
            room = room.saturating_sub(raw.bytes.len());
            room > 0
        });
        fits.map(|raw| raw.bytes.clone()).collect()
    }

    pub(crate) fn run(self, deliveries: &Receiver<Delivery>) {
        let mut compare = Compare::default();
        while !*self.stop.borrow() {
            self.compare(&mut compare);
            let Ok(delivery) = deliveries.recv_timeout(Duration::from_millis(200)) else {
                continue;
            };
            let event = match delivery.packet {
                Packet::Transactions(raw) => {
                    let mut word = Verdict::Ignore;
                    for raw in raw {
                        match verdict(&admit(&self.mempool, &self.metrics, raw)) {
                            Verdict::Accept => word = Verdict::Accept,
                            Verdict::Ignore => {}
                            // Whoever sent them should have known; what stands behind it is lost with it.
                            Verdict::Reject => {
                                word = Verdict::Reject;
                                break;
                            }
                        }
                    }
                    self.port.judge(&delivery.ticket, word);
                    if word == Verdict::Ignore {
                        continue;
                    }
                    Event::Work
                }
                // What is settled far above is an ancestor of whatever an honest node asks for, and needs no engine.
                Packet::Fetch { above, .. } if self.far_below(above) => {
                    self.port.reply(&delivery.ticket, self.range(above));
                    continue;
                }
                Packet::AskWaiting => {
                    let until = now_millis().saturating_sub(ON_ITS_WAY);
                    let hashes = self.mempool.lock().waiting_since(until, NAMED);
                    self.port.reply_waiting(&delivery.ticket, hashes);
                    continue;
                }
                Packet::AskTransactions(hashes) => {
                    self.port.reply_transactions(&delivery.ticket, self.waiting(&hashes));
                    continue;
                }
                Packet::Waiting(hashes) => {
                    self.named(&mut compare, delivery.from, hashes);
                    continue;
                }
                Packet::Asked(raw) => {
                    if !self.fetched(&mut compare, delivery.from, raw) {
                        continue;
                    }
                    Event::Work
                }
                Packet::AskSnapshot => {
                    let offer = self.shelf.as_ref().and_then(|shelf| shelf.offer());
                    self.port.reply_snapshot(&delivery.ticket, offer.unwrap_or_default());
                    continue;
                }
                Packet::AskPiece { height, index } => {
                    let piece = self.shelf.as_ref().and_then(|shelf| shelf.piece(height, index));
                    self.port.reply_piece(&delivery.ticket, height, index, piece.unwrap_or_default());
                    continue;
                }
                _ => Event::Net(Box::new(delivery)),
            };
            // Full means that the chain thread is behind; the protocol asks again for what is lost.
            let _ = self.events.try_send(event);
        }
    }
}
