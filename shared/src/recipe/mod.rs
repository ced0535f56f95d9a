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
mod sweep;
mod validate;
mod words;

pub use file::RecipeFile;
pub use read::{RecipeError, nearest_key, schema};
pub use settings::{
    AdamW, Batching, BestModel, Checkpointing, Clip, Cpo, CpoLoss, DataFormat, DataSettings, Dpo,
    DpoLoss, Duration, EarlyStopping, Evaluation, FourBit, Freeze, HeldOut, Ia3, Kto, KtoLoss,
    Lora, LoraInit, Method, Mixing, MomentDtype, Objective, Optim, Packing, Quantization, Recipe,
    RewardModelling, Schedule, SupervisedFineTuning, Targets, Warmup,
};
pub use sweep::{SweepDistribution, SweepFile, SweepMethod, SweepRange, SweepValues};
pub use words::{
    CheckpointingChoice, CheckpointingLevel, Dtype, EvalStrategy, FDivergence, FinetuningTask,
    FourBitType, LoraBias, OneOrMany, OneOrManyLayers, OptimName, OverLength, PackingStrategy,
    PeftType, RampType, Sampling, ScheduleArgs, ScheduleName, StoppingStrategy, SwitchOrWord,
    TargetModules, TruncationMode,
};
