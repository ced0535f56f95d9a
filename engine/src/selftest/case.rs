//! One operation on given inputs.

use candle_core::Tensor;

use super::report::Unit;
use crate::Result;
use crate::ops::Backend;

/// What one run costs at least.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    /// Multiplications and additions.
    Flops(usize),
    /// f32 read and written.
    Floats(usize),
}

impl Work {
    pub(super) fn amount(self) -> f64 {
        match self {
            Self::Flops(count) => count as f64,
            Self::Floats(count) => 4.0 * count as f64,
        }
    }

    pub(super) fn unit(self) -> Unit {
        match self {
            Self::Flops(_) => Unit::Flops,
            Self::Floats(_) => Unit::Bytes,
        }
    }
}

/// Runs an operation on inputs and gives what is compared: results, and inputs that were written into.
pub(super) type Run = dyn Fn(&dyn Backend, &[Tensor]) -> Result<Vec<Tensor>>;

/// An operation, its inputs on the CPU, and how near its twin it must come.
pub(super) struct Case {
    pub(super) op: &'static str,
    pub(super) tolerance: f64,
    pub(super) work: Work,
    pub(super) inputs: Vec<Tensor>,
    /// Those of the inputs that are activations, which a backend may want in bf16.
    pub(super) activations: &'static [usize],
    pub(super) run: Box<Run>,
}

impl Case {
    pub(super) fn new(
        op: &'static str,
        tolerance: f64,
        work: Work,
        inputs: Vec<Tensor>,
        run: impl Fn(&dyn Backend, &[Tensor]) -> Result<Vec<Tensor>> + 'static,
    ) -> Self {
        Self { op, tolerance, work, inputs, activations: &[], run: Box::new(run) }
    }

    /// Says which inputs are activations.
    pub(super) fn of_activations(self, activations: &'static [usize]) -> Self {
        Self { activations, ..self }
    }
}
