//! PEFT's `adapter_config.json`.

use serde::{Deserialize, Serialize};

/// The keys of `adapter_config.json` this engine reads and writes; others are ignored on reading, as PEFT does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// Always `LORA` so far.
    pub peft_type: String,
    /// `CAUSAL_LM`.
    #[serde(default)]
    pub task_type: Option<String>,
    /// The base, as the user named it.
    #[serde(default)]
    pub base_model_name_or_path: Option<String>,
    /// True on disk: PEFT loads it frozen unless told otherwise.
    #[serde(default)]
    pub inference_mode: bool,
    /// Rank.
    pub r: usize,
    /// Numerator of the scaling.
    pub lora_alpha: f64,
    /// Probability of dropping an input of the adapter.
    #[serde(default)]
    pub lora_dropout: f64,
    /// Whether the scaling divides by `√r`.
    #[serde(default)]
    pub use_rslora: bool,
    /// Whether a magnitude vector is learned.
    #[serde(default)]
    pub use_dora: bool,
    /// `none`, `all` or `lora_only`.
    #[serde(default = "none")]
    pub bias: String,
    /// Whether `lora_B` carries a bias.
    #[serde(default)]
    pub lora_bias: bool,
    /// Whether weights are stored transposed.
    #[serde(default)]
    pub fan_in_fan_out: bool,
    /// How A and B began.
    #[serde(default = "yes")]
    pub init_lora_weights: serde_json::Value,
    /// Names, a regex or `all-linear`.
    pub target_modules: serde_json::Value,
    /// Modules trained and stored whole.
    #[serde(default)]
    pub modules_to_save: Option<Vec<String>>,
    /// Ranks by module name.
    #[serde(default)]
    pub rank_pattern: serde_json::Map<String, serde_json::Value>,
    /// Alphas by module name.
    #[serde(default)]
    pub alpha_pattern: serde_json::Map<String, serde_json::Value>,
    /// Blocks that get an adapter; all when absent.
    #[serde(default)]
    pub layers_to_transform: serde_json::Value,
}

fn none() -> String {
    "none".into()
}

fn yes() -> serde_json::Value {
    true.into()
}
