//! What a run does and leaves behind.

use candle_core::{Device, Tensor};
use fleetune_engine::EngineError;
use fleetune_engine::adapter::{self, Layer, LoraLayer};
use fleetune_engine::model::{Identity, Model};
use fleetune_shared::{StepMetrics, TrainSummary, TrainerEvent};
use serde_json::json;

use crate::{Story, device, fixture};

#[test]
fn k_micro_batches_of_b_are_b_of_k() {
    // The twenty rows differ in length and labels, so that a mean of means would show.
    let run = |rows: u64, accumulation: u64| {
        Story::tiny(json!({
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": accumulation,
            "learning_rate": 1e-2,
            "num_train_epochs": 2,
        }))
        .steps()
    };
    let whole = run(4, 1);
    assert_eq!(whole.len(), 10);
    for (rows, accumulation) in [(1, 4), (2, 2), (3, 2)] {
        let parts = run(rows, accumulation);
        if rows == 3 {
            assert_ne!(whole[0].loss, parts[0].loss, "another batch must show");
            continue;
        }
        for (a, b) in whole.iter().zip(&parts) {
            assert_eq!(a.supervised_tokens, b.supervised_tokens);
            assert!((a.loss - b.loss).abs() < 1e-5, "{a:?} {b:?}");
            assert!((a.grad_norm - b.grad_norm).abs() < 1e-5, "{a:?} {b:?}");
        }
    }
}

#[test]
fn a_micro_batch_that_is_large_passes_in_pieces() {
    if device() == fleetune_shared::Device::Cuda {
        // There it passes whole.
        return;
    }
    let run = |rows: u64, accumulation: u64| {
        let story = Story::tiny(json!({
            "packing": true,
            "max_length": 512,
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": accumulation,
            "lora_dropout": 0.1,
            "max_steps": 3,
        }));
        let (summary, watch) = story.run();
        let summary = summary.unwrap();
        assert!(summary.tokens > 3 * 1024, "more than a piece");
        let numbers = |step: &StepMetrics| (step.loss, step.grad_norm, step.supervised_tokens);
        let steps: Vec<_> = watch.steps().into_iter().map(numbers).collect();
        (summary.as_run.unwrap(), steps)
    };
    assert_eq!(run(3, 1), run(2, 2));
}

#[test]
fn the_longest_micro_batch_is_tried_before_shorter_ones_are_learned() {
    let run = Story::tiny(json!({"max_steps": 1, "per_device_train_batch_size": 2})).run();
    assert!(run.1.logged("dry run of the longest micro-batch: 2 rows"));
}

#[test]
fn an_adapter_run_leaves_an_adapter_metrics_and_a_report() {
    let recipe = json!({
        "r": 4, "max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 20, "max_length": 51,
        "over_length": "truncate",
    });
    let story = Story::tiny(recipe);
    let (summary, watch) = story.run();
    let summary = summary.unwrap();
    assert_eq!(summary.steps, 3);
    assert!(summary.loss_last < summary.loss_first);
    // All rows at once are the largest micro-batch there is, and pass in one piece.
    let (ran, estimate) = (summary.as_run.unwrap(), summary.estimate.unwrap());
    assert_eq!((ran.rows, 3 * ran.tokens), (summary.rows, summary.tokens));
    assert!(ran.estimate.total() <= estimate.total());
    assert!(watch.logged(&format!("{} rows", summary.rows)));
    assert!(!watch.logged("dry run"), "the first step is as large as any");
    let told = watch.events.iter().filter(|e| !matches!(e, TrainerEvent::Log { .. }));
    let told: Vec<_> = told.collect();
    assert!(matches!(told[0], TrainerEvent::Started { step: 0, steps_total: 3 }));
    assert!(matches!(told[3], TrainerEvent::Step(m) if m.step == 3 && m.epoch == 3.0));
    assert_eq!(told[4], &TrainerEvent::Finished { summary: summary.clone() });

    let report: TrainSummary = serde_json::from_slice(&story.bytes("report.json")).unwrap();
    assert_eq!((report.steps, report.tokens), (3, summary.tokens));
    assert_eq!(report.estimate, summary.estimate);
    let lines = String::from_utf8(story.bytes("metrics.jsonl")).unwrap();
    let lines: Vec<StepMetrics> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for (line, told) in lines.iter().zip(watch.steps()) {
        assert_eq!((line.step, line.supervised_tokens), (told.step, told.supervised_tokens));
        assert!((line.loss - told.loss).abs() < 1e-12);
    }
    assert_eq!(lines.len(), 3);
    let adapter = adapter::load(&story.order.out).unwrap();
    assert_eq!(adapter.config().base_model_name_or_path.as_deref(), Some("base"));
    assert_eq!(adapter.base(), Some(&Identity::of(&story.order.model).unwrap()));
    let Some(Layer::Lora(LoraLayer { b, .. })) = adapter.layer("model.layers.1.mlp.down_proj")
    else {
        panic!("no pair beside down_proj");
    };
    let moved = b.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(moved > 0.0, "lora_B begins as zeros");
}

