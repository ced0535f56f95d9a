//! The logistic function and its logarithm, without overflow.

/// `1 / (1 + e^−x)`.
pub(super) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// `ln sigmoid(x)`; its derivative is `sigmoid(−x)`.
pub(super) fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// `−(1 − ε)·ln σ(x) − ε·ln σ(−x)` and its derivative: the loss of a comparison that is wrong with probability `ε`.
pub(super) fn smoothed_comparison(x: f64, epsilon: f64) -> (f64, f64) {
    let loss = -(1.0 - epsilon) * log_sigmoid(x) - epsilon * log_sigmoid(-x);
    (loss, epsilon * sigmoid(x) - (1.0 - epsilon) * sigmoid(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_finite() {
        assert_eq!((sigmoid(1e4), sigmoid(-1e4)), (1.0, 0.0));
        assert_eq!((log_sigmoid(1e4), log_sigmoid(-1e4)), (0.0, -1e4));
        assert!((log_sigmoid(0.0) + std::f64::consts::LN_2).abs() < 1e-15);
        assert!((log_sigmoid(0.7) - sigmoid(0.7).ln()).abs() < 1e-15);
    }
}
