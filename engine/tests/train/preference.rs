//! Preference tuning: curves and metrics as TRL had them (`tests/fixtures/make_preference.py`), and what holds of
//! every objective.

use std::collections::BTreeMap;
use std::path::Path;

use fleetune_shared::StepMetrics;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::curves::Reference;
use crate::{Story, fixture};

#[derive(Deserialize)]
pub(crate) struct Point {
    loss: f64,
    grad_norm: f64,
    metrics: BTreeMap<String, f64>,
}

/// The first steps of the run `name` of `model`, and how it went there.
pub(crate) fn reference(
    base: &Path,
    model: &str,
    name: &str,
    steps_max: usize,
) -> (Story, Vec<Point>) {
    let folder = fixture("train").join(model);
    let Reference { rows, mut recipe, mut steps } = Reference::<Point>::read(&folder, name);
    // The rate is constant, so a shorter run is the beginning of the longer one.
    steps.truncate(steps_max);
    recipe["max_steps"] = steps.len().into();
    let mut story = Story::new(base, &folder.join(rows), recipe);
    story.order.init_adapter = Some(folder.join("preference.init"));
    (story, steps)
}

/// Of a difference of two log-probabilities of whole answers, which TRL adds up in f32.
const NOISE: f64 = 2e-4;
/// What rewards are of it, in all of these runs.
const BETA: f64 = 0.1;

/// Losses to 1e-4, gradient norms to 1e-3, metrics to 1e-4 of themselves and the noise of f32.
pub(crate) fn assert_follows(name: &str, story: &Story, expected: &[Point]) {
    let steps = story.steps();
    assert_eq!(steps.len(), expected.len());
    for (found, expected) in steps.iter().zip(expected) {
        let step = found.step;
        let off = |a: f64, b: f64| (a / b - 1.0).abs();
        assert!(
            off(found.loss, expected.loss) < 1e-4,
            "{name} {step}: {} {}",
            found.loss,
            expected.loss
        );
        let norms = (found.grad_norm, expected.grad_norm);
        assert!(off(norms.0, norms.1) < 1e-3, "{name} {step}: gradient norm {norms:?}");
        for (key, expected) in &expected.metrics {
            let found = found.more[key];
            let noise = if key == "kl" { NOISE } else { BETA * NOISE };
            let error = (found - expected).abs();
            assert!(
                error < 1e-4 * expected.abs() + noise,
                "{name} {step}: {key} {found} {expected}"
            );
        }
    }
}

fn tiny(name: &str) -> (Story, Vec<Point>) {
    reference(&fixture("models/tiny-llama"), "tiny-llama", name, 10)
}

#[test]
fn dpo_follows_trl() {
    for name in ["dpo_sigmoid", "dpo_ipo", "dpo_hinge"] {
        let (story, expected) = tiny(name);
        assert_follows(name, &story, &expected);
    }
}

#[test]
fn kto_follows_trl() {
    let (story, expected) = tiny("kto");
    assert_follows("kto", &story, &expected);
}

/// Tiny Llama on its pairs or, for KTO, its judged answers.
pub(crate) fn preferences(mut recipe: Value) -> Story {
    recipe["max_length"] = 96.into();
    recipe["over_length"] = "truncate".into();
    let rows = if recipe["task"] == "kto" { "kto.rows.jsonl" } else { "dpo.rows.jsonl" };
    let rows = fixture("train/tiny-llama").join(rows);
    Story::new(&fixture("models/tiny-llama"), &rows, recipe)
}

/// Under the objective `keys`, from a fresh adapter.
fn fresh(keys: Value) -> Story {
    let mut recipe = json!({
        "task": "dpo",
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-2,
    });
    recipe.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    preferences(recipe)
}

#[test]
fn dpo_begins_at_the_logarithm_of_two() {
    for keys in [
        json!({}),
        json!({"precompute_ref_log_probs": true}),
        json!({"use_peft": false, "learning_rate": 1e-3}),
    ] {
        let steps = fresh(keys).steps();
        assert!((steps[0].loss - std::f64::consts::LN_2).abs() < 1e-6, "{}", steps[0].loss);
        assert!(steps[5].loss < 0.6, "it learns: {}", steps[5].loss);
        assert!(steps[5].more["rewards/margins"] > 0.1);
    }
}

#[test]
fn a_reference_asked_before_is_the_one_asked_meanwhile() {
    for task in ["dpo", "kto"] {
        let losses = |precompute: bool| -> Vec<f64> {
            let keys = json!({"task": task, "precompute_ref_log_probs": precompute});
            fresh(keys).steps().iter().map(|m| m.loss).collect()
        };
        for (asked, stored) in losses(false).iter().zip(losses(true)) {
            assert!((asked - stored).abs() < 1e-6, "{task}: {asked} {stored}");
        }
    }
}

