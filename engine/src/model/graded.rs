//! Training on what an objective makes of tokens' log-probabilities, and asking for them.

use candle_core::Tensor;

use super::Model;
use super::block::Pass;
use super::head::Labelled;
use crate::Result;
use crate::data::MicroBatch;

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The model as it is.
    Learning,
    /// The base with whatever is laid beside it left out.
    Base,
}

/// Log-probabilities of a batch's labelled tokens, in nats and in the order of their positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogps {
    /// `ln p(token)`.
    pub logps: Vec<f64>,
    /// `ln Σ_v p(v)²` at the same positions, if it was asked for.
    pub collisions: Vec<f64>,
}

impl Model {
    /// Log-probabilities of the labelled tokens, and with `collisions` those too; keeps nothing.
    ///
    /// # Errors
    /// As [`Model::forward_backward`].
    pub fn token_logps(
        &mut self,
        batch: &MicroBatch,
        policy: Policy,
        collisions: bool,
    ) -> Result<TokenLogps> {
        self.check(batch)?;
        self.set_adapters(policy == Policy::Learning);
        let logps = self.logps(batch, collisions);
        self.set_adapters(true);
        logps
    }

    fn logps(&self, batch: &MicroBatch, collisions: bool) -> Result<TokenLogps> {
        let x = self.hidden(batch)?;
        let pass = self.pass(self.ops.as_ref(), &self.spec, Vec::new());
        let (logps, collisions) = self.head_logps(&pass, &x, &Labelled::of(batch), collisions)?;
        Ok(TokenLogps { logps, collisions })
    }

    /// Asks for the log-probabilities of the labelled tokens, hands them to `objective`, and adds the gradient that it
    /// answers with, one number per labelled token, carried back to everything that learns.
    ///
    /// Logits are made twice: a gradient can depend on all of a sequence's tokens, so none is known before all are.
    ///
    /// # Errors
    /// As [`Model::forward_backward`], or what `objective` fails with.
    pub fn forward_backward_graded<T>(
        &mut self,
        batch: &MicroBatch,
        collisions: bool,
        objective: impl FnOnce(TokenLogps) -> Result<(T, Vec<f64>)>,
    ) -> Result<T> {
        let labelled = Labelled::of(batch);
        let head = |model: &mut Self, pass: &Pass<'_>, x: &Tensor| {
            let (logps, collisions) = model.head_logps(pass, x, &labelled, collisions)?;
            let (answer, dlogps) = objective(TokenLogps { logps, collisions })?;
            let dx = model.head_backward(pass, x, &labelled, |logits, targets, at| {
                pass.ops.log_probs_backward(logits, targets, &dlogps[at])
            })?;
            Ok((answer, dx))
        };
        self.walk(batch, head, &mut |_| Ok(()))
    }
}
