//! A tensor as files have it: f32 or bf16.

use candle_core::{DType, Tensor};
use half::bf16;
use safetensors::tensor::Dtype;

use crate::Result;
use crate::ops::slices::{view, view_as};
use crate::quant::PackedMatrix;
use crate::tensor_file::TensorFile;

/// Numbers that are saved as they are held.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored<'a> {
    /// f32 or bf16, of any shape.
    Tensor(&'a Tensor),
    /// A frozen matrix, row after row.
    Bf16(&'a [bf16], [usize; 2]),
}

impl<'a> From<&'a Tensor> for Stored<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

impl<'a> Stored<'a> {
    /// `None` for a matrix of fewer bits.
    pub(super) fn matrix(matrix: &'a PackedMatrix) -> Option<Self> {
        let (rows, width) = matrix.dims2();
        let tensor = matrix.numbers().as_tensor().map(Self::Tensor);
        tensor.or_else(|| Some(Self::Bf16(matrix.as_bf16()?, [rows, width])))
    }

    pub(super) fn dims(&self) -> &[usize] {
        match self {
            Self::Tensor(tensor) => tensor.dims(),
            Self::Bf16(_, dims) => dims,
        }
    }

    pub(super) fn dtype(&self) -> Dtype {
        match self {
            Self::Tensor(tensor) if tensor.dtype() != DType::BF16 => Dtype::F32,
            _ => Dtype::BF16,
        }
    }

    /// Appends the numbers to `file`.
    pub(super) fn write(&self, file: &mut TensorFile) -> Result<()> {
        match self {
            Self::Tensor(tensor) if tensor.dtype() == DType::BF16 => {
                write_bf16(file, &view_as::<bf16>(tensor)?)
            }
            Self::Tensor(tensor) => file.write_f32(&view(tensor)?),
            Self::Bf16(numbers, _) => write_bf16(file, numbers),
        }
    }
}

fn write_bf16(file: &mut TensorFile, numbers: &[bf16]) -> Result<()> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    file.write(&bytes)
}
