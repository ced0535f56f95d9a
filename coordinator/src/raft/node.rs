//! A node of the cluster: a thread that owns raft, the log and the right to change the state machine.
//!
//! ```text
//!   Node (any task) ──Request──▶ thread: messages ▸ snapshot ▸ append ▸ sync ▸ persisted messages ▸ apply ▸ advance
//!        ◀──────── Reply ────────┘         └──Event──▶ dispatch
//! ```
//!
//! Whatever waits is taken together, so that many commands share one sync; while many come, a round waits a moment for
//! more of them. When anything cannot be made durable or understood, the thread ends with an error and so must the
//! process.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use protobuf::Message as _;
use raft::prelude::{
    ConfChange, ConfChangeV2, Config, Entry, EntryType, Message, RawNode, Snapshot,
};
use raft::{ReadOnlyOption, StateRole};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc as tokio_mpsc, oneshot, watch};

use super::logger;
use super::machine::{Machine, MachineError, Proposal};
use super::network::Network;
use super::storage::{KeyValue, Log, StorageError};

/// Commands that may wait for a place in the log at the same time.
const PROPOSALS_IN_FLIGHT_MAX: usize = 1024;
/// Requests taken before the log is written.
const REQUESTS_PER_ROUND_MAX: usize = 256;
/// From one round to the next, while there is more than one request in each: a command that comes alone never waits.
const ROUND: Duration = Duration::from_millis(5);
const HEARTBEAT_TICKS: usize = 2;
const ELECTION_TICKS: usize = 10;

/// How the loop runs.
#[derive(Clone, Debug)]
pub(crate) struct NodeSettings {
    /// An election takes 10 to 20 of these.
    pub(crate) tick: Duration,
    /// A snapshot is taken after so many entries …
    pub(crate) snapshot_entries: u64,
    /// … or so many bytes of log, but of no fewer than half the snapshot before.
    pub(crate) snapshot_bytes: usize,
    /// How long a caller waits for its command to be applied.
    pub(crate) patience: Duration,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(100),
            snapshot_entries: 8192,
            snapshot_bytes: 16 << 20,
            patience: Duration::from_secs(10),
        }
    }
}

/// Why a command was not, or may not have been, carried out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum ProposeError {
    /// It was not taken.
    #[error("this node does not lead")]
    NotLeader,
    /// It was not taken.
    #[error("too many commands wait to be written, try again")]
    Busy,
    /// It may or may not be carried out.
    #[error("whether the request was carried out is not known, repeat it with the same request id")]
    Unknown,
    /// It may or may not be carried out.
    #[error("the coordinator is stopping")]
    Stopped,
}

/// Why a node ended.
#[derive(Debug, Error)]
pub(crate) enum NodeError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("raft refused: {0}")]
    Raft(#[from] raft::Error),
    #[error(
        "entry {index} of the log is not understood: {source}; it was probably written by a newer \
         version: start that one"
    )]
    Entry { index: u64, source: MachineError },
    #[error("snapshot {index} is not understood: {source}")]
    Snapshot { index: u64, source: MachineError },
    #[error("cannot start the node's thread: {0}")]
    Thread(io::Error),
    #[error("the node's thread panicked")]
    Panicked,
}

/// What the rest of the process should know of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<E> {
    /// This node leads, and its state holds everything that was ever acknowledged.
    Leading,
    /// It does not lead any more.
    Following,
    /// A command was carried out while this node leads.
    Applied(Vec<E>),
}

type Answer<T> = oneshot::Sender<Result<T, ProposeError>>;

/// Who waits for an entry, and what it says, where that was read.
type Waiting<M> = (Answer<<M as Machine>::Reply>, Option<<M as Machine>::Command>);

enum Request<M: Machine> {
    Propose(Proposal<M::Command>, Answer<M::Reply>),
    Read(Answer<()>),
    #[cfg_attr(not(test), expect(dead_code, reason = "nobody sends to a cluster of one"))]
    Deliver(Vec<u8>),
    Stop,
}

/// A handle on a running node.
pub(crate) struct Node<M: Machine> {
    requests: mpsc::Sender<Request<M>>,
    permits: Semaphore,
    machine: Arc<RwLock<M>>,
    applied: watch::Receiver<u64>,
    patience: Duration,
}

/// Resolves when a node has ended: as asked, or not.
pub(crate) struct Ended(oneshot::Receiver<Result<(), NodeError>>);

impl Ended {
    pub(crate) async fn wait(&mut self) -> Result<(), NodeError> {
        (&mut self.0).await.unwrap_or(Err(NodeError::Panicked))
    }
}

