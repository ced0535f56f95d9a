//! What processes take of the machine, from `/proc`.

use std::fs;

/// The kernel counts processor time for others in these.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time in seconds, by who took it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    pub(super) coordinator: f64,
    pub(super) agents: f64,
    /// Those that have ended.
    pub(super) trainers: f64,
    /// Whoever measures, users included.
    pub(super) users: f64,
    /// How much time there was.
    pub(super) seconds: f64,
}

impl Cpu {
    pub(super) fn of(coordinator: u32, agents: &[u32]) -> Self {
        let times: Vec<Times> = agents.iter().map(|pid| Times::of(&pid.to_string())).collect();
        Self {
            coordinator: Times::of(&coordinator.to_string()).own,
            agents: times.iter().map(|times| times.own).sum(),
            trainers: times.iter().map(|times| times.children).sum(),
            users: Times::of("self").own,
            seconds: since_boot(),
        }
    }

    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            coordinator: self.coordinator - before.coordinator,
            agents: self.agents - before.agents,
            trainers: self.trainers - before.trainers,
            users: self.users - before.users,
            seconds: self.seconds - before.seconds,
        }
    }
}

/// What one process took.
#[derive(Default)]
struct Times {
    own: f64,
    children: f64,
}

impl Times {
    fn of(pid: &str) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the program's name, which may hold anything: utime, stime, cutime, cstime are the 12th to 15th.
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks: Vec<f64> =
            fields.split(' ').skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
        match ticks[..] {
            [user, system, children_user, children_system] => Self {
                own: (user + system) / TICKS_PER_SECOND,
                children: (children_user + children_system) / TICKS_PER_SECOND,
            },
            _ => Self::default(),
        }
    }
}

fn since_boot() -> f64 {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    uptime.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default()
}

/// The most memory a process held.
pub(super) fn rss_bytes_peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// How many files, sockets and the like a process has open.
pub(super) fn files_open(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
