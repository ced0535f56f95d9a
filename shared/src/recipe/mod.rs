//! A recipe is what a user writes to have a model trained.
//!
//! ```text
//!   text (YAML or JSON) ──read──▶ RecipeFile ──validate──▶ Recipe
//!                       unknown keys            numbers and
//!                       refused by name         combinations
//! ```
//!
//! [`RecipeFile`] mirrors the text, key by key; [`Recipe`] cannot be wrong. A recipe travels as its file and is
//! validated again by whoever receives it. Key names and defaults are those of transformers' `TrainingArguments`,
//! TRL's `SFTConfig` and PEFT's `LoraConfig`; where we differ on purpose, the field says so.

mod file;
mod read;
mod settings;
mod validate;

pub use file::{
    Dtype, FinetuningTask, OneOrMany, OptimName, OverLength, PeftType, RecipeFile, Sampling,
    ScheduleName, SweepDistribution, SweepFile, SweepMethod, SweepRange, SweepValues,
    TargetModules,
};
pub use read::{RecipeError, nearest_key, schema};
pub use settings::{
    AdamW, Batching, Checkpointing, Clip, DataFormat, DataSettings, Duration, Lora, Method, Recipe,
    Schedule, Warmup,
};
