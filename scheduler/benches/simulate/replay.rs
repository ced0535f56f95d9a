//! A clock, cards and jobs: events happen, a scheduler is asked, what it places runs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::workload::Task;

/// Who decides. Tasks are numbered as in the workload, cards as in the fleet.
pub(crate) trait Scheduler {
    fn submit(&mut self, task: usize, now_ms: u64);
    fn end(&mut self, task: usize, now_ms: u64);
    /// What starts now: task and card.
    fn place(&mut self, now_ms: u64) -> Vec<(usize, usize)>;
    /// Tasks that were asked to make room since; they are put back by the scheduler itself.
    fn evicted(&mut self) -> Vec<usize> {
        Vec::new()
    }
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) makespan_h: f64,
    pub(crate) wait_mean_h: f64,
    pub(crate) wait_p95_h: f64,
    /// Of the memory of cards in use, what nobody was promised.
    pub(crate) wasted: f64,
    /// Jain's index over users of the part of their jobs' time that was not waiting: 1 where all fared alike, however
    /// well.
    pub(crate) fairness: f64,
    /// Jain's index over users of memory × time they were given until the first of them had nothing left to ask for;
    /// absent where others had not even come by then.
    pub(crate) shares: Option<f64>,
    /// Hours that jobs waited, shortest first.
    pub(crate) waits_h: Vec<f64>,
    /// Memory promised to jobs, as a part of all there is, by hours since the first job came.
    pub(crate) promised: Vec<(f64, f64)>,
}

struct Card {
    vram_bytes: u64,
    /// Task and the work it has left.
    running: BTreeMap<usize, f64>,
    /// As of when.
    at_ms: u64,
    version: u64,
    busy_byte_ms: f64,
    promised_byte_ms: f64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ends { card: usize, version: u64 },
    Arrives(usize),
}

/// Runs a workload to its end. With `contention` c, each of k jobs on a card runs at 1 / (1 + c (k − 1)) of its speed:
/// 0 is a card with room for all, 1 is perfect taking of turns.
pub(crate) fn replay(
    tasks: &[Task],
    fleet: &[u64],
    contention: f64,
    scheduler: &mut dyn Scheduler,
) -> Outcome {
    let mut cards: Vec<_> = fleet
        .iter()
        .map(|vram_bytes| Card {
            vram_bytes: *vram_bytes,
            running: BTreeMap::new(),
            at_ms: 0,
            version: 0,
            busy_byte_ms: 0.0,
            promised_byte_ms: 0.0,
        })
        .collect();
    let mut events: BinaryHeap<Reverse<(u64, Event)>> = tasks
        .iter()
        .enumerate()
        .map(|(number, task)| Reverse((task.arrives_ms, Event::Arrives(number))))
        .collect();
    let mut left: Vec<f64> = tasks.iter().map(|task| task.work_ms as f64).collect();
    let mut ended_ms = vec![0u64; tasks.len()];
    let mut ran_ms = vec![0.0f64; tasks.len()];
    let mut place_of = vec![usize::MAX; tasks.len()];
    let mut users = Users::new(tasks);
    let mut promised = Promised::new(tasks, fleet);
    let mut shares = None;
    while let Some(now_ms) = events.peek().map(|Reverse((ms, _))| *ms) {
        let (mut changed, mut heard) = (Vec::new(), false);
        // Whatever else happens at this moment is heard before anybody is placed.
        while let Some(event) = next_at(&mut events, now_ms) {
            match event {
                Event::Arrives(task) => {
                    heard = true;
                    scheduler.submit(task, now_ms);
                }
                Event::Ends { card, version } if cards[card].version != version => {}
                Event::Ends { card, .. } => {
                    heard = true;
                    cards[card].advance(now_ms, contention, tasks, &mut ran_ms);
                    for task in cards[card].take_ended() {
                        promised.bytes -= tasks[task].vram_bytes;
                        ended_ms[task] = now_ms;
                        scheduler.end(task, now_ms);
                        if users.end(task) {
                            for card in &mut cards {
                                card.advance(now_ms, contention, tasks, &mut ran_ms);
                            }
                            let all_came =
                                tasks.last().is_some_and(|task| task.arrives_ms <= now_ms);
                            shares = all_came.then(|| users.shares(tasks, &ran_ms));
                        }
                    }
                    changed.push(card);
                }
            }
        }
        if !heard {
            continue;
        }
        loop {
            let placed = scheduler.place(now_ms);
            for task in scheduler.evicted() {
                let card = place_of[task];
                cards[card].advance(now_ms, contention, tasks, &mut ran_ms);
                left[task] = cards[card].running.remove(&task).unwrap_or(0.0);
                promised.bytes -= tasks[task].vram_bytes;
                changed.push(card);
            }
            if placed.is_empty() {
                break;
            }
            for (task, card) in placed {
                cards[card].advance(now_ms, contention, tasks, &mut ran_ms);
                cards[card].running.insert(task, left[task]);
                promised.bytes += tasks[task].vram_bytes;
                place_of[task] = card;
                changed.push(card);
            }
        }
        promised.note(now_ms);
        changed.sort_unstable();
        changed.dedup();
        for card in changed {
            let version = cards[card].version + 1;
            cards[card].version = version;
            if let Some(ms) = cards[card].next_end(contention) {
                events.push(Reverse((now_ms + ms, Event::Ends { card, version })));
            }
        }
    }
    let promised = promised.noted;
    Outcome { shares, promised, ..outcome(tasks, &cards, &ended_ms, &ran_ms) }
}

