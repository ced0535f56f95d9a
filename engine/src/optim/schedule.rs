//! The learning rate over the run, step for step as in transformers' `optimization.py`.

use std::f64::consts::PI;

use fleetune_shared::recipe::{self, RampType, ScheduleArgs, ScheduleName, Warmup};

/// A learning rate for each step of a run whose length is known.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    name: ScheduleName,
    peak: f64,
    warmup: u64,
    total: u64,
    args: ScheduleArgs,
}

impl Schedule {
    /// Of `settings`, over `total` steps. A warm-up ratio rounds up, as `TrainingArguments.get_warmup_steps`.
    #[must_use]
    pub fn new(settings: &recipe::Schedule, total: u64) -> Self {
        let warmup = match settings.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => (total as f64 * ratio).ceil() as u64,
        };
        let recipe::Schedule { name, learning_rate, args, .. } = *settings;
        Self { name, peak: learning_rate, warmup, total, args }
    }

    /// The rate of step `step`, counted from 0.
    #[must_use]
    pub fn rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        let args = &self.args;
        let rises = step < self.warmup;
        match self.name {
            ScheduleName::Constant => 1.0,
            ScheduleName::WarmupStableDecay => self.warmup_stable_decay(step),
            _ if rises => step as f64 / self.warmup as f64,
            ScheduleName::ConstantWithWarmup => 1.0,
            ScheduleName::Linear => (1.0 - self.progress(step)).max(0.0),
            ScheduleName::Cosine => self.cosine(step, 0.0),
            ScheduleName::CosineWithMinLr => {
                let floor = args.min_lr.map(|rate| rate / self.peak).or(args.min_lr_rate);
                self.cosine(step, floor.unwrap_or(0.0))
            }
            ScheduleName::CosineWithRestarts => match self.progress(step) {
                progress if progress >= 1.0 => 0.0,
                progress => half_cosine((args.num_cycles.unwrap_or(1.0) * progress).fract()),
            },
            ScheduleName::Polynomial => {
                let end = args.lr_end.unwrap_or(1e-7) / self.peak;
                let left = (1.0 - self.progress(step)).max(0.0);
                (1.0 - end) * left.powf(args.power.unwrap_or(1.0)) + end
            }
            ScheduleName::InverseSqrt => {
                let warmup = self.warmup as f64;
                let unset = if self.warmup > 0 { warmup } else { 10_000.0 };
                let scale = args.timescale.unwrap_or(unset);
                ((step as f64 - warmup + scale) / scale).sqrt().recip()
            }
        }
    }

    /// How much of the decay is behind: 0 at the end of the warm-up, 1 at the end of the run.
    fn progress(&self, step: u64) -> f64 {
        // A warm-up as long as the run leaves nothing to decay over.
        let decay = self.total.saturating_sub(self.warmup).max(1) as f64;
        if self.warmup > self.total {
            return 1.0;
        }
        (step as f64 - self.warmup as f64) / decay
    }

    fn cosine(&self, step: u64, floor: f64) -> f64 {
        let waves = 2.0 * self.args.num_cycles.unwrap_or(0.5) * self.progress(step);
        (half_cosine(waves) * (1.0 - floor) + floor).max(0.0)
    }

    fn warmup_stable_decay(&self, step: u64) -> f64 {
        let args = &self.args;
        let floor = args.min_lr_ratio.unwrap_or(0.0);
        let above_floor = |factor: f64| (factor * (1.0 - floor) + floor).max(0.0);
        if step < self.warmup {
            let progress = step as f64 / self.warmup as f64;
            return above_floor(match args.warmup_type.unwrap_or(RampType::Linear) {
                RampType::Linear => progress,
                RampType::Cosine => 1.0 - half_cosine(progress),
                RampType::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
            });
        }
        let decay = args.num_decay_steps.unwrap_or(0);
        let rest = self.total.saturating_sub(self.warmup + decay);
        let stable = args.num_stable_steps.unwrap_or(rest);
        let step = step - self.warmup;
        if step < stable {
            return 1.0;
        }
        if step >= stable + decay {
            return floor;
        }
        let progress = (step - stable) as f64 / decay as f64;
        above_floor(match args.decay_type.unwrap_or(RampType::Cosine) {
            RampType::Linear => 1.0 - progress,
            RampType::Cosine => half_cosine(2.0 * args.num_cycles.unwrap_or(0.5) * progress),
            RampType::OneMinusSqrt => 1.0 - progress.sqrt(),
        })
    }
}

