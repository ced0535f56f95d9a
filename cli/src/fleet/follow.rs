//! Following jobs to their end.

use std::collections::BTreeMap;

use fleetune_proto::client::WatchEvent;
use fleetune_proto::{Client, ClientError};
use fleetune_shared::view::{JobPhase, JobView};
use fleetune_shared::{JobId, StepMetrics};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Failure;
use crate::output::{Output, Progress, iso, plain, plain_line};

/// How much of a job is shown while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Following {
    /// A progress bar.
    Progress,
    /// Every step and every line of its log, as results.
    Everything,
}

/// Follows a job to its end; returns it and its losses.
pub(crate) async fn follow(
    client: &Client,
    id: JobId,
    how: Following,
    output: &Output,
) -> Result<(JobView, Vec<f64>), Failure> {
    let mut watch = client.watch(id, how == Following::Everything);
    let mut progress = Progress::steps(output, &format!("job {id}"));
    let mut losses = Vec::new();
    let mut job: Option<JobView> = None;
    loop {
        let next = tokio::select! {
            next = watch.next() => next?,
            _ = tokio::signal::ctrl_c() => {
                progress.clear();
                let text = format!("job {id} goes on; `fleetune job show {id}` tells how it does");
                return Err(Failure::Interrupted(Some(text)));
            }
        };
        match next {
            None => break,
            Some(WatchEvent::Job(now)) => {
                if let Some(text) = news(job.as_ref(), &now) {
                    progress.note(&text);
                }
                if let Some(total) = now.steps_total {
                    let done = now.latest.as_ref().map_or(0, |m| m.step);
                    progress.at(done, total, &now.latest.as_ref().map_or_else(String::new, told));
                }
                job = Some(*now);
            }
            Some(WatchEvent::Metrics(metrics)) => {
                losses.push(metrics.loss);
                if how == Following::Everything {
                    let total = job.as_ref().and_then(|j| j.steps_total);
                    let of = total.map_or_else(String::new, |total| format!("/{total}"));
                    let line = format!("step {}{of}  {}", metrics.step, told(&metrics));
                    let json = json!({"event": "step", "job": id, "metrics": metrics});
                    progress.suspend(|| output.event(&line, &json))?;
                } else if let Some(text) = evaluated(&metrics) {
                    progress.note(&format!("job {id} after step {}: {text}", metrics.step));
                }
                if let Some(total) = job.as_ref().and_then(|j| j.steps_total) {
                    progress.at(metrics.step, total, &told(&metrics));
                }
            }
            Some(WatchEvent::Log(line)) => {
                let json = json!({
                    "event": "log", "job": id, "attempt": line.attempt, "at": iso(line.at_ms),
                    "text": line.text,
                });
                progress.suspend(|| output.event(&plain(&line.text), &json))?;
            }
        }
    }
    progress.clear();
    match job {
        Some(job) => Ok((job, losses)),
        None => Ok((client.job(id).await?, losses)),
    }
}

/// One step in words.
pub(crate) fn told(metrics: &StepMetrics) -> String {
    let evaluated = evaluated(metrics).map_or_else(String::new, |text| format!("  {text}"));
    format!("loss {:.4}  {:.0} tok/s{evaluated}", metrics.loss, metrics.tokens_per_second)
}

/// What held-out rows said after the step, if they were asked.
pub(crate) fn evaluated(metrics: &StepMetrics) -> Option<String> {
    let values = metrics.more.iter().filter(|(name, _)| name.starts_with("eval_"));
    let told: Vec<String> = values.map(|(name, value)| format!("{name} {value:.4}")).collect();
    (!told.is_empty()).then(|| told.join("  "))
}

/// What is worth a line about a job that changed.
fn news(before: Option<&JobView>, now: &JobView) -> Option<String> {
    let id = now.id;
    let moved = before.is_none_or(|b| b.phase != now.phase || b.attempt != now.attempt);
    match now.phase {
        JobPhase::Queued => {
            let waiting = now.waiting.as_deref().unwrap_or("waits");
            let failed = now.failure.as_ref().filter(|_| moved && before.is_some());
            let again = failed.map_or_else(String::new, |f| {
                format!("attempt {} ended ({}); ", f.attempt, plain_line(&f.message))
            });
            let same = before.is_some_and(|b| !moved && b.waiting == now.waiting);
            (!same).then(|| format!("job {id} {again}{}", plain_line(waiting)))
        }
        JobPhase::Assigned if moved => {
            let agent = now.agent.as_ref().map_or("an agent", |a| a.as_str());
            Some(format!("job {id} was given to {agent}, {} promised", now.estimate.total()))
        }
        _ => None,
    }
}

/// Several jobs watched at once.
pub(crate) struct Crowd {
    events: mpsc::Receiver<(JobId, Result<Option<WatchEvent>, ClientError>)>,
    /// Ends the watching when dropped.
    _tasks: JoinSet<()>,
}

impl Crowd {
    pub(crate) fn watch(client: &Client, ids: &[JobId]) -> Self {
        let (sender, events) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        for id in ids.iter().copied() {
            let (mut watch, sender) = (client.watch(id, false), sender.clone());
            tasks.spawn(async move {
                loop {
                    let event = watch.next().await;
                    let last = !matches!(event, Ok(Some(_)));
                    if sender.send((id, event)).await.is_err() || last {
                        break;
                    }
                }
            });
        }
        Self { events, _tasks: tasks }
    }

    /// Something about one of them; `None` once all have ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<(JobId, WatchEvent)>, Failure> {
        while let Some((id, event)) = self.events.recv().await {
            if let Some(event) = event? {
                return Ok(Some((id, event)));
            }
        }
        Ok(None)
    }
}

/// Follows several jobs to their ends, telling about each as it changes.
pub(crate) async fn follow_all(
    client: &Client,
    ids: &[JobId],
    output: &Output,
    mut on_change: impl FnMut(&JobView),
) -> Result<Vec<JobView>, Failure> {
    let mut crowd = Crowd::watch(client, ids);
    let mut jobs: BTreeMap<JobId, JobView> = BTreeMap::new();
    let mut progress = Progress::steps(output, "sweep");
    loop {
        let next = tokio::select! {
            next = crowd.next() => next?,
            _ = tokio::signal::ctrl_c() => {
                progress.clear();
                let text = "the jobs go on; `fleetune jobs` tells how they do".to_owned();
                return Err(Failure::Interrupted(Some(text)));
            }
        };
        match next {
            None => break,
            Some((id, WatchEvent::Job(job))) => {
                if jobs.get(&id).is_none_or(|before| before.phase != job.phase) {
                    progress.suspend(|| on_change(&job));
                }
                jobs.insert(id, *job);
            }
            Some((id, WatchEvent::Metrics(metrics))) => {
                if let Some(job) = jobs.get_mut(&id) {
                    job.latest = Some(metrics);
                }
            }
            Some((_, WatchEvent::Log(_))) => {}
        }
        let done = |job: &JobView| match job.phase.is_final() {
            true => job.steps_total,
            false => job.latest.as_ref().map(|m| m.step),
        };
        // A job whose length nobody knows yet counts as long as the longest.
        let longest = jobs.values().filter_map(|j| j.steps_total).max().unwrap_or(0);
        let total: u64 = jobs.values().map(|j| j.steps_total.unwrap_or(longest)).sum();
        if total > 0 {
            let ended = jobs.values().filter(|j| j.phase.is_final()).count();
            let message = format!("steps, {ended} of {} jobs ended", ids.len());
            progress.at(jobs.values().filter_map(done).sum(), total, &message);
        }
    }
    progress.clear();
    Ok(jobs.into_values().collect())
}
