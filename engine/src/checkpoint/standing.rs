//! How a run stands with its held-out rows: the best evaluation so far, and for how long there was no better one.

use fleetune_shared::recipe::{BestModel, EarlyStopping, Evaluation};
use serde::{Deserialize, Serialize};

/// Part of a checkpoint's state, so that an interrupted run gives up when it would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The best evaluation.
    pub best: Option<Mark>,
    /// Evaluations since one was better by the threshold.
    pub without_better: u64,
    /// The loss of the last evaluation.
    pub eval_loss_last: Option<f64>,
}

/// An evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// After which step.
    pub step: u64,
    /// Of `metric_for_best_model`.
    pub value: f64,
}

impl Standing {
    /// Takes in the evaluation after `step`; true when it is the best so far.
    ///
    /// Patience counts as transformers' `EarlyStoppingCallback` does: from an evaluation that is better than the best
    /// by more than the threshold, while any better one is the best.
    pub fn hear(&mut self, settings: &Evaluation, step: u64, value: f64) -> bool {
        let BestModel { greater_is_better, .. } = settings.best;
        let gain =
            |best: Mark| if greater_is_better { value - best.value } else { best.value - value };
        let gain = self.best.map_or(f64::INFINITY, gain);
        let threshold = settings.early_stopping.map_or(0.0, |stopping| stopping.threshold);
        self.without_better =
            if gain > 0.0 && gain > threshold { 0 } else { self.without_better + 1 };
        if gain > 0.0 {
            self.best = Some(Mark { step, value });
        }
        gain > 0.0
    }

    /// Whether patience is at its end.
    #[must_use]
    pub fn gives_up(&self, settings: &Evaluation) -> bool {
        let over = |stopping: EarlyStopping| self.without_better >= stopping.patience;
        settings.early_stopping.is_some_and(over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(keys: &str) -> Evaluation {
        let text = format!("model_name_or_path: m\ndataset_name: d\ntest_split_size: 2\n{keys}");
        fleetune_shared::Recipe::read(&text).unwrap().evaluation
    }

    /// The step at which the run gives up, and the best step then.
    fn heard(keys: &str, values: &[f64]) -> (Option<u64>, u64) {
        let settings = settings(keys);
        let mut standing = Standing::default();
        for (step, value) in (1..).zip(values) {
            standing.hear(&settings, step, *value);
            if standing.gives_up(&settings) {
                return (Some(step), standing.best.unwrap().step);
            }
        }
        (None, standing.best.unwrap().step)
    }

    #[test]
    fn patience_ends_after_so_many_evaluations_without_a_better_one() {
        let falls_then_rises = [3.0, 2.0, 1.5, 1.6, 1.7, 1.8];
        assert_eq!(heard("early_stopping_patience: 2", &falls_then_rises), (Some(5), 3));
        assert_eq!(heard("early_stopping_patience: 4", &falls_then_rises), (None, 3));
        assert_eq!(heard("", &falls_then_rises), (None, 3));
        assert_eq!(
            heard("early_stopping_patience: 1", &[2.0, 2.0]),
            (Some(2), 1),
            "a draw is not better"
        );
    }

    #[test]
    fn a_little_better_is_the_best_but_no_reason_to_go_on() {
        let keys = "early_stopping_patience: 2\nearly_stopping_threshold: 0.5";
        assert_eq!(heard(keys, &[3.0, 2.9, 2.8, 2.7]), (Some(3), 3));
    }

    #[test]
    fn more_may_be_better() {
        let keys = "early_stopping_patience: 1\ngreater_is_better: true";
        assert_eq!(heard(keys, &[0.5, 0.6, 0.55]), (Some(3), 2));
    }
}
