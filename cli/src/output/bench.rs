//! `fleetune bench`: what whole steps took.

use fleetune_engine::bench::Bench;
use fleetune_shared::ByteSize;
use fleetune_shared::recipe::RecipeFile;
use serde_json::{Value, json};

use super::{Colour, Show, Style, plain_line};

/// A bench and the recipe it ran.
pub(crate) struct Benched<'a> {
    pub(crate) recipe: &'a RecipeFile,
    pub(crate) found: &'a Bench,
}

impl Benched<'_> {
    fn estimate(&self) -> ByteSize {
        self.found.estimate.map(|estimate| estimate.total()).unwrap_or_default()
    }
}

impl Show for Benched<'_> {
    fn table(&self, style: Style) -> String {
        let found = self.found;
        let line = |name: &str, text: String| {
            format!("  {} {text}", style.paint(Colour::Quiet, &format!("{name:<11}")))
        };
        let resident =
            found.rss_bytes_peak.map_or_else(String::new, |bytes| format!(", {bytes} resident"));
        let model = self.recipe.model_name_or_path.as_deref().unwrap_or_default();
        [
            style.paint(Colour::Strong, &plain_line(model)),
            line(
                "speed",
                format!(
                    "{:.0} tokens/s, {:.0} at best; {:.0} supervised tokens/s",
                    found.tokens_per_second,
                    found.tokens_per_second_best,
                    found.supervised_tokens_per_second
                ),
            ),
            line(
                "step",
                format!(
                    "{:.2} s, the median of {} after {} to warm up; {:.1} ms in all waiting for rows",
                    found.step_seconds,
                    found.steps,
                    found.warm,
                    1e3 * found.seconds_waited_for_data
                ),
            ),
            line(
                "first step",
                format!(
                    "done {:.2} s after the start, begun after {:.2} s",
                    found.seconds_to_first_step, found.seconds_to_start
                ),
            ),
            line(
                "memory",
                format!(
                    "{} of heap at its peak{resident}; {} estimated",
                    found.heap_bytes_peak,
                    self.estimate()
                ),
            ),
            line(
                "learned",
                format!(
                    "{} parameters, loss {:.4} → {:.4}",
                    found.trainable_parameters, found.loss_first, found.loss_last
                ),
            ),
        ]
        .join("\n")
    }

    fn json(&self) -> Value {
        let mut value = serde_json::to_value(self.found).unwrap_or_default();
        value["estimate_bytes"] = self.estimate().0.into();
        value["recipe"] = json!(self.recipe);
        value
    }

    fn quiet(&self) -> String {
        format!("{:.1}", self.found.tokens_per_second)
    }
}

#[cfg(test)]
mod tests {
    use fleetune_shared::Estimate;

    use super::*;

    fn found() -> Bench {
        Bench {
            steps: 5,
            warm: 1,
            tokens_per_second: 218.4,
            tokens_per_second_best: 221.0,
            supervised_tokens_per_second: 217.9,
            step_seconds: 9.38,
            seconds_to_start: 6.1,
            seconds_to_first_step: 15.6,
            seconds_waited_for_data: 0.002,
            heap_bytes_peak: ByteSize(1900 << 20),
            rss_bytes_peak: Some(ByteSize(2000 << 20)),
            estimate: Some(Estimate { weights: ByteSize(1 << 30), ..Estimate::default() }),
            trainable_parameters: 4_884_480,
            loss_first: 2.5,
            loss_last: 1.25,
        }
    }

    #[test]
    fn a_bench_is_told_in_every_mode() {
        let recipe =
            RecipeFile { model_name_or_path: Some("model.gguf".into()), ..RecipeFile::default() };
        let found = found();
        let benched = Benched { recipe: &recipe, found: &found };
        insta::assert_snapshot!(benched.table(Style::PLAIN), @r"
        model.gguf
          speed       218 tokens/s, 221 at best; 218 supervised tokens/s
          step        9.38 s, the median of 5 after 1 to warm up; 2.0 ms in all waiting for rows
          first step  done 15.60 s after the start, begun after 6.10 s
          memory      1.86 GiB of heap at its peak, 1.95 GiB resident; 1.00 GiB estimated
          learned     4884480 parameters, loss 2.5000 → 1.2500
        ");
        let json = benched.json();
        assert_eq!(json["tokens_per_second"], 218.4);
        assert_eq!(json["estimate_bytes"], 1u64 << 30);
        assert_eq!(json["recipe"]["model_name_or_path"], "model.gguf");
        assert_eq!(benched.quiet(), "218.4");
    }
}
