//! Several adapters of one base become one, as PEFT's `add_weighted_adapter` does it.
//!
//! ```text
//!   linear, ties, dare_*, magnitude_prune:  A = merge(√w·s A₁, √w·s A₂ …), B likewise: same rank, quick, rough
//!   cat:     A = [w·s A₁; w·s A₂ …], B = [B₁ B₂ …]: exact, the ranks add up
//!   *svd:    merge(s B₁A₁, s B₂A₂ …) cut to a rank: the closest adapter of that rank
//! ```

use std::collections::BTreeMap;

use candle_core::{D, Tensor};
use fleetune_shared::AdapterConfig;
use fleetune_shared::recipe::TargetModules;

use super::task_vectors::{MajoritySign, disjoint_mean, drop_and_rescale, trim, weighted_sum};
use crate::adapter::{Adapter, Layer, LoraLayer};
use crate::linalg::{svd, svd_of_product};
use crate::ops::slices;
use crate::{EngineError, Result};

/// How task vectors are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Linear,
    MagnitudePrune,
    Ties,
    DareLinear,
    DareTies,
}

/// What the rule is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A and B, each on its own.
    Factors,
    /// The products, and then an SVD.
    Svd,
    /// Nothing: factors are laid side by side.
    Cat,
}

/// A `combination_type` of PEFT's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CombineMethod {
    rule: Rule,
    form: Form,
}

const METHODS: [(&str, Rule, Form); 11] = [
    ("linear", Rule::Linear, Form::Factors),
    ("cat", Rule::Linear, Form::Cat),
    ("svd", Rule::Linear, Form::Svd),
    ("ties", Rule::Ties, Form::Factors),
    ("ties_svd", Rule::Ties, Form::Svd),
    ("dare_linear", Rule::DareLinear, Form::Factors),
    ("dare_linear_svd", Rule::DareLinear, Form::Svd),
    ("dare_ties", Rule::DareTies, Form::Factors),
    ("dare_ties_svd", Rule::DareTies, Form::Svd),
    ("magnitude_prune", Rule::MagnitudePrune, Form::Factors),
    ("magnitude_prune_svd", Rule::MagnitudePrune, Form::Svd),
];

impl CombineMethod {
    /// Every name, as PEFT has them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        METHODS.into_iter().map(|(name, ..)| name)
    }

    /// The method of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (_, rule, form) = METHODS.into_iter().find(|(known, ..)| *known == name)?;
        Some(Self { rule, form })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let of = |(name, rule, form)| (Self { rule, form } == self).then_some(name);
        METHODS.into_iter().find_map(of).unwrap_or("linear")
    }

    /// Whether it leaves only a share of the numbers.
    #[must_use]
    pub fn takes_density(self) -> bool {
        self.rule != Rule::Linear
    }

    /// Whether it draws.
    #[must_use]
    pub fn draws(self) -> bool {
        matches!(self.rule, Rule::DareLinear | Rule::DareTies)
    }
}

/// How adapters are to be combined.
#[derive(Clone, Debug)]
pub struct Combination {
    /// The method.
    pub method: CombineMethod,
    /// One for each adapter; negative ones take an adapter's effect away.
    pub weights: Vec<f64>,
    /// Share of the numbers that stay, for the methods that trim or drop.
    pub density: Option<f64>,
    /// Who elects a sign, for TIES.
    pub majority_sign: MajoritySign,
    /// Rank of the result, for the methods that end in an SVD; the largest rank where `None`.
    pub svd_rank: Option<usize>,
    /// Seed of DARE's draws.
    pub seed: u64,
}

/// A combined adapter.
#[derive(Debug)]
pub struct Combined {
    /// Its factor on B·A is 1: weights and scalings are in the tensors.
    pub adapter: Adapter,
    /// Length of the difference to the weighted sum of the adapters' own changes, over the length of that sum: rounding
    /// for `cat`, what was cut off for `svd`, and what the method does by intention for the others.
    pub relative_change: f64,
}

impl Combination {
    fn check(&self, adapters: &[Adapter]) -> Result<()> {
        let fail = |why: String| Err(EngineError::input(format!("combining adapters: {why}")));
        if adapters.len() < 2 {
            return fail(format!("{} given, expected at least 2", adapters.len()));
        }
        if self.weights.len() != adapters.len() {
            let (weights, adapters) = (self.weights.len(), adapters.len());
            return fail(format!("{weights} weights for {adapters} adapters, expected one each"));
        }
        if let Some(weight) = self.weights.iter().find(|weight| !weight.is_finite()) {
            return fail(format!("a weight is {weight}, expected a number"));
        }
        let name = self.method.name();
        match self.density {
            None if self.method.takes_density() => {
                return fail(format!("method {name} needs a density, such as 0.5"));
            }
            Some(_) if !self.method.takes_density() => {
                return fail(format!("method {name} takes no density, leave it out"));
            }
            Some(density) if !(density > 0.0 && density <= 1.0) => {
                return fail(format!("density is {density}, expected above 0, at most 1"));
            }
            _ => {}
        }
        match self.svd_rank {
            Some(_) if self.method.form != Form::Svd => {
                fail(format!("method {name} takes no svd rank, leave it out"))
            }
            Some(0) => fail("svd rank is 0, expected a positive rank".into()),
            _ => Ok(()),
        }
    }

