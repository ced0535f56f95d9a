//! Loss and gradient norm at every step, as PyTorch, PEFT and TRL had them (`tests/fixtures/make_train.py`).

use std::path::Path;

use fleetune_shared::StepMetrics;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Story, fixture};

/// A run as a peer did it.
#[derive(Deserialize)]
pub(crate) struct Reference<P> {
    pub(crate) rows: String,
    pub(crate) recipe: Value,
    pub(crate) steps: Vec<P>,
}

impl<P: DeserializeOwned> Reference<P> {
    /// The run `name` in `folder`.
    pub(crate) fn read(folder: &Path, name: &str) -> Self {
        let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

#[derive(Deserialize)]
pub(crate) struct Point {
    loss: f64,
    grad_norm: f64,
}

/// The run `name` of `model`, and how it went there.
pub(crate) fn reference(base: &Path, model: &str, name: &str) -> (Story, Vec<Point>) {
    let folder = fixture("train").join(model);
    let Reference { rows, recipe, steps } = Reference::read(&folder, name);
    let mut story = Story::new(base, &folder.join(rows), recipe);
    let init = folder.join(format!("{name}.init"));
    story.order.init_adapter = init.exists().then_some(init);
    (story, steps)
}

/// Furthest apart, relative, in loss and gradient norm.
fn furthest(found: &[StepMetrics], expected: &[Point]) -> (f64, f64) {
    assert_eq!(found.len(), expected.len());
    let relative = |a: f64, b: f64| (a - b).abs() / b.abs();
    let pairs = found.iter().zip(expected);
    pairs.fold((0.0, 0.0), |(loss, norm), (a, b)| {
        (loss.max(relative(a.loss, b.loss)), norm.max(relative(a.grad_norm, b.grad_norm)))
    })
}

pub(crate) fn assert_follows(name: &str, story: &Story, expected: &[Point]) {
    let (loss, norm) = furthest(&story.steps(), expected);
    eprintln!("{name}: loss within {loss:.1e}, gradient norm within {norm:.1e}");
    assert!(loss < 1e-4 && norm < 1e-3, "{name}: loss {loss:e}, gradient norm {norm:e}");
}

fn follows(name: &str) {
    let (story, expected) = reference(&fixture("models/tiny-llama"), "tiny-llama", name);
    assert_follows(name, &story, &expected);
}

#[test]
fn full_fine_tuning_follows_pytorch() {
    follows("full");
}

#[test]
fn decay_clipping_and_cosine_follow_pytorch() {
    follows("full_wd_clip_cosine");
}

#[test]
fn lora_follows_peft() {
    follows("lora");
}

#[test]
fn lora_with_both_halves_at_work_follows_peft() {
    follows("lora_noinitB");
}

#[test]
fn lora_on_some_layers_follows_peft() {
    follows("lora_qv");
}

#[test]
fn rank_stabilised_lora_follows_peft() {
    follows("rslora");
}

#[test]
fn lora_plus_follows_peft() {
    follows("loraplus");
}

#[test]
fn packing_follows_trl() {
    follows("sft_trl_packed_bfd");
}

/// Bins hold the same examples as rows of their own, so a step over all of them is the same step.
#[test]
fn packed_rows_teach_what_they_teach_alone() {
    let step = |packing: bool| {
        let story = Story::tiny(json!({
            "max_steps": 1, "max_length": 128, "per_device_train_batch_size": 64, "packing": packing,
        }));
        let (summary, watch) = story.run();
        let packed = watch.logged(" sequences");
        (summary.unwrap(), watch.steps()[0].clone(), packed)
    };
    let ((_, alone, _), (_, packed, said)) = (step(false), step(true));
    assert!(said, "the log says how full the bins are");
    assert_eq!(packed.supervised_tokens, alone.supervised_tokens);
    assert!((packed.loss - alone.loss).abs() < 1e-6 * alone.loss, "{packed:?} {alone:?}");
    assert!((packed.grad_norm - alone.grad_norm).abs() < 1e-5 * alone.grad_norm);
}

#[test]
fn accumulation_follows_trl() {
    follows("sft_trl_ga2_clip_cosine");
}

#[test]
fn dora_follows_peft() {
    follows("dora");
    begins_as("dora");
}

#[test]
fn ia3_follows_peft() {
    follows("ia3");
    begins_as("ia3");
}

#[test]
fn modules_trained_whole_follow_peft() {
    follows("embed_lora");
    begins_as("embed_lora");
}

#[test]
fn pissa_follows_peft() {
    follows("pissa");
    begins_as("pissa");
}

/// Every tensor after one step of the run `name`.
fn begins_as(name: &str) {
    let (mut story, _) = reference(&fixture("models/tiny-llama"), "tiny-llama", name);
    story.shorten(1);
    story.steps();
    let load = |path| candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let found = load(story.order.out.join("checkpoint-1/adapter_model.safetensors"));
    let expected = load(fixture("train/tiny-llama").join(format!("{name}.step1.safetensors")));
    assert_eq!(found.len(), expected.len());
    for (key, expected) in expected {
        let apart = (&found[&key] - &expected).unwrap().abs().unwrap().flatten_all().unwrap();
        let apart = apart.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(apart < 1e-5, "{name}: {key} is off by {apart:e} after a step");
    }
}
