//! One command at a time: the state machine's transitions.

use fleetune_shared::view::Verdict;
use fleetune_shared::{
    AgentName, Attempt, BlobHash, ByteSize, FailureKind, InputRole, JobId, JobSpec, Lineage, Offer,
    RequestId, Work,
};

use super::{
    Agent, Answered, Applied, Command, Effect, Failure, Held, Job, Lease, Phase, Refusal, Reply,
    Report, State, StopReason, Submitted,
};
use crate::explain;

/// Answers to submissions that are remembered.
const REQUESTS_MAX: usize = 1_000;
/// Attempts in a row that may end by the machine's fault without progress before the job is given up.
const MACHINE_FAILURES_MAX: u32 = 5;

type Outcome = Result<(Reply, Vec<Effect>), Refusal>;

fn done(effects: Vec<Effect>) -> Outcome {
    Ok((Reply::Done, effects))
}

impl State {
    /// Applies one command. A refused command changes nothing.
    pub fn apply(&mut self, command: Command) -> Applied {
        let outcome = match command {
            Command::Submit { request, specs, now_ms } => Ok(self.submit(request, specs, now_ms)),
            Command::Cancel { job, now_ms } => self.cancel(job, now_ms),
            Command::Join { agent, key_hash, offer, held, now_ms } => {
                self.join(agent, key_hash, offer, &held, now_ms)
            }
            Command::Offer { agent, offer } => self.offer(&agent, offer),
            Command::Leave { agent, now_ms } => self.leave(&agent, now_ms),
            Command::Drain { agent, draining } => self.drain(&agent, draining),
            Command::Assign { job, agent, vram_bytes } => self.assign(job, agent, vram_bytes),
            Command::Report { agent, job, attempt, report, now_ms } => {
                self.report(&agent, job, attempt, report, now_ms)
            }
        };
        match outcome {
            Ok((reply, effects)) => Applied { reply: Ok(reply), effects },
            Err(refusal) => Applied { reply: Err(refusal), effects: Vec::new() },
        }
    }

    fn submit(
        &mut self,
        request: RequestId,
        specs: Vec<JobSpec>,
        now_ms: u64,
    ) -> (Reply, Vec<Effect>) {
        if let Some(answered) = self.requests.get(&request) {
            return (Reply::Submitted(answered.outcomes.clone()), Vec::new());
        }
        let mut effects = vec![Effect::Replan];
        let outcomes: Vec<_> = specs
            .into_iter()
            .map(|spec| {
                let explanation = explain::submission(self, &spec);
                let too_small = explanation.cards.iter().all(|c| c.verdict == Verdict::TooSmall);
                if too_small && !explanation.cards.is_empty() {
                    return Submitted::Refused(Box::new(explanation));
                }
                self.next_job += 1;
                let id = JobId(self.next_job);
                self.jobs.insert(id, Job::accepted(id, spec, now_ms));
                effects.push(Effect::JobChanged(id));
                Submitted::Accepted(id)
            })
            .collect();
        self.remember(request, outcomes.clone());
        (Reply::Submitted(outcomes), effects)
    }

    fn remember(&mut self, request: RequestId, outcomes: Vec<Submitted>) {
        if self.requests.len() >= REQUESTS_MAX {
            let oldest = self.requests.iter().min_by_key(|(_, a)| a.order).map(|(r, _)| r.clone());
            if let Some(oldest) = oldest {
                self.requests.remove(&oldest);
            }
        }
        self.next_answer += 1;
        self.requests.insert(request, Answered { order: self.next_answer, outcomes });
    }

    fn cancel(&mut self, id: JobId, now_ms: u64) -> Outcome {
        let job = self.jobs.get_mut(&id).ok_or(Refusal::UnknownJob(id))?;
        if job.is_final() {
            return Err(Refusal::Ended { job: id, phase: job.phase.word() });
        }
        let mut effects = job.stop(StopReason::Cancelled);
        job.end(Phase::Cancelled, now_ms);
        effects.extend([Effect::JobChanged(id), Effect::BlobsReleased(id), Effect::Replan]);
        done(effects)
    }

    fn join(
        &mut self,
        name: AgentName,
        key_hash: [u8; 32],
        offer: Offer,
        held: &[Held],
        now_ms: u64,
    ) -> Outcome {
        match self.agents.get_mut(&name) {
            Some(agent) if agent.key_hash != key_hash => return Err(Refusal::NameTaken(name)),
            Some(agent) => {
                agent.offer = offer;
                agent.present = true;
            }
            None => {
                let agent =
                    Agent { name: name.clone(), key_hash, offer, draining: false, present: true };
                self.agents.insert(name.clone(), agent);
            }
        }
        let mut effects = vec![Effect::Replan];
        // What the agent has and should not: fenced.
        for held in held {
            if !self.is_live(&name, held.job, held.attempt) {
                effects.push(Effect::Stop {
                    agent: name.clone(),
                    job: held.job,
                    attempt: held.attempt,
                    reason: StopReason::Fenced,
                });
            }
        }
        // What it should have and has not: a promise it never heard of is told again; a trainer that is gone
        // (the agent was restarted) goes back to the queue.
        let has = |job: &Job| held.iter().any(|h| h.job == job.id && h.attempt == job.attempt);
        let missing: Vec<_> = self.held_by(&name).filter(|job| !has(job)).map(|j| j.id).collect();
        for id in missing {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            if matches!(job.phase, Phase::Assigned(_)) {
                effects.push(Effect::Start { agent: name.clone(), job: id, attempt: job.attempt });
            } else {
                job.requeue(None, format!("agent `{name}` was restarted"), now_ms);
                effects.push(Effect::JobChanged(id));
            }
        }
        done(effects)
    }

