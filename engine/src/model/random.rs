//! From a configuration alone to a model: weights before any training.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use fleetune_shared::recipe::Quantization;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::decoder::Model;
use super::files::{CONFIG, wrong};
use super::hold;
use super::load::assemble;
use super::source::{expected, spec_of};
use crate::ops::Backend;
use crate::{EngineError, Result};

pub(super) fn random(
    path: &Path,
    ops: Arc<dyn Backend>,
    seed: u64,
    how: Quantization,
) -> Result<Model> {
    let spec = spec_of(path)?;
    let deviation = initializer_range(&path.join(CONFIG))?;
    let shapes: BTreeMap<String, (u64, Vec<usize>)> = expected(&spec)
        .into_iter()
        .zip(0..)
        .map(|((name, shape), index)| (name, (index, shape)))
        .collect();
    // What makes a norm multiply by one.
    let neutral = if spec.norm_unit_offset { 0.0 } else { 1.0 };
    assemble(spec, ops, &|name| {
        let (index, shape) = &shapes[name];
        let count = shape.iter().product();
        let numbers = if name.ends_with("bias") {
            vec![0.0; count]
        } else if shape.len() == 1 {
            vec![neutral; count]
        } else {
            // A stream for each tensor, so that none depends on the order they are made in.
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            rng.set_stream(*index);
            (0..count).map(|_| (normal(&mut rng) * deviation) as f32).collect()
        };
        hold::hold(name, Tensor::from_vec(numbers, shape.as_slice(), &Device::Cpu)?, how)
    })
}

/// Box and Muller's draw; spelled out because a seed must give the same model after an upgrade of `rand`.
pub(super) fn normal(rng: &mut ChaCha12Rng) -> f64 {
    let mut unit = || ((rng.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (-2.0 * unit().ln()).sqrt() * (TAU * unit()).cos()
}

/// A key of `config.json` that only matters before training, so the model's shape does not carry it.
fn initializer_range(config: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(config).map_err(|e| EngineError::io(config, e))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| wrong(config, &e.to_string()))?;
    let range = match value.get("initializer_range") {
        None => Some(0.02),
        Some(range) => range.as_f64().filter(|range| *range > 0.0 && *range < 1e3),
    };
    range.ok_or_else(|| {
        let found = &value["initializer_range"];
        wrong(config, &format!("`initializer_range` is {found}, expected a positive number"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":96,"num_hidden_layers":1,
            "num_attention_heads":4,"vocab_size":512,"max_position_embeddings":64,"rms_norm_eps":1e-5,
            "initializer_range":0.1}"#;
        std::fs::write(folder.path().join(CONFIG), config).unwrap();
        assert!(!super::super::has_weights(folder.path()).unwrap());
        let refused = Model::load(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("has no model.safetensors"), "{refused}");

        let embed = |seed| {
            let model = Model::random(folder.path(), seed).unwrap();
            let (_, embed) = model.weights().next().unwrap();
            embed.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let numbers = embed(1);
        assert_eq!(numbers, embed(1));
        assert_ne!(numbers, embed(2));
        let count = numbers.len() as f64;
        let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        let deviation = (numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / count).sqrt();
        assert!(mean.abs() < 2e-3 && (deviation - 0.1).abs() < 2e-3, "{mean} {deviation}");
    }
}
