//! An estimate with the interval it trusts.

use serde::{Deserialize, Serialize};

use super::{Estimate, Meter};
use crate::{ByteSize, Device};

/// An estimate, and between which sizes its author would expect the measured peak. In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounded {
    /// The likeliest.
    pub estimate: Estimate,
    /// Seldom less.
    pub low: ByteSize,
    /// Seldom more.
    pub high: ByteSize,
}

/// How far each kind of piece may be off, as parts of it: below, above.
struct Doubt {
    /// Tensors that stay: weights, adapter, gradients, optimizer.
    standing: (f64, f64),
    /// Those that come and go: activations, logits, workspace.
    passing: (f64, f64),
    /// The process.
    runtime: (f64, f64),
    /// What the allocator holds beside all, as parts of the whole.
    allocator: f64,
}

/// `engine/tests/estimate.rs` holds every peak to this: nothing above, 5 % below.
const MEASURED: Doubt =
    Doubt { standing: (0.05, 0.0), passing: (0.05, 0.0), runtime: (0.05, 0.0), allocator: 0.0 };

/// What an allocator holds that nobody asked for, as parts of the whole: blocks kept for later, and their odd ends. Of
/// PyTorch's, by `max_memory_reserved` beside `max_memory_allocated`; the driver's pool is thought no better.
const ALLOCATOR: f64 = 0.08;

/// The same tensors, on a device where no peak has been read yet: the driver's context and its allocator are not ours.
const UNMEASURED: Doubt = Doubt {
    standing: (0.05, 0.0),
    passing: (0.15, 0.15),
    runtime: (0.5, 0.5),
    allocator: ALLOCATOR,
};

/// What `shared/tests/published.rs` finds: pieces that stay are exact, what passes depends on versions.
const TORCH: Doubt =
    Doubt { standing: (0.02, 0.02), passing: (0.25, 0.25), runtime: (0.4, 0.4), allocator: 0.0 };

impl Bounded {
    /// Of our own engine.
    pub(super) fn of_ours(estimate: Estimate, device: Device) -> Self {
        match device {
            Device::Cpu => Self::new(estimate, &MEASURED),
            Device::Cuda => Self::new(estimate, &UNMEASURED),
        }
    }

    /// Of a PyTorch runtime; what is read from outside varies with the allocator's luck as well.
    pub(super) fn of_torch(estimate: Estimate, meter: Meter) -> Self {
        let allocator = match meter {
            Meter::Allocated => 0.0,
            Meter::Reserved | Meter::Process => ALLOCATOR,
        };
        Self::new(estimate, &Doubt { allocator, ..TORCH })
    }

    fn new(estimate: Estimate, doubt: &Doubt) -> Self {
        let Estimate { weights, adapter, gradients, optimizer, .. } = estimate;
        let Estimate { activations, logits, workspace, .. } = estimate;
        let sum = |parts: &[ByteSize]| parts.iter().map(|part| part.0 as f64).sum::<f64>();
        let standing = sum(&[weights, adapter, gradients, optimizer]);
        let passing = sum(&[activations, logits, workspace]);
        let runtime = estimate.runtime.0 as f64;
        let total = estimate.total().0 as f64;
        let below =
            doubt.standing.0 * standing + doubt.passing.0 * passing + doubt.runtime.0 * runtime;
        let above =
            doubt.standing.1 * standing + doubt.passing.1 * passing + doubt.runtime.1 * runtime;
        Self {
            estimate,
            // Conversions from f64 saturate.
            low: ByteSize((total - below) as u64),
            high: ByteSize((total + above + doubt.allocator * total) as u64),
        }
    }

    /// All pieces together.
    #[must_use]
    pub fn total(&self) -> ByteSize {
        self.estimate.total()
    }
}
