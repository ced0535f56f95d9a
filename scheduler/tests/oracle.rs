//! The planner against a plain one: the same rules written down without any index, on random fleets.

mod story;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use fleetune_scheduler::placement::{Policy, plan};
use fleetune_scheduler::state::{Agent, Command, Job, Phase, State, level};
use fleetune_shared::{ArtifactKind, AsRun, Availability, ByteSize, Device, JobId, JobSpec, Offer};
use proptest::prelude::*;
use story::{Fleet, LEASE_MS, artifact, asks, gpu, name, of, offer};

/// A card in the plain planner.
struct Room<'a> {
    agent: &'a Agent,
    now: u64,
    later: u64,
    slots_now: u32,
    slots_later: u32,
    held: bool,
    start_ms: Option<u64>,
    words: BTreeSet<String>,
}

fn word(job: &Job) -> Option<String> {
    job.spec.requirements().and_then(|ask| ask.anti_affinity.clone())
}

fn need(state: &State, room: &Room<'_>, job: &Job) -> Option<u64> {
    let offer = &room.agent.offer;
    let suits = job.spec.requirements().is_none_or(|ask| ask.unmet(offer).is_none());
    state.vram_bytes_needed(job, room.agent).map(|bytes| bytes.0).filter(|_| suits)
}

/// When so much is open on a card: its jobs end one after the other.
fn start_ms(state: &State, room: &Room<'_>, job: &Job, bytes: u64, now_ms: u64) -> Option<u64> {
    if room.held {
        return None;
    }
    let mut ends: Vec<(u64, u64)> = state
        .held_by(&room.agent.name)
        .filter_map(|other| {
            let lease = other.lease()?;
            let yields = lease.yielding_to == Some(job.id);
            let end = if yields { now_ms } else { other.ends_ms()?.max(now_ms) };
            Some((end, lease.vram_bytes.0))
        })
        .collect();
    ends.sort_unstable();
    let (mut open, mut slots) = (room.now, room.slots_now);
    for (end, freed) in ends {
        open += freed;
        slots += 1;
        if open >= bytes && slots > 0 {
            return Some(end);
        }
    }
    None
}

fn assignments(fleet: &Fleet, now_ms: u64) -> Vec<Command> {
    let state = &fleet.state;
    let mut rooms: Vec<_> = state
        .agents()
        .filter(|a| a.present && !a.draining && !a.paused && a.offer.availability.is_open())
        .filter(|a| fleet.liveness.is_connected(&a.name))
        .map(|agent| {
            let held: Vec<_> =
                state.jobs().filter(|j| j.lease().is_some_and(|l| l.agent == agent.name)).collect();
            let taken: u64 = held.iter().filter_map(|j| j.lease()).map(|l| l.vram_bytes.0).sum();
            let usable = agent.offer.card.usable().0;
            let later = usable.saturating_sub(agent.offer.vram_bytes_foreign.0);
            let slots = agent.offer.jobs_max();
            Room {
                agent,
                now: later.saturating_sub(taken),
                later,
                slots_now: slots.saturating_sub(held.len() as u32),
                slots_later: slots,
                held: false,
                start_ms: None,
                words: held.iter().filter_map(|j| word(j)).collect(),
            }
        })
        .collect();
    let mut waiting: Vec<&Job> = state.jobs().filter(|j| j.phase == Phase::Queued).collect();
    let mut given: BTreeMap<&str, u64> = BTreeMap::new();
    let mut commands = Vec::new();
    let mut holds = 0;
    let mut searches = 0;
    let mut asked: BTreeSet<usize> = BTreeSet::new();
    while !waiting.is_empty() {
        let order = |job: &&Job| {
            let user = job.spec.user.as_str();
            let standing = state.standing(user, now_ms) + given.get(user).unwrap_or(&0);
            let level = level(job.spec.priority, job.submitted_ms, now_ms);
            (Reverse(level), standing, job.id)
        };
        let at = (0..waiting.len()).min_by_key(|i| order(&waiting[*i])).unwrap();
        let job = waiting.remove(at);
        let takes = |room: &Room<'_>| {
            let bytes = need(state, room, job).filter(|n| *n <= room.now && room.slots_now > 0)?;
            if word(job).is_some_and(|w| room.words.contains(&w)) {
                return None;
            }
            if bytes <= room.later && room.slots_later > 0 {
                return Some(false);
            }
            let work = job.spec.work_max().and_then(u64::checked_next_power_of_two);
            let ends = now_ms + room.agent.ms_at_most(work)?;
            (room.held && room.start_ms.is_some_and(|start| ends <= start)).then_some(true)
        };
        let keeps = |room: &Room<'_>| {
            job.spec.base().is_some_and(|base| room.agent.offer.blobs_cached.contains(&base))
        };
        let best = (0..rooms.len()).filter(|i| takes(&rooms[*i]).is_some()).min_by_key(|i| {
            (rooms[*i].now, !keeps(&rooms[*i]), Reverse(rooms[*i].agent.speed), *i)
        });
        if let Some(at) = best {
            let passing = takes(&rooms[at]).unwrap();
            let bytes = need(state, &rooms[at], job).unwrap();
            let room = &mut rooms[at];
            room.now -= bytes;
            room.slots_now -= 1;
            if !passing {
                room.later -= bytes;
                room.slots_later -= 1;
            }
            room.words.extend(word(job));
            *given.entry(&job.spec.user).or_default() += (bytes >> 20).max(1) * 3600;
            let (job, agent, vram_bytes) = (job.id, room.agent.name.clone(), ByteSize(bytes));
            commands.push(Command::Assign { job, agent, vram_bytes, now_ms });
            continue;
        }
        if holds == Policy::HOLDS_MAX {
            continue;
        }
        let start = |i: usize| {
            let bytes = need(state, &rooms[i], job)?;
            start_ms(state, &rooms[i], job, bytes, now_ms)
        };
        let held = (0..rooms.len())
            .filter(|i| {
                let room = &rooms[*i];
                need(state, room, job).is_some_and(|n| n <= room.later && room.slots_later > 0)
            })
            .min_by_key(|i| {
                (
                    start(*i).unwrap_or(u64::MAX),
                    Reverse(rooms[*i].now),
                    Reverse(rooms[*i].later),
                    *i,
                )
            });
        let Some(at) = held else { continue };
        let start = start(at);
        let bytes = need(state, &rooms[at], job).unwrap();
        let room = &mut rooms[at];
        room.later -= bytes;
        room.slots_later -= 1;
        if !room.held {
            (room.held, room.start_ms) = (true, start);
        }
        holds += 1;
        commands.extend(preemptions(state, &rooms, job, now_ms, &mut asked, &mut searches));
    }
    commands
}

