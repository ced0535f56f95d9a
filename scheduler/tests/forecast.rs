//! When jobs that wait are expected to start, held against what can be worked out by hand and against what then happens.

mod story;

use std::collections::{BTreeMap, BTreeSet};

use fleetune_scheduler::placement::{Forecast, Start};
use fleetune_scheduler::state::{Command, Report, Submitted};
use fleetune_shared::{Availability, JobId, JobSpec, Offer};
use proptest::prelude::*;
use story::{Fleet, asks, finished, name, needs, of, offer};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// A fleet of cards of one kind, on which a step is known to take a minute.
fn fleet(cards: &[(&str, Offer)]) -> Fleet {
    let mut fleet = Fleet::new();
    for (agent, offer) in cards {
        fleet.join_with(agent, offer.clone(), &[]);
    }
    let measured = fleet.submit(lasting(1.0, 1));
    fleet.settle();
    let agent = fleet.place(measured).expect("placed").to_owned();
    assert!(fleet.report(measured, 1, &agent, Report::Started { steps_total: 1 }).reply.is_ok());
    fleet.wait(MINUTE);
    fleet.finish(measured);
    fleet
}

fn card(gib: f64) -> Offer {
    let mut offer = offer(gib);
    offer.card.name = "card".into();
    offer
}

fn slots(gib: f64, jobs: u32) -> Offer {
    Offer { max_jobs_per_card: Some(jobs), ..card(gib) }
}

fn closed(gib: f64, opens_ms: Option<u64>) -> Offer {
    let availability = Availability::OffHours { hours: "19:00-08:00".into(), opens_ms };
    Offer { availability, ..card(gib) }
}

/// A job of so many steps of a minute.
fn lasting(gib: f64, minutes: u64) -> JobSpec {
    asks(gib, &format!("max_steps: {minutes}"))
}

/// In how many minutes a job is expected to start.
fn minutes(fleet: &Fleet, job: JobId) -> u64 {
    let why = fleet.explain(job);
    let ms = why.expected_start_ms.unwrap_or_else(|| panic!("{:?}", why.start_note));
    assert_eq!(ms.saturating_sub(fleet.now_ms) % MINUTE, 0, "{ms} from {}", fleet.now_ms);
    (ms - fleet.now_ms) / MINUTE
}

fn note(fleet: &Fleet, job: JobId) -> String {
    fleet.explain(job).start_note.expect("there is something to say")
}

// ── by hand ──

#[test]
fn the_last_of_a_long_queue_is_told_when_it_starts() {
    let mut fleet = fleet(&[("one", slots(10.0, 1))]);
    let jobs: Vec<_> = (0..40).map(|_| fleet.submit(lasting(4.0, 30))).collect();
    fleet.settle();
    assert_eq!(minutes(&fleet, jobs[1]), 30);
    assert_eq!(minutes(&fleet, jobs[39]), 39 * 30, "far beyond those that hold a card");
}

#[test]
fn jobs_side_by_side_are_reckoned_with_slots_and_memory() {
    let mut two = fleet(&[("two", slots(20.0, 2))]);
    // 10 and 20 minutes side by side; the third follows the first, the wide one needs the card to itself.
    let _short = two.submit(lasting(4.0, 10));
    let _long = two.submit(lasting(4.0, 20));
    let third = two.submit(lasting(4.0, 5));
    let wide = two.submit(lasting(18.0, 5));
    let last = two.submit(lasting(4.0, 5));
    two.settle();
    assert_eq!([third, wide, last].map(|id| minutes(&two, id)), [10, 20, 25]);
}

