//! What happens to a job that runs out of memory.

mod story;

use fleetune_scheduler::ladder::Rung;
use fleetune_scheduler::state::{Effect, Report, State};
use fleetune_scheduler::view;
use fleetune_shared::recipe::CheckpointingLevel;
use fleetune_shared::view::RungKind;
use fleetune_shared::{
    AttemptEnd, ByteSize, Device, Estimate, FailureKind, JobId, JobSpec, MergeSpec, Peak,
    PeakSource, Work,
};
use proptest::prelude::*;
use story::{Fleet, GIB, is_queued, model, needs, phase, recipe};

/// A job that needs what its recipe is estimated at.
fn trains(keys: &str) -> JobSpec {
    let work = Work::Train { recipe: Box::new(recipe(&format!("max_length: 256\n{keys}"))) };
    let estimates = JobSpec::estimates_of(&work, &model());
    JobSpec { work, estimates, ..needs(0.0) }
}

fn promised(fleet: &Fleet, job: JobId) -> ByteSize {
    fleet.job(job).lease().expect("placed").vram_bytes
}

/// The live attempt runs out of memory, so much above its promise.
fn runs_out(fleet: &mut Fleet, job: JobId, above: u64) -> Vec<Effect> {
    let (agent, attempt) = (fleet.place(job).expect("placed").to_owned(), fleet.job(job).attempt.0);
    let bytes = ByteSize(promised(fleet, job).0 + above);
    let vram_bytes_peak = Some(Peak { bytes, source: PeakSource::Trainer });
    let report = Report::OutOfMemory { message: "out of memory".into(), vram_bytes_peak };
    let applied = fleet.report(job, attempt, &agent, report);
    assert!(applied.reply.is_ok());
    fleet.settle();
    applied.effects
}

/// How the job is tried: micro-batch, accumulation, level.
fn tried(fleet: &Fleet, job: JobId) -> (usize, usize, CheckpointingLevel) {
    let Work::Train { recipe } = fleet.job(job).ordered().work else { panic!("a merge") };
    (recipe.batching.micro_batch, recipe.batching.accumulation, recipe.gradient_checkpointing)
}

fn kind(fleet: &Fleet, job: JobId) -> Option<RungKind> {
    fleet.job(job).rung.view().map(|rung| rung.kind)
}

#[test]
fn half_the_micro_batch_comes_first_from_the_last_checkpoint() {
    let mut fleet = Fleet::with(&[("one", 40.0)]);
    let asked = trains("per_device_train_batch_size: 4\ngradient_checkpointing: none");
    let job = fleet.submit(asked.clone());
    fleet.settle();
    fleet.start(job);
    fleet.checkpoint(job, 7);
    let before = promised(&fleet, job);
    let effects = runs_out(&mut fleet, job, 1);
    assert!(!effects.iter().any(|e| matches!(e, Effect::BlobsReleased(_))), "{effects:?}");
    assert_eq!(tried(&fleet, job), (2, 2, CheckpointingLevel::None));
    assert_eq!(kind(&fleet, job), Some(RungKind::SmallerMicroBatch));
    assert_eq!(promised(&fleet, job), before, "smaller in what it was promised before");
    assert_eq!(fleet.job(job).checkpoint.as_ref().map(|c| c.step), Some(7));
    assert_eq!(fleet.job(job).spec, asked, "what was asked for stays");
    let records = &fleet.job(job).attempts;
    assert_eq!(records.iter().map(|r| r.end).collect::<Vec<_>>(), [AttemptEnd::OutOfMemory]);
    fleet.start(job);
    fleet.finish(job);
    assert_eq!(phase(fleet.job(job)), "succeeded");
}

