//! A real fleet's state and planner behind the simulator's clock.

use std::collections::BTreeMap;

use fleetune_scheduler::Liveness;
use fleetune_scheduler::placement::{Policy, plan};
use fleetune_scheduler::state::{Applied, Command, Effect, Report, State, StopReason};
use fleetune_shared::recipe::Duration;
use fleetune_shared::{
    AgentName, Artifact, ArtifactKind, ByteSize, Card, Device, Estimate, JobId, JobSpec, ModelSpec,
    Offer, Recipe, RequestId, TrainSummary, Work,
};

use crate::replay::Scheduler;
use crate::workload::Task;

pub(crate) const POLICY: Policy = Policy { lease_ms: 10_000 };

pub(crate) struct Real<'a> {
    tasks: &'a [Task],
    pub(crate) state: State,
    pub(crate) liveness: Liveness,
    cards: BTreeMap<AgentName, usize>,
    numbers: BTreeMap<JobId, usize>,
    ids: Vec<JobId>,
    specs: Specs,
    /// Whether recipes say how many steps there are.
    timed: bool,
    evicted: Vec<usize>,
}

/// Makes jobs that need so much.
pub(crate) struct Specs {
    model: ModelSpec,
    recipe: Recipe,
}

impl Specs {
    pub(crate) fn new() -> Self {
        let config = r#"{"model_type":"llama","hidden_size":2048,"intermediate_size":8192,"num_hidden_layers":16,
            "num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,
            "max_position_embeddings":8192,"rms_norm_eps":1e-5,"tie_word_embeddings":true}"#;
        let recipe = "model_name_or_path: m\ndataset_name: d\ngradient_checkpointing: none";
        Self {
            model: ModelSpec::from_hf_config(config).expect("a sound config"),
            recipe: Recipe::read(recipe).expect("a sound recipe"),
        }
    }

    pub(crate) fn of(&self, task: &Task) -> JobSpec {
        let weights = ByteSize(task.vram_bytes);
        let estimate = Estimate { weights, ..Estimate::default() };
        JobSpec {
            name: "job".into(),
            priority: task.priority,
            user: task.user.clone(),
            sweep: None,
            sweep_keys: BTreeMap::new(),
            work: Work::Train { recipe: Box::new(self.recipe.clone()) },
            inputs: Vec::new(),
            model: self.model.clone(),
            estimates: [(Device::Cuda, estimate)].into(),
        }
    }
}

pub(crate) fn card(vram_bytes: u64) -> Card {
    Card {
        name: "card".into(),
        vram_bytes_total: ByteSize(vram_bytes),
        compute_capability: Some((8, 9)),
        device: Device::Cuda,
    }
}

pub(crate) fn finished() -> Report {
    Report::Finished {
        artifact: Artifact { kind: ArtifactKind::Adapter, step: 1, files: Vec::new() },
        summary: Box::new(TrainSummary::default()),
    }
}

impl<'a> Real<'a> {
    pub(crate) fn new(tasks: &'a [Task], fleet: &[u64], jobs_max: u32) -> Self {
        let mut real = Self {
            tasks,
            state: State::default(),
            liveness: Liveness::default(),
            cards: BTreeMap::new(),
            numbers: BTreeMap::new(),
            ids: vec![JobId(0); tasks.len()],
            specs: Specs::new(),
            timed: false,
            evicted: Vec::new(),
        };
        for (number, vram_bytes) in fleet.iter().enumerate() {
            let agent: AgentName = format!("agent-{number:05}").parse().expect("a sound name");
            let offer = Offer { max_jobs_per_card: Some(jobs_max), ..Offer::of(card(*vram_bytes)) };
            let (held, key_hash) = (Vec::new(), [0; 32]);
            real.liveness.connected.insert(agent.clone());
            real.cards.insert(agent.clone(), number);
            real.apply(Command::Join { agent, key_hash, offer, held, now_ms: 0 });
        }
        real
    }

    pub(crate) fn apply(&mut self, command: Command) -> Applied {
        let applied = self.state.apply(command);
        assert!(applied.reply.is_ok(), "{:?}", applied.reply);
        applied
    }

