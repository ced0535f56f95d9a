//! One attempt, from its start to the acknowledgement of its end.
//!
//! ```text
//!   Fetching ──▶ Training ──▶ Delivering ──▶ Ended
//!      │            ├───────▶ Releasing ──────▶│
//!      └────────────┴───────▶ Failing ────────▶│
//!
//!   killed (cancelled, fenced): from anywhere to Ended, nothing reported
//! ```
//!
//! The session (`crate::session`) starts attempts, passes stops on and carries what they say; a trainer's process is
//! the other end of [`process`].

mod courier;
mod desk;
mod ending;
mod fetch;
mod lines;
mod process;
mod workspace;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetune_proto::v1;
use fleetune_proto::v1::report::What;
use fleetune_shared::{Artifact, Device, FailureKind, Peak, PeakSource, TrainerEvent};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::attempt::AttemptId;
use crate::blocking::blocking;
use crate::cache::Cache;
use courier::{Aside, Courier};
use desk::{Desk, Undelivered};
use lines::Throttle;

pub(crate) use desk::Upward;
pub use ending::Ending;
pub(crate) use ending::{LastWords, classify};
pub(crate) use fetch::Start;
pub(crate) use lines::now_ms;
pub(crate) use process::{Launch, News, Process, TrainerPids};
pub(crate) use workspace::{WorkResult, Workspace};

/// What all attempts of an agent share.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) program: PathBuf,
    pub(crate) silence_max: Duration,
    pub(crate) cache: Arc<Cache>,
    pub(crate) client: fleetune_proto::client::Client,
    pub(crate) device: Device,
    pub(crate) gpu_uuid: Option<String>,
    pub(crate) pids: TrainerPids,
}

/// What the session wants of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// That it goes on.
    Go,
    /// That it writes a checkpoint, uploads it and ends.
    Release(Release),
    /// That it ends at once and reports nothing.
    Die,
}

/// How an attempt is to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    /// The reason it is to report.
    pub(crate) why: String,
    /// When its trainer is ended, if it has not written its checkpoint by then.
    pub(crate) deadline: Instant,
}

/// Where an attempt begins.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// With a start from the coordinator.
    Start(Box<Start>),
    /// With a result that a former life of this agent left.
    Result,
}

/// Where an attempt stands, and what only that place knows.
enum Stage {
    Fetching(Box<Start>),
    Training { start: Box<Start>, order: PathBuf },
    Delivering(Box<WorkResult>),
    Releasing(String),
    Failing(FailureKind, String),
    Ended,
}

/// One attempt.
pub(crate) struct Attempt {
    shop: Arc<Workshop>,
    desk: Arc<Desk>,
    workspace: Workspace,
    wish: watch::Receiver<Wish>,
    /// Outlives the future that watches it, so that a kill can wait until it is gone.
    process: Option<Process>,
    /// The most memory its trainer held, where that had no summary to say so.
    peak: Option<Peak>,
}

impl Attempt {
    pub(crate) fn new(
        id: AttemptId,
        workspace: Workspace,
        shop: Arc<Workshop>,
        upward: mpsc::Sender<Upward>,
        wish: watch::Receiver<Wish>,
    ) -> Self {
        let desk = Desk::new(id, shop.client.clone(), upward);
        Self { shop, desk, workspace, wish, process: None, peak: None }
    }

    /// Lives until its end is acknowledged, or it is told to die. `predecessors` are attempts at the same job that
    /// have not ended yet: never two trainers at one job.
    pub(crate) async fn live(
        mut self,
        beginning: Beginning,
        predecessors: Vec<Arc<watch::Sender<Wish>>>,
    ) {
        let mut wish = self.wish.clone();
        tokio::select! {
            biased;
            Ok(_) = wish.wait_for(|wish| *wish == Wish::Die) => info!("attempt {}: ended", self.desk.id),
            () = self.go_through(beginning, predecessors) => {}
        }
        if let Some(mut process) = self.process.take() {
            process.kill().await;
        }
        let workspace = self.workspace.clone();
        if let Err(error) = blocking(move || workspace.remove()).await {
            warn!("{}: {error}", self.workspace.root().display());
        }
    }

