//! Makespan, waits, wasted memory and fairness, scheduler by scheduler.

use std::path::Path;
use std::time::Instant;

use crate::plain::FirstFit;
use crate::plot::{Line, Plot};
use crate::real::{Real, card};
use crate::replay::{Outcome, Scheduler, replay};
use crate::workload::{self, Task};

const SEED: u64 = 42;
const CARDS: usize = 100;
const CONTENTION: [f64; 2] = [0.0, 0.3];
const MIXED: &str = "4,000 jobs of mixed size in an hour, 100 cards";

fn mixed() -> Vec<Task> {
    workload::burst(4_000, 20, SEED)
}

pub(crate) fn run(trace: Option<&str>) {
    let burst = mixed();
    for contention in CONTENTION {
        compare(MIXED, &burst, contention);
    }
    match trace.map(|path| workload::trace(path, SEED)) {
        Some(Ok(tasks)) => {
            let title = format!("{} jobs of a trace, {CARDS} cards", tasks.len());
            for contention in CONTENTION {
                compare(&title, &tasks, contention);
            }
        }
        Some(Err(error)) => println!("{error}"),
        None => println!("no trace was given: its part is left out"),
    }
}

/// Draws what became of the mixed workload into `folder`.
pub(crate) fn draw(folder: &str) -> std::io::Result<()> {
    let outcomes = outcomes(&mixed(), 0.0);
    let lines = |points: &dyn Fn(&Outcome) -> Vec<(f64, f64)>| {
        let line =
            |(name, outcome): &(&'static str, Outcome)| Line { name, points: points(outcome) };
        outcomes.iter().map(line).collect()
    };
    let waits = |outcome: &Outcome| {
        let (waits, all) = (&outcome.waits_h, outcome.waits_h.len() as f64);
        waits.iter().enumerate().map(|(i, wait)| (*wait, 100.0 * (i + 1) as f64 / all)).collect()
    };
    let memory = |outcome: &Outcome| {
        outcome.promised.iter().map(|(hours, part)| (*hours, 100.0 * part)).collect()
    };
    let title = |what: &str| format!("{what}: {MIXED}");
    for (file, what, x, y, lines) in [
        (
            "waits.svg",
            "How long jobs waited",
            "hours waited",
            "% of jobs that waited no longer",
            lines(&waits),
        ),
        (
            "memory.svg",
            "Memory in use",
            "hours since the first job",
            "% of all cards' memory promised",
            lines(&memory),
        ),
    ] {
        let title = title(what);
        let plot = Plot { title: &title, x, y, y_max: 100.0, lines };
        std::fs::write(Path::new(folder).join(file), plot.svg())?;
    }
    Ok(())
}

/// Every scheduler on the same work, the whole-card slots of Fleetune before its others.
fn outcomes(tasks: &[Task], contention: f64) -> [(&'static str, Outcome); 5] {
    let fleet = workload::cards(CARDS);
    let usable = || fleet.iter().map(|bytes| card(*bytes).usable().0).collect();
    let run = |name: &'static str, scheduler: &mut dyn Scheduler| {
        let began = Instant::now();
        let outcome = replay(tasks, &fleet, contention, scheduler);
        eprintln!("  {name}: {:.1} s", began.elapsed().as_secs_f64());
        (name, outcome)
    };
    [
        run("first in, first out, whole cards", &mut FirstFit::new(tasks, usable(), 1)),
        run("first in, first fit by VRAM", &mut FirstFit::new(tasks, usable(), usize::MAX)),
        run("Fleetune, one job per card", &mut Real::new(tasks, &fleet, 1)),
        run("Fleetune, two jobs per card", &mut Real::new(tasks, &fleet, 2)),
        run("Fleetune, as many as fit", &mut Real::new(tasks, &fleet, u32::MAX)),
    ]
}

fn compare(title: &str, tasks: &[Task], contention: f64) {
    println!("\n{title}; each of k jobs on a card at 1/(1 + {contention} (k - 1)) of its speed");
    println!(
        "| scheduler | makespan h | mean wait h | p95 wait h | wasted VRAM | fared alike | equal shares |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let outcomes = outcomes(tasks, contention);
    for (name, outcome) in &outcomes {
        let Outcome { makespan_h, wait_mean_h, wait_p95_h, wasted, fairness, shares, .. } = outcome;
        let shares = shares.map_or("\u{2013}".into(), |shares| format!("{shares:.3}"));
        println!(
            "| {name} | {makespan_h:.1} | {wait_mean_h:.2} | {wait_p95_h:.2} | {:.0} % | {fairness:.3} | {shares} |",
            100.0 * wasted
        );
    }
    let [_, _, (_, whole), packed @ ..] = &outcomes;
    for (name, outcome) in packed {
        let less = 100.0 * (1.0 - outcome.makespan_h / whole.makespan_h);
        println!("{name}: makespan {less:.0} % below whole-card slots");
    }
}
