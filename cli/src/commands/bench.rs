//! `fleetune bench`.

use std::path::PathBuf;

use clap::Args;
use fleetune_engine::bench::{bench, write_rows};
use fleetune_engine::train::Observer;
use fleetune_engine::{model, threads};
use fleetune_shared::TrainerEvent;
use fleetune_shared::recipe::RecipeFile;
use serde_json::{Map, Value, json};

use super::device::DeviceArg;
use super::method::Method;
use crate::Failure;
use crate::context::Context;
use crate::output::{Benched, Progress, plain};
use crate::recipe::{Planned, RecipeOnDisk};

/// Times whole training steps of a model here, and says what memory they took.
///
/// Rows come from --data, or are synthetic: as many tokens as --seq says, every one learned.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// What computes
    #[arg(long, default_value = "auto")]
    device: DeviceArg,
    /// A model folder or a GGUF file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// What learns, and from what
    #[arg(long, value_enum, default_value = "lora", value_name = "METHOD")]
    method: Method,
    /// Longest row in tokens; longer ones are cut
    #[arg(long, default_value = "512", value_name = "TOKENS")]
    seq: u64,
    /// Rows of a micro-batch
    #[arg(long, default_value = "4", value_name = "ROWS")]
    micro_batch: u64,
    /// How the base is held: float32 or bfloat16 [default: the recipe's]
    #[arg(long)]
    dtype: Option<String>,
    /// Rank of an adapter
    #[arg(long, default_value = "16")]
    rank: u64,
    /// Rows to learn, as a recipe's `dataset_name`
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    /// Steps that are measured
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u64).range(1..1_000_000))]
    steps: u64,
    /// Steps before them, which are not
    #[arg(long, default_value = "1", value_name = "STEPS", value_parser = clap::value_parser!(u64).range(0..1_000_000))]
    warm: u64,
    /// Another key of the recipe, such as packing=true; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Bench {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let work = tempfile::tempdir()
            .map_err(|error| Failure::new("io", format!("a temporary folder: {error}")))?;
        let synthetic = work.path().join("rows.jsonl");
        let data = match &self.data {
            Some(data) => data.clone(),
            None => synthetic.to_string_lossy().into_owned(),
        };
        let disk = RecipeOnDisk::here(self.recipe(&data)?);
        let recipe = disk.recipe()?;
        if self.data.is_none() {
            // Every step learns the same ones.
            let rows = recipe.batching.micro_batch * recipe.batching.accumulation;
            let vocab_size = model::spec_of(&self.model)?.vocab_size;
            write_rows(&synthetic, &recipe.objective, rows, self.seq as usize, vocab_size)?;
        }
        let planned = Planned::new(&disk, recipe)?;
        let mut order = planned.order(work.path().join("out"), self.device.here())?;
        // Tokens kept from an earlier run would make this one look faster than a first one is.
        order.data.cache = None;
        let name = order.recipe.name.clone();
        let mut watcher = Watcher { progress: Progress::steps(&context.output, &name), total: 0 };
        threads::lead();
        let found = bench(&order, self.warm, context.begun, &mut watcher)?;
        watcher.progress.clear();
        context.output.show(&Benched { recipe: order.recipe.file(), found: &found })
    }

    /// The recipe that the flags stand for.
    fn recipe(&self, data: &str) -> Result<RecipeFile, Failure> {
        let mut keys = Map::new();
        let mut set = |more: Value| {
            if let Value::Object(more) = more {
                keys.extend(more);
            }
        };
        set(json!({
            "name": "bench",
            "model_name_or_path": self.model,
            "dataset_name": data,
            "max_length": self.seq,
            "over_length": "truncate",
            "per_device_train_batch_size": self.micro_batch,
            "max_steps": self.warm + self.steps,
            "save_steps": 0,
        }));
        if self.method.is_low_rank() {
            set(json!({"r": self.rank, "lora_alpha": 2 * self.rank}));
        }
        if let Some(dtype) = &self.dtype {
            set(json!({"dtype": dtype}));
        }
        set(self.method.keys());
        for pair in &self.set {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| Failure::usage(&format!("--set is `{pair}`, expected KEY=VALUE")))?;
            let file = RecipeFile::read(&format!("{key}: {value}"))?;
            set(serde_json::to_value(file).unwrap_or_default());
        }
        Ok(RecipeFile::from_value(Value::Object(keys))?)
    }
}

/// Shows how far the run is.
struct Watcher {
    progress: Progress,
    total: u64,
}

impl Observer for Watcher {
    fn event(&mut self, event: TrainerEvent) {
        match event {
            TrainerEvent::Log { message } => self.progress.note(&plain(&message)),
            TrainerEvent::Started { steps_total, .. } => self.total = steps_total,
            TrainerEvent::Step(metrics) => {
                let speed = format!("{:.0} tokens/s", metrics.tokens_per_second);
                self.progress.at(metrics.step, self.total, &speed);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, ValueEnum};
    use fleetune_shared::Recipe;
    use fleetune_shared::recipe::{Quantization, RecipeError};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        bench: Bench,
    }

    fn recipe(flags: &str) -> Result<Recipe, Failure> {
        let words = "bench --model m".split(' ').chain(flags.split(' ').filter(|w| !w.is_empty()));
        let file = Line::try_parse_from(words).unwrap().bench.recipe("rows.jsonl")?;
        Recipe::try_from(file).map_err(|error: RecipeError| error.into())
    }

    #[test]
    fn flags_become_the_keys_of_a_recipe() {
        let recipe = recipe(
            "--method qlora --seq 256 --micro-batch 2 --rank 8 --steps 3 --warm 2 --set packing=true --set r=4",
        );
        let recipe = recipe.unwrap();
        assert!(matches!(recipe.quantization, Quantization::FourBit(four) if four.double));
        let file = recipe.file();
        assert_eq!((file.max_length, file.per_device_train_batch_size), (Some(256), Some(2)));
        assert_eq!((file.max_steps, file.packing), (Some(5), Some(true)));
        assert_eq!((file.r, file.lora_alpha), (Some(4), Some(16.0)), "--set has the last word");
    }

    #[test]
    fn every_method_is_a_recipe() {
        for method in Method::value_variants() {
            let name = method.to_possible_value().unwrap();
            let found = recipe(&format!("--method {}", name.get_name()));
            assert!(found.is_ok(), "{method:?}: {found:?}");
        }
    }

    #[test]
    fn a_mistake_is_the_recipes_own() {
        let message = |flags: &str| match recipe(flags) {
            Err(Failure::Error(report)) => report.message,
            other => panic!("{flags}: {other:?}"),
        };
        assert!(message("--set packin=true").contains("did you mean `packing`"));
        assert!(message("--dtype float17").contains("`dtype`"));
        assert!(message("--set packing").contains("expected KEY=VALUE"));
    }
}
