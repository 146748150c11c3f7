//! Every example runs to its end.

use std::{path::Path, process::Command};

#[test]
fn every_example_runs() {
    let tests = std::env::current_exe().expect("a test has a file");
    let built = tests.ancestors().nth(2).expect("beside the tests").join("examples");
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
