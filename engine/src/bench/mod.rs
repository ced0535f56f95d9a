//! Whole training steps, timed.
//!
//! ```text
//!   TrainOrder ─▶ train ─▶ events ─▶ Stopwatch ─▶ Bench
//!     rows: the user's, or synthetic ones (`rows`)
//! ```
//!
//! The run is the one every recipe gets, from reading rows to the optimizer's step; nothing is rebuilt here, so what is
//! measured is what a user waits for.

mod rows;
mod stopwatch;

use std::time::Instant;

use fleetune_shared::{ByteSize, Estimate, TrainOrder};
use serde::Serialize;

pub use rows::write as write_rows;

use self::stopwatch::Stopwatch;
use crate::train::{Observer, train};
use crate::{EngineError, Result};

/// What a run of whole steps came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bench {
    /// Optimizer steps that were measured.
    pub steps: u64,
    /// Steps before them, which were not.
    pub warm: u64,
    /// Tokens per second, the median of the measured steps.
    pub tokens_per_second: f64,
    /// Tokens per second of the fastest step.
    pub tokens_per_second_best: f64,
    /// Tokens that carried a label per second, the median.
    pub supervised_tokens_per_second: f64,
    /// Seconds of a step, the median.
    pub step_seconds: f64,
    /// Seconds from the start of the process to the beginning of the first step: rows read and tokenised, weights read,
    /// the dry run of the longest micro-batch done.
    pub seconds_to_start: f64,
    /// Seconds from the start of the process to the end of the first optimizer step.
    pub seconds_to_first_step: f64,
    /// Seconds in which steps, those of the warm-up too, waited for their rows.
    pub seconds_waited_for_data: f64,
    /// The most bytes held on the heap up to the last step; 0 where nobody counts them.
    pub heap_bytes_peak: ByteSize,
    /// The most of the process that was in memory up to the last step, mapped files included, where the system says.
    pub rss_bytes_peak: Option<ByteSize>,
    /// What the run was sized by.
    pub estimate: Option<Estimate>,
    /// Parameters that were trained.
    pub trainable_parameters: u64,
    /// Loss of the first step, warm-up included.
    pub loss_first: f64,
    /// Loss of the last step.
    pub loss_last: f64,
}

/// Carries out `order` and measures all its steps but the first `warm`. `begun` is when the process was started;
/// `observer` hears everything that an observer of [`train`] does.
///
/// # Errors
/// Those of [`train`], and [`EngineError::Input`] for a run that has no step after its warm-up.
pub fn bench(
    order: &TrainOrder,
    warm: u64,
    begun: Instant,
    observer: &mut dyn Observer,
) -> Result<Bench> {
    let mut stopwatch = Stopwatch::new(begun, observer);
    let summary = train(order, &mut stopwatch)?;
    let measured = stopwatch.measured(warm).ok_or_else(|| {
        EngineError::input(format!(
            "the run has {} steps and {warm} of them warm up, so none is left to measure; raise `max_steps`",
            summary.steps
        ))
    })?;
    Ok(Bench {
        estimate: summary.estimate,
        trainable_parameters: summary.trainable_parameters,
        loss_first: summary.loss_first,
        loss_last: summary.loss_last,
        seconds_waited_for_data: summary.seconds_waited_for_data,
        ..measured
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use fleetune_shared::{Device, Recipe, StepMetrics, TrainerEvent};

    use super::*;

    struct Deaf;

    impl Observer for Deaf {
        fn event(&mut self, _: TrainerEvent) {}
    }

    fn model() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "..", "tests/fixtures/models/tiny-llama"].iter().collect()
    }

    /// Two rows of 16 tokens a step.
    fn order(folder: &Path, keys: &str) -> TrainOrder {
        let rows = folder.join("rows.jsonl");
        let recipe = Recipe::read(&format!(
            "model_name_or_path: m\ndataset_name: d\nper_device_train_batch_size: 2\nmax_length: 16\nsave_steps: 0\n\
             learning_rate: 1e-2\n{keys}"
        ));
        let recipe = recipe.unwrap();
        write_rows(&rows, &recipe.objective, 2, 16, 512).unwrap();
        TrainOrder {
            recipe,
            model: model(),
            data: rows.into(),
            init_adapter: None,
            out: folder.join("out"),
            resume_from: None,
            device: Device::Cpu,
            memory_bytes_limit: None,
            memory_bytes_budget: None,
        }
    }

    #[test]
    fn the_steps_after_the_warm_up_are_measured() {
        let folder = tempfile::tempdir().unwrap();
        let order = order(folder.path(), "max_steps: 4\nuse_peft: false");
        let found = bench(&order, 1, Instant::now(), &mut Deaf).unwrap();
        assert_eq!((found.steps, found.warm), (3, 1));

        let log = std::fs::read_to_string(order.out.join("metrics.jsonl")).unwrap();
        let steps: Vec<StepMetrics> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut speeds: Vec<f64> = steps[1..].iter().map(|m| m.tokens_per_second).collect();
        speeds.sort_by(f64::total_cmp);
        assert_eq!((found.tokens_per_second, found.tokens_per_second_best), (speeds[1], speeds[2]));
        // The first token of a row has nothing before it that could predict it.
        assert!(steps.iter().all(|m| m.supervised_tokens == 2 * 15));
        assert!(found.supervised_tokens_per_second < found.tokens_per_second);
        assert!(found.seconds_waited_for_data > 0.0);
        assert!(found.seconds_to_first_step > found.seconds_to_start);
        assert!(found.loss_last < found.loss_first, "the same two rows are learned");
    }

    #[test]
    fn every_objective_has_synthetic_rows() {
        for task in ["sft", "dpo", "kto", "orpo", "cpo", "reward"] {
            let folder = tempfile::tempdir().unwrap();
            let order = order(folder.path(), &format!("max_steps: 1\ntask: {task}"));
            let found = bench(&order, 0, Instant::now(), &mut Deaf);
            assert!(found.is_ok_and(|found| found.loss_last.is_finite()), "{task}");
        }
    }

    #[test]
    fn a_run_that_only_warms_up_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let order = order(folder.path(), "max_steps: 2");
        let error = bench(&order, 2, Instant::now(), &mut Deaf).unwrap_err();
        assert!(error.to_string().contains("2 of them warm up"), "{error}");
    }
}
