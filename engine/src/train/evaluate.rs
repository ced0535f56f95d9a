//! Held-out rows: when they are asked, and what they say.

use std::collections::BTreeMap;

use fleetune_shared::recipe::{Batching, EvalStrategy, Evaluation, Objective, Sampling};

use super::learner::Learner;
use crate::data::{Dataset, Loader, MicroBatch};
use crate::model::Model;
use crate::objective::Tally;
use crate::{EngineError, Result, memory};

/// The loss per supervised token, pair or answer.
pub(super) const EVAL_LOSS: &str = "eval_loss";

/// Asks the held-out rows, always in the same order.
pub(super) struct Evaluator<'a> {
    strategy: EvalStrategy,
    steps: u64,
    rows: Loader,
    /// What the rows are asked for.
    pub(super) learner: Learner<'a>,
}

impl<'a> Evaluator<'a> {
    /// # Errors
    /// [`EngineError::Input`] for a `metric_for_best_model` that evaluation does not measure.
    pub(super) fn new(
        settings: &Evaluation,
        objective: &Objective,
        rows: &'a Dataset,
        piece: Option<usize>,
    ) -> Result<Self> {
        let metric = name_of(&settings.best.metric);
        let learner = Learner::new(objective, rows);
        let measured = learner.metrics().iter().map(|name| name_of(name));
        let measured: Vec<String> = std::iter::once(EVAL_LOSS.to_owned()).chain(measured).collect();
        if !measured.contains(&metric) {
            return Err(EngineError::input(format!(
                "recipe: `metric_for_best_model` is {:?}, expected `{}`, which is what evaluation measures",
                settings.best.metric,
                measured.join("`, `")
            )));
        }
        let batching = Batching { micro_batch: settings.micro_batch, accumulation: 1 };
        let rows = Loader::new(rows, batching, Sampling::Sequential, 0).in_pieces(piece);
        Ok(Self { strategy: settings.strategy, steps: settings.steps, rows, learner })
    }

    /// Whether they are asked after `step`. The last step's model is what the run leaves, so it is always evaluated.
    pub(super) fn due(&self, step: u64, epoch_done: bool, last: bool) -> bool {
        match self.strategy {
            EvalStrategy::No => false,
            EvalStrategy::Steps => last || step.is_multiple_of(self.steps),
            EvalStrategy::Epoch => last || epoch_done,
        }
    }

    /// The largest micro-batch of an evaluation.
    pub(super) fn longest(&self) -> Result<MicroBatch> {
        self.rows.longest_step()
    }

    /// What the model makes of all rows, by metric. Logits exist for one chunk of one micro-batch at a time.
    ///
    /// The loss is summed over all rows and divided once, by their supervised tokens or answers, as in training;
    /// transformers averages the means of micro-batches.
    pub(super) fn ask(&mut self, model: &mut Model) -> Result<BTreeMap<String, f64>> {
        let (mut loss, mut units, mut tally) = (0.0, 0, Tally::default());
        for _ in 0..self.rows.steps_per_epoch() {
            for batch in self.rows.next_step()? {
                let found = self.learner.assess(model, &batch)?;
                loss += found.loss;
                tally.merge(found.tally);
                units += self.learner.units(&batch);
                memory::check()?;
            }
        }
        if units == 0 {
            return Err(EngineError::input(
                "none of the held-out rows has a supervised token, so there is nothing to evaluate",
            ));
        }
        let more = tally.means().into_iter().map(|(name, value)| (name_of(&name), value));
        Ok(more.chain([(EVAL_LOSS.into(), loss / units as f64)]).collect())
    }
}

/// A metric's full name: transformers takes `loss` for `eval_loss`.
pub(super) fn name_of(metric: &str) -> String {
    if metric.starts_with("eval_") { metric.to_owned() } else { format!("eval_{metric}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Row;

    fn due(keys: &str, epoch_ends: &[u64], total: u64) -> Vec<u64> {
        let text = format!("model_name_or_path: m\ndataset_name: d\ntest_split_size: 2\n{keys}");
        let recipe = fleetune_shared::Recipe::read(&text).unwrap();
        let settings = recipe.evaluation;
        let rows = Dataset::of(&[Row { input_ids: vec![1, 2], labels: vec![1, 2] }]);
        let evaluator = Evaluator::new(&settings, &recipe.objective, &rows, None).unwrap();
        let asked = (1..=total)
            .filter(|step| evaluator.due(*step, epoch_ends.contains(step), *step == total));
        asked.collect()
    }

    #[test]
    fn evaluation_follows_its_strategy() {
        assert_eq!(due("eval_strategy: steps\neval_steps: 3", &[5], 10), [3, 6, 9, 10]);
        assert_eq!(due("eval_strategy: epoch", &[4, 8], 10), [4, 8, 10]);
        assert_eq!(due("", &[4], 6), [4, 6], "held-out rows are there to be asked");
        assert!(due("eval_strategy: no", &[4], 6).is_empty());
    }
}
