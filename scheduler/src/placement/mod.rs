//! Which job goes where.
//!
//! Jobs have their turns by urgency, by their users' shares, then by age (`state::turns`). Each goes to the connected
//! card that suits it with the least memory left over (best fit); among equals to one that keeps its base model, then
//! to the fastest.
//!
//! A job that has to wait *holds* the card where it is expected to start first. Whatever comes after it may still go
//! there, but only where both fit side by side once what runs now has ended, or where it is sure to be gone before.
//! So nothing that comes later delays what came before, and cards the waiting job cannot use stay busy. Where
//! only less urgent jobs are in its way, they are asked to write a checkpoint and make room.
//!
//! A job that keeps as much as it is given room for (`gradient_checkpointing: auto`) fits where the least it can do with
//! fits. Once everybody has a place, what is left of the card and held for nobody is promised to those that were placed,
//! the first one first.

mod board;
mod forecast;
mod preemption;

use fleetune_shared::{AgentName, ByteSize, JobId};

use crate::Liveness;
use crate::state::{Agent, Command, State, Turns};
use board::{Board, Spot};
use preemption::Preemptions;

pub use forecast::{Forecast, Start};

/// Times that placement goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// An agent silent for longer loses its jobs.
    pub lease_ms: u64,
}

impl Policy {
    /// When most agents vanish at once the fault is likely ours: they are given this many leases.
    const FREEZE_LEASES: u64 = 6;
    /// So many waiting jobs hold a card each; those behind them only wait.
    pub const HOLDS_MAX: usize = 16;
    /// A job has had its card for so long before it is asked to make room.
    pub const RUN_MS_MIN: u64 = 600_000;
}

/// What the leader should propose next, in order.
#[must_use]
pub fn plan(state: &State, liveness: &Liveness, policy: Policy, now_ms: u64) -> Vec<Command> {
    let agents = agents(state, liveness);
    let mut commands = departures(&agents, liveness, policy, now_ms);
    commands.extend(assignments(state, &agents, now_ms));
    commands
}

/// All agents, and whether each can be talked to. Both sides are sorted: nobody is looked up.
fn agents<'a>(state: &'a State, liveness: &Liveness) -> Vec<(&'a Agent, bool)> {
    let mut connected = liveness.connected.iter().peekable();
    let with_connection = state.agents().map(|agent| {
        while connected.next_if(|name| **name < agent.name).is_some() {}
        (agent, connected.next_if(|name| **name == agent.name).is_some())
    });
    with_connection.collect()
}

/// Agents that were silent for too long.
fn departures(
    agents: &[(&Agent, bool)],
    liveness: &Liveness,
    policy: Policy,
    now_ms: u64,
) -> Vec<Command> {
    let away = || agents.iter().filter(|(agent, connected)| agent.present && !connected);
    let silent_for = |leases: u64| -> Vec<_> {
        let names = away().map(|(agent, _)| &agent.name);
        let silent =
            |name: &&AgentName| liveness.silence_ms(name, now_ms) > leases * policy.lease_ms;
        names.filter(silent).cloned().collect()
    };
    let present = agents.iter().filter(|(agent, _)| agent.present).count();
    let mut gone = silent_for(1);
    if gone.len() >= 2 && gone.len() * 2 > present {
        gone = silent_for(Policy::FREEZE_LEASES);
    }
    gone.into_iter().map(|agent| Command::Leave { agent, now_ms }).collect()
}

fn assignments(state: &State, agents: &[(&Agent, bool)], now_ms: u64) -> Vec<Command> {
    let lent = agents.iter().filter(|(agent, connected)| *connected && agent.takes_jobs());
    let mut board = Board::new(state, lent.map(|(agent, _)| (*agent, None)), now_ms);
    let mut preemptions = Preemptions::new(state, now_ms);
    if is_settled(&board, &preemptions) {
        return Vec::new();
    }
    let mut turns = Turns::new(state, now_ms);
    let (decisions, _) = round(state, &mut board, &mut turns, &mut preemptions);
    let commands = |decision| match decision {
        Decision::Goes { job, agent, vram_bytes } => {
            vec![Command::Assign { job, agent, vram_bytes, now_ms }]
        }
        Decision::Waits { job: waiting, asked, .. } => {
            asked.into_iter().map(|job| Command::Preempt { job, waiting, now_ms }).collect()
        }
    };
    decisions.into_iter().flat_map(commands).collect()
}

/// What a plan says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// It is given memory.
    Goes {
        /// The job.
        job: JobId,
        /// Whose card.
        agent: AgentName,
        /// How much of it.
        vram_bytes: ByteSize,
    },
    /// It waits and holds a card meanwhile.
    Waits {
        /// The job.
        job: JobId,
        /// Less urgent jobs that are to make room.
        asked: Vec<JobId>,
    },
}

/// Whether nothing more will be proposed.
fn is_settled(board: &Board<'_>, preemptions: &Preemptions<'_>) -> bool {
    board.is_full() && preemptions.are_over()
}

/// Turn by turn, until nothing more will be proposed; with the spots of those that go, by their place among the
/// decisions.
fn round<'a>(
    state: &'a State,
    board: &mut Board<'a>,
    turns: &mut Turns<'a>,
    preemptions: &mut Preemptions<'a>,
) -> (Vec<Decision>, Vec<(usize, Spot)>) {
    let mut decisions = Vec::new();
    let (mut holds, mut spots) = (0, Vec::new());
    while !is_settled(board, preemptions)
        && let Some(turn) = turns.next()
    {
        let Some(job) = state.job(turn.job) else { continue };
        let shape = &turn.lane.shape;
        if let Some(spot) = board.best(shape, job) {
            let agent = board.take(&spot, shape);
            let vram_bytes = ByteSize(spot.vram_bytes);
            turns.place(&turn, spot.vram_bytes);
            spots.push((decisions.len(), spot));
            decisions.push(Decision::Goes { job: job.id, agent, vram_bytes });
        } else if holds == Policy::HOLDS_MAX {
            if board.is_full() {
                break;
            }
            // What fits nowhere now fits nowhere later in this plan: the lane rests.
        } else if board.hold(shape, job) {
            holds += 1;
            let asked = preemptions.make_room(board, shape, job);
            decisions.push(Decision::Waits { job: job.id, asked });
            turns.pass_over(&turn);
        }
    }
    for (at, spot) in &spots {
        if let Decision::Goes { vram_bytes, .. } = &mut decisions[*at] {
            *vram_bytes = ByteSize(board.widen(spot));
        }
    }
    (decisions, spots)
}
