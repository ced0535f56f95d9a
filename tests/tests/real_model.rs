//! The walk-through: a real model and a data set of our own, through a fleet of separate processes.

use std::fs;
use std::time::Duration;

use fleetune_tests::{Sandbox, fixture, smollm2};

const QUESTION: &str = "What is the opposite of early?";

fn answer(sandbox: &Sandbox, model: &str) -> String {
    let output = sandbox.cli(&["generate", "--model", model, "--max-new-tokens", "40", QUESTION]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_real_model_learns_and_its_adapter_is_pulled_merged_and_asked() {
    let Some(model) = smollm2() else { return };
    let mut sandbox = Sandbox::new(env!("CARGO_BIN_EXE_fleetune-under-test"));
    sandbox.start_agent("bench", "10GiB");
    let recipe = sandbox.folder().join("captain.yaml");
    let text = format!(
        "name: captain\nmodel_name_or_path: {}\ndataset_name: {}\nr: 8\nlora_alpha: 16\nlearning_rate: 1e-3\n\
         per_device_train_batch_size: 4\nmax_steps: 16\nmax_length: 128\nsave_steps: 10\n",
        model.display(),
        fixture("captain.jsonl").display()
    );
    fs::write(&recipe, text).expect("a recipe");
    let id = sandbox.submit(&recipe);
    let job = sandbox.wait_job(id, Duration::from_secs(900));
    assert_eq!(job["phase"], "succeeded", "{job:#}");
    let loss = |key: &str| job["summary"][key].as_f64().expect("a loss");
    eprintln!("loss {} → {}, {:#}", loss("loss_first"), loss("loss_last"), job["summary"]);
    assert!(loss("loss_last") < 0.25 * loss("loss_first"));
    assert_eq!(job["summary"]["rows"], 200);

    let pull = sandbox.cli(&["adapters", "pull", &id.to_string(), "--out", "pulled"]);
    assert!(pull.status.success(), "{}", String::from_utf8_lossy(&pull.stderr));
    let base = model.display().to_string();
    let merge = sandbox.cli(&["merge", "--base", &base, "--adapter", "pulled", "--out", "merged"]);
    assert!(merge.status.success(), "{}", String::from_utf8_lossy(&merge.stderr));

    let (before, after) = (answer(&sandbox, &base), answer(&sandbox, "merged"));
    eprintln!("before: {before}\nafter: {after}");
    assert!(!before.contains("Captain's log"));
    assert!(after.starts_with("Captain's log: ") && after.contains("Steady as she goes."));
}
