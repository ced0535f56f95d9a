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

/// Waiting jobs in order, lane by lane: whoever takes a turn says whether its lane goes on. A round goes through those
/// that have no place yet.
pub(crate) struct Turns<'a> {
    now_ms: u64,
    heap: BinaryHeap<Reverse<Key>>,
    lanes: Vec<Queue<'a>>,
    users: Vec<&'a str>,
    standings: Vec<u64>,
    /// How many there were, over all rounds.
    pub(crate) taken: usize,
}

struct Queue<'a> {
    lane: &'a Lane,
    user: usize,
    /// The first job that has no place, and those after it.
    first: Option<(&'a JobId, &'a u64)>,
    rest: Iter<'a, JobId, u64>,
    /// What is left of them in this round, where some had their turn and wait.
    ahead: Option<Iter<'a, JobId, u64>>,
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
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut users: Vec<&str> = Vec::new();
        let mut lanes = Vec::with_capacity(state.index.lanes.len());
        for (lane, jobs) in &state.index.lanes {
            let user = *numbers.entry(&lane.user).or_insert_with(|| {
                users.push(&lane.user);
                users.len() - 1
            });
            let mut rest = jobs.iter();
            lanes.push(Queue { lane, user, first: rest.next(), rest, ahead: None });
        }
        let standings = users.iter().map(|user| state.standing(user, now_ms)).collect();
        let mut turns = Self { now_ms, heap: BinaryHeap::new(), lanes, users, standings, taken: 0 };
        turns.begin();
        turns
    }

    /// Users of waiting jobs; [`Self::again`] has their standings in this order.
    pub(crate) fn users(&self) -> &[&'a str] {
        &self.users
    }

    /// Another round, at another time.
    pub(crate) fn again(&mut self, now_ms: u64, standings: impl Iterator<Item = u64>) {
        self.now_ms = now_ms;
        self.standings.clear();
        self.standings.extend(standings);
        self.begin();
    }

    fn begin(&mut self) {
        let mut keys = std::mem::take(&mut self.heap).into_vec();
        keys.clear();
        for number in 0..self.lanes.len() {
            self.lanes[number].ahead = None;
            keys.extend(self.lanes[number].first.map(|job| Reverse(self.key(number, job))));
        }
        self.heap = keys.into();
    }

    fn key(&self, number: usize, (job, submitted_ms): (&JobId, &u64)) -> Key {
        let Queue { lane, user, .. } = &self.lanes[number];
        Key {
            level: Reverse(level(lane.priority, *submitted_ms, self.now_ms)),
            standing: self.standings[*user],
            job: *job,
            lane: number,
        }
    }

    /// The next job. Its lane rests until it is given its place or passed over.
    pub(crate) fn next(&mut self) -> Option<Turn<'a>> {
        loop {
            let Reverse(mut key) = self.heap.pop()?;
            let queue = &self.lanes[key.lane];
            let standing = self.standings[queue.user];
            if standing == key.standing {
                self.taken += 1;
                return Some(Turn { job: key.job, lane: queue.lane, number: key.lane });
            }
            // The user was given something since.
            key.standing = standing;
            self.heap.push(Reverse(key));
        }
    }

    /// The job was given memory: its user steps back, and its lane goes on without it.
    pub(crate) fn place(&mut self, turn: &Turn<'a>, vram_bytes: u64) {
        let queue = &mut self.lanes[turn.number];
        self.standings[queue.user] += Holding::of_one(vram_bytes);
        queue.first = queue.rest.next();
        let next = queue.first;
        self.push(turn.number, next);
    }

    /// The job waits, and the lane's next one is to have its turn.
    pub(crate) fn pass_over(&mut self, turn: &Turn<'a>) {
        let queue = &mut self.lanes[turn.number];
        let next = queue.ahead.get_or_insert_with(|| queue.rest.clone()).next();
        self.push(turn.number, next);
    }

    fn push(&mut self, number: usize, next: Option<(&JobId, &u64)>) {
        if let Some(next) = next {
            self.heap.push(Reverse(self.key(number, next)));
        }
    }
}
