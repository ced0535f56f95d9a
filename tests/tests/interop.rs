//! Adapters that cross between this engine and PEFT: `tests/interop/run` holds the other side.
//!
//! ```text
//!   trained here ─▶ FLEETUNE_INTEROP_OUT/KIND ─▶ PEFT loads it, same logits
//!   trained in PEFT ─▶ FLEETUNE_INTEROP_IN/KIND ─▶ loaded here, same logits; trained on; merged, same logits
//! ```

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use fleetune_engine::data::Tokenizer;
use fleetune_engine::{adapter, model::Model};
use fleetune_tests::{demo_asset, fixture};

/// Kinds of adapter, and the recipe keys that ask for them.
const KINDS: [(&str, &str); 10] = [
    ("lora", "r: 8\nlora_alpha: 16"),
    ("rslora", "r: 8\nlora_alpha: 16\nuse_rslora: true"),
    ("dora", "r: 8\nlora_alpha: 16\nuse_dora: true"),
    ("ia3", "peft_type: IA3"),
    (
        "patterns",
        "r: 4\ntarget_modules: [q_proj, v_proj, down_proj]\nrank_pattern: {down_proj: 16}\n\
         alpha_pattern: {layers.1.self_attn.q_proj: 3}",
    ),
    (
        "modules_to_save",
        "r: 4\ntarget_modules: [q_proj, v_proj]\nmodules_to_save: [embed_tokens, lm_head]",
    ),
    ("embedding", "r: 4\ntarget_modules: [embed_tokens, q_proj]"),
    ("head", "r: 4\ntarget_modules: [lm_head, q_proj]"),
    ("some_blocks", "r: 4\ntarget_modules: [q_proj]\nlayers_to_transform: [1]\nlora_dropout: 0.1"),
    ("pissa", "r: 4\ninit_lora_weights: pissa"),
];

fn fleetune(args: &[&str]) -> bool {
    let status = Command::new(env!("CARGO_BIN_EXE_fleetune-under-test")).args(args).status();
    status.is_ok_and(|status| status.success())
}

fn train(base: &Path, keys: &str, out: &Path) {
    let recipe = out.with_extension("yaml");
    let text = format!(
        "model_name_or_path: {}\ndataset_name: {}\nmax_steps: 12\nmax_length: 256\n\
         per_device_train_batch_size: 4\nlearning_rate: 1e-2\n{keys}\n",
        base.display(),
        demo_asset("data.jsonl").display()
    );
    fs::write(&recipe, text).expect("a recipe");
    let trained =
        fleetune(&["train", &recipe.display().to_string(), "--out", &out.display().to_string()]);
    assert!(trained, "training failed");
}

fn prompt(base: &Path) -> Vec<u32> {
    let tokenizer = Tokenizer::load(base).expect("a tokenizer");
    tokenizer.encode("What is a checkpoint? It holds all.").expect("ids")
}

fn logits(base: &Path, adapter: Option<&Path>, ids: &[u32]) -> Tensor {
    let mut model = Model::load(base).expect("the base");
    if let Some(folder) = adapter {
        model.attach(adapter::load(folder).expect("the adapter")).expect("it fits");
    }
    model.logits(ids).expect("logits")
}

fn apart(a: &Tensor, b: &Tensor) -> f32 {
    let apart = (a - b).and_then(|d| d.abs()).and_then(|d| d.flatten_all());
    apart.and_then(|d| d.max(0)?.to_scalar()).expect("a number")
}

/// Trains for a few steps, and writes adapter and logits into `out`; how far the adapter moves them.
fn make(keys: &str, out: &Path) -> f32 {
    let base = fixture("models/tiny-llama");
    fs::create_dir_all(out).expect("a folder");
    let folder = out.join("adapter");
    train(&base, keys, &folder);
    let ids = prompt(&base);
    let found = logits(&base, Some(&folder), &ids);
    let moved = apart(&found, &logits(&base, None, &ids));
    let ids = Tensor::from_iter(ids.iter().copied(), &Device::Cpu).expect("ids");
    let tensors = HashMap::from([("input_ids", ids), ("logits", found)]);
    candle_core::safetensors::save(&tensors, out.join("logits.safetensors")).expect("a file");
    moved
}

