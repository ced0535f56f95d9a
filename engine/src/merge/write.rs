//! The merged weights on their way to disk, one tensor at a time.

use std::path::Path;

use candle_core::Tensor;
use half::{bf16, f16};
use safetensors::tensor::Dtype;

use crate::Result;
use crate::ops::slices;
use crate::tensor_file::{TensorEntry, TensorFile};

/// `model.safetensors` of a merged model, being written.
pub(super) struct MergedFile {
    file: TensorFile,
    /// Those that are still to come, the next one last.
    left: Vec<TensorEntry>,
    dtype: Dtype,
}

impl MergedFile {
    /// Begins the file in `folder`, with tensors by name and shape, each of the type `dtype_of` gives.
    pub(super) fn create(
        folder: &Path,
        tensors: Vec<(String, Vec<usize>)>,
        dtype_of: impl Fn(&str) -> Dtype,
    ) -> Result<Self> {
        let entry = |(name, shape): (String, Vec<usize>)| TensorEntry {
            dtype: dtype_of(&name),
            name,
            shape,
        };
        let mut entries: Vec<TensorEntry> = tensors.into_iter().map(entry).collect();
        let file = TensorFile::create(&folder.join("model.safetensors"), &entries)?;
        let dtype = entries.first().map_or(Dtype::F32, |entry| entry.dtype);
        entries.reverse();
        Ok(Self { file, left: entries, dtype })
    }

    /// Writes the next tensor, f32.
    pub(super) fn put(&mut self, tensor: &Tensor) -> Result<()> {
        let numbers = slices::view(tensor)?;
        match self.left.pop().map_or(Dtype::F32, |entry| entry.dtype) {
            Dtype::F16 => self.file.write_numbers(&numbers, |x| f16::from_f32(x).to_le_bytes()),
            Dtype::BF16 => self.file.write_numbers(&numbers, |x| bf16::from_f32(x).to_le_bytes()),
            _ => self.file.write_f32(&numbers),
        }
    }

    /// Ends the file; the type is that of its first tensor.
    pub(super) fn finish(self) -> Result<Dtype> {
        self.file.finish()?;
        Ok(self.dtype)
    }
}
