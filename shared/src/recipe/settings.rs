//! The recipe once it is known to be sound.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{OverLength, RecipeError, RecipeFile, Sampling};

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
    /// Folder or GGUF file, as written.
    pub model: String,
    /// PEFT folder to start from, as written.
    pub init_adapter: Option<String>,
    /// What to learn from.
    pub data: DataSettings,
    /// What is trained.
    pub method: Method,
    /// Rows per micro-batch and micro-batches per step.
    pub batching: Batching,
    /// How long.
    pub duration: Duration,
    /// Learning rate over the run.
    pub schedule: Schedule,
    /// The optimizer's numbers.
    pub optim: AdamW,
    /// Largest gradient norm, if bounded.
    pub clip: Clip,
    /// Whether blocks recompute their activations in the backward pass.
    pub gradient_checkpointing: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// When checkpoints are written.
    pub checkpointing: Checkpointing,
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

/// How rows are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataFormat {
    /// Told from the columns of the first row.
    #[default]
    Auto,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `messages`: a list of `role` and `content`.
    Messages,
    /// `conversations`: a list of `from` and `value`.
    Sharegpt,
    /// `prompt` and `completion`, texts or message lists.
    PromptCompletion,
    /// `input_ids` and `labels`, used as they are; −100 marks a token without a label.
    Tokenized,
}

/// What to learn from.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSettings {
    /// Files as written.
    pub paths: Vec<String>,
    /// Their layout.
    pub format: DataFormat,
    /// Use only the first so many rows.
    pub rows_max: Option<u64>,
    /// Longest row in tokens.
    pub max_length: usize,
    /// What happens to longer rows.
    pub over_length: OverLength,
    /// Learn only what the assistant says.
    pub assistant_only_loss: bool,
    /// Learn only completions.
    pub completion_only_loss: bool,
    /// A Jinja file that replaces the model's own template, as written.
    pub chat_template_path: Option<String>,
    /// Order of rows.
    pub sampling: Sampling,
}

/// What is trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Every weight.
    Full,
    /// Low-rank products beside frozen linear layers.
    Lora(Lora),
}

/// A LoRA adapter's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Rank.
    pub r: usize,
    /// `scaling = lora_alpha / r`, or over `√r` with `use_rslora`.
    pub lora_alpha: f64,
    /// arXiv 2312.03732.
    pub use_rslora: bool,
    /// Names of linear layers; empty means all of them.
    pub target_modules: Vec<String>,
}

impl Lora {
    /// The factor on the adapter's product.
    #[must_use]
    pub fn scaling(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }

    /// Whether the linear layer `name` (such as `q_proj`) gets an adapter.
    #[must_use]
    pub fn targets(&self, name: &str) -> bool {
        self.target_modules.is_empty() || self.target_modules.iter().any(|t| t == name)
    }
}

/// Rows per micro-batch and micro-batches per optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Rows per micro-batch.
    pub micro_batch: usize,
    /// Micro-batches per step.
    pub accumulation: usize,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Duration {
    /// So many optimizer steps.
    Steps(u64),
    /// So many passes over the data.
    Epochs(f64),
}

/// The learning rate over the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape.
    pub name: super::ScheduleName,
    /// Its peak.
    pub learning_rate: f64,
    /// Its beginning.
    pub warmup: Warmup,
}

/// How the learning rate rises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// Over so many steps.
    Steps(u64),
    /// Over this fraction of all steps, rounded up.
    Ratio(f64),
}

/// AdamW's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay, on tensors with two dimensions.
    pub weight_decay: f64,
}

/// Largest L2 norm of all gradients together; `None` leaves them alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip(pub Option<f64>);

/// When checkpoints are written and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpointing {
    /// Optimizer steps between two, if any are written.
    pub save_steps: Option<u64>,
    /// Kept in the output folder.
    pub save_total_limit: usize,
}