    pub(crate) fn submit_all(&mut self, tasks: std::ops::Range<usize>, now_ms: u64) {
        let specs = tasks.clone().map(|task| self.spec(&self.tasks[task])).collect();
        let request = RequestId(tasks.start.to_string());
        let before = self.state.jobs().next_back().map_or(0, |job| job.id.0);
        self.apply(Command::Submit { request, specs, now_ms });
        for (at, task) in tasks.enumerate() {
            let id = JobId(before + 1 + at as u64);
            self.ids[task] = id;
            self.numbers.insert(id, task);
        }
    }

    fn spec(&self, task: &Task) -> JobSpec {
        let mut spec = self.specs.of(task);
        if let (true, Work::Train { recipe }) = (self.timed, &mut spec.work) {
            recipe.duration = Duration::Steps(Self::steps(task));
        }
        spec
    }

    /// How long a step takes where recipes say how many there are.
    pub(crate) const STEP_MS: u64 = 1_000;

    /// A task's work in steps.
    pub(crate) fn steps(task: &Task) -> u64 {
        task.work_ms.div_ceil(Self::STEP_MS)
    }

    /// From here on recipes say how many steps there are, and a job has been measured: when it ended.
    pub(crate) fn measure_steps(&mut self) -> u64 {
        self.timed = true;
        let (steps, user) = (1_000, "nobody".to_owned());
        let (work_ms, vram_bytes) = (steps * Self::STEP_MS, 1 << 30);
        let task = Task { arrives_ms: 0, work_ms, vram_bytes, user, priority: 0 };
        let specs = vec![self.spec(&task)];
        let request = RequestId("measured".into());
        self.apply(Command::Submit { request, specs, now_ms: 0 });
        let id = self.state.jobs().next_back().expect("it was submitted").id;
        for command in self.plan(0) {
            self.apply(command);
        }
        self.report(id, Report::Started { steps_total: steps }, 0);
        self.report(id, finished(), work_ms);
        work_ms
    }

    pub(crate) fn id(&self, task: usize) -> JobId {
        self.ids[task]
    }

    pub(crate) fn report(&mut self, id: JobId, report: Report, now_ms: u64) {
        let job = self.state.job(id).expect("the job exists");
        let (agent, attempt) = (job.lease().expect("it runs").agent.clone(), job.attempt);
        self.apply(Command::Report { agent, job: id, attempt, report, now_ms });
    }

    pub(crate) fn plan(&self, now_ms: u64) -> Vec<Command> {
        plan(&self.state, &self.liveness, POLICY, now_ms)
    }

    /// Carries a plan out; what starts is running at once, what is asked to make room does so at once.
    pub(crate) fn carry_out(&mut self, commands: Vec<Command>, now_ms: u64) -> Vec<(usize, usize)> {
        let mut started = Vec::new();
        for command in commands {
            for effect in self.apply(command).effects {
                match effect {
                    Effect::Start { agent, job, .. } => {
                        // Where nothing says how long a job is, its trainer does not either.
                        let steps = self.state.job(job).and_then(|job| job.spec.steps());
                        let steps_total = steps.unwrap_or_default();
                        self.report(job, Report::Started { steps_total }, now_ms);
                        started.push((self.numbers[&job], self.cards[&agent]));
                    }
                    Effect::Stop { job, reason: StopReason::Yield, .. } => {
                        self.report(
                            job,
                            Report::Released { message: String::new(), vram_bytes_peak: None },
                            now_ms,
                        );
                        self.evicted.push(self.numbers[&job]);
                    }
                    _ => {}
                }
            }
        }
        started
    }
}

impl Scheduler for Real<'_> {
    fn submit(&mut self, task: usize, now_ms: u64) {
        self.submit_all(task..task + 1, now_ms);
    }

    fn end(&mut self, task: usize, now_ms: u64) {
        self.report(self.ids[task], finished(), now_ms);
    }

    fn place(&mut self, now_ms: u64) -> Vec<(usize, usize)> {
        let mut started = Vec::new();
        loop {
            let commands = self.plan(now_ms);
            if commands.is_empty() {
                return started;
            }
            started.extend(self.carry_out(commands, now_ms));
        }
    }

    fn evicted(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.evicted)
    }
}
