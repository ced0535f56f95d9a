//! How a base weight is held, and taken apart without ever being whole in f32.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use fleetune_shared::TILE_NUMBERS;
use half::bf16;
use rayon::prelude::*;

use super::Packed;
use crate::Result;
use crate::ops::Backend;
use crate::ops::slices::edit;

/// A base model's tensor in the form it is kept in. A clone shares the numbers.
#[derive(Clone, Debug)]
pub enum Weight {
    /// Plain f32, of any shape.
    F32(Tensor),
    /// A matrix in fewer bits.
    Packed(PackedMatrix),
}

/// A matrix of few bits a number: bf16, NF4, FP4, int8 or ggml's blocks.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    numbers: Arc<dyn Packed>,
    dims: [usize; 2],
}

/// Numbers a core unpacks at a time.
const GRAIN: usize = 1 << 14;

impl PackedMatrix {
    /// A matrix of `numbers`, row after row of `width`.
    #[must_use]
    pub fn new(numbers: Arc<dyn Packed>, width: usize) -> Self {
        Self { dims: [numbers.count() / width.max(1), width], numbers }
    }

    /// Rows and their width.
    pub(crate) fn dims2(&self) -> (usize, usize) {
        (self.dims[0], self.dims[1])
    }

    /// The numbers.
    pub(crate) fn numbers(&self) -> &dyn Packed {
        self.numbers.as_ref()
    }

    /// All numbers, where they are kept as bf16.
    pub(crate) fn as_bf16(&self) -> Option<&[bf16]> {
        self.numbers.as_bf16()
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.numbers.bytes()
    }

    /// Rows `from..` as f32, as many as `out` has room for; cores share them.
    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()> {
        let [_, width] = self.dims;
        let rows = (GRAIN / width).max(1);
        out.par_chunks_mut(rows * width)
            .enumerate()
            .try_for_each(|(task, out)| self.numbers.unpack((from + task * rows) * width, out))
    }

    fn unpack_into(&self, from: usize, tensor: &Tensor) -> Result<()> {
        let mut unpacked = Ok(());
        edit(tensor, |out| unpacked = self.unpack(from, out))?;
        unpacked
    }

    /// The matrix in f32 a tile at a time: the first row of each, and its numbers, which are gone afterwards.
    pub(crate) fn tiles(&self, mut each: impl FnMut(usize, &Tensor) -> Result<()>) -> Result<()> {
        let [rows, width] = self.dims;
        // One buffer for all.
        let buffer = zeros(tile_rows(width).min(rows), width)?;
        for (from, count) in self.tile_rows() {
            let tile = buffer.narrow(0, 0, count)?;
            self.unpack_into(from, &tile)?;
            each(from, &tile)?;
        }
        Ok(())
    }

    /// The first row of each tile, and how many it has.
    fn tile_rows(&self) -> impl Iterator<Item = (usize, usize)> {
        let [rows, width] = self.dims;
        let in_tile = tile_rows(width).min(rows);
        (0..rows).step_by(in_tile.max(1)).map(move |from| (from, in_tile.min(rows - from)))
    }

    /// As [`Self::tiles`], on the card `place`: made there of what it holds, in `dtype`, or here and carried over.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn tiles_on_card(
        &self,
        place: &Device,
        dtype: DType,
        mut each: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let [_, width] = self.dims;
        for (from, count) in self.tile_rows() {
            let made = self.numbers.unpack_on_card(from * width, count * width, dtype)?;
            let tile = match made {
                Some(tile) => tile.reshape((count, width))?,
                None => {
                    let tile = zeros(count, width)?;
                    self.unpack_into(from, &tile)?;
                    tile.to_dtype(dtype)?.to_device(place)?
                }
            };
            each(from, &tile)?;
        }
        Ok(())
    }
}

/// Rows of one tile, whole groups of the product's kernel where the width allows.
fn tile_rows(width: usize) -> usize {
    let rows = TILE_NUMBERS / width.max(1);
    if rows > 64 { rows / 64 * 64 } else { rows.max(1) }
}

impl Weight {
    /// The shape.
    #[must_use]
    pub fn dims(&self) -> &[usize] {
        match self {
            Self::F32(value) => value.dims(),
            Self::Packed(matrix) => &matrix.dims,
        }
    }

    /// The tensor itself, where it is plain.
    #[must_use]
    pub fn plain(&self) -> Option<&Tensor> {
        match self {
            Self::F32(value) => Some(value),
            Self::Packed(_) => None,
        }
    }

