//! Where a run stands, and what it is a run of.

use std::path::Path;

use fleetune_shared::recipe::RecipeFile;
use fleetune_shared::{BlobHash, Recipe};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::standing::Standing;
use crate::data::Cursor;
use crate::{EngineError, Result};

pub(super) const STATE: &str = "state.json";

/// Changed whenever a checkpoint of before could not be continued exactly.
const FORMAT: u32 = 1;

/// Recipe keys that name things or say how to compute, not what: they may differ between two halves of a run.
/// What model and data are is told by their hashes.
const FREE_KEYS: [&str; 15] = [
    "name",
    "priority",
    "card",
    "min_compute_capability",
    "labels",
    "anti_affinity",
    "model_name_or_path",
    "init_adapter",
    "dataset_name",
    "chat_template_path",
    "gradient_checkpointing",
    "per_device_eval_batch_size",
    "save_steps",
    "save_total_limit",
    "sweep",
];

/// How a step's rows are portioned: free as long as a step has the same rows.
const PORTION_KEYS: [&str; 2] = ["per_device_train_batch_size", "gradient_accumulation_steps"];

/// `state.json`. Randomness needs no state of its own: every draw is a function of seed and cursor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Of this file and its neighbours.
    pub format: u32,
    /// The engine's version, for people.
    pub engine: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub steps_total: u64,
    /// Where the next step's rows begin.
    pub cursor: Cursor,
    /// Sums over the steps done.
    pub totals: Totals,
    /// How it does on held-out rows.
    #[serde(default)]
    pub standing: Standing,
    /// The recipe as it was written.
    pub recipe: RecipeFile,
    /// What tells the base from another.
    pub model: BlobHash,
    /// BLAKE3 of all rows.
    pub data: BlobHash,
}

/// Sums over the steps of a run, across interruptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Mean loss of the first step.
    pub loss_first: f64,
    /// Mean loss of the last step done.
    pub loss_last: f64,
    /// Tokens processed.
    pub tokens: u64,
    /// Tokens that carried a label.
    pub supervised_tokens: u64,
}

impl State {
    /// The state of a run that has not begun.
    #[must_use]
    pub fn new(recipe: &RecipeFile, steps_total: u64, model: BlobHash, data: BlobHash) -> Self {
        Self {
            format: FORMAT,
            engine: env!("CARGO_PKG_VERSION").into(),
            step: 0,
            steps_total,
            cursor: Cursor::default(),
            totals: Totals::default(),
            standing: Standing::default(),
            recipe: recipe.clone(),
            model,
            data,
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(STATE);
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::other);
        text.and_then(|text| std::fs::write(&path, text)).map_err(|e| EngineError::io(&path, e))
    }

    /// Reads the state of the checkpoint in `folder`, which was verified.
    ///
    /// # Errors
    /// [`EngineError::Io`], or [`EngineError::Input`] when another version wrote it.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE);
        let text = std::fs::read(&path).map_err(|e| EngineError::io(&path, e))?;
        let bad = |why: String| EngineError::input(format!("{}: {why}", path.display()));
        let value: Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
        if value["format"] != FORMAT {
            let (format, engine) = (&value["format"], &value["engine"]);
            return Err(bad(format!(
                "written in format {format} by engine {engine}, expected format {FORMAT}; resume with that version"
            )));
        }
        serde_json::from_value(value).map_err(|e| bad(e.to_string()))
    }

    /// Asks whether the run `self` is about to begin is the one the checkpoint in `folder` belongs to.
    ///
    /// # Errors
    /// [`EngineError::Input`] naming what differs, with both values.
    pub fn continues(&self, earlier: &Self, folder: &Path) -> Result<()> {
        let differs = |what: &str, then: &str, now: &str| {
            Err(EngineError::input(format!(
                "checkpoint {} cannot be resumed: {what} was {then}, now it is {now}; resume with what the run \
                 began with, or begin a new run",
                folder.display()
            )))
        };
        let (then, now) = (keys(&earlier.recipe), keys(&self.recipe));
        let portioned =
            step_rows(&earlier.recipe).is_some_and(|rows| Some(rows) == step_rows(&self.recipe));
        let free =
            |key: &str| FREE_KEYS.contains(&key) || (portioned && PORTION_KEYS.contains(&key));
        let all = then.keys().chain(now.keys().filter(|key| !then.contains_key(*key)));
        for key in all.filter(|key| !free(key)) {
            if then.get(key) != now.get(key) {
                let show = |value: Option<&Value>| value.map_or("absent".into(), Value::to_string);
                return differs(&format!("`{key}`"), &show(then.get(key)), &show(now.get(key)));
            }
        }
        if earlier.model != self.model {
            return differs("the base model", &earlier.model.short(), &self.model.short());
        }
        if earlier.data != self.data {
            return differs("the data", &earlier.data.short(), &self.data.short());
        }
        Ok(())
    }
}

/// Rows of an optimizer step.
fn step_rows(recipe: &RecipeFile) -> Option<usize> {
    let batching = Recipe::try_from(recipe.clone()).ok()?.batching;
    Some(batching.micro_batch * batching.accumulation)
}

fn keys(recipe: &RecipeFile) -> Map<String, Value> {
    match serde_json::to_value(recipe) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// A state at `step`, for tests of this room.
#[cfg(test)]
pub(super) fn test_state(step: u64) -> State {
    let recipe = RecipeFile {
        model_name_or_path: Some("base".into()),
        dataset_name: Some(fleetune_shared::recipe::OneOrMany::One("rows".into())),
        per_device_train_batch_size: Some(8),
        learning_rate: Some(1e-3),
        ..RecipeFile::default()
    };
    State { step, ..State::new(&recipe, 100, BlobHash([1; 32]), BlobHash([2; 32])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reads_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let totals =
            Totals { loss_first: 0.1 + 0.2, loss_last: 1e-300, tokens: 1, supervised_tokens: 1 };
        let state = State { totals, ..test_state(3) };
        state.write(folder.path()).unwrap();
        assert_eq!(State::read(folder.path()).unwrap(), state);
    }

    #[test]
    fn another_run_is_refused_by_what_differs() {
        let folder = Path::new("checkpoint-3");
        let earlier = test_state(3);
        let refused = |change: fn(&mut State)| {
            let mut now = test_state(0);
            change(&mut now);
            now.continues(&earlier, folder).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert_eq!(refused(|now| now.recipe.name = Some("again".into())), "");
        assert_eq!(refused(|now| now.recipe.save_steps = Some(5)), "");
        assert!(
            refused(|now| now.recipe.learning_rate = Some(1e-4))
                .contains("`learning_rate` was 0.001, now it is 0.0001")
        );
        assert!(
            refused(|now| now.recipe.seed = Some(1)).contains("`seed` was absent, now it is 1")
        );
        assert!(
            refused(|now| now.recipe.per_device_train_batch_size = Some(4))
                .contains("`per_device_train_batch_size` was 8, now it is 4")
        );
        // The same rows make up a step.
        let halved = refused(|now| {
            now.recipe.per_device_train_batch_size = Some(4);
            now.recipe.gradient_accumulation_steps = Some(2);
        });
        assert_eq!(halved, "");
        assert!(refused(|now| now.model = BlobHash([9; 32])).contains("the base model was"));
        assert!(refused(|now| now.data = BlobHash([9; 32])).contains("the data was"));
    }
}
