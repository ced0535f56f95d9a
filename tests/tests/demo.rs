//! `fleetune demo`, as a stranger runs it.

use std::fs;
use std::process::Command;

#[test]
fn the_demo_trains_stores_merges_answers_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_fleetune-under-test"))
        .arg("demo")
        .env("TMPDIR", folder.path())
        .env("HOME", folder.path())
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    for part in [
        "too small",                                // one job fits only the larger card
        "has it",                                   // and got it
        "I do not know.",                           // before
        "Fleetune pools spare GPUs",                // after
        "its logits differ from base + adapter by", // the merge was verified
    ] {
        assert!(text.contains(part), "`{part}` is missing from\n{text}");
    }
    // What it knew before it still knows after.
    assert_eq!(text.matches("The capital of France is Paris.").count(), 2, "{text}");
    let left: Vec<_> = fs::read_dir(folder.path()).expect("the folder").flatten().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}
