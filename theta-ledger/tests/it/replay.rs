//! Replays of recordings without a machine; theta-evm replays those with contracts.

use std::{
    io::{BufReader, Read},
    sync::Arc,
};

use flate2::bufread::GzDecoder;
use serde_json::{Value, json};
use theta_ledger::{
    genesis::Genesis,
    replay::{Difference, ReplayError, Report, replay},
    vm::NoContracts,
};

use super::{fixture, text};

fn replayed(recording: &[u8]) -> Result<Report, ReplayError> {
    let genesis = Genesis::read(&fixture("privatenet.genesis"), None).unwrap();
    replay(recording, Arc::new(NoContracts), Some(&genesis))
}

/// A recorded network that has no contracts yet.
fn first_era() -> Value {
    let mut bytes = Vec::new();
    let name = "blocks_privatenet_stock.json.gz";
    GzDecoder::new(BufReader::new(fixture(name).as_slice())).read_to_end(&mut bytes).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The first line and the lines of some sequences of the recording of candidates.
fn candidates(sequences: std::ops::Range<u64>) -> Vec<Value> {
    let whole = fixture("diff_ledger_small.jsonl");
    let lines = std::str::from_utf8(&whole).unwrap().lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &Value| line["t"] == "meta" || sequences.contains(&line["seq"].as_u64().unwrap()))
        .collect()
}

fn joined(lines: &[Value]) -> Vec<u8> {
    lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()
}

#[test]
fn blocks_of_the_first_era_are_carried_out_from_their_genesis() {
    let report = replayed(&serde_json::to_vec(&first_era()).unwrap()).unwrap();
    assert_eq!(report.differences().next(), None);
    assert_eq!((report.sequences[0].blocks, report.passed(), report.failed()), (134, 144, 0));
}

#[test]
fn sequences_without_contracts_do_what_they_did() {
    let report = replayed(&joined(&candidates(0..5))).unwrap();
    assert_eq!(report.differences().next(), None);
    assert_eq!((report.sequences.len(), report.passed(), report.failed()), (5, 169, 0));
}

#[test]
fn a_contract_without_a_machine_is_the_first_difference() {
    let report = replayed(&joined(&candidates(5..7))).unwrap();
    for (sequence, height) in report.sequences.iter().zip([8_411_427, 9_497_416]) {
        let Difference { place, field, .. } = sequence.difference.as_ref().unwrap();
        assert!(place.contains(&format!("height {height} transaction")), "{place}");
        assert!(place.contains("smart_contract") || place.contains("(eth"), "{place}");
        assert_eq!(field, "gas used");
        assert!(sequence.passed < sequence.transactions);
    }
    assert!(report.failed() > 0);
}

/// Changes one thing that was recorded and finds exactly that, with both values.
#[test]
fn the_first_difference_is_named() {
    let recorded = candidates(0..1);
    let zero = Value::from("0".repeat(64));
    let receipt =
        json!({"gas_used": 1, "err": "", "ret": "", "contract": "0000000000000000000000000000000000000000"});
    // Line 2 is block 1, whose transactions are accepted but for numbers 2 and 4; block 3 is line 4. In the tables: the
    // line, what is changed there and to what, and where which field is then expected to be what.
    let changes: [(usize, &str, &str, Value, &str, &str, &str); 12] = [
        (2, "/validators/0", "1", "1".into(), "height 1", "validators", "1, 0x"),
        (2, "/rewards/0", "2", "7".into(), "height 1", "rewards", "\"7\""),
        (2, "/txs/0", "hash", zero.clone(), "transaction 0 (coinbase", "hash", "0x00"),
        (2, "/txs/1", "root", zero.clone(), "transaction 1 (", "root", "0x00"),
        (2, "/txs/1", "tx_id", zero.clone(), "transaction 1 (", "tx_id", "0x00"),
        (2, "/txs/1/mempool", "2", "5".into(), "transaction 1 (", "gas price", "5"),
        (2, "/txs/4", "code", 100_002.into(), "transaction 4 (", "code", "100002 ("),
        (2, "/txs/1/set", "6c732f766370", "c0".into(), "transaction 1 (", "record ls/vcp", "c0"),
        (2, "/txs/1", "deleted", json!(["6c732f766370"]), "transaction 1 (", "record ls/vcp", "none"),
        (2, "/txs/1", "evm", receipt, "transaction 1 (", "receipt", "one"),
        (2, "", "has_validator_update", false.into(), "as a whole", "has_validator_update", "false"),
        (4, "/end/set", "6c732f766370", "c0".into(), "as a whole", "record ls/vcp", "c0"),
    ];
    for (number, pointer, key, value, place, field, expected) in changes {
        let mut lines = recorded.clone();
        match lines[number].pointer_mut(pointer).unwrap() {
            Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
            other => other[key] = value,
        }
        let report = replayed(&joined(&lines)).unwrap();
        let difference = report.differences().next().unwrap_or_else(|| panic!("{field}: nothing found"));
        assert!(difference.place.contains(place), "{difference}");
        assert_eq!(difference.field, field);
        assert!(difference.expected.contains(expected), "{difference}");
        assert_ne!(difference.expected, difference.found);
        assert!(report.failed() > 0 && report.passed() < 23, "{field}");
    }
    let mut network = first_era();
    network["blocks"][9]["state_root"] = zero;
    let report = replayed(&serde_json::to_vec(&network).unwrap()).unwrap();
    let difference = report.differences().next().unwrap();
    assert_eq!((difference.place.as_str(), difference.field.as_str()), ("height 10", "state root"));
    assert_eq!((report.sequences[0].passed, report.failed()), (13, 131));

    // The lock that the recording states is the one that holds: with another one a withdrawal returns elsewhere.
    let mut network = first_era();
    network["chain"]["stake_lock_blocks"] = 5.into();
    let report = replayed(&serde_json::to_vec(&network).unwrap()).unwrap();
    let difference = report.differences().next().unwrap();
    assert!(difference.found.contains("state root"), "{difference}");
}

