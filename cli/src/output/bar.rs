//! Bars: how full something is, and how far something got.

use std::collections::BTreeMap;

use fleetune_shared::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Mode, Output};

/// `███▌░░░░` for a value from 0 to 1.
pub(crate) fn bar(part: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let part = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (part * width as f64 * 8.0).round() as usize;
    let (full, rest) = (eighths / 8, eighths % 8);
    let mut text = "█".repeat(full) + EIGHTHS[rest];
    let drawn = full + usize::from(rest > 0);
    text += &"░".repeat(width - drawn);
    text
}

/// What is counted.
#[derive(Clone, Copy)]
enum Unit {
    Steps,
    Bytes,
}

/// How far something got: a bar on a terminal, a line now and then elsewhere.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    output: Output,
    name: String,
    told: std::time::Instant,
    told_done: Option<u64>,
    unit: Unit,
}

/// Between two lines where nobody watches.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

impl Progress {
    /// Counts steps.
    pub(crate) fn steps(output: &Output, name: &str) -> Self {
        Self::new(output, name, Unit::Steps)
    }

    /// Counts bytes.
    pub(crate) fn bytes(output: &Output, name: &str) -> Self {
        Self::new(output, name, Unit::Bytes)
    }

    fn new(output: &Output, name: &str, unit: Unit) -> Self {
        let template = match unit {
            Unit::Steps => "{prefix} {bar:24.cyan} {pos:>4}/{len} {msg}",
            Unit::Bytes => "{prefix} {bar:24.cyan} {binary_bytes}/{binary_total_bytes} {msg}",
        };
        let bar = output.is_watched().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("█▉▊▋▌▍▎▏░");
            bar.set_style(style);
            bar.set_prefix(name.to_owned());
            bar
        });
        let told = std::time::Instant::now();
        Self { bar, output: *output, name: name.to_owned(), told, told_done: None, unit }
    }

    /// Where it stands now.
    pub(crate) fn at(&mut self, done: u64, total: u64, message: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(message.to_owned());
            }
            None if self.output.mode == Mode::Table
                && self.told_done != Some(done)
                && (self.told.elapsed() >= PAUSE || done == total) =>
            {
                self.told = std::time::Instant::now();
                self.told_done = Some(done);
                let line = match self.unit {
                    Unit::Steps => format!("{} {done}/{total} {message}", self.name),
                    Unit::Bytes => {
                        format!("{} {} of {}", self.name, ByteSize(done), ByteSize(total))
                    }
                };
                self.output.note(line.trim_end());
            }
            None => {}
        }
    }

    /// Says something above the bar.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.note(text)),
            None => self.output.note(text),
        }
    }

    /// Prints to stdout without tearing the bar.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Several bars at once, one per line; a line at every quarter where nobody watches.
pub(crate) struct Bars {
    bars: MultiProgress,
    known: BTreeMap<u64, (ProgressBar, u64)>,
    watched: bool,
    output: Output,
}

impl Bars {
    pub(crate) fn new(output: &Output) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { bars, known: BTreeMap::new(), watched: output.is_watched(), output: *output }
    }

    /// Where the bar called `key` stands now.
    pub(crate) fn at(&mut self, key: u64, name: &str, done: u64, total: u64, message: &str) {
        let bars = &self.bars;
        let (bar, quarters) = self.known.entry(key).or_insert_with(|| {
            let style =
                ProgressStyle::with_template("  {prefix} {bar:24.cyan} {pos:>4}/{len} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("█▉▊▋▌▍▎▏░");
            (bars.add(ProgressBar::new(0).with_style(style)), 0)
        });
        if self.watched {
            bar.set_prefix(name.to_owned());
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(message.to_owned());
        } else if done > 0
            && done * 4 / total.max(1) >= *quarters
            && self.output.mode == Mode::Table
        {
            *quarters = done * 4 / total.max(1) + 1;
            self.output.note(&format!("  {name} {done:>4}/{total} {message}"));
        }
    }

    /// Says something above the bars.
    pub(crate) fn note(&self, text: &str) {
        self.bars.suspend(|| self.output.note(text));
    }

    /// Leaves the bars as they are and goes on below them.
    pub(crate) fn leave(&self) {
        for (bar, _) in self.known.values() {
            bar.abandon();
        }
        if self.watched {
            // The cursor stands behind the last bar.
            self.output.note("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn a_bar_is_always_as_wide_as_told() {
        assert_eq!(bar(0.0, 4), "░░░░");
        assert_eq!(bar(0.5, 4), "██░░");
        assert_eq!(bar(0.4375, 4), "█▊░░");
        assert_eq!(bar(7.0, 4), "████");
        assert_eq!(bar(f64::NAN, 2), "░░");
    }
}
