//! What names an attempt everywhere in this room.

use std::fmt;
use std::str::FromStr;

use fleetune_shared::{Attempt, JobId};

/// One try of a job: the job's number and the try's, which is also the fencing epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AttemptId {
    pub(crate) job: JobId,
    pub(crate) attempt: Attempt,
}

impl AttemptId {
    pub(crate) fn of_wire(job: u64, attempt: u32) -> Self {
        Self { job: JobId(job), attempt: Attempt(attempt) }
    }
}

/// As its folder is named: `7-2` is the second try of job 7.
impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.job, self.attempt)
    }
}

impl FromStr for AttemptId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (job, attempt) = text.split_once('-').ok_or(())?;
        let id = Self::of_wire(job.parse().map_err(drop)?, attempt.parse().map_err(drop)?);
        // `+7-02` would name a folder that this id does not.
        if id.to_string() == text { Ok(id) } else { Err(()) }
    }
}
