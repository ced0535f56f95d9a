//! One command at a time: the state machine's transitions.

use fleetune_shared::{
    AgentName, Attempt, AttemptEnd, ByteSize, CardFamily, Estimate, FailureKind, JobId, JobSpec,
    Offer, RequestId,
};

use super::record::{Measured, end_of};
use super::usage::had;
use super::{
    Agent, Answered, Applied, Basis, Command, Effect, Held, Job, Lease, Load, Phase, Refusal,
    Reply, Report, Shape, State, StopReason, Submitted, anti_affinity,
};
use crate::explain;
use crate::ladder::{self, Next, Tried};

/// Answers to submissions that are remembered.
const REQUESTS_MAX: usize = 1_000;

type Outcome = Result<(Reply, Vec<Effect>), Refusal>;

fn done(effects: Vec<Effect>) -> Outcome {
    Ok((Reply::Done, effects))
}

impl State {
    /// Applies one command. A refused command changes nothing.
    pub fn apply(&mut self, command: Command) -> Applied {
        let before_ms = self.clock_ms;
        self.clock_ms = before_ms.max(command.now_ms().unwrap_or(0));
        let outcome = match command {
            Command::Submit { request, specs, now_ms } => Ok(self.submit(request, specs, now_ms)),
            Command::Cancel { job, now_ms } => self.cancel(job, now_ms),
            Command::Join { agent, key_hash, offer, held, now_ms } => {
                self.join(agent, key_hash, offer, &held, now_ms)
            }
            Command::Offer { agent, offer } => self.offer(&agent, offer),
            Command::Leave { agent, now_ms } => self.leave(&agent, now_ms),
            Command::Drain { agent, draining } => self.drain(&agent, draining),
            Command::Pause { agent, paused } => self.pause(&agent, paused),
            Command::Assign { job, agent, vram_bytes, .. } => self.assign(job, agent, vram_bytes),
            Command::Preempt { job, waiting, .. } => self.preempt(job, waiting),
            Command::Report { agent, job, attempt, report, now_ms } => {
                self.report(&agent, job, attempt, report, now_ms)
            }
        };
        match outcome {
            Ok((reply, effects)) => Applied { reply: Ok(reply), effects },
            Err(refusal) => {
                self.clock_ms = before_ms;
                Applied { reply: Err(refusal), effects: Vec::new() }
            }
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
                if !self.could_hold(&spec) && !self.agents.is_empty() {
                    return Submitted::Refused(Box::new(explain::submission(self, &spec)));
                }
                self.next_job += 1;
                let id = JobId(self.next_job);
                let job = Job::accepted(id, spec, now_ms);
                self.index.add(&job);
                self.jobs.insert(id, job);
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
        let job = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        if job.is_final() {
            return Err(Refusal::Ended { job: id, phase: job.phase.word() });
        }
        let mut effects = job.stop(StopReason::Cancelled);
        self.change(id, |job| {
            job.record(AttemptEnd::Released, Measured::default(), now_ms);
            job.end(Phase::Cancelled, now_ms);
        });
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
        let before = self.agents.get(&name);
        if before.is_some_and(|agent| agent.key_hash != key_hash) {
            return Err(Refusal::NameTaken(name));
        }
        self.index.recache(&name, before.map(|agent| &agent.offer), &offer);
        match self.agents.get_mut(&name) {
            Some(agent) => {
                agent.lend(offer);
                agent.present = true;
            }
            None => {
                let agent = Agent {
                    family: CardFamily::of(&offer.card),
                    name: name.clone(),
                    key_hash,
                    offer,
                    draining: false,
                    paused: false,
                    present: true,
                    speed: 0,
                    load: Load::default(),
                };
                self.agents.insert(name.clone(), agent);
            }
        }
        let here = self.agents.get(&name);
        let paused = here.is_some_and(|agent| agent.paused);
        let closed = here.is_some_and(|agent| agent.availability().yields());
        let mut effects = vec![Effect::Replan];
        // What the agent has and should not: fenced. What it was asked to give back and still has: asked again.
        for held in held {
            let live = self.is_live(&name, held.job, held.attempt);
            let lease = self.jobs.get(&held.job).and_then(Job::lease);
            let reason = match lease.filter(|_| live) {
                None => StopReason::Fenced,
                Some(_) if paused => StopReason::Owner,
                Some(lease) if lease.yielding_to.is_some() => StopReason::Yield,
                Some(_) => continue,
            };
            let (job, attempt) = (held.job, held.attempt);
            effects.push(Effect::Stop { agent: name.clone(), job, attempt, reason });
        }
        // What it should have and has not: a promise it never heard of is told again, if its card still takes jobs; a
        // trainer that is gone (the agent was restarted) goes back to the queue.
        let has = |job: &Job| held.iter().any(|h| h.job == job.id && h.attempt == job.attempt);
        let missing: Vec<_> = self.held_by(&name).filter(|job| !has(job)).map(|j| j.id).collect();
        for id in missing {
            let Some(job) = self.jobs.get(&id) else { continue };
            let told = matches!(job.phase, Phase::Assigned(_));
            if told && !closed {
                effects.push(Effect::Start { agent: name.clone(), job: id, attempt: job.attempt });
            } else {
                let how = if told { "closed" } else { "restarted" };
                let why = format!("agent `{name}` was {how}");
                self.change(id, |job| job.lose(why, now_ms));
                effects.push(Effect::JobChanged(id));
            }
        }
        done(effects)
    }

    fn offer(&mut self, name: &AgentName, offer: Offer) -> Outcome {
        let agent = self.agents.get_mut(name).ok_or_else(|| Refusal::UnknownAgent(name.clone()))?;
        self.index.recache(name, Some(&agent.offer), &offer);
        agent.lend(offer);
        done(vec![Effect::Replan])
    }

    fn leave(&mut self, name: &AgentName, now_ms: u64) -> Outcome {
        let agent = self.agents.get_mut(name).ok_or_else(|| Refusal::UnknownAgent(name.clone()))?;
        agent.present = false;
        let lost: Vec<_> = self.held_by(name).map(|job| job.id).collect();
        let mut effects = vec![Effect::Replan];
        for id in lost {
            self.change(id, |job| job.lose(format!("agent `{name}` fell silent"), now_ms));
            effects.push(Effect::JobChanged(id));
        }
        done(effects)
    }

    fn drain(&mut self, name: &AgentName, draining: bool) -> Outcome {
        let agent = self.agents.get_mut(name).ok_or_else(|| Refusal::UnknownAgent(name.clone()))?;
        agent.draining = draining;
        done(vec![Effect::Replan])
    }

    fn pause(&mut self, name: &AgentName, paused: bool) -> Outcome {
        let agent = self.agents.get_mut(name).ok_or_else(|| Refusal::UnknownAgent(name.clone()))?;
        agent.paused = paused;
        let mut effects = vec![Effect::Replan];
        if paused {
            for job in self.held_by(name) {
                effects.extend(job.stop(StopReason::Owner));
                effects.push(Effect::JobChanged(job.id));
            }
        }
        done(effects)
    }

    fn assign(&mut self, id: JobId, name: AgentName, vram_bytes: ByteSize) -> Outcome {
        let refuse = |why: String| Refusal::Unplaceable { job: id, agent: name.clone(), why };
        let agent = self.agents.get(&name).ok_or_else(|| Refusal::UnknownAgent(name.clone()))?;
        if !agent.takes_jobs() {
            return Err(refuse("the agent takes no new jobs".into()));
        }
        let open = agent.vram_bytes_open();
        if vram_bytes > open {
            return Err(refuse(format!("{vram_bytes} needed, {open} open")));
        }
        if !agent.has_slot() {
            return Err(refuse(format!("it has {} jobs and takes no more", agent.load.jobs())));
        }
        let job = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        if job.phase != Phase::Queued {
            return Err(refuse(format!("it is {}", job.phase.word())));
        }
        if let Some(lacks) = job.spec.requirements().and_then(|ask| ask.unmet(&agent.offer)) {
            return Err(refuse(format!("the card {lacks}")));
        }
        if let Some(word) = anti_affinity(&job.spec).filter(|word| agent.load.has_word(word)) {
            return Err(refuse(format!("it holds another job of `{word}`")));
        }
        let shape = Shape::of_job(job);
        let family = agent.family;
        let basis = Basis {
            family,
            vram_bytes_estimated: job
                .estimate(family.device)
                .map(Estimate::total)
                .unwrap_or_default(),
            correction: self.correction(shape.traits, family),
        };
        let attempt = job.attempt.next();
        let since_ms = self.clock_ms;
        let lease = Lease {
            agent: name.clone(),
            vram_bytes,
            since_ms,
            ends_ms: self.ms_expected(job, agent).map(|ms| since_ms.saturating_add(ms)),
            yielding_to: None,
            basis,
        };
        self.change(id, |job| {
            job.attempt = attempt;
            job.pace = None;
            job.phase = Phase::Assigned(lease);
        });
        done(vec![Effect::Start { agent: name, job: id, attempt }, Effect::JobChanged(id)])
    }

    fn preempt(&mut self, id: JobId, waiting: JobId) -> Outcome {
        let refuse = |why: String| Err(Refusal::Unmovable { job: id, why });
        let job = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
        let urgent = self.jobs.get(&waiting).ok_or(Refusal::UnknownJob(waiting))?;
        let Phase::Running(lease) = &job.phase else {
            return refuse(format!("it is {}", job.phase.word()));
        };
        if urgent.phase != Phase::Queued {
            return refuse(format!("job {waiting} is {}", urgent.phase.word()));
        }
        if urgent.spec.priority <= job.spec.priority {
            return refuse(format!("job {waiting} is no more urgent"));
        }
        if let Some(other) = lease.yielding_to {
            return refuse(format!("it was asked to for job {other}"));
        }
        let effects = job.stop(StopReason::Yield);
        self.change(id, |job| {
            if let Phase::Running(lease) = &mut job.phase {
                lease.yielding_to = Some(waiting);
            }
        });
        done(
            effects
                .into_iter()
                .chain([Effect::JobChanged(id), Effect::JobChanged(waiting), Effect::Replan])
                .collect(),
        )
    }

    /// The one way to change a job: what is derived from it follows, and a user is charged for what they had.
    fn change(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        self.index.remove(job);
        let before = job.lease().cloned();
        if let Some(agent) = before.as_ref().and_then(|lease| self.agents.get_mut(&lease.agent)) {
            agent.load.remove(job);
        }
        change(job);
        self.index.add(job);
        match (job.lease(), before) {
            (Some(lease), _) => {
                if let Some(agent) = self.agents.get_mut(&lease.agent) {
                    agent.load.add(job, lease);
                }
            }
            (None, Some(lease)) => {
                let had = had(lease.vram_bytes.0, lease.since_ms, self.clock_ms);
                let usage = self.usages.entry(job.spec.user.clone()).or_default();
                *usage = usage.plus(had, self.clock_ms);
            }
            (None, None) => {}
        }
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
        let job = self.jobs.get(&id).ok_or(Refusal::UnknownJob(id))?;
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
        if let Some((key, sample)) =
            end_of(&report).and_then(|end| job.sample(end, Measured::of(&report)))
        {
            self.corrections.learn(key, sample);
        }
        if let Report::Finished { .. } = &report
            && let Some((family, traits, speed)) = job.speed(now_ms)
        {
            self.speeds.learn(family, traits, speed);
        }
        let mut effects = vec![Effect::JobChanged(id)];
        match &report {
            Report::Started { .. } => {}
            Report::Checkpoint { .. } => effects.push(Effect::BlobsReleased(id)),
            Report::Finished { summary, .. } => {
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.measured(&job.spec, summary);
                }
                effects.extend([Effect::BlobsReleased(id), Effect::Replan]);
            }
            Report::Failed { kind: FailureKind::Machine | FailureKind::Hung, .. }
            | Report::OutOfMemory { .. }
            | Report::Released { .. } => effects.push(Effect::Replan),
            Report::Failed { .. } => {
                effects.extend([Effect::BlobsReleased(id), Effect::Replan]);
            }
        }
        let next = self.after_out_of_memory(job, &report);
        if matches!(next, Some(Next::Refuse(_))) {
            effects.push(Effect::BlobsReleased(id));
        }
        self.change(id, |job| job.hear(agent, report, next, now_ms));
        self.foresee_end(id, now_ms);
        done(effects)
    }