    async fn go_through(
        &mut self,
        beginning: Beginning,
        predecessors: Vec<Arc<watch::Sender<Wish>>>,
    ) {
        for predecessor in predecessors {
            predecessor.closed().await;
        }
        let mut stage = match beginning {
            Beginning::Start(start) => Stage::Fetching(start),
            Beginning::Result => match self.workspace.read_result() {
                Some(result) => Stage::Delivering(Box::new(result)),
                None => Stage::Ended,
            },
        };
        loop {
            stage = match stage {
                Stage::Fetching(start) => self.fetch(start).await,
                Stage::Training { start, order } => self.train(&start, order).await,
                Stage::Delivering(result) => self.deliver(*result).await,
                Stage::Releasing(message) => {
                    info!("attempt {}: released: {message}", self.desk.id);
                    let (memory_bytes_peak, peak_source) = self.peak();
                    let released = v1::Released { message, memory_bytes_peak, peak_source };
                    self.desk.report(What::Released(released)).await;
                    Stage::Ended
                }
                Stage::Failing(kind, message) => {
                    warn!("attempt {}: {message}", self.desk.id);
                    let kind = v1::FailureKind::from(kind).into();
                    let (memory_bytes_peak, peak_source) = self.peak();
                    let failed = v1::Failed { kind, message, memory_bytes_peak, peak_source };
                    self.desk.report(What::Failed(failed)).await;
                    Stage::Ended
                }
                Stage::Ended => break,
            };
        }
    }

    /// The trainer's peak as reports have it.
    fn peak(&self) -> (Option<u64>, i32) {
        let source = self.peak.map(|peak| v1::PeakSource::from(peak.source).into());
        (self.peak.map(|peak| peak.bytes.0), source.unwrap_or_default())
    }

    async fn fetch(&mut self, start: Box<Start>) -> Stage {
        info!("attempt {}: fetching inputs of {}", self.desk.id, start.spec.name);
        let mut wish = self.wish.clone();
        let shop = Arc::clone(&self.shop);
        let fetching = fetch::fetch(&start, &self.workspace, &shop.cache, &self.desk, shop.device);
        tokio::select! {
            release = asked_to_release(&mut wish) => Stage::Releasing(release.why),
            fetched = fetching => match fetched {
                Ok(order) => Stage::Training { start, order },
                Err(message) => Stage::Failing(FailureKind::Machine, message),
            }
        }
    }

