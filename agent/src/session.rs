//! The agent as the coordinator sees it: what it offers, what it holds, what it is told.
//!
//! ```text
//!        probe ──offer──▶ ┌─────────┐ ◀──events── link ◀──▶ coordinator
//!   attempts ──upward───▶ │ session │ ──outbox──▶
//!            ◀───wish──── └─────────┘
//! ```
//!
//! One task holds all the state; everything else sends it messages.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use fleetune_proto::ConvertError;
use fleetune_proto::client::Client;
use fleetune_proto::v1::agent_message::Message as Up;
use fleetune_proto::v1::coordinator_message::Message as Down;
use fleetune_proto::v1::report::What;
use fleetune_proto::v1::{self, AgentMessage, StopReason};
use fleetune_shared::{Availability, ByteSize, FailureKind, Offer};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use crate::attempt::AttemptId;
use crate::cache::Cache;
use crate::folder::DataFolder;
use crate::link::{self, LinkEvent};
use crate::outbox::Outbox;
use crate::owner::{self, Lent};
use crate::probe::Probe;
use crate::runner::{self, Beginning, Release, Start, TrainerPids, Upward, Wish, Workshop};
use crate::share::Share;
use crate::{AgentError, Settings};

/// Lends a card until `shutdown` resolves, then has trainers write checkpoints and gives their jobs back.
///
/// Losing the coordinator ends nothing: trainers go on, and what they achieve is delivered when it is back.
///
/// # Errors
/// No card, a folder in use, or a coordinator that refuses this agent for good.
pub async fn run(
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    let client = Client::connect(&settings.join)?;
    let folder = DataFolder::open(&settings.data_dir)?;
    let key = folder.key()?;
    let probe = Probe::open(&settings.card)?;
    let leftovers = folder.sweep()?;
    let pids = TrainerPids::default();
    let cache = Arc::new(Cache::new(folder.blobs(), client.clone(), settings.cache_bytes_max));
    let share = match &settings.share {
        Some(share) => Some(Share::open(share, client.address(), Arc::clone(&cache)).await?),
        None => None,
    };
    let shop = Arc::new(Workshop {
        program: settings.program,
        silence_max: settings.silence_max,
        cache,
        client: client.clone(),
        device: probe.device(),
        gpu_uuid: probe.gpu_uuid().map(str::to_owned),
        pids: pids.clone(),
    });
    let yield_within = settings.owner.yield_within;
    let (card, _watch) = owner::watch(probe, settings.owner, pids).await;
    let availability = card.borrow().offer.availability.clone();
    let (upward, inbox) = mpsc::channel(1024);
    let mut session = Session {
        name: settings.name.to_string(),
        key,
        folder,
        shop,
        share,
        stop_grace: settings.stop_grace,
        yield_within,
        card,
        availability,
        upward,
        outbox: Outbox::new(runner::now_ms() * 1000),
        held: BTreeMap::new(),
        tasks: JoinSet::new(),
        ids: HashMap::new(),
        link: None,
        heartbeat: Duration::from_secs(1),
        closing: None,
    };
    for id in leftovers {
        session.begin(id, Beginning::Result);
    }
    let (events, link_events) = mpsc::channel(64);
    let address = client.address().to_owned();
    info!("agent {} joins {address}", session.name);
    let _link = AbortOnDropHandle::new(tokio::spawn(link::keep(client, events)));
    Box::pin(session.attend(inbox, link_events, shutdown))
        .await
        .map_err(|why| AgentError::Refused { address, why })
}

/// An open connection.
struct Link {
    sender: mpsc::Sender<AgentMessage>,
    /// Before that, nothing but the Hello is sent.
    welcomed: bool,
}

