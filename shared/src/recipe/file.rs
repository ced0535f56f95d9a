//! The recipe as it is written: every key optional but two, nothing checked beyond its type.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DataFormat;

/// A recipe's text, key by key. Unknown keys are refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Fleetune recipe")]
pub struct RecipeFile {
    // ── what ────────────────────────────────────────────────────────────────────────────────────────────────
    /// A name for people; the recipe file's own name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Jobs with a higher number go first. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// What is learned. Default `sft`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<FinetuningTask>,
    /// The base: a folder with `config.json`, safetensors and tokenizer, or a GGUF file. Relative to the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name_or_path: Option<String>,
    /// A PEFT adapter folder to start from, instead of a fresh adapter. Relative to the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_adapter: Option<String>,

    // ── data ────────────────────────────────────────────────────────────────────────────────────────────────
    /// A JSON or JSONL file, or a list of them. Relative to the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<OneOrMany>,
    /// How rows are laid out. Default `auto`: told from the columns of the first row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_format: Option<DataFormat>,
    /// Use only the first so many rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<u64>,
    /// Longest row in tokens. Default 1024, or the model's own limit where that is smaller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// What happens to longer rows. Default `error` (TRL cuts silently).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_length: Option<OverLength>,
    /// Learn only what the assistant says. Default true for conversations (TRL: false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assistant_only_loss: Option<bool>,
    /// Learn only the completion of prompt/completion and alpaca rows. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_only_loss: Option<bool>,
    /// A Jinja file that replaces the model's own chat template. Relative to the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template_path: Option<String>,
    /// Order of rows. Default `random`, drawn anew each epoch from the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_sampling_strategy: Option<Sampling>,

    // ── method ──────────────────────────────────────────────────────────────────────────────────────────────
    /// Train an adapter (true, the default) or the whole model (false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_peft: Option<bool>,
    /// The kind of adapter. Default `LORA`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peft_type: Option<PeftType>,
    /// Rank. Default 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r: Option<u64>,
    /// The adapter's product is scaled by `lora_alpha / r`. Default 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Scale by `lora_alpha / √r` instead. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_rslora: Option<bool>,
    /// Linear layers that get an adapter: a list of names, or `all-linear`, the default (PEFT: q and v).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<TargetModules>,
    /// Precision of frozen weights and activations. Default `float32`, the only one so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,

    // ── training ────────────────────────────────────────────────────────────────────────────────────────────
    /// Peak learning rate. Default 2e-4 for adapters, 2e-5 for the whole model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Rows per micro-batch. Default 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_device_train_batch_size: Option<u64>,
    /// Micro-batches per optimizer step. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_accumulation_steps: Option<u64>,
    /// Passes over the data. Default 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_train_epochs: Option<f64>,
    /// Optimizer steps in all; overrides `num_train_epochs`. −1, the default, leaves it to the epochs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<i64>,
    /// Shape of the learning rate over the run. Default `linear`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_scheduler_type: Option<ScheduleName>,
    /// Steps of linear warm-up. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Fraction of the steps that warm up; ignored where `warmup_steps` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Optimizer. Default `adamw_torch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optim: Option<OptimName>,
    /// Decoupled weight decay, on tensors with two dimensions. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Decay of the first moment. Default 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adam_beta1: Option<f64>,
    /// Decay of the second moment. Default 0.999.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adam_beta2: Option<f64>,
    /// Added to the root of the second moment. Default 1e-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adam_epsilon: Option<f64>,
    /// Gradients are scaled down to this L2 norm. Default 1; 0 turns clipping off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
    /// Recompute each block's activations in the backward pass. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<bool>,
    /// Seed of everything random. Default 42.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,

    // ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────
    /// Optimizer steps between checkpoints. Default 500; 0 writes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_steps: Option<u64>,
    /// Checkpoints kept in the output folder. Default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_total_limit: Option<u64>,

    // ── sweep ───────────────────────────────────────────────────────────────────────────────────────────────
    /// For `fleetune sweep`: which keys take which values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<SweepFile>,
}

/// A sweep over recipe keys, in the words of the field's sweep tools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepFile {
    /// Every combination, or a seeded random draw. Default `grid`.
    #[serde(default)]
    pub method: SweepMethod,
    /// Draws of a random sweep. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trials: Option<u64>,
    /// Seed of a random sweep. Default 42.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What each recipe key takes.
    pub parameters: BTreeMap<String, SweepValues>,
}

/// How a sweep picks values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SweepMethod {
    /// Every combination.
    #[default]
    Grid,
    /// `trials` independent draws.
    Random,
}

/// What one key takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SweepValues {
    /// One of these.
    Choice(Vec<serde_json::Value>),
    /// A number from a range; random sweeps only.
    Range(SweepRange),
}

/// A range of numbers to draw from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SweepRange {
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// How draws spread. Default `uniform`.
    #[serde(default)]
    pub distribution: SweepDistribution,
}

/// How draws from a range spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SweepDistribution {
    /// Evenly.
    #[default]
    Uniform,
    /// Evenly in the logarithm, as learning rates want it.
    LogUniform,
}

/// One value or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// A single one.
    One(String),
    /// Several, in order.
    Many(Vec<String>),
}

impl OneOrMany {
    /// As a list.
    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one.clone()],
            Self::Many(many) => many.clone(),
        }
    }
}

/// Linear layers that get an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetModules {
    /// `all-linear`.
    Word(String),
    /// Names such as `q_proj`.
    Names(Vec<String>),
}

/// What is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinetuningTask {
    /// Supervised fine-tuning: the next token of labelled text.
    #[default]
    Sft,
}

/// The kind of adapter, in PEFT's spelling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeftType {
    /// Low-rank adaptation, arXiv 2106.09685.
    #[default]
    #[serde(rename = "LORA")]
    Lora,
}

/// What happens to rows longer than `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OverLength {
    /// The run is refused, naming the first such row.
    #[default]
    Error,
    /// The row keeps its beginning.
    Truncate,
    /// The row is left out.
    Drop,
}

/// Order of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// A fresh permutation each epoch.
    #[default]
    Random,
    /// As in the file.
    Sequential,
}

/// Precision of frozen weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    Float32,
}

/// Shape of the learning rate over the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    /// Down to zero in a straight line.
    #[default]
    Linear,
    /// Down to zero along half a cosine.
    Cosine,
    /// No change, no warm-up.
    Constant,
    /// No change after warm-up.
    ConstantWithWarmup,
}

/// Optimizer, in transformers' spelling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimName {
    /// AdamW with f32 moments, arXiv 1711.05101.
    #[default]
    AdamwTorch,
}