#[test]
fn every_objective_learns() {
    for (keys, names) in [
        (
            json!({"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}),
            &["nll_loss"] as &[_],
        ),
        (json!({"use_weighting": true}), &["rewards/accuracies"]),
        (json!({"ld_alpha": 0.5, "rpo_alpha": 1.0}), &["nll_loss", "logps/rejected"]),
        (json!({"task": "kto"}), &["kl", "rewards/margins"]),
        (json!({"task": "kto", "loss_type": "apo_zero_unpaired"}), &["rewards/chosen"]),
        (json!({"task": "orpo"}), &["nll_loss", "log_odds_ratio", "log_odds_chosen"]),
        (json!({"task": "cpo"}), &["nll_loss", "rewards/margins"]),
        (json!({"task": "simpo"}), &["rewards/margins"]),
        (json!({"task": "reward", "center_rewards_coefficient": 0.01}), &["accuracy", "margin"]),
        (json!({"task": "reward", "use_peft": false, "learning_rate": 1e-3}), &["mean_reward"]),
    ] {
        let mut keys = keys;
        keys["train_sampling_strategy"] = "sequential".into();
        keys["num_train_epochs"] = 2.into();
        keys["max_steps"] = (-1).into();
        let steps = fresh(keys.clone()).steps();
        let half = steps.len() / 2;
        let sum = |steps: &[StepMetrics]| steps.iter().map(|m| m.loss).sum::<f64>();
        assert!(sum(&steps[half..]) < sum(&steps[..half]), "{keys}");
        for name in names {
            assert!(steps[half].more[*name].is_finite(), "{keys}: {name}");
        }
    }
}

#[test]
fn k_micro_batches_of_b_pairs_are_b_of_k() {
    let run = |rows: u64, accumulation: u64| {
        fresh(json!({
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": accumulation,
        }))
        .steps()
    };
    for (whole, parts) in run(4, 1).iter().zip(run(2, 2)) {
        assert!((whole.loss - parts.loss).abs() < 1e-5, "{whole:?} {parts:?}");
        let margin = |m: &StepMetrics| m.more["rewards/margins"];
        assert!((margin(whole) - margin(&parts)).abs() < 1e-5);
    }
}

#[test]
fn a_reward_model_is_what_transformers_takes_it_for() {
    let first = |keys| fresh(keys).steps()[0].clone();
    let story = fresh(json!({"task": "reward", "save_steps": 3}));
    let steps = story.steps();
    assert!((steps[0].loss - std::f64::consts::LN_2).abs() < 0.1, "{}", steps[0].loss);
    let config: Value = serde_json::from_slice(&story.bytes("adapter_config.json")).unwrap();
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(config["modules_to_save"], json!(["score"]));
    let path = story.order.out.join("adapter_model.safetensors");
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    assert_eq!(tensors["base_model.model.score.weight"].dims(), [1, 64]);

    // Another run that goes on from there begins with its scores.
    let mut on = fresh(json!({"task": "reward"}));
    on.order.init_adapter = Some(story.order.out);
    let (gone_on, afresh) = (on.steps()[0].loss, first(json!({"task": "reward"})).loss);
    assert!(gone_on < afresh - 0.05, "{gone_on} {afresh}");

    let full = fresh(json!({"task": "reward", "use_peft": false, "max_steps": 1}));
    full.steps();
    let config: Value = serde_json::from_slice(&full.bytes("config.json")).unwrap();
    assert_eq!(config["architectures"], json!(["LlamaForSequenceClassification"]));
    let path = full.order.out.join("model.safetensors");
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    assert!(tensors.contains_key("score.weight") && !tensors.contains_key("lm_head.weight"));
}

#[test]
fn dropout_stays_off_unless_it_is_asked_for() {
    let losses = |keys: Value| -> Vec<f64> { fresh(keys).steps().iter().map(|m| m.loss).collect() };
    let plain = losses(json!({}));
    assert_eq!(plain, losses(json!({"lora_dropout": 0.5})));
    assert_ne!(plain, losses(json!({"lora_dropout": 0.5, "disable_dropout": false})));
}

/// The reference that was asked before the first step heard no noise, so the one asked meanwhile does not either.
#[test]
fn noise_moves_what_learns_and_nothing_it_is_compared_with() {
    let losses = |task: &str, keys: Value| -> Vec<f64> {
        let mut recipe = json!({"task": task, "learning_rate": 1e-3});
        recipe.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        fresh(recipe).steps().iter().map(|m| m.loss).collect()
    };
    let noise = json!({"neftune_noise_alpha": 5});
    for task in ["dpo", "kto", "orpo", "cpo", "reward"] {
        let (clean, noisy) = (losses(task, json!({})), losses(task, noise.clone()));
        let apart = clean.iter().zip(&noisy).map(|(a, b)| (a - b).abs());
        let apart: Vec<f64> = apart.collect();
        assert!(apart.iter().all(|apart| (1e-7..0.5).contains(apart)), "{task}: {apart:?}");
        assert_eq!(noisy, losses(task, noise.clone()), "{task}: drawn from the seed");
    }
    let stored = json!({"neftune_noise_alpha": 5, "precompute_ref_log_probs": true});
    for (meanwhile, before) in losses("dpo", noise).iter().zip(losses("dpo", stored)) {
        assert!((meanwhile - before).abs() < 1e-6, "{meanwhile} {before}");
    }
}