struct Session {
    name: String,
    key: String,
    folder: DataFolder,
    shop: Arc<Workshop>,
    share: Option<Share>,
    /// How long a trainer may take to leave when it is asked to, and when the card's owner wants it.
    stop_grace: Duration,
    yield_within: Duration,
    /// Changes when it opens or closes.
    card: watch::Receiver<Lent>,
    /// What was acted on last.
    availability: Availability,
    upward: mpsc::Sender<Upward>,
    outbox: Outbox,
    /// Attempts that have not ended, and the line to each. Closed once the attempt has ended.
    held: BTreeMap<AttemptId, Arc<watch::Sender<Wish>>>,
    tasks: JoinSet<()>,
    ids: HashMap<task::Id, AttemptId>,
    link: Option<Link>,
    heartbeat: Duration,
    /// When the agent ends, finished or not.
    closing: Option<Instant>,
}

impl Session {
    async fn attend(
        mut self,
        mut inbox: mpsc::Receiver<Upward>,
        mut link_events: mpsc::Receiver<LinkEvent>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), String> {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut next_beat = Instant::now();
        while !self.is_done() {
            tokio::select! {
                Some(event) = link_events.recv() => match event {
                    LinkEvent::Opened(sender) => self.greet(sender),
                    LinkEvent::Received(message) => self.hear(*message),
                    LinkEvent::Lost(why) => self.lose(&why),
                    LinkEvent::Refused(why) => return Err(why),
                },
                Some(message) = inbox.recv() => self.say(message),
                Some(ended) = self.tasks.join_next_with_id() => self.bury(ended),
                true = room(self.link.as_ref()), if !self.outbox.is_empty() => self.send_next(),
                () = sleep_until(next_beat) => {
                    next_beat = Instant::now() + self.heartbeat;
                    self.beat();
                }
                Ok(()) = self.card.changed() => self.heed(),
                () = &mut shutdown, if self.closing.is_none() => self.close(),
                () = sleep_until(self.closing.unwrap_or_else(Instant::now)), if self.closing.is_some() => break,
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        // Without a connection nothing can be given back; what is finished stays on disk.
        let reachable = self.link.as_ref().is_some_and(|link| link.welcomed);
        let working = !self.shop.pids.now().is_empty();
        self.closing.is_some() && (self.held.is_empty() || (!reachable && !working))
    }

    fn offer(&self) -> Offer {
        let mut offer = self.card.borrow().offer.clone();
        offer.blobs_cached = self.shop.cache.large();
        offer.share = self.share.as_ref().map(|share| share.address().to_owned());
        if self.closing.is_some() {
            offer.vram_bytes_foreign = offer.card.vram_bytes_total;
        }
        offer
    }

    // ── the connection ──

    fn greet(&mut self, sender: mpsc::Sender<AgentMessage>) {
        let held = self.held.iter().filter(|(_, wish)| *wish.borrow() != Wish::Die);
        let hello = v1::Hello {
            name: self.name.clone(),
            key: self.key.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            offer: Some(self.offer().into()),
            held: held.map(|(id, _)| v1::Held { job: id.job.0, attempt: id.attempt.0 }).collect(),
        };
        // A new channel has room.
        let _ = sender.try_send(AgentMessage { message: Some(Up::Hello(hello)) });
        self.link = Some(Link { sender, welcomed: false });
    }

    fn lose(&mut self, why: &str) {
        match self.link.take() {
            Some(link) if link.welcomed => {
                self.outbox.lost(StdInstant::now());
                warn!("connection lost: {why}; trainers go on");
            }
            _ => debug!("no connection: {why}"),
        }
    }

    fn beat(&mut self) {
        let telemetry = self.card.borrow().telemetry.clone().map(Into::into);
        let heartbeat = v1::Heartbeat { offer: Some(self.offer().into()), telemetry };
        if let Some(link) = self.link.as_ref().filter(|link| link.welcomed) {
            // A connection so full that a heartbeat finds no room is as good as silent.
            let _ = link.sender.try_send(AgentMessage { message: Some(Up::Heartbeat(heartbeat)) });
        }
    }

    fn send_next(&mut self) {
        if let (Some(link), Some(message)) = (&self.link, self.outbox.next(StdInstant::now())) {
            // There was room a moment ago, and a report that is lost here is sent again over the next connection.
            let _ = link.sender.try_send(AgentMessage { message: Some(message) });
        }
    }

    fn hear(&mut self, message: Down) {
        match message {
            Down::Welcome(welcome) => {
                info!("agent {} is welcome", self.name);
                self.heartbeat = Duration::from_millis(welcome.heartbeat_ms.clamp(50, 60_000));
                self.outbox.resend();
                if let Some(link) = &mut self.link {
                    link.welcomed = true;
                }
                self.beat();
            }
            Down::Start(start) => self.start(start),
            Down::Stop(stop) => {
                let id = AttemptId::of_wire(stop.job, stop.attempt);
                match stop.reason() {
                    StopReason::Yield if stop.for_owner => {
                        self.release(id, "its agent was paused", self.yield_within);
                    }
                    StopReason::Yield => self.release(id, "wanted elsewhere", self.stop_grace),
                    StopReason::Cancelled | StopReason::Fenced | StopReason::Unspecified => {
                        self.kill(id, stop.reason().as_str_name());
                    }
                }
            }
            Down::Ack(ack) if ack.accepted => self.outbox.acknowledge(ack.sequence),
            Down::Ack(ack) => {
                if let Some(id) = self.outbox.attempt_of(ack.sequence) {
                    self.give_up(id, &ack.reason);
                }
            }
        }
    }

    // ── attempts ──

    fn start(&mut self, start: v1::Start) {
        let id = AttemptId::of_wire(start.job, start.attempt);
        if self.held.contains_key(&id) {
            return;
        }
        if self.closing.is_some() {
            return self.report(id, released("the agent is shutting down"));
        }
        if let Some(why) = self.closed() {
            return self.report(id, released(&why));
        }
        match read_start(start) {
            Ok(start) => self.begin(id, Beginning::Start(Box::new(start))),
            Err(error) => {
                let kind = v1::FailureKind::from(FailureKind::Input).into();
                let message = format!("the job as it reached agent {}: {error}", self.name);
                self.report(
                    id,
                    What::Failed(v1::Failed {
                        kind,
                        message,
                        memory_bytes_peak: None,
                        peak_source: 0,
                    }),
                );
            }
        }
    }

    fn begin(&mut self, id: AttemptId, beginning: Beginning) {
        // Whoever starts another attempt has given up the older ones.
        let older: Vec<_> = self.held.keys().copied().filter(|old| old.job == id.job).collect();
        let predecessors = older.iter().filter_map(|old| self.held.get(old).cloned()).collect();
        for old in older {
            self.kill(old, "another attempt begins");
        }
        let (wish, wishes) = watch::channel(Wish::Go);
        let (workspace, shop) = (self.folder.workspace(id), Arc::clone(&self.shop));
        let attempt = runner::Attempt::new(id, workspace, shop, self.upward.clone(), wishes);
        let task = self.tasks.spawn(attempt.live(beginning, predecessors));
        self.ids.insert(task.id(), id);
        self.held.insert(id, Arc::new(wish));
    }

    fn release(&mut self, id: AttemptId, why: &str, within: Duration) {
        match self.held.get(&id) {
            Some(wish) => {
                let wanted = Release { why: why.to_owned(), deadline: StdInstant::now() + within };
                wish.send_if_modified(|wish| {
                    let fresh = match wish {
                        Wish::Go => true,
                        Wish::Release(before) => wanted.deadline < before.deadline,
                        Wish::Die => false,
                    };
                    if fresh {
                        *wish = Wish::Release(wanted);
                    }
                    fresh
                });
            }
            None => self.report(id, released("it is not here")),
        }
    }

    fn kill(&mut self, id: AttemptId, why: &str) {
        self.outbox.forget(id);
        if let Some(wish) = self.held.get(&id) {
            info!("attempt {id}: to end at once: {why}");
            wish.send_replace(Wish::Die);
        }
    }

    /// A report was refused: most likely another attempt is the live one, and then what is said here changes
    /// nothing. If not, the coordinator must learn that this attempt has ended.
    fn give_up(&mut self, id: AttemptId, why: &str) {
        let alive = self.held.get(&id).is_some_and(|wish| *wish.borrow() != Wish::Die);
        self.kill(id, why);
        if alive {
            let kind = v1::FailureKind::from(FailureKind::Machine).into();
            let message = format!("a report of agent {} was refused: {why}", self.name);
            self.report(
                id,
                What::Failed(v1::Failed { kind, message, memory_bytes_peak: None, peak_source: 0 }),
            );
        }
    }

    fn bury(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        let task = match &ended {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        let Some(id) = self.ids.remove(&task) else { return };
        let dying = self.held.remove(&id).is_some_and(|wish| *wish.borrow() == Wish::Die);
        if let Err(error) = ended
            && !dying
        {
            error!("attempt {id}: {error}");
            let kind = v1::FailureKind::from(FailureKind::Machine).into();
            let message = format!("a defect in agent {}: {error}", self.name);
            self.report(
                id,
                What::Failed(v1::Failed { kind, message, memory_bytes_peak: None, peak_source: 0 }),
            );
        }
    }

    fn report(&mut self, id: AttemptId, what: What) {
        self.outbox.report(id, what, oneshot::channel().0);
    }

    /// Something an attempt says; the dying are not heard.
    fn say(&mut self, message: Upward) {
        let (Upward::Report { id, .. } | Upward::Metrics { id, .. } | Upward::Log { id, .. }) =
            &message;
        let id = *id;
        if self.held.get(&id).is_none_or(|wish| *wish.borrow() == Wish::Die) {
            return;
        }
        let (job, attempt) = (id.job.0, id.attempt.0);
        match message {
            Upward::Report { what, acked, .. } => self.outbox.report(id, *what, acked),
            Upward::Metrics { metrics, .. } => {
                let metrics = Some(metrics.into());
                self.outbox.chatter(id, Up::Metrics(v1::Metrics { job, attempt, metrics }));
            }
            Upward::Log { at_ms, text, .. } => {
                self.outbox.chatter(id, Up::Log(v1::Log { job, attempt, at_ms, text }));
            }
        }
    }

    // ── the end ──

    fn close(&mut self) {
        info!("agent {} shuts down", self.name);
        self.closing = Some(Instant::now() + self.stop_grace);
        // Nothing is lent any more, so that what is given back does not come back.
        self.beat();
        let held: Vec<_> = self.held.keys().copied().collect();
        for id in held {
            self.release(id, "the agent shuts down", self.stop_grace);
        }
    }

    // ── the owner ──

    /// Why jobs may not be here now, where they may not.
    fn closed(&self) -> Option<String> {
        let now_ms = runner::now_ms();
        self.availability.yields().then(|| self.availability.reason(now_ms)).flatten()
    }

    /// The card opened or closed. The coordinator hears of it before it hears what the jobs say, so that none of them
    /// comes back.
    fn heed(&mut self) {
        let availability = self.card.borrow_and_update().offer.availability.clone();
        if availability == self.availability {
            return;
        }
        self.availability = availability;
        self.beat();
        if let Some(why) = self.closed() {
            let held: Vec<_> = self.held.keys().copied().collect();
            for id in held {
                self.release(id, &why, self.yield_within);
            }
        }
    }
}

/// Resolves once the connection takes another message; `false` where there is none to wait for.
async fn room(link: Option<&Link>) -> bool {
    match link {
        Some(link) if link.welcomed => link.sender.reserve().await.is_ok(),
        _ => pending().await,
    }
}

fn released(message: &str) -> What {
    What::Released(v1::Released {
        message: message.into(),
        memory_bytes_peak: None,
        peak_source: 0,
    })
}

fn read_start(start: v1::Start) -> Result<Start, ConvertError> {
    Ok(Start {
        spec: start.spec.unwrap_or_default().try_into()?,
        checkpoint: start.checkpoint.map(TryInto::try_into).transpose()?,
        vram_bytes_limit: ByteSize(start.vram_bytes_limit),
        vram_bytes_budget: start.vram_bytes_budget.map(ByteSize),
        sources: start.sources.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
    })
}
