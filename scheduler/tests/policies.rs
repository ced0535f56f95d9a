//! Who goes first, beside whom, and who makes room.

mod story;

use fleetune_scheduler::state::{Command, Effect, Refusal, State, StopReason, Submitted};
use fleetune_shared::view::Verdict;
use fleetune_shared::{
    ArtifactFile, Attempt, BlobHash, ByteSize, Input, InputRole, JobSpec, Offer, TrainSummary,
};
use story::{Fleet, asks, finished, gpu, is_queued, name, needs, of, offer, urgent};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

fn fleet(offers: &[(&str, Offer)]) -> Fleet {
    let mut fleet = Fleet::new();
    for (agent, offer) in offers {
        fleet.join_with(agent, offer.clone(), &[]);
    }
    fleet
}

// ── several jobs on a card ──

#[test]
fn a_gpu_takes_one_job_unless_its_owner_says_otherwise() {
    let mut fleet = fleet(&[("one", gpu(24.0))]);
    let first = fleet.submit(needs(4.0));
    let second = fleet.submit(needs(4.0));
    fleet.settle();
    assert_eq!((fleet.place(first), fleet.place(second)), (Some("one"), None));
    let why = fleet.explain(second);
    assert_eq!(why.summary, "`one` has 1 job and takes no more at once (max_jobs_per_card 1)");
    assert_eq!(why.cards[0].verdict, Verdict::Full);
    assert!(why.hint.unwrap().contains("with --max-jobs-per-card 2 it would start there now"));

    let shared = Offer { max_jobs_per_card: Some(2), ..gpu(24.0) };
    fleet.apply(Command::Offer { agent: name("one"), offer: shared });
    fleet.settle();
    let third = fleet.submit(needs(4.0));
    fleet.settle();
    assert_eq!((fleet.place(second), fleet.place(third)), (Some("one"), None));
}

#[test]
fn a_card_that_takes_fewer_jobs_than_it_has_lets_them_end() {
    let mut fleet = fleet(&[("one", Offer { max_jobs_per_card: Some(2), ..offer(10.0) })]);
    let jobs = [1.0, 1.0, 1.0].map(|gib| fleet.submit(needs(gib)));
    fleet.settle();
    let fewer = Offer { max_jobs_per_card: Some(1), ..offer(10.0) };
    fleet.apply(Command::Offer { agent: name("one"), offer: fewer });
    fleet.finish(jobs[0]);
    fleet.settle();
    assert!(is_queued(fleet.job(jobs[2])), "one still runs");
    fleet.finish(jobs[1]);
    fleet.settle();
    assert_eq!(fleet.place(jobs[2]), Some("one"));
}

#[test]
fn a_promise_beyond_a_cards_slots_is_refused_by_the_log_too() {
    let mut fleet = fleet(&[("one", gpu(24.0))]);
    let jobs = [fleet.submit(needs(1.0)), fleet.submit(needs(1.0))];
    let promise =
        |job| Command::Assign { job, agent: name("one"), vram_bytes: ByteSize(1 << 30), now_ms: 0 };
    assert!(fleet.apply(promise(jobs[0])).reply.is_ok());
    let refused = fleet.apply(promise(jobs[1])).reply;
    assert!(matches!(refused, Err(Refusal::Unplaceable { .. })), "{refused:?}");
}

// ── shares ──

#[test]
fn users_take_turns_and_each_ones_jobs_go_in_order() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let ann: Vec<_> = (0..3).map(|_| fleet.submit(of("ann", needs(9.0)))).collect();
    let bob: Vec<_> = (0..2).map(|_| fleet.submit(of("bob", needs(9.0)))).collect();
    for expected in [ann[0], bob[0], ann[1], bob[1], ann[2]] {
        fleet.settle();
        assert_eq!(fleet.place(expected), Some("one"), "job {expected}");
        fleet.wait(HOUR);
        fleet.finish(expected);
    }
}

#[test]
fn when_several_cards_are_free_at_once_they_are_shared_too() {
    let mut fleet = Fleet::with(&[("a", 10.0), ("b", 10.0), ("c", 10.0), ("d", 10.0)]);
    let ann: Vec<_> = (0..4).map(|_| fleet.submit(of("ann", needs(9.0)))).collect();
    let bob: Vec<_> = (0..4).map(|_| fleet.submit(of("bob", needs(9.0)))).collect();
    fleet.settle();
    let placed = |jobs: &[_]| jobs.iter().filter(|id| fleet.place(**id).is_some()).count();
    assert_eq!((placed(&ann), placed(&bob)), (2, 2));
}

