//! An adapter laid into its base's weights, one tensor at a time.

use std::path::Path;

use candle_core::Tensor;

use super::write::MergedFile;
use crate::Result;
use crate::adapter::{Adapter, Layer, LoraLayer};
use crate::memory;
use crate::model::{WeightFiles, save_surroundings};
use crate::ops::slices;

/// Writes `model.safetensors` and what belongs beside it into `folder`. Holds one tensor of the base and the adapter's
/// product of the same size.
pub(super) fn write(
    folder: &Path,
    base: &WeightFiles,
    adapter: &Adapter,
    base_path: &Path,
) -> Result<()> {
    let mut file = MergedFile::create(folder, base, |name| base.dtype(name))?;
    for (name, _) in base.tensors() {
        memory::check()?;
        let weight = base.read(&name)?;
        if let Some(Layer::Lora(LoraLayer { a, b, scaling, .. })) =
            name.strip_suffix(".weight").and_then(|m| adapter.layer(m))
        {
            add_product(&weight, a, b, *scaling)?;
        }
        file.put(&weight)?;
    }
    let dtype = file.finish()?;
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
