//! A real model: SmolLM2-135M-Instruct from its GGUF file (`scripts/fetch-smollm2`), skipped where that is not.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use fleetune_engine::model::spec_of;

use crate::curves::{assert_follows, reference};
use crate::{Story, fixture, preference};

/// The file, or a line that says why there is no test.
fn smollm2() -> Option<PathBuf> {
    let path = std::env::var_os("FLEETUNE_SMOLLM2")
        .map_or_else(|| fixture("../../models/SmolLM2-135M-Instruct.Q4_1.gguf"), PathBuf::from);
    if !path.is_file() {
        eprintln!("skipped: no {}; run scripts/fetch-smollm2", path.display());
        return None;
    }
    Some(path)
}

/// A folder with the adapter that `stored` holds the A of: B begins as zeros.
fn begun(base: &Path, stored: &Path, story: &Story) -> PathBuf {
    let init = story.out.path().join("init");
    std::fs::create_dir(&init).unwrap();
    let name = "adapter_config.json";
    std::fs::copy(stored.join(name), init.join(name)).unwrap();
    let halves: HashMap<String, Tensor> =
        candle_core::safetensors::load(stored.join("lora_A.safetensors"), &Device::Cpu).unwrap();
    let rows: HashMap<&str, usize> =
        spec_of(base).unwrap().linears().into_iter().map(|(name, out, _)| (name, out)).collect();
    let mut pairs = halves.clone();
    for (name, a) in &halves {
        let linear = name.trim_end_matches(".lora_A.weight").rsplit('.').next().unwrap();
        let shape = (rows[linear], a.dim(0).unwrap());
        let b = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        pairs.insert(name.replace("lora_A", "lora_B"), b);
    }
    candle_core::safetensors::save(&pairs, init.join("adapter_model.safetensors")).unwrap();
    init
}

#[test]
fn lora_on_smollm2_follows_peft() {
    let Some(base) = smollm2() else { return };
    let (mut story, expected) = reference(&base, "smollm2", "lora");
    let stored = story.order.init_adapter.take().unwrap();
    story.order.init_adapter = Some(begun(&base, &stored, &story));
    assert_follows("smollm2 lora", &story, &expected);
}

#[test]
fn preferences_on_smollm2_follow_trl() {
    let Some(base) = smollm2() else { return };
    for name in ["dpo_sigmoid", "kto"] {
        let (mut story, expected) = preference::reference(&base, "smollm2", name, 4);
        let stored = story.order.init_adapter.take().unwrap();
        story.order.init_adapter = Some(begun(&base, &stored, &story));
        preference::assert_follows(name, &story, &expected);
    }
}

#[test]
fn full_fine_tuning_of_smollm2_follows_pytorch() {
    let Some(base) = smollm2() else { return };
    let (story, expected) = reference(&base, "smollm2", "full");
    assert_follows("smollm2 full", &story, &expected);
}
