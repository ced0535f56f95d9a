//! Coordinator, agent and trainer are killed at random moments of a short job: it finishes, with one result, the same
//! bytes as if nothing had happened; whatever was acknowledged is still there.
//!
//! `FLEETUNE_CHAOS_RUNS` says how many times each is killed (2 by default), `FLEETUNE_CHAOS_SEED` repeats a history.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fleetune_tests::{Sandbox, demo_asset};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fleetune-under-test");
const LIMIT: Duration = Duration::from_secs(120);

/// One history at a time: each needs the machine to itself to be short.
static TURN: Mutex<()> = Mutex::new(());

fn runs() -> u64 {
    std::env::var("FLEETUNE_CHAOS_RUNS").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Moments to strike at, from a seed that is printed.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let drawn = u64::from(now.subsec_nanos()) | 1;
        let seed = std::env::var("FLEETUNE_CHAOS_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or(drawn);
        eprintln!("FLEETUNE_CHAOS_SEED={seed}");
        Self(seed)
    }

    /// The next moment, in 0 to `ms_max` milliseconds (xorshift64).
    fn next(&mut self, ms_max: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(self.0 % ms_max)
    }
}

/// A job of a few seconds with a checkpoint every few steps.
fn recipe(folder: &Path) -> PathBuf {
    let path = folder.join("short.yaml");
    let text = format!(
        "name: short\nmodel_name_or_path: {}\ndataset_name: {}\nr: 4\nmax_steps: 60\nsave_steps: 7\n\
         max_length: 64\nper_device_train_batch_size: 4\nlearning_rate: 3e-3\n",
        demo_asset("model").display(),
        demo_asset("data.jsonl").display()
    );
    fs::write(&path, text).expect("a recipe");
    path
}

/// The hash of the adapter's weights, which names the result.
fn result(job: &Value) -> String {
    let files = job["artifact"]["files"].as_array().expect("a published artifact");
    let weights = files.iter().find(|f| f["name"] == "adapter_model.safetensors");
    weights.expect("the adapter's weights")["blob"].as_str().expect("a hash").to_owned()
}

fn succeeded(sandbox: &Sandbox, job: u64) -> Value {
    let job = sandbox.wait_job(job, LIMIT);
    assert_eq!(job["phase"], "succeeded", "{job:#}");
    job
}

/// Submits a job, lets `strike` do its worst at a random moment of it, and compares the result with that of a run in
/// peace; `runs()` times.
fn history(mut strike: impl FnMut(&mut Sandbox)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut moments = Moments::new();
    let mut sandbox = Sandbox::new(PROGRAM);
    sandbox.start_agent("one", "1GiB");
    let recipe = recipe(sandbox.folder());
    let peace = result(&succeeded(&sandbox, sandbox.submit(&recipe)));
    let mut resumed = 0;
    for run in 1..=runs() {
        let job = sandbox.submit(&recipe);
        thread::sleep(moments.next(2_500));
        strike(&mut sandbox);
        let job = succeeded(&sandbox, job);
        eprintln!("run {run}: job {} succeeded in attempt {}", job["id"], job["attempt"]);
        resumed += u64::from(job["attempt"].as_u64() > Some(1));
        assert_eq!(result(&job), peace, "interrupted and resumed is not uninterrupted");
    }
    eprintln!("{} runs, {resumed} of them went on in another attempt", runs());
    let all = sandbox.json(&["jobs", "--all"]).expect("the jobs");
    let jobs = all.as_array().expect("a list");
    assert_eq!(jobs.len() as u64, runs() + 1, "each submission is one job");
    sandbox.wait_for("trainers to be gone", LIMIT, |s| s.trainers().is_empty().then_some(()));
}

#[test]
fn a_killed_trainer_costs_nothing_but_time() {
    history(|sandbox| {
        sandbox.kill_trainer();
    });
}

#[test]
fn a_killed_agent_costs_nothing_but_time() {
    history(|sandbox| {
        sandbox.kill_agent("one");
        sandbox.start_agent("one", "1GiB");
    });
}

#[test]
fn a_killed_coordinator_costs_nothing_but_time() {
    history(|sandbox| {
        sandbox.kill_coordinator();
        sandbox.start_coordinator();
    });
}

#[test]
fn what_was_acknowledged_survives_and_what_was_retried_exists_once() {
    const USERS: usize = 2;
    const SUBMISSIONS: usize = 12;
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut moments = Moments::new();
    let sandbox = Sandbox::new(PROGRAM);
    let recipe = recipe(sandbox.folder());
    let mut acknowledged: Vec<u64> = Vec::new();
    for _ in 0..runs() {
        let strike = moments.next(1_500);
        let seen: Vec<u64> = thread::scope(|scope| {
            // A submission that meets the cut is retried by the client under the same request id.
            let submit = || (0..SUBMISSIONS).map(|_| sandbox.submit(&recipe)).collect::<Vec<_>>();
            let users: Vec<_> = (0..USERS).map(|_| scope.spawn(submit)).collect();
            thread::sleep(strike);
            sandbox.kill_coordinator();
            sandbox.start_coordinator();
            users.into_iter().flat_map(|user| user.join().expect("a user")).collect()
        });
        acknowledged.extend(seen);
        let jobs = sandbox.json(&["jobs", "--all"]).expect("the jobs");
        let ids = jobs.as_array().expect("a list").iter().map(|j| j["id"].as_u64().expect("an id"));
        let (mut there, mut expected): (Vec<_>, _) = (ids.collect(), acknowledged.clone());
        there.sort_unstable();
        expected.sort_unstable();
        assert_eq!(there, expected, "each submission is there, once");
    }
    eprintln!("{} jobs were acknowledged and are there", acknowledged.len());
}
