//! Blocks of numbers, each divided by its largest and then held as a code of the dynamic map.

use super::{Packed, codebook::dynamic8, encode_blocks, stretch};
use crate::Result;

/// 8 bits a number and an f32 a block (8-bit optimizers, arXiv 2110.02861).
#[derive(Clone, Debug, PartialEq)]
pub struct Blockwise8 {
    block: usize,
    codes: Vec<u8>,
    absmax: Vec<f32>,
}

/// bitsandbytes rounds a number to one of 2^16 places in [−1, 1] before it looks for the nearest code (its CPU
/// kernel is a table).
fn place(x: f32) -> f32 {
    const HALF: f32 = 32_767.5;
    (x * HALF + HALF + 0.5).floor() / HALF - 1.0
}

impl Blockwise8 {
    /// Encodes `values` in blocks of `block`, as bitsandbytes' `quantize_blockwise` does on the CPU.
    #[must_use]
    pub fn encode(values: &[f32], block: usize) -> Self {
        let mut codes = vec![0; values.len()];
        let encode = |codes: &mut [u8], values: &[f32], scale: f32| {
            for (code, value) in codes.iter_mut().zip(values) {
                *code = dynamic8().nearest(place(value * scale));
            }
        };
        let absmax = encode_blocks((&mut codes, block), (values, block), 1.0, encode);
        Self { block, codes, absmax }
    }

    /// Takes codes and block maxima that were encoded elsewhere.
    ///
    /// # Errors
    /// When there are not as many maxima as blocks.
    pub fn of_parts(codes: Vec<u8>, absmax: Vec<f32>, block: usize) -> Result<Self> {
        super::blocks_match(codes.len(), block, absmax.len())?;
        Ok(Self { block, codes, absmax })
    }

    /// One code a number.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Each block's largest magnitude.
    #[must_use]
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// Number `index` as f32.
    #[must_use]
    pub fn get(&self, index: usize) -> f32 {
        dynamic8().values()[usize::from(self.codes[index])] * self.absmax[index / self.block]
    }
}

impl Packed for Blockwise8 {
    fn count(&self) -> usize {
        self.codes.len()
    }

    fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.absmax.len()
    }

    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()> {
        stretch(self.count(), from, out.len())?;
        out.iter_mut().zip(from..).for_each(|(out, index)| *out = self.get(index));
        Ok(())
    }
}
