//! Keys and values of tokens already seen, for decoding.

use candle_core::Tensor;

use crate::Result;

/// What [`Model::step`](super::Model::step) remembers of a sequence: turned keys and values of every block.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    blocks: Vec<Option<(Tensor, Tensor)>>,
    len: usize,
}

impl KvCache {
    /// An empty one, for a sequence that begins.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens seen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends to block `index` and gives all keys and values of it, `[seen + new, kv]`.
    pub(crate) fn append(
        &mut self,
        index: usize,
        k: Tensor,
        v: Tensor,
    ) -> Result<(Tensor, Tensor)> {
        if self.blocks.len() <= index {
            self.blocks.resize(index + 1, None);
        }
        let both = match self.blocks[index].take() {
            None => (k, v),
            Some((past_k, past_v)) => {
                (Tensor::cat(&[past_k, k], 0)?, Tensor::cat(&[past_v, v], 0)?)
            }
        };
        self.blocks[index] = Some(both.clone());
        Ok(both)
    }

    /// Counts tokens once every block has appended them.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }
}
