//! Every example runs to its end.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn built() -> PathBuf {
    let tests = std::env::current_exe().expect("a test has a file");
    tests.ancestors().nth(2).expect("beside the tests").join("examples")
}

/// Both sides of the value plane in processes of their own come to the same sum.
#[test]
fn two_programs_pay_and_serve_to_the_wei() {
    let run = Command::new(built().join("pay_between_programs")).output().expect("it starts");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let said = String::from_utf8(run.stdout).expect("text");
    let five = "5000000000000000000 wei";
    assert!(said.contains(&format!("the payer: 512000 bytes, {five} signed")), "{said}");
    assert!(said.contains(&format!("the payee: 500 units, {five} earned, {five} settle")), "{said}");
    // A payee that nobody pays has nothing to say and ends with its payer.
    let alone = Command::new(built().join("pay_between_programs"))
        .arg("payee")
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    assert!(alone.status.success() && alone.stdout.is_empty(), "{alone:?}");
}

#[test]
fn every_example_runs() {
    let built = built();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut count = 0;
    for source in std::fs::read_dir(sources).expect("the examples' folder") {
        let name = source.expect("readable").path().file_stem().expect("a name").to_owned();
        let program = built.join(&name).with_extension(std::env::consts::EXE_EXTENSION);
        let run =
            Command::new(&program).output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        assert!(run.status.success(), "{}: {}", name.display(), String::from_utf8_lossy(&run.stderr));
        assert!(!run.stdout.is_empty(), "{} says nothing", name.display());
        count += 1;
    }
    assert!(count >= 6, "{count}");
}
