//! Steps made ready on a thread of their own, while the step before them is computed.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Cursor, Loader, MicroBatch};
use crate::{EngineError, Result};

/// Steps that wait to be computed, besides the one that is.
const AHEAD: usize = 2;

/// One optimizer step's data.
#[derive(Debug)]
pub struct Step {
    /// Its micro-batches: at least one, none of them empty.
    pub batches: Vec<MicroBatch>,
    /// Where the next step begins.
    pub cursor: Cursor,
    /// Epochs behind after it, with a fraction.
    pub epochs_done: f64,
}

/// A loader that works ahead.
#[derive(Debug)]
pub struct Feed {
    /// `None` once nobody asks any more.
    steps: Option<Receiver<Result<Step>>>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
}

impl Feed {
    /// Begins where `loader` stands.
    #[must_use]
    pub fn begin(mut loader: Loader) -> Self {
        let (send, steps) = sync_channel(AHEAD);
        let thread = thread::spawn(move || {
            loop {
                let step = loader.next_step().map(|batches| Step {
                    batches,
                    cursor: loader.cursor(),
                    epochs_done: loader.epochs_done(),
                });
                let failed = step.is_err();
                if send.send(step).is_err() || failed {
                    break;
                }
            }
        });
        Self { steps: Some(steps), thread: Some(thread), waited: Duration::ZERO }
    }

    /// The next step.
    ///
    /// # Errors
    /// Rows that cannot be read back.
    pub fn next_step(&mut self) -> Result<Step> {
        let begun = Instant::now();
        let step = self.steps.as_ref().and_then(|steps| steps.recv().ok());
        self.waited += begun.elapsed();
        step.unwrap_or_else(|| Err(EngineError::input("rows could not be read before")))
    }

    /// How long steps have waited for their data, all together.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.steps = None;
        // A panic over there was a row nobody has asked for.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use fleetune_shared::recipe::{Batching, Sampling};

    use super::*;
    use crate::data::{Dataset, Row};

    #[test]
    fn steps_come_as_the_loader_makes_them() {
        let row = |i| Row { input_ids: vec![i; 4], labels: vec![i64::from(i); 4] };
        let data = Dataset::of(&(0..7).map(row).collect::<Vec<_>>());
        let batching = Batching { micro_batch: 2, accumulation: 2 };
        let mut loader = Loader::new(&data, batching, Sampling::Random, 5);
        let mut feed = Feed::begin(loader.clone());
        for _ in 0..9 {
            let step = feed.next_step().unwrap();
            assert_eq!(step.batches, loader.next_step().unwrap());
            assert_eq!((step.cursor, step.epochs_done), (loader.cursor(), loader.epochs_done()));
        }
        assert!(feed.waited() > Duration::ZERO);
    }
}
