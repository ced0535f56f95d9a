//! What a run holds: measured, bounded, and covered by its estimate. A process of its own, since the meter sees all of it.

mod places;

use std::path::{Path, PathBuf};

use candle_core::{Device as CpuDevice, Tensor};
use fleetune_engine::merge::merge;
use fleetune_engine::model::{Model, save};
use fleetune_engine::ops::{AttentionShape, Backend, Portable, Span};
use fleetune_engine::train::{Observer, train};
use fleetune_engine::{EngineError, Result, memory};
use fleetune_shared::recipe::{self, FourBitType, Quantization};
use fleetune_shared::{
    ByteSize, Device, FailureKind, MergeOnto, MergeOrder, Recipe, TrainOrder, TrainSummary,
    TrainerEvent,
};
use serde_json::{Value, json};

#[global_allocator]
static METER: memory::Meter = memory::Meter;

fn fixture(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", path].iter().collect()
}

struct Deaf;

impl Observer for Deaf {
    fn event(&mut self, _: TrainerEvent) {}
}

/// One step of LoRA on `rows` rows of `tokens` tokens, all supervised; its adapter goes to `folder`. `more` are keys
/// of the recipe.
fn run(
    folder: &Path,
    model: &Path,
    (rows, tokens): (usize, usize),
    limit: Option<ByteSize>,
    more: &Value,
) -> Result<TrainSummary> {
    let data = folder.join("rows.jsonl");
    let ids: Vec<usize> = (0..tokens).map(|i| 3 + i * 7 % 61).collect();
    let row = json!({"input_ids": ids, "labels": ids}).to_string() + "\n";
    std::fs::write(&data, row.repeat(rows)).unwrap();
    let mut recipe = json!({
        "model_name_or_path": "base",
        "dataset_name": "rows.jsonl",
        "dataset_format": "tokenized",
        "max_length": tokens,
        "per_device_train_batch_size": rows,
        "max_steps": 1,
    });
    recipe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let order = TrainOrder {
        recipe: Recipe::read(&recipe.to_string()).unwrap(),
        model: model.into(),
        data: data.into(),
        init_adapter: None,
        out: folder.join("out"),
        resume_from: None,
        device: Device::Cpu,
        memory_bytes_limit: limit,
        memory_bytes_budget: None,
    };
    let _ = std::fs::remove_dir_all(&order.out);
    let result = train(&order, &mut Deaf);
    assert_eq!(result.is_ok(), order.out.join("report.json").exists());
    result
}

fn show(what: &str, summary: &TrainSummary) {
    let estimate = summary.estimate.unwrap();
    let (peak, total) = (summary.memory_bytes_peak, estimate.total());
    eprintln!("{what}: peak {peak}, estimate {total}, {:.0} tokens/s", summary.tokens_per_second);
    for (name, bytes) in estimate.parts() {
        eprintln!("    {name} {bytes}");
    }
}

/// One test, so that nothing else allocates beside what is measured.
#[test]
fn a_run_stays_within_its_estimate_and_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = fixture("models/tiny-llama");
    let run = |limit| run(folder.path(), &tiny, (8, 256), limit, &json!({}));
    let free = run(None).unwrap();
    show("tiny", &free);
    let peak = free.memory_bytes_peak;
    assert!(peak < free.estimate.unwrap().total());
    assert!(peak > ByteSize(1 << 20), "the meter is not at work: {peak}");

    let error = run(Some(ByteSize(peak.0 / 2))).unwrap_err();
    assert!(matches!(error, EngineError::OutOfMemory { .. }), "{error}");
    assert_eq!(error.kind(), FailureKind::OutOfMemory);
    run(Some(ByteSize(peak.0 * 5 / 4))).unwrap();
    // The bound went with the run.
    memory::check().unwrap();

    attention_grows_with_the_sequence();
    every_block_stays_within_its_estimate(folder.path());
    a_weight_of_four_bits_is_never_whole_in_f32();
    a_full_run_holds_less_where_it_is_told_to();
    smollm2();
}

/// Full fine-tuning of 8 blocks of 4 MiB: what each way to hold less leaves of weights, gradients and two moments.
fn a_full_run_holds_less_where_it_is_told_to() {
    let base = shaped(8, 1024);
    let folder = tempfile::tempdir().unwrap();
    let peak = |keys: Value| {
        let mut more = json!({"use_peft": false, "max_grad_norm": 0, "learning_rate": 1e-4});
        more.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let summary = run(folder.path(), base.path(), (1, 16), None, &more).unwrap();
        show(&keys.to_string(), &summary);
        assert!(summary.memory_bytes_peak < summary.estimate.unwrap().total(), "{keys}");
        summary.memory_bytes_peak.0 as f64
    };
    let weights = std::fs::metadata(base.path().join("model.safetensors")).unwrap().len() as f64;
    let plain = peak(json!({}));
    assert!(plain > 4.0 * weights);
    let saves = |keys: Value| (plain - peak(keys)) / weights;
    // 8 bytes a number of moments become 2.03, 4, and next to nothing beside the piece at work.
    assert!(saves(json!({"optim": "adamw_8bit"})) > 1.4);
    assert!(saves(json!({"optim": "lion_32bit"})) > 0.9);
    assert!(saves(json!({"optim": "adafactor"})) > 1.9);
    assert!(saves(json!({"optim": "paged_adamw_32bit"})) > 1.4);
    // Gradients of one block of eight at a time.
    assert!(saves(json!({"optimizer_in_backward": true})) > 0.7);
    // One block's gradients and moments beside eight in half the room.
    assert!(saves(json!({"freeze_trainable_layers": 1, "dtype": "bfloat16"})) > 2.5);
    let least = json!({"optim": "adafactor", "optimizer_in_backward": true, "dtype": "bfloat16"});
    assert!(peak(least) < 1.3 * weights, "where everything in f32 takes {:.1}", plain / weights);
}

