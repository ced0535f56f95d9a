//! AdamW, arXiv 1711.05101, step for step as `torch.optim.AdamW` (`_single_tensor_adam`).

use fleetune_shared::recipe;

use super::elementwise::Rule;
use super::step::Step;

/// The step's numbers, in f32 where torch multiplies in f32.
#[derive(Clone, Copy)]
pub(super) struct AdamW {
    /// What gradients are multiplied by first (clipping).
    pub(super) grad_factor: f32,
    /// `1 − lr · weight_decay`; 1 where nothing decays.
    pub(super) decay: f32,
    /// `1 − beta1`.
    pub(super) lerp: f32,
    pub(super) beta2: f32,
    /// `1 − beta2`.
    pub(super) square: f32,
    /// `√(1 − beta2ᵗ)`.
    pub(super) correction: f32,
    pub(super) epsilon: f32,
    /// `lr / (1 − beta1ᵗ)`.
    pub(super) size: f32,
}

impl AdamW {
    pub(super) fn new(settings: recipe::AdamW, step: &Step) -> Self {
        let recipe::AdamW { beta1, beta2, epsilon, .. } = settings;
        let t = step.number as f64;
        Self {
            grad_factor: step.grad_factor as f32,
            decay: (1.0 - step.learning_rate * step.weight_decay) as f32,
            lerp: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            square: (1.0 - beta2) as f32,
            correction: (1.0 - beta2.powf(t)).sqrt() as f32,
            epsilon: epsilon as f32,
            size: (step.learning_rate / (1.0 - beta1.powf(t))) as f32,
        }
    }
}

impl Rule<2> for AdamW {
    #[inline(always)]
    fn apply(self, value: f32, grad: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let grad = grad * self.grad_factor;
        let m = m + (grad - m) * self.lerp;
        let v = v * self.beta2 + grad * grad * self.square;
        let denominator = v.sqrt() / self.correction + self.epsilon;
        (value * self.decay - self.size * (m / denominator), [m, v])
    }
}
