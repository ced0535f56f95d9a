//! The words a recipe's values are made of, in the spelling of transformers, TRL and PEFT.

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

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

/// Layers that get an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetModules {
    /// `all-linear`, or a regular expression that matches whole module names.
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
    /// Direct preference optimization, arXiv 2305.18290, and its cousins by `loss_type`.
    Dpo,
    /// Kahneman–Tversky optimization of single labelled answers, arXiv 2402.01306.
    Kto,
    /// Odds-ratio preference optimization, arXiv 2403.07691.
    Orpo,
    /// Contrastive preference optimization, arXiv 2401.08417.
    Cpo,
    /// Simple preference optimization, arXiv 2405.14734: CPO with `loss_type: simpo` and `cpo_alpha: 0`.
    Simpo,
    /// A Bradley–Terry reward model.
    Reward,
}

/// The kind of adapter, in PEFT's spelling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeftType {
    /// Low-rank adaptation, arXiv 2106.09685.
    #[default]
    #[serde(rename = "LORA")]
    Lora,
    /// Learned scales of keys, values and the MLP's activation, arXiv 2205.05638.
    #[serde(rename = "IA3")]
    Ia3,
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

/// Precision the base is held in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    Float32,
    /// Weights as bfloat16; arithmetic stays in f32.
    Bfloat16,
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
    /// `num_cycles` times down half a cosine, back up each time.
    CosineWithRestarts,
    /// A cosine that ends at `min_lr` or `min_lr_rate`.
    CosineWithMinLr,
    /// Down to `lr_end` along a power.
    Polynomial,
    /// With the inverse root of the step.
    InverseSqrt,
    /// Warm-up, a plateau, then decay over `num_decay_steps`.
    WarmupStableDecay,
}

/// Optimizer, in transformers' spelling.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimName {
    /// AdamW with f32 moments, arXiv 1711.05101.
    #[default]
    #[serde(alias = "adamw_torch_fused")]
    AdamwTorch,
    /// AdamW whose moments have the dtypes `optim_args` gives them.
    AdamwAnyprecision,
    /// AdamW with 8-bit moments in blocks of 256, arXiv 2110.02861.
    #[serde(rename = "adamw_8bit", alias = "adamw_bnb_8bit")]
    Adamw8bit,
    /// AdamW whose f32 moments live in host memory.
    #[serde(rename = "paged_adamw_32bit", alias = "paged_adamw")]
    PagedAdamw32bit,
    /// AdamW whose 8-bit moments live in host memory.
    #[serde(rename = "paged_adamw_8bit")]
    PagedAdamw8bit,
    /// Factored second moments, arXiv 1804.04235.
    Adafactor,
    /// Sign of an interpolated momentum, arXiv 2302.06675.
    #[serde(rename = "lion_32bit", alias = "lion")]
    Lion32bit,
    /// Lion with 8-bit momentum.
    #[serde(rename = "lion_8bit")]
    Lion8bit,
    /// Plain gradient descent, with `sgd_momentum`.
    Sgd,
}

/// One number or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrManyLayers {
    /// A single block.
    One(usize),
    /// Several.
    Many(Vec<usize>),
}

impl OneOrManyLayers {
    /// As a list.
    #[must_use]
    pub fn to_vec(&self) -> Vec<usize> {
        match self {
            Self::One(one) => vec![*one],
            Self::Many(many) => many.clone(),
        }
    }
}

/// A switch, or one of PEFT's names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SwitchOrWord {
    /// `true` or `false`.
    Switch(bool),
    /// A name.
    Word(String),
}

/// Which biases learn beside an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoraBias {
    /// None.
    #[default]
    None,
    /// All the model has.
    All,
    /// Those of adapted layers.
    LoraOnly,
}

/// A 4-bit code book.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FourBitType {
    /// Quantiles of a normal distribution, arXiv 2305.14314.
    #[default]
    Nf4,
    /// Small floats.
    Fp4,
}

/// What an activation costs: memory or time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointingLevel {
    /// Everything a backward pass wants is kept.
    None,
    /// What is cheap to make again is made again.
    Selective,
    /// Only each block's input is kept, arXiv 1604.06174.
    Block,
    /// As much as the memory that the run may use has room for, block by block.
    #[default]
    Auto,
}

/// `true`, `false` or a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum CheckpointingChoice {
    /// `true` is `block`, `false` is `none`.
    Switch(bool),
    /// By name.
    Level(CheckpointingLevel),
}

/// How rows share a bin of `max_length` tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PackingStrategy {
    /// Best fit decreasing; rows longer than a bin follow `over_length`.
    #[default]
    Bfd,
    /// Best fit decreasing; longer rows are split.
    BfdSplit,
    /// One stream of tokens, cut every `max_length`.
    Wrapped,
}

/// Which end of a long row is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TruncationMode {
    /// Its beginning.
    #[default]
    KeepStart,
    /// Its end.
    KeepEnd,
}

/// When mixing several sets ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoppingStrategy {
    /// With the first set that has no rows left.
    #[default]
    FirstExhausted,
    /// When every set was read at least once; short ones begin again.
    AllExhausted,
}

/// When the held-out rows are evaluated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvalStrategy {
    /// Never.
    #[default]
    No,
    /// Every `eval_steps` optimizer steps.
    Steps,
    /// After each epoch.
    Epoch,
}

/// Reads an [`EvalStrategy`] also where YAML takes a bare `no` for `false`.
pub(super) fn eval_strategy<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<EvalStrategy>, D::Error> {
    match Option::<Value>::deserialize(value)? {
        None => Ok(None),
        Some(Value::Bool(false)) => Ok(Some(EvalStrategy::No)),
        Some(word) => EvalStrategy::deserialize(word).map(Some).map_err(D::Error::custom),
    }
}

/// How the two policies of DPO are compared, arXiv 2309.16240.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FDivergence {
    /// Reverse Kullback–Leibler, plain DPO.
    #[default]
    ReverseKl,
    /// Forward Kullback–Leibler.
    ForwardKl,
    /// Jensen–Shannon.
    JsDivergence,
    /// The α family.
    AlphaDivergence,
}

/// Arguments of a schedule, in transformers' spelling (`lr_scheduler_kwargs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleArgs {
    /// Cosines: half waves 0.5 unless set; restarts: how many, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_cycles: Option<f64>,
    /// `polynomial`: the exponent, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// `polynomial`: the last rate, 1e-7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<f64>,
    /// `cosine_with_min_lr`: the last rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// `cosine_with_min_lr`: the last rate as a fraction of the peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_rate: Option<f64>,
    /// `inverse_sqrt`: the time scale; the warm-up steps, or 10,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timescale: Option<f64>,
    /// `warmup_stable_decay`: steps of decay; required there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decay_steps: Option<u64>,
    /// `warmup_stable_decay`: steps of the plateau; what is left unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_stable_steps: Option<u64>,
    /// `warmup_stable_decay`: shape of the rise, `linear`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_type: Option<RampType>,
    /// `warmup_stable_decay`: shape of the fall, `cosine`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_type: Option<RampType>,
    /// `warmup_stable_decay`: the last rate as a fraction of the peak, 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_ratio: Option<f64>,
}

/// Shape of a rise or fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RampType {
    /// A straight line.
    #[serde(rename = "linear")]
    Linear,
    /// Half a cosine.
    #[serde(rename = "cosine")]
    Cosine,
    /// One minus a root.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}