/// The base and the adapter in `out` as GGUF, for llama.cpp's own package.
fn export(out: &Path) {
    let path = |name: &str| out.join(name).display().to_string();
    let base = fixture("models/tiny-llama").display().to_string();
    let (model, adapter) = (path("gguf/model.gguf"), path("gguf/adapter.gguf"));
    assert!(fleetune(&["export", &base, "--gguf", &model, "--type", "f32"]));
    assert!(fleetune(&["export", &path("adapter"), "--base", &base, "--gguf", &adapter]));
}

#[test]
fn adapters_are_made_for_peft_to_open() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = std::env::var_os("FLEETUNE_INTEROP_OUT");
    let out = out.map_or(folder.path().to_owned(), PathBuf::from);
    for (kind, keys) in KINDS {
        assert!(
            make(keys, &out.join(kind)) > 1e-2,
            "{kind}: the adapter changes what the model says"
        );
        if kind == "lora" {
            export(&out.join(kind));
        }
        let config = fs::read_to_string(out.join(kind).join("adapter/adapter_config.json"));
        let config: serde_json::Value =
            serde_json::from_str(&config.expect("its configuration")).expect("JSON");
        let expected = if kind == "ia3" { "IA3" } else { "LORA" };
        assert_eq!(config["peft_type"], expected, "{kind}");
    }
}

/// Folders that `tests/interop/make_in_peft.py` wrote.
#[test]
fn adapters_peft_made_answer_and_go_on_here() {
    let Some(all) = std::env::var_os("FLEETUNE_INTEROP_IN").map(PathBuf::from) else {
        eprintln!("skipped: FLEETUNE_INTEROP_IN is not set, see tests/interop/run");
        return;
    };
    let base = fixture("models/tiny-llama");
    let mut seen = 0;
    for kind in fs::read_dir(&all).expect("a folder").flatten().map(|entry| entry.path()) {
        let name = kind.file_name().unwrap_or_default().display().to_string();
        let read = candle_core::safetensors::load(kind.join("logits.safetensors"), &Device::Cpu);
        let read = read.expect("logits");
        let ids = read["input_ids"].to_vec1::<i64>().expect("ids");
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        let adapter = kind.join("adapter");
        let error = apart(&logits(&base, Some(&adapter), &ids), &read["logits"]);
        eprintln!("{name}: logits within {error:.1e} of PEFT's");
        assert!(error < 1e-4, "{name}: {error:e}");

        let out = tempfile::tempdir().expect("a folder");
        let further = out.path().join("further");
        train(&base, &format!("init_adapter: {}\nsave_steps: 0", adapter.display()), &further);
        let moved = apart(&logits(&base, Some(&further), &ids), &read["logits"]);
        assert!(moved > 1e-2, "{name}: training on changed nothing");

        let merged = kind.join("merged_here");
        let text = [&base, &adapter, &merged].map(|path| path.display().to_string());
        let [base_text, adapter_text, merged_text] = &text;
        if MERGED.contains(&name.as_str()) {
            assert!(fleetune(&[
                "merge",
                "--base",
                base_text,
                "--adapter",
                adapter_text,
                "--out",
                merged_text
            ]));
            let error = apart(&logits(&merged, None, &ids), &read["logits"]);
            eprintln!("{name}: logits after merging here within {error:.1e} of PEFT's");
            assert!(error < 1e-4, "{name}: merged, {error:e}");
        }
        seen += 1;
    }
    assert!(seen > 0, "{} is empty", all.display());
}

/// Kinds that are merged into the base too.
const MERGED: [&str; 6] = ["lora", "rslora", "dora", "ia3", "patterns", "modules_to_save"];
