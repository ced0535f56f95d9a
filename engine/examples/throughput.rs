//! Tokens per second and peak memory of training steps without an optimizer, and what the estimator says:
//! `cargo run --release -p fleetune-engine --example throughput -- MODEL [lora|full] [stored|bf16|nf4|nf4-dq|fp4|int8]
//! [checkpoint] [rows] [length] [steps]`. The base is f32 unless said otherwise.

use std::path::Path;
use std::time::Instant;

use fleetune_engine::adapter::Adapter;
use fleetune_engine::data::{MicroBatch, Row};
use fleetune_engine::memory;
use fleetune_engine::model::Model;
use fleetune_shared::recipe::{CheckpointingLevel, RecipeFile, TargetModules};
use fleetune_shared::{AdapterConfig, ByteSize, Device, Estimate, Recipe};

#[global_allocator]
static METER: memory::Meter = memory::Meter;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let full = args.iter().any(|a| a == "full");
    let checkpoint = args.iter().any(|a| a == "checkpoint");
    let numbers: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let rows = numbers.first().copied().unwrap_or(4);
    let length = numbers.get(1).copied().unwrap_or(512);
    let path = args.first().ok_or("which model?")?;

    let steps = numbers.get(2).copied().unwrap_or(4);

    let start = Instant::now();
    let held = keys(&args);
    let recipe = format!(
        "model_name_or_path: m\ndataset_name: d.jsonl\nuse_peft: {}\nmax_length: {length}\n\
         per_device_train_batch_size: {rows}\ngradient_checkpointing: {checkpoint}\n{held}",
        !full
    );
    let recipe = Recipe::try_from(RecipeFile::read(&recipe)?)?;
    let mut model = Model::load_as(Path::new(path), recipe.quantization)?;
    eprintln!(
        "loaded in {:.1} s: {}, at most {}",
        start.elapsed().as_secs_f64(),
        memory::current(),
        memory::peak()
    );
    if checkpoint {
        model.gradient_checkpointing = CheckpointingLevel::Block;
    }
    if full {
        model.train_full();
    } else {
        let config = AdapterConfig {
            target_modules: TargetModules::Word("all-linear".into()),
            lora_alpha: 16.0,
            ..AdapterConfig::default()
        };
        let adapter = Adapter::fresh(model.spec(), config, 0)?;
        model.attach(adapter)?;
    }
    let vocab = model.spec().vocab_size as u64;
    let row = |r: usize| {
        let ids: Vec<u32> =
            (0..length as u64).map(|i| ((i * i * 31 + r as u64 * 977) % vocab) as u32).collect();
        Row { labels: ids.iter().map(|id| i64::from(*id)).collect(), input_ids: ids }
    };
    let all: Vec<Row> = (0..rows).map(row).collect();
    let batch = MicroBatch::of(&all.iter().collect::<Vec<_>>());
    let before = memory::current();
    for step in 0..steps {
        model.clear_gradients();
        memory::reset_peak();
        let start = Instant::now();
        let loss = model.forward_backward(&batch, 1.0 / batch.supervised() as f64)?;
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "step {step}: {:.0} tokens/s, loss {:.4}, held {before} before, peak {}",
            batch.tokens() as f64 / seconds,
            loss / batch.supervised() as f64,
            memory::peak(),
        );
    }
    let start = Instant::now();
    model.loss(&batch)?;
    eprintln!("loss alone: {:.0} tokens/s", batch.tokens() as f64 / start.elapsed().as_secs_f64());

    let estimate = Estimate::of_training(model.spec(), &recipe, Device::Cpu);
    for (name, bytes) in estimate.parts() {
        eprintln!("{name:>12} {bytes}");
    }
    let sum = estimate.total().0 - estimate.optimizer.0 - estimate.runtime.0;
    eprintln!("estimated without optimizer and runtime: {}", ByteSize(sum));
    Ok(())
}

/// The recipe's keys for the form the base is held in.
fn keys(args: &[String]) -> &'static str {
    let named = |name| args.iter().any(|arg| arg == name);
    match () {
        () if named("stored") => "",
        () if named("bf16") => "dtype: bfloat16",
        () if named("nf4") => "load_in_4bit: true",
        () if named("nf4-dq") => "load_in_4bit: true\nbnb_4bit_use_double_quant: true",
        () if named("fp4") => "load_in_4bit: true\nbnb_4bit_quant_type: fp4",
        () if named("int8") => "load_in_8bit: true",
        () => "dtype: float32",
    }
}
