//! What a run holds: measured, bounded, and covered by its estimate. A process of its own, since the meter sees all of it.

use std::path::{Path, PathBuf};

use fleetune_engine::merge::merge;
use fleetune_engine::train::{Observer, train};
use fleetune_engine::{EngineError, Result, memory};
use fleetune_shared::{
    ByteSize, Device, FailureKind, MergeOrder, Recipe, TrainOrder, TrainSummary, TrainerEvent,
};
use serde_json::json;

#[global_allocator]
static METER: memory::Meter = memory::Meter;

fn fixture(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", path].iter().collect()
}

struct Deaf;

impl Observer for Deaf {
    fn event(&mut self, _: TrainerEvent) {}
}

/// One step of LoRA on `rows` rows of `tokens` tokens, all supervised; its adapter goes to `folder`.
fn run(
    folder: &Path,
    model: &Path,
    (rows, tokens): (usize, usize),
    limit: Option<ByteSize>,
) -> Result<TrainSummary> {
    let data = folder.join("rows.jsonl");
    let ids: Vec<usize> = (0..tokens).map(|i| 3 + i * 7 % 500).collect();
    let row = json!({"input_ids": ids, "labels": ids}).to_string() + "\n";
    std::fs::write(&data, row.repeat(rows)).unwrap();
    let recipe = json!({
        "model_name_or_path": "base",
        "dataset_name": "rows.jsonl",
        "dataset_format": "tokenized",
        "max_length": tokens,
        "per_device_train_batch_size": rows,
        "max_steps": 1,
    });
    let order = TrainOrder {
        recipe: Recipe::read(&recipe.to_string()).unwrap(),
        model: model.into(),
        data: vec![data],
        init_adapter: None,
        out: folder.join("out"),
        resume_from: None,
        device: Device::Cpu,
        memory_bytes_limit: limit,
    };
    let _ = std::fs::remove_dir_all(&order.out);
    let result = train(&order, &mut Deaf);
    assert_eq!(result.is_ok(), order.out.join("report.json").exists());
    result
}

fn show(what: &str, summary: &TrainSummary) {
    let estimate = summary.estimate.unwrap();
    let (peak, total) = (summary.memory_bytes_peak, estimate.total());
    eprintln!("{what}: peak {peak}, estimate {total}, {:.0} tokens/s", summary.tokens_per_second);
    for (name, bytes) in estimate.parts() {
        eprintln!("    {name} {bytes}");
    }
}

/// One test, so that nothing else allocates beside what is measured.
#[test]
fn a_run_stays_within_its_estimate_and_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = fixture("models/tiny-llama");
    let run = |limit| run(folder.path(), &tiny, (8, 256), limit);
    let free = run(None).unwrap();
    show("tiny", &free);
    let peak = free.memory_bytes_peak;
    assert!(peak < free.estimate.unwrap().total());
    assert!(peak > ByteSize(1 << 20), "the meter is not at work: {peak}");

    let error = run(Some(ByteSize(peak.0 / 2))).unwrap_err();
    assert!(matches!(error, EngineError::OutOfMemory { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::OutOfMemory);
    run(Some(ByteSize(peak.0 * 5 / 4))).unwrap();
    // The bound went with the run.
    memory::check().unwrap();

    smollm2();
}

/// A real model, where it is at hand (`scripts/fetch-smollm2`).
fn smollm2() {
    let path = std::env::var_os("FLEETUNE_SMOLLM2")
        .map_or_else(|| fixture("../../models/SmolLM2-135M-Instruct.Q4_1.gguf"), PathBuf::from);
    if !path.is_file() {
        eprintln!("skipped: no {}; run scripts/fetch-smollm2", path.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let summary = run(folder.path(), &path, (4, 512), None).unwrap();
    show("SmolLM2-135M, 4 × 512", &summary);
    assert!(summary.memory_bytes_peak < summary.estimate.unwrap().total());

    let adapter = folder.path().join("out");
    let order = MergeOrder { model: path, adapter, out: folder.path().join("merged") };
    let summary = merge(&order, &mut Deaf).unwrap();
    show("SmolLM2-135M, merged", &summary);
    assert!(summary.memory_bytes_peak < summary.estimate.unwrap().total());
    assert!(summary.merge_logit_difference.unwrap() < 1e-3);
    assert!(order.out.join("tokenizer.json").exists());
}
