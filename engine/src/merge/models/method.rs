//! One tensor of the merged model. Every tensor is f32; at most four of its size live at a time.

use candle_core::Tensor;
use fleetune_shared::{ModelMerge, ModelMergeMethod};

use crate::Result;
use crate::merge::task_vectors::{Cut, drop_and_rescale};
use crate::model::WeightFiles;
use crate::ops::slices::{edit, tensor, view};

/// One model's part in a tensor.
pub(super) struct Change<'a> {
    pub(super) files: &'a WeightFiles,
    pub(super) weight: f64,
    /// Share of its changes that stay.
    pub(super) density: f64,
    /// Where its draws come from.
    pub(super) stream: u64,
}

/// A tensor being merged.
pub(super) struct Merging<'a> {
    pub(super) merge: &'a ModelMerge,
    pub(super) name: &'a str,
    pub(super) base: &'a WeightFiles,
    pub(super) changes: &'a [Change<'a>],
    pub(super) seed: u64,
}

impl Merging<'_> {
    pub(super) fn run(&self, t: f64) -> Result<Tensor> {
        match self.merge.method {
            ModelMergeMethod::Linear => self.linear(),
            ModelMergeMethod::Slerp => {
                let base = self.base.read(self.name)?;
                slerp(&base, &self.changes[0].files.read(self.name)?, t)?;
                Ok(base)
            }
            _ => {
                let base = self.base.read(self.name)?;
                let cuts = self.changes.iter().map(|c| self.cut(&base, c));
                let cuts = cuts.collect::<Result<Vec<_>>>()?;
                if self.merge.method.elects() {
                    self.elected(&base, &cuts)?;
                } else {
                    self.summed(&base)?;
                }
                Ok(base)
            }
        }
    }

    /// `Σ w·x / Σ w`.
    fn linear(&self) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for change in self.changes {
            let next = change.files.read(self.name)?;
            let weight = change.weight as f32;
            match &sum {
                None => {
                    edit(&next, |next| next.iter_mut().for_each(|x| *x *= weight))?;
                    sum = Some(next);
                }
                Some(sum) => add(sum, &next, weight)?,
            }
        }
        let sum = sum.map_or_else(|| self.base.read(self.name), Ok)?;
        if self.merge.normalize {
            let total = self.total_weight();
            edit(&sum, |sum| sum.iter_mut().for_each(|x| *x /= total))?;
        }
        Ok(sum)
    }

    fn total_weight(&self) -> f32 {
        let total: f64 = self.changes.iter().map(|change| change.weight).sum();
        if total.abs() < 1e-8 { 1.0 } else { total as f32 }
    }

    /// What trimming leaves of a model's change; `None` where everything stays or chance decides.
    fn cut(&self, base: &Tensor, change: &Change<'_>) -> Result<Option<Cut>> {
        if self.merge.method != ModelMergeMethod::Ties || change.density >= 1.0 {
            return Ok(None);
        }
        let sizes = subtract(change.files.read(self.name)?, base)?;
        let mut cut = None;
        edit(&sizes, |sizes| {
            sizes.iter_mut().for_each(|x| *x = x.abs());
            cut = Some(Cut::of(change.density, sizes));
        })?;
        Ok(cut)
    }

    /// What a model changed, sparse, and times its weight.
    fn change(&self, base: &Tensor, change: &Change<'_>, cut: Option<Cut>) -> Result<Tensor> {
        let delta = subtract(change.files.read(self.name)?, base)?;
        let weight = change.weight as f32;
        edit(&delta, |delta| {
            if let Some(cut) = cut {
                cut.apply(delta);
            }
            if self.merge.method.draws() {
                drop_and_rescale(delta, change.density, self.seed, change.stream);
            }
            delta.iter_mut().for_each(|x| *x *= weight);
        })?;
        Ok(delta)
    }

    /// `base += λ·Σ w·δ`.
    fn summed(&self, base: &Tensor) -> Result<()> {
        let mut factor = self.merge.lambda as f32;
        if self.merge.normalize {
            factor /= self.total_weight();
        }
        let mut sum: Option<Tensor> = None;
        for change in self.changes {
            let delta = self.change(base, change, None)?;
            match &sum {
                None => sum = Some(delta),
                Some(sum) => add(sum, &delta, 1.0)?,
            }
        }
        sum.map_or(Ok(()), |sum| add(base, &sum, factor))
    }

    /// `base += λ·Σ w·δ` over the changes of the elected sign, over the sum of their weights where that is asked for.
    fn elected(&self, base: &Tensor, cuts: &[Option<Cut>]) -> Result<()> {
        let zeros = || tensor(vec![0.0; base.elem_count()], base.dims());
        // First the votes, then a zero with the elected sign, and at last the sum, which keeps that sign.
        let merged = zeros()?;
        for (change, cut) in self.changes.iter().zip(cuts) {
            add(&merged, &self.change(base, change, *cut)?, 1.0)?;
        }
        edit(&merged, |merged| {
            merged.iter_mut().for_each(|x| *x = if *x >= 0.0 { 0.0 } else { -0.0 });
        })?;
        let weights = self.merge.normalize.then(zeros).transpose()?;
        for (change, cut) in self.changes.iter().zip(cuts) {
            let delta = self.change(base, change, *cut)?;
            let delta = view(&delta)?;
            if let Some(weights) = &weights {
                let (signs, weight) = (view(&merged)?, change.weight as f32);
                edit(weights, |weights| {
                    for ((weights, sign), x) in weights.iter_mut().zip(&*signs).zip(&*delta) {
                        if agrees(*x, *sign) {
                            *weights += weight;
                        }
                    }
                })?;
            }
            edit(&merged, |merged| {
                for (merged, x) in merged.iter_mut().zip(&*delta) {
                    if agrees(*x, *merged) {
                        *merged += x;
                    }
                }
            })?;
        }
        if let Some(weights) = &weights {
            let weights = view(weights)?;
            edit(&merged, |merged| {
                for (merged, weight) in merged.iter_mut().zip(&*weights) {
                    *merged /= if *weight == 0.0 { 1.0 } else { *weight };
                }
            })?;
        }
        add(base, &merged, self.merge.lambda as f32)
    }
}

