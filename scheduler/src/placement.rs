//! Which job goes where.
//!
//! Jobs are taken by priority, then age. Each goes to the connected card where it fits with the least memory left
//! over (best fit). A job that has to wait *holds* the card it would suit best: a younger or less urgent job may
//! still go there, but only where both fit side by side once what runs now has ended. So nothing that comes later
//! ever delays what came before, and cards the waiting job cannot use stay busy.
//!
//! A job that keeps as much as it is given room for (`gradient_checkpointing: auto`) fits where the least it can do with
//! fits, and prefers a card that has all it can use. Once everybody has a place, what is left of the card and held for
//! nobody is promised to those that were placed, the first one first.

use std::collections::{BTreeMap, BTreeSet};

use fleetune_shared::{AgentName, ByteSize, Device};

use crate::Liveness;
use crate::state::{Command, Job, State};

/// Times that placement goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// An agent silent for longer loses its jobs.
    pub lease_ms: u64,
}

impl Policy {
    /// When most agents vanish at once the fault is likely ours: they are given this many leases.
    const FREEZE_LEASES: u64 = 6;
}

/// A card's memory while a plan is made.
struct Room<'a> {
    agent: &'a AgentName,
    device: Device,
    /// Open right now.
    now: u64,
    /// Open once everything that runs now has ended, less what waiting jobs hold and what this plan adds.
    later: u64,
}

impl Room<'_> {
    /// Promises so much of it to a job that starts now.
    fn take(&mut self, bytes: u64) {
        self.now -= bytes;
        self.later -= bytes;
    }
}

/// What the leader should propose next, in order.
#[must_use]
pub fn plan(state: &State, liveness: &Liveness, policy: Policy, now_ms: u64) -> Vec<Command> {
    let mut commands = departures(state, liveness, policy, now_ms);
    commands.extend(assignments(state, liveness));
    commands
}

/// Agents that were silent for too long.
fn departures(state: &State, liveness: &Liveness, policy: Policy, now_ms: u64) -> Vec<Command> {
    let silent_for = |leases: u64| {
        let silent = move |name: &AgentName| {
            !liveness.is_connected(name)
                && liveness.silence_ms(name, now_ms) > leases * policy.lease_ms
        };
        state.agents().filter(move |a| a.present && silent(&a.name)).map(|a| a.name.clone())
    };
    let present = state.agents().filter(|a| a.present).count();
    let mut gone: Vec<_> = silent_for(1).collect();
    if gone.len() >= 2 && gone.len() * 2 > present {
        gone = silent_for(Policy::FREEZE_LEASES).collect();
    }
    gone.into_iter().map(|agent| Command::Leave { agent, now_ms }).collect()
}

fn assignments(state: &State, liveness: &Liveness) -> Vec<Command> {
    let mut rooms: Vec<_> = state
        .agents()
        .filter(|a| a.present && !a.draining && liveness.is_connected(&a.name))
        .map(|a| Room {
            agent: &a.name,
            device: a.offer.card.device,
            now: state.vram_bytes_open(a).0,
            later: a.offer.card.usable().0.saturating_sub(a.offer.vram_bytes_foreign.0),
        })
        .collect();
    let placed: Vec<_> =
        state.queue().into_iter().filter_map(|job| place(job, &mut rooms)).collect();
    placed.into_iter().map(|placed| placed.widened(&mut rooms)).collect()
}

/// A job that has a place.
struct Placed<'a> {
    job: &'a Job,
    /// Which of the rooms.
    room: usize,
    needed: u64,
    useful: u64,
}

impl Placed<'_> {
    /// Promises it what it needs and, of what is left there, as much more as it can use.
    fn widened(self, rooms: &mut [Room<'_>]) -> Command {
        let room = &mut rooms[self.room];
        let more = (self.useful - self.needed).min(room.now).min(room.later);
        room.take(more);
        Command::Assign {
            job: self.job.id,
            agent: room.agent.clone(),
            vram_bytes: ByteSize(self.needed + more),
        }
    }
}

fn place<'a>(job: &'a Job, rooms: &mut [Room<'_>]) -> Option<Placed<'a>> {
    let need = |room: &Room<'_>| job.spec.vram_bytes_needed(room.device).map(|bytes| bytes.0);
    let fits = |room: &Room<'_>| need(room).is_some_and(|n| n <= room.now && n <= room.later);
    let fitting: Vec<usize> = (0..rooms.len()).filter(|index| fits(&rooms[*index])).collect();
    if !fitting.is_empty() {
        // Sizing takes a moment, so only a job that is placed is asked, and once for each kind of card.
        let useful: BTreeMap<Device, u64> = fitting
            .iter()
            .map(|index| rooms[*index].device)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|device| Some((device, job.spec.vram_bytes_useful(device)?.0)))
            .collect();
        let cramped = |room: &Room<'_>| useful.get(&room.device).is_none_or(|u| *u > room.now);
        let best = fitting.into_iter().min_by_key(|index| {
            let room = &rooms[*index];
            (cramped(room), room.now, room.agent)
        })?;
        let room = &mut rooms[best];
        let needed = need(room)?;
        room.take(needed);
        let useful = useful.get(&room.device).copied().unwrap_or(needed);
        return Some(Placed { job, room: best, needed, useful });
    }
    let could = |room: &Room<'_>| need(room).is_some_and(|n| n <= room.later);
    let held = rooms.iter_mut().filter(|r| could(r)).max_by_key(|r| (r.now, r.later));
    if let Some(room) = held {
        room.later -= need(room)?;
    }
    None
}
