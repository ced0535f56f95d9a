//! Who is to make room for whom: less urgent jobs, that have had their card for a while, for one that waits. They write
//! a checkpoint and go on from there elsewhere or later, so nothing is lost but the time of a start.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use fleetune_shared::{AgentName, JobId};

use super::Policy;
use super::board::{Board, Room};
use crate::state::{Job, Promise, Shape, State, level};

pub(super) struct Preemptions<'a> {
    state: &'a State,
    now_ms: u64,
    /// Whether any job that waits is more urgent than one that runs.
    possible: bool,
    /// Searches that may still be made in this plan.
    searches: usize,
    /// Agents whose jobs this plan has asked already.
    asked: BTreeSet<&'a AgentName>,
}

/// Searches go through every card; what is not found in this plan is looked for in the next.
const SEARCHES_MAX: usize = 1;

impl<'a> Preemptions<'a> {
    pub(super) fn new(state: &'a State, now_ms: u64) -> Self {
        let most_urgent = state.lanes().map(|lane| lane.priority).max();
        let possible = most_urgent
            .zip(state.least_urgent_promised())
            .is_some_and(|(waiting, promised)| waiting > promised);
        Self { state, now_ms, possible, searches: SEARCHES_MAX, asked: BTreeSet::new() }
    }

    /// Nobody is asked.
    pub(super) fn over(state: &'a State, now_ms: u64) -> Self {
        Self { state, now_ms, possible: false, searches: 0, asked: BTreeSet::new() }
    }

    /// Whether nobody will be asked (any more).
    pub(super) fn are_over(&self) -> bool {
        !self.possible || self.searches == 0
    }

    /// Asks jobs of one card to make room for a job that waits, if that helps; those that lose the least.
    pub(super) fn make_room(&mut self, board: &Board<'a>, shape: &Shape, job: &Job) -> Vec<JobId> {
        let more_urgent = self.state.least_urgent_promised() < Some(job.spec.priority);
        if self.are_over() || !more_urgent || self.state.is_awaited(job.id) {
            return Vec::new();
        }
        self.searches -= 1;
        let candidates = board
            .rooms()
            .iter()
            .filter(|room| !self.asked.contains(&room.agent.name))
            .filter_map(|room| Some((room, self.victims(room, shape, job)?)));
        let cost = |(room, victims): &(&Room<'a>, Vec<&Promise>)| {
            let dearest = victims.iter().map(|v| v.priority).max();
            let bytes: u64 = victims.iter().map(|v| v.vram_bytes).sum();
            (dearest, victims.len(), bytes, &room.agent.name)
        };
        let Some((room, victims)) = candidates.min_by(|a, b| cost(a).cmp(&cost(b))) else {
            return Vec::new();
        };
        self.asked.insert(&room.agent.name);
        victims.into_iter().map(|victim| victim.job).collect()
    }

    /// The jobs of a card that would have to go; none if that would not be enough.
    fn victims<'r>(
        &self,
        room: &'r Room<'a>,
        shape: &Shape,
        job: &Job,
    ) -> Option<Vec<&'r Promise>> {
        let offer = &room.agent.offer;
        let need = self.state.need(shape, room.agent.family)?.0;
        if need > offer.usable().0 {
            return None;
        }
        let load = &*room.load;
        let urgency = level(job.spec.priority, job.submitted_ms, self.now_ms);
        let may_ask = |p: &&Promise| {
            p.running
                && p.yielding_to.is_none()
                && p.priority < job.spec.priority
                && level(p.priority, p.submitted_ms, self.now_ms) < urgency
                && p.since_ms + Policy::RUN_MS_MIN <= self.now_ms
        };
        let mut victims: Vec<_> = load.promises.iter().filter(may_ask).collect();
        let busy = load.promises.iter().any(|p| p.yielding_to.is_some());
        if victims.is_empty() || busy || !shape.suits(offer) {
            return None;
        }
        // The least urgent first, then those that began last.
        victims.sort_by_key(|p| (p.priority, Reverse(p.since_ms), p.job));
        let (mut open, mut slots) = (room.now, room.slots_now);
        let enough = victims.iter().position(|victim| {
            open += victim.vram_bytes;
            slots += 1;
            open >= need && slots > 0
        })?;
        victims.truncate(enough + 1);
        let stays = |p: &&Promise| !victims.iter().any(|victim| victim.job == p.job);
        let word = shape.anti_affinity();
        let clash = |p: &Promise| word.is_some() && p.anti_affinity.as_deref() == word;
        (!load.promises.iter().filter(stays).any(clash)).then_some(victims)
    }
}
