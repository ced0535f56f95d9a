//! The session of an agent: it says hello, then reports; it is told what to start and stop.

use std::sync::Arc;
use std::time::Duration;

use fleetune_proto::peak;
use fleetune_proto::v1::{
    self, agent_message::Message as Incoming, agents_server, coordinator_message::Message,
    report::What,
};
use fleetune_scheduler::state::{Command, Held, Refusal, Report};
use fleetune_shared::{AgentName, Artifact, Attempt, FailureKind, JobId, Offer};
use tokio::task::spawn_blocking;
use tonic::{Request, Response, Status, Streaming};

use super::Stream;
use crate::coordinator::Coordinator;
use crate::dispatch::Session;
use crate::error::Error;
use crate::journal::LogLine;

const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// An agent that takes no answer for so long is not listening.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const KEY_BYTES_MAX: usize = 256;
const HELD_MAX: usize = 1000;
const MESSAGE_CHARS_MAX: usize = 16 << 10;
/// Foreign use that changes by less is not worth a command.
const FOREIGN_BYTES_CHANGE_MIN: u64 = 32 << 20;

pub(super) struct Agents {
    coordinator: Arc<Coordinator>,
}

impl Agents {
    pub(super) fn new(coordinator: Arc<Coordinator>) -> Self {
        Self { coordinator }
    }

    async fn welcome(
        &self,
        mut stream: Streaming<v1::AgentMessage>,
    ) -> Result<Stream<v1::CoordinatorMessage>, Error> {
        let first = tokio::time::timeout(HELLO_WITHIN, stream.message()).await;
        let first = match first {
            Ok(Ok(Some(v1::AgentMessage { message: Some(Incoming::Hello(hello)) }))) => Ok(hello),
            Ok(Ok(_)) => Err(Error::Invalid("a session begins with a hello".into())),
            Ok(Err(status)) => Err(Error::Invalid(format!("no hello came: {status}"))),
            Err(_) => Err(Error::TooSlow("no hello came in time".into())),
        };
        let hello = Hello::read(first?)?;
        let coordinator = &self.coordinator;
        coordinator.node.catch_up().await?;
        let known = coordinator.state(|state| state.agent(&hello.name).map(|a| a.key_hash));
        if known.is_some_and(|key_hash| key_hash != hello.key_hash) {
            return Err(Refusal::NameTaken(hello.name).into());
        }
        // Opened before the log knows of it, so that what the log then says finds it open.
        let (session, receiver) =
            coordinator.sessions.open(&hello.name, coordinator.clock.now_ms());
        coordinator.sessions.send(
            &hello.name,
            Message::Welcome(v1::Welcome {
                heartbeat_ms: coordinator.heartbeat.as_millis() as u64,
                lease_ms: coordinator.lease.as_millis() as u64,
            }),
        );
        tracing::info!(agent = %hello.name, version = %hello.version, held = hello.held.len(), "joins");
        let join = Command::Join {
            agent: hello.name,
            key_hash: hello.key_hash,
            offer: hello.offer,
            held: hello.held,
            now_ms: coordinator.clock.now_ms(),
        };
        if let Err(error) = coordinator.propose(&join).await {
            coordinator.sessions.close(&session);
            return Err(error);
        }
        let talk = Talk { coordinator: Arc::clone(coordinator), session };
        tokio::spawn(talk.run(stream));
        Ok(Stream::new(receiver))
    }
}

#[tonic::async_trait]
impl agents_server::Agents for Agents {
    type SessionStream = Stream<v1::CoordinatorMessage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Response::new(self.welcome(request.into_inner()).await?))
    }
}

struct Hello {
    name: AgentName,
    key_hash: [u8; 32],
    version: String,
    offer: Offer,
    held: Vec<Held>,
}

