//! A trainer runs out of its card: the job goes down the ladder and ends well, or is refused with the numbers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleetune_tests::{Sandbox, demo_asset};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_fleetune-under-test");
const LIMIT: Duration = Duration::from_secs(180);
const CARD_BYTES: &str = "FLEETUNE_TEST_CARD_BYTES";

/// Forty-eight rows of nearly the same length, so that each micro-batch takes what any does.
fn rows(folder: &Path) -> PathBuf {
    let path = folder.join("rows.jsonl");
    let row = |i: u64| -> String {
        let ids: Vec<u64> = (0..62 + i % 3).map(|j| 3 + (i * 7 + j * 13) % 1000).collect();
        format!("{}\n", json!({"input_ids": ids, "labels": ids}))
    };
    fs::write(&path, (0..48).map(row).collect::<String>()).expect("rows");
    path
}

fn recipe(folder: &Path, micro_batch: u64, accumulation: u64, steps: u64) -> PathBuf {
    let path = folder.join(format!("{micro_batch}x{accumulation}x{steps}.yaml"));
    let text = format!(
        "name: large\nmodel_name_or_path: {}\ndataset_name: {}\ndataset_format: tokenized\nr: 4\n\
         max_steps: {steps}\nsave_steps: 2\nmax_length: 64\n\
         per_device_train_batch_size: {micro_batch}\ngradient_accumulation_steps: {accumulation}\n\
         gradient_checkpointing: none\nlearning_rate: 3e-3\n",
        demo_asset("model").display(),
        rows(folder).display()
    );
    fs::write(&path, text).expect("a recipe");
    path
}

fn ended(sandbox: &Sandbox, recipe: &Path, phase: &str) -> Value {
    let job = sandbox.wait_job(sandbox.submit(recipe), LIMIT);
    assert_eq!(job["phase"], phase, "{job:#}");
    job
}

fn peak(job: &Value) -> u64 {
    job["summary"]["memory_bytes_peak"].as_u64().expect("a peak")
}

fn ends(job: &Value) -> Vec<&str> {
    let attempts = job["attempts"].as_array().expect("attempts");
    attempts.iter().map(|attempt| attempt["end"].as_str().expect("an end")).collect()
}

#[test]
fn a_job_too_large_for_its_card_ends_well_in_smaller_micro_batches() {
    let mut sandbox = Sandbox::new(PROGRAM);
    sandbox.start_agent("one", "1GiB");
    let large = recipe(sandbox.folder(), 16, 1, 40);
    let peace = ended(&sandbox, &large, "succeeded");
    let half = ended(&sandbox, &recipe(sandbox.folder(), 8, 2, 4), "succeeded");
    assert!(peak(&half) < peak(&peace), "{} {}", peak(&half), peak(&peace));
    let between = ((peak(&half) + peak(&peace)) / 2).to_string();

    // The agent is cut off when there is a checkpoint, and comes back on a card that has less than it says.
    let job = sandbox.submit(&large);
    let id = job.to_string();
    sandbox.wait_for("a checkpoint", LIMIT, |s| {
        s.json(&["job", "show", &id])?["checkpoint_step"].as_u64()
    });
    sandbox.kill_agent("one");
    sandbox.start_agent_with("one", &["--vram", "1GiB"], &[(CARD_BYTES, &between)]);
    let job = sandbox.wait_job(job, LIMIT);
    assert_eq!(job["phase"], "succeeded", "{job:#}");
    assert_eq!(ends(&job), ["released", "out_of_memory", "finished"], "{job:#}");
    assert_eq!(job["rung"]["kind"], "smaller_micro_batch");
    assert_eq!(job["rung"]["change"]["micro_batch"], 8);
    assert_eq!(job["rung"]["change"]["accumulation"], 2);
    assert_eq!(job["recipe"]["per_device_train_batch_size"], 16, "the recipe stays");
    let promises: Vec<_> = job["attempts"].as_array().expect("attempts").iter().collect();
    assert_eq!(promises[1]["vram_bytes_promised"], promises[2]["vram_bytes_promised"]);

    // It went on from the checkpoint, and learned the same rows in the same steps.
    let log = sandbox.cli(&["job", "logs", &id]);
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    assert_eq!(log.matches("dry run").count(), 1, "only what begins anew tries itself: {log}");
    let losses = |job: &Value| -> Vec<f64> {
        job["losses"].as_array().expect("losses").iter().filter_map(Value::as_f64).collect()
    };
    let (peace, after) = (losses(&peace), losses(&job));
    assert_eq!(peace.len(), after.len());
    for (step, (a, b)) in peace.iter().zip(&after).enumerate() {
        assert!((a - b).abs() < 1e-3 * a, "step {}: {a} {b}", step + 1);
    }
    // And the fleet shows it.
    let history = sandbox.json(&["estimate", "--history"]).expect("a history");
    assert_eq!(history["fleet"]["out_of_memory"], 1, "{history:#}");
    assert_eq!(history["fleet"]["attempts"], 4);
    // Three runs say what they ran; the estimate of so small a model is mostly the process itself.
    assert_eq!(history["fleet"]["compared"], 3);
    assert!(history["fleet"]["error_p90"].is_f64(), "{history:#}");
}

#[test]
fn a_job_no_card_can_hold_is_refused_with_the_numbers() {
    let mut sandbox = Sandbox::new(PROGRAM);
    let recipe = recipe(sandbox.folder(), 2, 1, 4);
    sandbox.start_agent_with("one", &["--vram", "40MiB"], &[(CARD_BYTES, "1000000")]);
    let job = ended(&sandbox, &recipe, "failed");
    let failure = &job["failure"];
    assert_eq!(failure["kind"], "out_of_memory", "{job:#}");
    let message = failure["message"].as_str().expect("a message");
    for word in ["nothing is left to try", "per_device_train_batch_size: 1", "`one`", "too little"]
    {
        assert!(message.contains(word), "{word}: {message}");
    }
    let ends = ends(&job);
    assert!(ends.len() > 3 && ends.iter().all(|end| *end == "out_of_memory"), "{ends:?}");
}