#[test]
fn every_rung_in_turn_and_then_a_refusal_with_the_numbers() {
    let keys = "per_device_train_batch_size: 4\ngradient_checkpointing: none";
    let gib = trains(keys).vram_bytes_needed(Device::Cpu).unwrap().0 as f64 / GIB as f64;
    let mut fleet = Fleet::with(&[("small", 1.1 * gib), ("large", 1.2 * gib)]);
    let job = fleet.submit(trains(keys));
    fleet.settle();
    assert_eq!(fleet.place(job), Some("small"));
    let mut seen = Vec::new();
    while !fleet.job(job).is_final() {
        runs_out(&mut fleet, job, 1);
        seen.extend(
            fleet.job(job).lease().map(|_| (kind(&fleet, job).unwrap(), tried(&fleet, job))),
        );
    }
    use CheckpointingLevel::{Block, None as Nothing, Selective};
    use RungKind::{BiggerCard, MoreCheckpointing, SmallerMicroBatch};
    assert_eq!(
        seen,
        [
            (SmallerMicroBatch, (2, 2, Nothing)),
            (SmallerMicroBatch, (1, 4, Nothing)),
            (MoreCheckpointing, (1, 4, Selective)),
            (MoreCheckpointing, (1, 4, Block)),
            (BiggerCard, (1, 4, Block)),
        ]
    );
    assert_eq!(fleet.job(job).attempts.last().unwrap().agent.as_str(), "large");
    assert_eq!(phase(fleet.job(job)), "failed");
    let failure = fleet.job(job).failure.clone().unwrap();
    assert_eq!(failure.kind, Some(FailureKind::OutOfMemory));
    for word in
        ["nothing is left to try", "per_device_train_batch_size: 1", "`large`", "too little"]
    {
        assert!(failure.message.contains(word), "{word}: {}", failure.message);
    }
}

#[test]
fn what_cannot_save_enough_is_passed_over() {
    let keys = "per_device_train_batch_size: 4\ngradient_checkpointing: none";
    let of = |keys: &str| trains(keys).vram_bytes_needed(Device::Cpu).unwrap().0;
    let half = of(
        "per_device_train_batch_size: 2\ngradient_accumulation_steps: 2\ngradient_checkpointing: none",
    );
    let mut fleet = Fleet::with(&[("one", 60.0)]);
    let job = fleet.submit(trains(keys));
    fleet.settle();
    runs_out(&mut fleet, job, of(keys) - half + 1);
    assert_eq!(tried(&fleet, job), (1, 4, CheckpointingLevel::None));
}

#[test]
fn a_job_that_keeps_what_it_has_room_for_keeps_little_from_then_on() {
    let mut fleet = Fleet::with(&[("one", 60.0)]);
    let job = fleet.submit(trains("per_device_train_batch_size: 2"));
    fleet.settle();
    let before = promised(&fleet, job);
    runs_out(&mut fleet, job, 1);
    assert_eq!(tried(&fleet, job), (1, 2, CheckpointingLevel::Block));
    assert_eq!(promised(&fleet, job), before);
    let mut fleet = Fleet::with(&[("one", 60.0)]);
    let job = fleet.submit(trains("per_device_train_batch_size: 1"));
    fleet.settle();
    runs_out(&mut fleet, job, 1);
    assert_eq!(kind(&fleet, job), Some(RungKind::MoreCheckpointing));
    assert_eq!(tried(&fleet, job), (1, 1, CheckpointingLevel::Block));
}

#[test]
fn a_micro_batch_that_cannot_be_divided_is_left_whole() {
    for keys in [
        "task: kto\nper_device_train_batch_size: 4\ngradient_checkpointing: none",
        "use_peft: false\noptimizer_in_backward: true\nmax_grad_norm: 0\nper_device_train_batch_size: 4\n\
         gradient_checkpointing: none",
    ] {
        let mut fleet = Fleet::with(&[("one", 200.0)]);
        let job = fleet.submit(trains(keys));
        fleet.settle();
        runs_out(&mut fleet, job, 1);
        assert_eq!(tried(&fleet, job), (4, 1, CheckpointingLevel::Selective), "{keys}");
    }
}

