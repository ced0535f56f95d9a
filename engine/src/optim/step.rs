//! What one step means for one tensor.

/// Numbers of a step that every optimizer needs.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Counted from 1.
    pub number: u64,
    /// Of this tensor.
    pub learning_rate: f64,
    /// Of this tensor; 0 where nothing decays.
    pub weight_decay: f64,
    /// What gradients are multiplied by first (clipping).
    pub grad_factor: f64,
}
