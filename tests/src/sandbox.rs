//! A fleet of real processes in a folder that vanishes with it.
//!
//! ```text
//!   Sandbox ── coordinator process ── data/coordinator
//!          ├── agent processes ───── data/<agent>
//!          │      └── trainer processes
//!          └── the CLI, run once per question, answers read as JSON
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::Process;

/// A fleet under test.
pub struct Sandbox {
    program: PathBuf,
    folder: TempDir,
    address: String,
    /// Behind a lock, so that it can be killed while others use the sandbox.
    coordinator: Mutex<Option<Process>>,
    agents: BTreeMap<String, Process>,
}

impl Sandbox {
    /// A coordinator that has just begun to listen; `program` is `env!("CARGO_BIN_EXE_fleetune-under-test")`.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn new(program: &str) -> Self {
        let sandbox = Self {
            program: program.into(),
            folder: TempDir::new().expect("a temporary folder"),
            // A restarted coordinator has the address its agents know.
            address: free_address(),
            coordinator: Mutex::default(),
            agents: BTreeMap::new(),
        };
        sandbox.start_coordinator();
        sandbox
    }

    /// The sandbox's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts the coordinator (again) on the same folder and address and waits until it answers.
    ///
    /// # Panics
    /// If it does not come up within 20 s.
    pub fn start_coordinator(&self) {
        let data = self.folder().join("coordinator");
        let args =
            ["coordinator", "--listen", &self.address, "--data-dir", &data.display().to_string()];
        let process = Process::start(&self.program, &args, self.folder().join("coordinator.log"));
        *self.coordinator.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        self.wait_for("the coordinator to answer", Duration::from_secs(20), |s| {
            s.cli(&["--output", "json", "agents"]).status.success().then_some(())
        });
    }

    /// Ends the coordinator as a power cut would.
    pub fn kill_coordinator(&self) {
        // Dropping it kills it.
        *self.coordinator.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Starts an agent (again) with a declared card of this size and waits until it has joined.
    ///
    /// # Panics
    /// If it does not join within 20 s.
    pub fn start_agent(&mut self, name: &str, vram: &str) {
        self.start_agent_with(name, &["--vram", vram, "--card", "Test card"], &[]);
    }

    /// Starts an agent (again) with these options, and variables in its environment, and waits until it has joined.
    ///
    /// # Panics
    /// If it does not join within 20 s.
    pub fn start_agent_with(&mut self, name: &str, options: &[&str], variables: &[(&str, &str)]) {
        let data = self.folder().join(name).display().to_string();
        let join = format!("http://{}", self.address);
        let args =
            ["agent", "--join", &join, "--name", name, "--device", "cpu", "--data-dir", &data];
        let args = [&args[..], options].concat();
        let log = self.folder().join(format!("{name}.log"));
        let process = Process::start_with(&self.program, &args, variables, log);
        self.agents.insert(name.to_owned(), process);
        self.wait_for("the agent to join", Duration::from_secs(20), |s| {
            let agents = s.json(&["agents"])?;
            let joined = |a: &Value| a["name"] == name && a["connected"] == true;
            agents.as_array()?.iter().any(joined).then_some(())
        });
    }

    /// Ends an agent as a power cut would. Its trainers go with it.
    pub fn kill_agent(&mut self, name: &str) {
        if let Some(mut process) = self.agents.remove(name) {
            process.kill_9();
        }
    }

    /// Ends one running trainer as a power cut would; false where there is none.
    pub fn kill_trainer(&self) -> bool {
        let trainers = self.trainers();
        trainers.iter().any(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok())
    }

    /// The numbers of all trainer processes of this sandbox.
    #[must_use]
    pub fn trainers(&self) -> Vec<i32> {
        trainers_under(self.folder())
    }

    /// The numbers of one agent's trainer processes.
    #[must_use]
    pub fn trainers_of(&self, agent: &str) -> Vec<i32> {
        trainers_under(&self.folder().join(agent))
    }

    /// Runs the CLI against this fleet.
    ///
    /// # Panics
    /// If the program cannot be run.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> Output {
        Command::new(&self.program)
            .args(args)
            .env("FLEETUNE_COORDINATOR", format!("http://{}", self.address))
            .current_dir(self.folder())
            .output()
            .expect("the program runs")
    }

    /// Runs the CLI and reads its JSON; `None` where it failed.
    #[must_use]
    pub fn json(&self, args: &[&str]) -> Option<Value> {
        let output = self.cli(&[&["--output", "json"], args].concat());
        output.status.success().then(|| serde_json::from_slice(&output.stdout).ok())?
    }

    /// Submits a recipe and returns the job's number.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn submit(&self, recipe: &Path) -> u64 {
        let output = self.cli(&["--output", "json", "submit", &recipe.display().to_string()]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let value: Value = serde_json::from_str(&text).expect("JSON");
        value["id"].as_u64().expect("a job id")
    }

    /// Waits until a job has ended and returns it as `job show` prints it, through whatever happens to the coordinator meanwhile.
    ///
    /// # Panics
    /// If it has not ended in time.
    #[must_use]
    pub fn wait_job(&self, job: u64, limit: Duration) -> Value {
        let id = job.to_string();
        self.wait_for(&format!("job {id} to end"), limit, |s| {
            let job = s.json(&["job", "show", &id])?;
            let ended = ["succeeded", "failed", "cancelled"].contains(&job["phase"].as_str()?);
            ended.then_some(job)
        })
    }

    /// Asks again and again until there is an answer.
    ///
    /// # Panics
    /// If there is none in time.
    pub fn wait_for<T>(&self, what: &str, limit: Duration, ask: impl Fn(&Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(begun.elapsed() < limit, "waited {limit:?} in vain for {what}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// An address of this machine that was free a moment ago.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}

/// Trainer processes whose orders lie under a folder.
fn trainers_under(folder: &Path) -> Vec<i32> {
    let folder = format!("{}/", folder.display());
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = command.split('\0').skip(1);
            words.next() == Some("trainer") && words.any(|word| word.starts_with(&folder))
        })
        .collect()
}
