//! Transactions that are signed before the clock starts, and what became of each.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context, Result};
use num_bigint::BigUint;
use serde_json::json;
use theta_core::{
    amount::{Coins, TFuelWei},
    hash::{Address, Hash, keccak, keccak_parts},
    sign::SecretKey,
};
use theta_ledger::tx::ethereum::{WalletTx, translate};
use theta_sdk::{
    client::Client,
    wallet::{Wallet, minimum_send_fee},
};

use super::{Endpoint, Plan};

/// A signed transaction.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    /// Its place in the [`Book`].
    pub(super) place: usize,
    /// By which the watcher hears of it.
    pub(super) hash: Hash,
    pub(super) bytes: Vec<u8>,
    /// Who pays, by its place among the senders.
    pub(super) sender: usize,
}

/// What makes one.
enum Maker {
    Native { chain: String, fee: TFuelWei },
    Ethereum { chain_id: BigUint, price: BigUint, native_hash: bool },
}

impl Maker {
    fn make(&self, key: &SecretKey, sequence: u64, to: Address) -> Result<(Hash, Vec<u8>)> {
        match self {
            Self::Native { chain, fee } => {
                let wallet = Wallet::new(chain.clone(), key.clone());
                let coins = Coins::tfuel(TFuelWei::wei(1_u64));
                let raw = wallet.send(sequence, to, coins, *fee).sign(key)?;
                Ok((raw.hash, raw.bytes))
            }
            Self::Ethereum { chain_id, price, native_hash } => {
                let transaction = WalletTx {
                    chain_id: chain_id.clone(),
                    nonce: sequence,
                    gas_price: price.clone(),
                    typed: None,
                    gas: 21_000,
                    to: Some(to),
                    value: 1_u8.into(),
                    data: Vec::new(),
                };
                let bytes = transaction.sign(key)?;
                let hash = if *native_hash { translate(&bytes)?.hash } else { keccak(&bytes) };
                Ok((hash, bytes))
            }
        }
    }
}

async fn quantity(endpoint: &Endpoint, method: &str, params: serde_json::Value) -> Result<BigUint> {
    let answer = endpoint.call(method, params).await?;
    let digits = answer.as_str().and_then(|text| text.strip_prefix("0x"));
    digits
        .and_then(|digits| BigUint::parse_bytes(digits.as_bytes(), 16))
        .with_context(|| format!("{method} answered {answer}"))
}

/// Signs `most` transactions, on as many threads as there are workers, for each worker in the order in which it sends.
/// A worker's senders are its own, so each node hears of a sender's in their order.
pub(super) async fn sign(
    plan: &Plan,
    endpoints: &[Endpoint],
    workers: usize,
    most: usize,
    native: bool,
) -> Result<Vec<Vec<Offer>>> {
    let first = &endpoints[0];
    let maker = if first.ethereum {
        // Twice what is asked now: a base fee may rise in the meantime.
        let price = quantity(first, "eth_gasPrice", json!([])).await? * 2_u8;
        let chain_id = quantity(first, "eth_chainId", json!([])).await?;
        Maker::Ethereum { chain_id, price, native_hash: native }
    } else {
        let status = first.call("theta.GetStatus", json!({})).await?;
        let chain = status["chain_id"].as_str().context("the node does not name its chain")?.to_owned();
        Maker::Native { chain, fee: minimum_send_fee() }
    };
    let mut sequences = Vec::new();
    for key in &plan.senders {
        let address = key.address();
        sequences.push(if first.ethereum {
            let count = quantity(first, "eth_getTransactionCount", json!([address, "pending"])).await?;
            u64::try_from(&count).context("a nonce above 2^64")?
        } else {
            Client::http(&*first.url)?.next_sequence(address).await?
        });
    }
    let (senders, sequences, maker) = (&plan.senders, &sequences, &maker);
    std::thread::scope(|scope| {
        let signing: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || {
                    let own: Vec<usize> = (worker..senders.len()).step_by(workers).collect();
                    let mut offers = Vec::with_capacity(most / workers + 1);
                    for (nth, place) in (worker..most).step_by(workers).enumerate() {
                        let sender = own[nth % own.len()];
                        let sequence = sequences[sender] + (nth / own.len()) as u64;
                        let to = receiver(plan.seed, place as u64, plan.receivers);
                        let (hash, bytes) = maker.make(&senders[sender], sequence, to)?;
                        offers.push(Offer { place, hash, bytes, sender });
                    }
                    Ok(offers)
                })
            })
            .collect();
        let signed = signing.into_iter().map(|one| match one.join() {
            Ok(offers) => offers,
            Err(_) => Err(anyhow::anyhow!("a signing thread panicked")),
        });
        signed.collect()
    })
}

