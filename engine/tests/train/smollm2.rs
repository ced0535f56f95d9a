//! A real model: SmolLM2-135M-Instruct from its GGUF file (`scripts/fetch-smollm2`), skipped where that is not.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use fleetune_engine::model::Model;
use fleetune_shared::recipe::{PeftType, RecipeFile};
use serde_json::{Value, json};

use crate::curves::{Point, assert_follows, reference};
use crate::places::smollm2;
use crate::{Story, fixture, preference};

/// Tensors of a module beside its A and B, its weight given.
type More = dyn Fn(&str, &Tensor) -> Vec<(String, Tensor)>;

/// The adapter that the peers' runs on SmolLM2 began with: the A that `stored` holds, B zero, and what `more` adds for each
/// module, its weight given; its configuration changed by `keys`.
fn beginning(base: &Path, stored: &Path, init: &Path, keys: Value, more: &More) {
    let config = std::fs::read_to_string(stored.join("adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    std::fs::create_dir(init).unwrap();
    std::fs::write(init.join("adapter_config.json"), config.to_string()).unwrap();
    let halves: HashMap<String, Tensor> =
        candle_core::safetensors::load(stored.join("lora_A.safetensors"), &Device::Cpu).unwrap();
    let model = Model::load(base).unwrap();
    let mut all = halves.clone();
    for (name, weight) in model.weights() {
        let Some(module) = name.strip_suffix(".weight") else { continue };
        let key = format!("base_model.model.{module}.lora_A.weight");
        let Some(a) = halves.get(&key) else { continue };
        let shape = (weight.dim(0).unwrap(), a.dim(0).unwrap());
        let b = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        all.insert(key.replace("lora_A", "lora_B"), b);
        all.extend(more(module, weight));
    }
    candle_core::safetensors::save(&all, init.join("adapter_model.safetensors")).unwrap();
}

/// What most runs are followed for, and the one that is followed furthest: once through the rows and on to rows seen
/// before. The tiny models' runs are followed to their ends, and these too where [`WHOLE`] is set.
const STEPS: usize = 3;
const MOST_STEPS: usize = 8;

/// With it runs are followed to their ends.
const WHOLE: &str = "FLEETUNE_CURVES_WHOLE";

/// The run `name`, its first `steps` steps: its rate is constant, so that they are a run of their own.
fn beginning_of(base: &Path, name: &str, steps: usize) -> (Story, Vec<Point>) {
    let (mut story, mut expected) = reference(base, "smollm2", name);
    if std::env::var_os(WHOLE).is_none() {
        expected.truncate(steps);
    }
    let max_steps = Some(expected.len() as i64);
    let file = RecipeFile { max_steps, ..story.order.recipe.file().clone() };
    story.order.recipe = file.try_into().unwrap();
    (story, expected)
}

fn follows(name: &str, steps: usize, keys: Value, more: &More) {
    let Some(base) = smollm2() else { return };
    let (mut story, expected) = beginning_of(&base, name, steps);
    let init = story.out.path().join("init");
    beginning(&base, &fixture("train/smollm2/lora.init"), &init, keys, more);
    story.order.init_adapter = Some(init);
    assert_follows(&format!("smollm2 {name}"), &story, &expected);
}

#[test]
fn lora_on_smollm2_follows_peft() {
    follows("lora", MOST_STEPS, json!({}), &|_, _| Vec::new());
}

#[test]
fn rslora_on_smollm2_follows_peft() {
    follows("rslora", STEPS, json!({"use_rslora": true}), &|_, _| Vec::new());
}

#[test]
fn dora_on_smollm2_follows_peft() {
    follows("dora", STEPS, json!({"use_dora": true}), &|module, weight| {
        let key = format!("base_model.model.{module}.lora_magnitude_vector");
        vec![(key, weight.sqr().unwrap().sum(1).unwrap().sqrt().unwrap())]
    });
}

#[test]
fn ia3_on_smollm2_follows_peft() {
    let Some(base) = smollm2() else { return };
    let (mut story, expected) = beginning_of(&base, "ia3", STEPS);
    let file = RecipeFile { peft_type: Some(PeftType::Ia3), ..story.order.recipe.file().clone() };
    story.order.recipe = file.try_into().unwrap();
    assert_follows("smollm2 ia3", &story, &expected);
}

#[test]
fn preferences_on_smollm2_follow_trl() {
    let Some(base) = smollm2() else { return };
    for name in ["dpo_sigmoid", "kto"] {
        let (mut story, expected) = preference::reference(&base, "smollm2", name, 4);
        let stored = story.order.init_adapter.take().unwrap();
        let init = story.out.path().join("init");
        beginning(&base, &stored, &init, json!({}), &|_, _| Vec::new());
        story.order.init_adapter = Some(init);
        preference::assert_follows(name, &story, &expected);
    }
}

#[test]
fn full_fine_tuning_of_smollm2_follows_pytorch() {
    let Some(base) = smollm2() else { return };
    let (story, expected) = beginning_of(&base, "full", STEPS);
    assert_follows("smollm2 full", &story, &expected);
}