/// From 1 at 0 to 0 at 1, and on.
fn half_cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn schedule(name: ScheduleName, warmup: Warmup, total: u64) -> Schedule {
        with(name, warmup, total, ScheduleArgs::default())
    }

    fn with(name: ScheduleName, warmup: Warmup, total: u64, args: ScheduleArgs) -> Schedule {
        Schedule::new(&recipe::Schedule { name, learning_rate: 1.0, warmup, args }, total)
    }

    #[test]
    fn every_step_is_that_of_transformers() {
        use ScheduleName::*;
        let text = include_str!("../../../tests/fixtures/schedules.json");
        let curves: BTreeMap<String, Vec<f64>> = serde_json::from_str(text).unwrap();
        let none = ScheduleArgs::default();
        let decay = ScheduleArgs { num_decay_steps: Some(20), ..none };
        let runs = [
            ("constant", Constant, none),
            ("constant_with_warmup", ConstantWithWarmup, none),
            ("linear", Linear, none),
            ("cosine", Cosine, none),
            ("cosine_no_warmup", Cosine, none),
            ("cosine_half_cycles_1.0", Cosine, ScheduleArgs { num_cycles: Some(1.0), ..none }),
            (
                "cosine_with_restarts_3",
                CosineWithRestarts,
                ScheduleArgs { num_cycles: Some(3.0), ..none },
            ),
            ("cosine_with_min_lr_0.1", CosineWithMinLr, ScheduleArgs { min_lr: Some(0.1), ..none }),
            (
                "polynomial_p2_end0.1",
                Polynomial,
                ScheduleArgs { power: Some(2.0), lr_end: Some(0.1), ..none },
            ),
            ("inverse_sqrt", InverseSqrt, none),
            ("wsd_decay20_cosine", WarmupStableDecay, decay),
            (
                "wsd_decay20_linear",
                WarmupStableDecay,
                ScheduleArgs { decay_type: Some(RampType::Linear), ..decay },
            ),
            (
                "wsd_decay20_1-sqrt",
                WarmupStableDecay,
                ScheduleArgs { decay_type: Some(RampType::OneMinusSqrt), ..decay },
            ),
            (
                "wsd_decay20_min0.1_warmupcosine",
                WarmupStableDecay,
                ScheduleArgs {
                    warmup_type: Some(RampType::Cosine),
                    min_lr_ratio: Some(0.1),
                    ..decay
                },
            ),
        ];
        assert_eq!(curves.len(), runs.len(), "every curve is looked at");
        for (key, name, args) in runs {
            let warmup = if key == "cosine_no_warmup" { 0 } else { 10 };
            let ours = with(name, Warmup::Steps(warmup), 100, args);
            assert_eq!(curves[key].len(), 105, "five steps beyond the end are part of the fixture");
            for (step, expected) in curves[key].iter().enumerate() {
                let found = ours.rate(step as u64);
                assert!((found - expected).abs() < 1e-7, "{key} step {step}: {found} ≠ {expected}");
            }
        }
    }

    #[test]
    fn a_floor_may_be_a_rate_or_a_fraction() {
        let last = |args| {
            let settings = recipe::Schedule {
                name: ScheduleName::CosineWithMinLr,
                learning_rate: 2e-4,
                warmup: Warmup::Steps(0),
                args,
            };
            Schedule::new(&settings, 100).rate(100)
        };
        let none = ScheduleArgs::default();
        assert!((last(ScheduleArgs { min_lr: Some(5e-5), ..none }) - 5e-5).abs() < 1e-18);
        assert!((last(ScheduleArgs { min_lr_rate: Some(0.25), ..none }) - 5e-5).abs() < 1e-18);
    }

    #[test]
    fn a_warmup_ratio_rounds_up() {
        let ours = schedule(ScheduleName::ConstantWithWarmup, Warmup::Ratio(0.03), 101);
        assert_eq!(ours.rate(3), 0.75);
        assert_eq!(ours.rate(4), 1.0);
    }

    #[test]
    fn a_warmup_longer_than_the_run_never_divides_by_zero() {
        for name in [ScheduleName::Linear, ScheduleName::Polynomial, ScheduleName::Cosine] {
            let ours = schedule(name, Warmup::Steps(20), 10);
            assert_eq!(ours.rate(9), 0.45);
            assert!(ours.rate(20) < 1e-6, "{name:?}");
        }
        assert!(schedule(ScheduleName::WarmupStableDecay, Warmup::Steps(20), 10).rate(20) < 1e-6);
    }
}