/// Who receives the transaction of this place.
fn receiver(seed: u64, place: u64, receivers: u64) -> Address {
    let drawn = keccak_parts(&[b"receiver", &seed.to_be_bytes(), &place.to_be_bytes()]);
    let number = u64::from_be_bytes(drawn.0[..8].try_into().unwrap_or_default()) % receivers.max(1);
    Address::from_word(keccak_parts(&[b"account", &seed.to_be_bytes(), &number.to_be_bytes()]))
}

/// What became of each transaction. Times are microseconds since the start, and one more, so that 0 is never.
#[derive(Debug)]
pub(super) struct Book {
    places: HashMap<Hash, usize>,
    workers: Vec<u32>,
    senders: Vec<u32>,
    hashes: Vec<Hash>,
    sent: Vec<AtomicU64>,
    settled: Vec<AtomicU64>,
    accepted: Vec<AtomicU64>,
    of_worker: Vec<(AtomicUsize, AtomicUsize)>,
    totals: [AtomicUsize; 4],
}

const SENT: usize = 0;
const ACCEPTED: usize = 1;
const SETTLED: usize = 2;
const BLOCKS: usize = 3;

/// What counts between warm-up and end.
pub(super) struct Counted {
    pub(super) offered: usize,
    pub(super) settled: usize,
    pub(super) latencies: Vec<u64>,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX - 1) + 1
}