impl Hello {
    fn read(hello: v1::Hello) -> Result<Self, Error> {
        let v1::Hello { name, key, version, offer, held } = hello;
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            let found = key.len();
            let message = format!("a key of {found} bytes, expected 1 to {KEY_BYTES_MAX}");
            return Err(Error::Invalid(message));
        }
        if held.len() > HELD_MAX {
            return Err(Error::TooMuch(format!("{} attempts held by one agent", held.len())));
        }
        let held = held
            .into_iter()
            .map(|h| Held { job: JobId(h.job), attempt: Attempt(h.attempt) })
            .collect();
        Ok(Self {
            name: AgentName::try_from(name).map_err(|error| Error::Invalid(error.to_string()))?,
            key_hash: *blake3::hash(key.as_bytes()).as_bytes(),
            version: version.chars().filter(|c| !c.is_control()).take(40).collect(),
            offer: read_offer(offer)?,
            held,
        })
    }
}

fn read_offer(offer: Option<v1::Offer>) -> Result<Offer, Error> {
    Ok(offer.ok_or_else(|| Error::Invalid("the offer is missing".into()))?.try_into()?)
}

/// An open session, from the first message after hello to the last.
struct Talk {
    coordinator: Arc<Coordinator>,
    session: Session,
}

impl Talk {
    async fn run(self, mut stream: Streaming<v1::AgentMessage>) {
        let agent = &self.session.agent;
        let ended = loop {
            let message = tokio::select! {
                () = self.session.ended.cancelled() => {
                    break Err(Error::Superseded("the session was ended by the coordinator".into()));
                }
                () = self.coordinator.stopping.cancelled() => break Err(Error::Stopping),
                message = stream.message() => message,
            };
            match message {
                Ok(Some(v1::AgentMessage { message: Some(message) })) => {
                    if let Err(error) = self.hear(message).await {
                        break Err(error);
                    }
                }
                // Something a newer agent says.
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break Ok(()),
            }
        };
        self.coordinator.sessions.close(&self.session);
        match ended {
            Ok(()) => tracing::info!(%agent, "its session has ended"),
            Err(error) => {
                tracing::info!(%agent, %error, "its session is ended");
                // It may not be listening any more.
                let _ = self.session.sender.try_send(Err(error.into()));
            }
        }
    }

    async fn hear(&self, message: Incoming) -> Result<(), Error> {
        let Coordinator { sessions, clock, journal, .. } = &*self.coordinator;
        if !sessions.heard(&self.session, clock.now_ms()) {
            return Err(Error::Superseded("a newer session of this agent is open".into()));
        }
        match message {
            Incoming::Hello(_) => Err(Error::Invalid("a second hello within a session".into())),
            Incoming::Heartbeat(v1::Heartbeat { offer, telemetry }) => {
                if let Some(telemetry) = telemetry {
                    sessions.measured(&self.session, telemetry.try_into()?);
                }
                self.renew_offer(offer).await
            }
            Incoming::Report(report) => {
                self.report(report).await?;
                // However long the log took.
                sessions.heard(&self.session, clock.now_ms());
                Ok(())
            }
            Incoming::Metrics(v1::Metrics { job, attempt, metrics }) => {
                if let Some(metrics) = metrics
                    && self.may_speak_of(JobId(job), Attempt(attempt))
                {
                    journal.metrics(JobId(job), &metrics.try_into()?);
                }
                Ok(())
            }
            Incoming::Log(v1::Log { job, attempt, at_ms, text }) => {
                let (job, attempt) = (JobId(job), Attempt(attempt));
                if self.may_speak_of(job, attempt) {
                    journal.log(job, &LogLine { attempt, at_ms, text });
                }
                Ok(())
            }
        }
    }

    /// Whether the attempt is the job's live or last one, and this agent's.
    fn may_speak_of(&self, job: JobId, attempt: Attempt) -> bool {
        self.coordinator.state(|state| {
            state.job(job).is_some_and(|job| {
                job.attempt == attempt
                    && job.lease().is_none_or(|lease| lease.agent == self.session.agent)
            })
        })
    }