impl Card {
    fn speed(&self, contention: f64) -> f64 {
        1.0 / contention.mul_add(self.running.len().saturating_sub(1) as f64, 1.0)
    }

    fn advance(&mut self, now_ms: u64, contention: f64, tasks: &[Task], ran_ms: &mut [f64]) {
        let ms = (now_ms - self.at_ms) as f64;
        let speed = self.speed(contention);
        if !self.running.is_empty() {
            let promised: u64 = self.running.keys().map(|task| tasks[*task].vram_bytes).sum();
            assert!(promised <= self.vram_bytes, "a card was promised twice");
            self.busy_byte_ms += ms * self.vram_bytes as f64;
            self.promised_byte_ms += ms * promised as f64;
        }
        for (task, left) in &mut self.running {
            *left = ms.mul_add(-speed, *left).max(0.0);
            ran_ms[*task] += ms;
        }
        self.at_ms = now_ms;
    }

    /// In how many milliseconds the first of its tasks ends.
    fn next_end(&self, contention: f64) -> Option<u64> {
        let first = self.running.values().copied().min_by(f64::total_cmp)?;
        Some((first / self.speed(contention)).ceil().max(1.0) as u64)
    }

    /// Tasks that have no work left, to less than what a clock of milliseconds sees.
    fn take_ended(&mut self) -> Vec<usize> {
        let ended: Vec<usize> =
            self.running.iter().filter(|(_, left)| **left < 0.5).map(|(task, _)| *task).collect();
        self.running.retain(|task, _| !ended.contains(task));
        ended
    }
}

fn next_at(events: &mut BinaryHeap<Reverse<(u64, Event)>>, now_ms: u64) -> Option<Event> {
    events.peek().filter(|Reverse((ms, _))| *ms == now_ms)?;
    events.pop().map(|Reverse((_, event))| event)
}

const HOUR_MS: f64 = 3_600_000.0;

fn outcome(tasks: &[Task], cards: &[Card], ended_ms: &[u64], ran_ms: &[f64]) -> Outcome {
    assert!(ended_ms.iter().all(|ms| *ms > 0), "every job ends");
    let mut waits: Vec<f64> = Vec::with_capacity(tasks.len());
    let mut users: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for ((task, ended), ran) in tasks.iter().zip(ended_ms).zip(ran_ms) {
        let there = (ended - task.arrives_ms) as f64;
        waits.push((there - ran).max(0.0));
        let user = users.entry(&task.user).or_default();
        *user = (user.0 + task.work_ms as f64, user.1 + there);
    }
    waits.sort_by(f64::total_cmp);
    let shares: Vec<f64> = users.values().map(|(work, there)| work / there).collect();
    let busy: f64 = cards.iter().map(|card| card.busy_byte_ms).sum();
    let promised: f64 = cards.iter().map(|card| card.promised_byte_ms).sum();
    let first = tasks.first().map_or(0, |task| task.arrives_ms);
    let last = ended_ms.iter().max().copied().unwrap_or(0);
    Outcome {
        makespan_h: (last - first) as f64 / HOUR_MS,
        wait_mean_h: waits.iter().sum::<f64>() / waits.len() as f64 / HOUR_MS,
        wait_p95_h: waits[waits.len() * 95 / 100] / HOUR_MS,
        wasted: 1.0 - promised / busy,
        fairness: jain(&shares),
        shares: None,
        waits_h: waits.iter().map(|ms| ms / HOUR_MS).collect(),
        promised: Vec::new(),
    }
}

/// How much memory is promised, event by event.
struct Promised {
    bytes: u64,
    of: f64,
    first_ms: u64,
    noted: Vec<(f64, f64)>,
}

impl Promised {
    fn new(tasks: &[Task], fleet: &[u64]) -> Self {
        let first_ms = tasks.first().map_or(0, |task| task.arrives_ms);
        Self { bytes: 0, of: fleet.iter().sum::<u64>() as f64, first_ms, noted: Vec::new() }
    }

    fn note(&mut self, now_ms: u64) {
        let hours = (now_ms - self.first_ms) as f64 / HOUR_MS;
        self.noted.push((hours, self.bytes as f64 / self.of));
    }
}

/// Jain's index: 1 where all are equal, 1/n where one has everything.
fn jain(values: &[f64]) -> f64 {
    let (sum, squares) = values.iter().fold((0.0, 0.0), |(s, q), x| (s + x, x.mul_add(*x, q)));
    sum * sum / (values.len() as f64 * squares)
}

/// Who has how many jobs left.
struct Users {
    of: Vec<usize>,
    left: Vec<usize>,
    first_done: bool,
}

impl Users {
    fn new(tasks: &[Task]) -> Self {
        let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
        let mut left = Vec::new();
        let of = tasks.iter().map(|task| {
            let user = *numbers.entry(&task.user).or_insert_with(|| {
                left.push(0);
                left.len() - 1
            });
            left[user] += 1;
            user
        });
        Self { of: of.collect(), left, first_done: false }
    }

    /// Whether this is the first user to have nothing left.
    fn end(&mut self, task: usize) -> bool {
        self.left[self.of[task]] -= 1;
        let first = !self.first_done && self.left[self.of[task]] == 0;
        self.first_done |= first;
        first
    }

    fn shares(&self, tasks: &[Task], ran_ms: &[f64]) -> f64 {
        let mut given = vec![0.0; self.left.len()];
        for ((task, user), ran) in tasks.iter().zip(&self.of).zip(ran_ms) {
            given[*user] += ran * task.vram_bytes as f64;
        }
        jain(&given)
    }
}