/// Highest priority, number and memory of those that would have to go, and where.
type Cost = (i32, usize, u64, usize);

fn preemptions(
    state: &State,
    rooms: &[Room<'_>],
    job: &Job,
    now_ms: u64,
    asked: &mut BTreeSet<usize>,
    searches: &mut usize,
) -> Vec<Command> {
    let leases = || state.jobs().filter_map(|other| Some((other, other.lease()?)));
    let awaited = leases().any(|(_, lease)| lease.yielding_to == Some(job.id));
    let in_the_way = leases().any(|(other, _)| other.spec.priority < job.spec.priority);
    if awaited || !in_the_way || *searches == 1 {
        return Vec::new();
    }
    *searches += 1;
    let urgency = |job: &Job| level(job.spec.priority, job.submitted_ms, now_ms);
    let mut best: Option<(Cost, Vec<JobId>)> = None;
    for (at, room) in rooms.iter().enumerate() {
        let here: Vec<_> = leases().filter(|(_, l)| l.agent == room.agent.name).collect();
        let Some(bytes) = need(state, room, job) else { continue };
        let usable = room.agent.offer.card.usable().0 - room.agent.offer.vram_bytes_foreign.0;
        if asked.contains(&at)
            || bytes > usable
            || here.iter().any(|(_, l)| l.yielding_to.is_some())
        {
            continue;
        }
        let mut victims: Vec<_> = here
            .iter()
            .filter(|(other, lease)| {
                other.is_running()
                    && other.spec.priority < job.spec.priority
                    && urgency(other) < urgency(job)
                    && lease.since_ms + Policy::RUN_MS_MIN <= now_ms
            })
            .collect();
        victims.sort_by_key(|(other, l)| (other.spec.priority, Reverse(l.since_ms), other.id));
        let mut chosen = Vec::new();
        let (mut open, mut slots, mut cost) = (room.now, room.slots_now, (i32::MIN, 0, 0, at));
        for (other, lease) in victims {
            open += lease.vram_bytes.0;
            slots += 1;
            chosen.push(other.id);
            cost = (cost.0.max(other.spec.priority), chosen.len(), cost.2 + lease.vram_bytes.0, at);
            if open >= bytes && slots > 0 {
                break;
            }
        }
        let clash = here.iter().any(|(other, _)| {
            word(job).is_some() && word(other) == word(job) && !chosen.contains(&other.id)
        });
        let helps = !chosen.is_empty() && open >= bytes && slots > 0 && !clash;
        if helps && best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, chosen));
        }
    }
    let Some((cost, chosen)) = best else { return Vec::new() };
    asked.insert(cost.3);
    let waiting = job.id;
    chosen.into_iter().map(|job| Command::Preempt { job, waiting, now_ms }).collect()
}