    async fn renew_offer(&self, offer: Option<v1::Offer>) -> Result<(), Error> {
        let Some(offer) = offer else { return Ok(()) };
        let (agent, offer) = (&self.session.agent, Offer::try_from(offer)?);
        let known = self.coordinator.state(|state| state.agent(agent).map(|a| a.offer.clone()));
        let changed = known.is_none_or(|known| {
            let (before, now) = (known.vram_bytes_foreign, offer.vram_bytes_foreign);
            before.0.abs_diff(now.0) >= FOREIGN_BYTES_CHANGE_MIN
                || Offer { vram_bytes_foreign: now, ..known } != offer
        });
        if changed {
            self.coordinator.propose(&Command::Offer { agent: agent.clone(), offer }).await?;
        }
        Ok(())
    }

    async fn report(&self, report: v1::Report) -> Result<(), Error> {
        let v1::Report { sequence, job, attempt, what } = report;
        let (job, attempt) = (JobId(job), Attempt(attempt));
        let outcome = self.take(job, attempt, what).await;
        let reason = match outcome {
            Ok(()) => String::new(),
            // Nothing is wrong with it: the agent reports again in its next session.
            Err(error) if error.is_passing() => return Err(error),
            Err(error) => {
                tracing::warn!(agent = %self.session.agent, %job, %attempt, %error, "report refused");
                error.to_string()
            }
        };
        let ack = v1::Ack { sequence, accepted: reason.is_empty(), reason };
        let message = v1::CoordinatorMessage { message: Some(Message::Ack(ack)) };
        self.session
            .sender
            .send_timeout(Ok(message), ANSWER_WITHIN)
            .await
            .map_err(|_| Error::TooSlow("answers were not taken in time".into()))
    }

    async fn take(&self, job: JobId, attempt: Attempt, what: Option<What>) -> Result<(), Error> {
        let report = read_report(what)?;
        if let Report::Checkpoint { artifact } | Report::Finished { artifact, .. } = &report {
            let (coordinator, files) = (Arc::clone(&self.coordinator), artifact.files.clone());
            spawn_blocking(move || coordinator.require_blobs(&files)).await??;
        }
        let agent = self.session.agent.clone();
        let now_ms = self.coordinator.clock.now_ms();
        let command = Command::Report { agent, job, attempt, report, now_ms };
        self.coordinator.propose(&command).await?;
        Ok(())
    }
}

fn read_report(what: Option<What>) -> Result<Report, Error> {
    let missing = |name: &str| Error::Invalid(format!("the report's {name} is missing"));
    let artifact = |artifact: v1::Artifact| Artifact::try_from(artifact).map_err(Error::from);
    let short = |text: String| text.chars().take(MESSAGE_CHARS_MAX).collect();
    Ok(match what.ok_or_else(|| missing("subject"))? {
        What::Started(started) => Report::Started { steps_total: started.steps_total },
        What::Checkpoint(checkpoint) => Report::Checkpoint { artifact: artifact(checkpoint)? },
        What::Finished(finished) => Report::Finished {
            artifact: artifact(finished.artifact.ok_or_else(|| missing("artifact"))?)?,
            summary: Box::new(finished.summary.ok_or_else(|| missing("summary"))?.try_into()?),
        },
        What::Failed(failed) => {
            let kind = v1::FailureKind::try_from(failed.kind)
                .map_err(|_| Error::Invalid(format!("failure kind {} is unknown", failed.kind)))
                .and_then(|kind| Ok(FailureKind::try_from(kind)?))?;
            let message = short(failed.message);
            let vram_bytes_peak = peak(failed.memory_bytes_peak, failed.peak_source)?;
            match kind {
                FailureKind::OutOfMemory => Report::OutOfMemory { message, vram_bytes_peak },
                kind => Report::Failed { kind, message, vram_bytes_peak },
            }
        }
        What::Released(released) => Report::Released {
            message: short(released.message),
            vram_bytes_peak: peak(released.memory_bytes_peak, released.peak_source)?,
        },
    })
}