#[test]
fn a_card_goes_to_whoever_has_had_least() {
    let mut fleet = fleet(&[("one", slots(10.0, 1))]);
    let ann: Vec<_> = (0..3).map(|_| fleet.submit(of("ann", lasting(4.0, 60)))).collect();
    let bob: Vec<_> = (0..2).map(|_| fleet.submit(of("bob", lasting(4.0, 60)))).collect();
    let urgent = fleet.submit(JobSpec { priority: 1, ..of("ann", lasting(4.0, 5)) });
    fleet.settle();
    assert_eq!(fleet.place(urgent), Some("one"));
    let expected = [bob[0], bob[1], ann[0], ann[1], ann[2]].map(|id| minutes(&fleet, id));
    // Ann had five minutes more to begin with; then they take turns.
    assert_eq!(expected, [5, 125, 65, 185, 245]);
}

#[test]
fn a_running_jobs_own_pace_counts_before_that_of_its_kind() {
    let mut fleet = fleet(&[("one", slots(10.0, 1))]);
    let running = fleet.submit(lasting(4.0, 10));
    fleet.settle();
    fleet.start(running);
    let waiting = fleet.submit(lasting(4.0, 1));
    assert_eq!(minutes(&fleet, waiting), 10);
    fleet.wait(8 * MINUTE);
    fleet.checkpoint(running, 2);
    assert_eq!(minutes(&fleet, waiting), 32, "eight steps more at four minutes each");
}

#[test]
fn a_checkpoint_is_not_done_twice() {
    let mut fleet = fleet(&[("one", slots(10.0, 1))]);
    let interrupted = fleet.submit(lasting(4.0, 60));
    fleet.settle();
    fleet.start(interrupted);
    fleet.checkpoint(interrupted, 45);
    fleet.release(interrupted);
    let next = fleet.submit(lasting(4.0, 60));
    assert_eq!((minutes(&fleet, interrupted), minutes(&fleet, next)), (0, 15));
}

#[test]
fn the_steps_of_a_recipe_that_counts_epochs_are_known_once_its_trainer_has_said_them() {
    let mut fleet = fleet(&[("one", slots(10.0, 1))]);
    let running = fleet.submit(asks(4.0, "num_train_epochs: 2"));
    let waiting = fleet.submit(lasting(4.0, 1));
    fleet.settle();
    let expected = format!("job {running} runs on `one` and nobody can tell yet when it ends");
    assert!(note(&fleet, waiting).starts_with(&expected), "{}", note(&fleet, waiting));
    fleet.start(running);
    assert_eq!(minutes(&fleet, waiting), 10, "ten steps");
}

#[test]
fn a_card_that_is_off_hours_counts_from_when_it_opens() {
    let fleet = fleet(&[("day", slots(10.0, 1)), ("large", card(20.0))]);
    let opens = Some(fleet.now_ms + 3 * HOUR);
    let mut fleet = fleet;
    fleet.apply(Command::Offer { agent: name("large"), offer: closed(20.0, opens) });
    let large = fleet.submit(lasting(15.0, 30));
    let after = fleet.submit(lasting(15.0, 30));
    fleet.settle();
    assert_eq!((minutes(&fleet, large), minutes(&fleet, after)), (180, 210));
    fleet.apply(Command::Offer { agent: name("large"), offer: closed(20.0, None) });
    assert_eq!(note(&fleet, large), "no card that would hold it is open, or says when it will be");
    assert_eq!(fleet.explain(large).expected_start_ms, None);
}

#[test]
fn cards_that_are_drained_away_or_paused_do_not_count() {
    let mut fleet = fleet(&[("a", slots(10.0, 1)), ("b", slots(10.0, 1))]);
    let jobs: Vec<_> = (0..4).map(|_| fleet.submit(lasting(4.0, 10))).collect();
    fleet.settle();
    assert_eq!(minutes(&fleet, jobs[3]), 10);
    fleet.apply(Command::Drain { agent: name("a"), draining: true });
    assert_eq!(minutes(&fleet, jobs[3]), 20);
    fleet.apply(Command::Drain { agent: name("a"), draining: false });
    fleet.apply(Command::Pause { agent: name("a"), paused: true });
    assert_eq!(minutes(&fleet, jobs[3]), 20);
    fleet.apply(Command::Pause { agent: name("a"), paused: false });
    fleet.disconnect("a");
    assert_eq!(minutes(&fleet, jobs[3]), 20);
}