impl<M: Machine> Node<M> {
    /// Starts a node from its log: `machine` becomes the state of the last snapshot, and later what follows from the log.
    pub(crate) fn start(
        log: Log<impl KeyValue>,
        mut machine: M,
        network: impl Network,
        settings: &NodeSettings,
        events: tokio_mpsc::UnboundedSender<Event<M::Effect>>,
    ) -> Result<(Self, Ended), NodeError> {
        let index = log.snapshot_index();
        machine
            .restore(&log.snapshot_data()?)
            .map_err(|source| NodeError::Snapshot { index, source })?;
        let machine = Arc::new(RwLock::new(machine));
        let config = Config {
            id: log.identity().node,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: index,
            max_size_per_msg: 1 << 20,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: 64 << 20,
            max_committed_size_per_ready: 16 << 20,
            ..Config::default()
        };
        let raw = RawNode::new(&config, log, &logger::bridge())?;
        let (requests, inbox) = mpsc::channel();
        let (applied_sender, applied) = watch::channel(index);
        let loop_ = Loop {
            raw,
            machine: Arc::clone(&machine),
            network,
            settings: settings.clone(),
            inbox,
            events,
            applied: applied_sender,
            boot: boot_number(),
            asked: 0,
            proposals: HashMap::new(),
            reads: HashMap::new(),
            reads_known: Vec::new(),
            reads_early: Vec::new(),
            leading: false,
        };
        let (ended, wait) = oneshot::channel();
        thread::Builder::new()
            .name("raft".into())
            .spawn(move || {
                // Nobody may wait any more; then nobody needs to know.
                let _ = ended.send(loop_.run());
            })
            .map_err(NodeError::Thread)?;
        let permits = Semaphore::new(PROPOSALS_IN_FLIGHT_MAX);
        let patience = settings.patience;
        Ok((Self { requests, permits, machine, applied, patience }, Ended(wait)))
    }

    /// Puts a command into the log and answers once it was carried out: it is durable then.
    pub(crate) async fn propose(
        &self,
        command: impl Into<Proposal<M::Command>>,
    ) -> Result<M::Reply, ProposeError> {
        let _permit = self.permits.try_acquire().map_err(|_| ProposeError::Busy)?;
        self.ask(|answer| Request::Propose(command.into(), answer)).await
    }

