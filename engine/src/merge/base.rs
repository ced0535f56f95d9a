//! An adapter laid into its base's weights, one tensor at a time.
//!
//! What every kind of layer does to a weight stands here; what it does to activations stands in `model`.

use std::path::Path;

use candle_core::Tensor;
use fleetune_shared::{MergeOnto, ModelSpec};
use safetensors::tensor::Dtype;

use super::write::MergedFile;
use crate::adapter::{Adapter, Layer, LoraLayer, ScaleLayer};
use crate::memory;
use crate::model::{WeightFiles, held_weight, save_surroundings};
use crate::ops::slices;
use crate::{EngineError, Result};

/// Writes `model.safetensors` and what belongs beside it into `folder`. Holds one tensor of the base, the adapter's
/// product of the same size, and their bytes.
pub(super) fn write(
    folder: &Path,
    base: &WeightFiles,
    adapter: &Adapter,
    base_path: &Path,
    onto: MergeOnto,
) -> Result<()> {
    let dtype_of = |name: &str| match onto {
        MergeOnto::AsStored | MergeOnto::Dequantized4bit { .. } => base.dtype(name),
        MergeOnto::Float32 => Dtype::F32,
        MergeOnto::Bfloat16 => Dtype::BF16,
    };
    // A head that is the embedding itself goes its own way where the adapter changes one of the two.
    let unties = base.spec().tie_word_embeddings && changes_tables(adapter);
    let spec = ModelSpec {
        tie_word_embeddings: base.spec().tie_word_embeddings && !unties,
        ..base.spec().clone()
    };
    let mut tensors = base.tensors();
    if unties {
        tensors.push((HEAD.to_owned(), vec![spec.vocab_size, spec.hidden_size]));
    }
    let source = |name: &str| if unties && name == HEAD { EMBEDDING } else { name }.to_owned();
    let names: Vec<String> = tensors.iter().map(|(name, _)| name.clone()).collect();
    let mut file = MergedFile::create(folder, tensors, |name| dtype_of(&source(name)))?;
    for name in names {
        memory::check()?;
        let tensor = held_weight(base, &source(&name), onto.held())?.to_f32()?;
        file.put(&merged(&name, tensor, adapter)?)?;
    }
    let dtype = file.finish()?;
    save_surroundings(folder, &spec, base_path, dtype)
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Whether embedding or head end up other than they were.
fn changes_tables(adapter: &Adapter) -> bool {
    let module =
        |name: &str| name.strip_suffix(".weight").is_some_and(|m| adapter.layer(m).is_some());
    let whole = |name: &str| adapter.whole().any(|(whole, _)| whole == name);
    [EMBEDDING, HEAD].into_iter().any(|name| module(name) || whole(name))
}

/// What the adapter makes of the base's tensor `name`.
fn merged(name: &str, tensor: Tensor, adapter: &Adapter) -> Result<Tensor> {
    let (module, kind) = name.rsplit_once('.').unwrap_or((name, ""));
    let tensor = match adapter.whole().find(|(whole, _)| *whole == name) {
        Some((_, whole)) => whole.copy()?,
        None => tensor,
    };
    if let Some(layer) = adapter.layer(module) {
        match kind {
            "weight" => into_weight(layer, &tensor)?,
            "bias" => into_bias(layer, &tensor)?,
            _ => {}
        }
    }
    Ok(tensor)
}

/// Changes a module's weight `[out, in]`, f32, to what module and layer do together.
fn into_weight(layer: &Layer, weight: &Tensor) -> Result<()> {
    match layer {
        Layer::Lora(LoraLayer { a, b, magnitude, scaling, embedding, .. }) => {
            let product = b.matmul(a)?;
            // An embedding's weight has a row for each token, where B·A has a column.
            let product = if *embedding { product.t()?.contiguous()? } else { product };
            add(weight, &product, *scaling as f32)?;
            magnitude.as_ref().map_or(Ok(()), |magnitude| stretch(weight, magnitude))
        }
        Layer::Scale(ScaleLayer { scale, feedforward }) => {
            let scale = slices::view(scale)?;
            let width = weight.dim(1)?;
            slices::edit(weight, |weight| {
                for (row, weight) in weight.chunks_mut(width).enumerate() {
                    for (column, weight) in weight.iter_mut().enumerate() {
                        *weight *= scale[if *feedforward { column } else { row }];
                    }
                }
            })
        }
    }
}

/// Changes a module's bias `[out]` likewise.
fn into_bias(layer: &Layer, bias: &Tensor) -> Result<()> {
    match layer {
        Layer::Lora(LoraLayer { bias: Some(own), scaling, .. }) => add(bias, own, *scaling as f32),
        Layer::Scale(ScaleLayer { scale, feedforward: false }) => {
            let scale = slices::view(scale)?;
            slices::edit(bias, |bias| bias.iter_mut().zip(&*scale).for_each(|(b, s)| *b *= s))
        }
        _ => Ok(()),
    }
}

/// `sum += factor · x`.
fn add(sum: &Tensor, x: &Tensor, factor: f32) -> Result<()> {
    let x = slices::view(x)?;
    slices::edit(sum, |sum| sum.iter_mut().zip(&*x).for_each(|(sum, x)| *sum += factor * x))
}

/// Brings each row to its magnitude (DoRA, arXiv 2402.09353, equation 5).
fn stretch(weight: &Tensor, magnitude: &Tensor) -> Result<()> {
    let magnitude = slices::view(magnitude)?;
    let width = weight.dim(1)?;
    slices::edit(weight, |weight| {
        for (row, magnitude) in weight.chunks_mut(width).zip(&*magnitude) {
            let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
            let factor = f64::from(*magnitude) / square.sqrt();
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
        }
    })
}

/// Refuses an adapter whose effect no model of the base's architecture can have by its weights alone.
pub(super) fn check_mergeable(adapter: &Adapter, spec: &ModelSpec) -> Result<()> {
    let refuse = |why: String| Err(EngineError::input(format!("adapter: {why}")));
    let config = adapter.config();
    if config.init_lora_weights.changes_base() {
        let init = serde_json::Value::from(config.init_lora_weights);
        return refuse(format!(
            "`init_lora_weights` is {init}, which began by changing the base, so it fits no base on disk; \
             convert it to a plain LoRA adapter when saving"
        ));
    }
    let layout = adapter.fits(spec)?;
    for name in layout.modules.iter().map(|module| &module.name) {
        let bias =
            matches!(adapter.layer(name), Some(Layer::Lora(LoraLayer { bias: Some(_), .. })));
        let linear = name.rsplit('.').next().unwrap_or_default();
        if bias && (linear == "lm_head" || !spec.has_bias(linear)) {
            return refuse(format!(
                "`{name}` has a lora_B.bias, for which the base's own layer has no bias to hold it"
            ));
        }
    }
    Ok(())
}