#[test]
fn what_nobody_can_tell_is_not_made_up() {
    let mut fleet = fleet(&[("a", slots(10.0, 1)), ("b", slots(10.0, 1))]);
    let unknown = fleet.submit(needs(4.0));
    let known = fleet.submit(lasting(4.0, 10));
    let next = fleet.submit(needs(4.0));
    let last = fleet.submit(lasting(4.0, 10));
    fleet.settle();
    assert_eq!((fleet.place(unknown), fleet.place(known)), (Some("a"), Some("b")));
    assert_eq!(minutes(&fleet, next), 10);
    assert_eq!(
        note(&fleet, next),
        "nobody can tell yet when 1 job will end: sooner if it ends first"
    );
    let why = fleet.explain(last);
    assert_eq!(why.expected_start_ms, None);
    let note = why.start_note.unwrap();
    assert!(note.starts_with(&format!("job {unknown} runs on `a`")), "{note}");
    fleet.finish(unknown);
    fleet.settle();
    let note = fleet.explain(last);
    assert_eq!(note.expected_start_ms, Some(fleet.now_ms + 10 * MINUTE));
}

#[test]
fn a_more_urgent_job_starts_when_those_it_takes_the_room_of_have_left() {
    let mut fleet = fleet(&[("one", slots(10.0, 1))]);
    let humble = fleet.submit(lasting(4.0, 600));
    fleet.settle();
    fleet.start(humble);
    fleet.wait(11 * MINUTE);
    let pressing = fleet.submit(JobSpec { priority: 1, ..lasting(4.0, 30) });
    let next = fleet.submit(JobSpec { priority: 1, ..lasting(4.0, 30) });
    for _ in ["to be asked", "asked"] {
        assert_eq!((minutes(&fleet, pressing), minutes(&fleet, next)), (0, 30));
        fleet.settle();
    }
}

#[test]
fn a_queue_without_end_is_looked_at_only_so_far() {
    let mut fleet = fleet(&[("one", slots(10.0, 1))]);
    let spec = lasting(4.0, 60);
    let jobs: Vec<_> = (0..1_200).map(|_| fleet.submit(spec.clone())).collect();
    fleet.settle();
    assert_eq!(minutes(&fleet, jobs[1_024]), 1_024 * 60);
    assert_eq!(note(&fleet, jobs[1_199]), "not within the 1024 h that were looked at");
}

// ── against what happens ──

/// Plays a fleet to its end, every job ending when it is said to; when each started.
fn play(
    fleet: &mut Fleet,
    mut arrivals: BTreeMap<u64, Vec<JobSpec>>,
    off: impl Fn(JobId) -> f64,
) -> BTreeMap<JobId, u64> {
    let (mut starts, mut ends) = (BTreeMap::new(), BTreeSet::new());
    loop {
        fleet.settle();
        let placed = fleet.state.jobs().filter_map(|job| Some((job.id, job.lease()?)));
        for (id, lease) in placed {
            starts.entry(id).or_insert_with(|| {
                let ms = lease.ends_ms.expect("lengths are known") - lease.since_ms;
                ends.insert((lease.since_ms + (ms as f64 * off(id)) as u64, id));
                lease.since_ms
            });
        }
        let next_end = ends.first().map(|(ms, _)| *ms);
        let next_arrival = arrivals.first_key_value().map(|(ms, _)| *ms);
        let Some(now_ms) = next_end.into_iter().chain(next_arrival).min() else { return starts };
        fleet.now_ms = now_ms;
        while let Some((_, id)) = ends.first().copied().filter(|(ms, _)| *ms == now_ms) {
            ends.pop_first();
            let (agent, attempt) = (fleet.place(id).unwrap().to_owned(), fleet.job(id).attempt.0);
            assert!(fleet.report(id, attempt, &agent, finished()).reply.is_ok());
        }
        for spec in arrivals.remove(&now_ms).unwrap_or_default() {
            fleet.submit(spec);
        }
    }
}

