//! Commands that read and write files of the reference, as a shell runs them.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::Value;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn unzipped(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(fixture(name)).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// A folder for files, and the program.
pub(super) struct Bench(tempfile::TempDir);

impl Bench {
    pub(super) fn new() -> Self {
        let bench = Self(tempfile::tempdir().unwrap());
        // The recorded network: all forks at height 2 and the stock lock.
        bench.put("net.toml", b"base = \"privatenet\"\n[forks]\nshort_lock = \"never\"\n");
        bench
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// Runs `theta`; words that are names in the folder or of fixtures become paths.
    fn run(&self, line: &str) -> Output {
        let word = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.path(name),
            None if word.contains('.') && fixture(word).exists() => fixture(word),
            None => PathBuf::from(word),
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_theta"));
        command.args(line.split_whitespace().map(word)).env("TMPDIR", self.0.path()).output().unwrap()
    }

    /// Runs `theta` with `--json`: the status, and the one value on stdout.
    pub(super) fn json(&self, line: &str) -> (i32, Value) {
        let output = self.run(&format!("{line} --json"));
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(500)]).into_owned();
            panic!("{line}: {error}: {:?} {:?}", text(&output.stdout), text(&output.stderr))
        });
        (output.status.code().unwrap(), value)
    }

    /// Runs what has to fail with status 1 and nothing on stdout; gives the message.
    fn refused(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{line}");
        String::from_utf8(output.stderr).unwrap()
    }
}

const GENESIS: &str = "--genesis privatenet.genesis";

/// The recording with one text of one block replaced by what `by` makes of the blocks. The rest stays as it is, since its
/// bare numbers are wider than a parsed value keeps.
fn altered(block: usize, field: &str, by: impl FnOnce(&Value) -> String) -> Vec<u8> {
    let text = String::from_utf8(unzipped("blocks_privatenet.json.gz")).unwrap();
    let recording: Value = serde_json::from_str(&text).unwrap();
    let blocks = &recording["blocks"];
    let old = format!("\"{field}\":{}", blocks[block][field]);
    assert_eq!(text.matches(&old).count(), 1);
    let mut file = GzEncoder::new(Vec::new(), Compression::fast());
    let new = format!("\"{field}\":\"{}\"", by(blocks));
    file.write_all(text.replace(&old, &new).as_bytes()).unwrap();
    file.finish().unwrap()
}

#[test]
fn recordings_are_replayed_and_the_first_difference_named() {
    let bench = Bench::new();
    let output = bench.run(&format!(
        "replay diff_evm_small.jsonl diff_ledger_small.jsonl blocks_privatenet.json.gz {GENESIS}"
    ));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().last(), Some("1594 passed, 0 failed"));
    assert!(output.status.success());

    // One hexadecimal digit of one recorded root.
    let recorded = std::fs::read_to_string(fixture("diff_ledger_small.jsonl")).unwrap();
    let at = recorded.rfind("\"state_root\":").unwrap() + 20;
    let mut wrong = recorded.into_bytes();
    wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
    bench.put("diff_wrong.jsonl", &wrong);
    let (code, value) = bench.json("replay @diff_wrong.jsonl");
    assert_eq!((code, &value["ok"]), (1, &Value::Bool(false)));
    let differences = value["files"][0]["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0]["field"], "state root");
    assert_ne!(differences[0]["recorded"], differences[0]["found"]);

    assert!(bench.refused("replay blocks_privatenet.json.gz").contains("give the genesis file"));
    assert!(bench.refused("replay @missing.jsonl").contains("missing.jsonl"));
    assert_eq!(bench.run("replay").status.code(), Some(2));
}

#[test]
fn votes_of_recorded_blocks_are_checked() {
    let bench = Bench::new();
    // The votes beside block 100 are those for block 99.
    let below = |blocks: &Value| blocks[98]["votes"].as_str().unwrap().to_owned();
    bench.put("blocks_votes.json.gz", &altered(99, "votes", below));
    let (code, value) = bench.json(&format!("replay @blocks_votes.json.gz {GENESIS}"));
    assert_eq!(code, 1);
    let difference = &value["files"][0]["differences"][0];
    assert_eq!((&difference["place"], &difference["field"]), (&"height 100".into(), &"votes".into()));
    assert!(value["failed"].as_u64().unwrap() > 300);

    // Nothing stands above the last block, so without votes beside it nothing certifies it.
    bench.put("blocks_last.json.gz", &altered(469, "votes", |_| "c0".to_owned()));
    let (code, value) = bench.json(&format!("chain verify @blocks_last.json.gz {GENESIS}"));
    assert_eq!((code, &value["ok"]), (1, &Value::Bool(false)));
    assert!(value["why"].as_str().unwrap().contains("block 470 lacks votes"), "{value}");
    let (code, value) = bench.json(&format!("chain import @blocks_last.json.gz {GENESIS} --data-dir @last"));
    assert_eq!((code, &value["last"], &value["uncertified"]), (0, &469.into(), &1.into()));
}

