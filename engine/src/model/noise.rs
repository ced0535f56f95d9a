//! Where a run stands, which decides everything that is random in a training pass.

use crate::ops::DropoutMask;

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

impl Noise {
    /// What `layer`, numbered through the model, drops with probability `p`.
    pub(crate) fn dropout(self, layer: u64, p: f64) -> DropoutMask {
        let mut key = [0; 32];
        for (part, number) in
            key.chunks_exact_mut(8).zip([self.seed, self.step, self.micro_batch, DROPOUT])
        {
            part.copy_from_slice(&number.to_le_bytes());
        }
        DropoutMask::new(key, layer, p)
    }
}