#[derive(Clone, Debug)]
enum Event {
    Submit {
        gib: u8,
        user: u8,
        priority: i8,
        keys: u8,
    },
    /// Something happens to one of the jobs that have a card.
    Step {
        job: usize,
        what: u8,
    },
    Offer {
        agent: u8,
        offer: u8,
    },
    Vanish(u8),
    Wait(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..18u8, 0..3u8, -1..2i8, 0..8u8)
            .prop_map(|(gib, user, priority, keys)| Event::Submit { gib, user, priority, keys }),
        6 => (0..64usize, 0..6u8).prop_map(|(job, what)| Event::Step { job, what }),
        2 => (0..5u8, 0..10u8).prop_map(|(agent, offer)| Event::Offer { agent, offer }),
        1 => (0..5u8).prop_map(Event::Vanish),
        3 => (1..20_000_000u32).prop_map(Event::Wait),
    ]
}

fn spec(gib: u8, user: u8, priority: i8, keys: u8) -> JobSpec {
    let keys = match keys {
        0 => "labels: [night]",
        1 => "anti_affinity: noisy",
        2 => "card: '20 gib'",
        3 => "max_steps: 100\nper_device_train_batch_size: 1",
        4 => "max_steps: 2000\nper_device_train_batch_size: 1",
        _ => "",
    };
    let mut spec = asks(f64::from(gib), keys);
    spec.priority = i32::from(priority);
    // A GPU needs a little more than a declared card.
    if let Some(estimate) = spec.estimates.get_mut(&Device::Cuda) {
        estimate.runtime = ByteSize(300 << 20);
    }
    of(["ann", "bob", ""][usize::from(user)], spec)
}

fn offered(number: u8) -> Offer {
    let card = if number & 1 == 0 { offer(10.0) } else { offer(20.0) };
    match number / 2 {
        0 => card,
        1 => Offer { labels: ["night".to_owned()].into(), ..card },
        2 => Offer { max_jobs_per_card: Some(2), vram_bytes_foreign: ByteSize(1 << 30), ..card },
        3 => gpu(16.0),
        _ => Offer { availability: Availability::TooHot { celsius: 87, celsius_max: 85 }, ..card },
    }
}

const AGENTS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn play(fleet: &mut Fleet, event: &Event) {
    match *event {
        Event::Submit { gib, user, priority, keys } => {
            drop(fleet.try_submit(spec(gib, user, priority, keys)));
        }
        Event::Step { job, what } => {
            let leased: Vec<_> =
                fleet.state.jobs().filter(|j| j.lease().is_some()).map(|j| j.id).collect();
            let Some(id) = leased.get(job % leased.len().max(1)).copied() else { return };
            let running = fleet.job(id).is_running();
            match what {
                _ if !running => fleet.start(id),
                0 => {
                    let (agent, attempt) =
                        (fleet.place(id).unwrap().to_owned(), fleet.job(id).attempt.0);
                    let mut report = story::finished();
                    if let fleetune_scheduler::state::Report::Finished { summary, .. } = &mut report
                    {
                        summary.tokens_per_second = 100.0 * id.0 as f64;
                        // Some take more than they were estimated at, some less.
                        let estimate = fleet.job(id).spec.estimates[&Device::Cpu];
                        let tokens = 1024;
                        summary.as_run = Some(AsRun { rows: 1, tokens, estimate });
                        summary.memory_bytes_peak =
                            ByteSize(estimate.total().0 / 100 * (70 + id.0 % 50));
                    }
                    fleet.report(id, attempt, &agent, report);
                }
                1 => fleet.release(id),
                _ => {
                    let step = fleet.job(id).checkpoint.as_ref().map_or(0, |c| c.step) + 1;
                    let (agent, attempt) =
                        (fleet.place(id).unwrap().to_owned(), fleet.job(id).attempt.0);
                    let artifact = artifact(ArtifactKind::Checkpoint, step);
                    let report = fleetune_scheduler::state::Report::Checkpoint { artifact };
                    fleet.report(id, attempt, &agent, report);
                }
            }
        }
        Event::Offer { agent, offer } => {
            let agent = AGENTS[usize::from(agent)];
            let held: Vec<_> =
                fleet.state.held_by(&name(agent)).map(|j| (j.id, j.attempt)).collect();
            fleet.join_with(agent, offered(offer), &held);
        }
        Event::Vanish(agent) => fleet.disconnect(AGENTS[usize::from(agent)]),
        Event::Wait(ms) => fleet.wait(u64::from(ms)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_planner_says_what_a_plain_one_would(events in prop::collection::vec(event(), 1..120)) {
        let mut fleet = Fleet::new();
        for (number, agent) in AGENTS.iter().enumerate().take(3) {
            fleet.join_with(agent, offered(number as u8), &[]);
        }
        for event in events {
            play(&mut fleet, &event);
            let found = plan(&fleet.state, &fleet.liveness, Policy { lease_ms: LEASE_MS }, fleet.now_ms);
            let found: Vec<_> =
                found.into_iter().filter(|c| !matches!(c, Command::Leave { .. })).collect();
            prop_assert_eq!(&found, &assignments(&fleet, fleet.now_ms), "after {:?}", event);
            // What is derived is the same however the state came to be.
            let bytes = serde_json::to_vec(&fleet.state).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<State>(&bytes).unwrap(), &fleet.state);
            fleet.settle();
        }
    }
}
