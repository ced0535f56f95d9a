//! Four bits a number on a card, unpacked by `kernels/four_bit.cu`.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{Absmax, FourBit, Packed, dynamic8, stretch};
use crate::Result;
use crate::ops::cuda::launch::{Arg, Card, blocks, refuse_unless};
use crate::ops::slices::view;

/// A [`FourBit`] whose codes and constants lie on a card.
#[derive(Debug)]
pub struct FourBitOnCard {
    card: Arc<dyn Card>,
    codes: Tensor,
    book: Tensor,
    constants: Constants,
    block: usize,
    count: usize,
    bytes: usize,
}

#[derive(Debug)]
enum Constants {
    Plain(Tensor),
    Double { codes: Tensor, map: Tensor, absmax: Tensor, offset: f32 },
}

impl FourBitOnCard {
    /// Carries packed numbers to the card.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn carry(card: Arc<dyn Card>, packed: &FourBit) -> Result<Self> {
        let constants = match &packed.absmax {
            Absmax::Plain(all) => Constants::Plain(card.upload(all)?),
            Absmax::Double { rest, offset } => {
                // The kernel knows no other.
                let block = Absmax::BLOCK;
                refuse_unless(rest.absmax().len() == rest.codes().len().div_ceil(block), || {
                    format!("block constants that are not held in blocks of {block}")
                })?;
                Constants::Double {
                    codes: card.upload(rest.codes())?,
                    map: card.upload(dynamic8().values())?,
                    absmax: card.upload(rest.absmax())?,
                    offset: *offset,
                }
            }
        };
        Ok(Self {
            codes: card.upload(&packed.codes)?,
            book: card.upload(packed.kind.codebook().values())?,
            constants,
            block: packed.block,
            count: packed.count,
            bytes: packed.bytes(),
            card,
        })
    }

    /// Numbers `from..from + count` in `dtype`, f32 or bf16: `[count]`. In f32 they are those of [`FourBit`] to the bit.
    fn made(&self, from: usize, count: usize, dtype: DType) -> Result<Tensor> {
        stretch(self.count, from, count)?;
        let halved = dtype == DType::BF16;
        refuse_unless(halved || dtype == DType::F32, || format!("four bits as {dtype:?}"))?;
        let out = self.card.zeros(&[count], dtype)?;
        let mut args = vec![Arg::In(&self.codes), Arg::In(&self.book)];
        let kernel = match &self.constants {
            Constants::Plain(absmax) => {
                args.push(Arg::In(absmax));
                if halved { "four_bit_bf16" } else { "four_bit_f32" }
            }
            Constants::Double { codes, map, absmax, offset } => {
                args.extend([Arg::In(codes), Arg::In(map), Arg::In(absmax), Arg::F32(*offset)]);
                if halved { "four_bit_double_bf16" } else { "four_bit_double_f32" }
            }
        };
        args.extend([
            Arg::Out(&out),
            Arg::U64(from as u64),
            Arg::U64(count as u64),
            Arg::size(self.block)?,
        ]);
        self.card.launch(kernel, blocks(count), &args)?;
        Ok(out)
    }
}

impl Packed for FourBitOnCard {
    fn count(&self) -> usize {
        self.count
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()> {
        let numbers = self.made(from, out.len(), DType::F32)?;
        out.copy_from_slice(&view(&numbers)?);
        Ok(())
    }

    fn unpack_on_card(&self, from: usize, count: usize, dtype: DType) -> Result<Option<Tensor>> {
        self.made(from, count, dtype).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::ops::cuda::tests::host;
    use crate::quant::{FourBitKind, Packed};

    #[test]
    fn a_card_unpacks_the_same_bits() {
        let Some(cuda) = host() else { return };
        // More than one block of second constants, and an end within a byte.
        let count = 64 * 256 + 64 + 33;
        let values: Vec<f32> = (0..count).map(|i| ((i * i) as f32 * 0.01).sin() * 3.0).collect();
        for (kind, double) in [
            (FourBitKind::Nf4, false),
            (FourBitKind::Nf4, true),
            (FourBitKind::Fp4, false),
            (FourBitKind::Fp4, true),
        ] {
            let packed = FourBit::encode(&values, kind, double);
            let on_card = FourBitOnCard::carry(cuda.card.clone(), &packed).unwrap();
            // All of it, and a stretch that begins within a byte and a block.
            for (from, some) in [(0, count), (777, 501), (count - 1, 1)] {
                let mut expected = vec![0.0; some];
                packed.unpack(from, &mut expected).unwrap();
                let unpacked = |dtype| on_card.unpack_on_card(from, some, dtype).unwrap().unwrap();
                assert_eq!(unpacked(DType::F32).to_vec1::<f32>().unwrap(), expected);
                let mut back = vec![0.0; some];
                on_card.unpack(from, &mut back).unwrap();
                assert_eq!(back, expected);
                let rounded: Vec<bf16> = expected.iter().map(|x| bf16::from_f32(*x)).collect();
                assert_eq!(unpacked(DType::BF16).to_vec1::<bf16>().unwrap(), rounded);
            }
            assert!(on_card.unpack_on_card(count, 1, DType::F32).is_err());
            assert!(on_card.unpack_on_card(0, 1, DType::F64).is_err());
        }
    }
}
