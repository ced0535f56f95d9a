//! A LoRA adapter that is not attached to a model.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use fleetune_shared::recipe::{Lora, Targets};
use fleetune_shared::{AdapterConfig, ModelSpec};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::config;
use crate::model::module;
use crate::{EngineError, Result};

/// A configuration and one pair per adapted linear layer (LoRA, arXiv 2106.09685).
#[derive(Clone, Debug)]
pub struct Adapter {
    config: AdapterConfig,
    /// By module, such as `model.layers.0.self_attn.q_proj`: A `[r, in]` and B `[out, r]`, f32.
    pairs: BTreeMap<String, (Tensor, Tensor)>,
}

impl Adapter {
    /// A fresh adapter as PEFT begins one: A uniform in ±1/√in (`kaiming_uniform(a=√5)`), drawn from `seed` in the
    /// order of the layers; B zero, so that nothing changes before the first step.
    ///
    /// # Errors
    /// When a target names no linear layer of the model, or none is left.
    pub fn fresh(spec: &ModelSpec, lora: &Lora, base: &str, seed: u64) -> Result<Self> {
        let names: Vec<_> = spec.linears().into_iter().map(|(name, ..)| name).collect();
        if let Targets::Names(targets) = &lora.target_modules
            && let Some(unknown) = targets.iter().find(|t| !names.contains(&t.as_str()))
        {
            return Err(EngineError::input(format!(
                "target_modules: `{}` is no linear layer of this model, expected some of {}",
                unknown.escape_debug(),
                names.join(", ")
            )));
        }
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let mut pairs = BTreeMap::new();
        for block in 0..spec.num_hidden_layers {
            for (name, out, inp) in spec.linears().into_iter().filter(|(n, ..)| lora.targets(n)) {
                let bound = 1.0 / (inp as f32).sqrt();
                let a: Vec<f32> =
                    (0..lora.r * inp).map(|_| (2.0 * unit(&mut rng) - 1.0) * bound).collect();
                let a = Tensor::from_vec(a, (lora.r, inp), &Device::Cpu)?;
                let b = Tensor::zeros((out, lora.r), DType::F32, &Device::Cpu)?;
                pairs.insert(module(block, name), (a, b));
            }
        }
        Ok(Self { config: config::config_of(lora, base), pairs })
    }

    /// From parts that were read; the caller has checked them against one another.
    pub(super) fn of(config: AdapterConfig, pairs: BTreeMap<String, (Tensor, Tensor)>) -> Self {
        Self { config, pairs }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// The factor on B·A.
    #[must_use]
    pub fn scaling(&self) -> f64 {
        config::scaling(&self.config)
    }

    /// A `[r, in]` and B `[out, r]` of `module`, such as `model.layers.0.self_attn.q_proj`.
    #[must_use]
    pub fn pair(&self, module: &str) -> Option<(&Tensor, &Tensor)> {
        self.pairs.get(module).map(|(a, b)| (a, b))
    }

    /// Modules with a pair.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.pairs.keys().map(String::as_str)
    }

    pub(crate) fn into_pairs(self) -> BTreeMap<String, (Tensor, Tensor)> {
        self.pairs
    }

    /// Checks that a model of this shape has every adapted module, in the pair's sizes, and that no module the
    /// configuration asks for lacks its pair.
    ///
    /// # Errors
    /// [`EngineError::Input`] naming the module.
    pub fn fits(&self, spec: &ModelSpec) -> Result<()> {
        let mut left: Vec<&str> = self.modules().collect();
        for block in 0..spec.num_hidden_layers {
            for (name, out, inp) in spec.linears() {
                let module = module(block, name);
                match self.pair(&module) {
                    Some((a, b)) => {
                        left.retain(|other| *other != module);
                        let found = (b.dim(0)?, a.dim(1)?);
                        if found != (out, inp) {
                            return Err(EngineError::input(format!(
                                "adapter: `{module}` is {} → {}, the model's is {inp} → {out}; \
                                 was it trained on another base?",
                                found.1, found.0
                            )));
                        }
                    }
                    None if self.config.layers_to_transform.is_null()
                        && config::targets(&self.config, &module) == Some(true) =>
                    {
                        return Err(EngineError::input(format!(
                            "adapter: target_modules asks for `{module}`, which has no tensors"
                        )));
                    }
                    None => {}
                }
            }
        }
        match left.first() {
            None => Ok(()),
            Some(module) => Err(EngineError::input(format!(
                "adapter: the model has no module `{}`; was it trained on another base?",
                module.escape_debug()
            ))),
        }
    }
}

/// Uniform in [0, 1) with 24 random bits, all an f32 holds.
fn unit(rng: &mut ChaCha12Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}
