//! Which job goes where.

mod story;

use fleetune_scheduler::state::{Command, Effect, Submitted};
use fleetune_scheduler::{explain, view};
use fleetune_shared::view::Verdict;
use fleetune_shared::{ByteSize, Device, Fit, JobSpec, Sizer, Work, changed};
use story::{Fleet, GIB, model, name, needs, recipe, urgent};

#[test]
fn a_job_goes_where_it_fits_with_the_least_left_over() {
    let mut fleet = Fleet::with(&[("large", 20.0), ("small", 10.0)]);
    let first = fleet.submit(needs(6.0));
    let second = fleet.submit(needs(6.0));
    fleet.settle();
    assert_eq!(fleet.place(first), Some("small"));
    assert_eq!(fleet.place(second), Some("large"));
}

#[test]
fn several_jobs_share_a_card_by_promise_not_by_use() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let jobs: Vec<_> = (0..4).map(|_| fleet.submit(needs(3.0))).collect();
    let starts = fleet.settle().into_iter().filter(|e| matches!(e, Effect::Start { .. })).count();
    // 10 GiB less 4 % is 9.6: three fit, though none of them has allocated anything yet.
    assert_eq!(starts, 3);
    assert_eq!(fleet.place(jobs[3]), None);
    fleet.finish(jobs[0]);
    fleet.settle();
    assert_eq!(fleet.place(jobs[3]), Some("one"));
}

#[test]
fn foreign_use_is_respected_and_given_back() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let mut offer = story::offer(10.0);
    offer.vram_bytes_foreign = ByteSize(5 * GIB);
    fleet.apply(Command::Offer { agent: name("one"), offer: offer.clone() });
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    assert_eq!(fleet.place(job), None);
    assert!(fleet.explain(job).summary.contains("5.00 GiB used by others"));
    offer.vram_bytes_foreign = ByteSize(0);
    fleet.apply(Command::Offer { agent: name("one"), offer });
    fleet.settle();
    assert_eq!(fleet.place(job), Some("one"));
}

#[test]
fn urgent_first_then_oldest_first() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let running = fleet.submit(needs(9.0));
    fleet.settle();
    let late = fleet.submit(needs(9.0));
    let later = fleet.submit(needs(9.0));
    let pressing = fleet.submit(urgent(9.0, 1));
    for expected in [running, pressing, late, later] {
        fleet.settle();
        assert_eq!(fleet.place(expected), Some("one"));
        fleet.finish(expected);
    }
}

#[test]
fn a_waiting_job_is_never_overtaken_on_the_card_it_needs() {
    let mut fleet = Fleet::with(&[("one", 20.0)]);
    let running = fleet.submit(needs(10.0));
    fleet.settle();
    let wide = fleet.submit(needs(15.0));
    let slim = fleet.submit(needs(5.0));
    let slimmer = fleet.submit(needs(4.0));
    fleet.settle();
    // 5 GiB would fit now but not beside the 15 GiB that were asked for earlier; 4 GiB fit beside both.
    assert_eq!(
        (fleet.place(wide), fleet.place(slim), fleet.place(slimmer)),
        (None, None, Some("one"))
    );
    assert!(fleet.explain(slim).summary.contains(&format!("held for job {wide}")));
    fleet.finish(running);
    fleet.settle();
    assert_eq!(fleet.place(wide), Some("one"));
}

#[test]
fn cards_a_waiting_job_cannot_use_stay_busy() {
    let mut fleet = Fleet::with(&[("large", 20.0), ("small", 10.0)]);
    let running = fleet.submit(needs(18.0));
    fleet.settle();
    let wide = fleet.submit(needs(15.0));
    let slim = fleet.submit(needs(5.0));
    fleet.settle();
    assert_eq!(fleet.place(running), Some("large"));
    assert_eq!((fleet.place(wide), fleet.place(slim)), (None, Some("small")));
}

#[test]
fn a_job_too_big_for_every_card_is_refused_with_numbers_and_a_way_out() {
    let mut fleet = Fleet::with(&[("bench-1", 6.0), ("bench-2", 10.0)]);
    let asked =
        recipe("per_device_train_batch_size: 2\nmax_length: 8192\ngradient_checkpointing: none");
    let work = Work::Train { recipe: Box::new(asked.clone()) };
    let estimates = JobSpec::estimates_of(&work, &model());
    let spec = JobSpec { work, estimates, ..needs(0.0) };
    let Submitted::Refused(why) = fleet.try_submit(spec) else { panic!("accepted") };
    assert!(why.summary.contains("`bench-2`"), "{}", why.summary);
    assert!(why.summary.contains("9.60 GiB"), "{}", why.summary);
    assert!(why.summary.contains("too little"), "{}", why.summary);
    let hint = why.hint.expect("a change that would make it fit");
    // It is what `fleetune estimate` says of that card.
    let sizer = Sizer::Fleetune { model: Box::new(model()), device: Device::Cpu };
    let (need, near) = (sizer.size(&asked), story::offer(10.0).card);
    let changes = Fit::of(&sizer, &asked, &need, near).changes.unwrap();
    let keys: Vec<_> = changes.iter().map(|change| change.keys()).collect();
    assert!(hint.starts_with(&format!("set {}: it would need ", keys.join(", "))), "{hint}");
    assert_eq!(fleet.state.jobs().count(), 0, "a refused job does not exist");

    // The change that is named does fit.
    let work = Work::Train { recipe: Box::new(changed(&sizer, &asked, &changes).unwrap()) };
    let estimates = JobSpec::estimates_of(&work, &model());
    assert!(estimates[&Device::Cpu].total() <= story::offer(10.0).card.usable());
    fleet.submit(JobSpec { work, estimates, ..needs(0.0) });
}

