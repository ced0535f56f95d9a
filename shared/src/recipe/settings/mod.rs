//! The recipe once it is known to be sound.

use serde::{Deserialize, Serialize};

mod data;
mod method;
mod objective;
mod training;

pub use data::{DataFormat, DataSettings, HeldOut, Mixing, Packing};
pub use method::{FourBit, Freeze, Ia3, Lora, LoraInit, Method, Quantization, Targets};
pub use objective::{
    Cpo, CpoLoss, Dpo, DpoLoss, Kto, KtoLoss, Objective, RewardModelling, SupervisedFineTuning,
};
pub use training::{
    AdamW, Batching, BestModel, Checkpointing, Clip, Duration, EarlyStopping, Evaluation,
    MomentDtype, Optim, Schedule, Warmup,
};

use super::words::CheckpointingLevel;
use super::{RecipeError, RecipeFile};
use crate::Requirements;

/// A validated recipe. Made from a [`RecipeFile`] only, so a value of this type is sound by itself; what depends
/// on the model (unknown modules, lengths) is checked by [`Recipe::fit_model`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RecipeFile", into = "RecipeFile")]
pub struct Recipe {
    pub(super) file: RecipeFile,
    /// For people.
    pub name: String,
    /// Higher goes first.
    pub priority: i32,
    /// What it asks of a card beside memory.
    pub requirements: Requirements,
    /// Folder or GGUF file, as written.
    pub model: String,
    /// PEFT folder to start from, as written.
    pub init_adapter: Option<String>,
    /// What to learn from.
    pub data: DataSettings,
    /// What is trained.
    pub method: Method,
    /// What for.
    pub objective: Objective,
    /// How the base is held.
    pub quantization: Quantization,
    /// Rows per micro-batch and micro-batches per step.
    pub batching: Batching,
    /// How long.
    pub duration: Duration,
    /// Learning rate over the run.
    pub schedule: Schedule,
    /// The optimizer and its numbers.
    pub optim: Optim,
    /// Largest gradient norm, if bounded.
    pub clip: Clip,
    /// What blocks make again in the backward pass instead of keeping it.
    pub gradient_checkpointing: CheckpointingLevel,
    /// Noise on embeddings while training (α of arXiv 2310.05914), if any.
    pub neftune_noise_alpha: Option<f64>,
    /// Seed of everything random.
    pub seed: u64,
    /// When checkpoints are written.
    pub checkpointing: Checkpointing,
    /// When held-out rows are evaluated, and what follows from it.
    pub evaluation: Evaluation,
}

impl Recipe {
    /// The recipe as it was written.
    #[must_use]
    pub fn file(&self) -> &RecipeFile {
        &self.file
    }

    /// The recipe as one line of JSON with its keys in a fixed order: what is hashed for lineage.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        serde_json::to_string(&self.file).unwrap_or_default()
    }
}

impl From<Recipe> for RecipeFile {
    fn from(recipe: Recipe) -> Self {
        recipe.file
    }
}

impl TryFrom<RecipeFile> for Recipe {
    type Error = RecipeError;
    fn try_from(file: RecipeFile) -> Result<Self, RecipeError> {
        super::validate::validate(file)
    }
}
