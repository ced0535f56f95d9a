//! What trainers said: log lines and step metrics, per job, in files.
//!
//! Not replicated: losing a line loses no work. Followers read the files themselves, from where they stopped, whenever
//! they are told that something came; a slow one holds nobody up.
//!
//! Lines are kept as they came, terminal escapes included; whoever shows them escapes them.

mod page;
mod tail;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fleetune_shared::{Attempt, JobId, StepMetrics};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use page::Page;
pub(crate) use tail::Tail;

/// A line of a trainer's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    pub(crate) attempt: Attempt,
    pub(crate) at_ms: u64,
    pub(crate) text: String,
}

/// A job's two files, side by side with all others': a folder for each job would take a file system that spreads folders
/// longer to find room for than all else.
const LOG: &str = "log";
const METRICS: &str = "metrics";

/// How much is kept of one job.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) log_bytes: u64,
    pub(crate) line_bytes: usize,
    pub(crate) metrics_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { log_bytes: 16 << 20, line_bytes: 16 << 10, metrics_bytes: 64 << 20 }
    }
}

/// So many jobs' files are kept open between lines. Jobs are many and a process's files are few: beyond that, those
/// opened first are closed, and opened again if more is said.
const PAGES_OPEN_MAX: usize = 64;

/// All jobs' pages.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    limits: Limits,
    pages: Mutex<HashMap<JobId, Arc<Mutex<Page>>>>,
    /// Those whose files are open, the first opened first.
    open: Mutex<VecDeque<JobId>>,
}

impl Journal {
    pub(crate) fn new(folder: &Path, limits: Limits) -> Self {
        Self { folder: folder.to_owned(), limits, pages: Mutex::default(), open: Mutex::default() }
    }

    /// Writes a log line down. Trouble with the disk is logged, never passed on: training is worth more than its log.
    pub(crate) fn log(&self, job: JobId, line: &LogLine) {
        self.write(job, |page| page.log(line));
    }

    /// Writes a step's metrics down.
    pub(crate) fn metrics(&self, job: JobId, metrics: &StepMetrics) {
        self.write(job, |page| page.metrics(metrics));
    }

    /// The step heard of last.
    pub(crate) fn latest(&self, job: JobId) -> Option<StepMetrics> {
        lock(&self.page(job)).latest().cloned()
    }

    /// Every step once and in order: one that was trained again after a resume counts as it was trained last.
    pub(crate) fn steps(&self, job: JobId) -> Vec<StepMetrics> {
        let mut tail = self.metrics_tail(job);
        let mut steps = BTreeMap::new();
        loop {
            let batch = tail.next();
            if batch.is_empty() {
                return steps.into_values().collect();
            }
            steps.extend(batch.into_iter().map(|m: StepMetrics| (m.step, m)));
        }
    }

    /// A job's log from its beginning.
    pub(crate) fn log_tail(&self, job: JobId) -> Tail<LogLine> {
        Tail::new(self.path(job, LOG))
    }

    /// A job's metrics from their beginning.
    pub(crate) fn metrics_tail(&self, job: JobId) -> Tail<StepMetrics> {
        Tail::new(self.path(job, METRICS))
    }

    /// Changes when something was written for the job.
    pub(crate) fn changes(&self, job: JobId) -> watch::Receiver<u64> {
        lock(&self.page(job)).changes()
    }

    fn write(&self, job: JobId, write: impl FnOnce(&mut Page) -> io::Result<()>) {
        let page = self.page(job);
        let (written, opened) = {
            let mut page = lock(&page);
            let before = page.is_open();
            (write(&mut page), !before && page.is_open())
        };
        if let Err(error) = written {
            tracing::warn!(%job, %error, "a line of the job's journal is lost");
        }
        if opened {
            let mut open = lock(&self.open);
            open.push_back(job);
            let closed = if open.len() > PAGES_OPEN_MAX { open.pop_front() } else { None };
            drop(open);
            if let Some(closed) = closed {
                lock(&self.page(closed)).close();
            }
        }
    }

    fn path(&self, job: JobId, what: &str) -> PathBuf {
        self.folder.join(format!("{job}.{what}.jsonl"))
    }

    fn page(&self, job: JobId) -> Arc<Mutex<Page>> {
        let page = || {
            let (log, metrics) = (self.path(job, LOG), self.path(job, METRICS));
            Arc::new(Mutex::new(Page::new(log, metrics, self.limits)))
        };
        Arc::clone(lock(&self.pages).entry(job).or_insert_with(page))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
