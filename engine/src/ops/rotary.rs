//! Angles of rotary positions.

use fleetune_shared::{ModelSpec, RopeScaling};

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The forward pass.
    Forth,
    /// The inverse rotation, which is its transpose and so its gradient.
    Back,
}

/// Cosine and sine of every token's angles.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `[tokens, head_dim / 2]`.
    pub cos: Vec<f32>,
    /// `[tokens, head_dim / 2]`.
    pub sin: Vec<f32>,
    /// `head_dim / 2`.
    pub half: usize,
}

impl Rotary {
    /// Angles of tokens at `positions` for inverse `frequencies` from [`frequencies`].
    ///
    /// The angle itself is an f32 product, as in transformers' `LlamaRotaryEmbedding`; a more exact one would
    /// drift away from what models were trained with at long distances.
    pub fn new(frequencies: &[f32], positions: impl Iterator<Item = usize>) -> Self {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for frequency in frequencies {
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push(c as f32);
                sin.push(s as f32);
            }
        }
        Self { cos, sin, half: frequencies.len() }
    }
}

/// The inverse frequencies `theta^(−2i / head_dim)`, stretched as the model says; `[head_dim / 2]`.
/// Reference: transformers' `modeling_rope_utils`.
#[must_use]
pub(crate) fn frequencies(spec: &ModelSpec) -> Vec<f32> {
    let half = spec.head_dim / 2;
    (0..half)
        .map(|i| spec.rope_theta.powf(-(i as f64) / half as f64))
        .map(|frequency| stretched(frequency, spec.rope_scaling.as_ref()) as f32)
        .collect()
}

fn stretched(frequency: f64, scaling: Option<&RopeScaling>) -> f64 {
    match scaling {
        None => frequency,
        Some(RopeScaling::Linear { factor }) => frequency / factor,
        Some(RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => {
            let original = *original_max_position_embeddings as f64;
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < original / high_freq_factor {
                frequency
            } else if wavelength > original / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (original / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scaling_slows_every_frequency() {
        let linear = RopeScaling::Linear { factor: 4.0 };
        assert_eq!(stretched(1.0, Some(&linear)), 0.25);
        assert_eq!(stretched(1.0, None), 1.0);
    }

    #[test]
    fn llama3_scaling_keeps_the_fast_and_slows_the_slow_without_a_jump() {
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let of = |wavelength: f64| {
            let frequency = 2.0 * std::f64::consts::PI / wavelength;
            stretched(frequency, Some(&llama3)) / frequency
        };
        assert_eq!((of(100.0), of(9000.0)), (1.0, 0.125));
        assert!((of(2048.001) - 1.0).abs() < 1e-5 && (of(8191.99) - 0.125).abs() < 1e-5);
        assert!(of(4000.0) > of(5000.0));
    }
}
