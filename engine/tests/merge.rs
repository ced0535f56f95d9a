//! Merging: against PEFT's merged weights and logits, and against base + adapter.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{D, DType, Device, IndexOp, Tensor};
use fleetune_engine::adapter;
use fleetune_engine::export::{NumberType, export_model};
use fleetune_engine::generate::Answerer;
use fleetune_engine::merge::{
    Combination, CombineMethod, CombineOrder, MajoritySign, combine_adapters, merge,
};
use fleetune_engine::model::{self, Identity, Model};
use fleetune_engine::train::Observer;
use fleetune_shared::{MergeOnto, MergeOrder, TrainSummary, TrainerEvent};

fn fixture(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", path].iter().collect()
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn max_abs(a: &Tensor, b: &Tensor) -> f32 {
    let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    difference.max(0).unwrap().to_scalar().unwrap()
}

struct Deaf;

impl Observer for Deaf {
    fn event(&mut self, _: TrainerEvent) {}
}

fn merged(model: &Path, out: &Path) -> TrainSummary {
    let adapter = fixture("merge/lora.adapter");
    let order = MergeOrder {
        model: model.into(),
        adapter,
        out: out.into(),
        onto: MergeOnto::AsStored,
        other_base: false,
    };
    merge(&order, &mut Deaf).unwrap()
}

#[test]
fn weights_and_logits_are_those_of_peft() {
    let out = tempfile::tempdir().unwrap();
    let summary = merged(&fixture("models/tiny-llama"), out.path());
    assert!(summary.merge_logit_difference.unwrap() < 1e-4);

    let (found, expected) = (
        tensors(&out.path().join("model.safetensors")),
        tensors(&fixture("merge/lora.merged.safetensors")),
    );
    assert_eq!(found.len(), expected.len());
    for (name, expected) in expected {
        let apart = max_abs(&found[&name], &expected);
        assert!(apart < 1e-5, "{name}: {apart}");
    }

    let logits = tensors(&fixture("merge/lora.logits.safetensors"));
    let model = Model::load(out.path()).unwrap();
    for row in 0..2 {
        let mask = logits["attention_mask"].i(row).unwrap().to_vec1::<i64>().unwrap();
        let length = mask.iter().filter(|m| **m == 1).count();
        let ids = logits["input_ids"].i((row, ..length)).unwrap().to_vec1::<i64>().unwrap();
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        for key in ["logits_merged", "logits_adapter"] {
            let expected = logits[key].i((row, ..length)).unwrap();
            let apart = max_abs(&model.logits(&ids).unwrap(), &expected);
            assert!(apart < 1e-4, "{key} {row}: {apart}");
        }
    }
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "report.json"] {
        assert!(out.path().join(file).exists(), "{file}");
    }
}

#[test]
fn a_base_of_16_bits_stays_one() {
    let (base, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(fixture("models/tiny-llama").join(name), base.path().join(name)).unwrap();
    }
    let halved = tensors(&fixture("models/tiny-llama/model.safetensors"))
        .into_iter()
        .map(|(name, value)| (name, value.to_dtype(DType::BF16).unwrap()))
        .collect();
    candle_core::safetensors::save(&halved, base.path().join("model.safetensors")).unwrap();

    let summary = merged(base.path(), out.path());
    assert!(summary.merge_logit_difference.unwrap() > 0.0);
    let found = tensors(&out.path().join("model.safetensors"));
    assert!(found.values().all(|value| value.dtype() == DType::BF16));
    let config = std::fs::read_to_string(out.path().join("config.json")).unwrap();
    assert!(config.contains("\"torch_dtype\": \"bfloat16\""), "{config}");
}

