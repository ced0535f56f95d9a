//! An adapter made here, for PEFT to open: `tests/interop/run` compares the logits on the other side.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use fleetune_engine::data::Tokenizer;
use fleetune_engine::{adapter, model::Model};
use fleetune_tests::{demo_asset, fixture};

/// Trains for a few steps, so that B is not zero, and writes base, adapter and logits into `out`.
fn make(out: &Path) -> f32 {
    let base = fixture("models/tiny-llama");
    let recipe = out.join("recipe.yaml");
    let text = format!(
        "model_name_or_path: {}\ndataset_name: {}\nr: 8\nlora_alpha: 16\nmax_steps: 12\nmax_length: 256\n\
         per_device_train_batch_size: 4\nlearning_rate: 1e-2\n",
        base.display(),
        demo_asset("data.jsonl").display()
    );
    fs::write(&recipe, text).expect("a recipe");
    let adapter_folder = out.join("adapter");
    let status = Command::new(env!("CARGO_BIN_EXE_fleetune-under-test"))
        .args([
            "train",
            &recipe.display().to_string(),
            "--out",
            &adapter_folder.display().to_string(),
        ])
        .status();
    assert!(status.is_ok_and(|s| s.success()), "training failed");

    let path = |name: &str| out.join(name).display().to_string();
    let (base_path, adapter_path) = (base.display().to_string(), path("adapter"));
    for words in [
        vec![&*base_path, "--gguf", &*path("gguf/model.gguf"), "--type", "f32"],
        vec![&*adapter_path, "--base", &*base_path, "--gguf", &*path("gguf/adapter.gguf")],
    ] {
        let status = Command::new(env!("CARGO_BIN_EXE_fleetune-under-test"))
            .arg("export")
            .args(&words)
            .status();
        assert!(status.is_ok_and(|s| s.success()), "export {words:?} failed");
    }

    fs::create_dir_all(out.join("base")).expect("a folder");
    for file in fs::read_dir(&base).expect("the base").flatten() {
        fs::copy(file.path(), out.join("base").join(file.file_name())).expect("a copy");
    }
    let ids = Tokenizer::load(&base).and_then(|t| t.encode("What is a checkpoint? It holds all."));
    let ids = ids.expect("ids");
    let mut model = Model::load(&base).expect("the base");
    let plain = model.logits(&ids).expect("logits");
    model.attach(adapter::load(&adapter_folder).expect("the adapter")).expect("it fits");
    let logits = model.logits(&ids).expect("logits");
    let moved = ((&logits - &plain).and_then(|d| d.abs()).and_then(|d| d.flatten_all()))
        .and_then(|d| d.max(0)?.to_scalar::<f32>())
        .expect("a number");
    let ids = Tensor::from_iter(ids.iter().copied(), &Device::Cpu).expect("ids");
    let tensors = HashMap::from([("input_ids", ids), ("logits", logits)]);
    candle_core::safetensors::save(&tensors, out.join("logits.safetensors")).expect("a file");
    moved
}

#[test]
fn an_adapter_is_made_for_peft_to_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let out =
        std::env::var_os("FLEETUNE_INTEROP_OUT").map_or(folder.path().to_owned(), PathBuf::from);
    assert!(make(&out) > 1e-2, "the adapter changes what the model says");
    let config =
        fs::read_to_string(out.join("adapter/adapter_config.json")).expect("its configuration");
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!((config["peft_type"].as_str(), config["r"].as_u64()), (Some("LORA"), Some(8)));
}
