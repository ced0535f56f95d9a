//! A linear layer and what an adapter lays beside it.

use candle_core::Tensor;

use super::block::Pass;
use super::lora::Lora;
use super::scale::Scale;
use super::trainable::{Parameter, Trainable};
use crate::Result;
use crate::ops::{Backend, LowRank, Onto};

/// `y = x · Wᵀ + b`, changed by its adapter while adapters are on.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out, in]`.
    pub(crate) weight: Parameter,
    /// `[out]`.
    pub(crate) bias: Option<Parameter>,
    pub(crate) adapter: Option<Beside>,
}

/// What lies beside a linear layer.
#[derive(Debug)]
pub(crate) enum Beside {
    Lora(Box<Lora>),
    Scale(Scale),
}

/// What a linear layer keeps from its forward to its backward pass, besides its input.
#[derive(Debug, Default)]
pub(crate) struct LinearSaved {
    /// `x · Aᵀ`, `[T, r]`, beside a LoRA pair.
    pub(super) low: Option<Tensor>,
    /// The output before it is scaled, `[T, out]`, where it is.
    pub(super) unscaled: Option<Tensor>,
}

impl Linear {
    /// A layer nothing lies beside.
    pub(crate) fn new(weight: Parameter, bias: Option<Parameter>) -> Self {
        Self { weight, bias, adapter: None }
    }

    /// Its name in the model, such as `model.layers.0.self_attn.q_proj`.
    pub(crate) fn module(&self) -> &str {
        self.weight.name().trim_end_matches(".weight")
    }

    /// `[T, in]` to `[T, out]`, and what the backward pass wants again.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        onto: Onto,
    ) -> Result<(Tensor, LinearSaved)> {
        self.forward_with(pass, x, None, onto)
    }

    /// As [`Self::forward`]; `low` is its part of [`lows`], if it has one.
    pub(super) fn forward_with(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        low: Option<Tensor>,
        onto: Onto,
    ) -> Result<(Tensor, LinearSaved)> {
        let alone = |y| (y, LinearSaved::default());
        match &self.adapter {
            Some(Beside::Lora(lora)) if !pass.adapters => {
                lora.without(pass.ops, self, x, onto).map(alone)
            }
            Some(Beside::Lora(lora)) => lora.forward(pass, self, x, low, onto),
            Some(Beside::Scale(scale)) if pass.adapters => scale.forward(pass.ops, self, x, onto),
            _ => self.base(pass.ops, x, None, onto).map(alone),
        }
    }

    /// `x · Wᵀ + low + b`.
    pub(super) fn base(
        &self,
        ops: &dyn Backend,
        x: &Tensor,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        let y = self.weight.project(ops, x, low, onto)?;
        if let Some(bias) = &self.bias {
            ops.add_bias(&y, bias.value())?;
        }
        Ok(y)
    }

    /// Whether anything here learns.
    pub(crate) fn trained(&self) -> bool {
        self.trainables().next().is_some()
    }

    /// Adds to the gradients of whatever learns, and gives the input's where it is wanted.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        dy: &Tensor,
        x: &Tensor,
        saved: &LinearSaved,
        onto: Option<Onto>,
    ) -> Result<Option<Tensor>> {
        let (dx, dlow) = self.backward_but_a(pass, dy, x, saved, onto)?;
        learn_a(pass.ops, [(self, dlow)], x)?;
        Ok(dx)
    }

    /// As [`Self::backward`], with A's gradient left to [`learn_a`], which wants the second of what is given.
    pub(super) fn backward_but_a(
        &mut self,
        pass: &Pass<'_>,
        dy: &Tensor,
        x: &Tensor,
        saved: &LinearSaved,
        onto: Option<Onto>,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let ops = pass.ops;
        let Self { weight, bias, adapter } = self;
        let adapter = adapter.as_mut().filter(|_| pass.adapters);
        if let Some(Beside::Scale(scale)) = adapter {
            return Ok((scale.backward(ops, weight, dy, x, saved, onto)?, None));
        }
        if let Some(bias) = bias.as_mut().and_then(Parameter::trained_mut) {
            bias.accumulate(ops, ops.sum_rows(dy)?)?;
        }
        if let Some(Beside::Lora(lora)) = adapter {
            return lora.backward(pass, weight, dy, x, saved, onto);
        }
        if let Some(weight) = weight.trained_mut() {
            weight.accumulate_product(ops, dy, x)?;
        }
        let dx = onto.map(|onto| weight.project_dx(ops, dy, None, onto)).transpose()?;
        Ok((dx, None))
    }

    /// The LoRA pair beside it.
    pub(super) fn lora_mut(&mut self) -> Option<&mut Lora> {
        match &mut self.adapter {
            Some(Beside::Lora(lora)) => Some(lora),
            _ => None,
        }
    }

    /// What learns here, in a fixed order.
    pub(crate) fn trainables(&self) -> impl Iterator<Item = &Trainable> {
        let base = [Some(&self.weight), self.bias.as_ref()];
        let base = base.into_iter().flatten().filter_map(Parameter::trainable);
        base.chain(self.adapter.iter().flat_map(Beside::trainables))
    }

    /// As [`Self::trainables`].
    pub(crate) fn trainables_mut(&mut self) -> impl Iterator<Item = &mut Trainable> {
        let base = [Some(&mut self.weight), self.bias.as_mut()];
        let base = base.into_iter().flatten().filter_map(Parameter::trained_mut);
        base.chain(self.adapter.iter_mut().flat_map(Beside::trainables_mut))
    }
}

