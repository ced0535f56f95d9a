//! NF4 and FP4: blocks of numbers, each divided by its largest and then held as one of sixteen codes, two a byte
//! (QLoRA, arXiv 2305.14314). Codes and block constants are those of bitsandbytes' `quantize_4bit`, bit for bit.

use half::bf16;

use super::codebook::{Codebook, fp4, nf4};
use super::mean::mean;
use super::{Blockwise8, Packed, encode_blocks, nibbles, stretch};
use crate::ops::number::Number;
use crate::{EngineError, Result};

/// Which sixteen numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FourBitKind {
    /// [`nf4`].
    Nf4,
    /// [`fp4`].
    Fp4,
}

impl FourBitKind {
    /// Its numbers.
    #[must_use]
    pub fn codebook(self) -> &'static Codebook<16> {
        match self {
            Self::Nf4 => nf4(),
            Self::Fp4 => fp4(),
        }
    }
}

/// Each block's largest magnitude.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    /// As f32.
    Plain(Vec<f32>),
    /// Quantised itself (double quantization): what is left of each after `offset`, their mean, is subtracted.
    Double {
        /// Blocks of [`Self::BLOCK`].
        rest: Blockwise8,
        /// The mean.
        offset: f32,
    },
}

impl Absmax {
    /// Maxima that share one second constant.
    pub const BLOCK: usize = 256;

    pub(super) fn double(plain: &[f32]) -> Self {
        let offset = mean(plain);
        let rest: Vec<f32> = plain.iter().map(|absmax| absmax - offset).collect();
        Self::Double { rest: Blockwise8::encode(&rest, Self::BLOCK), offset }
    }

    fn len(&self) -> usize {
        match self {
            Self::Plain(all) => all.len(),
            Self::Double { rest, .. } => rest.count(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Plain(all) => 4 * all.len(),
            Self::Double { rest, .. } => rest.bytes() + 4,
        }
    }

    fn get(&self, block: usize) -> f32 {
        match self {
            Self::Plain(all) => all[block],
            Self::Double { rest, offset } => rest.get(block) + offset,
        }
    }
}

/// 4 bits a number, and a constant a block.
#[derive(Clone, Debug, PartialEq)]
pub struct FourBit {
    pub(super) kind: FourBitKind,
    pub(super) block: usize,
    pub(super) count: usize,
    pub(super) codes: Vec<u8>,
    pub(super) absmax: Absmax,
}

impl FourBit {
    /// Numbers a block has unless a checkpoint says otherwise.
    pub const BLOCK: usize = 64;

    /// Encodes `values` in blocks of [`Self::BLOCK`]; with `double`, the block constants too.
    #[must_use]
    pub fn encode(values: &[f32], kind: FourBitKind, double: bool) -> Self {
        let book = kind.codebook();
        let mut codes = vec![0; values.len().div_ceil(2)];
        let encode = |codes: &mut [u8], values: &[f32], scale: f32| {
            let code = |x: &f32| book.nearest((x * scale).clamp(-1.0, 1.0));
            for (byte, pair) in codes.iter_mut().zip(values.chunks(2)) {
                *byte = (code(&pair[0]) << 4) | pair.get(1).map_or(0, code);
            }
        };
        let halves = (codes.as_mut_slice(), Self::BLOCK / 2);
        let absmax = encode_blocks(halves, (values, Self::BLOCK), 1.0, encode);
        let absmax = if double { Absmax::double(&absmax) } else { Absmax::Plain(absmax) };
        Self { kind, block: Self::BLOCK, count: values.len(), codes, absmax }
    }

    /// Takes `count` numbers that were encoded elsewhere in blocks of `block`.
    ///
    /// # Errors
    /// When the lengths do not go together.
    pub fn of_parts(
        kind: FourBitKind,
        block: usize,
        count: usize,
        codes: Vec<u8>,
        absmax: Absmax,
    ) -> Result<Self> {
        if block < 2 || !block.is_multiple_of(2) {
            return Err(EngineError::input(format!("blocks of {block}, expected an even number")));
        }
        if codes.len() != count.div_ceil(2) {
            let found = codes.len();
            return Err(EngineError::input(format!("{count} numbers of 4 bits in {found} bytes")));
        }
        super::blocks_match(count, block, absmax.len())?;
        Ok(Self { kind, block, count, codes, absmax })
    }

    /// Two codes a byte, the first in the upper half.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// The block constants.
    #[must_use]
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }
}

impl Packed for FourBit {
    fn count(&self) -> usize {
        self.count
    }

    fn bytes(&self) -> usize {
        self.codes.len() + self.absmax.bytes()
    }

    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()> {
        self.unpack_as(from, out, nibbles::one_by_one)
    }

    fn unpack_bf16(&self, from: usize, out: &mut [bf16]) -> Result<()> {
        self.unpack_as(from, out, nibbles::to_bf16)
    }

    fn as_four_bit(&self) -> Option<&FourBit> {
        Some(self)
    }
}

impl FourBit {
    /// Block by block, each by `numbers`.
    fn unpack_as<N: Number>(
        &self,
        from: usize,
        out: &mut [N],
        numbers: impl Fn(&[f32; 16], f32, &[u8], &mut [N]),
    ) -> Result<()> {
        stretch(self.count, from, out.len())?;
        let book = self.kind.codebook().values();
        let (mut at, mut rest) = (from, out);
        while !rest.is_empty() {
            let in_block = (self.block - at % self.block).min(rest.len());
            let (mut here, later) = rest.split_at_mut(in_block);
            let absmax = self.absmax.get(at / self.block);
            let mut codes = &self.codes[at / 2..];
            // A row of odd width may begin in the middle of a byte.
            if at % 2 == 1 {
                here[0] = N::narrow(book[usize::from(codes[0] & 15)] * absmax);
                (codes, here) = (&codes[1..], &mut here[1..]);
            }
            numbers(book, absmax, codes, here);
            at += in_block;
            rest = later;
        }
        Ok(())
    }
}
