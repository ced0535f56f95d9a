//! Whole models merged: against mergekit's own results (`tests/fixtures/make_merges.py`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use fleetune_engine::Result;
use fleetune_engine::merge::{ModelMergeOrder, ModelMergeSummary, merge_models};
use fleetune_engine::model::Model;
use fleetune_engine::train::Observer;
use fleetune_shared::{ModelMerge, TrainerEvent};
use tempfile::TempDir;

fn fixture(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", path].iter().collect()
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

struct Deaf;

impl Observer for Deaf {
    fn event(&mut self, _: TrainerEvent) {}
}

/// The three models of the fixtures, in a folder of their own: `base`, `lora` and `dora`.
struct Models(TempDir);

impl Models {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tiny = fixture("models/tiny-llama");
        for (name, weights) in [
            ("base", tiny.join("model.safetensors")),
            ("lora", fixture("merge/lora.merged.safetensors")),
            ("dora", fixture("merge/dora.merged.safetensors")),
        ] {
            let model = folder.path().join(name);
            std::fs::create_dir(&model).unwrap();
            std::fs::copy(weights, model.join("model.safetensors")).unwrap();
            for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
                std::fs::copy(tiny.join(file), model.join(file)).unwrap();
            }
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Merges what `text` says, its paths from this folder, into `out`.
    fn merge(&self, text: &str, seed: u64) -> Result<ModelMergeSummary> {
        let folder = self.0.path().display();
        let mut merge = ModelMerge::read(text).unwrap();
        for model in merge.models.iter_mut().map(|m| &mut m.path).chain(&mut merge.base) {
            *model = format!("{folder}/{model}");
        }
        let order = ModelMergeOrder { merge, seed, out: self.path("out"), compare: true };
        merge_models(&order, &mut Deaf)
    }

    fn out(&self) -> HashMap<String, Tensor> {
        tensors(&self.path("out/model.safetensors"))
    }
}

fn apart(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn every_method_gives_what_mergekit_gives() {
    let models = Models::new();
    let path = fixture("merge/models.safetensors");
    let expected = tensors(&path);
    let file = std::fs::read(&path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    let texts = header.metadata().as_ref().unwrap();
    assert_eq!(texts.len(), 5);
    for (name, text) in texts {
        let summary = models.merge(text, 0).unwrap();
        let found = models.out();
        let mut checked = 0;
        for (key, expected) in &expected {
            let Some(tensor) = key.strip_prefix(&format!("{name}/")) else { continue };
            let apart = apart(&found[tensor], expected);
            assert!(apart < 1e-5, "{key}: {apart}");
            checked += 1;
        }
        assert_eq!(checked, 3);
        // The result is a model, and it is told how far it is from what it was made of.
        assert!(Model::load(&models.path("out")).is_ok());
        assert!(summary.logit_differences.iter().all(|it| it.difference > 1e-3), "{summary:?}");
        for file in ["config.json", "tokenizer.json", "report.json", "origin.json"] {
            assert!(models.path("out").join(file).exists(), "{file}");
        }
    }
}

#[test]
fn draws_follow_the_seed() {
    let models = Models::new();
    for method in ["dare_linear", "dare_ties"] {
        let text = format!(
            "{{merge_method: {method}, base_model: base, parameters: {{density: 0.5, weight: 1}},
              models: [{{model: lora}}, {{model: dora}}], dtype: float32}}"
        );
        let run = |seed| {
            models.merge(&text, seed).unwrap();
            models.out().remove("model.layers.0.mlp.up_proj.weight").unwrap()
        };
        let (first, again, other) = (run(1), run(1), run(2));
        assert_eq!(apart(&first, &again), 0.0);
        assert!(apart(&first, &other) > 0.0);
    }
}

#[test]
fn the_result_is_stored_as_it_was_asked_for() {
    let models = Models::new();
    let text = "{merge_method: linear, dtype: bfloat16, parameters: {weight: 1},
        models: [{model: lora}, {model: lora}]}";
    models.merge(text, 0).unwrap();
    let lora = tensors(&models.path("lora/model.safetensors"));
    for (name, found) in models.out() {
        assert_eq!(found.dtype(), candle_core::DType::BF16);
        let expected = lora[&name].to_dtype(found.dtype()).unwrap();
        let same = found.eq(&expected).unwrap().min_all().unwrap().to_scalar::<u8>().unwrap();
        assert_eq!(same, 1, "{name}: half of twice a number is the number");
    }
    let config = std::fs::read_to_string(models.path("out/config.json")).unwrap();
    assert!(config.contains("\"torch_dtype\": \"bfloat16\""), "{config}");
}

#[test]
fn models_of_other_shapes_are_refused_and_leave_nothing() {
    let models = Models::new();
    let other = models.path("other");
    std::fs::create_dir(&other).unwrap();
    let config = r#"{"model_type":"llama","hidden_size":32,"intermediate_size":64,"num_hidden_layers":1,
        "num_attention_heads":2,"vocab_size":64,"max_position_embeddings":64,"rms_norm_eps":1e-5}"#;
    std::fs::write(other.join("config.json"), config).unwrap();
    let model = Model::random(&other, 1).unwrap();
    fleetune_engine::model::save(&other, &model, &other).unwrap();
    let refused = |text: &str| models.merge(text, 0).unwrap_err().to_string();
    let text = "{merge_method: task_arithmetic, base_model: base, models: [{model: other, parameters: {weight: 1}}]}";
    let message = refused(text);
    assert!(message.contains("other: tensor `model.embed_tokens.weight` [64, 32]"), "{message}");
    let text = "{merge_method: slerp, base_model: base, models: [{model: lora}],
        parameters: {t: [{filter: mlp, value: 1}]}}";
    let message = refused(text);
    assert!(
        message.contains("no filter of `t` fits tensor `model.embed_tokens.weight`"),
        "{message}"
    );
    let text = text.replace("model: lora", "model: lorax");
    assert!(refused(&text).contains("lorax"));
    let left = std::fs::read_dir(models.path("out")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == ".result.tmp"), "{left:?}");
}
