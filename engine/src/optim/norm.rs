//! The length of all gradients together, and how much to shorten them.

use candle_core::Tensor;
use fleetune_shared::recipe::Clip;

use crate::Result;
use crate::ops::Backend;

/// L2 norm over all elements of all `grads` (f32, contiguous, where tensors of `ops` live), summed in f64 in a fixed
/// order.
///
/// # Errors
/// A device that failed.
pub(super) fn grad_norm<'a>(
    ops: &dyn Backend,
    grads: impl IntoIterator<Item = &'a Tensor>,
) -> Result<f64> {
    let mut sum = 0.0;
    for grad in grads {
        sum += ops.sum_of_squares(grad)?;
    }
    Ok(sum.sqrt())
}

/// What gradients of norm `norm` are multiplied by: torch's `clip_grad_norm_`, `max / (norm + 1e-6)`, at most 1.
#[must_use]
pub fn clip_factor(clip: Clip, norm: f64) -> f64 {
    clip.0.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::ops::Portable;

    #[test]
    fn the_norm_is_that_of_all_gradients_together() {
        let a = Tensor::from_vec(vec![3f32; 100_000], (1000, 100), &Device::Cpu).unwrap();
        let b = Tensor::from_vec(vec![4f32; 100_000], (100, 1000), &Device::Cpu).unwrap();
        let norm = grad_norm(&Portable, [&a, &b]).unwrap();
        assert!((norm - (25.0 * 1e5f64).sqrt()).abs() < 1e-9, "{norm}");
    }

    #[test]
    fn only_gradients_above_the_bound_shrink() {
        assert_eq!(clip_factor(Clip(None), 1e9), 1.0);
        assert_eq!(clip_factor(Clip(Some(1.0)), 0.5), 1.0);
        assert_eq!(clip_factor(Clip(Some(1.0)), 4.0), 1.0 / 4.000_001);
    }
}
