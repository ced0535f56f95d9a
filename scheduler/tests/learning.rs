//! What attempts teach, and what placement makes of it.

mod story;

use fleetune_scheduler::state::{Command, Report, State};
use fleetune_scheduler::view;
use fleetune_shared::{
    AsRun, AttemptEnd, ByteSize, Card, Device, Estimate, FailureKind, JobId, JobSpec, Offer, Ratio,
    TrainSummary, Work,
};
use proptest::prelude::*;
use story::{Fleet, GIB, finished, gpu, model, name, needs, recipe};

fn gib(bytes: ByteSize) -> f64 {
    bytes.0 as f64 / GIB as f64
}

fn bytes(gib: f64) -> ByteSize {
    ByteSize((gib * GIB as f64) as u64)
}

fn promised(fleet: &Fleet, job: JobId) -> f64 {
    gib(fleet.job(job).lease().expect("placed").vram_bytes)
}

/// A result whose run held so much, and so much by the estimate of rows of that length.
fn took(peak_gib: f64, as_run: Option<(u64, f64)>) -> Report {
    let as_run = as_run.map(|(length, gib)| AsRun {
        rows: 8,
        tokens: 8 * length,
        estimate: Estimate { weights: bytes(gib), ..Estimate::default() },
    });
    let mut report = finished();
    if let Report::Finished { summary, .. } = &mut report {
        **summary = TrainSummary {
            memory_bytes_peak: bytes(peak_gib),
            estimate: Some(Estimate { weights: bytes(4.0), ..Estimate::default() }),
            as_run,
            ..TrainSummary::default()
        };
    }
    report
}

/// Runs a job of 4 GiB to its end.
fn run(fleet: &mut Fleet, report: Report) {
    let job = fleet.submit(needs(4.0));
    fleet.settle();
    fleet.start(job);
    let (agent, attempt) = (fleet.place(job).unwrap().to_owned(), fleet.job(job).attempt.0);
    assert!(fleet.report(job, attempt, &agent, report).reply.is_ok());
}

/// What the next job of 4 GiB is promised.
fn next(fleet: &mut Fleet) -> f64 {
    let job = fleet.submit(needs(4.0));
    fleet.settle();
    let promised = promised(fleet, job);
    fleet.finish(job);
    promised
}

#[test]
fn a_run_that_took_more_raises_the_next_promise() {
    let mut fleet = Fleet::with(&[("one", 20.0)]);
    assert!((next(&mut fleet) - 4.0).abs() < 1e-6);
    run(&mut fleet, took(5.0, Some((1024, 4.0))));
    // A quarter more, and two hundredths of headroom.
    assert!((next(&mut fleet) - 4.0 * 1.27).abs() < 1e-3);
}

#[test]
fn short_rows_teach_nothing_about_long_ones() {
    let mut fleet = Fleet::with(&[("one", 20.0)]);
    for _ in 0..20 {
        run(&mut fleet, took(1.0, Some((100, 1.1))));
    }
    assert!((next(&mut fleet) - 4.0).abs() < 1e-6, "none of them had rows of 1024 tokens");
    for _ in 0..20 {
        run(&mut fleet, took(3.6, Some((1024, 4.0))));
    }
    assert!((next(&mut fleet) - 4.0 * 0.92).abs() < 1e-3);
}

#[test]
fn runs_that_do_not_say_what_they_ran_only_teach_upward() {
    let mut fleet = Fleet::with(&[("one", 20.0)]);
    for _ in 0..20 {
        run(&mut fleet, took(1.0, None));
    }
    assert!((next(&mut fleet) - 4.0).abs() < 1e-6);
    run(&mut fleet, took(4.4, None));
    assert!((next(&mut fleet) - 4.0 * 1.12).abs() < 1e-3);
}

#[test]
fn cards_of_one_family_learn_together_and_others_apart() {
    let named = |card_name: &str| {
        let card = Card { name: card_name.into(), ..gpu(20.0).card };
        Offer::of(card)
    };
    let mut fleet = Fleet::new();
    fleet.join_with("one", named("NVIDIA GeForce RTX 3080"), &[]);
    run(&mut fleet, took(5.0, Some((1024, 4.0))));
    fleet.apply(Command::Drain { agent: name("one"), draining: true });
    fleet.join_with("two", named("rtx 3080"), &[]);
    assert!((next(&mut fleet) - 4.0 * 1.27).abs() < 1e-3);
    fleet.apply(Command::Drain { agent: name("two"), draining: true });
    fleet.join_with("three", named("RTX 3090"), &[]);
    assert!((next(&mut fleet) - 4.0).abs() < 1e-6);
}

#[test]
fn what_is_refused_and_explained_is_what_would_be_promised() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    run(&mut fleet, took(5.0, Some((1024, 4.0))));
    let fits = fleet.submit(needs(7.0));
    let explained = fleet.explain(fits).cards.remove(0);
    assert!((gib(explained.vram_bytes_needed) - 7.0 * 1.27).abs() < 1e-3);
    let refused = fleet.try_submit(needs(8.0));
    let fleetune_scheduler::state::Submitted::Refused(why) = refused else { panic!("accepted") };
    assert!(why.summary.contains("it needs 10.16 GiB"), "{}", why.summary);
}

