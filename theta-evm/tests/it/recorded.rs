//! Whole recordings of the Go reference, with the contracts run here.

use std::{
    io::{BufRead, BufReader},
    sync::Arc,
};

use flate2::bufread::GzDecoder;
use theta_evm::Evm;
use theta_ledger::{
    genesis::Genesis,
    replay::{Report, replay},
};

use super::fixture;

fn replayed(recording: impl BufRead, genesis: Option<&Genesis>) -> Report {
    let report = replay(recording, Arc::new(Evm), genesis).unwrap();
    for difference in report.differences() {
        println!("{}", difference.to_string().chars().take(1000).collect::<String>());
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
