//! LoRA beside a linear layer, and DoRA's magnitudes on top of it.
//!
//! ```text
//!   x ─┬───────────── W ──(+)─▶ y          x ─┬─────── W ──(+)── m/‖W + s·B·A‖ ─▶ y
//!      └─ dropout ─ A ─ s·B ─┘                └─ A ─ s·B ─┘
//! ```

use std::sync::OnceLock;

use candle_core::{DType, Tensor};
use fleetune_shared::AdapterConfig;

use super::block::Pass;
use super::linear::{Linear, LinearSaved};
use super::residual::Beginning;
use super::trainable::{Parameter, Role, Trainable};
use crate::Result;
use crate::adapter::{Half, LoraLayer, key};
use crate::ops::{Backend, DropoutMask, LowRank, Onto, Portable, slices};

/// `y = x·Wᵀ + b + s·(x̃·Aᵀ)·Bᵀ` with `x̃` the input after dropout (LoRA, arXiv 2106.09685). With magnitudes, each
/// column of `x̃·Wᵀ + s·(x̃·Aᵀ)·Bᵀ` is stretched by `m / ‖W + s·B·A‖`, and what dropout takes from the base's part is
/// left to it unstretched, as in PEFT (DoRA, arXiv 2402.09353).
#[derive(Debug)]
pub(crate) struct Lora {
    /// `[r, in]`.
    a: Trainable,
    /// `[out, r]`.
    b: Trainable,
    /// `[out]`, added to what B makes.
    bias: Option<Trainable>,
    magnitude: Option<Magnitude>,
    scaling: f64,
    dropout: f64,
    /// The layer's number, which its dropout is drawn from.
    stream: u64,
    /// Where the base keeps only what the pair did not take.
    beginning: Option<Beginning>,
}

/// DoRA's magnitudes, and what the rows' lengths are computed from.
#[derive(Debug)]
struct Magnitude {
    /// `[out]`.
    value: Trainable,
    /// Squared lengths of the base's rows.
    squares: Vec<f64>,
    /// Made by the first pass after A, B or the magnitudes may have changed.
    stretch: OnceLock<Stretch>,
}

#[derive(Debug)]
struct Stretch {
    /// `m / ‖W + s·B·A‖`, `[out]`; the length counts as constant (arXiv 2402.09353, §4.3).
    factor: Tensor,
    /// `1 / ‖W + s·B·A‖`, `[out]`.
    inverse: Tensor,
}

impl Lora {
    /// Lays `layer` beside `weight`, of which a `fresh` one may take a part. Where magnitudes are asked for and not
    /// there, they begin as the rows' lengths.
    pub(crate) fn new(
        ops: &dyn Backend,
        weight: &mut Parameter,
        module: &str,
        mut layer: LoraLayer,
        config: &AdapterConfig,
        (stream, fresh): (u64, bool),
    ) -> Result<Self> {
        let init = config.init_lora_weights;
        let beginning = if init.changes_base() {
            Some(Beginning::take(init, weight, &mut layer, fresh)?)
        } else {
            None
        };
        let LoraLayer { a, b, bias, magnitude, scaling, embedding: _ } = layer;
        let of = |role, half, value| Trainable::of(role, key(module, half), value);
        let mut lora = Self {
            a: of(Role::LoraA, Half::A, a),
            b: of(Role::LoraB, Half::B, b),
            bias: bias.map(|bias| of(Role::LoraB, Half::BBias, bias)),
            magnitude: None,
            scaling,
            dropout: config.lora_dropout,
            stream,
            beginning,
        };
        if config.use_dora {
            let squares = weight.row_squares(ops)?;
            let value = match magnitude {
                Some(value) => value,
                None => {
                    let lengths = lora.lengths(ops, weight, &squares)?;
                    slices::tensor(
                        lengths.into_iter().map(|x| x as f32).collect(),
                        &[squares.len()],
                    )?
                }
            };
            let value = of(Role::Magnitude, Half::Magnitude, value);
            lora.magnitude = Some(Magnitude { value, squares, stretch: OnceLock::new() });
        }
        Ok(lora)
    }

    /// A, unless dropout gives it an input of its own.
    pub(super) fn shared_a(&self, pass: &Pass<'_>) -> Option<&Tensor> {
        self.mask(pass).is_none().then_some(&self.a.value)
    }

