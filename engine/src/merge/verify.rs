//! Whether the merged model says what base and adapter say.

use std::path::Path;

use candle_core::Tensor;
use fleetune_shared::{MERGE_PROMPT_TOKENS, MergeOnto, MergeOrder, ModelSpec};
use safetensors::tensor::Dtype;

use crate::adapter::Adapter;
use crate::model::{Model, WeightFiles};
use crate::ops::slices;
use crate::{EngineError, Result};

/// Largest difference that is rounding in f32.
const DIFFERENCE_MAX: f64 = 1e-2;

/// The same as a fraction of the largest logit for what is stored in 16 bits: bf16 keeps a weight to 0.2 %.
const DIFFERENCE_MAX_16_BITS: f64 = 3e-2;

/// The largest difference of a logit between base + adapter and the model in `merged`, on a fixed prompt.
pub(super) fn difference(
    merged: &Path,
    base: &WeightFiles,
    order: &MergeOrder,
    adapter: Adapter,
) -> Result<f64> {
    let prompt = prompt(base.spec());
    let expected = {
        let mut model = Model::load_as(&order.model, order.onto.held())?;
        model.attach(adapter)?;
        model.logits(&prompt)?
    };
    let found = Model::load(merged)?.logits(&prompt)?;
    let (difference, largest) = furthest(&found, &expected)?;
    let halved = |(name, _): &(String, Vec<usize>)| base.dtype(name) != Dtype::F32;
    let rounded = order.onto == MergeOnto::Bfloat16
        || (order.onto != MergeOnto::Float32 && base.tensors().iter().any(halved));
    let bound = if rounded { DIFFERENCE_MAX_16_BITS * largest.max(1.0) } else { DIFFERENCE_MAX };
    if difference <= bound {
        return Ok(difference);
    }
    Err(EngineError::input(format!(
        "merged model: a logit differs from base + adapter by {difference:.3e}, expected at most {bound:.0e}; the \
         merge was thrown away, try it again and report it if it fails again"
    )))
}

/// How far the answer of the model in `merged` is from that of each of `others`: the largest difference of a logit. One
/// model is held at a time.
pub(super) fn moved(merged: &Path, others: &[&Path]) -> Result<Vec<f64>> {
    let logits = |path: &Path| {
        let model = Model::load(path)?;
        model.logits(&prompt(model.spec()))
    };
    let found = logits(merged)?;
    if slices::view(&found)?.iter().any(|x| !x.is_finite()) {
        return Err(EngineError::input(
            "merged model: its logits are not finite; the weights of the merge are too large",
        ));
    }
    others.iter().map(|other| Ok(furthest(&found, &logits(other)?)?.0)).collect()
}

/// The tokens every model is asked: spread over the vocabulary, since the lowest ids are often control tokens.
fn prompt(spec: &ModelSpec) -> Vec<u32> {
    let vocabulary = spec.vocab_size as u64;
    (1..=MERGE_PROMPT_TOKENS as u64).map(|i| (i * 7919 % vocabulary) as u32).collect()
}

/// Largest absolute difference, NaN if any is, and the largest absolute value of `expected`.
fn furthest(found: &Tensor, expected: &Tensor) -> Result<(f64, f64)> {
    let (found, expected) = (slices::view(found)?, slices::view(expected)?);
    let mut difference: f64 = 0.0;
    let mut largest: f64 = 0.0;
    for (a, b) in found.iter().zip(expected.iter()) {
        let apart = f64::from((a - b).abs());
        if apart.is_nan() {
            return Ok((apart, largest));
        }
        difference = difference.max(apart);
        largest = largest.max(f64::from(b.abs()));
    }
    Ok((difference, largest))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::adapter;

    #[test]
    fn a_model_without_the_adapter_is_told_from_the_merged_one() {
        let fixture = |path: &str| -> PathBuf {
            [env!("CARGO_MANIFEST_DIR"), "../tests/fixtures", path].iter().collect()
        };
        let path = fixture("models/tiny-llama");
        let base = WeightFiles::open(&path).unwrap();
        let order = MergeOrder {
            model: path.clone(),
            adapter: fixture("merge/lora.adapter"),
            out: PathBuf::new(),
            onto: MergeOnto::AsStored,
            other_base: false,
        };
        let adapter = adapter::load(&order.adapter).unwrap();
        let refused = difference(&path, &base, &order, adapter).unwrap_err().to_string();
        assert!(refused.contains("a logit differs"), "{refused}");
    }
}
