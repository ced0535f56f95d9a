//! Streams that survive a restart of the coordinator: asked for again where they broke, without repeating themselves.

use fleetune_shared::view::JobView;
use fleetune_shared::{Attempt, JobId, StepMetrics};
use tonic::{Status, Streaming};

use super::patience::Patience;
use super::{Client, ClientError};
use crate::v1;

/// A line of a trainer's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Whose.
    pub attempt: Attempt,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What.
    pub text: String,
}

impl From<v1::LogLine> for LogLine {
    fn from(line: v1::LogLine) -> Self {
        Self { attempt: Attempt(line.attempt), at_ms: line.at_ms, text: line.text }
    }
}

/// Something new about a job.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// The job as it now stands.
    Job(Box<JobView>),
    /// A step was done; steps come once and in order.
    Metrics(StepMetrics),
    /// A line of its log.
    Log(LogLine),
}

/// What was already told.
#[derive(Debug, Default)]
struct Told {
    step: u64,
    /// Lines of the same instant are told apart by their number.
    line: Option<(Attempt, u64)>,
    /// The stream was asked for again: what it begins with may have been told.
    again: bool,
}

impl Told {
    fn line_is_new(&mut self, line: &LogLine) -> bool {
        let key = (line.attempt, line.at_ms);
        if self.again && self.line.is_some_and(|told| key <= told) {
            return false;
        }
        self.again = false;
        self.line = Some(key);
        true
    }
}

/// A job's life until it has ended.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    request: v1::WatchRequest,
    stream: Option<Streaming<v1::WatchEvent>>,
    told: Told,
    ended: bool,
}

impl Watch {
    pub(super) fn new(client: Client, id: JobId, logs: bool) -> Self {
        let request = v1::WatchRequest { job: id.0, logs };
        Self { client, request, stream: None, told: Told::default(), ended: false }
    }

    /// The next event; `None` once the job has ended.
    ///
    /// # Errors
    /// Any [`ClientError`], such as a coordinator that stays away.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        let mut patience = Patience::new();
        loop {
            match self.message().await {
                Ok(Some(message)) => {
                    patience.renew();
                    if let Some(event) = self.event(message)? {
                        return Ok(Some(event));
                    }
                }
                Ok(None) if self.ended => return Ok(None),
                // A coordinator that shuts down ends its streams politely; the job goes on.
                Ok(None) => {
                    self.again();
                    patience
                        .another(&self.client, &Status::unavailable("the stream ended"))
                        .await?;
                }
                Err(status) => {
                    self.again();
                    patience.another(&self.client, &status).await?;
                }
            }
        }
    }

    fn again(&mut self) {
        self.stream = None;
        self.told.again = true;
    }

    async fn message(&mut self) -> Result<Option<v1::WatchEvent>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.client.fleet().watch(self.request).await?.into_inner();
                self.client.answered.store(true, std::sync::atomic::Ordering::Relaxed);
                self.stream.insert(stream)
            }
        };
        stream.message().await
    }

    fn event(&mut self, message: v1::WatchEvent) -> Result<Option<WatchEvent>, ClientError> {
        Ok(match message.event {
            Some(v1::watch_event::Event::Job(job)) => {
                let job = JobView::try_from(job)?;
                self.ended = job.phase.is_final();
                Some(WatchEvent::Job(Box::new(job)))
            }
            Some(v1::watch_event::Event::Metrics(metrics)) => {
                let metrics = StepMetrics::try_from(metrics)?;
                let new = metrics.step > self.told.step;
                self.told.step = self.told.step.max(metrics.step);
                new.then_some(WatchEvent::Metrics(metrics))
            }
            Some(v1::watch_event::Event::Log(line)) => {
                let line = LogLine::from(line);
                self.told.line_is_new(&line).then_some(WatchEvent::Log(line))
            }
            // Something a newer coordinator says.
            None => None,
        })
    }
}

/// A job's log.
#[derive(Debug)]
pub struct Logs {
    client: Client,
    request: v1::LogsRequest,
    stream: Option<Streaming<v1::LogLine>>,
    told: Told,
}

impl Logs {
    pub(super) fn new(client: Client, id: JobId, follow: bool) -> Self {
        let request = v1::LogsRequest { job: id.0, follow };
        Self { client, request, stream: None, told: Told::default() }
    }

    /// The next line; `None` after the last.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<LogLine>, ClientError> {
        let mut patience = Patience::new();
        loop {
            match self.message().await {
                Ok(Some(message)) => {
                    patience.renew();
                    let line = LogLine::from(message);
                    if self.told.line_is_new(&line) {
                        return Ok(Some(line));
                    }
                }
                Ok(None) => return Ok(None),
                Err(status) => {
                    self.stream = None;
                    self.told.again = true;
                    patience.another(&self.client, &status).await?;
                }
            }
        }
    }

    async fn message(&mut self) -> Result<Option<v1::LogLine>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.client.fleet().logs(self.request).await?.into_inner();
                self.client.answered.store(true, std::sync::atomic::Ordering::Relaxed);
                self.stream.insert(stream)
            }
        };
        stream.message().await
    }
}
