//! Ethereum's state tests on the engine below our rules.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use theta_evm::statetest::{Case, Engine, Report, Verdict, files, run};

fn run_all(path: &Path, engine: Engine) -> Report {
    let files = files(path).unwrap();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut cases: Vec<Case> = Vec::new();
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            cases.extend(run(file, engine));
        }
        cases
    };
    let threads = std::thread::available_parallelism().unwrap().get();
    let cases = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    Report { cases }
}

fn run_and_show(path: &Path, engine: Engine) -> Report {
    let report = run_all(path, engine);
    for case in report.cases.iter().filter(|case| matches!(case.verdict, Verdict::Failed(_))).take(100) {
        println!("{case}");
    }
    let mut forks = std::collections::BTreeMap::<&str, [usize; 3]>::new();
    for case in &report.cases {
        let fork = case.name.rsplit("::").nth(1).unwrap_or_default();
        let column = match case.verdict {
            Verdict::Passed => 0,
            Verdict::Failed(_) => 1,
            Verdict::Skipped(_) => 2,
        };
        forks.entry(fork).or_default()[column] += 1;
    }
    println!("{forks:?}\n{:?}\n{:?}", report.skipped(), report.counts());
    report
}

/// All files of a folder that the variable `THETA_STATETESTS` names, on the engine that `THETA_STATETESTS_ENGINE` does.
#[test]
fn every_case_of_a_folder_passes() {
    let Some(folder) = std::env::var_os("THETA_STATETESTS") else { return };
    let engine = match std::env::var("THETA_STATETESTS_ENGINE").as_deref() {
        Ok("theta") => Engine::Theta,
        Ok("ethereum") => Engine::Ethereum,
        _ => Engine::Stock,
    };
    let report = run_and_show(Path::new(&folder), engine);
    assert_eq!(report.counts().1, 0);
}

/// A few cases of every kind (ethereum/tests and ethereum/legacytests): shifts, a log, refused transactions, many forks.
#[test]
fn recorded_cases_pass_and_what_is_skipped_has_a_reason() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/statetests");
    let report = run_and_show(&folder, Engine::Stock);
    assert_eq!(report.counts(), (23, 0, 10));
    let text = report.to_string();
    assert!(text.ends_with("23 passed, 0 failed, 10 skipped"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("ok ")).count(), 23);
    assert_eq!(report.skipped().values().sum::<usize>(), 10);
}

/// Changes one thing that was recorded, and finds exactly that.
#[test]
fn what_differs_fails() {
    let whole = String::from_utf8(super::fixture("statetests/log1_emptyMem.json")).unwrap();
    let test: serde_json::Value = serde_json::from_str(&whole).unwrap();
    let (name, unit) = test.as_object().unwrap().iter().next().unwrap();
    let folder = std::env::temp_dir().join(format!("theta-statetests-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let differs = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut unit = unit.clone();
        change(&mut unit);
        let file = folder.join("changed.json");
        std::fs::write(&file, serde_json::json!({ name.as_str(): unit }).to_string()).unwrap();
        run(&file, Engine::Stock).remove(0).to_string()
    };
    let word = format!("0x{}", "11".repeat(32));
    assert!(differs(&|_| {}).starts_with("ok "));
    let state = differs(&|unit| unit["post"]["Cancun"][0]["hash"] = word.as_str().into());
    assert!(state.starts_with("FAIL ") && state.contains("[state 0x"), "{state}");
    let logs = differs(&|unit| unit["post"]["Cancun"][0]["logs"] = word.as_str().into());
    assert!(logs.starts_with("FAIL ") && logs.contains("[logs 0x"), "{logs}");
    let refused =
        differs(&|unit| unit["post"]["Cancun"][0]["expectException"] = "TransactionException".into());
    assert!(refused.contains("[not refused for TransactionException]"), "{refused}");
    let beyond = differs(&|unit| unit["post"]["Cancun"][0]["indexes"]["data"] = 99.into());
    assert!(beyond.contains("[indexes beyond the transaction]"), "{beyond}");
    let fork = differs(&|unit| unit["post"] = serde_json::json!({ "Nowhere": unit["post"]["Cancun"] }));
    assert!(fork.starts_with("skip "), "{fork}");
    let fee = differs(&|unit| unit["transaction"]["maxPriorityFeePerGas"] = word.as_str().into());
    assert!(fee.contains("[a fee above 128 bits]"), "{fee}");
    // What is no state test has failed by its name, whatever else it is.
    for (content, reason) in [
        ("{", "no file of state tests"),
        ("[1]", "no file of state tests"),
        ("{}", "no file of state tests: it holds none"),
        (r#"{"name": 7}"#, "no state test"),
        (r#"{"name": {"env": {}, "blocks": []}}"#, "no state test"),
    ] {
        std::fs::write(folder.join("changed.json"), content).unwrap();
        let broken = run_all(&folder, Engine::Stock);
        assert_eq!(broken.counts(), (0, 1, 0), "{content}");
        let text = broken.cases[0].to_string();
        assert!(text.contains("changed.json") && text.contains(reason), "{text}");
    }
    let nothing = differs(&|unit| unit["post"] = serde_json::json!({}));
    assert!(nothing.contains("[no state test: it expects nothing]"), "{nothing}");
    std::fs::remove_dir_all(folder).unwrap();
}
