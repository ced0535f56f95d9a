//! The merged weights, one tensor at a time.

use std::path::Path;

use candle_core::Tensor;
use half::{bf16, f16};
use safetensors::tensor::Dtype;

use crate::Result;
use crate::adapter::Adapter;
use crate::memory;
use crate::model::{WeightFiles, save_surroundings};
use crate::ops::slices;
use crate::tensor_file::{TensorEntry, TensorFile};

/// Writes `model.safetensors` and what belongs beside it into `folder`. Holds one tensor of the base, the adapter's
/// product of the same size, and their bytes.
pub(super) fn write(
    folder: &Path,
    base: &WeightFiles,
    adapter: &Adapter,
    base_path: &Path,
) -> Result<()> {
    let entries: Vec<TensorEntry> = base
        .tensors()
        .into_iter()
        .map(|(name, shape)| TensorEntry { dtype: base.dtype(&name), name, shape })
        .collect();
    let mut file = TensorFile::create(&folder.join("model.safetensors"), &entries)?;
    for entry in &entries {
        memory::check()?;
        let weight = base.read(&entry.name)?;
        if let Some((a, b)) = entry.name.strip_suffix(".weight").and_then(|m| adapter.pair(m)) {
            add_product(&weight, a, b, adapter.scaling())?;
        }
        let numbers = slices::view(&weight)?;
        match entry.dtype {
            Dtype::F16 => file.write_numbers(&numbers, |x| f16::from_f32(x).to_le_bytes())?,
            Dtype::BF16 => file.write_numbers(&numbers, |x| bf16::from_f32(x).to_le_bytes())?,
            _ => file.write_f32(&numbers)?,
        }
    }
    file.finish()?;
    let dtype = entries.first().map_or(Dtype::F32, |entry| entry.dtype);
    save_surroundings(folder, base.spec(), base_path, dtype)
}

/// `weight += scaling · b · a`, in f32.
fn add_product(weight: &Tensor, a: &Tensor, b: &Tensor, scaling: f64) -> Result<()> {
    let product = b.matmul(a)?;
    let product = slices::view(&product)?;
    slices::edit(weight, |weight| {
        for (weight, product) in weight.iter_mut().zip(product.iter()) {
            *weight += product * scaling as f32;
        }
    })
}