    /// Rows `ids`: `[ids, in]`.
    pub(crate) fn gather(&self, ops: &dyn Backend, ids: &[u32]) -> Result<Tensor> {
        match self {
            Self::F32(value) => ops.gather(value, ids),
            Self::Packed(matrix) => {
                if let Some(table) = matrix.numbers.as_tensor() {
                    return ops.gather(table, ids);
                }
                let [_, width] = matrix.dims;
                let rows = zeros(ids.len(), width)?;
                let mut unpacked = Ok(());
                edit(&rows, |rows| {
                    let rows = rows.par_chunks_mut(width).zip(ids);
                    unpacked = rows
                        .try_for_each(|(row, id)| matrix.numbers.unpack(*id as usize * width, row));
                })?;
                unpacked?;
                Ok(rows.to_device(&ops.place())?)
            }
        }
    }

    /// The whole tensor as f32; a copy for what is packed.
    pub(crate) fn to_f32(&self) -> Result<Tensor> {
        match self {
            Self::F32(value) => Ok(value.clone()),
            Self::Packed(matrix) => {
                let value = zeros(matrix.dims[0], matrix.dims[1])?;
                matrix.unpack_into(0, &value)?;
                Ok(value)
            }
        }
    }
}

fn zeros(rows: usize, width: usize) -> Result<Tensor> {
    Ok(Tensor::zeros((rows, width), DType::F32, &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::slices::view;
    use crate::ops::{Onto, Portable};
    use crate::quant::{Bf16, FourBit, FourBitKind, Int8};

    fn waves(rows: usize, width: usize, phase: f32) -> Tensor {
        let wave = |i: usize| ((i * i) as f32 * 0.01 + i as f32 * 0.7 + phase).sin();
        let numbers = (0..rows * width).map(wave).collect();
        Tensor::from_vec(numbers, (rows, width), &Device::Cpu).unwrap()
    }

    /// One matrix in each form; wider than a tile has room for, with rows that begin in the middle of a byte.
    fn matrices(rows: usize, width: usize) -> Vec<Weight> {
        let value = waves(rows, width, 0.0);
        let value = view(&value).unwrap();
        let packed: [Arc<dyn Packed>; 5] = [
            Arc::new(FourBit::encode(&value, FourBitKind::Nf4, false)),
            Arc::new(FourBit::encode(&value, FourBitKind::Nf4, true)),
            Arc::new(FourBit::encode(&value, FourBitKind::Fp4, true)),
            Arc::new(Int8::encode(&value, width)),
            Arc::new(Bf16::encode(&value)),
        ];
        packed.into_iter().map(|p| Weight::Packed(PackedMatrix::new(p, width))).collect()
    }

    fn apart(a: &Tensor, b: &Tensor) -> f32 {
        let (a, b) = (view(a).unwrap(), view(b).unwrap());
        assert_eq!(a.len(), b.len());
        a.iter().zip(b.iter()).fold(0.0, |max, (a, b)| f32::max(max, (a - b).abs()))
    }

    #[test]
    fn a_product_by_tiles_is_the_product_with_the_whole_weight() {
        let (rows, width) = (TILE_NUMBERS / 333 + 301, 333);
        for weight in matrices(rows, width) {
            let whole = weight.to_f32().unwrap();
            for tokens in [1, 3, 4, 37] {
                let x = waves(tokens, width, 0.5);
                let found = Portable.linear(&x, &weight, None, Onto::New).unwrap();
                let expected = Portable.project(&x, &whole).unwrap();
                assert!(apart(&found, &expected) < 1e-5, "{:?}", apart(&found, &expected));
                if tokens < 4 {
                    assert_eq!(apart(&found, &expected), 0.0);
                }
            }
            let dy = waves(5, rows, 0.25);
            let found = Portable.linear_dx(&dy, &weight, None, Onto::New).unwrap();
            let expected = Portable.project_dx(&dy, &whole).unwrap();
            assert!(apart(&found, &expected) < 2e-4, "{:?}", apart(&found, &expected));
        }
    }

    #[test]
    fn rows_are_gathered_out_of_the_packed() {
        for weight in matrices(20, 33) {
            let ids = [19, 0, 7, 7];
            let expected = Portable.gather(&weight.to_f32().unwrap(), &ids).unwrap();
            assert_eq!(apart(&weight.gather(&Portable, &ids).unwrap(), &expected), 0.0);
        }
    }
}
