//! A card's owner comes first: who is asked to leave, what is not placed, and what is said about it.

mod story;

use fleetune_scheduler::state::{Command, Effect, State, StopReason};
use fleetune_shared::view::Verdict;
use fleetune_shared::{Attempt, Availability, ByteSize, JobId, Offer, OwnerSign};
use story::{Fleet, is_queued, name, needs, offer};

fn blender() -> Availability {
    let sign = OwnerSign::Programs {
        name: Some("blender".into()),
        count: 1,
        vram_bytes: ByteSize(6_549_825_126),
    };
    Availability::Owner { sign, opens_ms: None }
}

fn offers(fleet: &mut Fleet, agent: &str, availability: Availability) {
    let offer = Offer { availability, ..offer(10.0) };
    let applied = fleet.apply(Command::Offer { agent: name(agent), offer });
    assert!(applied.reply.is_ok());
}

fn pause(fleet: &mut Fleet, paused: bool) -> Vec<Effect> {
    fleet.apply(Command::Pause { agent: name("one"), paused }).effects
}

fn asked(effects: &[Effect]) -> Vec<JobId> {
    let for_the_owner = |e: &Effect| match e {
        Effect::Stop { job, reason: StopReason::Owner, .. } => Some(*job),
        _ => None,
    };
    effects.iter().filter_map(for_the_owner).collect()
}

/// A fleet of one card, and a job that runs there.
fn busy() -> (Fleet, JobId) {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(4.0));
    fleet.settle();
    fleet.start(job);
    (fleet, job)
}

#[test]
fn nothing_goes_to_a_card_whose_owner_is_there() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    offers(&mut fleet, "one", blender());
    let job = fleet.submit(needs(4.0));
    fleet.settle();
    assert!(is_queued(fleet.job(job)));
    let explained = fleet.explain(job);
    assert_eq!(
        explained.summary,
        "`one` would hold it but is closed (its owner uses it: blender, 6.10 GiB)"
    );
    let card = &explained.cards[0];
    assert_eq!(card.verdict, Verdict::Closed);
    assert_eq!(card.lacks.as_deref(), Some("its owner uses it: blender, 6.10 GiB"));

    offers(&mut fleet, "one", Availability::Open);
    fleet.settle();
    assert_eq!(fleet.place(job), Some("one"));
}

#[test]
fn opening_hours_are_told_from_when_the_agent_was_heard() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let opens_ms = Some(fleet.now_ms + 12_600_000);
    let hours = "Mon-Fri 19:00-08:00".to_owned();
    offers(&mut fleet, "one", Availability::OffHours { hours, opens_ms });
    let job = fleet.submit(needs(4.0));
    fleet.wait(600_000);
    assert_eq!(
        fleet.explain(job).summary,
        "`one` would hold it but is closed (available Mon-Fri 19:00-08:00; opens in 3 h 20 min)"
    );
}

#[test]
fn a_job_that_leaves_goes_elsewhere_and_it_is_no_fault_of_anybody() {
    let (mut fleet, job) = busy();
    fleet.checkpoint(job, 4);
    fleet.join("two", 10.0, &[]);
    offers(&mut fleet, "one", blender());
    assert_eq!(
        fleet.explain(job).summary,
        "writes a checkpoint on `one` and leaves (its owner uses it: blender, 6.10 GiB)"
    );
    for _ in 0..20 {
        let (from, to) =
            if fleet.place(job) == Some("one") { ("one", "two") } else { ("two", "one") };
        offers(&mut fleet, from, blender());
        offers(&mut fleet, to, Availability::Open);
        fleet.release(job);
        fleet.settle();
        fleet.start(job);
        assert_eq!(fleet.place(job), Some(to));
    }
    assert_eq!(fleet.job(job).machine_failures, 0);
    assert_eq!(fleet.job(job).checkpoint.as_ref().map(|c| c.step), Some(4));
}

#[test]
fn a_paused_agent_is_asked_for_its_jobs_and_gets_none_until_it_resumes() {
    let (mut fleet, job) = busy();
    assert_eq!(asked(&pause(&mut fleet, true)), [job]);
    fleet.release(job);
    fleet.settle();
    assert!(is_queued(fleet.job(job)));
    let explained = fleet.explain(job);
    assert_eq!(explained.summary, "`one` would hold it but is closed (paused by hand)");
    assert_eq!(explained.hint.unwrap(), "`fleetune agent resume one` lets it start there");

    // What its agent says meanwhile changes nothing.
    offers(&mut fleet, "one", Availability::Open);
    fleet.settle();
    assert!(is_queued(fleet.job(job)));
    assert_eq!(asked(&pause(&mut fleet, false)), []);
    fleet.settle();
    assert_eq!(fleet.place(job), Some("one"));
}

#[test]
fn an_agent_that_was_away_when_it_was_paused_is_asked_when_it_returns() {
    let (mut fleet, job) = busy();
    let promised = fleet.submit(needs(4.0));
    fleet.settle();
    fleet.disconnect("one");
    pause(&mut fleet, true);
    let applied = fleet.join("one", 10.0, &[(job, Attempt(1))]);
    assert_eq!(asked(&applied.effects), [job]);
    // What it was promised and never heard of it need not hear of now.
    let starts = |e: &Effect| matches!(e, Effect::Start { .. });
    assert!(!applied.effects.iter().any(starts), "{:?}", applied.effects);
    assert!(is_queued(fleet.job(promised)));
}

#[test]
fn a_driver_error_lets_what_runs_come_to_its_end() {
    let (mut fleet, job) = busy();
    offers(&mut fleet, "one", Availability::DriverError { xid: 48 });
    let next = fleet.submit(needs(1.0));
    fleet.settle();
    assert_eq!(fleet.explain(job).summary, "running on `one` with 4.00 GiB promised");
    assert!(fleet.explain(next).summary.contains("Xid 48"), "{}", fleet.explain(next).summary);
    fleet.finish(job);
    fleet.settle();
    assert!(is_queued(fleet.job(next)));
}

#[test]
fn a_snapshot_from_before_there_were_owners_is_of_open_cards() {
    let (fleet, _) = busy();
    let mut value = serde_json::to_value(&fleet.state).unwrap();
    let agent = &mut value["agents"]["one"];
    agent.as_object_mut().unwrap().remove("paused").unwrap();
    agent["offer"].as_object_mut().unwrap().remove("availability").unwrap();
    let read: State = serde_json::from_value(value).unwrap();
    assert_eq!(read, fleet.state);
    let command = r#"{"command":"pause","agent":"one","paused":true}"#;
    let read: Command = serde_json::from_str(command).unwrap();
    assert_eq!(read, Command::Pause { agent: name("one"), paused: true });
}