#[test]
fn a_chain_goes_through_a_folder_and_comes_out_as_the_reference_wrote_it() {
    let bench = Bench::new();
    let import = format!("chain import blocks_privatenet.json.gz {GENESIS} --data-dir @node");
    let (code, value) = bench.json(&import);
    assert_eq!((code, &value["blocks"], &value["transactions"]), (0, &470.into(), &613.into()));
    let root = value["stateRoot"].clone();
    // Once more, from the genesis that was kept: everything is known.
    let (code, value) = bench.json("chain import blocks_privatenet.json.gz --data-dir @node");
    assert_eq!((code, &value["blocks"], &value["known"]), (0, &0.into(), &470.into()));
    assert_eq!(value["stateRoot"], root);

    bench.json("chain export @a.chain --data-dir @node --first 440 --last 452");
    let expected = std::fs::read(fixture("privatenet-440-452.chain")).unwrap();
    assert!(std::fs::read(bench.path("a.chain")).unwrap() == expected);
    for version in 2..=4 {
        let line =
            format!("snapshot export @{version}.snapshot --data-dir @node --height 450 --version {version}");
        let (code, value) = bench.json(&line);
        assert_eq!((code, &value["version"]), (0, &version.into()));
        let expected = unzipped(&format!("privatenet-450-v{version}.snapshot.gz"));
        assert!(std::fs::read(bench.path(&format!("{version}.snapshot"))).unwrap() == expected);
    }
    let too_high = bench.refused("chain export @b.chain --data-dir @node --last 470");
    assert!(too_high.contains("469 at most"), "{too_high}");
    assert!(bench.refused("snapshot export @b.snapshot --data-dir @node --height 469").contains("470"));
    assert!(bench.refused("chain export @b.chain --data-dir @nobody").contains("holds no chain"));
    assert!(!bench.path("b.chain").exists() && !bench.path("b.snapshot").exists());
    assert!(!bench.path("nobody").exists());

    bench.json("chain export @all.chain --data-dir @node");
    let verify = format!("chain verify @all.chain {GENESIS}");
    let (code, value) = bench.json(&format!("{verify} --spec @net.toml"));
    assert_eq!((code, &value["ok"]), (0, &Value::Bool(true)));
    assert_eq!((&value["first"], &value["last"]), (&1.into(), &469.into()));
    // Stakes of this network return later than the built-in rules say.
    let (code, value) = bench.json(&verify);
    assert_eq!((code, &value["ok"], &value["height"]), (1, &Value::Bool(false), &88.into()));
    assert!(value["why"].as_str().unwrap().contains("state root"));
    bench.put("late.toml", b"base = \"privatenet\"\n[forks]\ntheta2 = 300\ntheta3 = 300\n");
    let (code, value) = bench.json(&format!("{verify} --spec @late.toml"));
    assert_eq!((code, &value["height"]), (1, &2.into()), "{value}");
}

#[test]
fn an_import_that_fails_leaves_a_settled_chain() {
    let bench = Bench::new();
    let other = |blocks: &Value| blocks[298]["block"].as_str().unwrap().to_owned();
    bench.put("blocks_other.json.gz", &altered(299, "block", other));
    let (code, value) = bench.json(&format!("chain import @blocks_other.json.gz {GENESIS} --data-dir @node"));
    assert_eq!((code, &value["ok"]), (1, &Value::Bool(false)));
    // What was settled before stays, and the whole recording goes on from there.
    let (code, value) =
        bench.json(&format!("chain import blocks_privatenet.json.gz {GENESIS} --data-dir @node"));
    assert_eq!((code, &value["last"]), (0, &470.into()));
    let known = value["known"].as_u64().unwrap();
    assert!((200..300).contains(&known), "{known} blocks were kept");
    let mainnet =
        bench.refused("chain import blocks_privatenet.json.gz --genesis mainnet.genesis --data-dir @node");
    assert!(mainnet.contains("genesis"), "{mainnet}");
}

#[test]
fn snapshots_begin_a_folder_once_and_whole() {
    let bench = Bench::new();
    let import = |rest: &str| format!("snapshot import {rest} {GENESIS} --data-dir @node");
    let (four, three) = ("privatenet-450-v4.snapshot.gz", "privatenet-450-v3.snapshot.gz");
    let untrusted = bench.refused(&import(four));
    assert!(untrusted.contains("0x3006a31c145ef75b4ec3829fe26c8a773b10f96a7d20b148a1bf483d4794ed22"));
    let other = format!("0x{}", "11".repeat(32));
    assert!(bench.refused(&import(&format!("{four} --trust {other}"))).contains(&other));
    let whole = unzipped(three);
    bench.put("cut.snapshot", &whole[..whole.len() - 7]);
    assert!(bench.refused(&import("@cut.snapshot")).contains("file is cut"));
    assert!(bench.refused("chain export @b.chain --data-dir @node").contains("holds no chain"));

    let (code, value) = bench.json(&import(three));
    assert_eq!((code, &value["height"], &value["version"]), (0, &450.into(), &3.into()));
    assert!(bench.refused(&import(three)).contains("name an empty one"));
    let (code, value) = bench.json("chain import privatenet-440-452.chain --data-dir @node --spec @net.toml");
    assert_eq!(
        (code, &value["first"], &value["last"], &value["known"]),
        (0, &451.into(), &452.into(), &11.into())
    );
}

