//! A reward model's end: one number for each example, read off its last token (transformers' `ForSequenceClassification`
//! with one label; PEFT keeps `score` among its `modules_to_save`).

use candle_core::{Device, Tensor};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

use super::block::Pass;
use super::trainable::Trainable;
use super::{Model, random};
use crate::data::MicroBatch;
use crate::ops::Onto;
use crate::ops::slices::view;
use crate::quant::Weight;
use crate::{EngineError, Result};

/// Deviation of a fresh score's weights, transformers' default.
const DEVIATION: f64 = 0.02;
/// A stream of the seed that no adapter's layer draws from.
const STREAM: u64 = u64::MAX;

impl Model {
    /// Has the model score examples: `weight` (`[1, H]`), or one drawn from `seed`, learns beside what learns already.
    /// The language model's head, which nothing goes through any more, does not.
    ///
    /// # Errors
    /// A weight of another shape.
    pub fn score_answers(&mut self, weight: Option<Tensor>, seed: u64) -> Result<()> {
        let width = self.spec.hidden_size;
        let weight = match weight {
            Some(weight) if weight.dims() != [1, width] => {
                return Err(EngineError::input(format!(
                    "adapter: `score` is {:?}, the model's is [1, {width}]; was it trained on another base?",
                    weight.dims()
                )));
            }
            Some(weight) => weight,
            None => {
                let mut rng = ChaCha12Rng::seed_from_u64(seed);
                rng.set_stream(STREAM);
                let numbers = (0..width).map(|_| (random::normal(&mut rng) * DEVIATION) as f32);
                Tensor::from_vec(numbers.collect::<Vec<f32>>(), (1, width), &Device::Cpu)?
            }
        };
        let beside = self.trainables().any(|t| t.name.starts_with("base_model."));
        let name = if beside { "base_model.model.score.weight" } else { "score.weight" };
        if let Some(head) = &mut self.head {
            head.weight.freeze();
        }
        self.score = Some(Trainable::new(name, weight));
        Ok(())
    }

    /// Whether it does.
    #[must_use]
    pub fn scores_answers(&self) -> bool {
        self.score.is_some()
    }

    /// The score of each example.
    ///
    /// # Errors
    /// As [`Model::forward_backward`]; [`EngineError::Input`] for a model without a score.
    pub fn scores(&self, batch: &MicroBatch) -> Result<Vec<f64>> {
        self.check(batch)?;
        let x = self.hidden(batch)?;
        let x = self.ops.gather(&x, &last_tokens(batch))?;
        let (normed, _) = self.norm.forward(self.ops.as_ref(), &x)?;
        self.scored(&normed)
    }

    /// Asks for the score of each example, hands them to `objective`, and adds the gradient that it answers with, one
    /// number per example, carried back to everything that learns.
    ///
    /// # Errors
    /// As [`Self::scores`], or what `objective` fails with.
    pub fn forward_backward_scored<T>(
        &mut self,
        batch: &MicroBatch,
        objective: impl FnOnce(&[f64]) -> Result<(T, Vec<f64>)>,
    ) -> Result<T> {
        let rows = last_tokens(batch);
        let head = |model: &mut Self, pass: &Pass<'_>, x: &Tensor| {
            let Pass { ops, .. } = *pass;
            let dx = x.zeros_like()?;
            let x = ops.gather(x, &rows)?;
            let (normed, rstd) = model.norm.forward(ops, &x)?;
            let (answer, dscores) = objective(&model.scored(&normed)?)?;
            let dscores: Vec<f32> = dscores.into_iter().map(|d| d as f32).collect();
            let dscores = Tensor::from_vec(dscores, (rows.len(), 1), x.device())?;
            if let Some(score) = &mut model.score {
                let dnormed = ops.project_dx(&dscores, &score.value)?;
                score.accumulate(ops, ops.project_dw(&dscores, &normed)?)?;
                let dx_rows = x.zeros_like()?;
                model.norm.backward(ops, Some(&dnormed), &x, &rstd, &dx_rows)?;
                ops.scatter_add(&dx, &rows, &dx_rows)?;
            }
            Ok((answer, dx))
        };
        self.walk(batch, head, &mut |_| Ok(()))
    }

    fn scored(&self, normed: &Tensor) -> Result<Vec<f64>> {
        let Some(score) = &self.score else {
            return Err(EngineError::input("the model has no score, so it judges no answer"));
        };
        let weight = Weight::F32(score.value.clone());
        let scores = self.ops.linear(normed, &weight, None, Onto::F32)?;
        Ok(view(&scores)?.iter().map(|score| f64::from(*score)).collect())
    }
}

/// Where each example ends.
fn last_tokens(batch: &MicroBatch) -> Vec<u32> {
    batch.cu_seqlens.iter().skip(1).map(|end| (end - 1) as u32).collect()
}
