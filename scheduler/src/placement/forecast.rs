//! When waiting jobs would start: the planner's own rounds of turns, played forward over what is expected to end.
//!
//! ```text
//!   State + Liveness + now ─▶ round ─▶ the next end or opening ─▶ round ─▶ … ─▶ until the job asked about has its card
//! ```
//!
//! What runs ends when its pace says; what is placed on the way ends when jobs of its kind would
//! ([`State::ms_expected`]). A job of which neither is known counts as if it never ended, so that nothing is promised on
//! its account. What cannot be foreseen is left out: jobs still to come, jobs that are asked to make room later on, cards
//! whose owner comes back.

use std::collections::HashMap;

use fleetune_shared::{AgentName, JobId};

use super::board::{Board, Room, Spot};
use super::preemption::Preemptions;
use super::{Decision, Policy, agents, round};
use crate::Liveness;
use crate::state::{Job, Promise, Shape, Share, State, Turns, anti_affinity};

/// So many moments are looked at: each is an end or an opening, most have a job start.
const MOMENTS_MAX: usize = 1_024;
/// So many turns are taken over all moments: what bounds the work where many wait that fit nowhere.
const TURNS_MAX: usize = 50_000;

/// When a waiting job would start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Then, as far as can be told.
    Expected {
        /// When.
        ms: u64,
        /// Jobs on cards by then whose end is not known.
        endless: usize,
    },
    /// Not before a job has ended of which nobody can tell when it does.
    Behind {
        /// Which.
        job: JobId,
        /// Where it is, or would be.
        agent: AgentName,
    },
    /// Later than was looked at.
    TooFar {
        /// How far that was.
        ms: u64,
    },
    /// No card that would hold it takes jobs, and none says when it opens.
    Nowhere,
}

/// A fleet as it is expected to go on. It looks only as far as it is asked to, and remembers what it saw.
pub struct Forecast<'a> {
    state: &'a State,
    now_ms: u64,
    board: Board<'a>,
    turns: Turns<'a>,
    /// Of the users who wait, as [`Turns::users`] has them.
    shares: Vec<Share>,
    numbers: HashMap<&'a str, usize>,
    starts: HashMap<JobId, (u64, usize)>,
    endless: usize,
    moments: usize,
}

impl<'a> Forecast<'a> {
    /// From now on.
    #[must_use]
    pub fn new(state: &'a State, liveness: &Liveness, now_ms: u64) -> Self {
        let agents = agents(state, liveness);
        let lent = agents.iter().filter(|(agent, connected)| *connected && agent.is_lent());
        let lent = lent.filter_map(|(agent, _)| match agent.availability() {
            open if open.is_open() => Some((*agent, None)),
            closed => Some((*agent, Some(closed.opens_ms()?))),
        });
        let mut board = Board::new(state, lent, now_ms);
        let turns = Turns::new(state, now_ms);
        board.look_ahead();
        let promises = || board.rooms().iter().flat_map(|room| &room.load.promises);
        let endless = promises().filter(|promise| promise.ends_ms.is_none()).count();
        let mut leaving: Vec<JobId> =
            promises().filter(|p| p.yielding_to.is_some()).map(|p| p.job).collect();
        let mut forecast = Self {
            state,
            now_ms,
            shares: turns.users().map(|user| state.share(user)).collect(),
            numbers: turns.users().enumerate().map(|(at, user)| (user, at)).collect(),
            board,
            turns,
            starts: HashMap::new(),
            endless,
            moments: 0,
        };
        // What is asked to make room now is as good as gone, and then others may be asked.
        for _ in 0..=Policy::HOLDS_MAX {
            leaving.extend(forecast.rounds(|| Preemptions::new(state, now_ms)));
            if leaving.is_empty() {
                break;
            }
            let gone: Vec<_> = leaving.drain(..).filter_map(|job| forecast.leave(job)).collect();
            forecast.endless -= gone.iter().filter(|promise| promise.ends_ms.is_none()).count();
            forecast.pass(now_ms, gone);
        }
        forecast
    }

    /// Whether a job would be placed at once.
    #[must_use]
    pub fn goes_now(&self, job: JobId, now_ms: u64) -> bool {
        self.starts.get(&job).is_some_and(|(ms, _)| *ms <= now_ms)
    }

    /// When a waiting job would start, where that can be told.
    pub fn expected_ms(&mut self, job: JobId) -> Option<u64> {
        self.reach(job).map(|(ms, _)| ms)
    }

