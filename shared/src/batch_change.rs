//! How a run is made smaller without becoming another run.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Recipe;
use crate::recipe::{CheckpointingChoice, CheckpointingLevel, EvalStrategy, RecipeError};

/// What an attempt's order changes of its recipe: the same rows in the same order make up each optimizer step, in other
/// portions, and blocks keep less. The recipe itself stays as its user wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchChange {
    /// Rows of a micro-batch.
    pub micro_batch: u64,
    /// Micro-batches of a step.
    pub accumulation: u64,
    /// What blocks make again.
    pub checkpointing: CheckpointingLevel,
}

impl BatchChange {
    /// What the recipe asks for itself.
    #[must_use]
    pub fn none(recipe: &Recipe) -> Self {
        Self {
            micro_batch: recipe.batching.micro_batch as u64,
            accumulation: recipe.batching.accumulation as u64,
            checkpointing: recipe.gradient_checkpointing,
        }
    }

    /// The same step in micro-batches of at most half as many rows: the most rows that divide it. `None` below one row.
    #[must_use]
    pub fn halved(self) -> Option<Self> {
        let rows = self.micro_batch * self.accumulation;
        let micro_batch = (1..=self.micro_batch / 2).rev().find(|n| rows.is_multiple_of(*n))?;
        Some(Self { micro_batch, accumulation: rows / micro_batch, ..self })
    }

    /// `recipe` with this change.
    ///
    /// # Errors
    /// Where the recipe does not allow it, such as several micro-batches under `optimizer_in_backward`.
    pub fn of(self, recipe: &Recipe) -> Result<Recipe, RecipeError> {
        let mut file = recipe.file().clone();
        if (self.micro_batch, self.accumulation)
            != (recipe.batching.micro_batch as u64, recipe.batching.accumulation as u64)
        {
            file.per_device_train_batch_size = Some(self.micro_batch);
            file.gradient_accumulation_steps = Some(self.accumulation);
            // A sum over held-out rows is the same in smaller portions.
            if recipe.evaluation.strategy != EvalStrategy::No {
                let rows = self.micro_batch.min(recipe.evaluation.micro_batch as u64);
                file.per_device_eval_batch_size = Some(rows);
            }
        }
        if self.checkpointing != recipe.gradient_checkpointing {
            file.gradient_checkpointing = Some(CheckpointingChoice::Level(self.checkpointing));
        }
        file.try_into()
    }
}

impl fmt::Display for BatchChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.checkpointing {
            CheckpointingLevel::None => "none",
            CheckpointingLevel::Selective => "selective",
            CheckpointingLevel::Block => "block",
            CheckpointingLevel::Auto => "auto",
        };
        let Self { micro_batch, accumulation, .. } = self;
        write!(
            f,
            "per_device_train_batch_size: {micro_batch}, gradient_accumulation_steps: {accumulation}, \
             gradient_checkpointing: {level}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(micro_batch: u64, accumulation: u64) -> BatchChange {
        BatchChange { micro_batch, accumulation, checkpointing: CheckpointingLevel::None }
    }

    #[test]
    fn a_half_makes_the_same_step() {
        let halved =
            |rows, steps| change(rows, steps).halved().map(|c| (c.micro_batch, c.accumulation));
        assert_eq!(halved(8, 1), Some((4, 2)));
        assert_eq!(halved(6, 1), Some((3, 2)));
        assert_eq!(halved(3, 2), Some((1, 6)));
        assert_eq!(halved(7, 1), Some((1, 7)));
        assert_eq!(halved(1, 8), None);
    }

    #[test]
    fn only_what_changes_is_written() {
        let recipe = |keys: &str| {
            Recipe::read(&format!("model_name_or_path: m\ndataset_name: d\n{keys}")).unwrap()
        };
        let asked = recipe("per_device_train_batch_size: 4\ngradient_checkpointing: none");
        assert_eq!(BatchChange::none(&asked).of(&asked).unwrap(), asked);
        let half = BatchChange::none(&asked).halved().unwrap().of(&asked).unwrap();
        assert_eq!((half.batching.micro_batch, half.batching.accumulation), (2, 2));
        assert_eq!(half.file().per_device_eval_batch_size, None);
        let evaluated = recipe("per_device_train_batch_size: 4\ntest_split_size: 0.1");
        let half = BatchChange::none(&evaluated).halved().unwrap().of(&evaluated).unwrap();
        assert_eq!(half.evaluation.micro_batch, 2);
        let at_once = recipe(
            "use_peft: false\nper_device_train_batch_size: 4\noptimizer_in_backward: true\nmax_grad_norm: 0",
        );
        assert!(BatchChange::none(&at_once).halved().unwrap().of(&at_once).is_err());
    }
}