impl Book {
    pub(super) fn new(offers: &[Vec<Offer>]) -> Self {
        let count = offers.iter().map(Vec::len).sum();
        let zeros = || (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        let (mut workers, mut senders, mut hashes) =
            (vec![0; count], vec![0; count], vec![Hash::ZERO; count]);
        let mut places = HashMap::with_capacity(count);
        for (worker, offers) in offers.iter().enumerate() {
            for offer in offers {
                workers[offer.place] = worker as u32;
                senders[offer.place] = offer.sender as u32;
                hashes[offer.place] = offer.hash;
                places.insert(offer.hash, offer.place);
            }
        }
        Self {
            places,
            workers,
            senders,
            hashes,
            sent: zeros(),
            settled: zeros(),
            accepted: zeros(),
            of_worker: offers.iter().map(|_| Default::default()).collect(),
            totals: Default::default(),
        }
    }

    pub(super) fn sent(&self, offer: &Offer, due: Duration) {
        self.sent[offer.place].store(micros(due), Relaxed);
        self.totals[SENT].fetch_add(1, Relaxed);
    }

    pub(super) fn took(&self, worker: usize, offer: &Offer) {
        self.accepted[offer.place].store(1, Relaxed);
        self.of_worker[worker].0.fetch_add(1, Relaxed);
        self.totals[ACCEPTED].fetch_add(1, Relaxed);
    }

    /// A block was told. False if one of its transactions had been told before.
    pub(super) fn told(&self, hashes: impl Iterator<Item = Hash>, now: Duration) -> bool {
        let mut once = true;
        let mut ours = false;
        for place in hashes.filter_map(|hash| self.places.get(&hash).copied()) {
            ours = true;
            if self.settled[place].swap(micros(now), Relaxed) != 0 {
                once = false;
                continue;
            }
            self.of_worker[self.workers[place] as usize].1.fetch_add(1, Relaxed);
            self.totals[SETTLED].fetch_add(1, Relaxed);
        }
        self.totals[BLOCKS].fetch_add(usize::from(ours), Relaxed);
        once
    }

    pub(super) fn unsettled(&self, worker: usize) -> usize {
        let (accepted, settled) = &self.of_worker[worker];
        accepted.load(Relaxed).saturating_sub(settled.load(Relaxed))
    }

    pub(super) fn offered(&self) -> usize {
        self.totals[SENT].load(Relaxed)
    }

    pub(super) fn accepted(&self) -> usize {
        self.totals[ACCEPTED].load(Relaxed)
    }

    pub(super) fn settled(&self) -> usize {
        self.totals[SETTLED].load(Relaxed)
    }

    pub(super) fn blocks(&self) -> usize {
        self.totals[BLOCKS].load(Relaxed)
    }

    /// What was sent and not told of. A call without an answer may have arrived.
    pub(super) fn open(&self) -> impl Iterator<Item = (Hash, bool)> {
        (0..self.hashes.len())
            .filter(|place| self.sent[*place].load(Relaxed) != 0 && self.settled[*place].load(Relaxed) == 0)
            .map(|place| (self.hashes[place], self.accepted[place].load(Relaxed) != 0))
    }

    /// How many of each sender's were told.
    pub(super) fn settled_of_senders(&self, senders: usize) -> Vec<u64> {
        let mut counts = vec![0; senders];
        for (place, settled) in self.settled.iter().enumerate() {
            counts[self.senders[place] as usize] += u64::from(settled.load(Relaxed) != 0);
        }
        counts
    }

    pub(super) fn counted(&self, from: Duration, to: Duration) -> Counted {
        let span = micros(from)..micros(to);
        let mut counted = Counted { offered: 0, settled: 0, latencies: Vec::new() };
        for (sent, settled) in self.sent.iter().zip(&self.settled) {
            let (sent, settled) = (sent.load(Relaxed), settled.load(Relaxed));
            counted.settled += usize::from(span.contains(&settled));
            if span.contains(&sent) {
                counted.offered += 1;
                if settled != 0 {
                    counted.latencies.push(settled.saturating_sub(sent));
                }
            }
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(place: usize, sender: usize) -> Offer {
        Offer { place, hash: Hash::repeat_byte(place as u8 + 1), bytes: Vec::new(), sender }
    }

    #[test]
    fn the_book_tells_what_was_settled_twice_late_or_never() {
        let offers = vec![vec![offer(0, 0), offer(2, 1)], vec![offer(1, 1)]];
        let book = Book::new(&offers);
        let at = Duration::from_millis;
        for (worker, one, due) in
            [(0, &offers[0][0], 100), (0, &offers[0][1], 6_000), (1, &offers[1][0], 7_000)]
        {
            book.sent(one, at(due));
            book.took(worker, one);
        }
        assert!(book.told([offers[0][0].hash, Hash::ZERO].into_iter(), at(300)));
        assert!(!book.told([offers[0][0].hash].into_iter(), at(400)), "twice");
        assert!(book.told([offers[1][0].hash].into_iter(), at(7_250)));
        assert_eq!((book.offered(), book.accepted(), book.settled(), book.blocks()), (3, 3, 2, 3));
        assert_eq!((book.unsettled(0), book.unsettled(1)), (1, 0));
        assert_eq!(book.open().collect::<Vec<_>>(), [(offers[0][1].hash, true)]);
        assert_eq!(book.settled_of_senders(2), [1, 1]);
        let counted = book.counted(at(5_000), at(10_000));
        assert_eq!((counted.offered, counted.settled, counted.latencies), (2, 1, vec![250_000]));
    }
}
