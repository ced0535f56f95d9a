//! A fleet to tell stories about: agents join, jobs are submitted, plans are carried out.
#![expect(dead_code, reason = "each story uses its own part of the builder")]

use std::collections::BTreeMap;

use fleetune_scheduler::placement::{Policy, plan};
use fleetune_scheduler::state::{
    Applied, Command, Effect, Held, Job, Phase, Refusal, Reply, Report, State, Submitted,
};
use fleetune_scheduler::{Liveness, explain};
use fleetune_shared::view::Explanation;
use fleetune_shared::{
    AgentName, Artifact, ArtifactKind, Attempt, ByteSize, Card, Device, Estimate, JobId, JobSpec,
    ModelSpec, Offer, Recipe, RequestId, TrainSummary, Work,
};

pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const LEASE_MS: u64 = 10_000;

pub(crate) struct Fleet {
    pub(crate) state: State,
    pub(crate) liveness: Liveness,
    pub(crate) now_ms: u64,
    requests: u64,
}

pub(crate) fn name(text: &str) -> AgentName {
    text.parse().expect("a sound name")
}

pub(crate) fn model() -> ModelSpec {
    let config = r#"{"model_type":"llama","hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,
        "num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,"max_position_embeddings":8192,
        "rms_norm_eps":1e-5,"tie_word_embeddings":true}"#;
    ModelSpec::from_hf_config(config).expect("a sound config")
}

pub(crate) fn recipe(extra: &str) -> Recipe {
    Recipe::read(&format!("model_name_or_path: m\ndataset_name: d\n{extra}"))
        .expect("a sound recipe")
}

/// A job that needs exactly so much.
pub(crate) fn needs(gib: f64) -> JobSpec {
    let estimate = Estimate { weights: ByteSize((gib * GIB as f64) as u64), ..Estimate::default() };
    JobSpec {
        name: format!("needs-{gib}"),
        priority: 0,
        user: String::new(),
        sweep: None,
        sweep_keys: BTreeMap::new(),
        work: Work::Train { recipe: Box::new(recipe("gradient_checkpointing: none")) },
        inputs: Vec::new(),
        model: model(),
        estimates: [(Device::Cpu, estimate), (Device::Cuda, estimate)].into(),
    }
}

pub(crate) fn urgent(gib: f64, priority: i32) -> JobSpec {
    JobSpec { priority, ..needs(gib) }
}

pub(crate) fn of(user: &str, spec: JobSpec) -> JobSpec {
    JobSpec { user: user.into(), ..spec }
}

/// A job whose recipe says more.
pub(crate) fn asks(gib: f64, keys: &str) -> JobSpec {
    JobSpec {
        work: Work::Train {
            recipe: Box::new(recipe(&format!("gradient_checkpointing: none\n{keys}"))),
        },
        ..needs(gib)
    }
}

pub(crate) fn artifact(kind: ArtifactKind, step: u64) -> Artifact {
    Artifact { kind, step, files: Vec::new() }
}

pub(crate) fn offer(gib: f64) -> Offer {
    Offer::of(Card {
        name: format!("{gib} GiB card"),
        vram_bytes_total: ByteSize((gib * GIB as f64) as u64),
        compute_capability: None,
        device: Device::Cpu,
    })
}

