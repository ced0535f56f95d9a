//! Whole runs through the public `train`: against the peers' curves, against themselves, and against interruption.

mod cards;
mod curves;
mod evaluation;
mod interruption;
mod preference;
mod run;
mod savers;
mod smollm2;

#[path = "../places/mod.rs"]
mod places;

use std::path::{Path, PathBuf};

use fleetune_engine::train::{Observer, train};
use fleetune_engine::{EngineError, Result};
use fleetune_shared::recipe::RecipeFile;
use fleetune_shared::{Device, Recipe, StepMetrics, TrainOrder, TrainSummary, TrainerEvent};
use serde_json::{Value, json};

/// A file or folder of `tests/fixtures`.
fn fixture(path: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "tests", "fixtures", path].iter().collect()
}

/// What runs compute on: with `FLEETUNE_TEST_DEVICE=cuda` a card, or what stands in for one (`scripts/test-cuda`).
fn device() -> Device {
    match std::env::var("FLEETUNE_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::Cuda,
        _ => Device::Cpu,
    }
}

/// Remembers what it is told, and asks for an end once it has heard enough.
#[derive(Default)]
struct Watch {
    events: Vec<TrainerEvent>,
    stop_after: Option<u64>,
}

impl Observer for Watch {
    fn event(&mut self, event: TrainerEvent) {
        self.events.push(event);
    }

    fn stop_requested(&self) -> bool {
        self.stop_after.is_some_and(|step| self.steps().last().is_some_and(|m| m.step >= step))
    }
}

impl Watch {
    fn steps(&self) -> Vec<&StepMetrics> {
        let steps = self.events.iter().filter_map(|event| match event {
            TrainerEvent::Step(metrics) => Some(metrics),
            _ => None,
        });
        steps.collect()
    }

    fn logged(&self, part: &str) -> bool {
        let has = |e: &_| matches!(e, TrainerEvent::Log { message } if message.contains(part));
        self.events.iter().any(has)
    }
}

/// A run in a folder of its own, on tokens that lie ready, in file order.
struct Story {
    out: tempfile::TempDir,
    order: TrainOrder,
}

impl Story {
    fn new(model: &Path, rows: &Path, recipe: Value) -> Self {
        let mut keys = json!({
            "model_name_or_path": "base",
            "dataset_name": "rows.jsonl",
            "dataset_format": "tokenized",
            "train_sampling_strategy": "sequential",
            "max_length": 512,
        });
        let keys_of_story = keys.as_object_mut().unwrap();
        keys_of_story.extend(recipe.as_object().unwrap().clone());
        let out = tempfile::tempdir().unwrap();
        let order = TrainOrder {
            recipe: Recipe::read(&keys.to_string()).unwrap(),
            model: model.into(),
            data: rows.to_path_buf().into(),
            init_adapter: None,
            out: out.path().join("out"),
            resume_from: None,
            device: device(),
            memory_bytes_limit: None,
            memory_bytes_budget: None,
        };
        Self { out, order }
    }

    /// Tiny Llama on the twenty rows of the peers' runs.
    fn tiny(recipe: Value) -> Self {
        let rows = fixture("train/tiny-llama/rows.jsonl");
        Self::new(&fixture("models/tiny-llama"), &rows, recipe)
    }

    /// Ends the run earlier, with a checkpoint; its recipe must not decay over it.
    fn shorten(&mut self, steps: u64) {
        let (max_steps, save_steps) = (Some(steps as i64), Some(steps));
        let file = RecipeFile { max_steps, save_steps, ..self.order.recipe.file().clone() };
        self.order.recipe = file.try_into().unwrap();
    }

    fn run(&self) -> (Result<TrainSummary>, Watch) {
        self.run_until(None)
    }

    fn run_until(&self, stop_after: Option<u64>) -> (Result<TrainSummary>, Watch) {
        let mut watch = Watch { stop_after, ..Watch::default() };
        (train(&self.order, &mut watch), watch)
    }

    /// To its end, which must be a good one.
    fn steps(&self) -> Vec<StepMetrics> {
        let (summary, watch) = self.run();
        summary.unwrap();
        watch.steps().into_iter().cloned().collect()
    }

    fn refusal(&self) -> String {
        let error = self.run().0.unwrap_err();
        assert!(matches!(error, EngineError::Input(_)), "{error}");
        error.to_string()
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.order.out.join(file)).unwrap()
    }

    fn has(&self, file: &str) -> bool {
        self.order.out.join(file).exists()
    }
}
