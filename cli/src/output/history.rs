//! `fleetune estimate --history`: promises against what was taken, and what was learned from the difference.

use fleetune_shared::view::HistoryView;
use fleetune_shared::{Accuracy, AttemptEnd, AttemptRecord, PeakSource, Ratio};
use serde_json::{Value, json};

use super::{Colour, Field, Show, Style, Table};

/// What the fleet has learned of its estimates.
pub(crate) struct Learned<'a>(pub(crate) &'a HistoryView);

/// A ratio in per cent.
pub(super) fn percent(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(|| "–".into(), |ratio| format!("{:.1} %", ratio.as_f64() * 100.0))
}

/// The part of attempts that ran out of memory, in per cent.
fn out_of_memory(accuracy: &Accuracy) -> String {
    let rate = accuracy.out_of_memory_rate();
    rate.map_or_else(|| "–".into(), |rate| format!("{:.1} %", rate * 100.0))
}

/// An accuracy for scripts: parts of one, and memory × time in GiB·h.
pub(super) fn accuracy(accuracy: &Accuracy) -> Value {
    json!({
        "attempts": accuracy.attempts,
        "out_of_memory": accuracy.out_of_memory,
        "out_of_memory_rate": accuracy.out_of_memory_rate(),
        "compared": accuracy.compared,
        "error_median": accuracy.error_median.map(Ratio::as_f64),
        "error_p90": accuracy.error_p90.map(Ratio::as_f64),
        "wasted_gib_h": accuracy.wasted_gib_h(),
    })
}

/// One attempt that has ended, in a line.
pub(super) fn attempt(record: &AttemptRecord) -> String {
    let end = match record.end {
        AttemptEnd::Finished => "finished",
        AttemptEnd::OutOfMemory => "out of memory",
        AttemptEnd::Failed => "failed",
        AttemptEnd::Released => "given back",
    };
    let corrected = if record.correction == Ratio::ONE {
        String::new()
    } else {
        format!(" × {}", record.correction)
    };
    let by = match record.peak_source {
        PeakSource::Trainer => "",
        PeakSource::Driver => " by the driver's account",
    };
    let peak =
        record.vram_bytes_peak.map_or_else(String::new, |peak| format!(", {peak} at its peak{by}"));
    format!(
        "{end} on {}: {}{corrected} estimated, {} promised{peak}",
        record.agent, record.vram_bytes_estimated, record.vram_bytes_promised
    )
}

impl Show for Learned<'_> {
    fn table(&self, style: Style) -> String {
        let HistoryView { fleet, agents, corrections } = self.0;
        let line = |name: &str, text: String| {
            format!("{} {text}", style.paint(Colour::Quiet, &format!("{name:<16}")))
        };
        let summary = [
            line("attempts", fleet.attempts.to_string()),
            line("out of memory", format!("{}, {}", fleet.out_of_memory, out_of_memory(fleet))),
            line(
                "error",
                format!(
                    "median {}, nine of ten within {}, of {} that can be compared",
                    percent(fleet.error_median),
                    percent(fleet.error_p90),
                    fleet.compared
                ),
            ),
            line("wasted", format!("{:.2} GiB·h promised and not used", fleet.wasted_gib_h())),
        ];
        let columns = ["agent", ">attempts", ">out of memory", ">error", ">p90", ">wasted"];
        let mut by_agent = Table::new(style, &columns);
        for history in agents {
            let accuracy = &history.accuracy;
            by_agent.row([
                history.agent.as_str().into(),
                accuracy.attempts.to_string().into(),
                out_of_memory(accuracy).into(),
                percent(accuracy.error_median).into(),
                percent(accuracy.error_p90).into(),
                format!("{:.2} GiB·h", accuracy.wasted_gib_h()).into(),
            ]);
        }
        let columns = [
            "cards",
            "method",
            "dtype",
            "?attention",
            ">tokens",
            "?measured by",
            "?>runs",
            "?>median",
            "?>most",
            ">estimates ×",
        ];
        let mut learned = Table::new(style, &columns);
        for one in corrections {
            learned.row([
                one.family.to_string().into(),
                one.method.as_str().into(),
                one.dtype.as_str().into(),
                one.attention.as_str().into(),
                format!("≤ {}", one.tokens_max).into(),
                one.peak_source.word().into(),
                one.samples.to_string().into(),
                one.ratio_median.to_string().into(),
                one.ratio_most.to_string().into(),
                Field::new(one.correction.to_string(), Colour::Strong),
            ]);
        }
        format!(
            "{}\n\n{}\n\n{}",
            summary.join("\n"),
            by_agent.text("no attempt has ended yet"),
            learned.text("nothing learned yet: estimates are taken as they are")
        )
    }

    fn json(&self) -> Value {
        let HistoryView { fleet, agents, corrections } = self.0;
        let agents = agents.iter().map(
            |history| json!({"agent": history.agent, "accuracy": accuracy(&history.accuracy)}),
        );
        let corrections = corrections.iter().map(|one| {
            json!({
                "card": one.family.name(),
                "device": one.family.device,
                "method": one.method,
                "dtype": one.dtype,
                "attention": one.attention,
                "tokens_max": one.tokens_max,
                "peak_source": one.peak_source,
                "samples": one.samples,
                "ratio_median": one.ratio_median.as_f64(),
                "ratio_most": one.ratio_most.as_f64(),
                "correction": one.correction.as_f64(),
            })
        });
        json!({
            "fleet": accuracy(fleet),
            "agents": agents.collect::<Vec<_>>(),
            "corrections": corrections.collect::<Vec<_>>(),
        })
    }

    fn quiet(&self) -> String {
        self.0.fleet.error_p90.map(|ratio| ratio.as_f64().to_string()).unwrap_or_default()
    }
}
