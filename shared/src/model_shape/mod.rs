//! The sizes of any decoder that Hugging Face publishes, as far as memory goes: also of families the engine does not
//! train. [`ModelSpec`](crate::ModelSpec) is the exact shape of what it does.
//!
//! ```text
//!   config.json ──read──▶ ModelShape ──▶ estimate::torch
//!        ▲
//!   known ┘  published shapes by name
//! ```

mod family;
mod known;
mod linear;
mod read;

use serde::{Deserialize, Serialize};

pub use known::{known_config, known_models};
pub(crate) use linear::{Linear, Slot, slots_of};

/// What follows from a `config.json` for memory. Counts of numbers, not bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShape {
    /// Hugging Face's name of the architecture.
    pub model_type: String,
    /// Whether nothing more than this is known of the architecture, so that it is taken for a Llama.
    pub assumed: bool,
    /// Width of the residual stream.
    pub hidden_size: u64,
    /// Decoder blocks.
    pub num_hidden_layers: u64,
    /// Query heads.
    pub num_attention_heads: u64,
    /// Key and value heads.
    pub num_key_value_heads: u64,
    /// Width of one head.
    pub head_dim: u64,
    /// Width of the MLP, of one expert where there are several.
    pub intermediate_size: u64,
    /// Rows of the embedding.
    pub vocab_size: u64,
    /// Longest sequence, where the file says.
    pub max_position_embeddings: Option<u64>,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the MLP has a gate.
    pub gated: bool,
    /// Experts of each MLP, 1 for a plain one.
    pub experts: u64,
    /// Experts that a token visits.
    pub experts_used: u64,
    /// Whether norms are LayerNorms, which keep their input as it is; an RMSNorm as transformers has it keeps an f32 copy.
    pub layer_norm: bool,
    /// Norms of one block; 1 where attention and MLP read the same.
    pub norms: u64,
    /// Whether heads of q and k are normed.
    pub qk_norm: bool,
    /// Whether q, k and v carry biases.
    pub qkv_bias: bool,
    /// Whether all other linear layers do.
    pub linear_bias: bool,
    /// Whether q, k and v are one linear layer.
    pub fused_qkv: bool,
    /// Whether gate and up are one linear layer.
    pub fused_gate_up: bool,
    /// Rows of a learned table of positions.
    pub position_rows: u64,
}

impl ModelShape {
    /// Width of all query heads.
    #[must_use]
    pub fn query_width(&self) -> u64 {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads, and of all value heads.
    #[must_use]
    pub fn key_value_width(&self) -> u64 {
        self.num_key_value_heads * self.head_dim
    }

    /// Numbers of one block's linear layers, biases left out.
    #[must_use]
    pub fn block_linears(&self) -> u64 {
        self.linears().iter().map(|linear| linear.count * linear.numbers()).sum()
    }

    /// Numbers of the embedding.
    #[must_use]
    pub fn table(&self) -> u64 {
        self.vocab_size * self.hidden_size
    }

    /// Numbers of embedding and head, once where they are one.
    #[must_use]
    pub fn tables(&self) -> u64 {
        self.table() * if self.tie_word_embeddings { 1 } else { 2 }
    }

    /// Parameters of the whole model.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let h = self.hidden_size;
        let norm = h * if self.layer_norm { 2 } else { 1 };
        let heads = if self.qk_norm { 2 * self.head_dim } else { 0 };
        let biases = self.linears().into_iter().map(|linear| match linear.slot {
            Slot::Query | Slot::Key | Slot::Value if self.qkv_bias => linear.out,
            Slot::Query | Slot::Key | Slot::Value => 0,
            _ if self.linear_bias => linear.count * linear.out,
            _ => 0,
        });
        let router = if self.experts > 1 { self.experts * h } else { 0 };
        let block = self.block_linears() + biases.sum::<u64>() + self.norms * norm + heads + router;
        self.tables() + self.position_rows * h + self.num_hidden_layers * block + norm
    }
}

#[cfg(test)]
mod tests;