    /// A trainer that has started says how many steps there are: where nothing told before when its job ends, that may.
    fn foresee_end(&mut self, id: JobId, now_ms: u64) {
        let foreseen = self.jobs.get(&id).and_then(|job| {
            let Phase::Running(Lease { agent, ends_ms: None, .. }) = &job.phase else {
                return None;
            };
            self.ms_expected(job, self.agents.get(agent)?)
        });
        let Some(ms) = foreseen else { return };
        self.change(id, |job| {
            if let Phase::Running(lease) = &mut job.phase {
                lease.ends_ms = Some(now_ms.saturating_add(ms));
            }
        });
    }

    /// What comes next for a job, if the report says that it ran out of memory.
    fn after_out_of_memory(&self, job: &Job, report: &Report) -> Option<Next> {
        let Report::OutOfMemory { vram_bytes_peak: peak, .. } = report else { return None };
        let lease = job.lease()?;
        let tried = Tried {
            device: lease.basis.family.device,
            promised: lease.vram_bytes,
            estimated: job.sized_at(lease),
            peak: peak.map(|peak| peak.bytes),
        };
        Some(ladder::next(&job.spec, &job.rung, tried, self.largest_card(&job.spec)))
    }

    fn is_live(&self, agent: &AgentName, id: JobId, attempt: Attempt) -> bool {
        self.jobs.get(&id).is_some_and(|job| {
            job.attempt == attempt && job.lease().is_some_and(|lease| lease.agent == *agent)
        })
    }
}
