//! Dropout whose mask is drawn again rather than kept (arXiv 1207.0580).

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Which numbers of a `[T, n]` tensor are dropped: a function of a key, a stream and their place, so that the backward
/// pass, a recomputed forward pass and a resumed run see the same ones, however many threads share the work.
#[derive(Clone, Debug)]
pub struct DropoutMask {
    pub(super) key: [u8; 32],
    pub(super) stream: u64,
    /// Of 65,536 draws so many drop.
    pub(super) dropped: u32,
}

impl DropoutMask {
    /// Drops with probability `p` below 1, to the nearest of 65,536.
    #[must_use]
    pub fn new(key: [u8; 32], stream: u64, p: f64) -> Self {
        Self { key, stream, dropped: ((p * 65_536.0).round() as u32).min(65_535) }
    }

    /// What numbers that stay are multiplied by: 1/(1 − p).
    pub(super) fn kept(&self) -> f32 {
        65_536.0 / (65_536 - self.dropped) as f32
    }

    /// Calls `each` with the factor of every number of row `row`, `width` in all: 0, or 1/(1 − p).
    pub(crate) fn row(&self, row: usize, width: usize, mut each: impl FnMut(usize, f32)) {
        let mut rng = ChaCha12Rng::from_seed(self.key);
        rng.set_stream(self.stream);
        // Two draws a word.
        rng.set_word_pos((row * width.div_ceil(2)) as u128);
        let kept = self.kept();
        for pair in (0..width).step_by(2) {
            let word = rng.next_u32();
            for (column, draw) in [(pair, word & 0xFFFF), (pair + 1, word >> 16)] {
                if column < width {
                    each(column, if draw < self.dropped { 0.0 } else { kept });
                }
            }
        }
    }
}
