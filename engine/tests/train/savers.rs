//! Ways to hold less, and noise: none of them changes what it should not.

use std::path::Path;

use candle_core::{DType, Device as Place, Tensor};
use fleetune_engine::model::spec_of;
use fleetune_shared::recipe::CheckpointingLevel;
use fleetune_shared::{ByteSize, Estimate, MemoryPlan, StepMetrics};
use serde_json::{Value, json};

use crate::{Story, fixture};

fn recipe(more: Value) -> Value {
    let mut recipe = json!({
        "train_sampling_strategy": "random",
        "per_device_train_batch_size": 4,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 0,
        "save_steps": 3,
    });
    recipe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    recipe
}

fn on(model: &str, more: Value) -> Story {
    let rows = fixture("train/tiny-llama/rows.jsonl");
    Story::new(&fixture(&format!("models/{model}")), &rows, recipe(more))
}

fn same(a: &[StepMetrics], b: &[StepMetrics]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.loss, b.loss, "step {}", a.step);
        // Squares are summed in another order.
        assert!((a.grad_norm - b.grad_norm).abs() < 1e-9 * b.grad_norm, "step {}", a.step);
    }
}

#[test]
fn stepping_in_the_backward_pass_changes_no_bit() {
    for model in ["tiny-llama", "tiny-llama-tied"] {
        for optim in ["adamw_torch", "adafactor"] {
            let keys = json!({"use_peft": false, "optim": optim});
            let after = on(model, keys.clone());
            let mut during = keys;
            during["optimizer_in_backward"] = true.into();
            let during = on(model, during);
            same(&after.steps(), &during.steps());
            let file = "model.safetensors";
            assert!(after.bytes(file) == during.bytes(file), "{model} {optim}");
        }
    }
}

/// Matrices in bf16, every step rounded by chance: near the curve of f32, the same each time, and half as large.
#[test]
fn a_whole_model_learns_in_bf16() {
    let keys = json!({"use_peft": false, "learning_rate": 3e-4, "max_steps": 12});
    let wide = on("tiny-llama-tied", keys.clone());
    let mut narrow = keys;
    narrow["dtype"] = "bfloat16".into();
    let straight = on("tiny-llama-tied", narrow.clone());
    for (f32, bf16) in wide.steps().iter().zip(straight.steps()) {
        let apart = (f32.loss - bf16.loss).abs();
        assert!(apart < 0.02, "step {}: {} and {}", f32.step, f32.loss, bf16.loss);
        assert!(apart > 0.0, "step {}: nothing was rounded", f32.step);
    }
    let file = "model.safetensors";
    assert!(straight.bytes(file).len() * 2 < wide.bytes(file).len() + 10_000);
    let config = String::from_utf8(straight.bytes("config.json")).unwrap();
    assert!(config.contains("\"torch_dtype\": \"bfloat16\""), "{config}");

    narrow["optimizer_in_backward"] = true.into();
    let during = on("tiny-llama-tied", narrow.clone());
    during.steps();
    assert!(straight.bytes(file) == during.bytes(file));

    let mut story = on("tiny-llama-tied", narrow);
    let _ = story.run_until(Some(4));
    story.order.resume_from = Some(story.order.out.clone());
    story.run().0.unwrap();
    assert!(straight.bytes(file) == story.bytes(file), "a resumed run rounds as it would have");
}

#[test]
fn every_level_of_checkpointing_gives_the_same_adapter() {
    let kept = on("tiny-llama", json!({}));
    let steps = kept.steps();
    for level in ["none", "selective", "block", "auto"] {
        let story = on("tiny-llama", json!({"gradient_checkpointing": level}));
        same(&steps, &story.steps());
        let file = "adapter_model.safetensors";
        assert!(kept.bytes(file) == story.bytes(file), "{level}");
    }
}