/// A model of one block whose MLP has three weights of 8 MiB in f32.
fn wide() -> tempfile::TempDir {
    shaped(1, 8192)
}

/// A model of `layers` blocks with three MLP weights of `256 · width` numbers each.
fn shaped(layers: usize, width: usize) -> tempfile::TempDir {
    let config = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "vocab_size": 512, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let model = Model::random(folder.path(), 1).unwrap();
    save(folder.path(), &model, folder.path()).unwrap();
    folder
}

fn a_weight_of_four_bits_is_never_whole_in_f32() {
    const LARGEST: u64 = 8 << 20;
    let base = wide();
    let four = recipe::FourBit { kind: FourBitType::Nf4, double: true, bfloat16: false };
    let before = memory::current();
    memory::reset_peak();
    let model = Model::load_as(base.path(), Quantization::FourBit(four)).unwrap();
    let held = memory::current().0 - before.0;
    let loading = memory::peak().0 - before.0;
    // 6.5 million numbers in four bits and a little, and half a MiB of embedding and head each.
    assert!((4 << 20..5 << 20).contains(&held), "{held}");
    assert!(loading < held + LARGEST + (3 << 20), "{loading} while loading, {held} held");

    memory::reset_peak();
    let before = memory::current();
    model.logits(&[1, 2, 3, 4, 5]).unwrap();
    let forward = memory::peak().0 - before.0;
    assert!(forward < LARGEST / 2, "{forward} in a forward pass");
    drop(model);

    // Forward, backward and a step.
    let folder = tempfile::tempdir().unwrap();
    let keys = json!({"load_in_4bit": true, "bnb_4bit_use_double_quant": true, "r": 1});
    let summary = run(folder.path(), base.path(), (1, 16), None, &keys).unwrap();
    show("NF4", &summary);
    let estimate = summary.estimate.unwrap();
    let (found, expected) = (held as f64, estimate.weights.0 as f64);
    assert!((found / expected - 1.0).abs() < 0.02, "{held} held, {}", estimate.weights);
    // A product's own buffers follow the sizes of the caches; all weights in f32 would be three times the largest.
    assert!(summary.memory_bytes_peak.0 < held + 2 * LARGEST);
}

/// Bytes at the peak of a forward and a backward pass of attention over one sequence, its own tensors included.
fn attention_peak(tokens: usize, window: Option<usize>) -> u64 {
    let (heads, kv_heads, head_dim) = (2, 1, 16);
    let random = |width| Tensor::randn(0.0_f32, 1.0, (tokens, width), &CpuDevice::Cpu).unwrap();
    memory::reset_peak();
    let before = memory::current().0;
    let (q, k, v) =
        (random(heads * head_dim), random(kv_heads * head_dim), random(kv_heads * head_dim));
    let spans = [Span::causal(0..tokens)];
    let shape = AttentionShape {
        heads,
        kv_heads,
        head_dim,
        spans: &spans,
        window,
        scale: 0.25,
        soft_cap: Some(30.0),
    };
    let (out, lse) = Portable.attention(&q, &k, &v, &shape).unwrap();
    Portable.attention_backward(&out, &q, &k, &v, &out, &lse, &shape).unwrap();
    memory::peak().0 - before
}

fn attention_grows_with_the_sequence() {
    // How two threads meet would decide.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let attention_peak = |tokens, window| alone.install(|| attention_peak(tokens, window));
    for window in [None, Some(256)] {
        attention_peak(1000, window);
        let (one, two) = (attention_peak(4000, window), attention_peak(8000, window));
        let growth = two as f64 / one as f64;
        eprintln!("attention, window {window:?}: {one} bytes at 4,000 tokens, {two} at 8,000");
        assert!(growth < 2.2, "twice the tokens took {growth:.2} times the memory");
    }
}

/// Runs long enough that activations outweigh what a process holds anyway.
fn every_block_stays_within_its_estimate(folder: &Path) {
    let models = ["tiny-qwen3", "tiny-gemma2", "tiny-gemma3", "tiny-phi3", "tiny-mistral"];
    for name in models {
        let summary =
            run(folder, &fixture(&format!("models/{name}")), (250, 60), None, &json!({})).unwrap();
        show(name, &summary);
        assert!(summary.memory_bytes_peak < summary.estimate.unwrap().total(), "{name}");
    }
}

/// A real model, where it is at hand (`scripts/fetch-smollm2`).
fn smollm2() {
    let Some(path) = places::smollm2() else { return };
    let folder = tempfile::tempdir().unwrap();
    let summary = run(folder.path(), &path, (2, 256), None, &json!({})).unwrap();
    show("SmolLM2-135M in its own blocks, 2 × 256", &summary);
    assert!(summary.memory_bytes_peak < summary.estimate.unwrap().total());

    let adapter = folder.path().join("out");
    let order = MergeOrder {
        model: path,
        adapter,
        out: folder.path().join("merged"),
        onto: MergeOnto::AsStored,
        other_base: false,
    };
    let summary = merge(&order, &mut Deaf).unwrap();
    show("SmolLM2-135M, merged", &summary);
    assert!(summary.memory_bytes_peak < summary.estimate.unwrap().total());
    assert!(summary.merge_logit_difference.unwrap() < 1e-3);
    assert!(order.out.join("tokenizer.json").exists());
}
