//! Adapters before their first step, as PEFT begins them.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

use candle_core::{DType, Device, Tensor};
use fleetune_shared::peft::{AdaptedModule, AdapterShape, ModuleKind};
use fleetune_shared::recipe::LoraInit;
use fleetune_shared::{AdapterConfig, ModelSpec};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Adapter, Layer, LoraLayer, ScaleLayer};
use crate::{EngineError, Result};

impl Adapter {
    /// A fresh adapter. Every module draws from a stream of `seed` of its own, so that what is adapted beside it does
    /// not matter. What depends on the base's numbers (magnitudes, PiSSA, OLoRA) is filled in by
    /// [`crate::model::Model::attach`].
    ///
    /// # Errors
    /// When the configuration names no module of the model, or an initialisation that cannot be had.
    pub fn fresh(spec: &ModelSpec, config: AdapterConfig, seed: u64) -> Result<Self> {
        let wrong = |why: &dyn std::fmt::Display| EngineError::input(format!("adapter: {why}"));
        config.names_fit(spec).map_err(|error| wrong(&error))?;
        let layout = config.layout(spec).map_err(|error| wrong(&error))?;
        let mut layers = BTreeMap::new();
        for (stream, module) in (0..).zip(&layout.modules) {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            rng.set_stream(stream);
            let layer = match module.shape {
                AdapterShape::Scale { feedforward } => {
                    let shape = if feedforward {
                        (1, module.in_features)
                    } else {
                        (module.out_features, 1)
                    };
                    let scale = Tensor::ones(shape, DType::F32, &Device::Cpu)?;
                    Layer::Scale(ScaleLayer { scale, feedforward })
                }
                AdapterShape::Lora { r, scaling } => {
                    Layer::Lora(lora(&config, module, r, scaling, &mut rng)?)
                }
            };
            layers.insert(module.name.clone(), layer);
        }
        Ok(Self::of(config, layers, None))
    }
}

fn lora(
    config: &AdapterConfig,
    module: &AdaptedModule,
    r: usize,
    scaling: f64,
    rng: &mut ChaCha12Rng,
) -> Result<LoraLayer> {
    let (out, inp) = (module.out_features, module.in_features);
    let embedding = module.kind == ModuleKind::Embedding;
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, DType::F32, &Device::Cpu);
    let draw = |shape: (usize, usize), number: &mut dyn FnMut() -> f64| {
        let numbers = (0..shape.0 * shape.1).map(|_| number() as f32).collect();
        Tensor::from_vec::<_, f32>(numbers, shape, &Device::Cpu)
    };
    // `kaiming_uniform(a=√5)`: uniform in ±1/√fan_in.
    let uniform = |shape: (usize, usize), rng: &mut ChaCha12Rng| {
        let bound = 1.0 / (shape.1 as f64).sqrt();
        draw(shape, &mut || (2.0 * unit(rng) - 1.0) * bound)
    };
    let (a, b) = match config.init_lora_weights {
        // PEFT's table begins the other way round: A zero, B normal.
        LoraInit::Default | LoraInit::Gaussian if embedding => {
            (zeros((r, inp))?, draw((out, r), &mut || normal(rng))?)
        }
        LoraInit::NonZero if embedding => {
            (draw((r, inp), &mut || normal(rng))?, draw((out, r), &mut || normal(rng))?)
        }
        LoraInit::Default
        | LoraInit::Pissa { .. }
        | LoraInit::Olora
        | LoraInit::Eva
        | LoraInit::Loftq => (uniform((r, inp), rng)?, zeros((out, r))?),
        LoraInit::NonZero => (uniform((r, inp), rng)?, uniform((out, r), rng)?),
        LoraInit::Gaussian => (draw((r, inp), &mut || normal(rng) / r as f64)?, zeros((out, r))?),
        LoraInit::Orthogonal => orthogonal(r, out, inp, rng)?,
    };
    let bias = config.lora_bias.then(|| match config.init_lora_weights {
        LoraInit::NonZero => {
            let bound = 1.0 / (r as f64).sqrt();
            let numbers: Vec<f32> =
                (0..out).map(|_| ((2.0 * unit(rng) - 1.0) * bound) as f32).collect();
            Tensor::from_vec(numbers, out, &Device::Cpu)
        }
        _ => Tensor::zeros(out, DType::F32, &Device::Cpu),
    });
    Ok(LoraLayer { a, b, bias: bias.transpose()?, magnitude: None, scaling, embedding })
}

/// Random combinations of two halves of an orthogonal basis: odd rows for A, even ones for B, so that B·A is zero and
/// neither half is (PEFT's `orthogonal_init`).
fn orthogonal(r: usize, out: usize, inp: usize, rng: &mut ChaCha12Rng) -> Result<(Tensor, Tensor)> {
    if !r.is_multiple_of(2) {
        return Err(EngineError::input(format!(
            "adapter: `r` is {r}, expected an even rank where `init_lora_weights` is orthogonal"
        )));
    }
    let mut basis: Vec<Vec<f64>> = Vec::new();
    while basis.len() < r {
        let mut row: Vec<f64> = (0..r).map(|_| normal(rng)).collect();
        // Twice, since once leaves rounding behind.
        for _ in 0..2 {
            for other in &basis {
                let along: f64 = row.iter().zip(other).map(|(x, y)| x * y).sum();
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
        }
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length > 1e-6 {
            basis.push(row.into_iter().map(|x| x / length).collect());
        }
    }
    let mut mixed = |rows: usize, parity: usize| -> Vec<Vec<f64>> {
        let half: Vec<&Vec<f64>> = basis.iter().skip(parity).step_by(2).collect();
        let mix = |rng: &mut ChaCha12Rng| {
            let mut sum = vec![0.0; r];
            for part in &half {
                let weight = normal(rng) / 10.0;
                sum.iter_mut().zip(*part).for_each(|(sum, x)| *sum += weight * x);
            }
            sum
        };
        (0..rows).map(|_| mix(rng)).collect()
    };
    let flat = |rows: Vec<Vec<f64>>| rows.into_iter().flatten().map(|x| x as f32).collect();
    let a: Vec<f32> = flat(mixed(inp, 0));
    let b: Vec<f32> = flat(mixed(out, 1));
    let a = Tensor::from_vec(a, (inp, r), &Device::Cpu)?.t()?.contiguous()?;
    Ok((a, Tensor::from_vec(b, (out, r), &Device::Cpu)?))
}

/// Uniform in [0, 1) with 53 random bits, all an f64 holds.
fn unit(rng: &mut ChaCha12Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Box and Muller's draw from the standard normal.
fn normal(rng: &mut ChaCha12Rng) -> f64 {
    (-2.0 * (1.0 - unit(rng)).ln()).sqrt() * (TAU * unit(rng)).cos()
}
