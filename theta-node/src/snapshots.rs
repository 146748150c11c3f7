//! Snapshots among nodes: one keeps its newest state as a file, another begins with it instead of with the genesis.
//!
//! Files are made at checkpoints, so that the votes in the next checkpoint's header are for a block whose pools the
//! beginner has. A file is offered by the hashes of its pieces: peers with the same hashes have the same file, any of them
//! may give a piece, and a wrong piece is known at once. That the state is the chain's, its import proves from the
//! genesis on (`ledger.md` 9); who offered a file that proves nothing is not asked again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::RwLock;
use theta_core::{
    hash::{Hash, keccak},
    rlp_list,
    store::Store,
};
use theta_ledger::{genesis::Genesis, ledger::LedgerReader, snapshot};

use crate::net::{Delivery, Packet, Port, Ticket, Verdict};

/// Bytes of a piece.
pub(crate) const PIECE: usize = 1 << 20;
/// Pieces of a file: 64 GiB.
const MOST_PIECES: usize = 1 << 16;
/// The version of the format that proves its block from the genesis on.
const VERSION: u64 = 3;
/// How long a beginner waits for somebody who offers a file, and for a piece.
const LOOK: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a peer is asked for its offer.
const ASK_AGAIN: Duration = Duration::from_secs(3);
/// After the first offer so much longer for better ones.
const COMPARE: Duration = Duration::from_secs(2);
/// Pieces on their way at once.
const WINDOW: usize = 8;
/// Faults of a peer after which it is asked for nothing more.
const FAULTS: u32 = 3;

/// A file that a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offer {
    /// Height of its block; 0 where there is none.
    pub(crate) height: u64,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// Keccak-256 of each piece.
    pub(crate) pieces: Vec<Hash>,
}

rlp_list!(Offer { height, bytes, pieces });

impl Offer {
    /// Whether there are as many pieces as the bytes need.
    fn is_whole(&self) -> bool {
        let pieces = self.bytes.div_ceil(PIECE as u64);
        self.height > 0 && self.pieces.len() as u64 == pieces && self.pieces.len() <= MOST_PIECES
    }
}

/// The files of one node.
#[derive(Debug)]
pub(crate) struct Shelf {
    folder: PathBuf,
    every: u64,
    newest: RwLock<Option<(Offer, PathBuf)>>,
    busy: AtomicBool,
}

impl Shelf {
    /// Opens the folder of a node that makes a file every so many blocks. What was there is offered again.
    pub(crate) fn open(folder: &Path, every: u64) -> Result<Arc<Self>> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut newest: Option<(u64, PathBuf)> = None;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let height = name.strip_suffix(".snapshot").and_then(|height| height.parse::<u64>().ok());
            if let Some(height) = height.filter(|height| newest.as_ref().is_none_or(|(at, _)| at < height)) {
                newest = Some((height, path));
            }
        }
        let newest = newest.map(|(height, path)| Ok::<_, anyhow::Error>((describe(height, &path)?, path)));
        let shelf = Self {
            folder: folder.to_owned(),
            every: every.max(1),
            newest: RwLock::new(newest.transpose()?),
            busy: AtomicBool::new(false),
        };
        Ok(Arc::new(shelf))
    }

    /// What is offered.
    pub(crate) fn offer(&self) -> Option<Offer> {
        self.newest.read().as_ref().map(|(offer, _)| offer.clone())
    }

    /// A piece of the offered file; none of one that is gone, or past its end.
    pub(crate) fn piece(&self, height: u64, index: u64) -> Option<Vec<u8>> {
        let path = {
            let newest = self.newest.read();
            let (offer, path) = newest.as_ref()?;
            (offer.height == height && index < offer.pieces.len() as u64).then(|| path.clone())?
        };
        let mut file = File::open(path).ok()?;
        file.seek(SeekFrom::Start(index * PIECE as u64)).ok()?;
        let mut bytes = Vec::with_capacity(PIECE);
        file.take(PIECE as u64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Makes a file on a thread of its own, if one is due at this settled height.
    pub(crate) fn consider(self: &Arc<Self>, reader: &LedgerReader) {
        let settled = reader.settled().header.height;
        // The two blocks above prove it.
        let Some(height) = checkpoint_below(reader, settled.saturating_sub(2)) else { return };
        let last = self.newest.read().as_ref().map_or(0, |(offer, _)| offer.height);
        if height < last + self.every || self.busy.swap(true, Ordering::Relaxed) {
            return;
        }
        let (shelf, reader) = (self.clone(), reader.clone());
        let made = std::thread::Builder::new().name("theta-snapshot".to_owned()).spawn(move || {
            if let Err(error) = shelf.make(&reader, height) {
                tracing::warn!(height, "no snapshot could be made: {error:#}");
            }
            shelf.busy.store(false, Ordering::Relaxed);
        });
        if made.is_err() {
            self.busy.store(false, Ordering::Relaxed);
        }
    }

    fn make(&self, reader: &LedgerReader, height: u64) -> Result<()> {
        let path = self.folder.join(format!("{height}.snapshot"));
        let part = tempfile::NamedTempFile::new_in(&self.folder)?;
        let mut out = std::io::BufWriter::new(part.as_file());
        snapshot::export(reader, height, VERSION, &mut out)?;
        drop(out);
        part.as_file().sync_all()?;
        part.persist(&path)?;
        let offer = describe(height, &path)?;
        ensure!(offer.is_whole(), "a snapshot of {} bytes is too large to be offered", offer.bytes);
        let before = self.newest.write().replace((offer, path));
        if let Some((_, old)) = before {
            // A reader that has it open reads on.
            std::fs::remove_file(old)?;
        }
        tracing::info!(height, "a snapshot was made");
        Ok(())
    }
}

/// The highest checkpoint at or below a height.
pub(crate) fn checkpoint_below(reader: &LedgerReader, height: u64) -> Option<u64> {
    let least = height.saturating_sub(reader.spec().rules(height).consensus.checkpoint_interval);
    (least.max(1)..=height).rev().find(|height| reader.spec().rules(*height).is_checkpoint(*height))
}

fn describe(height: u64, path: &Path) -> Result<Offer> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let (mut bytes, mut pieces) = (0, Vec::new());
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece)?;
        if read == 0 {
            return Ok(Offer { height, bytes, pieces });
        }
        bytes += read as u64;
        pieces.push(keccak(&piece));
    }
}

