//! The shape itself, and what follows from it.

use serde::{Deserialize, Serialize};

use super::{ModelSpecError, RopeScaling, StoredWeights};

/// The shape of a decoder-only transformer: sizes, and every choice by which one architecture's block differs from
/// another's. Whoever builds or sizes a block reads these and never asks for the architecture's name.
///
/// Field names follow Hugging Face's `config.json` where it has one for the thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// Hugging Face's name of the architecture, such as `llama` (SmolLM2 included) or `gemma3_text`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of decoder blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; `hidden_size / num_attention_heads` unless the file or the architecture says otherwise.
    pub head_dim: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched, if at all.
    pub rope_scaling: Option<RopeScaling>,
    /// Base of the frequencies, never stretched, in blocks with a sliding window, where it differs (Gemma 3).
    #[serde(default)]
    pub rope_local_base_freq: Option<f64>,
    /// Share of each head, counted from its beginning, that is turned.
    #[serde(default = "whole")]
    pub partial_rotary_factor: f64,
    /// Activation of the gate.
    pub hidden_act: Activation,
    /// Whether the head is the embedding itself.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v carry a bias.
    pub attention_bias: bool,
    /// Whether o carries a bias.
    #[serde(default)]
    pub attention_output_bias: bool,
    /// Whether gate, up and down carry a bias.
    pub mlp_bias: bool,
    /// Whether q, k and v are one linear layer, `qkv_proj`, and gate and up another, `gate_up_proj` (Phi-3).
    #[serde(default)]
    pub fused_projections: bool,
    /// Whether every head of q and k is normed before it is turned (Qwen 3, Gemma 3).
    #[serde(default)]
    pub qk_norm: bool,
    /// Where a block's norms stand.
    #[serde(default)]
    pub norm_placement: NormPlacement,
    /// Whether norms multiply by `1 + w` instead of `w` (Gemma).
    #[serde(default)]
    pub norm_unit_offset: bool,
    /// Whether embeddings are multiplied by `√hidden_size` (Gemma).
    #[serde(default)]
    pub scaled_embedding: bool,
    /// Attention scores are divided by the root of this; of `head_dim` where there is none.
    #[serde(default)]
    pub query_pre_attn_scalar: Option<f64>,
    /// `c` of the `c · tanh(x / c)` on attention scores (Gemma 2).
    #[serde(default)]
    pub attn_logit_softcapping: Option<f64>,
    /// `c` of the `c · tanh(x / c)` on logits (Gemma 2).
    #[serde(default)]
    pub final_logit_softcapping: Option<f64>,
    /// Keys a query of a sliding block sees, its own included.
    #[serde(default)]
    pub sliding_window: Option<usize>,
    /// Kind of each block; empty where all see everything.
    #[serde(default)]
    pub layer_types: Vec<LayerType>,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// Padding token. transformers' `nn.Embedding(padding_idx)` never trains its row as an input, even where it is
    /// also the end of a turn, and so must whoever wants its numbers.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
    /// How the file holds its weights, where those are quantised.
    #[serde(default)]
    pub stored: Option<StoredWeights>,
}

fn whole() -> f64 {
    1.0
}

/// Activation of the MLP's gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · sigmoid(x)`, the gate of SwiGLU.
    Silu,
    /// `x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2`, the gate of GeGLU as Gemma has it.
    GeluTanh,
}

/// Where a block's norms stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// Before attention and before the MLP.
    #[default]
    Pre,
    /// Before each, and after each ahead of the residual sum (Gemma 2 and 3).
    Sandwich,
}

/// What a block's attention sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// Everything before.
    FullAttention,
    /// The last [`ModelSpec::sliding_window`] tokens.
    SlidingAttention,
}