    async fn train(&mut self, start: &Start, order: PathBuf) -> Stage {
        let launch = Launch {
            program: &self.shop.program,
            order: &order,
            folder: self.workspace.root(),
            gpu_uuid: self.shop.gpu_uuid.as_deref(),
        };
        let process = match Process::start(&launch, &self.shop.pids).await {
            Ok(process) => self.process.insert(process),
            Err(error) => {
                let message = format!("starting {}: {error}", self.shop.program.display());
                return Stage::Failing(FailureKind::Machine, message);
            }
        };
        if let Err(error) = self.workspace.note_trainer(process.pid()) {
            let message = format!("{}: {error}", self.workspace.root().display());
            return Stage::Failing(FailureKind::Machine, message);
        }
        info!("attempt {}: training, process {}", self.desk.id, process.pid());
        let mut courier = Courier::new(Arc::clone(&self.desk));
        let mut listener = Listener {
            desk: &self.desk,
            workspace: &self.workspace,
            courier: &courier,
            throttle: Throttle::new(Instant::now()),
            words: LastWords::default(),
        };
        let silence_max = self.shop.silence_max;
        let mut silence = Box::pin(tokio::time::sleep(silence_max));
        let mut grace = Box::pin(tokio::time::sleep(Duration::MAX));
        let mut released: Option<Release> = None;
        let mut late = false;
        let status = loop {
            tokio::select! {
                next = process.next() => match next {
                    Ok(news) => {
                        if matches!(news, News::Event(_)) {
                            silence.as_mut().reset(tokio::time::Instant::now() + silence_max);
                        }
                        listener.hear(news).await;
                    }
                    Err(status) => break status,
                },
                () = &mut silence => {
                    process.kill().await;
                    let seconds = silence_max.as_secs();
                    let message = format!("the trainer said nothing for {seconds} s and was ended");
                    listener.words.failed = Some((FailureKind::Hung, message));
                }
                release = asked_anew(&mut self.wish, released.as_ref()) => {
                    grace.as_mut().reset(release.deadline.into());
                    if released.replace(release).is_none() {
                        process.ask_to_stop().await;
                    }
                }
                () = &mut grace, if released.is_some() && !late => {
                    // What it had uploaded before is where the job goes on.
                    late = true;
                    process.kill().await;
                }
            }
        };
        // A grandchild may hold the pipes open, so the rest is not waited for without end.
        let rest = async {
            while let Some(news) = process.news().await {
                listener.hear(news).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
        let mut throttle = listener.throttle;
        let words = listener.words;
        if let Some(line) = throttle.flush() {
            self.desk.log(line).await;
        }
        // What the driver saw of the process counts before what the trainer counted itself.
        let driven = process.vram_bytes_peak();
        let driven = driven.map(|bytes| Peak { bytes, source: PeakSource::Driver });
        let own = |bytes| Peak { bytes, source: PeakSource::Trainer };
        self.peak = driven.or_else(|| words.memory_bytes_peak.map(own));
        let ending = match status {
            Ok(status) => classify(status, words, || process.memory_ran_out()),
            Err(error) => {
                let message = format!("waiting for the trainer: {error}");
                Ending::Failed { kind: FailureKind::Machine, message }
            }
        };
        self.process = None;
        match ending {
            Ending::Finished(mut summary) => {
                if let Some(Peak { bytes, source }) = driven {
                    (summary.memory_bytes_peak, summary.peak_source) = (bytes, source);
                }
                let result = WorkResult { kind: start.result_kind(), summary: *summary };
                let (workspace, mark) = (self.workspace.clone(), result.clone());
                if let Err(error) = blocking(move || workspace.write_result(&mark)).await {
                    warn!("{}: {error}", self.workspace.root().display());
                }
                Stage::Delivering(Box::new(result))
            }
            Ending::Stopped => {
                courier.settle().await;
                let why = released.map(|release| release.why);
                Stage::Releasing(why.unwrap_or_else(|| "the trainer was asked to stop".into()))
            }
            Ending::Failed { kind, message } => {
                // It was killed because it did not stop in time, say; that is no fault of the job's.
                let excused = released.filter(|_| late || kind == FailureKind::Machine);
                if let Some(Release { why, .. }) = excused {
                    courier.settle().await;
                    let rest = if late { "; its checkpoint was not ready in time" } else { "" };
                    return Stage::Releasing(format!("{why}{rest}"));
                }
                // These are answered with another attempt, which goes on from here.
                let again = [FailureKind::Machine, FailureKind::Hung, FailureKind::OutOfMemory];
                if again.contains(&kind) {
                    courier.settle().await;
                }
                Stage::Failing(kind, message)
            }
        }
    }

    async fn deliver(&mut self, result: WorkResult) -> Stage {
        let out = self.workspace.out();
        let uploaded = match self.workspace.result_files() {
            Ok(names) => self.desk.upload(&out, names).await,
            Err(error) => Err(Undelivered(format!("{}: {error}", out.display()))),
        };
        match uploaded {
            Ok(files) if files.is_empty() => {
                let message = format!("{}: the trainer left no result", out.display());
                Stage::Failing(FailureKind::Machine, message)
            }
            Ok(files) => {
                let artifact = Artifact { kind: result.kind, step: result.summary.steps, files };
                let finished = v1::Finished {
                    artifact: Some(artifact.into()),
                    summary: Some(result.summary.into()),
                };
                self.desk.report(What::Finished(finished)).await;
                info!("attempt {}: finished", self.desk.id);
                Stage::Ended
            }
            Err(Undelivered(message)) => Stage::Failing(FailureKind::Machine, message),
        }
    }
}

/// Hears a trainer and passes on what it says.
struct Listener<'a> {
    desk: &'a Desk,
    workspace: &'a Workspace,
    courier: &'a Courier,
    throttle: Throttle,
    words: LastWords,
}

impl Listener<'_> {
    async fn hear(&mut self, news: News) {
        match news {
            News::Line(line) => {
                self.words.line(&line);
                self.log(line).await;
            }
            News::Event(event) => {
                if let Some(event) = self.words.event(*event) {
                    self.event(event).await;
                }
            }
        }
    }

    async fn event(&mut self, event: TrainerEvent) {
        match event {
            TrainerEvent::Log { message } => self.log(message).await,
            TrainerEvent::Started { step, steps_total } => {
                self.desk.tell(What::Started(v1::Started { step, steps_total })).await;
            }
            TrainerEvent::Step(metrics) => self.desk.metrics(metrics).await,
            TrainerEvent::Checkpoint { step, folder } => {
                let workspace = self.workspace.clone();
                match blocking(move || workspace.set_aside(&folder)).await {
                    Ok(folder) => self.courier.hand_over(Aside { step, folder }),
                    Err(error) => self.log(format!("checkpoint {step}: {error}")).await,
                }
            }
            TrainerEvent::Peak { .. }
            | TrainerEvent::Finished { .. }
            | TrainerEvent::Failed { .. } => {}
        }
    }

    async fn log(&mut self, line: String) {
        for line in self.throttle.admit(line, Instant::now()) {
            self.desk.log(line).await;
        }
    }
}

/// Waits for the wish that this attempt be released.
async fn asked_to_release(wish: &mut watch::Receiver<Wish>) -> Release {
    asked_anew(wish, None).await
}

/// Waits for the wish that this attempt be released, other than it was asked before.
async fn asked_anew(wish: &mut watch::Receiver<Wish>, before: Option<&Release>) -> Release {
    let fresh = |wish: &Wish| matches!(wish, Wish::Release(release) if Some(release) != before);
    let wished = wish.wait_for(fresh).await.map(|wish| wish.clone());
    match wished {
        Ok(Wish::Release(release)) => release,
        // The session is gone, and whoever waits ends with it.
        _ => std::future::pending().await,
    }
}