    /// Puts commands into the log in this order, without waiting in between; they share its syncs. One answer for each.
    pub(crate) async fn propose_all(
        &self,
        commands: Vec<impl Into<Proposal<M::Command>>>,
    ) -> Vec<Result<M::Reply, ProposeError>> {
        let asked = commands.into_iter().map(|command| {
            let permit = self.permits.try_acquire().map_err(|_| ProposeError::Busy)?;
            Ok((permit, self.send(|answer| Request::Propose(command.into(), answer))?))
        });
        // All are sent before the first is waited for.
        let asked: Vec<_> = asked.collect();
        let mut answers = Vec::with_capacity(asked.len());
        for asked in asked {
            answers.push(match asked {
                Ok((_permit, wait)) => self.wait(wait).await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Returns once this node's state holds everything acknowledged before the call, by whichever node.
    pub(crate) async fn catch_up(&self) -> Result<(), ProposeError> {
        self.ask(Request::Read).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(Answer<T>) -> Request<M>,
    ) -> Result<T, ProposeError> {
        self.wait(self.send(request)?).await
    }

    fn send<T>(
        &self,
        request: impl FnOnce(Answer<T>) -> Request<M>,
    ) -> Result<oneshot::Receiver<Result<T, ProposeError>>, ProposeError> {
        let (answer, wait) = oneshot::channel();
        self.requests.send(request(answer)).map_err(|_| ProposeError::Stopped)?;
        Ok(wait)
    }

    async fn wait<T>(
        &self,
        wait: oneshot::Receiver<Result<T, ProposeError>>,
    ) -> Result<T, ProposeError> {
        match tokio::time::timeout(self.patience, wait).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    /// Looks at the state as it is here and now.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&M) -> T) -> T {
        look(&self.machine.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes whenever the state may have.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }

    /// Hands over a message from another node.
    #[cfg(test)]
    pub(crate) fn deliver(&self, message: Vec<u8>) {
        let _ = self.requests.send(Request::Deliver(message));
    }

    /// Ends the thread; [`Ended`] tells when.
    pub(crate) fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.requests.send(Request::Stop);
    }
}

/// Tells this process's proposals from those of an earlier one and of other nodes.
fn boot_number() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

struct Loop<M: Machine, S: KeyValue, N> {
    raw: RawNode<Log<S>>,
    machine: Arc<RwLock<M>>,
    network: N,
    settings: NodeSettings,
    inbox: mpsc::Receiver<Request<M>>,
    events: tokio_mpsc::UnboundedSender<Event<M::Effect>>,
    applied: watch::Sender<u64>,
    boot: u64,
    asked: u64,
    proposals: HashMap<Vec<u8>, Waiting<M>>,
    reads: HashMap<Vec<u8>, Answer<()>>,
    /// To be answered once this index is applied.
    reads_known: Vec<(u64, Answer<()>)>,
    /// Asked before this term's first entry was committed.
    reads_early: Vec<Answer<()>>,
    leading: bool,
}

impl<M: Machine, S: KeyValue, N: Network> Loop<M, S, N> {
    fn run(mut self) -> Result<(), NodeError> {
        let alone = {
            let voters = self.raw.raft.prs().conf().voters();
            voters.ids().iter().eq([self.raw.raft.id])
        };
        if alone {
            self.raw.campaign()?;
        }
        let mut tick_at = Instant::now() + self.settings.tick;
        let mut crowded = false;
        loop {
            let round_at = Instant::now();
            self.work()?;
            match self.inbox.recv_timeout(tick_at.saturating_duration_since(Instant::now())) {
                Ok(Request::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(request) => self.take(request),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if crowded {
                thread::sleep(ROUND.saturating_sub(round_at.elapsed()));
            }
            crowded = false;
            for _ in 1..REQUESTS_PER_ROUND_MAX {
                match self.inbox.try_recv() {
                    Ok(Request::Stop) => return Ok(()),
                    Ok(request) => {
                        crowded = true;
                        self.take(request);
                    }
                    Err(_) => break,
                }
            }
            // One tick however long the process slept: time that nobody lived through is no reason for an election.
            if Instant::now() >= tick_at {
                self.raw.tick();
                tick_at = Instant::now() + self.settings.tick;
            }
        }
    }

    fn take(&mut self, request: Request<M>) {
        match request {
            Request::Propose(Proposal { entry, command }, answer) => {
                let context = self.number();
                match self.raw.propose(context.clone(), entry) {
                    Ok(()) => {
                        self.proposals.insert(context, (answer, command));
                    }
                    Err(_) => {
                        let leads = self.raw.raft.state == StateRole::Leader;
                        let error =
                            if leads { ProposeError::Busy } else { ProposeError::NotLeader };
                        reply(answer, Err(error));
                    }
                }
            }
            Request::Read(answer) => self.ask_index(answer),
            Request::Deliver(bytes) => {
                let stepped = Message::parse_from_bytes(&bytes)
                    .map_err(raft::Error::from)
                    .and_then(|message| self.raw.step(message));
                if let Err(error) = stepped {
                    tracing::warn!(%error, "a message from another node was dropped");
                }
            }
            Request::Stop => {}
        }
    }

    fn ask_index(&mut self, answer: Answer<()>) {
        if self.raw.raft.state != StateRole::Leader {
            reply(answer, Err(ProposeError::NotLeader));
        } else if self.raw.raft.commit_to_current_term() {
            let context = self.number();
            self.raw.read_index(context.clone());
            self.reads.insert(context, answer);
        } else {
            self.reads_early.push(answer);
        }
    }

    fn number(&mut self) -> Vec<u8> {
        self.asked += 1;
        [self.boot.to_be_bytes(), self.asked.to_be_bytes()].concat()
    }

    /// Carries out whatever raft has ready.
    fn work(&mut self) -> Result<(), NodeError> {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            self.send(ready.take_messages());

            let snapshot = Some(ready.snapshot()).filter(|s| s.get_metadata().index > 0).cloned();
            let entries = ready.take_entries();
            if snapshot.is_some() || !entries.is_empty() || ready.hs().is_some() {
                let hard_state = ready.hs().cloned();
                self.raw.mut_store().persist(snapshot.as_ref(), entries, hard_state.as_ref())?;
            }
            if let Some(snapshot) = snapshot {
                self.restore(&snapshot)?;
            }
            self.send(ready.take_persisted_messages());
            self.apply(ready.take_committed_entries())?;
            let read_states = ready.take_read_states();

            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.mut_store().set_commit(commit);
            }
            self.send(light.take_messages());
            self.apply(light.take_committed_entries())?;
            self.raw.advance_apply();

            for state in read_states {
                if let Some(answer) = self.reads.remove(&state.request_ctx) {
                    self.reads_known.push((state.index, answer));
                }
            }
            let applied = self.raw.raft.raft_log.applied;
            for (_, answer) in self.reads_known.extract_if(.., |(index, _)| *index <= applied) {
                reply(answer, Ok(()));
            }
            self.follow_leadership();
        }
        self.compact()
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            match message.write_to_bytes() {
                Ok(bytes) => self.network.send(message.to, bytes),
                Err(error) => tracing::error!(%error, "a message cannot be written"),
            }
        }
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), NodeError> {
        let index = snapshot.get_metadata().index;
        self.machine
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .restore(&snapshot.data)
            .map_err(|source| NodeError::Snapshot { index, source })?;
        self.applied.send_replace(index);
        Ok(())
    }

    fn apply(&mut self, entries: Vec<Entry>) -> Result<(), NodeError> {
        let Some(last) = entries.last().map(|entry| entry.index) else { return Ok(()) };
        let mut answers = Vec::new();
        for entry in entries {
            match entry.get_entry_type() {
                // A leader begins its term with an empty one.
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => {
                    let index = entry.index;
                    let (answer, command) = self.proposals.remove(&entry.context[..]).unzip();
                    let command = match command.flatten() {
                        Some(command) => command,
                        None => M::read(&entry.data)
                            .map_err(|source| NodeError::Entry { index, source })?,
                    };
                    let mut machine = self.machine.write().unwrap_or_else(PoisonError::into_inner);
                    let (said, effects) = machine.apply(command);
                    drop(machine);
                    answers.extend(answer.map(|answer| (answer, said)));
                    if self.leading {
                        self.tell(Event::Applied(effects));
                    }
                }
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.change_members(&entry)?;
                }
            }
        }
        self.applied.send_replace(last);
        // After the index moved: whoever hears of its command sees it in the state.
        for (answer, said) in answers {
            reply(answer, Ok(said));
        }
        Ok(())
    }

    fn change_members(&mut self, entry: &Entry) -> Result<(), NodeError> {
        let conf_state = if entry.get_entry_type() == EntryType::EntryConfChange {
            let change = ConfChange::parse_from_bytes(&entry.data).map_err(raft::Error::from)?;
            self.raw.apply_conf_change(&change)?
        } else {
            let change = ConfChangeV2::parse_from_bytes(&entry.data).map_err(raft::Error::from)?;
            self.raw.apply_conf_change(&change)?
        };
        Ok(self.raw.mut_store().set_conf_state(conf_state)?)
    }

    fn follow_leadership(&mut self) {
        let leads = self.raw.raft.state == StateRole::Leader;
        let caught_up = self.raw.raft.commit_to_current_term()
            && self.raw.raft.raft_log.applied == self.raw.raft.raft_log.committed;
        if leads && caught_up && !self.leading {
            self.leading = true;
            self.tell(Event::Leading);
        }
        if leads && caught_up {
            for answer in std::mem::take(&mut self.reads_early) {
                self.ask_index(answer);
            }
        }
        if !leads {
            if std::mem::take(&mut self.leading) {
                self.tell(Event::Following);
            }
            for (_, (answer, _)) in self.proposals.drain() {
                reply(answer, Err(ProposeError::Unknown));
            }
            let reads = self.reads.drain().map(|(_, answer)| answer);
            for answer in reads.chain(self.reads_early.drain(..)) {
                reply(answer, Err(ProposeError::NotLeader));
            }
        }
    }

    fn compact(&mut self) -> Result<(), NodeError> {
        let index = self.raw.raft.raft_log.applied;
        let log = self.raw.store();
        let entries = index - log.snapshot_index();
        let long = entries >= self.settings.snapshot_entries
            || log.entry_bytes() >= self.settings.snapshot_bytes;
        // A large state is not written down for every few entries: what is written stays in proportion to what happened.
        let due = long && log.entry_bytes() >= log.snapshot_bytes() / 2;
        if entries == 0 || !due {
            return Ok(());
        }
        let state = self
            .machine
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .snapshot()
            .map_err(|source| NodeError::Snapshot { index, source })?;
        self.raw.mut_store().compact(index, &state)?;
        tracing::debug!(index, bytes = state.len(), "snapshot taken");
        Ok(())
    }

    fn tell(&self, event: Event<M::Effect>) {
        // Nobody listens while the process stops.
        let _ = self.events.send(event);
    }
}

fn reply<T>(answer: Answer<T>, with: Result<T, ProposeError>) {
    // Whoever asked may have given up.
    let _ = answer.send(with);
}
