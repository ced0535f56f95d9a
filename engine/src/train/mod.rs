//! The run: rows in, steps, checkpoints, a result out.
//!
//! ```text
//!   TrainOrder ─▶ setup ─▶ run ──────────────────────────────────────────────▶ result
//!                 recipe    fetch a step's micro-batches, count their labels     adapter or model
//!                 data      learner: forward + backward each, one divisor        report.json
//!                 model     clip, step, evaluate ─▶ metrics.jsonl, observer, checkpoint
//! ```

mod best;
mod evaluate;
mod largest;
mod learner;
mod metrics;
mod not_yet;
mod observer;
mod result;
mod resume;
mod run;
mod setup;

use fleetune_shared::Device;

pub use observer::Observer;
pub(crate) use result::publish;
pub use run::train;

/// Whether [`train`] can compute on a device: on cards where the binary was built for them (`docs/cuda.md`).
#[must_use]
pub const fn trains_on(device: Device) -> bool {
    match device {
        Device::Cpu => true,
        Device::Cuda => cfg!(feature = "cuda"),
    }
}
