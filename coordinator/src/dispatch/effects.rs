//! From what the log says is to be done to messages for agents.

use fleetune_proto::v1;
use fleetune_scheduler::state::{Effect, State, StopReason};
use fleetune_scheduler::{Liveness, sources};
use fleetune_shared::{AgentName, Attempt, JobId};
use v1::coordinator_message::Message;

use crate::coordinator::Coordinator;

/// Carries out one effect. An agent that is not there hears of it when it says hello again: the state says what it
/// should have.
pub(super) fn carry_out(coordinator: &Coordinator, effect: Effect) {
    match effect {
        Effect::Start { agent, job, attempt } => {
            let start = coordinator.sessions.look(|liveness| {
                coordinator.state(|state| start(state, liveness, &agent, job, attempt))
            });
            if let Some(start) = start {
                tracing::info!(%agent, %job, %attempt, "start");
                coordinator.sessions.send(&agent, Message::Start(start));
            }
        }
        Effect::Stop { agent, job, attempt, reason } => {
            let for_owner = reason == StopReason::Owner;
            let reason = match reason {
                StopReason::Cancelled => v1::StopReason::Cancelled,
                StopReason::Yield | StopReason::Owner => v1::StopReason::Yield,
                StopReason::Fenced => v1::StopReason::Fenced,
            };
            tracing::info!(%agent, %job, %attempt, ?reason, for_owner, "stop");
            let stop =
                v1::Stop { job: job.0, attempt: attempt.0, reason: reason.into(), for_owner };
            coordinator.sessions.send(&agent, Message::Stop(stop));
        }
        // Watchers follow the applied index, the dispatcher plans and sweeps in its own time.
        Effect::JobChanged(_) | Effect::Replan | Effect::BlobsReleased(_) => {}
    }
}

/// What an agent needs to start an attempt; `None` when it is not wanted any more.
fn start(
    state: &State,
    liveness: &Liveness,
    agent: &AgentName,
    id: JobId,
    attempt: Attempt,
) -> Option<v1::Start> {
    let job = state.job(id).filter(|job| job.attempt == attempt)?;
    let lease = job.lease().filter(|lease| lease.agent == *agent)?;
    Some(v1::Start {
        job: id.0,
        attempt: attempt.0,
        spec: Some(job.ordered().into()),
        checkpoint: job.checkpoint.clone().map(Into::into),
        vram_bytes_limit: lease.vram_bytes.0,
        vram_bytes_budget: Some(lease.vram_bytes_budget().0),
        sources: sources(state, liveness, job, agent).into_iter().map(Into::into).collect(),
    })
}