    fn offer(&mut self, name: &AgentName, offer: Offer) -> Outcome {
        let agent = self.agents.get_mut(name).ok_or_else(|| Refusal::UnknownAgent(name.clone()))?;
        agent.offer = offer;
        done(vec![Effect::Replan])
    }

    fn leave(&mut self, name: &AgentName, now_ms: u64) -> Outcome {
        let agent = self.agents.get_mut(name).ok_or_else(|| Refusal::UnknownAgent(name.clone()))?;
        agent.present = false;
        let lost: Vec<_> = self.held_by(name).map(|job| job.id).collect();
        let mut effects = vec![Effect::Replan];
        for id in lost {
            if let Some(job) = self.jobs.get_mut(&id) {
                job.requeue(None, format!("agent `{name}` fell silent"), now_ms);
                effects.push(Effect::JobChanged(id));
            }
        }
        done(effects)
    }

    fn drain(&mut self, name: &AgentName, draining: bool) -> Outcome {
        let agent = self.agents.get_mut(name).ok_or_else(|| Refusal::UnknownAgent(name.clone()))?;
        agent.draining = draining;
        done(vec![Effect::Replan])
    }

    fn assign(&mut self, id: JobId, name: AgentName, vram_bytes: ByteSize) -> Outcome {
        let refuse = |why: String| Refusal::Unplaceable { job: id, agent: name.clone(), why };
        let agent = self.agents.get(&name).ok_or_else(|| Refusal::UnknownAgent(name.clone()))?;
        if agent.draining || !agent.present {
            return Err(refuse("the agent takes no new jobs".into()));
        }
        let open = self.vram_bytes_open(agent);
        if vram_bytes > open {
            return Err(refuse(format!("{vram_bytes} needed, {open} open")));
        }
        let job = self.jobs.get_mut(&id).ok_or(Refusal::UnknownJob(id))?;
        if job.phase != Phase::Queued {
            return Err(refuse(format!("it is {}", job.phase.word())));
        }
        job.attempt = job.attempt.next();
        job.phase = Phase::Assigned(Lease { agent: name.clone(), vram_bytes });
        let start = Effect::Start { agent: name, job: id, attempt: job.attempt };
        done(vec![start, Effect::JobChanged(id)])
    }

    fn report(
        &mut self,
        agent: &AgentName,
        id: JobId,
        attempt: Attempt,
        report: Report,
        now_ms: u64,
    ) -> Outcome {
        let live = self.is_live(agent, id, attempt);
        let job = self.jobs.get_mut(&id).ok_or(Refusal::UnknownJob(id))?;
        if !live {
            // A result that was published and whose acknowledgement was lost is acknowledged again.
            if job.published(agent, attempt, &report) {
                return done(Vec::new());
            }
            return Err(Refusal::Stale {
                job: id,
                agent: agent.clone(),
                attempt,
                live: job.attempt,
            });
        }
        let mut effects = vec![Effect::JobChanged(id)];
        match report {
            Report::Started { steps_total } => {
                job.steps_total = Some(steps_total);
                job.started_ms.get_or_insert(now_ms);
                if let Phase::Assigned(lease) = &job.phase {
                    job.phase = Phase::Running(lease.clone());
                }
            }
            Report::Checkpoint { artifact } => {
                if job.checkpoint.as_ref().is_none_or(|old| old.step < artifact.step) {
                    job.checkpoint = Some(artifact);
                    job.machine_failures = 0;
                    effects.push(Effect::BlobsReleased(id));
                }
            }
            Report::Finished { artifact, summary } => {
                let lineage = job.lineage();
                let phase = Phase::Succeeded { agent: agent.clone(), artifact, summary, lineage };
                job.failure = None;
                job.checkpoint = None;
                job.end(phase, now_ms);
                effects.extend([Effect::BlobsReleased(id), Effect::Replan]);
            }
            Report::Failed { kind: FailureKind::Machine | FailureKind::Hung, message } => {
                job.requeue(Some(FailureKind::Machine), message, now_ms);
                effects.push(Effect::Replan);
            }
            Report::Failed { kind, message } => {
                job.failure =
                    Some(Failure { kind: Some(kind), message, attempt, agent: agent.clone() });
                job.end(Phase::Failed, now_ms);
                effects.extend([Effect::BlobsReleased(id), Effect::Replan]);
            }
            Report::Released { message } => {
                job.requeue(None, message, now_ms);
                effects.push(Effect::Replan);
            }
        }
        done(effects)
    }

    fn is_live(&self, agent: &AgentName, id: JobId, attempt: Attempt) -> bool {
        self.jobs.get(&id).is_some_and(|job| {
            job.attempt == attempt && job.lease().is_some_and(|lease| lease.agent == *agent)
        })
    }

    /// Memory a new job could be promised on an agent's card: card − margin − foreign use − promises.
    #[must_use]
    pub fn vram_bytes_open(&self, agent: &Agent) -> ByteSize {
        let usable = agent.offer.card.usable().0;
        let taken = agent.offer.vram_bytes_foreign.0 + self.vram_bytes_reserved(&agent.name);
        ByteSize(usable.saturating_sub(taken))
    }
}

impl Job {
    fn accepted(id: JobId, spec: JobSpec, now_ms: u64) -> Self {
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
        }
    }

    fn end(&mut self, phase: Phase, now_ms: u64) {
        self.phase = phase;
        self.ended_ms = Some(now_ms);
    }

    fn stop(&self, reason: StopReason) -> Vec<Effect> {
        let stop = |lease: &Lease| Effect::Stop {
            agent: lease.agent.clone(),
            job: self.id,
            attempt: self.attempt,
            reason,
        };
        self.lease().map(stop).into_iter().collect()
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

    fn published(&self, agent: &AgentName, attempt: Attempt, report: &Report) -> bool {
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