impl ModelSpec {
    /// Parameters of the whole model; a tied head is counted once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let head = if self.tie_word_embeddings { 0 } else { self.vocab_size * self.hidden_size };
        let bias = |name, out| if self.has_bias(name) { out } else { 0 };
        let linears: usize =
            self.linears().iter().map(|(name, out, inp)| out * inp + bias(name, *out)).sum();
        let norms: usize = self.block_norms().iter().map(|(_, width)| width).sum();
        (self.vocab_size * self.hidden_size
            + head
            + self.num_hidden_layers * (linears + norms)
            + self.hidden_size) as u64
    }

    /// The linear layers of one block as `(name, out_features, in_features)`, in the order data meets them.
    #[must_use]
    pub fn linears(&self) -> Vec<(&'static str, usize, usize)> {
        let (h, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.query_width(), self.key_value_width());
        if self.fused_projections {
            return vec![
                ("qkv_proj", q + 2 * kv, h),
                ("o_proj", h, q),
                ("gate_up_proj", 2 * f, h),
                ("down_proj", h, f),
            ];
        }
        vec![
            ("q_proj", q, h),
            ("k_proj", kv, h),
            ("v_proj", kv, h),
            ("o_proj", h, q),
            ("gate_proj", f, h),
            ("up_proj", f, h),
            ("down_proj", h, f),
        ]
    }

    /// The module that the linear layer `name` of block `block` is: `q_proj` of block 3 is
    /// `model.layers.3.self_attn.q_proj`.
    #[must_use]
    pub fn module(block: usize, name: &str) -> String {
        let attention = matches!(name, "q_proj" | "k_proj" | "v_proj" | "qkv_proj" | "o_proj");
        let part = if attention { "self_attn" } else { "mlp" };
        format!("model.layers.{block}.{part}.{name}")
    }

    /// The block that the module or tensor `name` belongs to, if it belongs to one.
    #[must_use]
    pub fn block_of(name: &str) -> Option<usize> {
        name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
    }

    /// Whether the linear layer `name` of [`Self::linears`] carries a bias.
    #[must_use]
    pub fn has_bias(&self, name: &str) -> bool {
        match name {
            "o_proj" => self.attention_output_bias,
            "q_proj" | "k_proj" | "v_proj" | "qkv_proj" => self.attention_bias,
            _ => self.mlp_bias,
        }
    }

    /// The norms of one block as `(name, width)`; names are Hugging Face's, relative to the block.
    #[must_use]
    pub fn block_norms(&self) -> Vec<(&'static str, usize)> {
        let h = self.hidden_size;
        let mut norms = vec![("input_layernorm", h), ("post_attention_layernorm", h)];
        if self.norm_placement == NormPlacement::Sandwich {
            norms.extend([("pre_feedforward_layernorm", h), ("post_feedforward_layernorm", h)]);
        }
        if self.qk_norm {
            norms
                .extend([("self_attn.q_norm", self.head_dim), ("self_attn.k_norm", self.head_dim)]);
        }
        norms
    }

    /// Width of all query heads together.
    #[must_use]
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together, which is also that of the values.
    #[must_use]
    pub fn key_value_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Numbers of each head that are turned, from its beginning; even.
    #[must_use]
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim as f64 * self.partial_rotary_factor) as usize
    }

    /// What attention scores are multiplied by.
    #[must_use]
    pub fn attention_scale(&self) -> f64 {
        self.query_pre_attn_scalar.unwrap_or(self.head_dim as f64).powf(-0.5)
    }

    /// What embeddings are multiplied by.
    #[must_use]
    pub fn embedding_scale(&self) -> f64 {
        if self.scaled_embedding { (self.hidden_size as f64).sqrt() } else { 1.0 }
    }

    /// Keys a query of block `layer` sees, its own included; `None` for all before it.
    #[must_use]
    pub fn window(&self, layer: usize) -> Option<usize> {
        match self.layer_types.get(layer) {
            Some(LayerType::SlidingAttention) => self.sliding_window,
            Some(LayerType::FullAttention) | None => None,
        }
    }

    /// Whether block `layer` turns by [`Self::rope_local_base_freq`].
    #[must_use]
    pub fn has_local_rope(&self, layer: usize) -> bool {
        self.rope_local_base_freq.is_some() && self.window(layer).is_some()
    }

    /// Checks that the numbers agree with one another.
    pub(super) fn consistent(self, place: &'static str) -> Result<Self, ModelSpecError> {
        let fail = |why: String| Err(ModelSpecError::Shape { place, why });
        // First, so that no product of what passes here overflows.
        let heads = self.num_attention_heads.saturating_mul(self.head_dim);
        let key_values = self.num_key_value_heads.saturating_mul(self.head_dim);
        let widths = [self.hidden_size, self.intermediate_size, heads, key_values];
        let wide = widths.iter().any(|n| *n > 1 << 20) || self.vocab_size > 1 << 24;
        if wide || self.num_hidden_layers > 4096 || self.parameters() > 1 << 44 {
            return fail("sizes are beyond any known model, the file is likely damaged".into());
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return fail(format!(
                "num_key_value_heads {} does not divide num_attention_heads {}",
                self.num_key_value_heads, self.num_attention_heads
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return fail(format!(
                "head_dim is {}, expected an even number (hidden_size {} over {} heads)",
                self.head_dim, self.hidden_size, self.num_attention_heads
            ));
        }
        let rotary = self.rotary_dim();
        if rotary == 0 || rotary > self.head_dim || !rotary.is_multiple_of(2) {
            return fail(format!(
                "partial_rotary_factor {} turns {rotary} numbers of head_dim {}, expected an even number",
                self.partial_rotary_factor, self.head_dim
            ));
        }
        if let Some(RopeScaling::LongRope { short_factor, long_factor, .. }) = &self.rope_scaling
            && (short_factor.len() != rotary / 2 || long_factor.len() != rotary / 2)
        {
            return fail(format!(
                "rope scaling has {} short and {} long factors, expected {}",
                short_factor.len(),
                long_factor.len(),
                rotary / 2
            ));
        }
        if !self.layer_types.is_empty() && self.layer_types.len() != self.num_hidden_layers {
            return fail(format!(
                "layer_types has {} entries, num_hidden_layers is {}",
                self.layer_types.len(),
                self.num_hidden_layers
            ));
        }
        if self.sliding_window.is_none() && self.layer_types.contains(&LayerType::SlidingAttention)
        {
            return fail("layer_types has sliding_attention but there is no sliding_window".into());
        }
        Ok(self)
    }
}
