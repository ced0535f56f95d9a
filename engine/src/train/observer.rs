//! Who watches a run.

use fleetune_shared::TrainerEvent;

/// Told what happens, asked whether to go on.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: TrainerEvent);

    /// Asked after every micro-batch; `true` ends the run after a checkpoint.
    fn stop_requested(&self) -> bool {
        false
    }
}
