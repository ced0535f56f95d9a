//! How large the tensors of a self-test are.

/// Sides of tensors.
#[derive(Clone, Debug)]
pub struct Size {
    /// Tokens of a batch, at least 8.
    pub tokens: usize,
    /// Residual width.
    pub hidden: usize,
    /// MLP width.
    pub inner: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Rank of a low-rank update.
    pub rank: usize,
    /// Width of logits.
    pub vocab: usize,
    /// Rows of logits.
    pub labels: usize,
}

impl Size {
    /// A block of SmolLM2-135M over 512 tokens.
    #[must_use]
    pub fn smollm2() -> Self {
        Self {
            tokens: 512,
            hidden: 576,
            inner: 1536,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            rank: 16,
            vocab: 49_152,
            labels: 64,
        }
    }

    /// Small, and nothing a multiple of what machines like.
    #[must_use]
    pub fn odd() -> Self {
        Self {
            tokens: 37,
            hidden: 77,
            inner: 131,
            heads: 6,
            kv_heads: 2,
            head_dim: 10,
            rank: 3,
            vocab: 1003,
            labels: 5,
        }
    }
}