#[test]
fn a_full_run_leaves_a_model() {
    let story = Story::tiny(json!({"use_peft": false, "max_steps": 2, "learning_rate": 1e-2}));
    story.steps();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "report.json"] {
        assert!(story.has(file), "{file}");
    }
    let (before, after) = (
        Model::load(&fixture("models/tiny-llama")).unwrap(),
        Model::load(&story.order.out).unwrap(),
    );
    for ((name, a), (_, b)) in before.weights().zip(after.weights()) {
        assert_ne!(numbers(a), numbers(b), "{name} learned nothing");
    }
}

#[test]
fn only_what_a_recipe_thaws_learns() {
    let learned = |keys: serde_json::Value| -> Vec<String> {
        let mut recipe = json!({"use_peft": false, "max_steps": 2, "learning_rate": 1e-2});
        recipe.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let story = Story::tiny(recipe);
        story.steps();
        let before = Model::load(&fixture("models/tiny-llama")).unwrap();
        let after = Model::load(&story.order.out).unwrap();
        let pairs = before.weights().zip(after.weights());
        let moved = pairs.filter(|((_, a), (_, b))| numbers(a) != numbers(b));
        moved.map(|((name, _), _)| name.to_owned()).collect()
    };
    let last = learned(json!({"freeze_trainable_layers": 1}));
    assert!(last.len() == 9 && last.iter().all(|name| name.contains("layers.1.")), "{last:?}");
    let first = learned(json!({"freeze_trainable_layers": -1}));
    assert!(first.iter().all(|name| name.contains("layers.0.")), "{first:?}");
    let named = learned(json!({"unfrozen_parameters": ["^lm_head", "0\\.mlp\\.up_proj"]}));
    assert_eq!(named, ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"]);
    let nothing = Story::tiny(json!({"use_peft": false, "unfrozen_parameters": ["c_attn"]}));
    assert!(nothing.refusal().contains("`c_attn` is found in no tensor's name"));
}

#[test]
fn a_run_leaves_the_kind_of_adapter_its_recipe_asks_for() {
    let story = Story::tiny(json!({"peft_type": "IA3", "max_steps": 2, "learning_rate": 1e-2}));
    story.steps();
    let adapter = adapter::load(&story.order.out).unwrap();
    let modules: Vec<&str> = adapter.layers().map(|(module, _)| module).collect();
    let last = |name: &str| modules.iter().filter(|module| module.ends_with(name)).count();
    assert_eq!((modules.len(), last("k_proj"), last("v_proj"), last("down_proj")), (6, 2, 2, 2));

    let keys = json!({"init_lora_weights": "pissa", "r": 4, "lora_alpha": 8, "max_steps": 2});
    let story = Story::tiny(keys);
    story.steps();
    let config = adapter::load(&story.order.out).unwrap().config().clone();
    // Plain, of twice the rank, so that it fits the base as it was.
    assert_eq!((config.r, config.lora_alpha), (8, 16.0));
    assert!(!config.init_lora_weights.changes_base());

    let untied = Story::new(
        &fixture("models/tiny-llama-tied"),
        &fixture("train/tiny-llama/rows.jsonl"),
        json!({"modules_to_save": ["embed_tokens"], "target_modules": ["q_proj"], "max_steps": 1}),
    );
    let (summary, watch) = untied.run();
    summary.unwrap();
    assert!(watch.logged("the head was tied to the embedding"));
}

#[test]
fn a_recipe_and_its_initial_adapter_agree_or_say_where_not() {
    let begin = |keys: serde_json::Value| {
        let mut story = Story::tiny(keys);
        story.order.init_adapter = Some(fixture("train/tiny-llama/dora.init"));
        story
    };
    for (keys, part) in [
        (json!({"use_dora": false}), "its `use_dora` is true, the recipe's is false"),
        (json!({"peft_type": "IA3"}), "its `peft_type` is LORA, the recipe's is IA3"),
        (json!({"target_modules": ["q_proj"]}), "its `target_modules` is for"),
        (json!({"modules_to_save": ["lm_head"]}), "its `modules_to_save` is null"),
    ] {
        let refused = begin(keys).refusal();
        assert!(refused.contains(part), "{refused}");
    }
    // Dropout is not learned, so it may be another one.
    let story = begin(json!({"lora_dropout": 0.5, "max_steps": 1}));
    story.steps();
    assert_eq!(adapter::load(&story.order.out).unwrap().config().lora_dropout, 0.5);
}

fn numbers(value: &Tensor) -> Vec<f32> {
    value.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn the_padding_token_never_learns_as_an_input() {
    // As in transformers; its row of a head of its own is another matter.
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    let row = json!({"input_ids": [5, 0, 6, 0, 7], "labels": [5, 0, 6, 0, 7]});
    std::fs::write(&rows, row.to_string()).unwrap();
    let recipe = json!({"use_peft": false, "max_steps": 1, "learning_rate": 1e-2});
    let story = Story::new(&fixture("models/tiny-llama"), &rows, recipe);
    story.steps();
    let path = story.order.out.join("model.safetensors");
    let after = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let path = fixture("models/tiny-llama/model.safetensors");
    let before = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let name = "model.embed_tokens.weight";
    for (id, learns) in [(0, false), (5, true), (6, true), (9, false)] {
        let same =
            numbers(&before[name].get(id).unwrap()) == numbers(&after[name].get(id).unwrap());
        assert_eq!(!same, learns, "{id}");
    }
}

#[test]
fn a_configuration_alone_is_trained_from_scratch() {
    let base = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(fixture("models/tiny-llama").join(name), base.path().join(name)).unwrap();
    }
    let rows = fixture("train/tiny-llama/rows.jsonl");
    let recipe = json!({"use_peft": false, "max_steps": 2, "seed": 7});
    let run = || {
        let story = Story::new(base.path(), &rows, recipe.clone());
        let (summary, watch) = story.run();
        summary.unwrap();
        assert!(watch.logged("no weights: they are drawn from seed 7"));
        assert!(story.has("tokenizer.json"));
        story.bytes("model.safetensors")
    };
    assert_eq!(run(), run());

    let refused = Story::new(base.path(), &rows, json!({"max_steps": 2})).refusal();
    assert!(refused.contains("has no model.safetensors"), "{refused}");
}

#[test]
fn a_run_that_diverges_publishes_nothing() {
    let base = tempfile::tempdir().unwrap();
    let tiny = fixture("models/tiny-llama");
    std::fs::copy(tiny.join("config.json"), base.path().join("config.json")).unwrap();
    let path = tiny.join("model.safetensors");
    let mut weights = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    weights.insert("model.norm.weight".into(), Tensor::full(1e38f32, 64, &Device::Cpu).unwrap());
    candle_core::safetensors::save(&weights, base.path().join("model.safetensors")).unwrap();

    let rows = fixture("train/tiny-llama/rows.jsonl");
    let story = Story::new(base.path(), &rows, json!({"max_steps": 3}));
    let error = story.run().0.unwrap_err();
    assert!(matches!(error, EngineError::Diverged { step: 1, what: "loss", .. }), "{error}");
    assert!(!story.has("adapter_model.safetensors") && !story.has("report.json"));
}

#[test]
fn a_recipe_that_contradicts_its_initial_adapter_is_refused() {
    for (recipe, part) in [
        (json!({"r": 4}), "its `r` is 8, the recipe's is 4"),
        (json!({"lora_alpha": 8}), "its `lora_alpha` is 16, the recipe's is 8"),
        (json!({"use_rslora": true}), "its `use_rslora` is false, the recipe's is true"),
        (json!({"target_modules": ["q_proj"]}), "its `target_modules` is for down_proj, gate_proj"),
    ] {
        let mut story = Story::tiny(recipe);
        story.order.init_adapter = Some(fixture("train/tiny-llama/lora.init"));
        let refused = story.refusal();
        assert!(refused.contains(part), "{refused}");
    }
}

/// Whoever asks the model later has to ask it the way it was taught.
#[test]
fn a_template_of_the_recipes_own_stands_beside_the_result() {
    let rows = tempfile::tempdir().unwrap();
    let file = rows.path().join("rows.jsonl");
    std::fs::write(&file, r#"{"instruction": "Add 1+1", "output": "2"}"#).unwrap();
    for use_peft in [true, false] {
        let recipe = json!({
            "dataset_format": "auto", "max_steps": 1, "chat_template": "zephyr", "use_peft": use_peft,
        });
        let story = Story::new(&fixture("models/tiny-llama"), &file, recipe);
        story.run().0.unwrap();
        let template = String::from_utf8(story.bytes("chat_template.jinja")).unwrap();
        assert!(template.contains("'<|assistant|>\\n'"), "{template}");
    }
}

#[test]
fn held_out_rows_are_evaluated_and_not_trained_on() {
    let story = Story::tiny(
        json!({"max_steps": 4, "test_split_size": 5, "eval_strategy": "steps", "eval_steps": 2}),
    );
    let (summary, watch) = story.run();
    let summary = summary.unwrap();
    let all = Story::tiny(json!({"max_steps": 1})).run().0.unwrap();
    assert_eq!(summary.rows + 5, all.rows);
    assert!(summary.eval_loss_last.is_some_and(|loss| loss > 0.0));
    let steps = watch.steps();
    let asked = |step: &&&StepMetrics| format!("{step:?}").contains("eval_loss");
    assert_eq!(steps.iter().filter(asked).map(|step| step.step).collect::<Vec<_>>(), [2, 4]);
}
