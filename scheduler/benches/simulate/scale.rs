//! How long a plan takes in a fleet of 10,000 cards, after one event and from nothing, as the queue grows.

use std::time::{Duration, Instant};

use fleetune_scheduler::state::{Command, Job};
use fleetune_shared::JobId;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::real::{Real, finished};
use crate::workload;

const AGENTS: usize = 10_000;
const EVENTS: usize = 2_000;
const REPEATS: usize = 3;

pub(crate) fn run() {
    println!("\n{AGENTS} agents, two jobs per card at the most, 50 users; milliseconds");
    println!(
        "| queued | full pass | jobs placed | event p50 | event p99 | first of four p50 | first of four p99 | commands applied p99 | resident MiB |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for queued in [1_000, 10_000, 100_000] {
        one(queued);
    }
}

fn one(queued: usize) {
    // Enough to fill the fleet, then the queue, then one more for every event.
    let tasks = workload::burst(2 * AGENTS + queued + EVENTS, 50, 7);
    let fleet = workload::cards(AGENTS);
    let mut real = Real::new(&tasks, &fleet, 2);
    let mut next = 0;
    let mut submit = |real: &mut Real<'_>, count: usize, now_ms: u64| {
        let end = next + count;
        while next < end {
            let upto = end.min(next + 1000);
            real.submit_all(next..upto, now_ms);
            next = upto;
        }
    };
    submit(&mut real, queued.max(2 * AGENTS), 1_000);
    let began = Instant::now();
    let commands = real.plan(2_000);
    let full = began.elapsed();
    let placed = commands.len();
    real.carry_out(commands, 2_000);
    // A fleet at work with a queue of that length.
    let waiting = real.state.jobs().filter(|job| job.lease().is_none()).count();
    if waiting < queued {
        submit(&mut real, queued - waiting, 2_000);
    }
    let mut running: Vec<JobId> =
        real.state.jobs().filter(|job| job.is_running()).map(|job| job.id).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (mut firsts, mut plans, mut applied) = (Vec::new(), Vec::new(), Vec::new());
    for event in 0..EVENTS {
        // An hour passes over all events: jobs may be asked to make room.
        let now_ms = 2_000 + 1_800 * event as u64;
        let began = Instant::now();
        if event % 2 == 0 {
            let ended = running.swap_remove(rng.random_range(0..running.len()));
            if real.state.job(ended).is_none_or(|job: &Job| !job.is_running()) {
                continue;
            }
            real.report(ended, finished(), now_ms);
        } else {
            submit(&mut real, 1, now_ms);
        }
        let heard = began.elapsed();
        // A plan is a pure function: the least of several is what it takes where nothing else runs.
        let plan = || {
            let began = Instant::now();
            let commands = real.plan(now_ms);
            (began.elapsed(), commands)
        };
        let (first, commands) = plan();
        firsts.push(first);
        plans.push((0..REPEATS).map(|_| plan().0).min().unwrap_or(first).min(first));
        let began = Instant::now();
        for command in &commands {
            if let Command::Assign { job, .. } = command {
                running.push(*job);
            }
        }
        real.carry_out(commands, now_ms);
        applied.push(heard + began.elapsed());
    }
    firsts.sort_unstable();
    plans.sort_unstable();
    applied.sort_unstable();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let at = |times: &[Duration], percent: usize| ms(times[(times.len() - 1) * percent / 100]);
    println!(
        "| {queued} | {:.1} | {placed} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
        ms(full),
        at(&plans, 50),
        at(&plans, 99),
        at(&firsts, 50),
        at(&firsts, 99),
        at(&applied, 99),
        resident_mib()
    );
}

/// Of this process, as Linux tells it.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}
