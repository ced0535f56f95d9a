//! Adapters on disk: PEFT's very format, and refusals in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use fleetune_engine::adapter::{self, Adapter, Layer, LoraLayer};
use fleetune_engine::model::Model;
use fleetune_shared::AdapterConfig;
use fleetune_shared::recipe::{LoraInit, Quantization, TargetModules};
use serde_json::{Value, json};

use crate::{fixture, max_abs, tensors};

const PEFT: &str = "gradients/tiny-llama-lora";

fn lora() -> AdapterConfig {
    AdapterConfig {
        r: 4,
        lora_alpha: 8.0,
        target_modules: TargetModules::Names(vec!["q_proj".into(), "down_proj".into()]),
        ..AdapterConfig::default()
    }
}

/// The pair beside `q_proj` of the first block, and its scaling.
fn first(adapter: &Adapter) -> (Tensor, Tensor, f64) {
    match adapter.layer("model.layers.0.self_attn.q_proj") {
        Some(Layer::Lora(LoraLayer { a, b, scaling, .. })) => (a.clone(), b.clone(), *scaling),
        other => panic!("{other:?}"),
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
    model.attach(Adapter::fresh(model.spec(), lora(), 1).unwrap()).unwrap();
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
    let drawn = |seed| {
        let (a, ..) = first(&Adapter::fresh(&spec, lora(), seed).unwrap());
        a.to_vec2::<f32>().unwrap()
    };
    assert_eq!(drawn(3), drawn(3));
    assert_ne!(drawn(3), drawn(4));
}

#[test]
fn what_peft_wrote_comes_back_as_it_was() {
    let adapter = adapter::load(&fixture(PEFT)).unwrap();
    let config = adapter.config().clone();
    assert_eq!((first(&adapter).2, adapter.layers().count()), (2.0, 14));
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
    let adapter = Adapter::fresh(model.spec(), lora(), 1).unwrap();
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
    let scaling = |use_rslora| {
        let config = AdapterConfig { use_rslora, ..lora() };
        first(&Adapter::fresh(&spec, config, 0).unwrap()).2
    };
    assert_eq!((scaling(true), scaling(false)), (4.0, 2.0));
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
        ("peft_type", json!("LOHA"), "`peft_type` is \"LOHA\""),
        ("peft_type", json!("IA3"), "does not belong to the `peft_type`"),
        ("use_dora", json!(true), "has no lora_magnitude_vector, but `use_dora` is true"),
        ("lora_bias", json!(true), "has no lora_B.bias, but `lora_bias` is true"),
        ("fan_in_fan_out", json!(true), "`fan_in_fan_out`"),
        ("rank_pattern", json!({"q_proj": 4}), "not of rank 4"),
        ("init_lora_weights", json!("corda"), "`init_lora_weights` is \"corda\""),
        ("r", json!(0), "`r` is 0"),
        ("r", json!(16), "not of rank 16"),
        ("target_modules", json!(["q_proj"]), "target_modules does not name"),
        ("target_modules", json!("(?<=q).*"), "look-around"),
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
    let message = model.attach(Adapter::fresh(&wider, lora(), 0).unwrap()).unwrap_err().to_string();
    assert!(message.contains("`model.layers.0.self_attn.q_proj` is 128 → 64"), "{message}");
    let mut deeper = model.spec().clone();
    deeper.num_hidden_layers = 3;
    let message =
        model.attach(Adapter::fresh(&deeper, lora(), 0).unwrap()).unwrap_err().to_string();
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
    let target_modules = TargetModules::Names(vec!["c_attn".into()]);
    let wrong = AdapterConfig { target_modules, ..lora() };
    let message = Adapter::fresh(&spec, wrong, 0).unwrap_err().to_string();
    assert!(message.contains("is c_attn") && message.contains("q_proj"), "{message}");
}

/// Adapters PEFT made, of every kind, and what it said with them.
#[test]
fn logits_with_an_adapter_are_those_of_peft() {
    for name in ["rslora", "dora", "ia3", "lora_patterns"] {
        let folder = fixture(&format!("adapters/{name}"));
        let mut model = tiny();
        model.attach(adapter::load(&folder).unwrap()).unwrap();
        let reference = tensors(&format!("adapters/{name}/logits.safetensors"));
        for row in 0..2 {
            let ids = |key: &str| reference[key].get(row).unwrap().to_vec1::<i64>().unwrap();
            let length = ids("attention_mask").into_iter().filter(|seen| *seen == 1).count();
            let ids: Vec<u32> = ids("input_ids")[..length].iter().map(|id| *id as u32).collect();
            let expected = reference["logits_adapter"].get(row).unwrap();
            let expected = expected.narrow(0, 0, length).unwrap();
            let error = max_abs(&model.logits(&ids).unwrap(), &expected);
            assert!(error < 1e-4, "{name}, row {row}: logits are off by {error:e}");
        }
    }
}

#[test]
fn every_kind_is_written_as_peft_wrote_it() {
    for name in ["rslora", "dora", "ia3", "lora_patterns"] {
        let folder = fixture(&format!("adapters/{name}"));
        let adapter = adapter::load(&folder).unwrap();
        let config = adapter.config().clone();
        let mut model = tiny();
        model.attach(adapter).unwrap();
        let out = tempfile::tempdir().unwrap();
        adapter::save(out.path(), &model, &config).unwrap();
        let saved = out.path().join("adapter_model.safetensors");
        let found = candle_core::safetensors::load(saved, &Device::Cpu).unwrap();
        let expected = tensors(&format!("adapters/{name}/adapter_model.safetensors"));
        assert_eq!(found.len(), expected.len(), "{name}");
        for (key, tensor) in expected {
            assert_eq!(found[&key].dims(), tensor.dims(), "{key}");
            assert_eq!(max_abs(&found[&key], &tensor), 0.0, "{name}: {key}");
        }
        let found = json_of(&out.path().join("adapter_config.json"));
        let expected = json_of(&folder.join("adapter_config.json"));
        for (key, value) in
            found.as_object().unwrap().iter().filter(|(key, _)| *key != "peft_version")
        {
            assert_eq!(value, &expected[key], "{name}: {key}");
        }
    }
}

#[test]
fn how_adapters_begin() {
    let spec = tiny().spec().clone();
    let begin = |init_lora_weights| {
        let config = AdapterConfig { init_lora_weights, r: 8, ..lora() };
        first(&Adapter::fresh(&spec, config, 3).unwrap())
    };
    let deviation = |x: &Tensor| {
        let squares = x.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        f64::from(squares).sqrt()
    };
    let (a, b, _) = begin(LoraInit::Gaussian);
    assert!((deviation(&a) * 8.0 - 1.0).abs() < 0.1 && deviation(&b) == 0.0);
    let (a, b, _) = begin(LoraInit::NonZero);
    assert!(deviation(&a) > 0.01 && deviation(&b) > 0.01);
    let (a, b, _) = begin(LoraInit::Orthogonal);
    assert!(deviation(&a) > 0.01 && deviation(&b) > 0.01);
    assert!(deviation(&b.matmul(&a).unwrap()) < 1e-6, "B·A begins as zero");
    let odd = AdapterConfig { init_lora_weights: LoraInit::Orthogonal, r: 3, ..lora() };
    let message = Adapter::fresh(&spec, odd, 3).unwrap_err().to_string();
    assert!(message.contains("`r` is 3, expected an even rank"), "{message}");
}

#[test]
fn magnitudes_begin_as_the_lengths_of_rows() {
    let ids = [1, 2, 3];
    let mut model = tiny();
    let before = model.logits(&ids).unwrap();
    let config = AdapterConfig { use_dora: true, ..lora() };
    model.attach(Adapter::fresh(model.spec(), config, 1).unwrap()).unwrap();
    assert!(max_abs(&before, &model.logits(&ids).unwrap()) < 1e-5);
    let weights = tensors("models/tiny-llama/model.safetensors");
    let key = "base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector";
    let found = model.trainables().find(|t| t.name == key).unwrap();
    let expected = weights["model.layers.1.mlp.down_proj.weight"].sqr().unwrap().sum(1).unwrap();
    assert!(max_abs(&found.value, &expected.sqrt().unwrap()) < 1e-6);
}

#[test]
fn modules_trained_whole_must_be_there() {
    let folder = with_config("modules_to_save", json!(["lm_head"]));
    let refused = tiny().attach(adapter::load(folder.path()).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("modules_to_save asks for `lm_head.weight`"), "{refused}");

    let with_head = |head: Tensor| {
        let mut weights = tensors(&format!("{PEFT}/adapter_model.safetensors"));
        weights.insert("base_model.model.lm_head.weight".into(), head);
        let path = folder.path().join("adapter_model.safetensors");
        candle_core::safetensors::save(&weights, path).unwrap();
        adapter::load(folder.path()).unwrap()
    };
    let small = Tensor::zeros((8, 64), candle_core::DType::F32, &Device::Cpu).unwrap();
    let refused = tiny().attach(with_head(small)).unwrap_err().to_string();
    assert!(refused.contains("`lm_head.weight` is [8, 64], the model's is [512, 64]"), "{refused}");
    let mut model = tiny();
    model
        .attach(with_head(Tensor::zeros((512, 64), candle_core::DType::F32, &Device::Cpu).unwrap()))
        .unwrap();
    let logits = model.logits(&[1, 2]).unwrap();
    assert_eq!(max_abs(&logits, &logits.zeros_like().unwrap()), 0.0);
}

#[test]
fn what_pissa_leaves_of_the_base_is_what_peft_leaves() {
    // PEFT takes the same part out of the base again when it loads such an adapter.
    let folder = fixture("train/tiny-llama/pissa.init");
    let mut model = tiny();
    let before = model.logits(&[1, 2, 3]).unwrap();
    model.attach(adapter::load(&folder).unwrap()).unwrap();
    assert!(max_abs(&model.logits(&[1, 2, 3]).unwrap(), &before) < 1e-4);
    let found: BTreeMap<&str, &Tensor> = model.weights().collect();
    for (name, expected) in tensors("train/tiny-llama/pissa.residual.safetensors") {
        let error = max_abs(found[name.as_str()], &expected);
        assert!(error < 1e-5, "{name}: {error:e}");
    }
}

#[test]
fn taking_a_part_of_the_base_changes_nothing_at_first() {
    let ids = [1, 2, 3, 4];
    let before = tiny().logits(&ids).unwrap();
    for init_lora_weights in [LoraInit::Pissa { niter: None }, LoraInit::Olora] {
        let config = AdapterConfig { init_lora_weights, ..lora() };
        let mut model = tiny();
        model.attach(Adapter::fresh(model.spec(), config.clone(), 1).unwrap()).unwrap();
        assert!(max_abs(&model.logits(&ids).unwrap(), &before) < 1e-4);
        // Each pair is of a size with the weight it came from.
        let large = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(model.trainables().all(|t| large(&t.value) > 0.01));
        for t in model.trainables_mut() {
            t.value = (&t.value * 1.3).unwrap();
        }
        let moved = model.logits(&ids).unwrap();
        assert!(max_abs(&moved, &before) > 1e-2);

        // As a plain adapter of twice the rank it says the same beside the whole base; as it is, beside the rest.
        let folder = tempfile::tempdir().unwrap();
        for save in [adapter::save_plain, adapter::save] {
            save(folder.path(), &model, &config).unwrap();
            let mut again = tiny();
            again.attach(adapter::load(folder.path()).unwrap()).unwrap();
            let error = max_abs(&again.logits(&ids).unwrap(), &moved);
            assert!(error < 1e-4, "{init_lora_weights:?}: {error:e}");
        }
        adapter::save_plain(folder.path(), &model, &config).unwrap();
        let plain = adapter::load(folder.path()).unwrap();
        assert_eq!((plain.config().r, plain.config().lora_alpha), (8, 16.0));
    }
}

#[test]
fn a_part_cannot_be_taken_of_what_is_held_in_few_bits() {
    let how = Quantization::EightBit;
    let mut model = Model::load_as(&fixture("models/tiny-llama"), how).unwrap();
    let init_lora_weights = LoraInit::Pissa { niter: None };
    let config = AdapterConfig { init_lora_weights, ..lora() };
    let adapter = Adapter::fresh(model.spec(), config, 1).unwrap();
    let message = model.attach(adapter).unwrap_err().to_string();
    assert!(message.contains("q_proj.weight`, which is held in fewer bits"), "{message}");
}