/// When each job is expected to start, if nobody was placed yet.
fn foreseen(fleet: &Fleet, jobs: &[JobId]) -> BTreeMap<JobId, u64> {
    let mut forecast = Forecast::new(&fleet.state, &fleet.liveness, fleet.now_ms);
    let mut start = |id: &JobId| match forecast.start_of(fleet.job(*id)) {
        Start::Expected { ms, endless: 0 } => (*id, ms),
        other => panic!("job {id}: {other:?}"),
    };
    jobs.iter().map(&mut start).collect()
}

fn cards() -> impl Strategy<Value = Vec<(f64, u32)>> {
    let gib = prop::sample::select(vec![10.0, 20.0, 24.0]);
    prop::collection::vec((gib, 1..4u32), 1..6)
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn of_cards(cards: &[(f64, u32)]) -> Fleet {
    let offers: Vec<_> =
        NAMES.iter().zip(cards).map(|(name, (gib, jobs))| (*name, slots(*gib, *jobs))).collect();
    fleet(&offers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn with_nobody_coming_later_each_job_starts_exactly_when_it_was_said_to(
        cards in cards(),
        jobs in prop::collection::vec((1..23u8, 1..300u64, 0..3usize), 1..60),
        users in 1..4usize,
    ) {
        let mut fleet = of_cards(&cards);
        let mut ids = Vec::new();
        for (gib, minutes, user) in jobs {
            let spec = of(["ann", "bob", "cyd"][user % users], lasting(f64::from(gib), minutes));
            if let Submitted::Accepted(id) = fleet.try_submit(spec) {
                ids.push(id);
            }
        }
        let expected = foreseen(&fleet, &ids);
        prop_assert_eq!(expected, play(&mut fleet, BTreeMap::new(), |_| 1.0));
    }

    #[test]
    fn one_job_to_a_card_first_come_first_served_nobody_who_comes_later_changes_it(
        count in 1..6usize,
        jobs in prop::collection::vec(1..300u64, 1..60),
        later in prop::collection::vec((1..1_000u64, 1..300u64), 0..20),
    ) {
        let mut fleet = of_cards(&vec![(10.0, 1); count]);
        let ids: Vec<_> = jobs.iter().map(|minutes| fleet.submit(lasting(4.0, *minutes))).collect();
        let expected = foreseen(&fleet, &ids);
        let mut arrivals: BTreeMap<u64, Vec<JobSpec>> = BTreeMap::new();
        for (after, minutes) in later {
            arrivals.entry(fleet.now_ms + after * MINUTE).or_default().push(lasting(4.0, minutes));
        }
        let mut starts = play(&mut fleet, arrivals, |_| 1.0);
        starts.retain(|id, _| ids.contains(id));
        prop_assert_eq!(expected, starts);
    }

    #[test]
    fn lengths_that_are_a_quarter_off_put_starts_a_quarter_off_at_most(
        count in 1..6usize,
        jobs in prop::collection::vec((10..300u64, 0.75..1.25f64), 1..60),
    ) {
        let mut fleet = of_cards(&vec![(10.0, 1); count]);
        let ids: Vec<_> = jobs.iter().map(|(minutes, _)| fleet.submit(lasting(4.0, *minutes))).collect();
        let off: BTreeMap<_, _> = ids.iter().zip(&jobs).map(|(id, (_, off))| (*id, *off)).collect();
        let began_ms = fleet.now_ms;
        let expected = foreseen(&fleet, &ids);
        for (id, ms) in play(&mut fleet, BTreeMap::new(), |id| off[&id]) {
            let (said, was) = (expected[&id] - began_ms, ms - began_ms);
            prop_assert!(said.abs_diff(was) <= said / 4 + 60, "job {id}: said {said} ms, was {was} ms");
        }
    }
}
