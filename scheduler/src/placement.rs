//! Which job goes where.
//!
//! Jobs are taken by priority, then age. Each goes to the connected card where it fits with the least memory left
//! over (best fit). A job that has to wait *holds* the card it would suit best: a younger or less urgent job may
//! still go there, but only where both fit side by side once what runs now has ended. So nothing that comes later
//! ever delays what came before, and cards the waiting job cannot use stay busy.

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
    state.queue().into_iter().filter_map(|job| place(job, &mut rooms)).collect()
}

fn place(job: &Job, rooms: &mut [Room<'_>]) -> Option<Command> {
    let need = |room: &Room<'_>| job.spec.vram_bytes_needed(room.device).map(|bytes| bytes.0);
    let fits = |room: &Room<'_>| need(room).is_some_and(|n| n <= room.now && n <= room.later);
    let best = rooms.iter_mut().filter(|r| fits(r)).min_by_key(|r| (r.now, r.agent));
    if let Some(room) = best {
        let bytes = job.spec.vram_bytes_needed(room.device)?;
        room.now -= bytes.0;
        room.later -= bytes.0;
        return Some(Command::Assign { job: job.id, agent: room.agent.clone(), vram_bytes: bytes });
    }
    let could = |room: &Room<'_>| need(room).is_some_and(|n| n <= room.later);
    let held = rooms.iter_mut().filter(|r| could(r)).max_by_key(|r| (r.now, r.later));
    if let Some(room) = held {
        let ByteSize(bytes) = job.spec.vram_bytes_needed(room.device)?;
        room.later -= bytes;
    }
    None
}
