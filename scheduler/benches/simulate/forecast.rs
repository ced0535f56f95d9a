//! How well starts are foreseen, and how long that takes in a large fleet.

use std::time::Instant;

use fleetune_scheduler::explain;
use fleetune_scheduler::placement::{Forecast, Start};
use fleetune_shared::JobId;

use crate::real::Real;
use crate::replay::{Scheduler, replay};
use crate::workload::{self, Task};

const CARDS: usize = 100;
const JOBS: usize = 1_000;
const SEED: u64 = 11;
const MINUTE_MS: f64 = 60_000.0;

pub(crate) fn run() {
    cost();
    errors();
}

/// A real fleet whose every job's start is foreseen when it is submitted.
struct Foretold<'a> {
    real: Real<'a>,
    /// Tasks of which nothing was said yet.
    new: Vec<usize>,
    /// Task by task: what was said and what came true.
    said: Vec<Option<u64>>,
    was: Vec<Option<u64>>,
}

impl Scheduler for Foretold<'_> {
    fn submit(&mut self, task: usize, now_ms: u64) {
        self.real.submit(task, now_ms);
        self.new.push(task);
    }

    fn end(&mut self, task: usize, now_ms: u64) {
        self.real.end(task, now_ms);
    }

    fn place(&mut self, now_ms: u64) -> Vec<(usize, usize)> {
        if !self.new.is_empty() {
            let mut forecast = Forecast::new(&self.real.state, &self.real.liveness, now_ms);
            for task in self.new.drain(..) {
                self.said[task] = forecast.expected_ms(self.real.id(task));
            }
        }
        let placed = self.real.place(now_ms);
        for (task, _) in &placed {
            self.was[*task].get_or_insert(now_ms);
        }
        placed
    }

    fn evicted(&mut self) -> Vec<usize> {
        self.real.evicted()
    }
}

fn errors() {
    println!(
        "\nstarts as foreseen at submission and as they came true; {JOBS} jobs, {CARDS} cards"
    );
    println!(
        "| jobs | on a card | foreseen | within a minute | later than said, p50 min | p90 | p99 | sooner, p50 min | p90 | p99 | mean wait min |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mixed = || workload::burst(JOBS, 20, SEED);
    let alike = |task: Task| Task { user: "one".into(), priority: 0, ..task };
    let at_once = |task: Task| Task { arrives_ms: 0, ..alike(task) };
    let calm = |task: Task| Task { priority: 0, ..task };
    let workloads: [(&str, Vec<Task>); 4] = [
        ("one user's, all at once", mixed().into_iter().map(at_once).collect()),
        ("one user's, within an hour", mixed().into_iter().map(alike).collect()),
        ("of 20 users, within an hour", mixed().into_iter().map(calm).collect()),
        ("the same, one in 20 urgent", mixed()),
    ];
    for (name, tasks) in workloads {
        for (jobs_max, on_a_card) in [(1, "one"), (u32::MAX, "as many as fit")] {
            one(name, &tasks, jobs_max, on_a_card);
        }
    }
}

fn one(name: &str, tasks: &[Task], jobs_max: u32, on_a_card: &str) {
    let fleet = workload::cards(CARDS);
    let mut real = Real::new(tasks, &fleet, jobs_max);
    let began_ms = real.measure_steps();
    let tasks: Vec<Task> = tasks
        .iter()
        .map(|task| Task {
            arrives_ms: task.arrives_ms + began_ms,
            work_ms: Real::steps(task) * Real::STEP_MS,
            ..task.clone()
        })
        .collect();
    let none = || vec![None; tasks.len()];
    let mut foretold = Foretold { real, new: Vec::new(), said: none(), was: none() };
    replay(&tasks, &fleet, 0.0, &mut foretold);
    let (mut later, mut sooner, mut near, mut wait) = (Vec::new(), Vec::new(), 0, 0.0);
    let outcomes = foretold.said.iter().zip(&foretold.was).zip(&tasks);
    for ((said, was), task) in outcomes {
        let (Some(said), Some(was)) = (said, was) else { continue };
        let error = (*was as f64 - *said as f64) / MINUTE_MS;
        near += usize::from(error.abs() <= 1.0);
        later.push(error.max(0.0));
        sooner.push((-error).max(0.0));
        wait += (was - task.arrives_ms) as f64 / MINUTE_MS;
    }
    let foreseen = later.len();
    let at = |errors: &mut Vec<f64>| {
        errors.sort_by(f64::total_cmp);
        [50, 90, 99].map(|percent| errors[(errors.len() - 1) * percent / 100])
    };
    let ([l50, l90, l99], [s50, s90, s99]) = (at(&mut later), at(&mut sooner));
    println!(
        "| {name} | {on_a_card} | {:.0} % | {:.0} % | {l50:.1} | {l90:.1} | {l99:.1} | {s50:.1} | {s90:.1} | {s99:.1} | {:.0} |",
        100.0 * foreseen as f64 / tasks.len() as f64,
        100.0 * near as f64 / foreseen as f64,
        wait / foreseen as f64
    );
}

/// One job's forecast and explanation, in a fleet of 10,000 cards.
fn cost() {
    println!("\n10,000 agents, two jobs per card, 50 users; milliseconds for one job");
    println!("| queued | turns before it | forecast | explanation | outcome |");
    println!("|---:|---:|---:|---:|---|");
    for queued in [1_000, 10_000, 100_000] {
        let tasks = workload::burst(20_000 + queued, 50, 7);
        let fleet = workload::cards(10_000);
        let mut real = Real::new(&tasks, &fleet, 2);
        let began_ms = real.measure_steps();
        for first in (0..tasks.len()).step_by(1_000) {
            real.submit_all(first..tasks.len().min(first + 1_000), began_ms);
        }
        let commands = real.plan(began_ms);
        real.carry_out(commands, began_ms);
        let now_ms = began_ms + 1_000;
        let queue: Vec<JobId> = real.state.queue().iter().map(|job| job.id).collect();
        for turns in [0, 100, 1_000, 4_000, queue.len() - 1] {
            let Some(job) = queue.get(turns).and_then(|id| real.state.job(*id)) else { continue };
            let least = |look: &dyn Fn()| {
                let times = (0..3).map(|_| {
                    let began = Instant::now();
                    look();
                    began.elapsed().as_secs_f64() * 1e3
                });
                times.fold(f64::INFINITY, f64::min)
            };
            let start = || Forecast::new(&real.state, &real.liveness, now_ms).start_of(job);
            let forecast = least(&|| drop(start()));
            let explained = least(&|| drop(explain::job(&real.state, &real.liveness, job)));
            let outcome = match start() {
                Start::Expected { ms, .. } => {
                    format!("in {:.0} min", (ms - now_ms) as f64 / MINUTE_MS)
                }
                other => format!("{other:?}"),
            };
            println!("| {queued} | {turns} | {forecast:.1} | {explained:.1} | {outcome} |");
        }
    }
}
