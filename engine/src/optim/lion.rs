//! Lion, arXiv 2302.06675, algorithm 2: the sign of an interpolated momentum, as in `bitsandbytes.optim.Lion`.

use fleetune_shared::recipe;

use super::elementwise::Rule;
use super::step::Step;

/// The step's numbers.
#[derive(Clone, Copy)]
pub(super) struct Lion {
    grad_factor: f32,
    /// `1 − lr · weight_decay`; 1 where nothing decays.
    decay: f32,
    beta1: f32,
    beta2: f32,
    /// `1 − beta1`, `1 − beta2`.
    rest: [f32; 2],
    learning_rate: f32,
}

impl Lion {
    pub(super) fn new(settings: recipe::AdamW, step: &Step) -> Self {
        let recipe::AdamW { beta1, beta2, .. } = settings;
        Self {
            grad_factor: step.grad_factor as f32,
            decay: (1.0 - step.learning_rate * step.weight_decay) as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            rest: [(1.0 - beta1) as f32, (1.0 - beta2) as f32],
            learning_rate: step.learning_rate as f32,
        }
    }
}

impl Rule<1> for Lion {
    #[inline(always)]
    fn apply(self, value: f32, grad: f32, [m]: [f32; 1]) -> (f32, [f32; 1]) {
        let grad = grad * self.grad_factor;
        let direction = m * self.beta1 + self.rest[0] * grad;
        // Rust's signum of zero is one.
        let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
        let value = value * self.decay - self.learning_rate * sign;
        (value, [m * self.beta2 + self.rest[1] * grad])
    }
}
