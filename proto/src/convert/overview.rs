//! What front ends show: jobs, agents, explanations.

use fleetune_shared::view::{
    AgentView, CardVerdict, Explanation, FailureView, FleetView, JobPhase, JobView, Verdict,
};
use fleetune_shared::{AgentName, Attempt, ByteSize, FailureKind, JobId};

use super::job::{model_from_json, model_to_json};
use super::{ConvertError, Field, enumeration, list, optional, required};
use crate::v1;

super::convert_enum!(JobPhase, JobPhase, Queued, Assigned, Running, Succeeded, Failed, Cancelled);
super::convert_enum!(
    Verdict,
    Verdict,
    Fits,
    Busy,
    Full,
    Unsuitable,
    TooSmall,
    Disconnected,
    Draining,
    Closed
);

pub(super) fn agent_name(field: &str, name: String) -> Result<AgentName, ConvertError> {
    AgentName::try_from(name)
        .map_err(|error| ConvertError::new(format!("is refused: {error}")))
        .field(field)
}

impl From<FailureView> for v1::Failure {
    fn from(failure: FailureView) -> Self {
        Self {
            kind: failure.kind.map_or(v1::FailureKind::Unspecified, v1::FailureKind::from).into(),
            message: failure.message,
            attempt: failure.attempt.0,
        }
    }
}

impl TryFrom<v1::Failure> for FailureView {
    type Error = ConvertError;
    fn try_from(failure: v1::Failure) -> Result<Self, ConvertError> {
        // Unspecified has a meaning here: the attempt was simply lost.
        let kind: Option<FailureKind> = match failure.kind {
            0 => None,
            number => Some(enumeration::<v1::FailureKind, _>("kind", number)?),
        };
        Ok(Self { kind, message: failure.message, attempt: Attempt(failure.attempt) })
    }
}

impl From<JobView> for v1::Job {
    fn from(job: JobView) -> Self {
        Self {
            id: job.id.0,
            name: job.name,
            kind: job.kind,
            priority: job.priority,
            sweep: job.sweep,
            sweep_keys: job.sweep_keys.into_iter().collect(),
            phase: v1::JobPhase::from(job.phase).into(),
            attempt: job.attempt.0,
            agent: job.agent.map(Into::into),
            estimate: Some(job.estimate.into()),
            submitted_ms: job.submitted_ms,
            started_ms: job.started_ms,
            ended_ms: job.ended_ms,
            steps_total: job.steps_total,
            latest: job.latest.map(Into::into),
            checkpoint_step: job.checkpoint_step,
            summary: job.summary.map(Into::into),
            artifact: job.artifact.map(Into::into),
            lineage: job.lineage.map(Into::into),
            failure: job.failure.map(Into::into),
            waiting: job.waiting,
            recipe_json: job.recipe_json,
            inputs: job.inputs.into_iter().map(Into::into).collect(),
            model_json: model_to_json(&job.model),
            attempts: job.attempts.into_iter().map(Into::into).collect(),
            rung: job.rung.map(Into::into),
            expected_start_ms: job.expected_start_ms,
        }
    }
}

impl TryFrom<v1::Job> for JobView {
    type Error = ConvertError;
    fn try_from(job: v1::Job) -> Result<Self, ConvertError> {
        Ok(Self {
            id: JobId(job.id),
            name: job.name,
            kind: job.kind,
            priority: job.priority,
            sweep: job.sweep,
            sweep_keys: job.sweep_keys.into_iter().collect(),
            phase: enumeration::<v1::JobPhase, _>("phase", job.phase)?,
            attempt: Attempt(job.attempt),
            agent: job.agent.map(|name| agent_name("agent", name)).transpose()?,
            estimate: required("estimate", job.estimate)?,
            submitted_ms: job.submitted_ms,
            started_ms: job.started_ms,
            ended_ms: job.ended_ms,
            steps_total: job.steps_total,
            latest: optional("latest", job.latest)?,
            checkpoint_step: job.checkpoint_step,
            summary: optional("summary", job.summary)?,
            artifact: optional("artifact", job.artifact)?,
            lineage: optional("lineage", job.lineage)?,
            failure: optional("failure", job.failure)?,
            waiting: job.waiting,
            recipe_json: job.recipe_json,
            inputs: list("inputs", job.inputs)?,
            model: model_from_json(&job.model_json).field("model_json")?,
            attempts: list("attempts", job.attempts)?,
            rung: optional("rung", job.rung)?,
            expected_start_ms: job.expected_start_ms,
        })
    }
}

