//! Read-only pictures of the state, as front ends show them.

use std::collections::BTreeMap;

use fleetune_shared::view::{
    AgentHistory, AgentView, CorrectionView, FailureView, FleetView, HistoryView, JobPhase, JobView,
};
use fleetune_shared::{Accuracy, AgentName, AttemptRecord, ByteSize, Offer, Work};

use crate::Liveness;
use crate::explain::Picture;
use crate::learning::Kind;
use crate::state::{Agent, Job, Phase, State};

/// The phase as front ends name it.
#[must_use]
pub fn phase(phase: &Phase) -> JobPhase {
    match phase {
        Phase::Queued => JobPhase::Queued,
        Phase::Assigned(_) => JobPhase::Assigned,
        Phase::Running(_) => JobPhase::Running,
        Phase::Succeeded { .. } => JobPhase::Succeeded,
        Phase::Failed => JobPhase::Failed,
        Phase::Cancelled => JobPhase::Cancelled,
    }
}

/// The whole fleet.
#[must_use]
pub fn fleet(state: &State, liveness: &Liveness) -> FleetView {
    let picture = Picture::of(state, liveness);
    let records = records(state);
    let accuracy = |agent: &Agent| {
        records.get(&agent.name).map(|own| Accuracy::of(own.iter().copied())).unwrap_or_default()
    };
    FleetView {
        agents: state.agents().map(|a| agent(state, liveness, a, accuracy(a))).collect(),
        jobs: state.jobs().map(|j| listed(&picture, j)).collect(),
    }
}

/// What the fleet has learned of its estimates.
#[must_use]
pub fn history(state: &State) -> HistoryView {
    let of_agent = |(agent, own): (&AgentName, Vec<&AttemptRecord>)| AgentHistory {
        agent: agent.clone(),
        accuracy: Accuracy::of(own),
    };
    HistoryView {
        fleet: Accuracy::of(state.jobs().flat_map(|job| &job.attempts)),
        agents: records(state).into_iter().map(of_agent).collect(),
        corrections: state.corrections().kinds().into_iter().map(correction).collect(),
    }
}

fn correction(kind: Kind) -> CorrectionView {
    let Kind { family, traits, source, samples, median, most, correction } = kind;
    CorrectionView {
        family,
        method: traits.method.word().into(),
        dtype: traits.dtype.word().into(),
        attention: traits.attention.word().into(),
        tokens_max: traits.length.most(),
        peak_source: source,
        samples: samples as u64,
        ratio_median: median,
        ratio_most: most,
        correction,
    }
}

/// Attempts that have ended, by agent.
fn records(state: &State) -> BTreeMap<&AgentName, Vec<&AttemptRecord>> {
    let mut records: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in state.jobs().flat_map(|job| &job.attempts) {
        records.entry(&record.agent).or_default().push(record);
    }
    records
}

fn agent(state: &State, liveness: &Liveness, agent: &Agent, accuracy: Accuracy) -> AgentView {
    AgentView {
        name: agent.name.clone(),
        connected: agent.present && liveness.is_connected(&agent.name),
        draining: agent.draining,
        offer: Offer { availability: agent.availability().clone(), ..agent.offer.clone() },
        telemetry: None,
        vram_bytes_reserved: ByteSize(state.vram_bytes_reserved(&agent.name)),
        vram_bytes_open: agent.vram_bytes_open(),
        jobs: state.held_by(&agent.name).map(|j| j.id).collect(),
        accuracy,
    }
}

/// One job. Its latest metrics are not replicated: the caller adds them.
#[must_use]
pub fn job(state: &State, liveness: &Liveness, job: &Job) -> JobView {
    job_in(&Picture::of(state, liveness), job)
}

/// One of many, with when it is expected to start.
fn listed(picture: &Picture<'_>, job: &Job) -> JobView {
    JobView { expected_start_ms: picture.expected_start_ms(job), ..job_in(picture, job) }
}

fn job_in(picture: &Picture<'_>, job: &Job) -> JobView {
    let (artifact, summary, lineage) = match &job.phase {
        Phase::Succeeded { artifact, summary, lineage, .. } => {
            (Some(artifact.clone()), Some((**summary).clone()), Some(lineage.clone()))
        }
        _ => (None, None, None),
    };
    let agent = match &job.phase {
        Phase::Succeeded { agent, .. } => Some(agent.clone()),
        _ => job
            .lease()
            .map(|lease| lease.agent.clone())
            .or_else(|| job.failure.as_ref().filter(|_| job.is_final()).map(|f| f.agent.clone())),
    };
    let device =
        agent.as_ref().and_then(|name| picture.state().agent(name)).map(|a| a.offer.card.device);
    let estimate = match device {
        Some(device) => job.estimate(device).copied().unwrap_or_default(),
        None => picture.estimate_of(job),
    };
    JobView {
        id: job.id,
        name: job.spec.name.clone(),
        kind: job.spec.work.kind().to_owned(),
        priority: job.spec.priority,
        sweep: job.spec.sweep.clone(),
        sweep_keys: job.spec.sweep_keys.clone(),
        phase: phase(&job.phase),
        attempt: job.attempt,
        agent,
        estimate,
        submitted_ms: job.submitted_ms,
        started_ms: job.started_ms,
        ended_ms: job.ended_ms,
        steps_total: job.steps_total,
        latest: None,
        checkpoint_step: job.checkpoint.as_ref().map(|c| c.step),
        summary,
        artifact,
        lineage,
        failure: job.failure.as_ref().map(|f| FailureView {
            kind: f.kind,
            message: f.message.clone(),
            attempt: f.attempt,
        }),
        attempts: job.attempts.clone(),
        rung: job.rung.view(),
        expected_start_ms: None,
        waiting: (job.phase == Phase::Queued).then(|| picture.in_short(job)),
        recipe_json: match &job.spec.work {
            Work::Train { recipe } => recipe.canonical_json(),
            Work::Merge(_) => String::new(),
        },
        inputs: job.spec.inputs.clone(),
        model: job.spec.model.clone(),
    }
}