    /// `low` is `x · Aᵀ`, where it was made with that of others.
    pub(super) fn forward(
        &self,
        pass: &Pass<'_>,
        linear: &Linear,
        x: &Tensor,
        low: Option<Tensor>,
        onto: Onto,
    ) -> Result<(Tensor, LinearSaved)> {
        let ops = pass.ops;
        let dropped = self.dropped(pass, x)?;
        let input = dropped.as_ref().unwrap_or(x);
        let low = low.map_or_else(|| ops.project(input, &self.a.value), Ok)?;
        let b = (self.b.value.t()?.contiguous()? * self.scaling)?;
        let Some(magnitude) = &self.magnitude else {
            let y = linear.base(ops, x, Some(LowRank { c: &low, m: &b }), onto)?;
            if let Some(bias) = &self.bias {
                ops.add_bias(&y, &(&bias.value * self.scaling)?)?;
            }
            return Ok((y, LinearSaved { low: Some(low), unscaled: None }));
        };
        let stretch = self.stretch(ops, &linear.weight, magnitude)?;
        let low_rank = Some(LowRank { c: &low, m: &b });
        let unscaled = linear.weight.project(ops, input, low_rank, Onto::New)?;
        // What dropout took from the base's part.
        let rest = dropped
            .as_ref()
            .map(|dropped| linear.weight.project(ops, &(x - dropped)?, None, Onto::New));
        let rest = rest.transpose()?;
        let y = unscaled.copy()?;
        ops.scale(&y, &stretch.factor)?;
        if let Some(rest) = rest {
            ops.add(&y, &rest)?;
        }
        if let Some(bias) = &linear.bias {
            ops.add_bias(&y, bias.value())?;
        }
        Ok((ops.deliver(y, onto)?, LinearSaved { low: Some(low), unscaled: Some(unscaled) }))
    }

    /// With `g = f ⊙ dy`, `f` DoRA's stretch or 1: `dA = s·(g·B)ᵀ·x̃`, `dB = s·gᵀ·(x̃·Aᵀ)`, `dm = Σ dy ⊙ y/m`, and
    /// `dx = dy·W + mask ⊙ ((g − dy)·W + s·(g·B)·A)`. Gives `dx` and, where A's input is `x` itself, `s·g·B`, with which
    /// [`Self::learn_a`] is still to be called.
    pub(super) fn backward(
        &mut self,
        pass: &Pass<'_>,
        weight: &Parameter,
        dy: &Tensor,
        x: &Tensor,
        saved: &LinearSaved,
        onto: Option<Onto>,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ops = pass.ops;
        let Some(low) = &saved.low else {
            let dx = onto.map(|onto| weight.project_dx(ops, dy, None, onto)).transpose()?;
            return Ok((dx, None));
        };
        let mask = self.mask(pass);
        let dropped = mask.as_ref().map(|mask| ops.dropout(x, mask)).transpose()?;
        let input = dropped.as_ref().unwrap_or(x);

        let stretched = match (&self.magnitude, &saved.unscaled) {
            (Some(magnitude), Some(unscaled)) => {
                let stretch = self.stretch(ops, weight, magnitude)?;
                let dmagnitude = (ops.dot_rows(dy, unscaled)? * &stretch.inverse)?;
                let g = dy.copy()?;
                ops.scale(&g, &stretch.factor)?;
                Some((g, dmagnitude))
            }
            _ => None,
        };
        let g = stretched.as_ref().map_or(dy, |(g, _)| g);
        let dlow = ops.project_dx(g, &(&self.b.value * self.scaling)?)?;
        let low_rank = Some(LowRank { c: &dlow, m: &self.a.value });
        let dx = match (&mask, onto) {
            (_, None) => None,
            (None, Some(onto)) => Some(weight.project_dx(ops, g, low_rank, onto)?),
            (Some(mask), Some(onto)) => {
                let through = match &stretched {
                    None => ops.project_dx(&dlow, &self.a.value)?,
                    Some((g, _)) => weight.project_dx(ops, &(g - dy)?, low_rank, Onto::New)?,
                };
                let dx = weight.project_dx(ops, dy, None, onto)?;
                ops.add(&dx, &ops.dropout(&through, mask)?)?;
                Some(dx)
            }
        };
        self.b.accumulate(ops, (ops.project_dw(g, low)? * self.scaling)?)?;
        if let Some(bias) = &mut self.bias {
            bias.accumulate(ops, (ops.sum_rows(g)? * self.scaling)?)?;
        }
        if let (Some(magnitude), Some((_, dmagnitude))) = (&mut self.magnitude, stretched) {
            magnitude.value.accumulate(ops, dmagnitude)?;
        }
        if mask.is_none() {
            return Ok((dx, Some(dlow)));
        }
        self.learn_a(ops, ops.project_dw(&dlow, input)?)?;
        Ok((dx, None))
    }

    /// Takes the gradient of A.
    pub(super) fn learn_a(&mut self, ops: &dyn Backend, gradient: Tensor) -> Result<()> {
        self.a.accumulate(ops, gradient)
    }

