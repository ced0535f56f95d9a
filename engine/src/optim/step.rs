//! What one step means for one tensor.

/// Numbers of a step that every optimizer needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Counted from 1.
    pub(super) number: u64,
    /// Of this tensor.
    pub(super) learning_rate: f64,
    /// Of this tensor; 0 where nothing decays.
    pub(super) weight_decay: f64,
    /// What gradients are multiplied by first (clipping).
    pub(super) grad_factor: f64,
}