#[test]
fn what_a_user_had_is_forgotten_by_and_by() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let long = fleet.submit(of("ann", needs(9.0)));
    fleet.settle();
    fleet.wait(10 * HOUR);
    fleet.finish(long);
    let had = fleet.state.standing("ann", fleet.now_ms);
    assert_eq!(had, 9 * 1024 * 36_000);
    assert_eq!(fleet.state.standing("ann", fleet.now_ms + DAY), had / 2);
    assert_eq!(fleet.state.standing("bob", fleet.now_ms), 0);
}

#[test]
fn behind_whom_a_share_keeps_a_job_is_said() {
    let mut fleet = Fleet::with(&[("one", 20.0)]);
    let running = fleet.submit(of("ann", needs(10.0)));
    fleet.settle();
    let slim = fleet.submit(of("ann", needs(8.0)));
    let wide = fleet.submit(of("bob", needs(15.0)));
    fleet.settle();
    assert_eq!((fleet.place(slim), fleet.place(wide)), (None, None));
    let why = fleet.explain(slim).summary;
    let who = "of `bob`, who has had less of the fleet than `ann`";
    assert_eq!(why, format!("a card is held for job {wide} {who}"));
    fleet.finish(running);
}

// ── priorities ──

#[test]
fn dstack_4246_a_less_urgent_job_never_grabs_a_card_that_a_more_urgent_one_could_use() {
    let mut fleet = Fleet::with(&[("large", 24.0), ("small", 10.0)]);
    let running = fleet.submit(needs(20.0));
    fleet.settle();
    let urgent_job = fleet.submit(urgent(18.0, 5));
    let fillers: Vec<_> = (0..6).map(|_| fleet.submit(needs(6.0))).collect();
    fleet.settle();
    assert_eq!(fleet.place(fillers[0]), Some("small"), "which the urgent one cannot use");
    // The card comes free at the very moment when small jobs are ready for it, in whatever order word arrives.
    fleet.finish(running);
    fleet.finish(fillers[0]);
    fleet.settle();
    assert_eq!(fleet.place(urgent_job), Some("large"));
    assert_eq!(fleet.place(fillers[1]), Some("small"));
    assert!(fillers[2..].iter().all(|id| fleet.place(*id).is_none()));
}

#[test]
fn nobody_waits_for_ever() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let mut running = fleet.submit(urgent(9.0, 1));
    fleet.settle();
    let patient = fleet.submit(needs(9.0));
    for day in 0..3 {
        let next = fleet.submit(urgent(9.0, 1));
        fleet.wait(DAY);
        fleet.finish(running);
        fleet.settle();
        if fleet.place(patient).is_some() {
            assert_eq!(day, 1, "after more than a day it is as urgent, and older");
            return;
        }
        running = next;
    }
    panic!("starved");
}

// ── making room ──

/// A job of no urgency that has run for so long, and an urgent one that waits.
fn pressed(ran_ms: u64) -> (Fleet, fleetune_shared::JobId, fleetune_shared::JobId) {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let humble = fleet.submit(needs(9.0));
    fleet.settle();
    fleet.start(humble);
    fleet.wait(ran_ms);
    let pressing = fleet.submit(urgent(9.0, 1));
    (fleet, humble, pressing)
}

#[test]
fn a_more_urgent_job_gets_room_and_the_other_goes_on_from_its_checkpoint() {
    let (mut fleet, humble, pressing) = pressed(11 * MINUTE);
    let effects = fleet.settle();
    let asked = Effect::Stop {
        agent: name("one"),
        job: humble,
        attempt: Attempt(1),
        reason: StopReason::Yield,
    };
    assert_eq!(effects.iter().filter(|e| **e == asked).count(), 1, "asked once: {effects:?}");
    assert_eq!(fleet.place(humble), Some("one"), "until it has written its checkpoint");
    let why = fleet.explain(pressing);
    let humbly = format!("job {humble} was asked to write a checkpoint and make room for it");
    assert_eq!(why.summary, humbly);
    assert_eq!(why.expected_start_ms, Some(fleet.state.clock_ms()));
    assert!(fleet.explain(humble).summary.contains(&format!("make room for job {pressing}")));

    fleet.checkpoint(humble, 7);
    fleet.release(humble);
    fleet.settle();
    assert_eq!(fleet.place(pressing), Some("one"));
    assert!(is_queued(fleet.job(humble)));
    fleet.finish(pressing);
    fleet.settle();
    assert_eq!(fleet.place(humble), Some("one"));
    let humble = fleet.job(humble);
    assert_eq!(humble.checkpoint.as_ref().map(|c| c.step), Some(7), "nothing was lost");
    assert_eq!(humble.machine_failures, 0);
}

