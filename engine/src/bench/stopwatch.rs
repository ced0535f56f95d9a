//! An observer that notes when each step ended.

use std::time::Instant;

use fleetune_shared::{ByteSize, StepMetrics, TrainerEvent};

use super::Bench;
use crate::memory;
use crate::train::Observer;

/// Times a run and passes on what it hears.
pub(super) struct Stopwatch<'a> {
    /// When the process was started.
    begun: Instant,
    /// When the first step began.
    started: Option<Instant>,
    laps: Vec<Lap>,
    heap_bytes_peak: ByteSize,
    rss_bytes_peak: Option<ByteSize>,
    next: &'a mut dyn Observer,
}

/// One step.
struct Lap {
    seconds: f64,
    end: Instant,
    tokens_per_second: f64,
    supervised_tokens: u64,
}

impl<'a> Stopwatch<'a> {
    pub(super) fn new(begun: Instant, next: &'a mut dyn Observer) -> Self {
        Self {
            begun,
            started: None,
            laps: Vec::new(),
            heap_bytes_peak: ByteSize(0),
            rss_bytes_peak: None,
            next,
        }
    }

    fn lap(&mut self, metrics: &StepMetrics) {
        let end = Instant::now();
        let before = self.laps.last().map(|lap| lap.end).or(self.started).unwrap_or(self.begun);
        self.laps.push(Lap {
            seconds: (end - before).as_secs_f64(),
            end,
            tokens_per_second: metrics.tokens_per_second,
            supervised_tokens: metrics.supervised_tokens,
        });
        // What writing the result takes afterwards is no step's.
        self.heap_bytes_peak = memory::peak();
        self.rss_bytes_peak = memory::resident_peak();
    }

    /// The steps after the first `warm`; nothing where there is none.
    pub(super) fn measured(&self, warm: u64) -> Option<Bench> {
        let measured = self.laps.get(usize::try_from(warm).ok()?..)?;
        let since = |at: Instant| (at - self.begun).as_secs_f64();
        let speeds = || measured.iter().map(|lap| lap.tokens_per_second);
        let supervised = measured.iter().map(|lap| lap.supervised_tokens as f64 / lap.seconds);
        Some(Bench {
            steps: measured.len() as u64,
            warm,
            tokens_per_second: median(speeds())?,
            tokens_per_second_best: speeds().fold(0.0, f64::max),
            supervised_tokens_per_second: median(supervised)?,
            step_seconds: median(measured.iter().map(|lap| lap.seconds))?,
            seconds_to_start: since(self.started?),
            seconds_to_first_step: since(self.laps.first()?.end),
            heap_bytes_peak: self.heap_bytes_peak,
            rss_bytes_peak: self.rss_bytes_peak,
            estimate: None,
            trainable_parameters: 0,
            loss_first: 0.0,
            loss_last: 0.0,
            seconds_waited_for_data: 0.0,
        })
    }
}

impl Observer for Stopwatch<'_> {
    fn event(&mut self, event: TrainerEvent) {
        match &event {
            TrainerEvent::Started { .. } => self.started = Some(Instant::now()),
            TrainerEvent::Step(metrics) => self.lap(metrics),
            _ => {}
        }
        self.next.event(event);
    }

    fn stop_requested(&self) -> bool {
        self.next.stop_requested()
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) =
        (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
