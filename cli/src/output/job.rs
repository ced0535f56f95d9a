//! `fleetune job show`: one job, whole.

use fleetune_shared::Ratio;
use fleetune_shared::view::{JobPhase, JobView};
use serde_json::{Value, json};

use super::{Colour, Show, Style, history, iso, jobs, plain, plain_line, rung, seconds, sparkline};

/// A job with its metrics.
pub(crate) struct JobCard<'a> {
    pub(crate) job: &'a JobView,
    pub(crate) losses: &'a [f64],
}

impl<'a> JobCard<'a> {
    pub(crate) fn new(job: &'a JobView, losses: &'a [f64]) -> Self {
        Self { job, losses }
    }
}

/// A job for scripts: times in ISO-8601, spans in seconds, the recipe as an object.
pub(super) fn json(job: &JobView) -> Value {
    let mut value = serde_json::to_value(job).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        for (key, ms) in [
            ("submitted", Some(job.submitted_ms)),
            ("started", job.started_ms),
            ("ended", job.ended_ms),
            ("expected_start", job.expected_start_ms),
        ] {
            map.shift_remove(&format!("{key}_ms"));
            map.insert(key.into(), ms.map(iso).into());
        }
        let span = job.started_ms.zip(job.ended_ms);
        map.insert(
            "seconds".into(),
            span.map(|(from, to)| to.saturating_sub(from) as f64 / 1000.0).into(),
        );
        map.shift_remove("recipe_json");
        map.insert("recipe".into(), serde_json::from_str(&job.recipe_json).unwrap_or_default());
        map.insert("vram_bytes_needed".into(), job.estimate.total().0.into());
        for (value, record) in
            map["attempts"].as_array_mut().into_iter().flatten().zip(&job.attempts)
        {
            value["family"] = record.family.name().into();
            value["correction"] = record.correction.as_f64().into();
            value["error"] = record.error().map(Ratio::as_f64).into();
        }
        map.insert("loss".into(), jobs::loss(job).into());
    }
    value
}

impl Show for JobCard<'_> {
    fn table(&self, style: Style) -> String {
        let job = self.job;
        let mut lines = Vec::new();
        let phase = style.paint(jobs::colour(job.phase), job.phase.as_str());
        lines.push(format!(
            "{} {}  {phase}",
            style.paint(Colour::Strong, &format!("job {}", job.id)),
            plain_line(&job.name)
        ));
        let mut line = |name: &str, text: String| {
            if !text.is_empty() {
                lines.push(format!(
                    "  {} {text}",
                    style.paint(Colour::Quiet, &format!("{name:<12}"))
                ));
            }
        };
        if job.phase == JobPhase::Queued {
            line("waits", job.waiting.as_deref().map(plain_line).unwrap_or_default());
        }
        if let Some(failure) = &job.failure {
            line("failure", format!("attempt {}: {}", failure.attempt, plain(&failure.message)));
        }
        if let Some(agent) = &job.agent {
            line("agent", format!("{agent}, attempt {}", job.attempt));
        }
        if let Some(sweep) = &job.sweep {
            let keys: Vec<String> =
                job.sweep_keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            line("sweep", plain_line(&format!("{sweep}: {}", keys.join(" "))));
        }
        if job.priority != 0 {
            line("priority", job.priority.to_string());
        }
        if job.kind == "train" {
            line("steps", jobs::steps(job));
        }
        if let (Some(loss), true) = (jobs::loss(job), job.kind == "train") {
            let first = self.losses.first().map_or_else(String::new, |l| format!("{l:.4} → "));
            let curve = sparkline(self.losses, 40);
            line("loss", format!("{first}{loss:.4}  {}", style.paint(Colour::Active, &curve)));
        }
        if let Some(step) = job.checkpoint_step.filter(|_| !job.phase.is_final()) {
            line("checkpoint", format!("step {step}"));
        }
        let needed = job.estimate.total();
        match &job.summary {
            Some(summary) => {
                line("memory", format!("{needed} estimated, {} peak", summary.memory_bytes_peak));
                if job.kind == "train" {
                    line(
                        "training",
                        format!(
                            "{} in {} at {:.0} tokens/s, {} rows ({} dropped, {} truncated)",
                            counted(summary.tokens, "token"),
                            seconds(summary.seconds),
                            summary.tokens_per_second,
                            summary.rows,
                            summary.rows_dropped,
                            summary.rows_truncated
                        ),
                    );
                    line(
                        "first step",
                        format!("{} after start", seconds(summary.seconds_to_first_step)),
                    );
                    line("trained", counted(summary.trainable_parameters, "parameter"));
                }
                if let Some(difference) = summary.merge_logit_difference {
                    line("verified", format!("logits differ by at most {difference:.1e}"));
                }
            }
            None => line("memory", format!("{needed} estimated")),
        }
        if let Some(tried) = &job.rung {
            line("tried", rung::rung(tried));
        }
        for record in &job.attempts {
            line(&format!("attempt {}", record.attempt), history::attempt(record));
        }
        line("submitted", iso(job.submitted_ms));
        if let Some(started) = job.started_ms {
            line("started", iso(started));
        }
        if let Some(ended) = job.ended_ms {
            let from = job.started_ms.unwrap_or(job.submitted_ms);
            let took = seconds(ended.saturating_sub(from) as f64 / 1000.0);
            line("ended", format!("{}, after {took}", iso(ended)));
        }
        if let Some(artifact) = &job.artifact {
            line(
                "result",
                format!(
                    "{} files, {}; `fleetune adapters pull {} --out DIR`",
                    artifact.files.len(),
                    artifact.bytes(),
                    job.id
                ),
            );
        }
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let mut value = json(self.job);
        value["losses"] = json!(self.losses);
        value
    }

    fn quiet(&self) -> String {
        self.job.id.to_string()
    }
}

fn counted(n: u64, what: &str) -> String {
    let n_text = match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.1} G", n as f64 / 1e9),
    };
    format!("{n_text} {what}{}", if n == 1 { "" } else { "s" })
}
