//! What an optimizer remembers of a tensor: one number for each of its numbers, in 32, 16 or 8 bits.

use half::bf16;
use safetensors::tensor::Dtype;

use super::codes::{CodeMap, decode, encode};
use super::rounding::Rounding;
use super::values::{BLOCK, Values};
use crate::quant;

/// How a moment is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// f32.
    Full,
    /// bf16, rounded by chance: a second moment moves by a thousandth a step, and bf16 shows no less than 256ths.
    Bf16,
    /// A code for each number and an f32 scale for each block of [`BLOCK`] (arXiv 2110.02861).
    Blockwise(&'static CodeMap),
}

impl Form {
    /// `count` zeros.
    pub(super) fn zeros(self, count: usize) -> Moment {
        match self {
            Self::Full => Moment::Full(vec![0.0; count]),
            Self::Bf16 => Moment::Bf16(vec![bf16::ZERO; count]),
            Self::Blockwise(map) => Moment::Blockwise {
                codes: vec![0; count],
                absmax: vec![0.0; count.div_ceil(BLOCK)],
                map,
            },
        }
    }

    /// Bytes of `count` numbers.
    pub(super) fn bytes(self, count: usize) -> usize {
        match self {
            Self::Full => 4 * count,
            Self::Bf16 => 2 * count,
            Self::Blockwise(_) => count + 4 * count.div_ceil(BLOCK),
        }
    }

    /// The arrays that make up `count` numbers: what each is called after the moment's own name, its type, its length.
    pub(super) fn arrays(self, count: usize) -> Vec<(&'static str, Dtype, usize)> {
        match self {
            Self::Full => vec![("", Dtype::F32, count)],
            Self::Bf16 => vec![("", Dtype::BF16, count)],
            Self::Blockwise(_) => {
                vec![("", Dtype::U8, count), (".absmax", Dtype::F32, count.div_ceil(BLOCK))]
            }
        }
    }
}

/// A moment of a run of numbers.
#[derive(Clone, Debug)]
pub(super) enum Moment {
    Full(Vec<f32>),
    Bf16(Vec<bf16>),
    Blockwise { codes: Vec<u8>, absmax: Vec<f32>, map: &'static CodeMap },
}

impl Moment {
    /// The bytes of one of [`Form::arrays`].
    pub(super) fn array_bytes(&self, array: usize) -> Vec<u8> {
        let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        match self {
            Self::Full(values) => floats(values),
            Self::Bf16(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::Blockwise { codes, .. } if array == 0 => codes.clone(),
            Self::Blockwise { absmax, .. } => floats(absmax),
        }
    }

    /// Takes over what [`Self::array_bytes`] gave, of the same length.
    pub(super) fn set_array_bytes(&mut self, array: usize, bytes: &[u8]) {
        let read = |values: &mut [f32]| {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        };
        match self {
            Self::Full(values) => read(values),
            Self::Bf16(values) => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = bf16::from_le_bytes(*bytes);
                }
            }
            Self::Blockwise { codes, .. } if array == 0 => codes.copy_from_slice(bytes),
            Self::Blockwise { absmax, .. } => read(absmax),
        }
    }

    /// Runs of `length` numbers (a multiple of [`BLOCK`]), the last as short as it must be.
    pub(super) fn runs_mut(&mut self, length: usize, rounding: Rounding) -> Vec<Run<'_>> {
        match self {
            Self::Full(values) => plain(Values::F32(values), length),
            Self::Bf16(values) => plain(Values::Bf16(values, rounding), length),
            Self::Blockwise { codes, absmax, map } => {
                let absmax = absmax.chunks_mut(length / BLOCK);
                let runs = codes.chunks_mut(length).zip(absmax);
                runs.map(|(codes, absmax)| Run::Blockwise { codes, absmax, map }).collect()
            }
        }
    }
}

fn plain(values: Values<'_>, length: usize) -> Vec<Run<'_>> {
    values.runs(length).into_iter().map(Run::Plain).collect()
}

/// A part of a moment that one thread works on.
pub(super) enum Run<'a> {
    Plain(Values<'a>),
    Blockwise { codes: &'a mut [u8], absmax: &'a mut [f32], map: &'static CodeMap },
}

impl Run<'_> {
    /// The numbers of block `block`, as many as `into` holds.
    pub(super) fn load(&self, block: usize, into: &mut [f32]) {
        let from = block * BLOCK;
        match self {
            Self::Plain(values) => values.load(block, into),
            Self::Blockwise { codes, absmax, map } => {
                decode(map, absmax[block], &codes[from..from + into.len()], into);
            }
        }
    }

    /// Replaces the numbers of block `block`.
    pub(super) fn store(&mut self, block: usize, numbers: &[f32]) {
        let from = block * BLOCK;
        match self {
            Self::Plain(values) => values.store(block, numbers),
            Self::Blockwise { codes, absmax, map } => {
                absmax[block] = quant::absmax(numbers);
                let codes = &mut codes[from..from + numbers.len()];
                encode(map, absmax[block], numbers, codes);
            }
        }
    }
}