/// Fetches the highest snapshot that peers offer and begins the empty store with it; gives its height, or nothing where
/// nobody offers one that proves itself.
pub(crate) fn begin(
    port: &Port,
    deliveries: &Receiver<Delivery>,
    genesis: &Genesis,
    store: &Arc<dyn Store>,
    folder: &Path,
) -> Result<Option<u64>> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut offers = look(port, deliveries);
    // The same file of many peers is one choice; the highest first.
    while let Some((offer, peers)) = offers.pop_last() {
        tracing::info!(
            height = offer.height,
            bytes = offer.bytes,
            peers = peers.len(),
            "fetching a snapshot"
        );
        let path = folder.join("incoming.part");
        let got = fetch(port, deliveries, &offer, &peers, &path).and_then(|()| {
            Ok(snapshot::import(File::open(&path).map(std::io::BufReader::new)?, genesis, None, store)?)
        });
        let gone = std::fs::remove_file(&path);
        match got {
            Ok(snapshot) => {
                gone?;
                return Ok(Some(snapshot.header.height));
            }
            Err(error) => {
                tracing::warn!(height = offer.height, "a snapshot was of no use: {error:#}");
                for peer in peers {
                    port.penalize(peer);
                }
            }
        }
    }
    Ok(None)
}

/// What peers offer, and who offers it.
fn look(port: &Port, deliveries: &Receiver<Delivery>) -> BTreeMap<Offer, BTreeSet<u64>> {
    let (begun, mut asked) = (Instant::now(), BTreeMap::<u64, Instant>::new());
    let mut offers: BTreeMap<Offer, BTreeSet<u64>> = BTreeMap::new();
    let mut first = None;
    while begun.elapsed() < LOOK && first.is_none_or(|first: Instant| first.elapsed() < COMPARE) {
        // Who has none yet may be about to make one.
        for peer in port.others() {
            if asked.get(&peer).is_none_or(|since| since.elapsed() > ASK_AGAIN) {
                asked.insert(peer, Instant::now());
                port.ask_snapshot(peer);
            }
        }
        let Some((from, packet)) = next(port, deliveries, Duration::from_millis(100)) else { continue };
        if let Packet::Snapshot(offer) = packet
            && offer.is_whole()
        {
            first.get_or_insert_with(Instant::now);
            offers.entry(offer).or_default().insert(from);
        }
    }
    offers
}

/// The next packet; gossip is left to those who have a chain to judge it by.
fn next(port: &Port, deliveries: &Receiver<Delivery>, wait: Duration) -> Option<(u64, Packet)> {
    let delivery = deliveries.recv_timeout(wait).ok()?;
    if let Ticket::Gossip(..) = delivery.ticket {
        port.judge(&delivery.ticket, Verdict::Ignore);
    }
    Some((delivery.from, delivery.packet))
}