/// A job that keeps as much as it has room for: what it needs in GiB, and what it can use.
fn adaptable() -> (JobSpec, f64, f64) {
    let work = Work::Train { recipe: Box::new(recipe("max_length: 2048")) };
    let estimates = JobSpec::estimates_of(&work, &model());
    let spec = JobSpec { work, estimates, ..needs(0.0) };
    let gib = |bytes: Option<ByteSize>| bytes.unwrap().0 as f64 / GIB as f64;
    let needed = gib(spec.vram_bytes_needed(Device::Cpu));
    let useful = gib(spec.vram_bytes_useful(Device::Cpu));
    assert!(useful > needed + 2.0, "{needed} {useful}");
    (spec, needed, useful)
}

#[test]
fn a_job_that_adapts_is_promised_what_nobody_else_waits_for() {
    let (spec, needed, useful) = adaptable();
    let promised = |fleet: &Fleet, job| {
        fleet.job(job).lease().map_or(0.0, |lease| lease.vram_bytes.0 as f64 / GIB as f64)
    };
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");

    // Alone it has all it can use, on the card that has as much.
    let mut fleet = Fleet::with(&[("roomy", 40.0), ("tight", needed + 1.0)]);
    let alone = fleet.submit(spec.clone());
    fleet.settle();
    assert_eq!(fleet.place(alone), Some("roomy"));
    close(promised(&fleet, alone), useful);

    // Two that need all there is leave each other room; the first has what is over.
    let usable = story::offer(2.0 * needed + 1.5).card.usable().0 as f64 / GIB as f64;
    let mut fleet = Fleet::with(&[("one", 2.0 * needed + 1.5)]);
    let (first, second) = (fleet.submit(spec.clone()), fleet.submit(spec.clone()));
    fleet.settle();
    close(promised(&fleet, second), needed);
    close(promised(&fleet, first), usable - needed);

    // What a waiting job holds is not given away.
    let mut fleet = Fleet::with(&[("one", 40.0)]);
    let running = fleet.submit(needs(25.0));
    fleet.settle();
    let usable = story::offer(40.0).card.usable().0 as f64 / GIB as f64;
    let wide = fleet.submit(needs(usable - needed));
    let slim = fleet.submit(spec);
    fleet.settle();
    assert_eq!(fleet.place(wide), None);
    close(promised(&fleet, slim), needed);
    fleet.finish(running);
    fleet.settle();
    assert_eq!(fleet.place(wide), Some("one"));
}

#[test]
fn with_no_agent_yet_a_job_waits() {
    let mut fleet = Fleet::new();
    let job = fleet.submit(needs(500.0));
    assert_eq!(fleet.explain(job).summary, "no agent has joined yet");
}

#[test]
fn a_draining_agent_gets_nothing_new() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    fleet.apply(Command::Drain { agent: name("one"), draining: true });
    let job = fleet.submit(needs(1.0));
    fleet.settle();
    assert_eq!(fleet.place(job), None);
    assert!(fleet.explain(job).summary.contains("takes no new jobs"));
    fleet.apply(Command::Drain { agent: name("one"), draining: false });
    fleet.settle();
    assert_eq!(fleet.place(job), Some("one"));
}

#[test]
fn what_a_job_was_promised_is_not_held_against_it() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    let card = fleet.explain(job).cards.remove(0);
    assert_eq!((card.verdict, card.vram_bytes_reserved), (Verdict::Fits, ByteSize(0)));
}

#[test]
fn a_plan_says_what_a_submission_would_find_and_changes_nothing() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let running = fleet.submit(needs(9.0));
    fleet.settle();
    let waiting = fleet.submit(urgent(9.0, 1));
    fleet.settle();
    let before = fleet.state.clone();
    let plan = |spec| explain::plan(&fleet.state, &fleet.liveness, spec, fleet.now_ms);

    let spec = needs(8.0);
    let [planned, refused] = [plan(spec.clone()), plan(needs(11.0))];
    assert!(refused.summary.contains("fits no card of the fleet"), "{}", refused.summary);
    // Twice in a row is no different: nothing is remembered.
    assert_eq!(plan(spec.clone()), planned);
    assert_eq!(fleet.state, before);
    assert_eq!(planned.ahead, [waiting]);
    assert!(planned.summary.contains("`one` has"), "{}", planned.summary);

    let job = fleet.submit(spec);
    assert_eq!(fleet.explain(job), planned);
    assert_eq!(fleet.place(running), Some("one"));
}

#[test]
fn a_view_of_a_long_queue_says_of_the_last_how_far_they_are() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let jobs: Vec<_> = (0..300).map(|_| fleet.submit(needs(9.0))).collect();
    let view = view::fleet(&fleet.state, &fleet.liveness);
    let waiting = |i: usize| view.jobs[i].waiting.clone().unwrap();
    assert_eq!(waiting(0), "about to be placed");
    assert!(waiting(255).contains(&format!("held for job {}", jobs[0])), "{}", waiting(255));
    assert_eq!(waiting(256), "256 jobs go first");
    assert_eq!(waiting(299), "299 jobs go first");
    // Asked by itself, every job is told all.
    assert_eq!(fleet.explain(jobs[299]).ahead, jobs[..299]);
}
