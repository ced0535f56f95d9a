//! Rows of a weight as whole numbers of −127 to 127, each row with its own scale.
//!
//! This is how LLM.int8() stores weights (arXiv 2208.07339), without its other half: activations are not quantised
//! here, so no outlier columns need to be kept apart and the product loses only what the weights lost.

use super::{Packed, encode_blocks, stretch};
use crate::{EngineError, Result};

/// 8 bits a number and an f32 a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8 {
    width: usize,
    codes: Vec<i8>,
    absmax: Vec<f32>,
}

const LARGEST: f32 = 127.0;

impl Int8 {
    /// Encodes rows of `width` numbers: `round(x · 127 / max|row|)`, ties to even.
    #[must_use]
    pub fn encode(values: &[f32], width: usize) -> Self {
        let mut codes = vec![0; values.len()];
        let encode = |codes: &mut [i8], values: &[f32], scale: f32| {
            for (code, value) in codes.iter_mut().zip(values) {
                *code = (value * scale).round_ties_even() as i8;
            }
        };
        let absmax = encode_blocks((&mut codes, width), (values, width), LARGEST, encode);
        Self { width, codes, absmax }
    }

    /// Takes rows of `width` codes and their maxima as bitsandbytes stores them (`weight` and `SCB`).
    ///
    /// # Errors
    /// When there are not as many maxima as rows.
    pub fn of_parts(codes: Vec<i8>, absmax: Vec<f32>, width: usize) -> Result<Self> {
        super::blocks_match(codes.len(), width, absmax.len())?;
        Ok(Self { width, codes, absmax })
    }
}

impl Packed for Int8 {
    fn count(&self) -> usize {
        self.codes.len()
    }

    fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.absmax.len()
    }

    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()> {
        stretch(self.count(), from, out.len())?;
        if !from.is_multiple_of(self.width) {
            return Err(EngineError::input("8-bit weights: cut inside a row"));
        }
        let rows = self.codes[from..].chunks(self.width).zip(&self.absmax[from / self.width..]);
        for (out, (codes, absmax)) in out.chunks_mut(self.width).zip(rows) {
            let scale = absmax / LARGEST;
            out.iter_mut().zip(codes).for_each(|(out, code)| *out = f32::from(*code) * scale);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_within_half_a_step() {
        let values: Vec<f32> = (0..96).map(|i| ((i * 37 % 61) as f32 - 30.0) * 0.013).collect();
        let held = Int8::encode(&values, 32);
        let mut found = vec![0.0; 64];
        held.unpack(32, &mut found).unwrap();
        for (row, found) in values[32..].chunks(32).zip(found.chunks(32)) {
            let step = super::super::absmax(row) / 127.0;
            for (a, b) in row.iter().zip(found) {
                assert!((a - b).abs() <= step * 0.5001, "{a} {b}");
            }
            assert!(row.iter().zip(found).any(|(a, b)| a != b), "nothing was lost?");
        }
        assert!(held.unpack(16, &mut found).is_err());
        assert!(held.unpack(64, &mut found).is_err());
        assert_eq!(held.bytes(), 96 + 3 * 4);
    }

    #[test]
    fn a_row_of_zeros_stays_zero() {
        let mut found = vec![1.0; 4];
        Int8::encode(&[0.0; 4], 4).unpack(0, &mut found).unwrap();
        assert_eq!(found, [0.0; 4]);
    }
}
