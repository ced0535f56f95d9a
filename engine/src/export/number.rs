//! How a GGUF tensor's numbers are stored.

use candle_core::Tensor;
use candle_core::quantized::{GgmlDType, QTensor};
use half::{bf16, f16};

use crate::Result;
use crate::ops::slices;

/// A type of numbers, or of blocks of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberType {
    /// 32 bits.
    F32,
    /// IEEE's 16 bits.
    F16,
    /// The upper half of 32 bits.
    Bf16,
    /// Bytes and a scale.
    Q8_0,
    /// Half bytes and a scale.
    Q4_0,
    /// Half bytes, a scale and a smallest value.
    Q4_1,
}

impl NumberType {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4_0, Self::Q4_1];

    /// llama.cpp's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
        }
    }

    /// The type of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// ggml's number for tensors of it.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
            Self::Bf16 => 30,
        }
    }

    /// llama.cpp's number for files mostly of it.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 7,
            Self::Bf16 => 32,
        }
    }

    fn blocks(self) -> Option<(GgmlDType, usize)> {
        match self {
            Self::Q8_0 => Some((GgmlDType::Q8_0, 34)),
            Self::Q4_0 => Some((GgmlDType::Q4_0, 18)),
            Self::Q4_1 => Some((GgmlDType::Q4_1, 20)),
            _ => None,
        }
    }

    /// What a tensor of this shape is stored as where this type is asked for: a vector keeps its 32 bits, a row that
    /// is no whole number of blocks has 16, and embedding and head, which suffer most, never have fewer than eight.
    pub(super) fn of_tensor(self, shape: &[usize], table: bool) -> Self {
        let &[_, width] = shape else { return Self::F32 };
        match self {
            _ if self.blocks().is_some() && width % 32 != 0 => Self::F16,
            Self::Q4_0 | Self::Q4_1 if table => Self::Q8_0,
            _ => self,
        }
    }

    /// Bytes of so many numbers.
    pub(super) fn bytes(self, numbers: usize) -> usize {
        match (self, self.blocks()) {
            (_, Some((_, block))) => numbers / 32 * block,
            (Self::F32, None) => numbers * 4,
            _ => numbers * 2,
        }
    }

    /// The numbers of `tensor`, f32, as they stand in the file.
    pub(super) fn encode(self, tensor: &Tensor) -> Result<Vec<u8>> {
        if let Some((kind, _)) = self.blocks() {
            return Ok(QTensor::quantize(tensor, kind)?.data()?.into_owned());
        }
        let numbers = slices::view(tensor)?;
        let mut bytes = Vec::with_capacity(self.bytes(numbers.len()));
        for x in &*numbers {
            match self {
                Self::F16 => bytes.extend(f16::from_f32(*x).to_le_bytes()),
                Self::Bf16 => bytes.extend(bf16::from_f32(*x).to_le_bytes()),
                _ => bytes.extend(x.to_le_bytes()),
            }
        }
        Ok(bytes)
    }
}