/// The same card as a GPU.
pub(crate) fn gpu(gib: f64) -> Offer {
    let mut offer = offer(gib);
    offer.card.device = Device::Cuda;
    offer
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self { state: State::default(), liveness: Liveness::default(), now_ms: 1_000, requests: 0 }
    }

    pub(crate) fn with(cards: &[(&str, f64)]) -> Self {
        let mut fleet = Self::new();
        for (agent, gib) in cards {
            fleet.join(agent, *gib, &[]);
        }
        fleet
    }

    pub(crate) fn apply(&mut self, command: Command) -> Applied {
        self.state.apply(command)
    }

    pub(crate) fn join(&mut self, agent: &str, gib: f64, held: &[(JobId, Attempt)]) -> Applied {
        self.join_with(agent, offer(gib), held)
    }

    pub(crate) fn join_with(
        &mut self,
        agent: &str,
        offer: Offer,
        held: &[(JobId, Attempt)],
    ) -> Applied {
        let held =
            held.iter().map(|(job, attempt)| Held { job: *job, attempt: *attempt }).collect();
        self.liveness.connected.insert(name(agent));
        self.liveness.heard_ms.insert(name(agent), self.now_ms);
        self.apply(Command::Join {
            agent: name(agent),
            key_hash: [agent.len() as u8; 32],
            offer,
            held,
            now_ms: self.now_ms,
        })
    }

    pub(crate) fn disconnect(&mut self, agent: &str) {
        self.liveness.connected.remove(&name(agent));
    }

    pub(crate) fn submit(&mut self, spec: JobSpec) -> JobId {
        match self.try_submit(spec) {
            Submitted::Accepted(id) => id,
            Submitted::Refused(why) => panic!("refused: {}", why.summary),
        }
    }

    pub(crate) fn try_submit(&mut self, spec: JobSpec) -> Submitted {
        self.requests += 1;
        let request = RequestId(format!("request-{}", self.requests));
        let applied =
            self.apply(Command::Submit { request, specs: vec![spec], now_ms: self.now_ms });
        match applied.reply {
            Ok(Reply::Submitted(mut outcomes)) => outcomes.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Lets the scheduler plan until it has nothing more to say; returns the effects of it all.
    pub(crate) fn settle(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        loop {
            let commands =
                plan(&self.state, &self.liveness, Policy { lease_ms: LEASE_MS }, self.now_ms);
            if commands.is_empty() {
                return effects;
            }
            for command in commands {
                let applied = self.apply(command);
                assert!(applied.reply.is_ok(), "a plan is always possible: {applied:?}");
                effects.extend(applied.effects);
            }
        }
    }

    pub(crate) fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        for agent in &self.liveness.connected {
            self.liveness.heard_ms.insert(agent.clone(), self.now_ms);
        }
    }

    pub(crate) fn job(&self, id: JobId) -> &Job {
        self.state.job(id).expect("the job exists")
    }

    /// Where a job is promised memory.
    pub(crate) fn place(&self, id: JobId) -> Option<&str> {
        self.job(id).lease().map(|lease| lease.agent.as_str())
    }

    pub(crate) fn report(
        &mut self,
        id: JobId,
        attempt: u32,
        agent: &str,
        report: Report,
    ) -> Applied {
        let now_ms = self.now_ms;
        self.apply(Command::Report {
            agent: name(agent),
            job: id,
            attempt: Attempt(attempt),
            report,
            now_ms,
        })
    }

    pub(crate) fn start(&mut self, id: JobId) {
        let (agent, attempt) = (self.place(id).expect("placed").to_owned(), self.job(id).attempt.0);
        let applied = self.report(id, attempt, &agent, Report::Started { steps_total: 10 });
        assert!(applied.reply.is_ok());
    }

    pub(crate) fn checkpoint(&mut self, id: JobId, step: u64) {
        let (agent, attempt) = (self.place(id).expect("placed").to_owned(), self.job(id).attempt.0);
        let artifact = artifact(ArtifactKind::Checkpoint, step);
        let applied = self.report(id, attempt, &agent, Report::Checkpoint { artifact });
        assert!(applied.reply.is_ok());
    }

    pub(crate) fn release(&mut self, id: JobId) {
        let (agent, attempt) = (self.place(id).expect("placed").to_owned(), self.job(id).attempt.0);
        let message = "wanted elsewhere".into();
        let applied =
            self.report(id, attempt, &agent, Report::Released { message, vram_bytes_peak: None });
        assert!(applied.reply.is_ok());
    }

    pub(crate) fn finish(&mut self, id: JobId) {
        let (agent, attempt) = (self.place(id).expect("placed").to_owned(), self.job(id).attempt.0);
        assert!(self.report(id, attempt, &agent, finished()).reply.is_ok());
    }

    pub(crate) fn explain(&self, id: JobId) -> Explanation {
        explain::job(&self.state, &self.liveness, self.job(id))
    }
}

pub(crate) fn finished() -> Report {
    Report::Finished {
        artifact: artifact(ArtifactKind::Adapter, 10),
        summary: Box::new(TrainSummary::default()),
    }
}

pub(crate) fn is_stale(applied: &Applied) -> bool {
    matches!(applied.reply, Err(Refusal::Stale { .. }))
}

pub(crate) fn phase(job: &Job) -> &'static str {
    job.phase.word()
}

pub(crate) fn is_queued(job: &Job) -> bool {
    job.phase == Phase::Queued
}
