//! Open sessions: who can be talked to, and when each was last heard. One per agent; a newer one ends an older.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleetune_proto::v1;
use fleetune_scheduler::Liveness;
use fleetune_shared::{AgentName, Telemetry};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Messages that may wait for an agent; with more waiting, it is not listening.
const MESSAGES_WAITING_MAX: usize = 256;

pub(crate) type Outgoing = Result<v1::CoordinatorMessage, Status>;

#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    liveness: Liveness,
    sessions: HashMap<AgentName, Line>,
    opened: u64,
}

/// This side's end of a session.
#[derive(Debug)]
struct Line {
    number: u64,
    sender: mpsc::Sender<Outgoing>,
    ended: CancellationToken,
    telemetry: Option<Telemetry>,
}

/// A session as its task holds it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) agent: AgentName,
    number: u64,
    pub(crate) sender: mpsc::Sender<Outgoing>,
    /// Cancelled when the session is over for this side.
    pub(crate) ended: CancellationToken,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a session; what is sent to the agent comes out of the receiver.
    pub(crate) fn open(
        &self,
        agent: &AgentName,
        now_ms: u64,
    ) -> (Session, mpsc::Receiver<Outgoing>) {
        let (sender, receiver) = mpsc::channel(MESSAGES_WAITING_MAX);
        let ended = CancellationToken::new();
        let mut open = self.lock();
        open.opened += 1;
        let number = open.opened;
        let line = Line { number, sender: sender.clone(), ended: ended.clone(), telemetry: None };
        if let Some(older) = open.sessions.insert(agent.clone(), line) {
            older.ended.cancel();
        }
        open.liveness.connected.insert(agent.clone());
        open.liveness.heard_ms.insert(agent.clone(), now_ms);
        (Session { agent: agent.clone(), number, sender, ended }, receiver)
    }

    /// Something came from the agent. False when its session is not the open one.
    pub(crate) fn heard(&self, session: &Session, now_ms: u64) -> bool {
        let mut open = self.lock();
        let current =
            open.sessions.get(&session.agent).is_some_and(|line| line.number == session.number);
        if current {
            open.liveness.heard_ms.insert(session.agent.clone(), now_ms);
        }
        current
    }

    /// What the agent says its card is doing.
    pub(crate) fn measured(&self, session: &Session, telemetry: Telemetry) {
        if let Some(line) = self.lock().sessions.get_mut(&session.agent) {
            line.telemetry = Some(telemetry);
        }
    }

    /// What each agent's card was doing when its agent was heard last.
    pub(crate) fn telemetry(&self) -> HashMap<AgentName, Telemetry> {
        let open = self.lock();
        let known =
            |(agent, line): (&AgentName, &Line)| Some((agent.clone(), line.telemetry.clone()?));
        open.sessions.iter().filter_map(known).collect()
    }

    /// The session's task has ended.
    pub(crate) fn close(&self, session: &Session) {
        let mut open = self.lock();
        if open.sessions.get(&session.agent).is_some_and(|line| line.number == session.number) {
            open.end(&session.agent);
        }
    }

    /// Sends to an agent, if it is there; one that does not listen loses its session.
    pub(crate) fn send(&self, agent: &AgentName, message: v1::coordinator_message::Message) {
        let mut open = self.lock();
        let message = v1::CoordinatorMessage { message: Some(message) };
        let sent = open.sessions.get(agent).is_none_or(|l| l.sender.try_send(Ok(message)).is_ok());
        if !sent {
            tracing::warn!(%agent, "does not listen, its session is ended");
            open.end(agent);
        }
    }

    /// Ends sessions that are open but silent.
    pub(crate) fn expire(&self, now_ms: u64, lease_ms: u64) {
        let mut open = self.lock();
        let silent: Vec<_> = open
            .sessions
            .keys()
            .filter(|agent| open.liveness.silence_ms(agent, now_ms) > lease_ms)
            .cloned()
            .collect();
        for agent in silent {
            tracing::warn!(%agent, "silent, its session is ended");
            open.end(&agent);
        }
    }

    /// This node leads from now on: nobody counts as silent before.
    pub(crate) fn take_office(&self, now_ms: u64) {
        self.lock().liveness.leader_since_ms = now_ms;
    }

    /// Silence so far is nobody's fault but ours.
    pub(crate) fn forgive(&self, now_ms: u64) {
        let liveness = &mut self.lock().liveness;
        liveness.leader_since_ms = liveness.leader_since_ms.max(now_ms);
    }

    /// Ends every session: another node leads, or none.
    pub(crate) fn close_all(&self) {
        let mut open = self.lock();
        for agent in open.sessions.keys().cloned().collect::<Vec<_>>() {
            open.end(&agent);
        }
    }

    pub(crate) fn liveness(&self) -> Liveness {
        self.look(Liveness::clone)
    }

    /// Looks at who is heard, without a copy of it; nobody is heard meanwhile.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Liveness) -> T) -> T {
        look(&self.lock().liveness)
    }
}

impl Open {
    fn end(&mut self, agent: &AgentName) {
        if let Some(line) = self.sessions.remove(agent) {
            line.ended.cancel();
        }
        self.liveness.connected.remove(agent);
    }
}