#[test]
fn chain_files_are_verified_from_a_snapshot() {
    let bench = Bench::new();
    let verify = format!("chain verify privatenet-440-452.chain {GENESIS} --spec @net.toml");
    let (code, value) = bench.json(&verify);
    assert_eq!((code, &value["height"]), (1, &440.into()));
    assert!(value["why"].as_str().unwrap().contains("snapshot of height 439"));
    let (code, value) = bench.json(&format!("{verify} --snapshot privatenet-450-v2.snapshot.gz"));
    assert_eq!((code, &value["blocks"], &value["last"]), (0, &2.into(), &452.into()));
    let whole = std::fs::read(fixture("privatenet-440-452.chain")).unwrap();
    bench.put("cut.chain", &whole[..whole.len() - 5]);
    let line = format!("chain verify @cut.chain {GENESIS} --snapshot privatenet-450-v2.snapshot.gz");
    let (code, value) = bench.json(&line);
    assert_eq!((code, &value["height"]), (1, &Value::Null));
    assert!(value["why"].as_str().unwrap().contains("file is cut"));
    let (code, value) = bench.json("chain verify privatenet-440-452.chain --genesis mainnet.genesis");
    assert_eq!((code, &value["ok"]), (1, &Value::Bool(false)));
}

#[test]
fn a_genesis_is_built_from_a_description() {
    let bench = Bench::new();
    let holder = "0x2e833968e5bb786ae419c4d13189fb081cc43bab";
    let description =
        |genesis: &str| format!("base = \"privatenet\"\nchain = \"mynet\"\n[genesis]\n{genesis}");
    let good = format!(
        "timestamp = 1700000000\n[[genesis.accounts]]\naddress = \"{holder}\"\ntheta = \"5\"\ntfuel = \"7wei\"\n\
         [[genesis.validators]]\nholder = \"{holder}\"\nstake = \"2000000\"\n"
    );
    bench.put("my.toml", description(&good).as_bytes());
    let (code, built) = bench.json("genesis build @my.toml -o @my.genesis");
    assert_eq!((code, &built["chainId"], &built["timestamp"]), (0, &"mynet".into(), &1_700_000_000.into()));
    assert_eq!((&built["thetaWei"], &built["tfuelWei"]), (&"5000000000000000000".into(), &"7".into()));
    assert_eq!(built["stakedThetaWei"], "2000000000000000000000000");
    let (code, read) = bench.json("genesis inspect @my.genesis");
    assert_eq!((code, read), (0, built));
    for (broken, why) in [
        (good.replace("2000000", "5"), "below"),
        (good.replace("\"7wei\"", "\"many\""), "many"),
        (format!("{good}{}", &good[good.find("[[").unwrap()..good.find("[[genesis.v").unwrap()]), "twice"),
        (good.replace("stake =", "steak ="), "steak"),
        (good[..good.find("[[genesis.v").unwrap()].to_owned(), "no validators"),
    ] {
        bench.put("broken.toml", description(&broken).as_bytes());
        let refused = bench.refused("genesis build @broken.toml -o @broken.genesis");
        assert!(refused.contains(why), "{refused}");
        assert!(!bench.path("broken.genesis").exists());
    }
    assert!(bench.refused("genesis build @net.toml -o @x.genesis").contains("[genesis]"));
}

#[test]
fn snapshots_are_inspected_and_rules_shown() {
    let bench = Bench::new();
    for version in 2..=4 {
        let file = format!("privatenet-450-v{version}.snapshot.gz");
        for rest in [String::new(), format!(" {GENESIS}")] {
            let (code, value) = bench.json(&format!("genesis inspect {file}{rest}"));
            assert_eq!((code, &value["version"], &value["height"]), (0, &version.into(), &450.into()));
            assert_eq!((&value["accounts"], &value["chainId"]), (&59.into(), &"privatenet".into()));
            assert_eq!(value["validators"].as_array().unwrap().len(), 2);
        }
    }
    let wrong = bench.refused("genesis inspect privatenet-450-v2.snapshot.gz --genesis mainnet.genesis");
    assert!(wrong.contains("another chain"), "{wrong}");

    let (code, value) = bench.json("spec show --chain mainnet --height 5877349");
    assert_eq!(
        (code, &value["rules"]["header"], &value["forks"]["theta2"]),
        (0, &"twelve".into(), &5_877_350.into())
    );
    let (_, value) = bench.json("spec show --chain mainnet --height 5877350");
    assert_eq!(value["rules"]["header"], "guardians");
    let (_, value) = bench.json("spec show --chain @net.toml");
    assert_eq!(value["rules"]["stake"]["lockBlocks"], 28_800);
    bench.put("bad.toml", b"base = \"privatenet\"\n[forks]\ntheta9 = 1\n");
    assert!(bench.refused("spec show --chain @bad.toml").contains("theta9"));
    assert_eq!(bench.run("spec show --height many").status.code(), Some(2));
}
