//! A tensor that learns, and one that may.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use fleetune_shared::{SLAB_ROWS, TILE_NUMBERS};

use super::stored::Stored;
use crate::Result;
use crate::ops::{Backend, LowRank, Onto, slices};
use crate::quant::{Bf16Tensor, PackedMatrix, Weight};

/// One trained tensor: what the optimizer steps, what a checkpoint stores.
#[derive(Debug)]
pub struct Trainable {
    /// Its key on disk: Hugging Face's (`model.norm.weight`) or PEFT's
    /// (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`).
    pub name: String,
    /// f32, or bf16 for matrices that were thawed so; contiguous. Replace it or write into it; nothing else holds on to
    /// it.
    pub value: Tensor,
    /// d(loss)/d(value), same shape, f32; `None` until the first backward pass after [`Self::clear`].
    pub grad: Option<Tensor>,
    /// Whether weight decay applies: tensors of two dimensions, as is usual for transformers.
    pub decay: bool,
    /// What it is to the model.
    pub role: Role,
}

/// What a trained tensor is, for whoever treats some of them differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// A tensor of the model itself.
    #[default]
    Base,
    /// The half of a LoRA pair that meets the input.
    LoraA,
    /// The half that makes the output, or its bias (LoRA+ steps it faster, arXiv 2402.12354).
    LoraB,
    /// Either half beside an embedding.
    LoraEmbedding,
    /// DoRA's magnitudes.
    Magnitude,
    /// IA³'s scales.
    Scale,
}

impl Trainable {
    /// Begins without a gradient.
    #[must_use]
    pub fn new(name: impl Into<String>, value: Tensor) -> Self {
        let decay = value.rank() == 2;
        Self { name: name.into(), value, grad: None, decay, role: Role::Base }
    }

    /// Begins without a gradient, as one of an adapter's tensors.
    #[must_use]
    pub(crate) fn of(role: Role, name: String, value: Tensor) -> Self {
        Self { role, ..Self::new(name, value) }
    }

    /// The value as products take it.
    pub(crate) fn weight(&self) -> Weight {
        match (self.value.dtype(), self.value.dims()) {
            (DType::BF16, [_, width]) => {
                Weight::Packed(PackedMatrix::new(Arc::new(Bf16Tensor(self.value.clone())), *width))
            }
            _ => Weight::F32(self.value.clone()),
        }
    }

    /// Moves it to where tensors of `ops` live.
    pub(super) fn carry(&mut self, ops: &dyn Backend) -> Result<()> {
        self.value = self.value.to_device(&ops.place())?;
        Ok(())
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

    /// Adds `dyᵀ · x`, the gradient of a projection's weight.
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
        ops.add_project_dw(&self.gradient()?, dy, x)
    }

    /// The gradient buffer, zeros if there was none.
    pub(crate) fn gradient(&mut self) -> Result<Tensor> {
        Ok(match &self.grad {
            Some(sum) => sum.clone(),
            None => {
                let zeros = Tensor::zeros(self.value.shape(), DType::F32, self.value.device())?;
                self.grad.insert(zeros).clone()
            }
        })
    }
}

/// A base model's tensor: frozen, trained under full fine-tuning, or standing behind a copy that an adapter trains.
/// Only what learns has room for a gradient.
#[derive(Debug)]
pub(crate) enum Parameter {
    /// Hugging Face's key and the weight.
    Frozen(String, Weight),
    /// As above, learning.
    Trained(Trainable),
    /// Frozen, and the copy that takes its place while adapters are on.
    Copied(Box<Copied>),
}

#[derive(Debug)]
pub(crate) struct Copied {
    name: String,
    base: Weight,
    copy: Trainable,
    on: bool,
}