fn fetch(
    port: &Port,
    deliveries: &Receiver<Delivery>,
    offer: &Offer,
    peers: &BTreeSet<u64>,
    path: &Path,
) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut missing: BTreeSet<u64> = (0..offer.pieces.len() as u64).collect();
    let mut asked: BTreeMap<u64, (u64, Instant)> = BTreeMap::new();
    let mut faults: BTreeMap<u64, u32> = peers.iter().map(|peer| (*peer, 0)).collect();
    let mut turn = 0_usize;
    while !missing.is_empty() || !asked.is_empty() {
        let late: Vec<_> = asked.iter().filter(|(_, (_, since))| since.elapsed() > DEADLINE).collect();
        let late: Vec<_> = late.into_iter().map(|(index, (peer, _))| (*index, *peer)).collect();
        for (index, peer) in late {
            asked.remove(&index);
            missing.insert(index);
            *faults.entry(peer).or_default() += 1;
        }
        let connected = port.others();
        let able: Vec<u64> = faults
            .iter()
            .filter(|(peer, faults)| **faults < FAULTS && connected.contains(peer))
            .map(|(peer, _)| *peer)
            .collect();
        ensure!(!able.is_empty(), "nobody is left who gives its pieces");
        while asked.len() < WINDOW
            && let Some(index) = missing.pop_first()
        {
            turn += 1;
            let peer = able[turn % able.len()];
            port.ask_piece(peer, offer.height, index);
            asked.insert(index, (peer, Instant::now()));
        }
        let Some((from, Packet::Piece { height, index, bytes })) =
            next(port, deliveries, Duration::from_millis(100))
        else {
            continue;
        };
        let Some(expected) = usize::try_from(index).ok().and_then(|index| offer.pieces.get(index)) else {
            continue;
        };
        if height != offer.height || asked.get(&index).is_none_or(|(peer, _)| *peer != from) {
            continue;
        }
        asked.remove(&index);
        if keccak(&bytes) != *expected {
            port.penalize(from);
            *faults.entry(from).or_default() += 1;
            missing.insert(index);
            continue;
        }
        file.write_all_at(&bytes, index * PIECE as u64)?;
    }
    if file.metadata()?.len() != offer.bytes {
        bail!("the file has another length than was offered");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use theta_core::codec::rlp::{Decode, Encode};

    use super::*;
    use crate::net::tests::{Lone, config, open, until};

    #[test]
    fn an_offer_has_the_pieces_of_its_bytes_and_comes_back_from_the_wire() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("7.snapshot");
        let content: Vec<u8> = (0..PIECE * 2 + 5).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).expect("room");
        let shelf = Shelf::open(folder.path(), 100).expect("a folder");
        let offer = shelf.offer().expect("it was there");
        assert!(offer.is_whole() && offer.pieces.len() == 3 && offer.height == 7);
        let bytes = offer.to_rlp();
        assert_eq!(Offer::from_rlp(&bytes, bytes.len()).expect("whole"), offer);
        let pieces: Vec<Vec<u8>> = (0..3).map(|index| shelf.piece(7, index).expect("a piece")).collect();
        assert_eq!(pieces.concat(), content);
        assert_eq!(shelf.piece(7, 3), None);
        assert_eq!(shelf.piece(8, 0), None);
        assert!(!Offer { pieces: vec![Hash::ZERO; 2], ..offer }.is_whole());
        assert!(!Offer::default().is_whole());
    }

    /// Answers with pieces as `make` has them, until nobody can ask any more; counts them.
    fn serve(node: Lone, make: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Arc<AtomicUsize> {
        let count = Arc::<AtomicUsize>::default();
        let served = count.clone();
        std::thread::spawn(move || {
            for delivery in &node.deliveries {
                if let Packet::AskPiece { height, index } = delivery.packet {
                    served.fetch_add(1, Ordering::SeqCst);
                    node.port.reply_piece(&delivery.ticket, height, index, make(index));
                }
            }
        });
        count
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_poisoned_piece_is_refused_and_fetched_elsewhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let content: Vec<u8> = (0..PIECE * 6 + 5).map(|at| (at % 251) as u8).collect();
        std::fs::write(folder.path().join("7.snapshot"), &content).expect("room");
        let shelf = Shelf::open(folder.path(), 100).expect("a folder");
        let offer = shelf.offer().expect("it was there");

        let honest = open(config(1, "/memory/0", Vec::new())).await;
        let liar = open(config(2, "/memory/0", Vec::new())).await;
        let named = [honest.port.addresses(), liar.port.addresses()].concat();
        let (poisoned, liars_name) = (shelf.clone(), liar.id);
        serve(honest, move |index| shelf.piece(7, index).expect("a piece"));
        let lies = serve(liar, move |index| {
            let mut piece = poisoned.piece(7, index).expect("a piece");
            piece[3] ^= 1;
            piece
        });
        let beginner = open(config(3, "/memory/0", named)).await;
        until("both are connected", || beginner.port.others().len() == 2).await;
        let peers: BTreeSet<u64> = beginner.port.others().into_iter().collect();
        let fetch = |peers: &BTreeSet<u64>, path: &Path| {
            tokio::task::block_in_place(|| fetch(&beginner.port, &beginner.deliveries, &offer, peers, path))
        };
        let path = folder.path().join("incoming.part");
        fetch(&peers, &path).expect("whole");
        assert_eq!(std::fs::read(&path).expect("fetched"), content);
        assert!((1..WINDOW).contains(&lies.load(Ordering::SeqCst)), "{lies:?} pieces were poisoned");
        // Of the liar alone nothing is taken.
        let is_liar = |peer: &u64| beginner.port.peer_id(*peer) == Some(liars_name);
        let refused = fetch(&peers.into_iter().filter(is_liar).collect(), &path);
        assert!(refused.expect_err("nobody is left").to_string().contains("nobody is left"));
    }
}
