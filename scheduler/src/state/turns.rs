//! Whose turn it is: waiting jobs in the order they are to be placed.
//!
//! By level first: a job's priority, and one more for every day it has waited, so that nobody waits for ever. Within
//! a level users take turns, whoever has had least of the fleet first. A user's jobs of one priority go by age.

use std::cmp::Reverse;
use std::collections::btree_map::Iter;
use std::collections::{BinaryHeap, HashMap};

use fleetune_shared::JobId;

use super::State;
use super::index::Lane;
use super::usage::Holding;

/// A day of waiting is worth a level of priority.
const LEVEL_MS: u64 = 24 * 3_600_000;

/// How urgent a job is: its priority, and one more for every day since it was submitted.
#[must_use]
pub fn level(priority: i32, submitted_ms: u64, now_ms: u64) -> i64 {
    let days = now_ms.saturating_sub(submitted_ms) / LEVEL_MS;
    i64::from(priority) + i64::try_from(days).unwrap_or(i64::MAX >> 1)
}

/// Waiting jobs in order, lane by lane: whoever takes a turn says whether its lane goes on.
pub(crate) struct Turns<'a> {
    now_ms: u64,
    heap: BinaryHeap<Reverse<Key>>,
    lanes: Vec<Queue<'a>>,
    standings: Vec<u64>,
}

struct Queue<'a> {
    lane: &'a Lane,
    user: usize,
    jobs: Iter<'a, JobId, u64>,
}

/// In the order of turns.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    level: Reverse<i64>,
    standing: u64,
    job: JobId,
    lane: usize,
}

/// One job's turn.
pub(crate) struct Turn<'a> {
    pub(crate) job: JobId,
    pub(crate) lane: &'a Lane,
    number: usize,
}

impl<'a> Turns<'a> {
    pub(crate) fn new(state: &'a State, now_ms: u64) -> Self {
        let mut users: HashMap<&str, usize> = HashMap::new();
        let mut standings = Vec::new();
        let mut lanes = Vec::with_capacity(state.index.lanes.len());
        for (lane, jobs) in &state.index.lanes {
            let user = *users.entry(&lane.user).or_insert_with(|| {
                standings.push(state.standing(&lane.user, now_ms));
                standings.len() - 1
            });
            lanes.push(Queue { lane, user, jobs: jobs.iter() });
        }
        let mut turns = Self { now_ms, heap: BinaryHeap::new(), lanes, standings };
        turns.heap =
            (0..turns.lanes.len()).filter_map(|lane| turns.key(lane)).map(Reverse).collect();
        turns
    }

    fn key(&mut self, lane: usize) -> Option<Key> {
        let queue = &mut self.lanes[lane];
        let (job, submitted_ms) = queue.jobs.next()?;
        Some(Key {
            level: Reverse(level(queue.lane.priority, *submitted_ms, self.now_ms)),
            standing: self.standings[queue.user],
            job: *job,
            lane,
        })
    }

    /// The next job. Its lane rests until [`Self::go_on`].
    pub(crate) fn next(&mut self) -> Option<Turn<'a>> {
        loop {
            let Reverse(mut key) = self.heap.pop()?;
            let queue = &self.lanes[key.lane];
            let standing = self.standings[queue.user];
            if standing == key.standing {
                return Some(Turn { job: key.job, lane: queue.lane, number: key.lane });
            }
            // The user was given something since.
            key.standing = standing;
            self.heap.push(Reverse(key));
        }
    }

    /// The lane's next job is to have its turn.
    pub(crate) fn go_on(&mut self, turn: &Turn<'a>) {
        if let Some(key) = self.key(turn.number) {
            self.heap.push(Reverse(key));
        }
    }

    /// The job was given memory: its user steps back.
    pub(crate) fn charge(&mut self, turn: &Turn<'a>, vram_bytes: u64) {
        self.standings[self.lanes[turn.number].user] += Holding::of_one(vram_bytes);
    }
}
