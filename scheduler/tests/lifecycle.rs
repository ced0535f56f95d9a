//! What happens to a job when agents come, go and come back.

mod story;

use fleetune_scheduler::state::{Command, Effect, Refusal, Reply, Report, StopReason};
use fleetune_shared::{ArtifactKind, Attempt, FailureKind, RequestId};
use story::{Fleet, LEASE_MS, artifact, finished, is_queued, is_stale, name, needs, phase};

#[test]
fn a_job_runs_from_queue_to_result() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(1.0));
    assert_eq!(phase(fleet.job(job)), "queued");
    fleet.settle();
    assert_eq!(phase(fleet.job(job)), "assigned");
    fleet.start(job);
    assert_eq!(phase(fleet.job(job)), "running");
    fleet.finish(job);
    assert_eq!(phase(fleet.job(job)), "succeeded");
    assert_eq!(fleet.state.vram_bytes_reserved(&name("one")), 0);
}

#[test]
fn a_retried_submission_is_the_same_submission() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let submit =
        Command::Submit { request: RequestId("r".into()), specs: vec![needs(1.0)], now_ms: 1 };
    let first = fleet.apply(submit.clone()).reply;
    assert_eq!(fleet.apply(submit).reply, first);
    assert_eq!(fleet.state.jobs().count(), 1);
}