#[test]
fn a_job_that_has_just_begun_is_left_alone() {
    let (mut fleet, humble, pressing) = pressed(9 * MINUTE);
    fleet.settle();
    assert!(!fleet.state.is_awaited(pressing));
    fleet.wait(2 * MINUTE);
    fleet.settle();
    assert!(fleet.state.is_awaited(pressing));
    assert_eq!(fleet.place(humble), Some("one"));
}

#[test]
fn an_equally_urgent_job_waits() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let first = fleet.submit(urgent(9.0, 1));
    fleet.settle();
    fleet.start(first);
    fleet.wait(HOUR);
    let second = fleet.submit(urgent(9.0, 1));
    fleet.settle();
    assert!(!fleet.state.is_awaited(second));
}

#[test]
fn only_as_many_make_room_as_must_and_those_that_began_last() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let mut started = Vec::new();
    for _ in 0..3 {
        started.push(fleet.submit(needs(3.0)));
        fleet.settle();
        fleet.start(started[started.len() - 1]);
        fleet.wait(HOUR);
    }
    let pressing = fleet.submit(urgent(5.0, 1));
    let effects = fleet.settle();
    let asked: Vec<_> = effects
        .iter()
        .filter_map(|e| match e {
            Effect::Stop { job, reason: StopReason::Yield, .. } => Some(*job),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [started[2], started[1]]);
    for id in asked {
        fleet.release(id);
    }
    fleet.settle();
    assert_eq!((fleet.place(pressing), fleet.place(started[0])), (Some("one"), Some("one")));
}

#[test]
fn an_agent_that_missed_the_word_is_asked_again() {
    let (mut fleet, humble, _) = pressed(HOUR);
    fleet.settle();
    let applied = fleet.join("one", 10.0, &[(humble, Attempt(1))]);
    let again = |e: &Effect| matches!(e, Effect::Stop { reason: StopReason::Yield, .. });
    assert!(applied.effects.iter().any(again), "{:?}", applied.effects);
}

// ── what a job asks for ──

#[test]
fn a_job_goes_only_where_the_card_is_what_it_asks_for() {
    let ada = |gib| {
        let mut offer = gpu(gib);
        offer.card.name = "NVIDIA RTX 4000 Ada".into();
        offer.card.compute_capability = Some((8, 9));
        offer
    };
    let night = Offer { labels: ["night".to_owned()].into(), ..offer(10.0) };
    let mut fleet = fleet(&[("ada", ada(20.0)), ("night", night), ("plain", offer(10.0))]);
    let by_name = fleet.submit(asks(2.0, "card: rtx 4000"));
    let by_label = fleet.submit(asks(2.0, "labels: [night]"));
    let by_capability = fleet.submit(asks(2.0, "min_compute_capability: 8.0"));
    fleet.settle();
    assert_eq!(fleet.place(by_name), Some("ada"));
    assert_eq!(fleet.place(by_label), Some("night"));
    assert_eq!(fleet.place(by_capability), None, "`ada` takes one at once");
    let verdicts: Vec<_> = fleet.explain(by_capability).cards.iter().map(|c| c.verdict).collect();
    assert_eq!(verdicts, [Verdict::Full, Verdict::Unsuitable, Verdict::Unsuitable]);
}

#[test]
fn what_no_card_is_is_refused_in_words() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let Submitted::Refused(why) = fleet.try_submit(asks(1.0, "labels: [night]")) else { panic!() };
    let expected = "no card of the fleet is what `needs-1` asks for: `one` lacks the label night";
    assert_eq!(why.summary, expected);
}

#[test]
fn jobs_with_the_same_word_keep_apart() {
    let mut fleet = Fleet::with(&[("a", 20.0), ("b", 20.0)]);
    let apart: Vec<_> = (0..3).map(|_| fleet.submit(asks(4.0, "anti_affinity: noisy"))).collect();
    let other = fleet.submit(needs(4.0));
    fleet.settle();
    assert_eq!((fleet.place(apart[0]), fleet.place(apart[1])), (Some("a"), Some("b")));
    assert_eq!(fleet.place(apart[2]), None);
    let why = fleet.explain(apart[2]).summary;
    assert!(why.ends_with("holds another job of `noisy`, and the two keep apart"), "{why}");
    assert!(fleet.place(other).is_some());
    fleet.finish(apart[1]);
    fleet.settle();
    assert_eq!(fleet.place(apart[2]), Some("b"));
}

