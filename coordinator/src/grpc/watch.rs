//! Streams that follow a job: its state, its metrics, its log.

use std::sync::Arc;
use std::time::Duration;

use fleetune_proto::v1::{self, watch_event::Event};
use fleetune_shared::view::JobView;
use fleetune_shared::{JobId, StepMetrics};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tonic::Status;

use crate::coordinator::Coordinator;
use crate::error::Error;
use crate::journal::{LogLine, Tail};

/// A reader that takes nothing for so long is gone.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// What a waiting job waits for changes without the log, when agents come and go.
const LOOK_EVERY: Duration = Duration::from_secs(2);

type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// The reader is gone, or there is nothing more to say.
struct Over;

async fn say<T>(sender: &Sender<T>, what: Result<T, Status>) -> Result<(), Over> {
    sender.send_timeout(what, IDLE_MAX).await.map_err(|_| Over)
}

/// Says whatever the tail has.
async fn say_rest<L, T>(
    mut tail: Tail<L>,
    sender: &Sender<T>,
    message: impl Fn(L) -> T,
) -> Result<Tail<L>, Over>
where
    L: DeserializeOwned + Send + 'static,
{
    loop {
        let read = spawn_blocking(move || (tail.next(), tail)).await;
        let (batch, again) = read.map_err(|_| Over)?;
        tail = again;
        if batch.is_empty() {
            return Ok(tail);
        }
        for line in batch {
            say(sender, Ok(message(line))).await?;
        }
    }
}

/// Wakes on whatever may be news.
struct News {
    coordinator: Arc<Coordinator>,
    applied: watch::Receiver<u64>,
    journal: watch::Receiver<u64>,
}

impl News {
    fn of(coordinator: &Arc<Coordinator>, id: JobId) -> Self {
        Self {
            coordinator: Arc::clone(coordinator),
            applied: coordinator.node.applied(),
            journal: coordinator.journal.changes(id),
        }
    }

    /// Everything up to now is about to be looked at.
    fn seen(&mut self) {
        self.applied.borrow_and_update();
        self.journal.borrow_and_update();
    }

    async fn wait<T>(&mut self, sender: &Sender<T>) -> Result<(), Over> {
        tokio::select! {
            () = self.coordinator.stopping.cancelled() => {
                say(sender, Err(Error::Stopping.into())).await?;
                Err(Over)
            }
            () = sender.closed() => Err(Over),
            _ = self.applied.changed() => Ok(()),
            _ = self.journal.changed() => Ok(()),
            () = tokio::time::sleep(LOOK_EVERY) => Ok(()),
        }
    }
}

/// The job now and on every change, with its metrics and, where asked, its log, until it has ended.
pub(super) async fn job(
    coordinator: Arc<Coordinator>,
    id: JobId,
    with_log: bool,
    sender: Sender<v1::WatchEvent>,
) {
    // Whatever ends it, the reader is told by the stream's end.
    let _ = follow_job(coordinator, id, with_log, &sender).await;
}

async fn follow_job(
    coordinator: Arc<Coordinator>,
    id: JobId,
    with_log: bool,
    sender: &Sender<v1::WatchEvent>,
) -> Result<(), Over> {
    let event = |event| v1::WatchEvent { event: Some(event) };
    let mut news = News::of(&coordinator, id);
    let mut metrics = coordinator.journal.metrics_tail(id);
    let mut log = coordinator.journal.log_tail(id);
    let mut shown: Option<JobView> = None;
    loop {
        news.seen();
        // Looked at first: what was written before a job ended is read after it is seen to have ended.
        let view = coordinator.job_view(id).ok_or(Over)?;
        metrics =
            say_rest(metrics, sender, |m: StepMetrics| event(Event::Metrics(m.into()))).await?;
        if with_log {
            log = say_rest(log, sender, |line| event(Event::Log(wire(line)))).await?;
        }
        // Metrics have their own events.
        let unmeasured = JobView { latest: None, ..view.clone() };
        let ended = view.phase.is_final();
        if shown.as_ref() != Some(&unmeasured) {
            shown = Some(unmeasured);
            say(sender, Ok(event(Event::Job(view.into())))).await?;
        }
        if ended {
            return Ok(());
        }
        news.wait(sender).await?;
    }
}

/// Every step so far.
pub(super) async fn metrics(
    coordinator: Arc<Coordinator>,
    id: JobId,
    sender: Sender<v1::StepMetrics>,
) {
    let Ok(steps) = spawn_blocking(move || coordinator.journal.steps(id)).await else { return };
    for step in steps {
        if say(&sender, Ok(step.into())).await.is_err() {
            return;
        }
    }
}

/// The log so far and, where asked, on and on until the job has ended.
pub(super) async fn logs(
    coordinator: Arc<Coordinator>,
    id: JobId,
    follow: bool,
    sender: Sender<v1::LogLine>,
) {
    let _ = follow_log(coordinator, id, follow, &sender).await;
}

async fn follow_log(
    coordinator: Arc<Coordinator>,
    id: JobId,
    follow: bool,
    sender: &Sender<v1::LogLine>,
) -> Result<(), Over> {
    let mut news = News::of(&coordinator, id);
    let mut log = coordinator.journal.log_tail(id);
    loop {
        news.seen();
        let ended = coordinator.state(|state| state.job(id).is_none_or(|job| job.is_final()));
        log = say_rest(log, sender, wire).await?;
        if ended || !follow {
            return Ok(());
        }
        news.wait(sender).await?;
    }
}

fn wire(line: LogLine) -> v1::LogLine {
    v1::LogLine { attempt: line.attempt.0, at_ms: line.at_ms, text: line.text }
}
