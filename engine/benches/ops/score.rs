//! Beside divan's own table: the best of each operation, and what part of the machine's ceiling that is.

use std::fmt::Display;
use std::io::{Write, stdout};
use std::sync::Mutex;
use std::time::Instant;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

use crate::ceiling::Ceiling;

/// What one call of an operation comes to, and so which ceiling it is held against.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Floating-point operations; divan counts them as items.
    Flops(usize),
    /// Bytes read and written, each tensor once.
    Bytes(usize),
}

struct Score {
    operation: String,
    work: Work,
    seconds_best: f64,
}

static SCORES: Mutex<Vec<Score>> = Mutex::new(Vec::new());

/// Has divan time `op`, and remembers its best.
pub(crate) fn time<T>(
    bencher: Bencher<'_, '_>,
    operation: &str,
    case: impl Display,
    work: Work,
    mut op: impl FnMut() -> T,
) {
    let mut seconds_best = f64::INFINITY;
    let timed = || {
        let begun = Instant::now();
        let result = op();
        seconds_best = seconds_best.min(begun.elapsed().as_secs_f64());
        result
    };
    match work {
        Work::Flops(flops) => bencher.counter(ItemsCount::new(flops)).bench_local(timed),
        Work::Bytes(bytes) => bencher.counter(BytesCount::new(bytes)).bench_local(timed),
    }
    if seconds_best.is_finite() {
        let score = Score { operation: format!("{operation} {case}"), work, seconds_best };
        SCORES.lock().expect("one thread benches").push(score);
    }
}

/// Prints every operation that was timed.
pub(crate) fn print(ceiling: Ceiling) -> std::io::Result<()> {
    const GIGA: f64 = 1e9;
    let scores = SCORES.lock().expect("one thread benches");
    let mut out = stdout().lock();
    writeln!(out, "\nceiling on {} threads", rayon::current_num_threads())?;
    writeln!(out, "  f32 multiply-adds   {:8.1} GFLOP/s", ceiling.flops_f32 / GIGA)?;
    if let Some(flops) = ceiling.flops_bf16 {
        writeln!(out, "  bf16 dot products   {:8.1} GFLOP/s", flops / GIGA)?;
    }
    writeln!(out, "  copy in memory      {:8.1} GB/s", ceiling.bytes / GIGA)?;
    let bf16 = if ceiling.flops_bf16.is_some() { "of bf16" } else { "" };
    writeln!(out, "\n{:<52}{:>18}{:>9}{bf16:>9}", "best", "", "of f32")?;
    for Score { operation, work, seconds_best } in scores.iter() {
        let part = |rate: f64, most: f64| format!("{:.0} %", 100.0 * rate / most);
        let (rate, unit, of, of_bf16) = match work {
            Work::Flops(flops) => {
                let rate = *flops as f64 / seconds_best;
                let of_bf16 = ceiling.flops_bf16.map(|most| part(rate, most));
                (rate, "GFLOP/s", part(rate, ceiling.flops_f32), of_bf16.unwrap_or_default())
            }
            Work::Bytes(bytes) => {
                let rate = *bytes as f64 / seconds_best;
                (rate, "GB/s", part(rate, ceiling.bytes), String::new())
            }
        };
        writeln!(out, "{operation:<52}{:>10.1} {unit:<7}{of:>9}{of_bf16:>9}", rate / GIGA)?;
    }
    Ok(())
}