impl From<AgentView> for v1::Agent {
    fn from(agent: AgentView) -> Self {
        Self {
            name: agent.name.into(),
            connected: agent.connected,
            draining: agent.draining,
            offer: Some(agent.offer.into()),
            telemetry: agent.telemetry.map(Into::into),
            vram_bytes_reserved: agent.vram_bytes_reserved.0,
            vram_bytes_open: agent.vram_bytes_open.0,
            jobs: agent.jobs.iter().map(|job| job.0).collect(),
            accuracy: Some(agent.accuracy.into()),
        }
    }
}

impl TryFrom<v1::Agent> for AgentView {
    type Error = ConvertError;
    fn try_from(agent: v1::Agent) -> Result<Self, ConvertError> {
        Ok(Self {
            name: agent_name("name", agent.name)?,
            connected: agent.connected,
            draining: agent.draining,
            offer: required("offer", agent.offer)?,
            telemetry: optional("telemetry", agent.telemetry)?,
            vram_bytes_reserved: ByteSize(agent.vram_bytes_reserved),
            vram_bytes_open: ByteSize(agent.vram_bytes_open),
            jobs: agent.jobs.into_iter().map(JobId).collect(),
            accuracy: agent.accuracy.map(Into::into).unwrap_or_default(),
        })
    }
}

impl From<FleetView> for v1::Overview {
    fn from(fleet: FleetView) -> Self {
        Self {
            agents: fleet.agents.into_iter().map(Into::into).collect(),
            jobs: fleet.jobs.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Overview> for FleetView {
    type Error = ConvertError;
    fn try_from(fleet: v1::Overview) -> Result<Self, ConvertError> {
        Ok(Self { agents: list("agents", fleet.agents)?, jobs: list("jobs", fleet.jobs)? })
    }
}

impl From<CardVerdict> for v1::CardVerdict {
    fn from(card: CardVerdict) -> Self {
        Self {
            agent: card.agent.into(),
            card: Some(card.card.into()),
            vram_bytes_needed: card.vram_bytes_needed.0,
            vram_bytes_reserved: card.vram_bytes_reserved.0,
            vram_bytes_foreign: card.vram_bytes_foreign.0,
            vram_bytes_margin: card.vram_bytes_margin.0,
            vram_bytes_open: card.vram_bytes_open.0,
            jobs: card.jobs,
            jobs_max: card.jobs_max,
            verdict: v1::Verdict::from(card.verdict).into(),
            lacks: card.lacks,
        }
    }
}

impl TryFrom<v1::CardVerdict> for CardVerdict {
    type Error = ConvertError;
    fn try_from(card: v1::CardVerdict) -> Result<Self, ConvertError> {
        Ok(Self {
            agent: agent_name("agent", card.agent)?,
            card: required("card", card.card)?,
            vram_bytes_needed: ByteSize(card.vram_bytes_needed),
            vram_bytes_reserved: ByteSize(card.vram_bytes_reserved),
            vram_bytes_foreign: ByteSize(card.vram_bytes_foreign),
            vram_bytes_margin: ByteSize(card.vram_bytes_margin),
            vram_bytes_open: ByteSize(card.vram_bytes_open),
            jobs: card.jobs,
            jobs_max: card.jobs_max,
            verdict: enumeration::<v1::Verdict, _>("verdict", card.verdict)?,
            lacks: card.lacks,
        })
    }
}

impl From<Explanation> for v1::Explanation {
    fn from(explanation: Explanation) -> Self {
        Self {
            summary: explanation.summary,
            estimate: Some(explanation.estimate.into()),
            ahead: explanation.ahead.iter().map(|job| job.0).collect(),
            cards: explanation.cards.into_iter().map(Into::into).collect(),
            hint: explanation.hint,
            expected_start_ms: explanation.expected_start_ms,
            start_note: explanation.start_note,
            rung: explanation.rung.map(Into::into),
        }
    }
}

impl TryFrom<v1::Explanation> for Explanation {
    type Error = ConvertError;
    fn try_from(explanation: v1::Explanation) -> Result<Self, ConvertError> {
        Ok(Self {
            summary: explanation.summary,
            estimate: required("estimate", explanation.estimate)?,
            ahead: explanation.ahead.into_iter().map(JobId).collect(),
            cards: list("cards", explanation.cards)?,
            hint: explanation.hint,
            expected_start_ms: explanation.expected_start_ms,
            start_note: explanation.start_note,
            rung: optional("rung", explanation.rung)?,
        })
    }
}
