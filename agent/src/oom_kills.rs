//! How many processes the kernel has ended for lack of memory since it started, where it says so.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Its count at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OomKills(Option<u64>);

impl OomKills {
    pub(crate) fn now() -> Self {
        let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
        Self(fs::read_to_string("/proc/vmstat").ok().and_then(|text| text.lines().find_map(count)))
    }

    /// As [`now`](Self::now), from a look that is at most a few seconds old: the kernel counts all its events for one.
    pub(crate) fn lately() -> Self {
        const OLD: Duration = Duration::from_secs(5);
        static LAST: Mutex<Option<(Instant, OomKills)>> = Mutex::new(None);
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, kills) = match *last {
            Some(look) if look.0.elapsed() < OLD => look,
            _ => *last.insert((Instant::now(), Self::now())),
        };
        kills
    }

    /// Whether it has ended any since.
    pub(crate) fn more_by_now(self) -> bool {
        self.0.zip(Self::now().0).is_some_and(|(before, now)| now > before)
    }
}
