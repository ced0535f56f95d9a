//! Adapters on disk: PEFT's very format, and refusals in words.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use fleetune_engine::adapter::{self, Adapter};
use fleetune_engine::model::Model;
use fleetune_shared::recipe::{Lora, Targets};
use serde_json::{Value, json};

use crate::{fixture, max_abs, tensors};

const PEFT: &str = "gradients/tiny-llama-lora";

fn lora() -> Lora {
    Lora {
        r: 4,
        lora_alpha: 8.0,
        target_modules: Targets::Names(vec!["q_proj".into(), "down_proj".into()]),
        ..Lora::default()
    }
}

fn tiny() -> Model {
    Model::load(&fixture("models/tiny-llama")).unwrap()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_fresh_adapter_changes_nothing_and_begins_as_pefts() {
    let ids = [1, 2, 3];
    let mut model = tiny();
    let before = model.logits(&ids).unwrap();
    model.attach(Adapter::fresh(model.spec(), &lora(), "tiny", 1).unwrap()).unwrap();
    assert_eq!(max_abs(&before, &model.logits(&ids).unwrap()), 0.0);
    for trainable in model.trainables_mut().filter(|t| t.name.contains("lora_A")) {
        let bound = 1.0 / (trainable.value.dim(1).unwrap() as f32).sqrt();
        let numbers = trainable.value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let largest = numbers.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        assert!(largest <= bound && largest > 0.9 * bound, "{}: {largest}", trainable.name);
    }
}

#[test]
fn the_seed_decides_how_an_adapter_begins() {
    let spec = tiny().spec().clone();
    let first = |seed| {
        let adapter = Adapter::fresh(&spec, &lora(), "tiny", seed).unwrap();
        adapter.pair("model.layers.0.self_attn.q_proj").unwrap().0.to_vec2::<f32>().unwrap()
    };
    assert_eq!(first(3), first(3));
    assert_ne!(first(3), first(4));
}

#[test]
fn what_peft_wrote_comes_back_as_it_was() {
    let adapter = adapter::load(&fixture(PEFT)).unwrap();
    let config = adapter.config().clone();
    assert_eq!((adapter.scaling(), adapter.modules().count()), (2.0, 14));
    let mut model = tiny();
    model.attach(adapter).unwrap();
    let folder = tempfile::tempdir().unwrap();
    adapter::save(folder.path(), &model, &config).unwrap();

    let saved = folder.path().join("adapter_model.safetensors");
    let found = candle_core::safetensors::load(saved, &Device::Cpu).unwrap();
    let expected = tensors(&format!("{PEFT}/adapter_model.safetensors"));
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in expected {
        assert_eq!(max_abs(&found[&name], &tensor), 0.0, "{name}");
    }
    let found = json_of(&folder.path().join("adapter_config.json"));
    let expected = json_of(&fixture(PEFT).join("adapter_config.json"));
    for (key, value) in found.as_object().unwrap().iter().filter(|(key, _)| *key != "peft_version")
    {
        assert_eq!(value, &expected[key], "{key}");
    }
    // Newer than the set of PEFT 0.19, which older versions would stumble over.
    let keys = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let missing: Vec<String> = keys(&expected).difference(&keys(&found)).cloned().collect();
    assert_eq!(missing, ["kasa_config"]);
}

#[test]
fn a_saved_adapter_gives_the_same_logits() {
    let mut model = tiny();
    let adapter = Adapter::fresh(model.spec(), &lora(), "tiny", 1).unwrap();
    let config = adapter.config().clone();
    model.attach(adapter).unwrap();
    for t in model.trainables_mut() {
        t.value = Tensor::full(0.01_f32, t.value.shape(), &Device::Cpu).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    adapter::save(folder.path(), &model, &config).unwrap();
    let mut again = tiny();
    again.attach(adapter::load(folder.path()).unwrap()).unwrap();
    let ids = [7, 8, 9];
    assert_eq!(max_abs(&again.logits(&ids).unwrap(), &model.logits(&ids).unwrap()), 0.0);
    assert!(max_abs(&again.logits(&ids).unwrap(), &tiny().logits(&ids).unwrap()) > 1e-4);
}

#[test]
fn rank_stabilised_scaling_divides_by_the_root() {
    let spec = tiny().spec().clone();
    let stabilised = Lora { use_rslora: true, ..lora() };
    assert_eq!(Adapter::fresh(&spec, &stabilised, "tiny", 0).unwrap().scaling(), 4.0);
    assert_eq!(Adapter::fresh(&spec, &lora(), "tiny", 0).unwrap().scaling(), 2.0);
}

/// PEFT's folder with one key of its configuration changed.
fn with_config(key: &str, value: Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = json_of(&fixture(PEFT).join("adapter_config.json"));
    config[key] = value;
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    let weights = fs::read(fixture(PEFT).join("adapter_model.safetensors")).unwrap();
    fs::write(folder.path().join("adapter_model.safetensors"), weights).unwrap();
    folder
}

#[test]
fn configurations_we_cannot_serve_are_named() {
    let cases = [
        ("peft_type", json!("IA3"), "`peft_type` is \"IA3\""),
        ("use_dora", json!(true), "`use_dora` is true"),
        ("bias", json!("all"), "`bias` is \"all\""),
        ("lora_bias", json!(true), "`lora_bias`"),
        ("fan_in_fan_out", json!(true), "`fan_in_fan_out`"),
        ("modules_to_save", json!(["lm_head"]), "`modules_to_save` is [\"lm_head\"]"),
        ("rank_pattern", json!({"q_proj": 4}), "`rank_pattern`"),
        ("alpha_pattern", json!({"q_proj": 4}), "`alpha_pattern`"),
        ("init_lora_weights", json!("pissa"), "`init_lora_weights` is \"pissa\""),
        ("r", json!(0), "`r` is 0"),
        ("r", json!(16), "not of rank 16"),
        ("target_modules", json!(["q_proj"]), "target_modules does not name"),
    ];
    for (key, value, part) in cases {
        let message = adapter::load(with_config(key, value).path()).unwrap_err().to_string();
        assert!(message.contains(part), "{key}: {message}");
    }
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let mut model = tiny();
    let mut wider = model.spec().clone();
    wider.hidden_size = 128;
    let message =
        model.attach(Adapter::fresh(&wider, &lora(), "wider", 0).unwrap()).unwrap_err().to_string();
    assert!(message.contains("`model.layers.0.self_attn.q_proj` is 128 → 64"), "{message}");
    let mut deeper = model.spec().clone();
    deeper.num_hidden_layers = 3;
    let message = model
        .attach(Adapter::fresh(&deeper, &lora(), "deeper", 0).unwrap())
        .unwrap_err()
        .to_string();
    assert!(message.contains("no module `model.layers.2"), "{message}");
    let asked = with_config("target_modules", json!("all-linear"));
    let mut weights = tensors(&format!("{PEFT}/adapter_model.safetensors"));
    weights.retain(|name, _| !name.contains("layers.1.mlp.up_proj"));
    let path = asked.path().join("adapter_model.safetensors");
    candle_core::safetensors::save(&weights, path).unwrap();
    let message = model.attach(adapter::load(asked.path()).unwrap()).unwrap_err().to_string();
    assert!(message.contains("asks for `model.layers.1.mlp.up_proj`"), "{message}");
}

#[test]
fn damaged_adapters_are_refused() {
    let edited = |edit: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let folder = with_config("r", json!(8));
        let mut weights = tensors(&format!("{PEFT}/adapter_model.safetensors"));
        edit(&mut weights);
        let path = folder.path().join("adapter_model.safetensors");
        candle_core::safetensors::save(&weights, path).unwrap();
        adapter::load(folder.path()).unwrap_err().to_string()
    };
    let key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let half = edited(&|w| drop(w.remove(key)));
    assert!(half.contains("only one of lora_A and lora_B"), "{half}");
    let nan = edited(&|w| {
        w.insert(key.into(), Tensor::full(f32::NAN, (8, 64), &Device::Cpu).unwrap());
    });
    assert!(nan.contains(key) && nan.contains("NaN"), "{nan}");
    let dora = edited(&|w| {
        let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector";
        let one = Tensor::ones(64, candle_core::DType::F32, &Device::Cpu).unwrap();
        w.insert(name.into(), one);
    });
    assert!(dora.contains("lora_magnitude_vector"), "{dora}");
    let folder = with_config("r", json!(8));
    fs::remove_file(folder.path().join("adapter_model.safetensors")).unwrap();
    fs::write(folder.path().join("adapter_model.bin"), "pickle").unwrap();
    assert!(adapter::load(folder.path()).unwrap_err().to_string().contains("pickle"));
}

#[test]
fn unknown_targets_are_named() {
    let spec = tiny().spec().clone();
    let wrong = Lora { target_modules: Targets::Names(vec!["c_attn".into()]), ..lora() };
    let message = Adapter::fresh(&spec, &wrong, "tiny", 0).unwrap_err().to_string();
    assert!(message.contains("`c_attn`") && message.contains("q_proj"), "{message}");
}
