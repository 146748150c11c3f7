//! What a machine can check of the workspace's shape: layers, lightness, determinism lints, true words.
#![allow(clippy::unwrap_used, missing_docs, reason = "a command that does not run is a failed test")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn cargo(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

fn metadata() -> Value {
    let (ok, text) = cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked", "--offline"]);
    assert!(ok, "cargo metadata failed");
    serde_json::from_str(&text).unwrap()
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn dependencies_point_down() {
    let metadata = metadata();
    let mut layer_of = BTreeMap::new();
    for (layer, members) in metadata["metadata"]["theta"]["layers"].as_array().unwrap().iter().enumerate() {
        for name in names(members) {
            layer_of.insert(name.to_owned(), layer);
        }
    }
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let Some(layer) = layer_of.get(name) else {
            // Examples, benches and checks may use anything, and nothing may use them.
            assert!(package["publish"].as_array().is_some_and(Vec::is_empty), "{name} is in no layer");
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            let Some(below) = layer_of.get(other).filter(|_| dependency["kind"].is_null()) else { continue };
            assert!(below < layer, "{name} uses {other}, which is not below it");
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} dependencies were looked at");
}

/// Whether a package's ordinary dependencies contain another.
fn brings(package: &str, features: &[&str], other: &str) -> bool {
    let mut arguments =
        vec!["tree", "-q", "--locked", "--offline", "-e", "normal", "-p", package, "-i", other];
    arguments.extend(features);
    // An unknown package is an error of cargo's and means that it is not there.
    cargo(&arguments).1.contains(other)
}

#[test]
fn light_crates_stay_light() {
    assert!(brings("theta-node", &[], "tokio"), "the check itself sees dependencies");
    for heavy in ["tokio", "revm", "reqwest", "redb", "fjall", "wasmtime", "libp2p", "blst"] {
        assert!(!brings("theta-sdk", &[], heavy), "theta-sdk brings {heavy}");
    }
    for light in ["theta-core", "theta-ledger", "theta-consensus"] {
        for heavy in ["tokio", "revm", "reqwest"] {
            assert!(!brings(light, &["--all-features"], heavy), "{light} brings {heavy}");
        }
    }
}

#[test]
fn deterministic_crates_ban_what_is_not() {
    for name in ["theta-core", "theta-ledger", "theta-consensus", "theta-evm"] {
        let text = std::fs::read_to_string(root().join(name).join("clippy.toml")).unwrap();
        for banned in ["SystemTime::now", "Instant::now", "thread::spawn", "HashMap", "HashSet"] {
            assert!(text.contains(banned), "{name}/clippy.toml does not ban {banned}");
        }
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} does not take the workspace's lints");
    }
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            files(&path, ending, found);
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
}

#[test]
fn no_example_is_left_unchecked() {
    let mut paths = vec![root().join("README.md")];
    files(&root(), ".rs", &mut paths);
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let fence =
            text.lines().any(|line| line.trim_start_matches(['/', '!', ' ']).starts_with("```ignore"));
        assert!(!fence, "{} has an unchecked example", path.display());
    }
}

/// Every path of the map in ARCHITECTURE.md is there.
#[test]
fn the_map_is_true() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut seen = 0;
    for word in text.split('`').skip(1).step_by(2) {
        // URL paths begin with a slash.
        let is_path = [".rs", ".toml", ".json", ".jsonl", ".md", "/"].iter().any(|end| word.ends_with(end))
            && !word.starts_with('/')
            && !word.contains(char::is_whitespace);
        if is_path {
            assert!(
                root().join(word).exists(),
                "ARCHITECTURE.md names {word}, which is not there; a path is whole, from the root of the workspace"
            );
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} paths were looked at");
}

/// Every statement of the page for authors of contracts names tests that are there.
#[test]
fn what_differs_from_ethereum_is_shown_by_tests() {
    let text = std::fs::read_to_string(root().join("docs/ethereum.md")).unwrap();
    let mut statements = 0;
    for statement in text.split("\n- ").skip(1) {
        let statement = statement.split("\n\n").next().unwrap();
        let named: Vec<_> =
            statement.split('`').skip(1).step_by(2).filter_map(|word| word.split_once("::")).collect();
        assert!(!named.is_empty(), "no test shows this: {statement}");
        statements += 1;
    }
    let mut tests = 0;
    for (file, test) in text.split('`').skip(1).step_by(2).filter_map(|word| word.split_once("::")) {
        let path = root().join(format!("theta-evm/tests/it/{file}.rs"));
        let source = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            source.contains(&format!("#[test]\nfn {test}()")),
            "docs/ethereum.md names {file}::{test}, which is no test"
        );
        tests += 1;
    }
    assert!(statements > 25 && tests >= statements, "{statements} statements, {tests} tests");
}
