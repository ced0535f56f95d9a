//! What was measured, for people and for programs.

use std::fmt;
use std::time::Duration;

use fleetune_shared::view::JobView;
use serde_json::{Value, json};

use super::Setup;
use super::machine::Cpu;

/// Submissions of one kind.
#[derive(Clone, Debug)]
pub struct Submissions {
    /// Jobs acknowledged.
    pub jobs: usize,
    /// From the first request to the last acknowledgement.
    pub seconds: f64,
    /// How long each request took.
    pub(super) times: Vec<Duration>,
}

impl Submissions {
    /// Jobs acknowledged per second: in the log, on disk.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.jobs as f64 / self.seconds
    }

    /// Of a request.
    #[must_use]
    pub fn latency(&self) -> Latency {
        Latency::of(&self.times)
    }
}

/// How long requests took, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Half took no longer.
    pub p50: f64,
    /// Nine in ten took no longer.
    pub p90: f64,
    /// Ninety-nine in a hundred took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    fn of(times: &[Duration]) -> Self {
        let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (ms.len() as f64 * share).ceil() as usize;
            ms.get(place.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1.0) }
    }
}

/// What a fleet took of its machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Costs {
    pub(super) idle_cpu: Cpu,
    pub(super) busy_cpu: Cpu,
    pub(super) coordinator_rss_bytes_peak: u64,
    pub(super) agent_rss_bytes_peak: Option<u64>,
    pub(super) coordinator_files_open: usize,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Rate {
    agents: usize,
    jobs: usize,
    sweep: usize,
    /// One job in each request.
    pub one_by_one: Submissions,
    /// A sweep in each request.
    pub in_sweeps: Submissions,
    /// From the first submission to the last published result.
    pub completed_seconds: f64,
    /// Results published per second between the first tenth and the last: all cards have work then.
    pub completed_per_second_busy: f64,
    /// Jobs that needed more than one attempt.
    pub retried: usize,
    costs: Costs,
}

impl Rate {
    pub(super) fn new(
        setup: &Setup,
        jobs: &[JobView],
        one_by_one: Submissions,
        in_sweeps: Submissions,
        costs: Costs,
    ) -> Self {
        let mut ended: Vec<u64> = jobs.iter().filter_map(|job| job.ended_ms).collect();
        ended.sort_unstable();
        let first = jobs.iter().map(|job| job.submitted_ms).min().unwrap_or_default();
        let last = ended.last().copied().unwrap_or_default();
        let tenth = ended.len() / 10;
        let (from, to) = (tenth, ended.len() - 1 - tenth);
        let busy_ms = (ended[to] - ended[from]).max(1);
        Self {
            agents: setup.agents,
            jobs: jobs.len(),
            sweep: setup.sweep,
            one_by_one,
            in_sweeps,
            completed_seconds: last.saturating_sub(first).max(1) as f64 / 1e3,
            completed_per_second_busy: (to - from) as f64 * 1e3 / busy_ms as f64,
            retried: jobs.iter().filter(|job| job.attempt.0 > 1).count(),
            costs,
        }
    }

    /// Results published per second, from the first submission to the last result.
    #[must_use]
    pub fn completed_per_second(&self) -> f64 {
        self.jobs as f64 / self.completed_seconds
    }

    /// Jobs acknowledged per second, of both kinds.
    #[must_use]
    pub fn submitted_per_second(&self) -> f64 {
        self.jobs as f64 / (self.one_by_one.seconds + self.in_sweeps.seconds)
    }

    /// Files, sockets and the like that the coordinator had open in the end.
    #[must_use]
    pub fn coordinator_files_open(&self) -> usize {
        self.costs.coordinator_files_open
    }

    /// The numbers.
    #[must_use]
    pub fn json(&self) -> Value {
        let submissions = |of: &Submissions| {
            let Latency { p50, p90, p99, max } = of.latency();
            let latency = json!({"p50": p50, "p90": p90, "p99": p99, "max": max});
            json!({"jobs": of.jobs, "per_second": of.per_second(), "request_ms": latency})
        };
        let cpu = |cpu: &Cpu| {
            let Cpu { coordinator, agents, trainers, users, seconds } = cpu;
            json!({"seconds": seconds, "coordinator_cpu_seconds": coordinator, "agents_cpu_seconds": agents,
                   "trainers_cpu_seconds": trainers, "users_cpu_seconds": users})
        };
        json!({
            "agents": self.agents,
            "jobs": self.jobs,
            "sweep": self.sweep,
            "submitted_per_second": self.submitted_per_second(),
            "one_by_one": submissions(&self.one_by_one),
            "in_sweeps": submissions(&self.in_sweeps),
            "completed_per_second": self.completed_per_second(),
            "completed_per_second_busy": self.completed_per_second_busy,
            "completed_seconds": self.completed_seconds,
            "retried": self.retried,
            "busy": cpu(&self.costs.busy_cpu),
            "idle": cpu(&self.costs.idle_cpu),
            "coordinator_rss_bytes_peak": self.costs.coordinator_rss_bytes_peak,
            "agent_rss_bytes_peak": self.costs.agent_rss_bytes_peak,
            "coordinator_files_open": self.costs.coordinator_files_open,
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agents, jobs, sweep, completed_seconds, retried, costs, .. } = self;
        writeln!(f, "{jobs} jobs, {agents} agents")?;
        writeln!(
            f,
            "submitted   {:8.0} jobs/s, acknowledged and on disk",
            self.submitted_per_second()
        )?;
        for (what, of) in [("one by one", &self.one_by_one), ("in sweeps", &self.in_sweeps)] {
            let Latency { p50, p90, p99, max } = of.latency();
            write!(f, "  {what:10}{:8.0} jobs/s, ", of.per_second())?;
            writeln!(f, "a request takes {p50:.1} ms (p90 {p90:.1}, p99 {p99:.1}, max {max:.1})")?;
        }
        writeln!(f, "              {sweep} jobs in a sweep")?;
        write!(f, "completed   {:8.0} jobs/s, ", self.completed_per_second())?;
        writeln!(f, "first submission to last result {completed_seconds:.1} s, {retried} retried")?;
        writeln!(f, "  all busy  {:8.0} jobs/s", self.completed_per_second_busy)?;
        for (what, cpu) in [("busy", &costs.busy_cpu), ("idle", &costs.idle_cpu)] {
            let percent = |took: f64| 100.0 * took / cpu.seconds.max(0.01);
            let parts = [cpu.coordinator, cpu.agents, cpu.trainers, cpu.users].map(percent);
            let [coordinator, agents, trainers, users] = parts;
            write!(f, "{what:4} cores    coordinator {coordinator:.1} %, agents {agents:.1} %, ")?;
            writeln!(
                f,
                "trainers {trainers:.1} %, users {users:.1} % of one, for {:.1} s",
                cpu.seconds
            )?;
        }
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let agent = costs.agent_rss_bytes_peak.map_or(0.0, mib);
        write!(f, "peak RSS      coordinator {:.0} MiB, ", mib(costs.coordinator_rss_bytes_peak))?;
        write!(
            f,
            "an agent {agent:.0} MiB; coordinator has {} files open",
            costs.coordinator_files_open
        )
    }
}