    /// Combines adapters of one base.
    ///
    /// # Errors
    /// [`EngineError::Input`] when settings contradict each other or an adapter is of a kind that cannot be combined.
    pub fn of(&self, adapters: &[Adapter]) -> Result<Combined> {
        self.check(adapters)?;
        let mut modules: BTreeMap<&str, Vec<Part<'_>>> = BTreeMap::new();
        for (index, adapter) in adapters.iter().enumerate() {
            refuse_what_is_more_than_factors(adapter, index)?;
            for (module, layer) in adapter.layers() {
                let Layer::Lora(layer) = layer else { continue };
                let part = Part { index, layer, weight: self.weights[index] * layer.scaling };
                modules.entry(module).or_default().push(part);
            }
        }
        let largest = modules.values().flatten().map(Part::rank).max().unwrap_or(0);
        let r = match self.method.form {
            Form::Cat => modules.values().map(|parts| parts.iter().map(Part::rank).sum()).max(),
            Form::Svd => self.svd_rank,
            Form::Factors => None,
        };
        let r = r.unwrap_or(largest);
        let (mut apart, mut length) = (0.0, 0.0);
        let mut layers = BTreeMap::new();
        for (at, (module, parts)) in modules.iter().enumerate() {
            crate::memory::check()?;
            let embedding = same_shape(module, parts)?;
            let streams = at * adapters.len();
            let (a, b) = self.factors(module, parts, streams as u64, r)?;
            let plain = product(&side_by_side(parts)?)?;
            let found = b.matmul(&a)?;
            apart += square(&(&found - &plain)?)?;
            length += square(&plain)?;
            let layer = LoraLayer { a, b, bias: None, magnitude: None, scaling: 1.0, embedding };
            layers.insert((*module).to_owned(), Layer::Lora(layer));
        }
        let relative_change = if length > 0.0 { (apart / length).sqrt() } else { 0.0 };
        let config = config_of(adapters[0].config(), r, layers.keys().cloned().collect());
        Ok(Combined { adapter: Adapter::of(config, layers, None), relative_change })
    }

    /// A `[r, in]` and B `[out, r]` of one module.
    fn factors(
        &self,
        module: &str,
        parts: &[Part<'_>],
        streams: u64,
        r: usize,
    ) -> Result<(Tensor, Tensor)> {
        let (a, b) = match self.method.form {
            Form::Cat => side_by_side(parts)?,
            Form::Factors => {
                let rank = parts[0].rank();
                if let Some(other) = parts.iter().find(|part| part.rank() != rank) {
                    return Err(EngineError::input(format!(
                        "combining adapters: `{module}` is of rank {rank} in one and {} in another, which method {} \
                         cannot combine; use cat or one of the svd methods",
                        other.rank(),
                        self.method.name()
                    )));
                }
                // The root of the weight on either side; its sign on one, so that it is not lost.
                let root = |part: &Part<'_>| part.weight.abs().sqrt();
                let signed = |part: &Part<'_>| root(part).copysign(part.weight);
                let a = self.merged(parts, streams * 2, |p| (p.layer.a.clone(), signed(p)))?;
                let b = self.merged(parts, streams * 2 + 1, |p| (p.layer.b.clone(), root(p)))?;
                (a, b)
            }
            Form::Svd if self.method.rule == Rule::Linear => {
                let (a, b) = side_by_side(parts)?;
                let it = svd_of_product(&b, &a, r)?;
                (it.vt.clone(), it.us()?)
            }
            Form::Svd => {
                let deltas = parts.iter().map(Part::delta).collect::<Result<Vec<_>>>()?;
                let own = |p: &Part<'_>| {
                    let at = parts.iter().position(|other| other.index == p.index);
                    (deltas[at.unwrap_or(0)].clone(), self.weights[p.index])
                };
                let it = svd(&self.merged(parts, streams * 2, own)?, r)?;
                (it.vt.clone(), it.us()?)
            }
        };
        // Of a module that fewer adapters have, the rest of the rank is empty.
        let missing = r - a.dim(0)?;
        Ok((a.pad_with_zeros(0, 0, missing)?, b.pad_with_zeros(1, 0, missing)?.contiguous()?))
    }