#[test]
fn a_merge_only_gets_more_memory() {
    let work = Work::Merge(MergeSpec { adapter_of: None });
    let estimates = JobSpec::estimates_of(&work, &model());
    let mut fleet = Fleet::with(&[("one", 60.0)]);
    let job = fleet.submit(JobSpec { work, estimates, ..needs(0.0) });
    fleet.settle();
    let before = promised(&fleet, job).0;
    runs_out(&mut fleet, job, 0);
    assert_eq!(kind(&fleet, job), Some(RungKind::BiggerCard));
    assert_eq!(promised(&fleet, job).0, before + before / 8);
}

#[test]
fn in_logs_from_before_the_ladder_the_job_ends() {
    let mut fleet = Fleet::with(&[("one", 60.0)]);
    let job = fleet.submit(trains("per_device_train_batch_size: 4"));
    fleet.settle();
    let log = r#"{"report":"failed","kind":"out_of_memory","message":"m"}"#;
    fleet.report(job, 1, "one", serde_json::from_str(log).unwrap());
    assert_eq!(phase(fleet.job(job)), "failed");
    assert_eq!(fleet.job(job).attempts[0].end, AttemptEnd::OutOfMemory);
}

#[test]
fn where_a_job_stands_is_shown() {
    let mut fleet = Fleet::with(&[("one", 60.0)]);
    let job = fleet.submit(trains("per_device_train_batch_size: 4\ngradient_checkpointing: none"));
    fleet.settle();
    assert_eq!(fleet.explain(job).rung, None);
    runs_out(&mut fleet, job, 1);
    let shown = view::job(&fleet.state, &fleet.liveness, fleet.job(job));
    assert_eq!(shown.rung, fleet.explain(job).rung);
    assert_eq!(shown.rung.unwrap().change.unwrap().micro_batch, 2);
    assert_eq!(Some(&shown.estimate), fleet.job(job).estimate(Device::Cpu));
    // And it is remembered.
    let bytes = serde_json::to_vec(&fleet.state).unwrap();
    let read: State = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(read, fleet.state);
    assert!(matches!(read.job(job).unwrap().rung, Rung::SmallerMicroBatch(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_ladder_ends_and_never_promises_less(
        micro_batch in 1..9u64,
        accumulation in 1..4u64,
        level in 0..4usize,
        above in prop::collection::vec(0..4 * GIB, 40),
        cut in 0..8usize,
    ) {
        let level = ["none", "selective", "block", "auto"][level];
        let keys = format!(
            "per_device_train_batch_size: {micro_batch}\ngradient_accumulation_steps: {accumulation}\n\
             gradient_checkpointing: {level}"
        );
        let mut fleet = Fleet::with(&[("one", 60.0), ("two", 90.0)]);
        let job = fleet.submit(trains(&keys));
        fleet.settle();
        let mut before = ByteSize(0);
        for (number, above) in above.into_iter().enumerate() {
            if number == cut {
                let bytes = serde_json::to_vec(&fleet.state).unwrap();
                let read: State = serde_json::from_slice(&bytes).unwrap();
                prop_assert_eq!(&read, &fleet.state);
                fleet.state = read;
            }
            if fleet.job(job).is_final() {
                break;
            }
            prop_assert!(!is_queued(fleet.job(job)), "a rung that fits no card: {}", fleet.explain(job).summary);
            let now = promised(&fleet, job);
            prop_assert!(now >= before || before == ByteSize(0), "{now} after {before}");
            before = now;
            let (rows, steps, _) = tried(&fleet, job);
            prop_assert_eq!((rows * steps) as u64, micro_batch * accumulation);
            let ordered = fleet.job(job).ordered();
            let Work::Train { recipe } = &ordered.work else { panic!() };
            if fleet.job(job).rung != Rung::AsAsked {
                let estimate = Estimate::of_training(&ordered.model, recipe, Device::Cpu);
                prop_assert_eq!(ordered.estimates[&Device::Cpu], estimate);
            }
            runs_out(&mut fleet, job, above);
        }
        prop_assert_eq!(phase(fleet.job(job)), "failed");
    }
}
