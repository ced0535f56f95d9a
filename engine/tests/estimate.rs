//! The estimate of every method against what a run of it holds, on a real model where it is at hand
//! (`scripts/fetch-smollm2`). A process of its own, since the meter sees all of it.

mod places;

use std::path::Path;

use fleetune_engine::bench::write_rows;
use fleetune_engine::memory;
use fleetune_engine::model::spec_of;
use fleetune_engine::train::{Observer, train};
use fleetune_shared::{ByteSize, Device, Estimate, Recipe, TrainOrder, TrainerEvent};

#[global_allocator]
static METER: memory::Meter = memory::Meter;

struct Deaf;

impl Observer for Deaf {
    fn event(&mut self, _: TrainerEvent) {}
}

/// What a run may hold less than its estimate says, and never more.
const APART: f64 = 0.05;

/// Name, rows and tokens of a micro-batch, keys of the recipe.
type Case = (&'static str, (usize, usize), &'static str);

const CASES: &[Case] = &[
    ("lora f32", (2, 256), "dtype: float32"),
    ("lora f32, long", (1, 1024), "dtype: float32"),
    ("lora bf16", (4, 256), "dtype: bfloat16"),
    ("lora bf16, long", (2, 1024), "dtype: bfloat16"),
    ("lora on gguf", (2, 256), ""),
    ("lora nf4", (2, 256), "load_in_4bit: true\nbnb_4bit_use_double_quant: true"),
    ("lora nf4 in bf16", (2, 256), "load_in_4bit: true\ndtype: bfloat16"),
    ("lora int8", (2, 256), "load_in_8bit: true"),
    ("lora, upper blocks", (2, 256), "layers_to_transform: [24, 25, 26, 27, 28, 29]"),
    ("lora, dropout", (2, 256), "lora_dropout: 0.1\ndtype: bfloat16"),
    ("lora, accumulated", (2, 256), "gradient_accumulation_steps: 2\ndtype: bfloat16"),
    ("dora bf16", (2, 256), "use_dora: true\ndtype: bfloat16"),
    ("ia3 f32", (2, 256), "peft_type: IA3\ndtype: float32"),
    ("selective", (2, 1024), "gradient_checkpointing: selective\ndtype: bfloat16"),
    ("block", (2, 1024), "gradient_checkpointing: block\ndtype: bfloat16"),
    ("block f32", (1, 1024), "gradient_checkpointing: block\ndtype: float32"),
    ("full f32", (2, 256), "use_peft: false\ndtype: float32"),
    ("full bf16", (2, 256), "use_peft: false\ndtype: bfloat16"),
    ("full, 8-bit", (2, 256), "use_peft: false\noptim: adamw_8bit\ndtype: float32"),
    (
        "full, 16-bit",
        (2, 256),
        "use_peft: false\ndtype: bfloat16\noptim: adamw_anyprecision\n\
         optim_args: momentum_dtype=bfloat16,variance_dtype=bfloat16",
    ),
    (
        "full, in backward",
        (2, 256),
        "use_peft: false\noptimizer_in_backward: true\nmax_grad_norm: 0\noptim: adafactor\ndtype: bfloat16",
    ),
    ("freeze", (2, 256), "use_peft: false\nfreeze_trainable_layers: 4\ndtype: float32"),
    ("dpo", (1, 256), "task: dpo\ndtype: bfloat16"),
    ("kto", (2, 256), "task: kto\ndtype: bfloat16"),
    ("orpo", (1, 256), "task: orpo\ndtype: float32"),
    ("reward", (1, 256), "task: reward\ndtype: bfloat16"),
];

/// Those that run every time; the rest with `FLEETUNE_ESTIMATE_CASE=all`, or a part of a name.
const EVERY_TIME: [&str; 5] = ["lora bf16", "lora nf4", "full bf16", "dpo", "block"];

/// One step on full rows, under `limit` if there is one: the peak and the estimate.
fn run(
    folder: &Path,
    model: &Path,
    (rows, tokens): (usize, usize),
    keys: &str,
    limit: Option<ByteSize>,
) -> (ByteSize, Estimate) {
    let auto =
        if keys.contains("gradient_checkpointing") { "" } else { "gradient_checkpointing: auto\n" };
    let recipe = Recipe::read(&format!(
        "model_name_or_path: m\ndataset_name: d\nper_device_train_batch_size: {rows}\nmax_length: {tokens}\n\
         max_steps: 1\nsave_steps: 0\n{auto}{keys}"
    ));
    let recipe = recipe.unwrap_or_else(|error| panic!("{keys}: {error}"));
    let data = folder.join("rows.jsonl");
    let count = rows * recipe.batching.accumulation;
    let vocab = spec_of(model).unwrap().vocab_size;
    write_rows(&data, &recipe.objective, count, tokens, vocab).unwrap();
    let order = TrainOrder {
        recipe,
        model: model.into(),
        data: data.into(),
        init_adapter: None,
        out: folder.join("out"),
        resume_from: None,
        device: Device::Cpu,
        memory_bytes_limit: limit,
        memory_bytes_budget: None,
    };
    let summary = train(&order, &mut Deaf).unwrap_or_else(|error| panic!("{keys}: {error}"));
    std::fs::remove_dir_all(&order.out).unwrap();
    (summary.memory_bytes_peak, summary.estimate.unwrap())
}

/// One test, so that nothing else allocates beside what is measured.
#[test]
fn an_estimate_is_what_a_run_holds() {
    let Some(model) = places::smollm2() else { return };
    let folder = tempfile::tempdir().unwrap();
    let only = std::env::var("FLEETUNE_ESTIMATE_CASE").ok();
    let mut far = Vec::new();
    for (name, size, keys) in CASES {
        let asked = match only.as_deref() {
            None => EVERY_TIME.contains(name),
            Some("all") => true,
            Some(part) => name.contains(part),
        };
        if !asked {
            continue;
        }
        let (peak, estimate) = run(folder.path(), &model, *size, keys, None);
        let total = estimate.total();
        let apart = total.0 as f64 / peak.0 as f64 - 1.0;
        eprintln!(
            "{name}, {}×{}: peak {peak}, estimate {total}, {:+.1} %",
            size.0,
            size.1,
            100.0 * apart
        );
        if !(0.0..APART).contains(&apart) {
            far.push(*name);
            for (part, bytes) in estimate.parts() {
                eprintln!("    {part} {bytes}");
            }
        }
    }
    assert!(far.is_empty(), "{far:?}");
}
