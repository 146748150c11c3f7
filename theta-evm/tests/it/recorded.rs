//! Whole recordings of the Go reference, with the contracts run here.

use std::{
    io::{BufRead, BufReader},
    sync::Arc,
};

use flate2::bufread::GzDecoder;
use serde_json::Value;
use theta_evm::Evm;
use theta_ledger::{
    genesis::Genesis,
    replay::{Report, replay},
};

use super::fixture;

fn replayed(recording: impl BufRead, genesis: Option<&Genesis>) -> Report {
    let report = replay(recording, Arc::new(Evm), genesis).unwrap();
    for difference in report.differences() {
        println!("{difference}");
    }
    report
}

/// What a replay comes to: sequences, blocks, transactions that passed and that did not.
fn figures(report: &Report) -> (usize, usize, usize, usize) {
    let blocks = report.sequences.iter().map(|sequence| sequence.blocks).sum();
    (report.sequences.len(), blocks, report.passed(), report.failed())
}

fn zipped(name: &str) -> impl BufRead {
    BufReader::new(GzDecoder::new(std::io::Cursor::new(fixture(name))))
}

#[test]
fn contract_transactions_do_what_they_did() {
    let report = replayed(fixture("diff_evm_small.jsonl").as_slice(), None);
    assert_eq!(figures(&report), (49, 74, 320, 0));
}

#[test]
fn transactions_of_all_kinds_and_their_blocks_do_what_they_did() {
    let report = replayed(fixture("diff_ledger_small.jsonl").as_slice(), None);
    assert_eq!(figures(&report), (18, 90, 661, 0));
}

#[test]
fn a_private_net_is_carried_out_from_its_genesis() {
    let genesis = Genesis::read(&fixture("privatenet.genesis"), None).unwrap();
    let report = replayed(zipped("blocks_privatenet.json.gz"), Some(&genesis));
    assert_eq!(figures(&report), (1, 470, 613, 0));
}

/// Changes one thing that was recorded and finds exactly that.
#[test]
fn the_first_difference_is_named() {
    let whole = fixture("diff_evm_small.jsonl");
    let mut lines = std::str::from_utf8(&whole).unwrap().lines();
    let (head, recorded) =
        (lines.next().unwrap(), lines.map(|line| serde_json::from_str::<Value>(line).unwrap()));
    // The first sequence with an accepted transaction whose output is long; that transaction.
    let with_long = |sequence: &Value| {
        let blocks = sequence["blocks"].as_array().unwrap().iter().enumerate();
        let places = blocks.flat_map(|(block, line)| {
            (0..line["txs"].as_array().unwrap().len()).map(move |tx| format!("/blocks/{block}/txs/{tx}"))
        });
        places.into_iter().find(|place| sequence.pointer(place).unwrap()["ret"].is_object())
    };
    let (sequence, place) =
        recorded.filter_map(|sequence| Some((sequence.clone(), with_long(&sequence)?))).next().unwrap();
    let key = sequence.pointer(&place).unwrap()["diff"].as_object().unwrap().keys().next().unwrap().clone();
    let changes: [(&str, &str, Value, &str); 8] = [
        ("", "gas", 1.into(), "gas used"),
        ("", "err", "none".into(), "error"),
        ("/ret", "len", 7.into(), "output's length"),
        ("/ret", "keccak", "0".repeat(64).into(), "output's hash"),
        ("", "addr", "0".repeat(40).into(), "contract"),
        ("", "root", "0".repeat(64).into(), "root"),
        ("/diff", &key, "c0".into(), "record ls/a/"),
        ("", "code", 100_003.into(), "code"),
    ];
    for (pointer, field, value, found) in changes {
        let mut sequence = sequence.clone();
        sequence.pointer_mut(&format!("{place}{pointer}")).unwrap()[field] = value;
        let report = replayed(format!("{head}\n{sequence}\n").as_bytes(), None);
        let difference = report.differences().next().unwrap_or_else(|| panic!("{field}: nothing found"));
        assert!(difference.field.starts_with(found), "{difference}");
    }
    let mut without = sequence;
    without.pointer_mut(&place).unwrap().as_object_mut().unwrap().remove("gas");
    let report = replayed(format!("{head}\n{without}\n").as_bytes(), None);
    assert_eq!(report.differences().next().unwrap().field, "receipt");
}

/// Recordings that are too large to be kept here: `THETA_RECORDINGS` names the files, separated by colons.
#[test]
fn recordings_named_by_the_environment() {
    let genesis = Genesis::read(&fixture("privatenet.genesis"), None).unwrap();
    for path in std::env::var("THETA_RECORDINGS").iter().flat_map(|paths| paths.split(':')) {
        let file =
            BufReader::new(std::fs::File::open(path).unwrap_or_else(|error| panic!("{path}: {error}")));
        let report = if path.ends_with(".gz") {
            replayed(BufReader::new(GzDecoder::new(file)), Some(&genesis))
        } else {
            replayed(file, Some(&genesis))
        };
        let (sequences, blocks, passed, failed) = figures(&report);
        println!("{path}: {sequences} sequences, {blocks} blocks, {passed} passed, {failed} failed");
        assert!(passed > 0, "{path} holds no transaction");
        assert_eq!(failed, 0, "{path}");
    }
}
