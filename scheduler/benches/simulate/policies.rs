//! Makespan, waits, wasted memory and fairness, scheduler by scheduler.

use std::time::Instant;

use crate::plain::FirstFit;
use crate::real::{Real, card};
use crate::replay::{Outcome, Scheduler, replay};
use crate::workload::{self, Task};

const SEED: u64 = 42;

pub(crate) fn run(trace: Option<&str>) {
    let burst = workload::burst(4_000, 20, SEED);
    for contention in [0.0, 0.3] {
        compare("4,000 jobs of mixed size in an hour, 100 cards", &burst, 100, contention);
    }
    match trace.map(|path| workload::trace(path, SEED)) {
        Some(Ok(tasks)) => {
            for contention in [0.0, 0.3] {
                compare(
                    &format!("{} jobs of a trace, 100 cards", tasks.len()),
                    &tasks,
                    100,
                    contention,
                );
            }
        }
        Some(Err(error)) => println!("{error}"),
        None => println!("no trace was given: its part is left out"),
    }
}

fn compare(title: &str, tasks: &[Task], cards: usize, contention: f64) {
    println!("\n{title}; each of k jobs on a card at 1/(1 + {contention} (k - 1)) of its speed");
    println!(
        "| scheduler | makespan h | mean wait h | p95 wait h | wasted VRAM | fared alike | equal shares |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let fleet = workload::cards(cards);
    let usable = || fleet.iter().map(|bytes| card(*bytes).usable().0).collect();
    let line = |name: &str, scheduler: &mut dyn Scheduler| {
        let began = Instant::now();
        let outcome = replay(tasks, &fleet, contention, scheduler);
        let Outcome { makespan_h, wait_mean_h, wait_p95_h, wasted, fairness, shares } = outcome;
        let shares = shares.map_or("\u{2013}".into(), |shares| format!("{shares:.3}"));
        println!(
            "| {name} | {makespan_h:.1} | {wait_mean_h:.2} | {wait_p95_h:.2} | {:.0} % | {fairness:.3} | {shares} |",
            100.0 * wasted
        );
        eprintln!("  {:.1} s", began.elapsed().as_secs_f64());
        outcome
    };
    line("first in, first out, whole cards", &mut FirstFit::new(tasks, usable(), 1));
    line("first in, first fit by VRAM", &mut FirstFit::new(tasks, usable(), usize::MAX));
    let whole = line("Fleetune, one job per card", &mut Real::new(tasks, &fleet, 1));
    let two = line("Fleetune, two jobs per card", &mut Real::new(tasks, &fleet, 2));
    let packed = line("Fleetune, as many as fit", &mut Real::new(tasks, &fleet, u32::MAX));
    for (name, outcome) in [("two jobs per card", two), ("as many as fit", packed)] {
        let less = 100.0 * (1.0 - outcome.makespan_h / whole.makespan_h);
        println!("{name}: makespan {less:.0} % below whole-card slots");
    }
}
