//! `fleetune sweep`: one sweep's jobs as one table, best loss first.

use std::collections::BTreeSet;

use fleetune_shared::view::{JobPhase, JobView};
use serde_json::{Value, json};

use super::table::Field;
use super::{Colour, Show, Style, Table, job, jobs, plain_line, seconds};

/// A sweep's jobs.
pub(crate) struct SweepTable {
    jobs: Vec<JobView>,
}

impl SweepTable {
    /// Sorts by loss; what has none comes last, in order of submission.
    pub(crate) fn new(mut jobs: Vec<JobView>) -> Self {
        jobs.sort_by(|a, b| {
            let key = |j: &JobView| score(j).filter(|l| !l.is_nan()).unwrap_or(f64::INFINITY);
            key(a).total_cmp(&key(b)).then(a.id.cmp(&b.id))
        });
        Self { jobs }
    }
}

/// What a trial is judged by. One that failed is not: how far it came before it ran out of memory, say, is no loss of its
/// keys.
fn score(job: &JobView) -> Option<f64> {
    jobs::loss(job).filter(|_| job.phase != JobPhase::Failed)
}

impl Show for SweepTable {
    fn table(&self, style: Style) -> String {
        let keys: BTreeSet<&String> = self.jobs.iter().flat_map(|j| j.sweep_keys.keys()).collect();
        let mut columns = vec!["job".to_owned()];
        columns.extend(keys.iter().map(|key| plain_line(key)));
        columns.extend(["phase", ">loss", "?>peak", "?>time", "?agent", "?"].map(String::from));
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let mut table = Table::new(style, &columns);
        let best = self.jobs.first().filter(|j| j.phase == JobPhase::Succeeded).map(|j| j.id);
        for job in &self.jobs {
            let mut row: Vec<Field> = vec![job.id.to_string().into()];
            row.extend(keys.iter().map(|key| {
                Field::from(job.sweep_keys.get(*key).map_or_else(String::new, |v| plain_line(v)))
            }));
            let peak = job.summary.as_ref().map(|s| s.memory_bytes_peak.to_string());
            let time = job.started_ms.zip(job.ended_ms);
            let failure = job.failure.as_ref().filter(|_| job.phase == JobPhase::Failed);
            row.push(Field::new(job.phase.as_str(), jobs::colour(job.phase)));
            row.push(if best == Some(job.id) {
                Field::new(jobs::number(score(job), 4), Colour::Good)
            } else {
                jobs::number(score(job), 4).into()
            });
            row.push(peak.unwrap_or_else(|| "–".into()).into());
            row.push(
                time.map_or_else(|| "–".into(), |(a, b)| seconds(b.saturating_sub(a) as f64 / 1e3))
                    .into(),
            );
            row.push(job.agent.as_ref().map_or("–", |a| a.as_str()).into());
            row.push(failure.map_or_else(String::new, |f| plain_line(&f.message)).into());
            table.row_of(row);
        }
        table.text("no jobs in this sweep")
    }

    fn json(&self) -> Value {
        json!({
            "sweep": self.jobs.first().and_then(|j| j.sweep.clone()),
            "jobs": self.jobs.iter().map(job::json).collect::<Vec<_>>(),
        })
    }

    fn quiet(&self) -> String {
        self.jobs.iter().map(|job| job.id.to_string()).collect::<Vec<_>>().join("\n")
    }
}
