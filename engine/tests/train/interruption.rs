//! A run that was interrupted ends as if it never had been, bit for bit.

use std::fs;
use std::path::Path;

use fleetune_engine::EngineError;
use fleetune_shared::{StepMetrics, TrainerEvent};
use serde_json::{Value, json};

use crate::Story;
use crate::preference::preferences;

/// Random order, accumulation, epochs that end in the middle: everything a cursor has to get right.
fn recipe(more: Value) -> Value {
    let mut recipe = json!({
        "train_sampling_strategy": "random",
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": 9,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.2,
        "weight_decay": 0.1,
        "save_steps": 2,
        "save_total_limit": 10,
    });
    recipe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    recipe
}

/// The lines of `metrics.jsonl`, without what a clock says.
fn metrics(story: &Story) -> Vec<StepMetrics> {
    let text = String::from_utf8(story.bytes("metrics.jsonl")).unwrap();
    let line = |l| StepMetrics { tokens_per_second: 0.0, ..serde_json::from_str(l).unwrap() };
    text.lines().map(line).collect()
}

fn assert_same_end(a: &Story, b: &Story, file: &str) {
    assert!(a.bytes(file) == b.bytes(file), "{file} differs");
    assert_eq!(metrics(a), metrics(b));
}

fn stopped_and_resumed(more: Value, file: &str) {
    resumes(|| Story::tiny(recipe(more.clone())), file);
}

/// Nine steps in one go against the same with three stops.
fn resumes(begin: impl Fn() -> Story, file: &str) {
    let straight = begin();
    straight.steps();

    let mut story = begin();
    for stop in [1, 5, 6] {
        let (result, _) = story.run_until(Some(stop));
        assert!(matches!(result, Err(EngineError::Stopped { step }) if step == stop));
        assert!(story.has(&format!("checkpoint-{stop}/{file}")) && !story.has(file));
        story.order.resume_from = Some(story.order.out.clone());
    }
    let (summary, watch) = story.run();
    assert!(watch.events.contains(&TrainerEvent::Started { step: 6, steps_total: 9 }));
    assert_same_end(&straight, &story, file);
    let summary = summary.unwrap();
    assert_eq!(summary.steps, 9);
    assert_eq!(summary.loss_first, metrics(&straight)[0].loss);
}

#[test]
fn an_adapter_run_resumes_bit_for_bit() {
    stopped_and_resumed(json!({"r": 4}), "adapter_model.safetensors");
}

