//! What the leader does about the state: asks the scheduler what should happen next, puts its answer into the log, and
//! carries out what the log says.
//!
//! ```text
//!   sessions ── who is heard ──▶ plan ──▶ commands ──▶ log ──▶ effects ──▶ sessions ──▶ agents
//!                                 ▲ every tick, and after changes that ask for it
//! ```
//!
//! Whatever changes while a plan is on its way into the log is answered by one plan after it.

mod effects;
mod sessions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetune_scheduler::placement::{Policy, plan};
use fleetune_scheduler::state::{Command, Effect};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::coordinator::Coordinator;
use crate::error::Error;
use crate::raft::Event;

pub(crate) use sessions::{Session, Sessions};

/// How often unneeded blobs are looked for when nothing hints at them.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How long hints are gathered first.
const SWEEP_DELAY: Duration = Duration::from_secs(20);

/// Commands of a plan that go into the log together; others have their turn in between.
const WISHES_AT_ONCE: usize = 256;

pub(crate) struct Dispatcher {
    coordinator: Arc<Coordinator>,
    events: UnboundedReceiver<Event<Effect>>,
    leads: bool,
    /// Whether something changed that another plan may answer.
    replan: bool,
    /// When the last round ended.
    awake_at: Instant,
    sweep_at: Instant,
}

impl Dispatcher {
    pub(crate) fn new(
        coordinator: Arc<Coordinator>,
        events: UnboundedReceiver<Event<Effect>>,
    ) -> Self {
        let now = Instant::now();
        Self { coordinator, events, leads: false, replan: false, awake_at: now, sweep_at: now }
    }

    /// Runs until the coordinator stops.
    pub(crate) async fn run(mut self) {
        let mut tick = tokio::time::interval(self.coordinator.heartbeat);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let stopping = self.coordinator.stopping.clone();
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                event = self.events.recv() => match event {
                    Some(event) => self.hear(event),
                    None => return,
                },
                _ = tick.tick() => self.replan = true,
            }
            while let Ok(event) = self.events.try_recv() {
                self.hear(event);
            }
            if self.leads {
                if std::mem::take(&mut self.replan) {
                    self.decide().await;
                }
                self.sweep();
            }
        }
    }

    fn hear(&mut self, event: Event<Effect>) {
        let Coordinator { sessions, clock, .. } = &*self.coordinator;
        match event {
            Event::Leading => {
                self.leads = true;
                self.replan = true;
                sessions.take_office(clock.now_ms());
            }
            Event::Following => {
                self.leads = false;
                sessions.close_all();
            }
            Event::Applied(effects) => {
                for effect in effects {
                    match effect {
                        Effect::BlobsReleased(_) => {
                            self.sweep_at = self.sweep_at.min(Instant::now() + SWEEP_DELAY);
                        }
                        Effect::Replan => self.replan = true,
                        Effect::Start { .. } | Effect::Stop { .. } | Effect::JobChanged(_) => {}
                    }
                    effects::carry_out(&self.coordinator, effect);
                }
            }
        }
    }

    /// Proposes what the scheduler wishes.
    async fn decide(&mut self) {
        let coordinator = Arc::clone(&self.coordinator);
        let lease_ms = coordinator.lease.as_millis() as u64;
        let now_ms = coordinator.clock.now_ms();
        // This process stood still (stopped, or waiting for its disk): silence in that time was ours.
        if self.awake_at.elapsed() > coordinator.lease / 2 {
            coordinator.sessions.forgive(now_ms);
        }
        coordinator.sessions.expire(now_ms, lease_ms);
        let liveness = coordinator.sessions.liveness();
        let commands =
            coordinator.state(|state| plan(state, &liveness, Policy { lease_ms }, now_ms));
        for command in &commands {
            if let Command::Leave { agent, .. } = command {
                tracing::warn!(%agent, "silent for too long, its jobs go back to the queue");
            }
        }
        // In the plan's order: a departure frees what a later placement may be refused for.
        for wishes in commands.chunks(WISHES_AT_ONCE) {
            let mut lost = None;
            for outcome in coordinator.propose_all(wishes).await {
                match outcome {
                    Ok(_) => {}
                    // The state moved on since the plan was made: the next plan knows.
                    Err(Error::Refused(refusal)) => {
                        tracing::debug!(%refusal, "a wish came too late");
                    }
                    Err(error) => lost = Some(error),
                }
            }
            if let Some(error) = lost {
                tracing::warn!(%error, "the scheduler's wish did not reach the log");
                break;
            }
        }
        self.awake_at = Instant::now();
    }

    fn sweep(&mut self) {
        if Instant::now() >= self.sweep_at {
            self.sweep_at = Instant::now() + SWEEP_EVERY;
            let coordinator = Arc::clone(&self.coordinator);
            tokio::task::spawn_blocking(move || coordinator.sweep_blobs());
        }
    }
}
