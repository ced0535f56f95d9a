//! The table of token vectors and the low-rank pair beside it.

use candle_core::Tensor;

use super::block::Pass;
use super::trainable::{Parameter, Role, Trainable};
use crate::Result;
use crate::adapter::{Half, LoraLayer, key};
use crate::ops::{Backend, Onto};
use crate::quant::Weight;

/// `y = E[id] + s·(A[:, id])ᵀ·Bᵀ`.
#[derive(Debug)]
pub(crate) struct Embedding {
    /// `[V, H]`.
    pub(crate) table: Parameter,
    pub(crate) lora: Option<EmbeddingLora>,
}

/// The pair, as PEFT keeps it; it drops nothing.
#[derive(Debug)]
pub(crate) struct EmbeddingLora {
    /// `[r, V]`.
    a: Trainable,
    /// `[H, r]`.
    b: Trainable,
    scaling: f64,
}

impl EmbeddingLora {
    pub(crate) fn new(module: &str, layer: LoraLayer) -> Self {
        let of = |half, value| Trainable::of(Role::LoraEmbedding, key(module, half), value);
        let LoraLayer { a, b, scaling, .. } = layer;
        Self { a: of(Half::EmbeddingA, a), b: of(Half::EmbeddingB, b), scaling }
    }

    /// `(A[:, ids])ᵀ`, `[T, r]`.
    fn low(&self, ops: &dyn Backend, ids: &[u32]) -> Result<Tensor> {
        ops.gather(&self.a.value.t()?.contiguous()?, ids)
    }
}

impl Embedding {
    /// A table nothing lies beside.
    pub(crate) fn new(table: Parameter) -> Self {
        Self { table, lora: None }
    }

    /// Token vectors, `[T, H]`.
    pub(crate) fn forward(&self, pass: &Pass<'_>, ids: &[u32]) -> Result<Tensor> {
        let y = self.table.gather(pass.ops, ids)?;
        if let Some(lora) = self.lora.as_ref().filter(|_| pass.adapters) {
            let b = (lora.b.value.t()?.contiguous()? * lora.scaling)?;
            pass.ops.add_low_rank(&y, &lora.low(pass.ops, ids)?, &b)?;
        }
        Ok(y)
    }

    /// Whether anything here learns.
    pub(crate) fn trained(&self) -> bool {
        self.trainables().next().is_some()
    }

    /// Adds to the gradients of what learns; `dy` is `[T, H]`.
    pub(crate) fn backward(&mut self, ops: &dyn Backend, ids: &[u32], dy: &Tensor) -> Result<()> {
        if let Some(table) = self.table.trained_mut() {
            ops.scatter_add(&table.gradient()?, ids, dy)?;
        }
        if let Some(lora) = &mut self.lora {
            let low = (lora.low(ops, ids)? * lora.scaling)?;
            let b = Weight::F32(lora.b.value.clone());
            let dlow = (ops.linear_dx(dy, &b, None, Onto::F32)? * lora.scaling)?;
            let da = lora.a.value.t()?.contiguous()?.zeros_like()?;
            ops.scatter_add(&da, ids, &dlow)?;
            lora.a.accumulate(ops, da.t()?.contiguous()?)?;
            lora.b.accumulate(ops, ops.project_dw(dy, &low)?)?;
        }
        Ok(())
    }

    /// What learns here, in a fixed order.
    pub(crate) fn trainables(&self) -> impl Iterator<Item = &Trainable> {
        let pair = self.lora.iter().flat_map(|lora| [&lora.a, &lora.b]);
        self.table.trainable().into_iter().chain(pair)
    }

    /// As [`Self::trainables`].
    pub(crate) fn trainables_mut(&mut self) -> impl Iterator<Item = &mut Trainable> {
        let pair = self.lora.iter_mut().flat_map(|lora| [&mut lora.a, &mut lora.b]);
        self.table.trained_mut().into_iter().chain(pair)
    }
}
