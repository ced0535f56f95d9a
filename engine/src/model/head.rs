//! The end of the model: final norm, head and cross-entropy, for labelled positions only.
//!
//! Positions are taken [`head_rows`] at a time and their logits become their gradient in place, so that of the
//! largest tensor in training only a slice ever exists (after Cut Cross-Entropy, arXiv 2411.09009, and Liger).

use std::ops::Range;

use candle_core::{DType, Tensor};
use fleetune_shared::head_rows;

use super::Model;
use super::block::Pass;
use super::linear::LinearSaved;
use crate::Result;
use crate::data::{IGNORED, MicroBatch};
use crate::ops::{Backend, Onto};

/// Positions that predict something, and what.
pub(super) struct Labelled {
    rows: Vec<u32>,
    targets: Vec<u32>,
}

impl Labelled {
    pub(super) fn of(batch: &MicroBatch) -> Self {
        let labelled = batch.targets.iter().enumerate().filter(|(_, target)| **target != IGNORED);
        let (rows, targets) = labelled.map(|(row, target)| (row as u32, *target as u32)).unzip();
        Self { rows, targets }
    }

    fn chunks(&self, ops: &dyn Backend) -> impl Iterator<Item = (&[u32], &[u32])> {
        let rows = head_rows(ops.activations() == DType::BF16);
        self.rows.chunks(rows).zip(self.targets.chunks(rows))
    }
}

impl Model {
    /// Summed negative log-likelihood in nats.
    pub(super) fn head_loss(&self, x: &Tensor, labelled: &Labelled, smoothing: f64) -> Result<f64> {
        let mut loss = 0.0;
        for (rows, targets) in labelled.chunks(self.ops.as_ref()) {
            let logits = self.head_logits(&self.ops.gather(x, rows)?)?;
            loss += self.ops.cross_entropy(&logits, targets, smoothing)?;
        }
        Ok(loss)
    }

    /// Logits of rows of the residual stream: `[rows, H]` to `[rows, V]`.
    pub(super) fn head_logits(&self, x: &Tensor) -> Result<Tensor> {
        self.head_logits_in(&self.pass(self.ops.as_ref(), &self.spec, Vec::new()), x)
    }

    fn head_logits_in(&self, pass: &Pass<'_>, x: &Tensor) -> Result<Tensor> {
        let (normed, _) = self.norm.forward(pass.ops, x)?;
        let (logits, _) = self.head_project(pass, &normed)?;
        if let Some(cap) = self.spec.final_logit_softcapping {
            pass.ops.soft_cap(&logits, cap)?;
        }
        Ok(logits)
    }

    /// Log-probabilities of the labelled tokens in nats; with `collisions`, see [`Backend::log_collisions`], the second
    /// list is as long as the first, else it is empty.
    ///
    /// [`Backend::log_collisions`]: crate::ops::Backend::log_collisions
    pub(super) fn head_logps(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        labelled: &Labelled,
        collisions: bool,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut logps, mut agree) = (Vec::with_capacity(labelled.rows.len()), Vec::new());
        for (rows, targets) in labelled.chunks(self.ops.as_ref()) {
            let logits = self.head_logits_in(pass, &self.ops.gather(x, rows)?)?;
            logps.extend(self.ops.log_probs(&logits, targets)?);
            if collisions {
                agree.extend(self.ops.log_collisions(&logits)?);
            }
        }
        Ok((logps, agree))
    }

    /// Adds to the gradients of norm and head, and gives that of `x`. Logits are made again chunk by chunk, and `grade`
    /// overwrites each chunk's with the gradient of the loss for them; it is told their targets and which of the
    /// labelled positions they are.
    pub(super) fn head_backward(
        &mut self,
        pass: &Pass<'_>,
        x: &Tensor,
        labelled: &Labelled,
        mut grade: impl FnMut(&Tensor, &[u32], Range<usize>) -> Result<()>,
    ) -> Result<Tensor> {
        let ops = pass.ops;
        let dx = x.zeros_like()?;
        let mut done = 0;
        for (rows, targets) in labelled.chunks(ops) {
            let x = ops.gather(x, rows)?;
            let (normed, rstd) = self.norm.forward(ops, &x)?;
            let cap = self.spec.final_logit_softcapping;
            let (logits, saved) = self.head_project(pass, &normed)?;
            if let Some(cap) = cap {
                ops.soft_cap(&logits, cap)?;
            }
            let capped = cap.map(|_| logits.copy()).transpose()?;
            grade(&logits, targets, done..done + rows.len())?;
            done += rows.len();
            if let (Some(cap), Some(capped)) = (cap, capped) {
                ops.soft_cap_backward(&logits, &capped, cap)?;
            }
            let dnormed = self.head_project_backward(pass, &logits, &normed, &saved)?;
            drop(logits);
            let dx_rows = x.zeros_like()?;
            self.norm.backward(ops, Some(&dnormed), &x, &rstd, &dx_rows)?;
            ops.scatter_add(&dx, rows, &dx_rows)?;
        }
        Ok(dx)
    }

    /// The last product, `[rows, H]` to `[rows, V]`: the head's own, or the embedding's when tied.
    fn head_project(&self, pass: &Pass<'_>, normed: &Tensor) -> Result<(Tensor, LinearSaved)> {
        match &self.head {
            Some(head) => head.forward(pass, normed, Onto::F32),
            None => {
                let logits = self.embed.table.project(pass.ops, normed, None, Onto::F32)?;
                Ok((logits, LinearSaved::default()))
            }
        }
    }

    /// Gradient of [`Self::head_project`] for its input; adds to those of what learns in it.
    fn head_project_backward(
        &mut self,
        pass: &Pass<'_>,
        dlogits: &Tensor,
        normed: &Tensor,
        saved: &LinearSaved,
    ) -> Result<Tensor> {
        let dlogits = pass.ops.as_activation(dlogits)?;
        if let Some(head) = &mut self.head {
            let dnormed = head.backward(pass, &dlogits, normed, saved, Some(Onto::F32))?;
            return Ok(dnormed.expect("a gradient that was wanted"));
        }
        let table = &mut self.embed.table;
        let dnormed = table.project_dx(pass.ops, &dlogits, None, Onto::F32)?;
        if let Some(table) = table.trained_mut() {
            table.accumulate_product(pass.ops, &dlogits, normed)?;
        }
        Ok(dnormed)
    }
}
