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
///
/// A user's lanes wait in a heap of the user's own and users in another, each with the best of its lanes, so that what
/// a user is given moves one entry, however many lanes there are.
pub(crate) struct Turns<'a> {
    now_ms: u64,
    heap: BinaryHeap<Reverse<UserKey>>,
    users: Vec<User<'a>>,
    lanes: Vec<Queue<'a>>,
    /// Who had the last turn and comes back to the heap before the next.
    last: Option<usize>,
    /// How many there were, over all rounds.
    pub(crate) taken: usize,
}

struct User<'a> {
    name: &'a str,
    standing: u64,
    lanes: BinaryHeap<Reverse<LaneKey>>,
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
struct UserKey {
    level: Reverse<i64>,
    standing: u64,
    job: JobId,
    user: usize,
}

/// In the order of one user's turns.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct LaneKey {
    level: Reverse<i64>,
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
        let mut users: Vec<User<'a>> = Vec::new();
        let mut lanes = Vec::with_capacity(state.index.lanes.len());
        for (lane, jobs) in &state.index.lanes {
            let user = *numbers.entry(&lane.user).or_insert_with(|| {
                let standing = state.standing(&lane.user, now_ms);
                users.push(User { name: &lane.user, standing, lanes: BinaryHeap::new() });
                users.len() - 1
            });
            let mut rest = jobs.iter();
            lanes.push(Queue { lane, user, first: rest.next(), rest, ahead: None });
        }
        let heap = BinaryHeap::with_capacity(users.len());
        let mut turns = Self { now_ms, heap, users, lanes, last: None, taken: 0 };
        turns.begin();
        turns
    }

    /// Users of waiting jobs; [`Self::again`] has their standings in this order.
    pub(crate) fn users(&self) -> impl Iterator<Item = &'a str> {
        self.users.iter().map(|user| user.name)
    }

    /// Another round, at another time.
    pub(crate) fn again(&mut self, now_ms: u64, standings: impl Iterator<Item = u64>) {
        self.now_ms = now_ms;
        self.users.iter_mut().zip(standings).for_each(|(user, standing)| user.standing = standing);
        self.begin();
    }

    fn begin(&mut self) {
        self.heap.clear();
        self.last = None;
        self.users.iter_mut().for_each(|user| user.lanes.clear());
        for number in 0..self.lanes.len() {
            self.lanes[number].ahead = None;
            self.push(number, self.lanes[number].first);
        }
        (0..self.users.len()).for_each(|user| self.come_back(user));
    }

    /// The next job. Its lane rests until it is given its place or passed over, before the next turn.
    pub(crate) fn next(&mut self) -> Option<Turn<'a>> {
        if let Some(user) = self.last.take() {
            self.come_back(user);
        }
        let Reverse(UserKey { user, .. }) = self.heap.pop()?;
        let Reverse(LaneKey { job, lane: number, .. }) = self.users[user].lanes.pop()?;
        self.last = Some(user);
        self.taken += 1;
        Some(Turn { job, lane: self.lanes[number].lane, number })
    }

    /// The job was given memory: its user steps back, and its lane goes on without it.
    pub(crate) fn place(&mut self, turn: &Turn<'a>, vram_bytes: u64) {
        let queue = &mut self.lanes[turn.number];
        self.users[queue.user].standing += Holding::of_one(vram_bytes);
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
        let Some((job, submitted_ms)) = next else { return };
        let Queue { lane, user, .. } = &self.lanes[number];
        let level = Reverse(level(lane.priority, *submitted_ms, self.now_ms));
        self.users[*user].lanes.push(Reverse(LaneKey { level, job: *job, lane: number }));
    }

    /// A user with lanes that go on waits for another turn.
    fn come_back(&mut self, user: usize) {
        let User { standing, lanes, .. } = &self.users[user];
        if let Some(Reverse(LaneKey { level, job, .. })) = lanes.peek() {
            self.heap.push(Reverse(UserKey {
                level: *level,
                standing: *standing,
                job: *job,
                user,
            }));
        }
    }
}
