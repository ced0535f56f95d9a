//! What trainers said is there again, once, in order, and never without bound.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use fleetune_shared::{Attempt, JobId, StepMetrics};
use tempfile::TempDir;

use super::{Journal, Limits, LogLine, PAGES_OPEN_MAX};

const JOB: JobId = JobId(3);

fn line(text: &str) -> LogLine {
    LogLine { attempt: Attempt(1), at_ms: 5, text: text.into() }
}

fn step(step: u64, loss: f64) -> StepMetrics {
    StepMetrics {
        step,
        loss,
        grad_norm: 1.0,
        learning_rate: 1e-4,
        supervised_tokens: 10,
        tokens_per_second: 100.0,
        epoch: 0.1,
        more: Default::default(),
    }
}

#[test]
fn a_step_trained_again_replaces_what_was_said_before() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::new(folder.path(), Limits::default());
    for (number, loss) in [(1, 3.0), (2, 2.0), (3, 1.0), (2, 2.5)] {
        journal.metrics(JOB, &step(number, loss));
    }
    let expected = [step(1, 3.0), step(2, 2.5), step(3, 1.0)];
    assert_eq!(journal.steps(JOB), expected);

    // After a restart too.
    let journal = Journal::new(folder.path(), Limits::default());
    assert_eq!(journal.steps(JOB), expected);
    assert_eq!(journal.latest(JOB), Some(step(2, 2.5)));
    assert_eq!(journal.latest(JobId(4)), None);
}

#[test]
fn a_follower_reads_on_where_it_stopped() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::new(folder.path(), Limits::default());
    let mut tail = journal.log_tail(JOB);
    assert!(tail.next().is_empty());
    journal.log(JOB, &line("one"));
    journal.log(JOB, &line("\u{1b}[31mtwo\nlines"));
    assert_eq!(tail.next(), [line("one"), line("\u{1b}[31mtwo\nlines")]);
    assert!(tail.next().is_empty());
    journal.log(JOB, &line("three"));
    assert_eq!(tail.next(), [line("three")]);
}

#[test]
fn a_line_torn_by_a_crash_spoils_no_other() {
    let folder = TempDir::new().unwrap();
    Journal::new(folder.path(), Limits::default()).log(JOB, &line("whole"));
    let path = folder.path().join("3.log.jsonl");
    OpenOptions::new().append(true).open(path).unwrap().write_all(b"{\"attempt\":1,\"a").unwrap();
    let journal = Journal::new(folder.path(), Limits::default());
    journal.log(JOB, &line("after"));
    assert_eq!(journal.log_tail(JOB).next(), [line("whole"), line("after")]);
}

#[test]
fn a_flood_ends_in_one_line_that_says_so() {
    let folder = TempDir::new().unwrap();
    let limits = Limits { log_bytes: 2_000, line_bytes: 100, metrics_bytes: 500 };
    let journal = Journal::new(folder.path(), limits);
    for _ in 0..100 {
        journal.log(JOB, &line(&"é".repeat(80)));
        journal.metrics(JOB, &step(1, 1.0));
    }
    let lines = journal.log_tail(JOB).next();
    assert!(lines.len() < 20);
    assert_eq!(lines[0].text, format!("{} … (cut)", "é".repeat(50)));
    assert!(lines.last().unwrap().text.starts_with("the log is full"));
    let bytes = std::fs::metadata(folder.path().join("3.metrics.jsonl")).unwrap().len();
    assert!(bytes < 800, "{bytes}");
}

#[test]
fn jobs_are_many_and_open_files_are_few() {
    let folder = TempDir::new().unwrap();
    let journal = Journal::new(folder.path(), Limits::default());
    let jobs = || (1..=3 * PAGES_OPEN_MAX as u64).map(JobId);
    for job in jobs().chain(jobs()) {
        journal.log(job, &line("said"));
        journal.metrics(job, &step(1, 1.0));
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let of_jobs = |file: &PathBuf| file.starts_with(folder.path());
    let open = open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).filter(of_jobs).count();
    assert_eq!(open, 2 * PAGES_OPEN_MAX);
    // What was closed in between is all there.
    for job in jobs() {
        assert_eq!(journal.log_tail(job).next(), [line("said"), line("said")]);
    }
}
