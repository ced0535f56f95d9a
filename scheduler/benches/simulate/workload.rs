//! Jobs and cards: made up from a seed, or read from a trace of a real cluster.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const GIB: f64 = (1u64 << 30) as f64;

/// One job of a workload.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) arrives_ms: u64,
    pub(crate) work_ms: u64,
    pub(crate) vram_bytes: u64,
    pub(crate) user: String,
    pub(crate) priority: i32,
}

/// What fine-tunes need, with how often they are asked for: sweeps over small models, then the usual QLoRA sizes.
const NEEDS_GIB: [(f64, u32); 6] =
    [(2.5, 25), (4.0, 25), (6.0, 20), (9.2, 18), (18.0, 9), (22.0, 3)];

/// A lab's cards in GiB, for each hundred.
const CARDS_GIB: [(f64, usize); 3] = [(10.0, 40), (20.0, 30), (24.0, 30)];

/// So many cards, mixed as a lab's are.
pub(crate) fn cards(count: usize) -> Vec<u64> {
    let of_hundred = CARDS_GIB.iter().flat_map(|(gib, n)| std::iter::repeat_n(*gib, *n));
    let sizes: Vec<f64> = of_hundred.collect();
    // 37 has no divisor in common with 100: every stretch is mixed.
    (0..count).map(|i| (sizes[i * 37 % 100] * GIB) as u64).collect()
}

pub(crate) fn need(rng: &mut ChaCha8Rng) -> u64 {
    let mut at = rng.random_range(0..100u32);
    for (gib, weight) in NEEDS_GIB {
        if at < weight {
            return (gib * GIB) as u64;
        }
        at -= weight;
    }
    unreachable!("the weights make a hundred")
}

/// Everything is asked for in the first hour, by users of very different appetite.
pub(crate) fn burst(jobs: usize, users: usize, seed: u64) -> Vec<Task> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tasks: Vec<_> = (0..jobs)
        .map(|_| {
            let appetite: f64 = rng.random_range(0.0..1.0);
            Task {
                arrives_ms: rng.random_range(0..3_600_000),
                // Ten minutes to ten hours, evenly over the orders of magnitude.
                work_ms: (600_000.0 * 60f64.powf(rng.random_range(0.0..1.0))) as u64,
                vram_bytes: need(&mut rng),
                user: format!("user-{}", (appetite * appetite * users as f64) as usize),
                priority: i32::from(rng.random_range(0..20u32) == 0),
            }
        })
        .collect();
    tasks.sort_by_key(|task| task.arrives_ms);
    tasks
}

/// A trace's jobs with needs drawn from the seed; its clusters are the users. Fleetune's jobs are on one card each, so
/// one that had g GPUs is g jobs that last as long, and one that had none is none.
pub(crate) fn trace(path: &str, seed: u64) -> Result<Vec<Task>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tasks = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1).filter(|(_, l)| !l.is_empty()) {
        let columns: Vec<_> = line.split(',').collect();
        let read = || {
            let [at, seconds, gpus, _, cluster] = columns[..] else { return None };
            let (seconds, gpus) = (seconds.parse::<f64>().ok()?, gpus.parse::<f64>().ok()?);
            Some((seconds_of(at)?, seconds, gpus as usize, cluster))
        };
        let (at, seconds, gpus, cluster) = read().ok_or_else(|| {
            format!("{path}, line {}: found `{line}`, expected five columns", number + 1)
        })?;
        // Parts of one job are alike.
        let task = Task {
            arrives_ms: at * 1000,
            work_ms: (seconds.max(1.0) * 1000.0) as u64,
            vram_bytes: need(&mut rng),
            user: cluster.to_owned(),
            priority: 0,
        };
        tasks.extend(std::iter::repeat_n(task, gpus));
    }
    tasks.sort_by_key(|task| task.arrives_ms);
    let first = tasks.first().map_or(0, |task| task.arrives_ms);
    tasks.iter_mut().for_each(|task| task.arrives_ms -= first);
    Ok(tasks)
}

/// `2017-10-09 07:01:55` in seconds since some day.
fn seconds_of(text: &str) -> Option<u64> {
    let mut numbers = text.split(['-', ' ', ':']).map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (year, month, day) = (next()?, next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    // Years begin in March, so that the day that leap years add comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}