#[test]
fn auto_keeps_what_there_is_room_for_and_says_so() {
    let story = || on("tiny-llama", json!({"per_device_train_batch_size": 8}));
    let kept = story();
    let (result, watch) = kept.run();
    result.unwrap();
    assert!(watch.logged("gradient_checkpointing: none, by an estimate of"));
    assert!(watch.logged("under no limit"));

    let (spec, recipe) = (spec_of(&kept.order.model).unwrap(), &kept.order.recipe);
    let total = |plan| Estimate::of_plan(&spec, recipe, kept.order.device, &plan).total().0;
    let least = total(MemoryPlan::uniform(CheckpointingLevel::Block));
    let selective = total(MemoryPlan::uniform(CheckpointingLevel::Selective));
    let most = total(MemoryPlan::default());
    for (limit, words) in [
        (most, "none, by"),
        ((most + selective) / 2, "none for the upper"),
        ((selective + least) / 2, "selective for the upper"),
        // Nothing fits, and the least is tried.
        (least - 1, "block, by"),
    ] {
        let mut story = story();
        story.order.memory_bytes_limit = Some(ByteSize(limit));
        let (result, watch) = story.run();
        result.unwrap();
        assert!(watch.logged(&format!("gradient_checkpointing: {words}")), "{words}");
        let file = "adapter_model.safetensors";
        assert!(kept.bytes(file) == story.bytes(file), "{words}");
    }
}

/// One block of two in bf16: near the curve of f32, and what is frozen is saved as it was held.
#[test]
fn a_mostly_frozen_model_learns_in_bf16() {
    let keys = json!({
        "use_peft": false,
        "freeze_trainable_layers": 1,
        "learning_rate": 3e-4,
        "max_steps": 12,
    });
    let wide = on("tiny-llama", keys.clone());
    let mut narrow = keys;
    narrow["dtype"] = "bfloat16".into();
    let straight = on("tiny-llama", narrow.clone());
    for (f32, bf16) in wide.steps().iter().zip(straight.steps()) {
        let apart = (f32.loss - bf16.loss).abs();
        assert!(apart < 0.02, "step {}: {} and {}", f32.step, f32.loss, bf16.loss);
    }
    let tensors = |path: &Path| candle_core::safetensors::load(path, &Place::Cpu).unwrap();
    let file = "model.safetensors";
    let base = tensors(&fixture("models/tiny-llama").join(file));
    let learned = tensors(&straight.order.out.join(file));
    assert_eq!(learned.len(), base.len());
    for (name, before) in &base {
        let after = &learned[name];
        let dtype = if after.rank() == 2 { DType::BF16 } else { DType::F32 };
        assert_eq!(after.dtype(), dtype, "{name}");
        let numbers = |tensor: &Tensor| -> Vec<f32> {
            let tensor = tensor.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
            tensor.flatten_all().unwrap().to_vec1().unwrap()
        };
        assert_eq!(numbers(before) != numbers(after), name.contains("layers.1."), "{name}");
    }

    let mut story = on("tiny-llama", narrow);
    let _ = story.run_until(Some(4));
    story.order.resume_from = Some(story.order.out.clone());
    story.run().0.unwrap();
    assert!(straight.bytes(file) == story.bytes(file), "a resumed run rounds as it would have");
}

#[test]
fn noise_on_embeddings_is_the_seeds() {
    let noisy =
        || on("tiny-llama", json!({"neftune_noise_alpha": 5, "gradient_accumulation_steps": 2}));
    let straight = noisy();
    let steps = straight.steps();
    let clean = on("tiny-llama", json!({"gradient_accumulation_steps": 2})).steps();
    assert!(
        steps.iter().zip(&clean).all(|(a, b)| a.loss != b.loss && (a.loss - b.loss).abs() < 0.5)
    );

    let mut story = noisy();
    let _ = story.run_until(Some(4));
    story.order.resume_from = Some(story.order.out.clone());
    story.run().0.unwrap();
    let file = "adapter_model.safetensors";
    assert!(straight.bytes(file) == story.bytes(file), "a resumed run draws what it would have");
}

#[test]
fn a_smoothed_label_costs_likelihood() {
    let plain = on("tiny-llama", json!({})).steps();
    let smoothed = on("tiny-llama", json!({"label_smoothing_factor": 0.2})).steps();
    // Of an untrained model, the mean of all log-probabilities is not far from that of the labels.
    let (first, smooth) = (plain[0].loss, smoothed[0].loss);
    assert!(first != smooth && (first - smooth).abs() < 0.5, "{first} and {smooth}");
    assert!(smoothed[0].grad_norm < plain[0].grad_norm);
}