    /// The rule applied to one tensor and weight of each part.
    fn merged(
        &self,
        parts: &[Part<'_>],
        streams: u64,
        of: impl Fn(&Part<'_>) -> (Tensor, f64),
    ) -> Result<Tensor> {
        let mut vectors = Vec::with_capacity(parts.len());
        let mut weights = Vec::with_capacity(parts.len());
        let mut shape = Vec::new();
        let density = self.density.unwrap_or(1.0);
        for part in parts {
            let (tensor, weight) = of(part);
            let mut vector = slices::view(&tensor)?.to_vec();
            match self.method.rule {
                Rule::Linear => {}
                Rule::Ties | Rule::MagnitudePrune => trim(&mut vector, density),
                Rule::DareLinear | Rule::DareTies => {
                    let stream = streams << 16 | part.index as u64;
                    drop_and_rescale(&mut vector, density, self.seed, stream);
                }
            }
            vectors.push(vector);
            weights.push(weight as f32);
            shape = tensor.dims().to_vec();
        }
        let merged = match self.method.rule {
            Rule::Ties | Rule::DareTies => disjoint_mean(&vectors, &weights, self.majority_sign),
            _ => weighted_sum(&vectors, &weights),
        };
        slices::tensor(merged, &shape)
    }
}

/// One adapter's share in a module.
struct Part<'a> {
    /// Which adapter.
    index: usize,
    layer: &'a LoraLayer,
    /// The adapter's weight times its scaling.
    weight: f64,
}

impl Part<'_> {
    fn rank(&self) -> usize {
        self.layer.a.dims()[0]
    }

    /// `s · B·A`.
    fn delta(&self) -> Result<Tensor> {
        Ok((self.layer.b.matmul(&self.layer.a)? * self.layer.scaling)?)
    }
}

/// `[w·s A₁; w·s A₂ …]` and `[B₁ B₂ …]`, whose product is the weighted sum of the parts' own.
fn side_by_side(parts: &[Part<'_>]) -> Result<(Tensor, Tensor)> {
    let a = parts.iter().map(|part| Ok((&part.layer.a * part.weight)?));
    let a = Tensor::cat(&a.collect::<Result<Vec<_>>>()?, 0)?;
    let b: Vec<&Tensor> = parts.iter().map(|part| &part.layer.b).collect();
    Ok((a, Tensor::cat(&b, D::Minus1)?.contiguous()?))
}

fn product((a, b): &(Tensor, Tensor)) -> Result<Tensor> {
    Ok(b.matmul(a)?)
}

fn square(tensor: &Tensor) -> Result<f64> {
    Ok(slices::view(tensor)?.iter().map(|x| f64::from(*x).powi(2)).sum())
}

fn refuse_what_is_more_than_factors(adapter: &Adapter, index: usize) -> Result<()> {
    let config = adapter.config();
    let why = if config.init_lora_weights.changes_base() {
        "began by changing its base, so its factors mean nothing on another"
    } else if adapter.layers().any(|(_, layer)| matches!(layer, Layer::Scale(_))) {
        "is IA³, which has no factors to combine"
    } else if config.use_dora {
        "is DoRA, whose magnitudes belong to one base; merge it into its base instead"
    } else if config.lora_bias {
        "has lora_bias, which cannot be combined; merge it into its base instead"
    } else if adapter.whole().next().is_some() {
        "holds modules or biases trained whole, which cannot be combined; merge it into its base instead"
    } else {
        return Ok(());
    };
    Err(EngineError::input(format!("combining adapters: number {} {why}", index + 1)))
}

/// Checks that all parts fit one module and says whether it is an embedding.
fn same_shape(module: &str, parts: &[Part<'_>]) -> Result<bool> {
    let of = |part: &Part<'_>| -> Result<(usize, usize, bool)> {
        Ok((part.layer.b.dim(0)?, part.layer.a.dim(1)?, part.layer.embedding))
    };
    let first = of(&parts[0])?;
    for part in parts {
        let found = of(part)?;
        if found != first {
            return Err(EngineError::input(format!(
                "combining adapters: `{}` is {} → {} in number {} and {} → {} in number {}; they are of different bases",
                module.escape_debug(),
                first.1,
                first.0,
                parts[0].index + 1,
                found.1,
                found.0,
                part.index + 1
            )));
        }
    }
    Ok(first.2)
}

/// The first adapter's configuration, for what the combination is: modules by their full names, so that no pattern of
/// one adapter reaches a module of another.
fn config_of(first: &AdapterConfig, r: usize, modules: Vec<String>) -> AdapterConfig {
    AdapterConfig {
        task_type: first.task_type.clone(),
        base_model_name_or_path: first.base_model_name_or_path.clone(),
        inference_mode: true,
        r,
        lora_alpha: r as f64,
        target_modules: TargetModules::Names(modules),
        ..AdapterConfig::default()
    }
}