    /// What the base answered before the pair took its part: `x·Wᵀ + b`.
    pub(super) fn without(
        &self,
        ops: &dyn Backend,
        linear: &Linear,
        x: &Tensor,
        onto: Onto,
    ) -> Result<Tensor> {
        let Some(Beginning { a, b }) = &self.beginning else {
            return linear.base(ops, x, None, onto);
        };
        let b = (b.t()?.contiguous()? * self.scaling)?;
        linear.base(ops, x, Some(LowRank { c: &ops.project(x, a)?, m: &b }), onto)
    }

    /// Moves what does not learn to where tensors of `ops` live.
    pub(super) fn carry(&mut self, ops: &dyn Backend) -> Result<()> {
        if let Some(Beginning { a, b }) = &mut self.beginning {
            *a = a.to_device(&ops.place())?;
            *b = b.to_device(&ops.place())?;
        }
        Ok(())
    }

    /// The pair that does beside the base as it was loaded what this one does beside what it left: `[A; A₀]` and
    /// `[B, −B₀]`, of twice the rank. `None` where it took nothing.
    pub(super) fn beside_whole(&self) -> Result<Option<[(&str, Tensor); 2]>> {
        let Some(Beginning { a, b }) = &self.beginning else { return Ok(None) };
        let a = Tensor::cat(&[&self.a.value, a], 0)?;
        let b = Tensor::cat(&[&self.b.value, &b.neg()?], 1)?;
        Ok(Some([(&self.a.name, a), (&self.b.name, b)]))
    }

    pub(super) fn trainables(&self) -> Vec<&Trainable> {
        let magnitude = self.magnitude.as_ref().map(|magnitude| &magnitude.value);
        [Some(&self.a), Some(&self.b), self.bias.as_ref(), magnitude]
            .into_iter()
            .flatten()
            .collect()
    }

    /// As [`Self::trainables`]. Whoever asks may change them, so what follows from them is forgotten.
    pub(super) fn trainables_mut(&mut self) -> Vec<&mut Trainable> {
        let magnitude = self.magnitude.as_mut().map(|magnitude| {
            magnitude.stretch = OnceLock::new();
            &mut magnitude.value
        });
        let all = [Some(&mut self.a), Some(&mut self.b), self.bias.as_mut(), magnitude];
        all.into_iter().flatten().collect()
    }

    fn mask(&self, pass: &Pass<'_>) -> Option<DropoutMask> {
        let noise = pass.noise.filter(|_| self.dropout > 0.0)?;
        Some(noise.dropout(self.stream, self.dropout))
    }

    fn dropped(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Option<Tensor>> {
        self.mask(pass).map(|mask| pass.ops.dropout(x, &mask)).transpose()
    }

    fn stretch<'a>(
        &self,
        ops: &dyn Backend,
        weight: &Parameter,
        magnitude: &'a Magnitude,
    ) -> Result<&'a Stretch> {
        if let Some(stretch) = magnitude.stretch.get() {
            return Ok(stretch);
        }
        let lengths = self.lengths(ops, weight, &magnitude.squares)?;
        // A row of zeros has no direction to stretch.
        let inverse: Vec<f32> =
            lengths.iter().map(|x| if *x > 0.0 { (1.0 / x) as f32 } else { 0.0 }).collect();
        let inverse = slices::tensor(inverse, &[lengths.len()])?.to_device(&ops.place())?;
        let factor = (&magnitude.value.value * &inverse)?;
        Ok(magnitude.stretch.get_or_init(|| Stretch { factor, inverse }))
    }

    /// `‖W + s·B·A‖` row by row, of which only `r` rows are ever multiplied by W:
    /// `‖w‖² + 2s·b·(A·w) + s²·b·(A·Aᵀ)·b`.
    /// In f32, whatever activations are.
    fn lengths(&self, ops: &dyn Backend, weight: &Parameter, squares: &[f64]) -> Result<Vec<f64>> {
        let ops = if ops.activations() == DType::F32 { ops } else { &Portable };
        let (a, b) = (&self.a.value, &self.b.value);
        let r = a.dim(0)?;
        // `[out, r]` each.
        let across = weight.project(ops, a, None, Onto::New)?.t()?.contiguous()?;
        let within = ops.project(b, &ops.project(a, a)?)?;
        let (across, within, b) =
            (slices::view(&across)?, slices::view(&within)?, slices::view(b)?);
        let rows = b.chunks_exact(r).zip(across.chunks_exact(r)).zip(within.chunks_exact(r));
        let s = self.scaling;
        let length = |b: &[f32], across: &[f32], within: &[f32], square: f64| {
            let dot = |c: &[f32]| -> f64 {
                b.iter().zip(c).map(|(b, c)| f64::from(*b) * f64::from(*c)).sum()
            };
            (square + 2.0 * s * dot(across) + s * s * dot(within)).max(0.0).sqrt()
        };
        let rows = rows.zip(squares);
        Ok(rows.map(|(((b, across), within), square)| length(b, across, within, *square)).collect())
    }
}
