//! Kills a writer at random moments, damages what it wrote last, and opens what is left.
//!
//! The writer is this program again, in a child process: it settles blocks and says so on its output when they are
//! durable. After a kill alone, nothing it said may be missing. After damage on top, the store opens at a complete block
//! or is refused with a reason.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed step is a failed test")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use theta_core::{
    amount::{Coins, TFuelWei, ThetaWei},
    block::Header,
    context::Finality,
    hash::{Address, Hash},
    sign::SecretKey,
    spec::ChainSpec,
    store::{FjallStore, RedbStore, Store},
};
use theta_ledger::{
    error::OpenError,
    genesis::{Genesis, GenesisBuilder},
    ledger::{At, Ledger, LedgerReader},
    state::Keep,
    tx::{RawTx, Send, TxInput, TxOutput, Unsigned},
};

const WRITER: &str = "THETA_CRASH_WRITER";
/// Which of [`STORES`] the writer writes to.
const STORE: &str = "THETA_CRASH_STORE";
/// The stores on disk.
const STORES: [&str; 2] = ["fjall", "redb"];
/// Blocks that are settled in all.
const BLOCKS: u64 = Keep::LEAST + 20;

fn key(index: u8) -> SecretKey {
    SecretKey::from_bytes(&[index; 32]).unwrap()
}

fn genesis() -> Genesis {
    let rich = Coins { theta: ThetaWei::whole(1_000_000), tfuel: TFuelWei::whole(1_000_000_000) };
    let mut builder = GenesisBuilder::new(&ChainSpec::privatenet(), 1_700_000_000);
    for index in 1..=20 {
        builder = builder.account(key(index).address(), rich);
    }
    builder.validator(key(99).address(), key(99).address(), ThetaWei::whole(5_000_000)).build()
}

fn open(kind: &str, folder: &Path) -> Result<Ledger, OpenError> {
    let store: Arc<dyn Store> = match kind {
        "redb" => Arc::new(RedbStore::open(folder)?),
        _ => Arc::new(FjallStore::open(folder)?),
    };
    // States go away meanwhile: what a kill leaves has to be whole all the same.
    Ledger::builder(ChainSpec::privatenet()).store(store).keep(Keep::Blocks(Keep::LEAST)).open(&genesis())
}

/// A block with a transfer of each account to an account that is new.
fn settle_one(ledger: &mut Ledger) -> (u64, Hash) {
    let reader = ledger.reader();
    let head = reader.settled();
    let (_, mut context) = reader.next_block(At::Block(head.hash)).unwrap();
    context.proposer = key(99).address();
    let height = context.height();
    let transfers: Vec<Arc<RawTx>> = (1..=20).map(|from| Arc::new(transfer(from, height))).collect();
    let (body, left_out) = ledger.build_block(&context, &transfers, &key(99)).unwrap();
    assert!(left_out.is_empty(), "{left_out:?}");
    let mut block = context.block(reader.spec().rules(height).header, body);
    block.header.sign(&key(99)).unwrap();
    let hash = block.header.hash();
    ledger.apply_block(&context, hash, Arc::new(block)).unwrap();
    ledger.reached(Finality::Settled, &hash).unwrap();
    (height, hash)
}

