//! `fleetune jobs`: every job on one line.

use fleetune_shared::view::{JobPhase, JobView};
use serde_json::Value;

use super::table::Field;
use super::{Colour, Show, Style, Table, job, plain_line, seconds, shortened, since, time};

/// Jobs, as they are listed.
pub(crate) struct JobList<'a> {
    pub(crate) jobs: &'a [JobView],
    pub(crate) now_ms: u64,
}

impl<'a> JobList<'a> {
    pub(crate) fn new(jobs: &'a [JobView]) -> Self {
        Self { jobs, now_ms: time::now_ms() }
    }
}

/// The colour of a phase.
pub(super) fn colour(phase: JobPhase) -> Colour {
    match phase {
        JobPhase::Queued => Colour::Waiting,
        JobPhase::Assigned | JobPhase::Running => Colour::Active,
        JobPhase::Succeeded => Colour::Good,
        JobPhase::Failed => Colour::Bad,
        JobPhase::Cancelled => Colour::Quiet,
    }
}

/// `40/120`, or what is known of it.
pub(crate) fn steps(job: &JobView) -> String {
    if job.kind != "train" {
        return "–".into();
    }
    let done = job.summary.as_ref().map(|s| s.steps).or(job.latest.as_ref().map(|m| m.step));
    match (done, job.steps_total) {
        (Some(done), Some(total)) => format!("{done}/{total}"),
        (None, Some(total)) => format!("0/{total}"),
        (Some(done), None) => done.to_string(),
        (None, None) => "–".into(),
    }
}

/// The newest loss.
pub(crate) fn loss(job: &JobView) -> Option<f64> {
    if job.kind != "train" {
        return None;
    }
    job.latest.as_ref().map(|m| m.loss).or(job.summary.as_ref().map(|s| s.loss_last))
}

pub(super) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".into(), |v| format!("{v:.digits$}"))
}

fn remark(job: &JobView, now_ms: u64) -> String {
    match job.phase {
        JobPhase::Queued => {
            let waiting = job.waiting.clone().unwrap_or_default();
            match job.expected_start_ms {
                Some(ms) if ms > now_ms => format!("in {}: {waiting}", since(now_ms, ms)),
                _ => waiting,
            }
        }
        JobPhase::Failed => job.failure.as_ref().map(|f| f.message.clone()).unwrap_or_default(),
        _ => job.sweep_keys.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "),
    }
}

impl Show for JobList<'_> {
    fn table(&self, style: Style) -> String {
        let columns = [
            "job", "?name", "phase", "agent", ">steps", ">loss", "?>tok/s", "?>memory", "?>time",
            "?",
        ];
        let mut table = Table::new(style, &columns);
        for job in self.jobs {
            let speed = (job.phase == JobPhase::Running)
                .then(|| job.latest.as_ref().map(|m| m.tokens_per_second))
                .flatten()
                .or(job.summary.as_ref().map(|s| s.tokens_per_second).filter(|s| *s > 0.0));
            let time = match (job.started_ms, job.ended_ms) {
                (Some(from), Some(to)) => seconds(to.saturating_sub(from) as f64 / 1000.0),
                (Some(from), None) => since(from, self.now_ms),
                _ => since(job.submitted_ms, job.ended_ms.unwrap_or(self.now_ms)),
            };
            table.row([
                job.id.to_string().into(),
                shortened(&plain_line(&job.name), 28).into(),
                Field::new(job.phase.as_str(), colour(job.phase)),
                job.agent.as_ref().map_or("–", |a| a.as_str()).into(),
                steps(job).into(),
                number(loss(job), 4).into(),
                number(speed, 0).into(),
                job.estimate.total().to_string().into(),
                time.into(),
                Field::new(shortened(&plain_line(&remark(job, self.now_ms)), 100), Colour::Quiet),
            ]);
        }
        table.text("no jobs; `fleetune submit RECIPE` sends one")
    }

    fn json(&self) -> Value {
        self.jobs.iter().map(job::json).collect()
    }

    fn quiet(&self) -> String {
        self.jobs.iter().map(|job| job.id.to_string()).collect::<Vec<_>>().join("\n")
    }
}
