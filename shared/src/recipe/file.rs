//! The recipe as it is written: every key optional but two, nothing checked beyond its type.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DataFormat;
use super::sweep::SweepFile;
use super::words::{
    CheckpointingChoice, Dtype, EvalStrategy, FDivergence, FinetuningTask, FourBitType, LoraBias,
    OneOrMany, OneOrManyLayers, OptimName, OverLength, PackingStrategy, PeftType, Sampling,
    ScheduleArgs, ScheduleName, StoppingStrategy, SwitchOrWord, TargetModules, TruncationMode,
    eval_strategy,
};

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
    /// Only on a card whose name has this in it, such as `RTX 4000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub card: Option<String>,
    /// Only on a card of this compute capability or a higher one, such as 8.6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_compute_capability: Option<f64>,
    /// Only on an agent that carries all these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Never on a card that holds another job with the same word here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<String>,
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
    /// A file (JSON, JSONL, CSV, Parquet, also .gz and .zst), a folder, a glob or a hub id, or a list of them.
    /// Relative to the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<OneOrMany>,
    /// Split of a hub data set. Default `train`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_split: Option<String>,
    /// Configuration of a hub data set, where it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_config: Option<String>,
    /// Mix the sets of `dataset_name` with these weights instead of laying them end to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_probabilities: Option<Vec<f64>>,
    /// When mixing ends. Default `first_exhausted`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopping_strategy: Option<StoppingStrategy>,
    /// Held-out rows, as `dataset_name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_dataset: Option<OneOrMany>,
    /// Hold out this part of the rows (below 1), or so many of them, drawn from the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_split_size: Option<f64>,
    /// How rows are laid out. Default `auto`: told from the columns of the first row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_format: Option<DataFormat>,
    /// Column of plain text rows. Default `text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataset_text_field: Option<String>,
    /// Use only the first so many rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_samples: Option<u64>,
    /// Longest row in tokens. Default 1024, or the model's own limit where that is smaller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// What happens to longer rows. Default `error` (TRL cuts silently).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_length: Option<OverLength>,
    /// Which end of a row stays under `over_length: truncate`. Default `keep_start`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation_mode: Option<TruncationMode>,
    /// Lay rows together into bins of `max_length` tokens; no row sees another. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing: Option<bool>,
    /// How rows share bins. Default `bfd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packing_strategy: Option<PackingStrategy>,
    /// Learn only what the assistant says. Default true for conversations (TRL: false).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assistant_only_loss: Option<bool>,
    /// Learn only the completion of prompt/completion and alpaca rows. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_only_loss: Option<bool>,
    /// A built-in chat template by name (`chatml`, `llama-3`, `mistral`, …) instead of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
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
    /// Without an adapter: train only the last so many blocks (negative: the first).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeze_trainable_layers: Option<i64>,
    /// Without an adapter: train only tensors whose names match one of these regular expressions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfrozen_parameters: Option<Vec<String>>,
    /// The kind of adapter. Default `LORA`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peft_type: Option<PeftType>,
    /// Rank. Default 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r: Option<u64>,
    /// The adapter's product is scaled by `lora_alpha / r`. Default 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Probability of dropping an input of the adapter. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_dropout: Option<f64>,
    /// Scale by `lora_alpha / √r` instead. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_rslora: Option<bool>,
    /// Learn magnitude and direction apart, arXiv 2402.09353. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_dora: Option<bool>,
    /// How A and B begin: `true` (B zero), `gaussian`, `orthogonal`, `pissa`, `pissa_niter_16`, `olora` or `loftq`. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_lora_weights: Option<SwitchOrWord>,
    /// Layers that get an adapter: a list of names, a regular expression that matches whole module names, or
    /// `all-linear`, the default (PEFT: q and v).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_modules: Option<TargetModules>,
    /// Layers that get none all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<TargetModules>,
    /// Only these blocks get an adapter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<OneOrManyLayers>,
    /// Ranks that differ from `r`, by module name or regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_pattern: Option<BTreeMap<String, u64>>,
    /// Alphas that differ from `lora_alpha`, by module name or regular expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_pattern: Option<BTreeMap<String, f64>>,
    /// Modules trained and stored whole, such as `embed_tokens` and `lm_head`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules_to_save: Option<Vec<String>>,
    /// Biases that learn too. Default `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<LoraBias>,
    /// Give B a bias. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_bias: Option<bool>,
    /// IA³: those of `target_modules` whose input is scaled instead of the output. Default `down_proj`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feedforward_modules: Option<TargetModules>,
    /// Precision the base is held in. Default `float32`, or a GGUF base's own blocks beside an adapter. In
    /// bfloat16 activations and factors of products are bfloat16 too, and sums f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// Hold the base's linear layers in 4 bits. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_in_4bit: Option<bool>,
    /// Hold the base's linear layers in 8 bits. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_in_8bit: Option<bool>,
    /// Code book of `load_in_4bit`. Default `nf4` (bitsandbytes: `fp4`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bnb_4bit_quant_type: Option<FourBitType>,
    /// Quantise the blocks' scales too. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bnb_4bit_use_double_quant: Option<bool>,

    // ── training ────────────────────────────────────────────────────────────────────────────────────────────
    /// Peak learning rate. Default 2e-5 for `sft`, 1e-5 for `reward`, 1e-6 for the others; ten times that for
    /// adapters.
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
    /// Arguments of the schedule, as transformers names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_scheduler_kwargs: Option<ScheduleArgs>,
    /// Steps of linear warm-up. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Fraction of the steps that warm up; ignored where `warmup_steps` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Optimizer. Default `adamw_torch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optim: Option<OptimName>,
    /// Of `adamw_anyprecision`, as transformers reads them: `momentum_dtype=…,variance_dtype=…`, each `float32` (default)
    /// or `bfloat16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optim_args: Option<String>,
    /// Momentum of `sgd`. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sgd_momentum: Option<f64>,
    /// Full fine-tuning: step each tensor as soon as its gradient is there, and free it. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer_in_backward: Option<bool>,
    /// Learning rate of B over that of A, arXiv 2402.12354.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// Learning rate of embeddings, where they learn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub embedding_lr: Option<f64>,
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
    /// Recompute activations in the backward pass: `none`, `selective`, `block`, `auto`; `true` is `block`,
    /// `false` is `none`. Default `auto`: as little as the memory has room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<CheckpointingChoice>,
    /// Noise on embeddings while training, arXiv 2310.05914.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neftune_noise_alpha: Option<f64>,
    /// Share of each label spread over the vocabulary. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing_factor: Option<f64>,
    /// Seed of everything random. Default 42.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,

    // ── preferences ─────────────────────────────────────────────────────────────────────────────────────────
    /// The loss: DPO `sigmoid` (default), `hinge`, `ipo`, `robust`, `exo_pair`, …, or a list of them; KTO `kto` (default); CPO `sigmoid` (default), `hinge`, `ipo`, `simpo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_type: Option<OneOrMany>,
    /// Weights of several DPO losses. Default 1 each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_weights: Option<Vec<f64>>,
    /// How strongly the policy is held to the reference. Default 0.1; SimPO 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// DPO, CPO: how often labels are thought to be wrong. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    /// DPO: how policy and reference are compared. Default `reverse_kl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_divergence_type: Option<FDivergence>,
    /// DPO: the α of `alpha_divergence`. Default 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_alpha_divergence_coef: Option<f64>,
    /// DPO: weight of what makes one answer longer than the other, arXiv 2409.06411.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ld_alpha: Option<f64>,
    /// DPO: weigh pairs by the policy's confidence, arXiv 2406.11827. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_weighting: Option<bool>,
    /// DPO: temperature of `discopop`. Default 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discopop_tau: Option<f64>,
    /// DPO: weight of the chosen answer's likelihood, arXiv 2404.19733.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_alpha: Option<f64>,
    /// DPO, KTO: ask the reference once, before training. Default false; always so for full fine-tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precompute_ref_log_probs: Option<bool>,
    /// KTO: weight of wanted answers. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desirable_weight: Option<f64>,
    /// KTO: weight of unwanted answers. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undesirable_weight: Option<f64>,
    /// CPO: weight of the chosen answer's likelihood. Default 1; SimPO 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpo_alpha: Option<f64>,
    /// SimPO: target margin. Default 0.5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simpo_gamma: Option<f64>,
    /// Reward: pulls the mean of rewards to zero, arXiv 2312.09244.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub center_rewards_coefficient: Option<f64>,
    /// Preferences: no dropout. Default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_dropout: Option<bool>,

    // ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────
    /// Optimizer steps between checkpoints. Default 500; 0 writes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_steps: Option<u64>,
    /// Checkpoints kept in the output folder. Default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_total_limit: Option<u64>,

    // ── evaluation ──────────────────────────────────────────────────────────────────────────────────────────
    /// When the held-out rows are evaluated. Default `no`, or `epoch` where there are some.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "eval_strategy")]
    pub eval_strategy: Option<EvalStrategy>,
    /// Optimizer steps between two evaluations under `steps`. Default 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_steps: Option<u64>,
    /// Also before the first step. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_on_start: Option<bool>,
    /// Rows per micro-batch of an evaluation. Default 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_device_eval_batch_size: Option<u64>,
    /// The result is the best checkpoint, not the last step. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_best_model_at_end: Option<bool>,
    /// What "best" means. Default `eval_loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_for_best_model: Option<String>,
    /// Whether more of it is better. Default false for losses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greater_is_better: Option<bool>,
    /// End after so many evaluations without a better one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u64>,
    /// How much better counts as better. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping_threshold: Option<f64>,

    // ── sweep ───────────────────────────────────────────────────────────────────────────────────────────────
    /// For `fleetune sweep`: which keys take which values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<SweepFile>,
}
