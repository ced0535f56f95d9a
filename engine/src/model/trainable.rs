//! A tensor that learns, and one that may.

use candle_core::Tensor;

use super::Weight;
use crate::Result;
use crate::ops::Backend;

/// One trained tensor: what the optimizer steps, what a checkpoint stores.
#[derive(Debug)]
pub struct Trainable {
    /// Its key on disk: Hugging Face's (`model.norm.weight`) or PEFT's
    /// (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`).
    pub name: String,
    /// f32, contiguous. Replace it or write into it; nothing else holds on to it.
    pub value: Tensor,
    /// d(loss)/d(value), same shape, f32; `None` until the first backward pass after [`Self::clear`].
    pub grad: Option<Tensor>,
    /// Whether weight decay applies: tensors of two dimensions, as is usual for transformers.
    pub decay: bool,
}

/// Rows of a gradient made at a time: a product cannot add to its result, so a slab is made and then added.
const SLAB_ROWS: usize = 4096;

impl Trainable {
    /// Begins without a gradient.
    #[must_use]
    pub fn new(name: impl Into<String>, value: Tensor) -> Self {
        let decay = value.rank() == 2;
        Self { name: name.into(), value, grad: None, decay }
    }

    /// Frees the gradient buffer.
    pub fn clear(&mut self) {
        self.grad = None;
    }

    /// Adds to the gradient, taking `grad` over when it is the first.
    pub(crate) fn accumulate(&mut self, ops: &dyn Backend, grad: Tensor) -> Result<()> {
        match &self.grad {
            Some(sum) => ops.add(sum, &grad)?,
            None => self.grad = Some(grad),
        }
        Ok(())
    }

    /// Adds `dyᵀ · x`, the gradient of a projection's weight, slab by slab.
    pub(crate) fn accumulate_product(
        &mut self,
        ops: &dyn Backend,
        dy: &Tensor,
        x: &Tensor,
    ) -> Result<()> {
        let rows = self.value.dim(0)?;
        if self.grad.is_none() && rows <= SLAB_ROWS {
            return self.accumulate(ops, ops.project_dw(dy, x)?);
        }
        let sum = self.gradient()?;
        for from in (0..rows).step_by(SLAB_ROWS) {
            let slab = SLAB_ROWS.min(rows - from);
            let part = ops.project_dw(&dy.narrow(1, from, slab)?, x)?;
            ops.add(&sum.narrow(0, from, slab)?, &part)?;
        }
        Ok(())
    }

    /// The gradient buffer, zeros if there was none.
    pub(crate) fn gradient(&mut self) -> Result<Tensor> {
        Ok(match &self.grad {
            Some(sum) => sum.clone(),
            None => self.grad.insert(self.value.zeros_like()?).clone(),
        })
    }
}

/// A base model's tensor: frozen, or trained under full fine-tuning. Only the latter has room for a gradient.
#[derive(Debug)]
pub(crate) enum Parameter {
    /// Hugging Face's key and the weight.
    Frozen(String, Weight),
    /// As above, learning.
    Trained(Trainable),
}

impl Parameter {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Frozen(name, _) => name,
            Self::Trained(trainable) => &trainable.name,
        }
    }

    /// `x · Wᵀ`, see [`Backend::project`].
    pub(crate) fn project(&self, ops: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Frozen(_, weight) => weight.project(ops, x),
            Self::Trained(trainable) => ops.project(x, &trainable.value),
        }
    }

    /// `dy · W`, see [`Backend::project_dx`].
    pub(crate) fn project_dx(&self, ops: &dyn Backend, dy: &Tensor) -> Result<Tensor> {
        match self {
            Self::Frozen(_, weight) => weight.project_dx(ops, dy),
            Self::Trained(trainable) => ops.project_dx(dy, &trainable.value),
        }
    }

    /// Rows `ids`, see [`Backend::gather`].
    pub(crate) fn gather(&self, ops: &dyn Backend, ids: &[u32]) -> Result<Tensor> {
        match self {
            Self::Frozen(_, weight) => weight.gather(ops, ids),
            Self::Trained(trainable) => ops.gather(&trainable.value, ids),
        }
    }

    /// The shape.
    pub(crate) fn dims(&self) -> &[usize] {
        match self {
            Self::Frozen(_, weight) => weight.dims(),
            Self::Trained(trainable) => trainable.value.dims(),
        }
    }

    /// The numbers, where they are held as f32.
    pub(crate) fn plain(&self) -> Option<&Tensor> {
        match self {
            Self::Frozen(_, weight) => weight.plain(),
            Self::Trained(trainable) => Some(&trainable.value),
        }
    }

    /// The numbers of a norm or a bias; only matrices are ever packed.
    pub(crate) fn value(&self) -> &Tensor {
        self.plain().unwrap_or_else(|| unreachable!("{} is packed", self.name()))
    }

    pub(crate) fn trained(&self) -> bool {
        matches!(self, Self::Trained(_))
    }

    pub(crate) fn trained_mut(&mut self) -> Option<&mut Trainable> {
        match self {
            Self::Frozen(..) => None,
            Self::Trained(trainable) => Some(trainable),
        }
    }

    /// Makes it learn.
    pub(crate) fn thaw(&mut self) {
        if let Self::Frozen(name, Weight::F32(value)) = self {
            *self = Self::Trained(Trainable::new(std::mem::take(name), value.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::ops::Portable;

    #[test]
    fn a_gradient_made_in_slabs_is_the_whole_product() {
        let rows = SLAB_ROWS + 7;
        let dy = Tensor::randn(0.0_f32, 1.0, (2, rows), &Device::Cpu).unwrap();
        let x = Tensor::randn(0.0_f32, 1.0, (2, 3), &Device::Cpu).unwrap();
        let value = Tensor::zeros((rows, 3), DType::F32, &Device::Cpu).unwrap();
        let mut trainable = Trainable::new("w", value);
        trainable.accumulate_product(&Portable, &dy, &x).unwrap();
        trainable.accumulate_product(&Portable, &dy, &x).unwrap();
        let twice = (dy.t().unwrap().matmul(&x).unwrap() * 2.0).unwrap();
        let error = (trainable.grad.unwrap() - twice).unwrap().abs().unwrap();
        assert!(error.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-5);
    }
}
