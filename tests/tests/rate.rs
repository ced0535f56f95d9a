//! A small fleet of processes does many short jobs: each ends once, with a result of its own, and nothing is held for jobs
//! that have ended. `just bench-fleet` measures a large one.

use std::time::Duration;

use fleetune_tests::rate::{Setup, measure};

#[tokio::test(flavor = "multi_thread")]
async fn a_small_fleet_does_many_short_jobs() {
    let setup = Setup {
        program: env!("CARGO_BIN_EXE_fleetune-under-test").into(),
        trainer: env!("CARGO_BIN_EXE_stub-trainer").into(),
        agents: 10,
        jobs: 200,
        submitters: 8,
        sweep: 25,
        agents_in: None,
        idle: Duration::from_secs(1),
    };
    let rate = measure(&setup).await;
    eprintln!("{rate}");
    assert_eq!(rate.retried, 0, "no attempt was lost");
    // Far below what an idle machine does: only a fleet that waits for something it should not is slower.
    assert!(rate.one_by_one.per_second() > 10.0, "{rate}");
    assert!(rate.in_sweeps.per_second() > 25.0, "{rate}");
    assert!(rate.completed_per_second() > 5.0, "{rate}");
    // Connections, the database, a few journals, and not two files for each job.
    assert!(rate.coordinator_files_open() < 250, "{rate}");
}