    /// When a waiting job would start, or why that cannot be told.
    pub fn start_of(&mut self, job: &Job) -> Start {
        match self.reach(job.id) {
            Some((ms, endless)) => Start::Expected { ms, endless },
            None if self.board.change_ms().is_some() => Start::TooFar { ms: self.now_ms },
            None => self.unknown(job),
        }
    }

    /// Goes on until a job has started, or as far as is looked.
    fn reach(&mut self, job: JobId) -> Option<(u64, usize)> {
        let state = self.state;
        while !self.starts.contains_key(&job)
            && self.moments < MOMENTS_MAX
            && self.turns.taken < TURNS_MAX
        {
            let ms = self.board.change_ms()?;
            self.moments += 1;
            self.pass(ms, Vec::new());
            self.rounds(|| Preemptions::over(state, ms));
        }
        self.starts.get(&job).copied()
    }

    /// Goes to another moment; `gone` are promises that are over beside those that end by then.
    fn pass(&mut self, now_ms: u64, gone: Vec<Promise>) {
        self.now_ms = now_ms;
        for promise in self.board.again(now_ms).into_iter().chain(gone) {
            let user = self.state.job(promise.job).map_or("", |job| &job.spec.user);
            if let Some(number) = self.numbers.get(user) {
                self.shares[*number].end(promise.vram_bytes, promise.since_ms, now_ms);
            }
        }
        self.turns.again(now_ms, self.shares.iter().map(|share| share.at(now_ms)));
    }

    /// Plan after plan at one moment, as a leader makes them, until nothing more is placed; what is placed runs from now
    /// on. Says who was asked to make room.
    fn rounds(&mut self, preemptions: impl Fn() -> Preemptions<'a>) -> Vec<JobId> {
        loop {
            let mut preemptions = preemptions();
            let (decisions, spots) =
                round(self.state, &mut self.board, &mut self.turns, &mut preemptions);
            for (at, spot) in &spots {
                if let Decision::Goes { job, vram_bytes, .. } = &decisions[*at] {
                    self.begin(*job, spot, vram_bytes.0);
                }
            }
            if spots.is_empty() {
                let asked = |decision| match decision {
                    Decision::Waits { asked, .. } => asked,
                    Decision::Goes { .. } => Vec::new(),
                };
                return decisions.into_iter().flat_map(asked).collect();
            }
            self.pass(self.now_ms, Vec::new());
        }
    }

    fn begin(&mut self, id: JobId, spot: &Spot, vram_bytes: u64) {
        let Some(job) = self.state.job(id) else { return };
        let agent = self.board.rooms()[spot.room].agent;
        let ms = self.state.ms_expected(job, agent);
        self.starts.insert(id, (self.now_ms, self.endless));
        self.endless += usize::from(ms.is_none());
        if let Some(number) = self.numbers.get(job.spec.user.as_str()) {
            self.shares[*number].begin(vram_bytes, self.now_ms);
        }
        let promise = Promise {
            job: id,
            vram_bytes,
            priority: job.spec.priority,
            submitted_ms: job.submitted_ms,
            since_ms: self.now_ms,
            ends_ms: ms.map(|ms| self.now_ms.saturating_add(ms)),
            running: true,
            yielding_to: None,
            anti_affinity: anti_affinity(&job.spec).map(str::to_owned),
        };
        self.board.begin(spot, promise);
    }

    fn leave(&mut self, job: JobId) -> Option<Promise> {
        let agent = &self.state.job(job)?.lease()?.agent;
        self.board.leave(job, agent)
    }

    /// Nothing more is known to end: whose end would help.
    fn unknown(&self, job: &Job) -> Start {
        let shape = Shape::of_job(job);
        let would_do = |room: &&Room<'_>| {
            let need = self.state.need(&shape, room.agent.family);
            let fits = need.is_some_and(|need| need <= room.agent.offer.usable());
            fits && shape.suits(&room.agent.offer)
        };
        let behind = |room: &Room<'_>| {
            let promise = room.load.promises.iter().find(|promise| promise.ends_ms.is_none())?;
            Some(Start::Behind { job: promise.job, agent: room.agent.name.clone() })
        };
        let mut found = self.board.rooms().iter().filter(would_do).filter_map(behind);
        found.next().unwrap_or(Start::Nowhere)
    }
}