/// Whether a change counts, that is, has the sign of the sum so far.
fn agrees(change: f32, sum: f32) -> bool {
    change != 0.0 && change.is_sign_positive() == sum.is_sign_positive()
}

/// `sum += factor · x`.
fn add(sum: &Tensor, x: &Tensor, factor: f32) -> Result<()> {
    let x = view(x)?;
    edit(sum, |sum| sum.iter_mut().zip(&*x).for_each(|(sum, x)| *sum += factor * x))
}

/// `x − base`, in place of `x`.
fn subtract(x: Tensor, base: &Tensor) -> Result<Tensor> {
    add(&x, base, -1.0)?;
    Ok(x)
}

/// Beyond this cosine two tensors point the same way, and a straight line will do.
const COSINE_MAX: f64 = 0.9995;

/// The point `t` of the way on the sphere from `a` to `b`, in place of `a`.
fn slerp(a: &Tensor, b: &Tensor, t: f64) -> Result<()> {
    let (product, aa, bb) = {
        let (a, b) = (view(a)?, view(b)?);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        (dot(&a, &b), dot(&a, &a).sqrt(), dot(&b, &b).sqrt())
    };
    let length = |norm: f64| if norm > 1e-8 { norm } else { 1.0 };
    let cosine = product / (length(aa) * length(bb));
    let (of_a, of_b) = if cosine.abs() > COSINE_MAX {
        (1.0 - t, t)
    } else {
        let angle = cosine.acos();
        (((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin())
    };
    let b = view(b)?;
    edit(a, |a| {
        for (a, b) in a.iter_mut().zip(&*b) {
            *a = (of_a * f64::from(*a) + of_b * f64::from(*b)) as f32;
        }
    })
}