#[test]
fn among_equals_the_card_that_keeps_the_base_then_the_fastest() {
    let base = BlobHash([7; 32]);
    let file = |n| {
        let blob = BlobHash([n; 32]);
        let file = ArtifactFile {
            name: format!("{n}.safetensors").try_into().unwrap(),
            blob,
            bytes: ByteSize(u64::from(n) << 20),
        };
        Input { role: InputRole::Model, file }
    };
    let spec = || JobSpec { inputs: vec![file(1), file(7), file(3)], ..needs(6.0) };
    let keeper = Offer { blobs_cached: [base].into(), ..offer(10.0) };
    let mut fleet =
        fleet(&[("a", offer(10.0)), ("b", offer(10.0)), ("c", keeper), ("wide", offer(20.0))]);
    // `b` is measured to be fast.
    let measured = fleet.submit(asks(9.0, ""));
    let other = fleet.submit(needs(9.0));
    fleet.settle();
    assert_eq!((fleet.place(measured), fleet.place(other)), (Some("a"), Some("b")));
    let mut report = finished();
    if let fleetune_scheduler::state::Report::Finished { summary, .. } = &mut report {
        **summary = TrainSummary { tokens_per_second: 500.0, ..TrainSummary::default() };
    }
    fleet.finish(measured);
    assert!(fleet.report(other, 1, "b", report).reply.is_ok());

    let cached = fleet.submit(spec());
    let fast = fleet.submit(spec());
    let rest = fleet.submit(spec());
    fleet.settle();
    let places = [cached, fast, rest].map(|id| fleet.place(id).unwrap());
    assert_eq!(places, ["c", "b", "a"], "the tightest before all: never `wide`");
}

// ── backfilling by time ──

/// A card that is full until a time its job's pace tells, and a job that waits for it.
fn paced() -> (Fleet, fleetune_shared::JobId) {
    let mut fleet = Fleet::with(&[("one", 20.0)]);
    // A first job measures the card: 1000 tokens of a 1.2 billion parameter model a second.
    let first = fleet.submit(needs(10.0));
    fleet.settle();
    let mut report = finished();
    if let fleetune_scheduler::state::Report::Finished { summary, .. } = &mut report {
        **summary = TrainSummary { tokens_per_second: 1000.0, ..TrainSummary::default() };
    }
    fleet.report(first, 1, "one", report);
    let running = fleet.submit(needs(10.0));
    fleet.settle();
    fleet.start(running);
    fleet.wait(10 * MINUTE);
    fleet.checkpoint(running, 5);
    let wide = fleet.submit(needs(15.0));
    (fleet, wide)
}

#[test]
fn when_a_waiting_job_starts_is_told_from_the_pace_of_what_is_in_its_way() {
    let (mut fleet, wide) = paced();
    fleet.settle();
    // Five of ten steps took ten minutes.
    assert_eq!(fleet.explain(wide).expected_start_ms, Some(fleet.now_ms + 10 * MINUTE));
}

#[test]
fn a_job_that_is_sure_to_be_gone_in_time_goes_before_one_that_waits() {
    let (mut fleet, wide) = paced();
    // 100 steps of 1024 tokens: two minutes. A thousand steps: twenty.
    let brief = "max_steps: 100\nper_device_train_batch_size: 1";
    let long = "max_steps: 1000\nper_device_train_batch_size: 1";
    let lasting = fleet.submit(asks(8.0, long));
    let passing = fleet.submit(asks(8.0, brief));
    let unknown = fleet.submit(needs(8.0));
    fleet.settle();
    assert_eq!(fleet.place(wide), None);
    assert_eq!(fleet.place(lasting), None, "it would still be there in ten minutes");
    assert_eq!(fleet.place(unknown), None, "nobody can tell");
    assert_eq!(fleet.place(passing), Some("one"));
}

// ── what was written before ──

#[test]
fn logs_and_snapshots_of_before_are_read() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    let mut value = serde_json::to_value(&fleet.state).unwrap();
    let top = value.as_object_mut().unwrap();
    top.remove("clock_ms");
    top.remove("usages");
    let agent = top["agents"]["one"].as_object_mut().unwrap();
    agent.remove("speed");
    let offer = agent["offer"].as_object_mut().unwrap();
    for key in ["max_jobs_per_card", "labels", "blobs_cached", "share"] {
        offer.remove(key);
    }
    let stored = top["jobs"][job.to_string()].as_object_mut().unwrap();
    stored.remove("pace");
    stored["spec"].as_object_mut().unwrap().remove("user");
    let lease = stored["phase"].as_object_mut().unwrap();
    for key in ["since_ms", "ends_ms", "yielding_to"] {
        lease.remove(key);
    }
    let read: State = serde_json::from_value(value).unwrap();
    assert_eq!(read.vram_bytes_reserved(&name("one")), 6 << 30);
    assert_eq!(read.held_by(&name("one")).count(), 1);

    let assign = r#"{"command":"assign","job":1,"agent":"one","vram_bytes":5}"#;
    assert!(serde_json::from_str::<Command>(assign).is_ok());
}