#[test]
fn a_run_that_fills_its_promise_plans_by_what_its_estimate_may_say() {
    let work = Work::Train { recipe: Box::new(recipe("max_length: 1024")) };
    let estimates = JobSpec::estimates_of(&work, &model());
    let adapts = JobSpec { work, estimates, ..needs(0.0) };
    let least = gib(adapts.vram_bytes_needed(Device::Cpu).unwrap());
    let useful = gib(adapts.vram_bytes_useful(Device::Cpu).unwrap());
    let mut fleet = Fleet::with(&[("one", 3.0 * useful)]);
    run(&mut fleet, took(5.0, Some((1024, 4.0))));
    let job = fleet.submit(adapts.clone());
    fleet.settle();
    let lease = fleet.job(job).lease().unwrap();
    assert!((gib(lease.vram_bytes) - useful * 1.27).abs() < 1e-3);
    assert!((gib(lease.vram_bytes_budget()) - useful).abs() < 1e-3);
    // Where there is only room for the least, that is corrected too.
    let mut fleet = Fleet::with(&[("one", 1.3 * least / 0.96)]);
    run(&mut fleet, took(5.0, Some((1024, 4.0))));
    let job = fleet.submit(adapts);
    fleet.settle();
    let lease = fleet.job(job).lease().unwrap();
    assert!(gib(lease.vram_bytes) >= least * 1.27);
    assert!(lease.basis.correction.times(lease.vram_bytes_budget()) <= lease.vram_bytes);
}

#[test]
fn every_attempt_is_written_down() {
    let mut fleet = Fleet::with(&[("one", 20.0)]);
    let job = fleet.submit(needs(4.0));
    fleet.settle();
    fleet.start(job);
    fleet.wait(3_600_000);
    fleet.release(job);
    fleet.settle();
    fleet.wait(1_000);
    fleet.report(job, 2, "one", took(3.0, Some((1024, 3.3))));
    let records = &fleet.job(job).attempts;
    assert_eq!(
        records.iter().map(|r| (r.attempt.0, r.end)).collect::<Vec<_>>(),
        [(1, AttemptEnd::Released), (2, AttemptEnd::Finished)]
    );
    assert_eq!(records[0].ended_ms - records[0].began_ms, 3_600_000);
    assert_eq!(records[1].vram_bytes_peak, Some(bytes(3.0)));
    assert_eq!(records[1].error(), Some(Ratio(1000)));
    let history = view::history(&fleet.state);
    assert_eq!(
        (history.fleet.attempts, history.agents.len(), history.corrections.len()),
        (1, 1, 1)
    );
    assert_eq!(history.corrections[0].tokens_max, 1024);
    let view = view::job(&fleet.state, &fleet.liveness, fleet.job(job));
    assert_eq!(view.attempts, *records);
}

/// Takes keys away, wherever they are.
fn without(value: &mut serde_json::Value, keys: &[&str]) {
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|key, _| !keys.contains(&key.as_str()));
            map.values_mut().for_each(|value| without(value, keys));
        }
        serde_json::Value::Array(values) => {
            values.iter_mut().for_each(|value| without(value, keys));
        }
        _ => {}
    }
}

#[test]
fn snapshots_and_logs_from_before_are_read() {
    let mut fleet = Fleet::with(&[("one", 20.0)]);
    run(&mut fleet, took(5.0, Some((1024, 4.0))));
    let job = fleet.submit(needs(4.0));
    fleet.settle();
    let mut stored = serde_json::to_value(&fleet.state).unwrap();
    without(&mut stored, &["corrections", "attempts", "basis", "as_run"]);
    let read: State = serde_json::from_value(stored).unwrap();
    assert!(read.corrections().is_empty());
    let lease = read.job(job).unwrap().lease().unwrap();
    assert_eq!(lease.vram_bytes_budget(), lease.vram_bytes);
    // The attempt that was under way ends like any other.
    let mut read = read;
    let finished = Command::Report {
        agent: name("one"),
        job,
        attempt: read.job(job).unwrap().attempt,
        report: took(5.0, None),
        now_ms: 9_000,
    };
    assert!(read.apply(finished).reply.is_ok());
    let log = r#"{"command":"report","agent":"one","job":1,"attempt":1,
        "report":{"report":"failed","kind":"out_of_memory","message":"m"},"now_ms":5}"#;
    let Command::Report { report, .. } = serde_json::from_str(log).unwrap() else { panic!() };
    let kind = FailureKind::OutOfMemory;
    assert_eq!(report, Report::Failed { kind, message: "m".into(), vram_bytes_peak: None });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_learned_is_the_same_however_often_it_was_written_down(
        runs in prop::collection::vec((1..80u32, 10..2000u64, any::<bool>()), 1..40),
        cut in 0..40usize,
    ) {
        let (mut straight, mut restored) = (Fleet::with(&[("one", 90.0)]), Fleet::with(&[("one", 90.0)]));
        for (number, (tenths, length, says)) in runs.into_iter().enumerate() {
            if number == cut {
                let bytes = serde_json::to_vec(&restored.state).unwrap();
                restored.state = serde_json::from_slice(&bytes).unwrap();
            }
            for fleet in [&mut straight, &mut restored] {
                run(fleet, took(f64::from(tenths) / 10.0, says.then_some((length, 4.0))));
            }
        }
        prop_assert_eq!(&restored.state, &straight.state);
        prop_assert_eq!(restored.state.hash(), straight.state.hash());
    }
}