fn transfer(from: u8, height: u64) -> RawTx {
    let (amount, fee) = (Coins::tfuel(TFuelWei::whole(1)), Coins::tfuel("0.3".parse().unwrap()));
    let mut to = [from; 20];
    to[..8].copy_from_slice(&height.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let body = Send {
        fee: fee.into(),
        inputs: vec![TxInput::new(key(from).address(), amount.checked_add(fee).unwrap(), height)],
        outputs: vec![TxOutput::new(Address::from(to), amount)],
    };
    Unsigned::new("privatenet", body).sign(&key(from)).unwrap()
}

fn write(kind: &str, folder: &Path) {
    let mut ledger = open(kind, folder).unwrap();
    loop {
        let (height, hash) = settle_one(&mut ledger);
        println!("{height} {hash}");
        std::io::stdout().flush().unwrap();
        if height >= BLOCKS {
            return;
        }
    }
}

/// Every block, transaction and node of a ledger that was opened; its height.
fn whole(reader: &LedgerReader) -> u64 {
    let settled = reader.settled();
    let mut above: Option<Header> = None;
    for height in (0..=settled.header.height).rev() {
        let info = reader.block(At::Height(height)).unwrap().expect("every settled block is there");
        if let Some(above) = &above {
            assert_eq!(above.parent, info.hash);
        }
        for bytes in &info.block.transactions {
            let raw = RawTx::decode(bytes.clone()).unwrap();
            assert_eq!(reader.transaction(&raw.hash).unwrap().unwrap().place.height, height);
        }
        above = Some(info.block.header.clone());
    }
    assert_eq!(reader.oldest_state(), settled.header.height.saturating_sub(Keep::LEAST));
    // The oldest state only at the end: walking through states is what takes the time here.
    let oldest = (settled.header.height >= BLOCKS).then(|| At::Height(reader.oldest_state()));
    for at in [Some(At::Settled), oldest].into_iter().flatten() {
        reader.state(at).unwrap().trie().nodes(None, &mut |_, _| true).unwrap();
    }
    settled.header.height
}

/// Runs the writer until it has reported so many blocks, and a little longer; gives the last one it reported.
fn run_and_kill(kind: &str, folder: &Path, blocks: usize, longer: Duration) -> Option<(u64, Hash)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(WRITER, folder)
        .env(STORE, kind)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut reports = lines.filter_map(|line| {
        // The kill may cut the last line.
        let (height, hash) = line.split_once(' ').filter(|(_, hash)| hash.len() == 66)?;
        Some((height.parse().ok()?, hash.parse().ok()?))
    });
    let last = reports.by_ref().take(blocks).last();
    std::thread::sleep(longer);
    child.kill().unwrap();
    child.wait().unwrap();
    reports.last().or(last)
}

/// The file that was written last.
fn newest(folder: &Path) -> PathBuf {
    let (mut newest, mut folders) = (None, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(entry.path());
            } else if meta.len() > 0 {
                newest = newest.max(Some((meta.modified().unwrap(), entry.path())));
            }
        }
    }
    newest.unwrap().1
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Opens a damaged store: at a complete block, or not at all and with a reason.
fn open_damaged(kind: &str, folder: &Path, what: &str) -> Option<u64> {
    let found = std::panic::catch_unwind(|| match open(kind, folder) {
        Ok(ledger) => Some(whole(&ledger.reader())),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(&folder.display().to_string()), "{what}: names no file: {text}");
            assert!(
                text.contains("restore") || text.contains("remove it"),
                "{what}: names no remedy: {text}"
            );
            None
        }
    });
    found.unwrap_or_else(|_| panic!("{what}: panicked"))
}

fn main() {
    if let Some(folder) = std::env::var_os(WRITER) {
        return write(&std::env::var(STORE).unwrap(), Path::new(&folder));
    }
    STORES.into_iter().for_each(crash);
}

fn crash(kind: &str) {
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("store");
    let (mut height, mut kills, mut opened, mut refused) = (0, 0, 0, 0);
    while height < BLOCKS {
        let reported =
            run_and_kill(kind, &folder, random(10) as usize, Duration::from_micros(random(40_000)));
        kills += 1;
        if !folder.join("format").exists() {
            continue;
        }
        // Damage to a copy first: what is opened is changed by being opened.
        let damaged = scratch.path().join("damaged");
        copy(&folder, &damaged);
        let victim = newest(&damaged);
        let mut bytes = fs::read(&victim).unwrap();
        let last = (1 + random(4096)).min(bytes.len() as u64) as usize;
        let at = bytes.len() - last;
        let what = if random(2) == 0 {
            bytes.truncate(at);
            format!("{} cut by {last} bytes", victim.display())
        } else {
            bytes[at] ^= 1 << random(8);
            format!("{} flipped {last} bytes before its end", victim.display())
        };
        fs::write(&victim, bytes).unwrap();
        match open_damaged(kind, &damaged, &what) {
            Some(_) => opened += 1,
            None => refused += 1,
        }
        fs::remove_dir_all(&damaged).unwrap();
        let ledger = open(kind, &folder).unwrap();
        height = whole(&ledger.reader());
        if let Some((durable, hash)) = reported {
            assert!(height >= durable, "block {durable} was reported and is lost");
            let info = ledger.reader().block(At::Height(durable)).unwrap().unwrap();
            assert_eq!(info.hash, hash);
        }
    }
    println!("{kind}: {BLOCKS} blocks, {kills} kills; damaged copies: {opened} opened, {refused} refused");
}
