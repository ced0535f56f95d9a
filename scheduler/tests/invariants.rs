//! Random histories: whatever happens in whatever order, these hold.

mod story;

use fleetune_scheduler::state::{Command, Report, State};
use fleetune_shared::{ArtifactKind, Attempt, FailureKind, JobId};
use proptest::prelude::*;
use story::{Fleet, LEASE_MS, artifact, finished, name, needs};

#[derive(Clone, Debug)]
enum Event {
    Submit(u8),
    Report { job: u64, attempt: u32, agent: usize, what: u8 },
    Join { agent: usize, held: Vec<(u64, u32)> },
    Vanish(usize),
    Cancel(u64),
    Drain(usize, bool),
    Pause(usize, bool),
    Wait(u64),
}

const AGENTS: [&str; 3] = ["a", "b", "c"];

fn event() -> impl Strategy<Value = Event> {
    let agent = 0..AGENTS.len();
    prop_oneof![
        (1..9u8).prop_map(Event::Submit),
        (1..8u64, 1..4u32, agent.clone(), 0..6u8)
            .prop_map(|(job, attempt, agent, what)| Event::Report { job, attempt, agent, what }),
        (agent.clone(), prop::collection::vec((1..8u64, 1..4u32), 0..3))
            .prop_map(|(agent, held)| Event::Join { agent, held }),
        agent.clone().prop_map(Event::Vanish),
        (1..8u64).prop_map(Event::Cancel),
        (agent.clone(), any::<bool>()).prop_map(|(agent, draining)| Event::Drain(agent, draining)),
        (agent, any::<bool>()).prop_map(|(agent, paused)| Event::Pause(agent, paused)),
        (1..3 * LEASE_MS).prop_map(Event::Wait),
    ]
}

fn play(fleet: &mut Fleet, event: Event) {
    match event {
        Event::Submit(gib) => drop(fleet.try_submit(needs(f64::from(gib)))),
        Event::Report { job, attempt, agent, what } => {
            let report = match what {
                0 => Report::Started { steps_total: 9 },
                1 => Report::Checkpoint { artifact: artifact(ArtifactKind::Checkpoint, 4) },
                2 => finished(),
                3 => Report::OutOfMemory { message: String::new(), vram_bytes_peak: None },
                4 => Report::Failed {
                    kind: FailureKind::Machine,
                    message: String::new(),
                    vram_bytes_peak: None,
                },
                _ => Report::Released { message: String::new(), vram_bytes_peak: None },
            };
            fleet.report(JobId(job), attempt, AGENTS[agent], report);
        }
        Event::Join { agent, held } => {
            let held: Vec<_> = held.iter().map(|(j, a)| (JobId(*j), Attempt(*a))).collect();
            fleet.join(AGENTS[agent], 10.0, &held);
        }
        Event::Vanish(agent) => fleet.disconnect(AGENTS[agent]),
        Event::Cancel(job) => {
            let now_ms = fleet.now_ms;
            fleet.apply(Command::Cancel { job: JobId(job), now_ms });
        }
        Event::Drain(agent, draining) => {
            fleet.apply(Command::Drain { agent: name(AGENTS[agent]), draining });
        }
        Event::Pause(agent, paused) => {
            fleet.apply(Command::Pause { agent: name(AGENTS[agent]), paused });
        }
        Event::Wait(ms) => fleet.wait(ms),
    }
    fleet.settle();
}

proptest! {
    #[test]
    fn promises_never_exceed_a_card_and_the_past_never_changes(events in prop::collection::vec(event(), 1..80)) {
        let mut fleet = Fleet::with(&[("a", 10.0), ("b", 10.0)]);
        for event in events {
            let ended: Vec<_> = fleet.state.jobs().filter(|j| j.is_final()).cloned().collect();
            let attempts: Vec<_> = fleet.state.jobs().map(|j| (j.id, j.attempt)).collect();
            play(&mut fleet, event);
            for agent in fleet.state.agents() {
                let promised = fleet.state.vram_bytes_reserved(&agent.name);
                prop_assert!(promised <= agent.offer.card.usable().0, "{} promised too much", agent.name);
            }
            for job in ended {
                prop_assert_eq!(fleet.job(job.id), &job);
            }
            for (id, attempt) in attempts {
                prop_assert!(fleet.job(id).attempt >= attempt);
            }
        }
        // A snapshot is the state: written, read and hashed it is the same.
        let bytes = serde_json::to_vec(&fleet.state).unwrap();
        let read: State = serde_json::from_slice(&bytes).unwrap();
        prop_assert_eq!(read.hash(), fleet.state.hash());
    }
}
