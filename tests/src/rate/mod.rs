//! How many short jobs a fleet of processes takes and ends per second.
//!
//! ```text
//!   users ── submit, one by one, then in sweeps ──▶ coordinator process ──▶ agent processes ──▶ stub trainers
//!     └───────── the last have ended ◀───────────────────┘
//! ```
//!
//! Everything is as in a real fleet but the trainer, which trains nothing: what is measured is what the fleet costs.

mod machine;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetune_proto::Client;
use fleetune_proto::client::Outcome;
use fleetune_shared::view::{JobPhase, JobView};
use fleetune_shared::{
    ArtifactFile, BlobHash, FileName, Input, InputRole, JobId, JobSpec, ModelSpec, Recipe,
    RequestId, Work,
};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::Process;
use machine::Cpu;
pub use report::{Latency, Rate, Submissions};

/// Whose jobs they are: fair shares are worked out as with real users.
const USERS: usize = 8;
/// How long anything but the jobs themselves is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `env!("CARGO_BIN_EXE_fleetune-under-test")`
    pub program: PathBuf,
    /// `env!("CARGO_BIN_EXE_stub-trainer")`
    pub trainer: PathBuf,
    /// Agent processes.
    pub agents: usize,
    /// Jobs, half of them submitted one by one and half in sweeps.
    pub jobs: usize,
    /// Submissions under way at the same time.
    pub submitters: usize,
    /// Jobs of a sweep.
    pub sweep: usize,
    /// Where agents keep their files, if not beside the coordinator's: in a real fleet each has a disk of its own.
    pub agents_in: Option<PathBuf>,
    /// How long the fleet is watched while it has nothing to do.
    pub idle: Duration,
}

/// A coordinator and its agents; their folders go after them.
struct Fleet {
    address: String,
    agents: Vec<Process>,
    coordinator: Process,
    folder: TempDir,
    _agents_folder: Option<TempDir>,
}

/// Starts a fleet, has it do all jobs, and says how fast that went.
///
/// # Panics
/// If the fleet does not come up, or a job does not end as it should.
pub async fn measure(setup: &Setup) -> Rate {
    let fleet = Fleet::start(setup).await;
    let client = fleet.client();
    let idle_cpu = fleet.idle(setup.idle).await;
    let spec = spec(&client, fleet.folder.path()).await;

    let before = fleet.cpu();
    let single = setup.jobs / 2;
    let mut one_by_one = submit(&fleet, setup, &spec, single, 1).await;
    let mut in_sweeps = submit(&fleet, setup, &spec, setup.jobs - single, setup.sweep).await;
    let ids: Vec<JobId> = one_by_one.ids.drain(..).chain(in_sweeps.ids.drain(..)).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), setup.jobs, "each submission is one job");
    let limit = PATIENCE + Duration::from_millis(20) * setup.jobs as u32;
    wait_for_last(&client, &ids, setup.agents, limit).await;
    let busy_cpu = fleet.cpu().since(&before);
    let files_open = machine::files_open(fleet.coordinator.id());

    let jobs = look(&client, &ids).await;
    check(&client, &jobs).await;
    Rate::new(
        setup,
        &jobs,
        one_by_one.submissions,
        in_sweeps.submissions,
        report::Costs {
            idle_cpu,
            busy_cpu,
            coordinator_rss_bytes_peak: machine::rss_bytes_peak(fleet.coordinator.id()),
            agent_rss_bytes_peak: fleet
                .agents
                .iter()
                .map(|a| machine::rss_bytes_peak(a.id()))
                .max(),
            coordinator_files_open: files_open,
        },
    )
}

impl Fleet {
    async fn start(setup: &Setup) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let address = format!("127.0.0.1:{}", port.expect("a free port").port());
        let agents_folder =
            setup.agents_in.as_ref().map(|parent| TempDir::new_in(parent).expect("a folder there"));
        let path = |name: &str| folder.path().join(name);
        let data = path("coordinator").display().to_string();
        let args = ["coordinator", "--listen", &address, "--data-dir", &data];
        let coordinator = Process::start(&setup.program, &args, path("coordinator.log"));
        let url = format!("http://{address}");
        let trainer = setup.trainer.display().to_string();
        let agent = |number: usize| {
            let name = format!("agent-{number}");
            let data = agents_folder.as_ref().unwrap_or(&folder).path().join(&name);
            let data = data.display().to_string();
            let args = ["agent", "--join", &url, "--name", &name, "--data-dir", &data];
            // One job at a time, as on a GPU.
            let card = ["--device", "cpu", "--vram", "1GiB", "--max-jobs-per-card", "1"];
            let args = [&args[..], &card, &["--trainer", &trainer]].concat();
            Process::start(&setup.program, &args, path(&format!("{name}.log")))
        };
        let agents = (0..setup.agents).map(agent).collect();
        let fleet = Self { address, agents, coordinator, folder, _agents_folder: agents_folder };
        let client = fleet.client();
        let begun = Instant::now();
        loop {
            let view = client.overview().await.map(|fleet| fleet.agents).unwrap_or_default();
            if view.iter().filter(|agent| agent.connected).count() == setup.agents {
                return fleet;
            }
            assert!(begun.elapsed() < PATIENCE, "{} of {} agents joined", view.len(), setup.agents);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn client(&self) -> Client {
        Client::connect(&self.address).expect("an address")
    }

    fn cpu(&self) -> Cpu {
        let agents: Vec<u32> = self.agents.iter().map(Process::id).collect();
        Cpu::of(self.coordinator.id(), &agents)
    }

    /// What the fleet costs while nobody wants anything of it.
    async fn idle(&self, time: Duration) -> Cpu {
        // What starting took is over by then.
        tokio::time::sleep(time / 4).await;
        let before = self.cpu();
        tokio::time::sleep(time).await;
        self.cpu().since(&before)
    }
}

/// A job whose inputs are stored.
async fn spec(client: &Client, folder: &Path) -> JobSpec {
    let config = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,
        "num_hidden_layers":2,"num_attention_heads":4,"vocab_size":512,
        "max_position_embeddings":512,"rms_norm_eps":1e-5}"#;
    let recipe = "model_name_or_path: base\ndataset_name: rows.jsonl\nr: 4\nmax_steps: 1\n\
                  max_length: 64\nper_device_train_batch_size: 1";
    let mut inputs = Vec::new();
    for (role, name, text) in [
        (InputRole::Model, "config.json", config),
        (InputRole::Data, "rows.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}\n"),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("an input");
        let (blob, bytes) = client.upload_file(&path, |_, _| {}).await.expect("an upload");
        let name = FileName::try_from(name.to_owned()).expect("a file's name");
        inputs.push(Input { role, file: ArtifactFile { name, blob, bytes } });
    }
    JobSpec {
        name: "short".into(),
        priority: 0,
        user: String::new(),
        sweep: None,
        sweep_keys: BTreeMap::new(),
        work: Work::Train { recipe: Box::new(Recipe::read(recipe).expect("a recipe")) },
        inputs,
        model: ModelSpec::from_hf_config(config).expect("a model"),
        estimates: BTreeMap::new(),
    }
}

