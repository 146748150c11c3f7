//! Every `theta.*` answer that was recorded from the reference, on the same chain.

use std::{io::Read, sync::Arc};

use serde_json::{Value, json};
use theta_core::{
    sign::SecretKey,
    spec::{ChainSpec, SpecFile},
};
use theta_ledger::genesis::Genesis;
use theta_node::{
    node::{Node, NodeConfig},
    rpc::theta::ThetaApi,
};

use super::files::Bench;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// What is answered otherwise here, and has to be.
#[derive(Clone, Copy)]
enum Otherwise {
    /// Answered, where the reference refuses; or answered with what the chain was when the blocks end.
    Answered,
    /// Refused as an argument that cannot be read, where the reference takes what it can of it.
    Refused,
    /// Answered where a number stands for decimal text, refused where it stands for a name.
    Number,
}

/// By the ends of the cases' names.
const OTHERWISE: [(&str, Otherwise); 13] = [
    (".number", Otherwise::Number),
    (".numbers", Otherwise::Answered),
    ("height-number", Otherwise::Answered),
    ("array-bad-type", Otherwise::Answered),
    // Both spellings of the position are taken, and 0x is optional everywhere.
    ("right-spelling", Otherwise::Answered),
    ("0x-prefix", Otherwise::Answered),
    (".no-0x", Otherwise::Answered),
    ("bad-hex", Otherwise::Refused),
    (".not-hex", Otherwise::Refused),
    ("address-null", Otherwise::Refused),
    // Asked when the checkpoint of height 501 had paid them, which the recorded blocks do not reach.
    ("GetAccount.a6", Otherwise::Answered),
    ("GetAccount.a7", Otherwise::Answered),
    ("GetAccount.validator", Otherwise::Answered),
];

/// What differs between two nodes of one chain.
const OF_THE_NODE: [&str; 9] = [
    "version",
    "git_hash",
    "address",
    "peer_id",
    "BLSPubkey",
    "BLSPop",
    "Address",
    "Signature",
    "current_time",
];

/// Texts of Go's own libraries, which no client reads.
fn of_go(message: &str) -> bool {
    let parts = [
        "json: ",
        "strconv.",
        "rlp: ",
        "EOF",
        "encoding/hex",
        "hex string has",
        "Uint64 must be",
        "Failed to parse",
    ];
    parts.iter().any(|part| message.contains(part))
}

fn same(expected: &Value, found: &Value, volatile: &[String], place: &str, differences: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, value) in expected.iter().filter(|(key, _)| !volatile.contains(*key)) {
                let place = format!("{place}.{key}");
                match found.get(key) {
                    Some(found) => same(value, found, volatile, &place, differences),
                    None => differences.push(format!("{place}: missing")),
                }
            }
        }
        // A long list was cut in the middle.
        (Value::Array(expected), Value::Array(found))
            if expected.iter().any(|item| item.as_str().is_some_and(|text| text.contains(" more ")))
                && expected.len() < found.len() =>
        {
            let count = expected
                .iter()
                .take_while(|item| item.as_str().is_some_and(|text| text.starts_with("0x")))
                .count();
            if expected[..count] != found[..count] {
                differences.push(format!("{place}: begins otherwise"));
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                same(expected, found, volatile, &format!("{place}[{index}]"), differences);
            }
        }
        _ if expected == found => {}
        _ => differences.push(format!("{place}: {expected} expected, {found} found")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_answers_are_given_again() {
    let bench = Bench::new();
    bench.json("chain import blocks_privatenet.json.gz --genesis privatenet.genesis --data-dir @node");
    let genesis = Genesis::read(&fixture("privatenet.genesis"), None).unwrap();
    let file: SpecFile = toml::from_str("base = \"privatenet\"\n[forks]\nshort_lock = \"never\"").unwrap();
    let spec = ChainSpec::from_file(&file).unwrap();
    let node = Node::start(NodeConfig {
        settings: theta_consensus::Settings::new(spec.rules(1).consensus.pace),
        spec,
        genesis: Arc::new(genesis),
        key: SecretKey::from_bytes(&[0x55; 32]).unwrap(),
        folder: bench.path("node"),
        in_memory: false,
        keep: theta_ledger::state::Keep::All,
        begin_with_snapshot: false,
        snapshot_every: None,
        listen: Vec::new(),
        peers: Vec::new(),
        discover: false,
        network_key: None,
        vm: Arc::new(theta_evm::Evm),
    })
    .await
    .unwrap();
    let api = ThetaApi::new(node.handle());
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*fixture("rpc_golden.json.gz")).read_to_string(&mut text).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let mut failed = Vec::new();
    let mut passed = 0;
    for case in golden["cases"].as_array().unwrap() {
        let (name, method) = (case["name"].as_str().unwrap(), case["method"].as_str().unwrap());
        let mut volatile: Vec<String> = serde_json::from_value(case["volatile"].clone()).unwrap_or_default();
        if ["theta.GetVersion", "theta.GetStatus", "theta.GetGuardianInfo"].contains(&method) {
            volatile.extend(OF_THE_NODE.map(str::to_owned));
        }
        let found = match api.call(method, case["params"].clone()).await {
            Ok(result) => json!({ "result": result }),
            // An error about the form of arguments need not have Go's words, and has a code of its own.
            Err(error) if of_go(case["response"]["error"]["message"].as_str().unwrap_or_default()) => {
                assert!([-32_602, -32_000].contains(&error.code) && !error.message.is_empty(), "{name}");
                passed += 1;
                continue;
            }
            Err(error) => json!({ "error": { "code": error.code, "message": error.message } }),
        };
        let mut differences = Vec::new();
        let mut expected = case["response"].clone();
        let expected = expected.as_object_mut().unwrap();
        expected.remove("jsonrpc");
        expected.remove("id");
        same(&Value::Object(expected.clone()), &found, &volatile, "", &mut differences);
        let otherwise = OTHERWISE.iter().find(|(end, _)| name.ends_with(end)).map(|(_, how)| *how);
        let (answered, refused) = (found.get("result").is_some(), found["error"]["code"] == -32_602);
        let as_listed = match otherwise {
            None => false,
            Some(Otherwise::Answered) => answered,
            Some(Otherwise::Refused) => refused,
            Some(Otherwise::Number) => answered || refused,
        };
        if differences.is_empty() || as_listed {
            passed += 1;
        } else {
            failed.push(format!("{name}: {}", differences.join("; ")));
        }
    }
    println!("{passed} passed, {} failed", failed.len());
    for line in &failed {
        println!("{}", line.chars().take(400).collect::<String>());
    }
    assert!(failed.is_empty());
    assert_eq!(passed, golden["cases"].as_array().unwrap().len());
}
