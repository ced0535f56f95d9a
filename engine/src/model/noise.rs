//! Where a run stands, which decides everything that is random in a training pass.

use candle_core::Tensor;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::Result;
use crate::ops::{DropoutMask, Span, slices};

/// A place in a run. Two passes at the same place draw the same numbers, whatever happened between them; a pass without
/// one draws none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// The run's seed.
    pub seed: u64,
    /// The optimizer step under way, from 1.
    pub step: u64,
    /// The micro-batch of that step, from 0.
    pub micro_batch: u64,
}

/// Tells dropout's draws from those of others at the same place.
const DROPOUT: u64 = u64::from_le_bytes(*b"dropout\0");
const NEFTUNE: u64 = u64::from_le_bytes(*b"neftune\0");

impl Noise {
    /// What `layer`, numbered through the model, drops with probability `p`.
    pub(crate) fn dropout(self, layer: u64, p: f64) -> DropoutMask {
        DropoutMask::new(self.key(DROPOUT), layer, p)
    }

    /// Adds NEFTune's noise (arXiv 2310.05914) to `x` (`[tokens, H]`), the embeddings of the queries of `spans`: each
    /// number moves by up to `alpha / √(tokens · H)` of its example. An example's own length counts, as in the paper;
    /// transformers counts the padding too. A beginning that several examples share is the first one's.
    pub(crate) fn on_embeddings(self, alpha: f64, x: &Tensor, spans: &[Span]) -> Result<()> {
        let width = x.dim(1)?;
        let mut rng = ChaCha12Rng::from_seed(self.key(NEFTUNE));
        slices::edit(x, |numbers| {
            for span in spans {
                let reach = (alpha / ((span.keys() * width) as f64).sqrt()) as f32;
                for number in &mut numbers[span.q.start * width..span.q.end * width] {
                    *number += uniform(&mut rng) * reach;
                }
            }
        })
    }

    fn key(self, purpose: u64) -> [u8; 32] {
        let mut key = [0; 32];
        let parts = [self.seed, self.step, self.micro_batch, purpose];
        for (part, number) in key.chunks_exact_mut(8).zip(parts) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        key
    }
}

/// Between −1 and 1, on a grid of 2⁻²³.
fn uniform(rng: &mut ChaCha12Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    const NOISE: Noise = Noise { seed: 42, step: 3, micro_batch: 1 };

    fn added(noise: Noise) -> Vec<f32> {
        let x = Tensor::zeros((60, 64), DType::F32, &Device::Cpu).unwrap();
        let spans = [Span::causal(0..10), Span::causal(10..60)];
        noise.on_embeddings(5.0, &x, &spans).unwrap();
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn an_examples_length_says_how_far_its_embeddings_move() {
        let noise = added(NOISE);
        let (short, long) = noise.split_at(10 * 64);
        for (numbers, tokens) in [(short, 10.0_f32), (long, 50.0)] {
            let reach = 5.0 / (tokens * 64.0).sqrt();
            let largest = numbers.iter().fold(0.0, |max: f32, n| max.max(n.abs()));
            assert!(largest <= reach && largest > 0.98 * reach, "{largest} of {reach}");
            let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
            assert!(mean.abs() < 0.1 * reach, "{mean}");
            // A uniform distribution's deviation is its reach over √3.
            let square = numbers.iter().map(|n| n * n).sum::<f32>() / numbers.len() as f32;
            assert!((square.sqrt() * 3f32.sqrt() / reach - 1.0).abs() < 0.05);
        }
    }

    #[test]
    fn every_micro_batch_has_its_own_and_always_the_same() {
        let noise = added(NOISE);
        assert_eq!(noise, added(NOISE));
        for other in [
            Noise { seed: 43, ..NOISE },
            Noise { step: 4, ..NOISE },
            Noise { micro_batch: 0, ..NOISE },
        ] {
            assert_ne!(noise, added(other));
        }
    }
}