/// Jobs that were acknowledged, and how long that took.
struct Submitted {
    ids: Vec<JobId>,
    submissions: Submissions,
}

/// Submits `jobs` jobs, `at_once` in each request.
async fn submit(
    fleet: &Fleet,
    setup: &Setup,
    spec: &JobSpec,
    jobs: usize,
    at_once: usize,
) -> Submitted {
    let begun = Instant::now();
    let spec = Arc::new(spec.clone());
    let mut submitters = JoinSet::new();
    for number in 0..setup.submitters {
        let (client, spec) = (fleet.client(), Arc::clone(&spec));
        let mine = share(jobs, setup.submitters, number);
        submitters.spawn(async move {
            let (mut ids, mut times) = (Vec::with_capacity(mine), Vec::new());
            while ids.len() < mine {
                let request = RequestId(format!("{at_once}-{number}-{}", ids.len()));
                let specs = trials(&spec, number, at_once.min(mine - ids.len()));
                let asked = Instant::now();
                let outcomes = client.submit(&request, &specs).await.expect("an answer");
                times.push(asked.elapsed());
                ids.extend(outcomes.into_iter().map(|outcome| match outcome {
                    Outcome::Accepted(id) => id,
                    Outcome::Refused(why) => panic!("refused: {}", why.summary),
                }));
            }
            (ids, times)
        });
    }
    let (mut ids, mut times) = (Vec::new(), Vec::new());
    while let Some(ended) = submitters.join_next().await {
        let (some, took) = ended.expect("a submitter");
        ids.extend(some);
        times.extend(took);
    }
    ids.sort_unstable();
    let submissions = Submissions { jobs, seconds: begun.elapsed().as_secs_f64(), times };
    Submitted { ids, submissions }
}

/// Of `whole`, what the one numbered `number` of `parts` has to do.
fn share(whole: usize, parts: usize, number: usize) -> usize {
    whole / parts + usize::from(number < whole % parts)
}

/// The jobs of one request; several are a sweep.
fn trials(spec: &JobSpec, number: usize, count: usize) -> Vec<JobSpec> {
    let user = format!("user-{}", number % USERS);
    let trial = |trial: usize| JobSpec {
        user: user.clone(),
        sweep: (count > 1).then(|| format!("sweep-{number}")),
        sweep_keys: (count > 1).then(|| ("seed".into(), trial.to_string())).into_iter().collect(),
        ..spec.clone()
    };
    (0..count).map(trial).collect()
}

/// Asks for few jobs, so that asking costs the fleet little: users take turns, so those that came last end last.
async fn wait_for_last(client: &Client, ids: &[JobId], agents: usize, limit: Duration) {
    let begun = Instant::now();
    let last = &ids[ids.len().saturating_sub(agents * 2)..];
    for id in last.iter().rev() {
        while !client.job(*id).await.expect("the job").phase.is_final() {
            assert!(begun.elapsed() < limit, "job {id} has not ended within {limit:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn look(client: &Client, ids: &[JobId]) -> Vec<JobView> {
    let mut jobs = Vec::with_capacity(ids.len());
    for id in ids {
        loop {
            let job = client.job(*id).await.expect("the job");
            if job.phase.is_final() {
                jobs.push(job);
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    jobs
}

/// Each job has one result of its own, and all of it is stored.
async fn check(client: &Client, jobs: &[JobView]) {
    let mut weights = BTreeSet::new();
    for job in jobs {
        let failure = job.failure.as_ref().map(|failure| failure.message.as_str());
        assert_eq!(job.phase, JobPhase::Succeeded, "job {}: {failure:?}", job.id);
        let files = &job.artifact.as_ref().expect("a published artifact").files;
        assert_eq!(files.len(), 2, "job {}: {files:?}", job.id);
        weights.extend(
            files.iter().filter(|f| f.name.as_str().ends_with("safetensors")).map(|f| f.blob),
        );
    }
    assert_eq!(weights.len(), jobs.len(), "each job left weights of its own");
    let weights: Vec<BlobHash> = weights.into_iter().collect();
    for some in weights.chunks(1000) {
        let lacking = client.stat(some).await.expect("an answer");
        assert!(lacking.iter().all(Option::is_none), "a published result is not all there");
    }
}
