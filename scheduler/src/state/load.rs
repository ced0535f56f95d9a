//! What is promised on one agent's card, kept with the agent so that no question scans all jobs. Derived from the
//! jobs: never stored, never hashed.

use fleetune_shared::{JobId, JobSpec, Requirements};

use super::{Job, Lease};

/// The promises on a card.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Their memory together.
    pub vram_bytes: u64,
    /// The earliest expected end of a job.
    pub first_end_ms: Option<u64>,
    /// One for each job, oldest job first.
    pub promises: Vec<Promise>,
}

/// One promise, with what placement asks about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    /// To which job.
    pub job: JobId,
    /// How much memory.
    pub vram_bytes: u64,
    /// The job's priority.
    pub priority: i32,
    /// When the job was submitted.
    pub submitted_ms: u64,
    /// When the promise was made.
    pub since_ms: u64,
    /// When the job is expected to end, where that can be told.
    pub ends_ms: Option<u64>,
    /// Whether its trainer runs.
    pub running: bool,
    /// The more urgent job it has been asked to make room for.
    pub yielding_to: Option<JobId>,
    /// The job's word against company.
    pub anti_affinity: Option<String>,
}

impl Load {
    pub(super) fn add(&mut self, job: &Job, lease: &Lease) {
        self.promise(Promise::of(job, lease));
    }

    pub(super) fn remove(&mut self, job: &Job) {
        self.free(|promise| promise.job == job.id);
    }

    /// One promise more.
    pub(crate) fn promise(&mut self, promise: Promise) {
        self.vram_bytes += promise.vram_bytes;
        let at = self.promises.partition_point(|other| other.job < promise.job);
        self.promises.insert(at, promise);
        self.first_end_ms = self.find_first_end();
    }

    /// Takes out the promises that `are_over`.
    pub(crate) fn free(&mut self, are_over: impl Fn(&Promise) -> bool) -> Vec<Promise> {
        let freed: Vec<_> = self.promises.extract_if(.., |promise| are_over(promise)).collect();
        self.vram_bytes -= freed.iter().map(|promise| promise.vram_bytes).sum::<u64>();
        self.first_end_ms = self.find_first_end();
        freed
    }

    fn find_first_end(&self) -> Option<u64> {
        self.promises.iter().filter_map(|promise| promise.ends_ms).min()
    }

    /// How many jobs hold memory.
    #[must_use]
    pub fn jobs(&self) -> u32 {
        self.promises.len() as u32
    }

    /// Whether a job of this sort keeps another with its word away.
    #[must_use]
    pub fn has_word(&self, word: &str) -> bool {
        self.promises.iter().any(|promise| promise.anti_affinity.as_deref() == Some(word))
    }
}

impl Promise {
    fn of(job: &Job, lease: &Lease) -> Self {
        Self {
            job: job.id,
            vram_bytes: lease.vram_bytes.0,
            priority: job.spec.priority,
            submitted_ms: job.submitted_ms,
            since_ms: lease.since_ms,
            ends_ms: job.ends_ms(),
            running: job.is_running(),
            yielding_to: lease.yielding_to,
            anti_affinity: anti_affinity(&job.spec).map(str::to_owned),
        }
    }
}

/// The word by which a job keeps others away.
pub(crate) fn anti_affinity(spec: &JobSpec) -> Option<&str> {
    spec.requirements().and_then(|Requirements { anti_affinity, .. }| anti_affinity.as_deref())
}
