//! What happens to a job: the steps of its lifecycle (`super::job`), one at a time.

use fleetune_shared::{
    AgentName, Attempt, AttemptEnd, BlobHash, FailureKind, InputRole, JobId, JobSpec, Lineage, Work,
};

use super::record::{Measured, end_of};
use super::{Effect, Failure, Job, Lease, Pace, Phase, Report, StopReason};
use crate::ladder::{Next, Rung};

/// Attempts in a row that may end by the machine's fault without progress before the job is given up.
const MACHINE_FAILURES_MAX: u32 = 5;

impl Job {
    pub(super) fn accepted(id: JobId, spec: JobSpec, now_ms: u64) -> Self {
        Self {
            id,
            spec,
            submitted_ms: now_ms,
            started_ms: None,
            ended_ms: None,
            attempt: Attempt::default(),
            phase: Phase::Queued,
            checkpoint: None,
            steps_total: None,
            machine_failures: 0,
            failure: None,
            pace: None,
            attempts: Vec::new(),
            rung: Rung::AsAsked,
        }
    }

    /// Takes in what the live attempt says. `next` is what comes after it, where it ran out of memory.
    pub(super) fn hear(
        &mut self,
        agent: &AgentName,
        report: Report,
        next: Option<Next>,
        now_ms: u64,
    ) {
        if let Some(end) = end_of(&report) {
            self.record(end, Measured::of(&report), now_ms);
        }
        match report {
            Report::Started { steps_total } => {
                self.steps_total = Some(steps_total);
                self.started_ms.get_or_insert(now_ms);
                if let Phase::Assigned(lease) = &self.phase {
                    self.phase = Phase::Running(lease.clone());
                    let step = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
                    self.pace = Some(Pace { began: (step, now_ms), last: (step, now_ms) });
                }
            }
            Report::Checkpoint { artifact } => {
                if self.checkpoint.as_ref().is_none_or(|old| old.step < artifact.step) {
                    if let Some(pace) = &mut self.pace {
                        pace.last = (artifact.step, now_ms.max(pace.began.1));
                    }
                    self.checkpoint = Some(artifact);
                    self.machine_failures = 0;
                }
            }
            Report::Finished { artifact, summary } => {
                let lineage = self.lineage();
                let agent = agent.clone();
                self.failure = None;
                self.checkpoint = None;
                self.end(Phase::Succeeded { agent, artifact, summary, lineage }, now_ms);
            }
            Report::Failed { kind: FailureKind::Machine | FailureKind::Hung, message, .. } => {
                self.requeue(Some(FailureKind::Machine), message, now_ms);
            }
            Report::Failed { kind, message, .. } => {
                let (attempt, agent) = (self.attempt, agent.clone());
                self.failure = Some(Failure { kind: Some(kind), message, attempt, agent });
                self.end(Phase::Failed, now_ms);
            }
            Report::OutOfMemory { message, .. } => {
                let message = match next {
                    Some(Next::Try(rung)) => {
                        self.rung = rung;
                        self.phase = Phase::Queued;
                        message
                    }
                    Some(Next::Refuse(why)) => {
                        self.end(Phase::Failed, now_ms);
                        why
                    }
                    None => return,
                };
                let (attempt, agent) = (self.attempt, agent.clone());
                let kind = Some(FailureKind::OutOfMemory);
                self.failure = Some(Failure { kind, message, attempt, agent });
            }
            Report::Released { message, .. } => self.requeue(None, message, now_ms),
        }
    }

    pub(super) fn end(&mut self, phase: Phase, now_ms: u64) {
        self.phase = phase;
        self.ended_ms = Some(now_ms);
    }

    pub(super) fn stop(&self, reason: StopReason) -> Vec<Effect> {
        let stop = |lease: &Lease| Effect::Stop {
            agent: lease.agent.clone(),
            job: self.id,
            attempt: self.attempt,
            reason,
        };
        self.lease().map(stop).into_iter().collect()
    }

    /// The live attempt was lost with its agent.
    pub(super) fn lose(&mut self, why: String, now_ms: u64) {
        self.record(AttemptEnd::Released, Measured::default(), now_ms);
        self.requeue(None, why, now_ms);
    }

    /// Back to the queue, or given up after too many failures of machines in a row.
    fn requeue(&mut self, kind: Option<FailureKind>, message: String, now_ms: u64) {
        let Some(agent) = self.lease().map(|lease| lease.agent.clone()) else { return };
        self.failure = Some(Failure { kind, message, attempt: self.attempt, agent });
        self.machine_failures += u32::from(kind.is_some());
        if self.machine_failures >= MACHINE_FAILURES_MAX {
            self.end(Phase::Failed, now_ms);
        } else {
            self.phase = Phase::Queued;
        }
    }

    pub(super) fn published(&self, agent: &AgentName, attempt: Attempt, report: &Report) -> bool {
        match (&self.phase, report) {
            (
                Phase::Succeeded { agent: by, artifact, .. },
                Report::Finished { artifact: again, .. },
            ) => by == agent && self.attempt == attempt && artifact == again,
            _ => false,
        }
    }

    fn lineage(&self) -> Lineage {
        let hashes = |role| {
            let mut hashes: Vec<_> =
                self.spec.inputs.iter().filter(|i| i.role == role).map(|i| i.file.blob).collect();
            hashes.sort();
            hashes
        };
        let (statement, parents) = match &self.spec.work {
            Work::Train { recipe } => (recipe.canonical_json(), Vec::new()),
            Work::Merge(merge) => ("merge".to_owned(), merge.adapter_of.into_iter().collect()),
        };
        Lineage {
            job: self.id,
            recipe: BlobHash(*blake3::hash(statement.as_bytes()).as_bytes()),
            base: hashes(InputRole::Model),
            data: hashes(InputRole::Data),
            parents,
        }
    }
}

impl Phase {
    /// The phase as a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        crate::view::phase(self).as_str()
    }
}