#[test]
fn an_adapter_of_another_model_leaves_nothing() {
    let (base, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = r#"{"model_type":"llama","hidden_size":32,"intermediate_size":64,"num_hidden_layers":1,
        "num_attention_heads":2,"vocab_size":64,"max_position_embeddings":64,"rms_norm_eps":1e-5}"#;
    std::fs::write(base.path().join("config.json"), config).unwrap();
    let model = Model::random(base.path(), 1).unwrap();
    let other = tempfile::tempdir().unwrap();
    model::save(other.path(), &model, base.path()).unwrap();
    let order = MergeOrder {
        model: other.path().into(),
        adapter: fixture("merge/lora.adapter"),
        out: out.path().into(),
        onto: MergeOnto::AsStored,
        other_base: false,
    };
    let refused = merge(&order, &mut Deaf).unwrap_err().to_string();
    assert!(refused.contains("was it trained on another base?"), "{refused}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}

/// Every kind of PEFT's, against the weights and logits PEFT has after `merge_and_unload`
/// (`tests/fixtures/make_merges.py`).
#[test]
fn every_kind_is_merged_as_peft_merges_it() {
    for kind in ["rslora", "lora_patterns", "dora", "ia3"] {
        let out = tempfile::tempdir().unwrap();
        let order = MergeOrder {
            model: fixture("models/tiny-llama"),
            adapter: fixture("adapters").join(kind),
            out: out.path().into(),
            onto: MergeOnto::Float32,
            other_base: false,
        };
        let summary = merge(&order, &mut Deaf).unwrap();
        assert!(summary.merge_logit_difference.unwrap() < 1e-4, "{kind}: {summary:?}");
        let found = tensors(&out.path().join("model.safetensors"));
        let expected = tensors(&fixture(&format!("merge/{kind}.merged.safetensors")));
        assert!(expected.len() >= 7);
        for (name, expected) in expected {
            let apart = max_abs(&found[&name], &expected);
            assert!(apart < 1e-5, "{kind} {name}: {apart}");
        }
        let logits = tensors(&fixture(&format!("merge/{kind}.logits.safetensors")));
        let ids = logits["input_ids"].to_vec1::<i64>().unwrap();
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        let model = Model::load(out.path()).unwrap();
        let apart = max_abs(&model.logits(&ids).unwrap(), &logits["logits"]);
        assert!(apart < 1e-4, "{kind}: {apart}");
        let origin = std::fs::read_to_string(out.path().join("origin.json")).unwrap();
        assert!(origin.contains("\"onto\": \"float32\""), "{origin}");
    }
}

/// The base QLoRA trained on is not the one on disk: what is merged differs by what four bits lose.
#[test]
fn the_base_may_be_what_four_bits_leave_of_it() {
    let onto = |onto| {
        let out = tempfile::tempdir().unwrap();
        let order = MergeOrder {
            model: fixture("models/tiny-llama"),
            adapter: fixture("merge/lora.adapter"),
            out: out.path().into(),
            onto,
            other_base: false,
        };
        let summary = merge(&order, &mut Deaf).unwrap();
        (summary.merge_logit_difference.unwrap(), tensors(&out.path().join("model.safetensors")))
    };
    let (_, plain) = onto(MergeOnto::AsStored);
    let (difference, four) = onto(MergeOnto::Dequantized4bit { fp4: false, double: true });
    assert!(difference < 1e-4, "{difference}");
    let apart = |name: &str| max_abs(&plain[name], &four[name]);
    assert!(apart("model.layers.0.mlp.up_proj.weight") > 1e-4);
    assert_eq!(apart("lm_head.weight"), 0.0, "only the blocks' linear layers are quantised");
    let (_, halves) = onto(MergeOnto::Bfloat16);
    assert!(halves.values().all(|value| value.dtype() == DType::BF16));
}

/// An embedding's own pair, modules trained whole, and a head that was the embedding until then.
#[test]
fn a_table_that_was_shared_goes_its_own_way() {
    let init = fixture("train/tiny-llama/embed_lora.init");
    for (base, tied) in [("tiny-llama", false), ("tiny-llama-tied", true)] {
        let out = tempfile::tempdir().unwrap();
        let order = MergeOrder {
            model: fixture("models").join(base),
            adapter: init.clone(),
            out: out.path().into(),
            onto: MergeOnto::AsStored,
            other_base: false,
        };
        let summary = merge(&order, &mut Deaf).unwrap();
        assert!(summary.merge_logit_difference.unwrap() < 1e-4, "{base}: {summary:?}");
        let found = tensors(&out.path().join("model.safetensors"));
        assert_eq!(found["lm_head.weight"].dim(D::Minus1).unwrap(), 64);
        let config = std::fs::read_to_string(out.path().join("config.json")).unwrap();
        assert!(config.contains("\"tie_word_embeddings\": false"), "{tied}: {config}");
    }
}

/// `merge/lora.adapter`, in `out` as it would have been left by a training beside `base`.
fn marked(base: &Path, out: &Path) {
    let mut model = Model::load(base).unwrap();
    model.identity = Some(Identity::of(base).unwrap());
    let adapter = adapter::load(&fixture("merge/lora.adapter")).unwrap();
    let config = adapter.config().clone();
    model.attach(adapter).unwrap();
    std::fs::create_dir(out).unwrap();
    adapter::save(out, &model, &config).unwrap();
}

#[test]
fn an_adapter_knows_its_base_in_every_form_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = fixture("models/tiny-llama");
    let stranger = at("stranger");
    std::fs::create_dir(&stranger).unwrap();
    model::save(&stranger, &Model::random(&base, 7).unwrap(), &base).unwrap();
    marked(&base, &at("adapter"));
    let adapter = adapter::load(&at("adapter")).unwrap();

    for kind in NumberType::ALL {
        let form = at(&format!("{}.gguf", kind.name()));
        export_model(&base, &form, kind).unwrap();
        assert_eq!(adapter.stranger_to(&form).unwrap(), None, "{}", kind.name());
        let other = at(&format!("other-{}.gguf", kind.name()));
        export_model(&stranger, &other, kind).unwrap();
        assert!(adapter.stranger_to(&other).unwrap().is_some(), "{}", kind.name());
    }
    let unmarked = adapter::load(&fixture("merge/lora.adapter")).unwrap();
    assert_eq!(unmarked.stranger_to(&stranger).unwrap(), None);

    let order = |model: &Path, other_base| MergeOrder {
        model: model.into(),
        adapter: at("adapter"),
        out: at("merged"),
        onto: MergeOnto::AsStored,
        other_base,
    };
    merge(&order(&base, false), &mut Deaf).unwrap();
    std::fs::remove_dir_all(at("merged")).unwrap();
    let refused = merge(&order(&stranger, false), &mut Deaf).unwrap_err().to_string();
    assert!(refused.contains("trained on another base"), "{refused}");
    assert!(refused.contains("--allow-other-base"), "{refused}");
    assert_eq!(std::fs::read_dir(at("merged")).unwrap().count(), 0);
    merge(&order(&stranger, true), &mut Deaf).unwrap();

    // Trained further by a hair, the base is another one.
    let moved = at("moved");
    let scaled = Model::load(&base).unwrap();
    std::fs::create_dir(&moved).unwrap();
    model::save(&moved, &scaled, &base).unwrap();
    assert_eq!(adapter.stranger_to(&moved).unwrap(), None);
    let file = moved.join("model.safetensors");
    let mut weights = tensors(&file);
    let name = "model.layers.0.mlp.up_proj.weight";
    weights.insert(name.into(), (&weights[name] * 1.0001).unwrap());
    candle_core::safetensors::save(&weights, &file).unwrap();
    assert!(adapter.stranger_to(&moved).unwrap().is_some());

    let warning = |model: &Path| {
        let answerer = Answerer::load(model, Some(&at("adapter"))).unwrap();
        answerer.warning().map(str::to_owned)
    };
    assert_eq!(warning(&base), None);
    assert!(warning(&stranger).unwrap().contains("another base"));
}

#[test]
fn adapters_of_two_bases_are_not_combined_by_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = fixture("models/tiny-llama");
    std::fs::create_dir(at("stranger")).unwrap();
    model::save(&at("stranger"), &Model::random(&base, 7).unwrap(), &base).unwrap();
    for (base, adapter) in [(&base, "mine"), (&base, "too"), (&at("stranger"), "other")] {
        marked(base, &at(adapter));
    }
    let combine = |second: &str, other_base| {
        let combination = Combination {
            method: CombineMethod::named("linear").unwrap(),
            weights: vec![0.5, 0.5],
            density: None,
            majority_sign: MajoritySign::Total,
            svd_rank: None,
            seed: 1,
        };
        let adapters = vec![at("mine"), at(second)];
        let order = CombineOrder { adapters, combination, other_base, out: at("combined") };
        combine_adapters(&order).map(|_| adapter::load(&at("combined")).unwrap())
    };
    let refused = combine("other", false).unwrap_err().to_string();
    assert!(refused.contains("other: was trained on another base"), "{refused}");
    assert!(combine("other", true).unwrap().base().is_none());
    assert_eq!(combine("too", false).unwrap().base(), Some(&Identity::of(&base).unwrap()));
}
