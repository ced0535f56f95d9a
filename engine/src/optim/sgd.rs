//! Stochastic gradient descent, with momentum where it is asked for, as `torch.optim.SGD` with its defaults: decay is
//! part of the gradient, the first momentum is the first gradient, nothing is damped.

use super::elementwise::Rule;
use super::step::Step;

/// The step's numbers.
#[derive(Clone, Copy)]
pub(super) struct Sgd {
    grad_factor: f32,
    weight_decay: f32,
    learning_rate: f32,
    momentum: f32,
}

impl Sgd {
    pub(super) fn new(momentum: f64, step: &Step) -> Self {
        Self {
            grad_factor: step.grad_factor as f32,
            weight_decay: step.weight_decay as f32,
            learning_rate: step.learning_rate as f32,
            momentum: momentum as f32,
        }
    }

    fn grad(self, value: f32, grad: f32) -> f32 {
        grad * self.grad_factor + value * self.weight_decay
    }
}

impl Rule<0> for Sgd {
    #[inline(always)]
    fn apply(self, value: f32, grad: f32, []: [f32; 0]) -> (f32, [f32; 0]) {
        (value - self.learning_rate * self.grad(value, grad), [])
    }
}

impl Rule<1> for Sgd {
    #[inline(always)]
    fn apply(self, value: f32, grad: f32, [m]: [f32; 1]) -> (f32, [f32; 1]) {
        let m = m * self.momentum + self.grad(value, grad);
        (value - self.learning_rate * m, [m])
    }
}