/// `x · Aᵀ` of each layer that has a LoRA pair on and meets `x` itself, made by one product.
pub(super) fn lows<'l>(
    pass: &Pass<'_>,
    linears: &'l [Linear],
    x: &Tensor,
) -> Result<Vec<Option<Tensor>>> {
    let a = |linear: &'l Linear| match &linear.adapter {
        Some(Beside::Lora(lora)) if pass.adapters => lora.shared_a(pass),
        _ => None,
    };
    let all: Vec<Option<&Tensor>> = linears.iter().map(a).collect();
    let there: Vec<&Tensor> = all.iter().copied().flatten().collect();
    let lows = if there.is_empty() { Vec::new() } else { pass.ops.project_each(x, &there)? };
    let mut lows = lows.into_iter();
    Ok(all.iter().map(|a| a.and_then(|_| lows.next())).collect())
}

/// Adds to the gradient of A of each layer that met `x` and has the other factor of it, by one product.
pub(super) fn learn_a<'l>(
    ops: &dyn Backend,
    layers: impl IntoIterator<Item = (&'l mut Linear, Option<Tensor>)>,
    x: &Tensor,
) -> Result<()> {
    let layers = layers.into_iter().filter_map(|(linear, dlow)| match &mut linear.adapter {
        Some(Beside::Lora(lora)) => Some((lora, dlow?)),
        _ => None,
    });
    let (loras, dlows): (Vec<_>, Vec<_>) = layers.unzip();
    if dlows.is_empty() {
        return Ok(());
    }
    let gradients = ops.project_dw_each(&dlows.iter().collect::<Vec<_>>(), x)?;
    let mut each = loras.into_iter().zip(gradients);
    each.try_for_each(|(lora, gradient)| lora.learn_a(ops, gradient))
}

impl Beside {
    fn trainables(&self) -> Vec<&Trainable> {
        match self {
            Self::Lora(lora) => lora.trainables(),
            Self::Scale(scale) => vec![&scale.scale],
        }
    }

    fn trainables_mut(&mut self) -> Vec<&mut Trainable> {
        match self {
            Self::Lora(lora) => lora.trainables_mut(),
            Self::Scale(scale) => vec![&mut scale.scale],
        }
    }
}
