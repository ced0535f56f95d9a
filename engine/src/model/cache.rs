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

    /// Appends to block `index` and gives its keys and values, `[kept + new, kv]`: of those seen before, all that the
    /// first new one can see through `window`.
    pub(crate) fn append(
        &mut self,
        index: usize,
        k: Tensor,
        v: Tensor,
        window: Option<usize>,
    ) -> Result<(Tensor, Tensor)> {
        if self.blocks.len() <= index {
            self.blocks.resize(index + 1, None);
        }
        let both = match self.blocks[index].take() {
            None => (k, v),
            Some((past_k, past_v)) => {
                let past = past_k.dim(0)?;
                let kept = window.map_or(past, |window| past.min(window - 1));
                let last = |past_rows: &Tensor| past_rows.narrow(0, past - kept, kept);
                (Tensor::cat(&[last(&past_k)?, k], 0)?, Tensor::cat(&[last(&past_v)?, v], 0)?)
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
