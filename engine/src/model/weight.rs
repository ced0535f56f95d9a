//! How a base weight is held.

use candle_core::Tensor;

/// A base model's tensor in the form it is kept in. One kind today; quantised ones join here, and the linear layer
/// is the only place that has to know.
#[derive(Debug)]
pub enum Weight {
    /// Plain f32.
    F32(Tensor),
}
