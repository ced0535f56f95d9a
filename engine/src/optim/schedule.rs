//! The learning rate over the run, step for step as in transformers' `optimization.py`.

use std::f64::consts::PI;

use fleetune_shared::recipe::{self, ScheduleName, Warmup};

/// A learning rate for each step of a run whose length is known.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    name: ScheduleName,
    peak: f64,
    warmup: u64,
    total: u64,
}

impl Schedule {
    /// Of `settings`, over `total` steps. A warm-up ratio rounds up, as `TrainingArguments.get_warmup_steps`.
    #[must_use]
    pub fn new(settings: &recipe::Schedule, total: u64) -> Self {
        let warmup = match settings.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => (total as f64 * ratio).ceil() as u64,
        };
        Self { name: settings.name, peak: settings.learning_rate, warmup, total }
    }

    /// The rate of step `step`, counted from 0.
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if self.name == ScheduleName::Constant {
            return 1.0;
        }
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        // A warm-up as long as the run leaves nothing to decay over.
        let decay = self.total.saturating_sub(self.warmup).max(1) as f64;
        match self.name {
            ScheduleName::Constant | ScheduleName::ConstantWithWarmup => 1.0,
            ScheduleName::Linear => (self.total as f64 - step as f64).max(0.0) / decay,
            ScheduleName::Cosine => {
                let progress = (step - self.warmup) as f64 / decay;
                (0.5 * (1.0 + (PI * progress).cos())).max(0.0)
            }
            other => unreachable!("{other:?} is refused before a run"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn schedule(name: ScheduleName, warmup: Warmup, total: u64) -> Schedule {
        let args = recipe::ScheduleArgs::default();
        Schedule::new(&recipe::Schedule { name, learning_rate: 1.0, warmup, args }, total)
    }

    #[test]
    fn every_step_is_that_of_transformers() {
        let text = include_str!("../../../tests/fixtures/schedules.json");
        let curves: BTreeMap<String, Vec<f64>> = serde_json::from_str(text).unwrap();
        for (key, name, warmup) in [
            ("constant", ScheduleName::Constant, 10),
            ("constant_with_warmup", ScheduleName::ConstantWithWarmup, 10),
            ("linear", ScheduleName::Linear, 10),
            ("cosine", ScheduleName::Cosine, 10),
            ("cosine_no_warmup", ScheduleName::Cosine, 0),
        ] {
            let ours = schedule(name, Warmup::Steps(warmup), 100);
            assert_eq!(curves[key].len(), 105, "five steps beyond the end are part of the fixture");
            for (step, expected) in curves[key].iter().enumerate() {
                let found = ours.rate(step as u64);
                assert!((found - expected).abs() < 1e-7, "{key} step {step}: {found} ≠ {expected}");
            }
        }
    }

    #[test]
    fn a_warmup_ratio_rounds_up() {
        let ours = schedule(ScheduleName::ConstantWithWarmup, Warmup::Ratio(0.03), 101);
        assert_eq!(ours.rate(3), 0.75);
        assert_eq!(ours.rate(4), 1.0);
    }

    #[test]
    fn a_warmup_longer_than_the_run_never_divides_by_zero() {
        let ours = schedule(ScheduleName::Linear, Warmup::Steps(20), 10);
        assert_eq!(ours.rate(9), 0.45);
        assert_eq!(ours.rate(20), 0.0);
    }
}