#[test]
fn every_kind_of_adapter_resumes_bit_for_bit() {
    for kind in [
        json!({"use_dora": true, "lora_dropout": 0.2}),
        json!({"use_rslora": true, "rank_pattern": {"q_proj": 2}}),
        json!({"peft_type": "IA3"}),
        json!({"init_lora_weights": "pissa"}),
        json!({"init_lora_weights": "olora", "use_dora": true}),
        json!({"target_modules": ["embed_tokens", "q_proj"]}),
        json!({"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]}),
    ] {
        eprintln!("{kind}");
        stopped_and_resumed(kind, "adapter_model.safetensors");
    }
}

#[test]
fn a_mostly_frozen_run_resumes_bit_for_bit() {
    let keys = json!({"use_peft": false, "freeze_trainable_layers": 1});
    stopped_and_resumed(keys, "model.safetensors");
}

#[test]
fn a_full_run_resumes_bit_for_bit() {
    stopped_and_resumed(json!({"use_peft": false}), "model.safetensors");
}

/// Preferences with a reference that is asked meanwhile, one that was asked before, and one that is a model of its own.
#[test]
fn every_objective_resumes_bit_for_bit() {
    let adapter = "adapter_model.safetensors";
    for (keys, file) in [
        (json!({"task": "dpo"}), adapter),
        (json!({"task": "dpo", "precompute_ref_log_probs": true}), adapter),
        (json!({"task": "dpo", "use_peft": false, "learning_rate": 1e-3}), "model.safetensors"),
        (json!({"task": "kto"}), adapter),
        (json!({"task": "kto", "precompute_ref_log_probs": true}), adapter),
        (json!({"task": "orpo"}), adapter),
        (json!({"task": "simpo"}), adapter),
        (json!({"task": "reward"}), adapter),
        (json!({"task": "reward", "use_peft": false, "learning_rate": 1e-3}), "model.safetensors"),
    ] {
        resumes(|| preferences(recipe(keys.clone())), file);
    }
}

#[test]
fn an_adapter_run_on_four_bits_resumes_bit_for_bit() {
    let keys = json!({"r": 4, "load_in_4bit": true, "bnb_4bit_use_double_quant": true});
    stopped_and_resumed(keys, "adapter_model.safetensors");
}

#[test]
fn every_optimizer_resumes_bit_for_bit() {
    for optim in [
        "adamw_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "adafactor",
        "lion_32bit",
        "lion_8bit",
        "sgd",
    ] {
        let momentum = if optim == "sgd" { 0.9 } else { 0.0 };
        let keys = json!({"optim": optim, "sgd_momentum": momentum, "use_peft": false, "learning_rate": 1e-3});
        stopped_and_resumed(keys, "model.safetensors");
    }
}

#[test]
fn a_killed_run_goes_on_elsewhere_from_its_last_checkpoint() {
    let straight = Story::tiny(recipe(json!({})));
    straight.steps();
    // All that another machine has of it is one checkpoint.
    let mut story = Story::tiny(recipe(json!({"save_steps": 3, "gradient_checkpointing": true})));
    let elsewhere = story.out.path().join("fetched");
    copy(&straight.order.out.join("checkpoint-4"), &elsewhere);
    story.order.resume_from = Some(elsewhere);
    let (result, watch) = story.run();
    result.unwrap();
    assert_eq!(watch.steps().iter().map(|m| m.step).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    let file = "adapter_model.safetensors";
    assert!(straight.bytes(file) == story.bytes(file), "{file} differs");
}

#[test]
fn a_torn_checkpoint_is_passed_over_or_refused() {
    let straight = Story::tiny(recipe(json!({})));
    straight.steps();
    let mut story = Story::tiny(recipe(json!({})));
    let _ = story.run_until(Some(4));
    let torn = story.order.out.join("checkpoint-4");
    let file = torn.join("optimizer.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();

    story.order.resume_from = Some(torn);
    let refused = story.refusal();
    assert!(refused.contains("optimizer.safetensors does not match its hash"), "{refused}");

    story.order.resume_from = Some(story.order.out.clone());
    let (result, watch) = story.run();
    result.unwrap();
    assert!(watch.logged("passed over") && watch.logged("checkpoint-4 is not whole"));
    assert!(watch.events.contains(&TrainerEvent::Started { step: 2, steps_total: 9 }));
    assert_same_end(&straight, &story, "adapter_model.safetensors");
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let story = Story::tiny(recipe(json!({"save_total_limit": 2})));
    let (_, watch) = story.run();
    let told = watch.events.iter().filter(|e| matches!(e, TrainerEvent::Checkpoint { .. })).count();
    assert_eq!(told, 4);
    let kept: Vec<u64> = (0..10).filter(|step| story.has(&format!("checkpoint-{step}"))).collect();
    assert_eq!(kept, [6, 8]);
}

#[test]
fn another_run_is_not_resumed() {
    let mut story = Story::tiny(recipe(json!({"r": 4})));
    let _ = story.run_until(Some(2));
    assert!(story.refusal().contains("holds an earlier run's checkpoint-2; resume it, or choose"));

    let mut other = Story::tiny(recipe(json!({"r": 8})));
    other.order.resume_from = Some(story.order.out.clone());
    let refused = other.refusal();
    assert!(refused.contains("`r` was 4, now it is 8"), "{refused}");

    let mut nothing = Story::tiny(recipe(json!({})));
    nothing.order.resume_from = Some(story.out.path().join("nothing"));
    assert!(nothing.refusal().contains("no whole checkpoint there"));
    nothing.order.resume_from = Some(nothing.order.out.clone());
    nothing.steps();

    let file = story.order.data.sets[0][0].clone();
    story.order.data.sets[0].push(file);
    story.order.resume_from = Some(story.order.out.clone());
    let refused = story.refusal();
    assert!(refused.contains("the data was"), "{refused}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_run_goes_on_in_smaller_portions_of_the_same_steps() {
    let large = json!({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1});
    let small = json!({
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "gradient_checkpointing": "block",
    });
    let straight = Story::tiny(recipe(large.clone()));
    straight.steps();
    let mut story = Story::tiny(recipe(large));
    let (result, _) = story.run_until(Some(4));
    assert!(matches!(result, Err(EngineError::Stopped { step: 4 })));
    story.order.recipe = Story::tiny(recipe(small)).order.recipe;
    story.order.resume_from = Some(story.order.out.clone());
    story.run().0.unwrap();
    for (a, b) in metrics(&straight).iter().zip(&metrics(&story)) {
        assert_eq!((a.step, a.supervised_tokens, a.epoch), (b.step, b.supervised_tokens, b.epoch));
        assert!((a.loss - b.loss).abs() < 1e-5 * a.loss, "step {}: {} {}", a.step, a.loss, b.loss);
    }
}