#[test]
fn what_is_no_recording_is_refused_with_its_line() {
    let refusal = |recording: &[u8]| replayed(recording).unwrap_err().to_string();
    assert!(refusal(b"").starts_with("line 1 of the recording is malformed"));
    assert!(refusal(b"theta\n").starts_with("line 1 of the recording is malformed"));
    let recorded = candidates(0..1);
    let block_first = refusal(&joined(&[recorded[0].clone(), recorded[2].clone()]));
    assert_eq!(block_first, "line 2 of the recording: a block before any sequence");
    let mut cut = joined(&recorded);
    cut.truncate(cut.len() - 9);
    assert!(refusal(&cut).starts_with("line 7 of the recording is malformed"));
    let mut other_state = recorded.clone();
    other_state[1]["state"]["00"] = "01".into();
    assert!(refusal(&joined(&other_state)).contains("state, its root and the root header do not fit"));
    let skipped = [&recorded[..2], &recorded[3..]].concat();
    assert!(refusal(&joined(&skipped)).contains("does not stand on the block before"));

    let network = first_era();
    let bytes = |network: &Value| serde_json::to_vec(network).unwrap();
    let without = replay(bytes(&network).as_slice(), Arc::new(NoContracts), None);
    assert!(matches!(without, Err(ReplayError::NoGenesis)));
    let changed = |pointer: &str, value: Value| {
        let mut network = network.clone();
        *network.pointer_mut(pointer).unwrap() = value;
        refusal(&bytes(&network))
    };
    let genesis = text(&network["chain"]["genesis_hash"]).to_owned();
    let other = changed("/chain/genesis_hash", "0".repeat(64).into());
    assert!(other.contains(&genesis), "{other}");
    assert!(
        changed("/chain/fork_heights", json!({"HeightOfNothing": 3}))
            .contains("unknown fork HeightOfNothing")
    );
    assert!(changed("/blocks/3/block", "c0".into()).contains("block 4: "));
}

#[test]
fn long_values_are_shown_where_they_part() {
    let value = |end: &str| format!("{}{end}{}", "a".repeat(1000), "b".repeat(1000));
    let difference = Difference {
        place: "here".to_owned(),
        field: "record".to_owned(),
        expected: value("1"),
        found: value("2"),
    };
    let text = difference.to_string();
    assert!(text.starts_with(&format!("here: record is {}2bbb", "a".repeat(20))), "{text}");
    assert!(text.contains(&format!("recorded {}1bbb", "a".repeat(20))), "{text}");
    assert!(text.len() < 600, "{text}");
    let short = Difference { expected: "1".to_owned(), ..difference };
    assert!(short.to_string().ends_with("recorded 1"), "{short}");
}

/// A damaged recording is refused or differs; it never ends the program.
#[test]
fn damage_is_an_answer() {
    let recorded = joined(&candidates(1..2));
    let (mut refused, mut differed) = (0, 0);
    for step in 0..60_usize {
        let at = (step * 7_919 + 101) % recorded.len();
        let mut damaged = recorded.clone();
        damaged[at] = match damaged[at] {
            b'0'..=b'8' | b'a'..=b'e' => damaged[at] + 1,
            _ => b'0',
        };
        match replayed(&damaged) {
            Err(_) => refused += 1,
            Ok(report) => differed += usize::from(report.failed() > 0),
        }
    }
    assert!(refused > 5 && differed > 5, "{refused} refused, {differed} differ");
}

/// A disk that fails in the middle of a recording.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() {
            return Err(std::io::Error::other("the disk is gone"));
        }
        self.0.read(buffer)
    }
}

#[test]
fn a_file_that_cannot_be_read_is_no_malformed_recording() {
    let genesis = Genesis::read(&fixture("privatenet.genesis"), None).unwrap();
    for whole in [serde_json::to_vec(&first_era()).unwrap(), joined(&candidates(0..5))] {
        // Behind the part that tells the form.
        assert!(whole.len() > 280_000);
        let input = BufReader::new(Failing(&whole[..whole.len() - 1_000]));
        let refused = replay(input, Arc::new(NoContracts), Some(&genesis)).unwrap_err();
        assert!(matches!(refused, ReplayError::Io(_)), "{refused}");
    }
}
