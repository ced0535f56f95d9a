//! Held-out rows: when they are asked, and what they say.

use std::collections::BTreeMap;

use fleetune_shared::recipe::{Batching, EvalStrategy, Evaluation, Sampling};

use crate::data::{Dataset, Loader, MicroBatch};
use crate::model::Model;
use crate::{EngineError, Result, memory};

/// The loss per supervised token.
pub(super) const EVAL_LOSS: &str = "eval_loss";

/// Asks the held-out rows, always in the same order.
pub(super) struct Evaluator<'a> {
    strategy: EvalStrategy,
    steps: u64,
    rows: Loader<'a>,
}

impl<'a> Evaluator<'a> {
    /// # Errors
    /// [`EngineError::Input`] for a `metric_for_best_model` that evaluation does not measure.
    pub(super) fn new(settings: &Evaluation, rows: &'a Dataset) -> Result<Self> {
        let metric = name_of(&settings.best.metric);
        if metric != EVAL_LOSS {
            return Err(EngineError::input(format!(
                "recipe: `metric_for_best_model` is {:?}, expected `{EVAL_LOSS}`, which is what evaluation measures",
                settings.best.metric
            )));
        }
        let batching = Batching { micro_batch: settings.micro_batch, accumulation: 1 };
        let rows = Loader::new(rows, batching, Sampling::Sequential, 0);
        Ok(Self { strategy: settings.strategy, steps: settings.steps, rows })
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
    /// The loss is summed over all rows and divided once, by their supervised tokens, as in training; transformers
    /// averages the means of micro-batches.
    pub(super) fn ask(&mut self, model: &Model) -> Result<BTreeMap<String, f64>> {
        let (mut loss, mut supervised) = (0.0, 0);
        for _ in 0..self.rows.steps_per_epoch() {
            for batch in self.rows.next_step()? {
                loss += model.loss(&batch)?;
                supervised += batch.supervised();
                memory::check()?;
            }
        }
        if supervised == 0 {
            return Err(EngineError::input(
                "none of the held-out rows has a supervised token, so there is nothing to evaluate",
            ));
        }
        Ok(BTreeMap::from([(EVAL_LOSS.into(), loss / supervised as f64)]))
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
        let settings = fleetune_shared::Recipe::read(&text).unwrap().evaluation;
        let rows = Dataset::of(&[Row { input_ids: vec![1, 2], labels: vec![1, 2] }]);
        let evaluator = Evaluator::new(&settings, &rows).unwrap();
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
