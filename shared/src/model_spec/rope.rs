//! Stretched rotary frequencies.

use serde::{Deserialize, Serialize};

/// Stretching of rotary frequencies for contexts longer than the model was first trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Every frequency divided by `factor`.
    Linear {
        /// How many times longer.
        factor: f64,
    },
    /// Llama 3.1's scheme: long wavelengths divided by `factor`, short ones kept, a smooth ramp between.
    /// Reference: `_compute_llama3_parameters` in transformers' `modeling_rope_utils`.
    Llama3 {
        /// How many times longer.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context of the first training.
        original_max_position_embeddings: usize,
    },
    /// LongRoPE (arXiv 2402.13753), of Phi-3's long contexts: every frequency has a factor of its own, one for
    /// sequences within the first context and one for those beyond it, and queries and keys are scaled.
    #[serde(rename = "longrope")]
    LongRope {
        /// Divides each frequency of a sequence no longer than the first context.
        short_factor: Vec<f64>,
        /// Divides each frequency of a longer one.
        long_factor: Vec<f64>,
        /// The context of the first training.
        original_max_position_embeddings: usize,
        /// Multiplies turned queries and keys; `√(1 + ln s / ln original)` with `s` the ratio of contexts, unless the
        /// file says otherwise.
        attention_factor: f64,
    },
}