/// What of a parameter is asked.
enum Numbers<'a> {
    Held(&'a Weight),
    Learning(&'a Trainable),
}

impl Parameter {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Frozen(name, _) => name,
            Self::Trained(trainable) => &trainable.name,
            Self::Copied(copied) => &copied.name,
        }
    }

    fn numbers(&self) -> Numbers<'_> {
        match self {
            Self::Frozen(_, weight) => Numbers::Held(weight),
            Self::Trained(trainable) => Numbers::Learning(trainable),
            Self::Copied(copied) if copied.on => Numbers::Learning(&copied.copy),
            Self::Copied(copied) => Numbers::Held(&copied.base),
        }
    }

    /// `x · Wᵀ + low`, see [`Backend::linear`].
    pub(crate) fn project(
        &self,
        ops: &dyn Backend,
        x: &Tensor,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        match self.numbers() {
            Numbers::Held(weight) => ops.linear(x, weight, low, onto),
            Numbers::Learning(trainable) => ops.linear(x, &trainable.weight(), low, onto),
        }
    }

    /// `dy · W + low`, see [`Backend::linear_dx`].
    pub(crate) fn project_dx(
        &self,
        ops: &dyn Backend,
        dy: &Tensor,
        low: Option<LowRank<'_>>,
        onto: Onto,
    ) -> Result<Tensor> {
        match self.numbers() {
            Numbers::Held(weight) => ops.linear_dx(dy, weight, low, onto),
            Numbers::Learning(trainable) => ops.linear_dx(dy, &trainable.weight(), low, onto),
        }
    }

    /// Rows `ids`, see [`Backend::gather`].
    pub(crate) fn gather(&self, ops: &dyn Backend, ids: &[u32]) -> Result<Tensor> {
        match self.numbers() {
            Numbers::Held(weight) => weight.gather(ops, ids),
            Numbers::Learning(trainable) => trainable.weight().gather(ops, ids),
        }
    }

    /// The shape.
    pub(crate) fn dims(&self) -> &[usize] {
        match self.numbers() {
            Numbers::Held(weight) => weight.dims(),
            Numbers::Learning(trainable) => trainable.value.dims(),
        }
    }

    /// The numbers, where they are held as f32.
    pub(crate) fn plain(&self) -> Option<&Tensor> {
        match self.numbers() {
            Numbers::Held(weight) => weight.plain(),
            Numbers::Learning(trainable) => {
                Some(&trainable.value).filter(|value| value.dtype() == DType::F32)
            }
        }
    }

    /// The numbers, where they are held as a tensor: f32, or bf16 that learns.
    pub(crate) fn tensor(&self) -> Option<&Tensor> {
        match self.numbers() {
            Numbers::Held(weight) => weight.plain(),
            Numbers::Learning(trainable) => Some(&trainable.value),
        }
    }

    /// The numbers, where they are held as they can be saved: f32 or bf16.
    pub(crate) fn stored(&self) -> Option<Stored<'_>> {
        match self.numbers() {
            Numbers::Held(Weight::Packed(matrix)) => Stored::matrix(matrix),
            _ => self.tensor().map(Stored::from),
        }
    }

    /// The numbers of a norm or a bias; only matrices are ever packed.
    pub(crate) fn value(&self) -> &Tensor {
        self.plain().unwrap_or_else(|| unreachable!("{} is packed", self.name()))
    }

    pub(crate) fn trained(&self) -> bool {
        !matches!(self, Self::Frozen(..))
    }

    pub(crate) fn trainable(&self) -> Option<&Trainable> {
        match self {
            Self::Frozen(..) => None,
            Self::Trained(trainable) => Some(trainable),
            Self::Copied(copied) => Some(&copied.copy),
        }
    }

    pub(crate) fn trained_mut(&mut self) -> Option<&mut Trainable> {
        match self {
            Self::Frozen(..) => None,
            Self::Trained(trainable) => Some(trainable),
            Self::Copied(copied) => Some(&mut copied.copy),
        }
    }

    /// As [`Self::thaw`]; a matrix that is held in bf16 goes on in it.
    pub(crate) fn thaw_as_held(&mut self) -> Result<()> {
        match self {
            Self::Frozen(_, Weight::Packed(matrix)) if matrix.as_bf16().is_some() => {
                self.thaw_bf16()
            }
            _ => {
                self.thaw();
                Ok(())
            }
        }
    }

    /// As [`Self::thaw`]; a matrix goes on in bf16, whatever it was held in.
    pub(crate) fn thaw_bf16(&mut self) -> Result<()> {
        if let Self::Frozen(name, weight) = self
            && weight.dims().len() == 2
        {
            let value = weight.to_f32()?.to_dtype(DType::BF16)?;
            *self = Self::Trained(Trainable::new(std::mem::take(name), value));
        }
        self.thaw();
        Ok(())
    }

    /// Makes it learn.
    pub(crate) fn thaw(&mut self) {
        if let Self::Frozen(name, Weight::F32(value)) = self {
            *self = Self::Trained(Trainable::new(std::mem::take(name), value.clone()));
        }
    }

    /// Gives what is frozen other numbers, f32.
    pub(super) fn replace(&mut self, value: Tensor) {
        if let Self::Frozen(_, weight) = self {
            *weight = Weight::F32(value);
        }
    }

    /// Keeps it from learning.
    pub(crate) fn freeze(&mut self) {
        if let Self::Trained(trainable) = self {
            let name = std::mem::take(&mut trainable.name);
            *self = Self::Frozen(name, Weight::F32(trainable.value.clone()));
        }
    }

    /// The base's weight under another name, frozen: how an untied head begins.
    pub(crate) fn twin(&self, name: &str) -> Self {
        let weight = match self {
            Self::Frozen(_, weight) => weight.clone(),
            Self::Trained(trainable) => trainable.weight(),
            Self::Copied(copied) => copied.base.clone(),
        };
        Self::Frozen(name.to_owned(), weight)
    }

    /// Moves the base's numbers to where tensors of `ops` live; what learns moves by itself.
    pub(super) fn carry(&mut self, ops: &dyn Backend) -> Result<()> {
        match self {
            Self::Frozen(_, weight) => *weight = ops.carried(weight)?,
            Self::Copied(copied) => copied.base = ops.carried(&copied.base)?,
            Self::Trained(_) => {}
        }
        Ok(())
    }

    /// Puts a copy in the place of what is frozen: `value`, or else its own numbers. It learns, and is stored as `key`.
    pub(crate) fn copy(&mut self, key: String, value: Option<Tensor>) -> Result<()> {
        let Self::Frozen(name, base) = self else { return Ok(()) };
        let value = match (value, &*base) {
            (Some(value), _) => value,
            (None, Weight::F32(value)) => value.copy()?,
            (None, Weight::Packed(_)) => base.to_f32()?,
        };
        *self = Self::Copied(Box::new(Copied {
            name: std::mem::take(name),
            base: base.clone(),
            copy: Trainable::new(key, value),
            on: true,
        }));
        Ok(())
    }

    /// Whether the copy answers, if there is one, or what it was copied from.
    pub(crate) fn switch(&mut self, on: bool) {
        if let Self::Copied(copied) = self {
            copied.on = on;
        }
    }

    /// Squared lengths of a matrix' rows, `[out]`; it is unpacked a few rows at a time.
    pub(crate) fn row_squares(&self, ops: &dyn Backend) -> Result<Vec<f64>> {
        let &[rows, width] = self.dims() else { return Ok(Vec::new()) };
        let in_tile = (TILE_NUMBERS / width.max(1)).max(1) as u32;
        let mut squares = Vec::with_capacity(rows);
        for from in (0..rows as u32).step_by(in_tile as usize) {
            let ids: Vec<u32> = (from..(from + in_tile).min(rows as u32)).collect();
            let tile = self.gather(ops, &ids)?;
            let square =
                |row: &[f32]| row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
            squares.extend(slices::view(&tile)?.chunks_exact(width).map(square));
        }
        Ok(squares)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

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