#[test]
fn a_silent_agent_loses_its_jobs_and_its_late_words_change_nothing() {
    let mut fleet = Fleet::with(&[("one", 10.0), ("two", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    fleet.start(job);
    let first = fleet.place(job).unwrap().to_owned();
    let other = if first == "one" { "two" } else { "one" };
    fleet.disconnect(&first);
    fleet.wait(LEASE_MS - 1);
    fleet.settle();
    assert_eq!(fleet.place(job), Some(first.as_str()), "within its lease nothing happens");
    fleet.wait(2);
    fleet.settle();
    assert_eq!(fleet.place(job), Some(other));
    assert_eq!(fleet.job(job).attempt, Attempt(2));

    let before = fleet.state.hash();
    assert!(is_stale(&fleet.report(job, 1, &first, finished())));
    assert!(
        is_stale(&fleet.report(job, 2, &first, finished())),
        "the right number from the wrong agent"
    );
    assert_eq!(fleet.state.hash(), before);
    fleet.finish(job);
    assert!(is_stale(&fleet.report(job, 1, &first, finished())), "one result only");
}

#[test]
fn a_zombie_that_returns_is_fenced() {
    let mut fleet = Fleet::with(&[("one", 10.0), ("two", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    let first = fleet.place(job).unwrap().to_owned();
    fleet.disconnect(&first);
    fleet.wait(LEASE_MS + 1);
    fleet.settle();
    let applied = fleet.join(&first, 10.0, &[(job, Attempt(1))]);
    let fenced = applied
        .effects
        .iter()
        .any(|e| matches!(e, Effect::Stop { attempt: Attempt(1), reason: StopReason::Fenced, .. }));
    assert!(fenced, "{:?}", applied.effects);
}

#[test]
fn an_agent_that_reconnects_with_its_trainer_keeps_it() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    fleet.start(job);
    let applied = fleet.join("one", 10.0, &[(job, Attempt(1))]);
    assert_eq!(applied.effects, [Effect::Replan]);
    assert_eq!((phase(fleet.job(job)), fleet.job(job).attempt), ("running", Attempt(1)));
}

#[test]
fn an_agent_restarted_without_its_trainer_gives_the_job_back() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    fleet.start(job);
    fleet.join("one", 10.0, &[]);
    assert!(is_queued(fleet.job(job)));
    fleet.settle();
    assert_eq!(fleet.job(job).attempt, Attempt(2));
}

#[test]
fn a_promise_the_agent_never_heard_of_is_told_again() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    let applied = fleet.join("one", 10.0, &[]);
    let told = Effect::Start { agent: name("one"), job, attempt: Attempt(1) };
    assert!(applied.effects.contains(&told));
}

#[test]
fn a_name_belongs_to_the_key_that_took_it() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let forged = Command::Join {
        agent: name("one"),
        key_hash: [9; 32],
        offer: story::offer(80.0),
        held: Vec::new(),
        now_ms: 0,
    };
    assert_eq!(fleet.apply(forged).reply, Err(Refusal::NameTaken(name("one"))));
}

#[test]
fn when_most_agents_vanish_at_once_nothing_is_reassigned_for_a_while() {
    let mut fleet = Fleet::with(&[("a", 10.0), ("b", 10.0), ("c", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    fleet.start(job);
    let place = fleet.place(job).unwrap().to_owned();
    for agent in ["a", "b", "c"] {
        fleet.disconnect(agent);
    }
    fleet.wait(2 * LEASE_MS);
    fleet.settle();
    assert_eq!(fleet.place(job), Some(place.as_str()));
    fleet.wait(10 * LEASE_MS);
    fleet.settle();
    assert!(is_queued(fleet.job(job)), "but not for ever");
}

#[test]
fn a_new_leader_loses_nobody() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    fleet.start(job);
    // A new leader knows no session and no last word.
    fleet.now_ms += 100 * LEASE_MS;
    fleet.liveness =
        fleetune_scheduler::Liveness { leader_since_ms: fleet.now_ms, ..Default::default() };
    fleet.settle();
    assert_eq!(phase(fleet.job(job)), "running");
}

#[test]
fn a_checkpoint_only_moves_forward() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(6.0));
    fleet.settle();
    fleet.start(job);
    for step in [5, 3, 8] {
        let artifact = artifact(ArtifactKind::Checkpoint, step);
        assert!(fleet.report(job, 1, "one", Report::Checkpoint { artifact }).reply.is_ok());
    }
    assert_eq!(fleet.job(job).checkpoint.as_ref().map(|c| c.step), Some(8));
    fleet.report(
        job,
        1,
        "one",
        Report::Released { message: "asked to".into(), vram_bytes_peak: None },
    );
    assert_eq!(
        fleet.job(job).checkpoint.as_ref().map(|c| c.step),
        Some(8),
        "kept for the next attempt"
    );
}

#[test]
fn bad_input_fails_at_once_a_bad_machine_after_a_few_tries() {
    let failed =
        |kind| Report::Failed { kind, message: "row 3 has no text".into(), vram_bytes_peak: None };
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let wrong = fleet.submit(needs(1.0));
    fleet.settle();
    fleet.report(wrong, 1, "one", failed(FailureKind::Input));
    assert_eq!(phase(fleet.job(wrong)), "failed");
    assert!(fleet.explain(wrong).summary.contains("row 3"));

    let unlucky = fleet.submit(needs(1.0));
    for attempt in 1..=5 {
        assert!(is_queued(fleet.job(unlucky)));
        fleet.settle();
        fleet.report(unlucky, attempt, "one", failed(FailureKind::Machine));
    }
    assert_eq!(phase(fleet.job(unlucky)), "failed");
}

#[test]
fn cancel_and_completion_race_to_one_end() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(1.0));
    fleet.settle();
    fleet.start(job);
    let applied = fleet.apply(Command::Cancel { job, now_ms: 5 });
    let stopped = |e: &Effect| matches!(e, Effect::Stop { reason: StopReason::Cancelled, .. });
    assert!(applied.effects.iter().any(stopped));
    assert!(is_stale(&fleet.report(job, 1, "one", finished())));
    assert_eq!(phase(fleet.job(job)), "cancelled");

    let done = fleet.submit(needs(1.0));
    fleet.settle();
    fleet.finish(done);
    let late = fleet.apply(Command::Cancel { job: done, now_ms: 6 });
    assert_eq!(late.reply, Err(Refusal::Ended { job: done, phase: "succeeded" }));
}

#[test]
fn a_result_whose_acknowledgement_was_lost_is_acknowledged_again() {
    let mut fleet = Fleet::with(&[("one", 10.0)]);
    let job = fleet.submit(needs(1.0));
    fleet.settle();
    fleet.finish(job);
    let before = fleet.state.hash();
    assert_eq!(fleet.report(job, 1, "one", finished()).reply, Ok(Reply::Done));
    assert_eq!(fleet.state.hash(), before);
}

#[test]
fn commands_survive_the_log_and_unknown_ones_do_not() {
    let command =
        Command::Submit { request: RequestId("r".into()), specs: vec![needs(1.0)], now_ms: 1 };
    let bytes = serde_json::to_vec(&command).unwrap();
    assert_eq!(serde_json::from_slice::<Command>(&bytes).unwrap(), command);
    assert!(serde_json::from_str::<Command>(r#"{"command":"reboot"}"#).is_err());
}
