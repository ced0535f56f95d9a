//! Angles of rotary positions.

use std::ops::Range;

use fleetune_shared::{ModelSpec, RopeScaling};

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The forward pass.
    Forth,
    /// The inverse rotation, which is its transpose and so its gradient.
    Back,
}

/// Inverse frequencies of a model's rotary positions. Reference: transformers' `modeling_rope_utils`.
#[derive(Clone, Debug)]
pub struct Frequencies {
    /// `theta^(−2i / rotary_dim)`, stretched as the model says; `[rotary_dim / 2]`.
    pub(crate) inverse: Vec<f32>,
    /// Those of sequences longer than a first context of so many tokens, where they differ.
    beyond: Option<(usize, Vec<f32>)>,
    /// Factor on cosines and sines.
    amplitude: f32,
    head_dim: usize,
}

impl Frequencies {
    /// Those of most blocks.
    #[must_use]
    pub fn of(spec: &ModelSpec) -> Self {
        let plain = plain(spec, spec.rope_theta);
        let divided = |factors: &[f64]| {
            plain.iter().zip(factors).map(|(inverse, factor)| (inverse / factor) as f32).collect()
        };
        let (inverse, beyond, amplitude) = match &spec.rope_scaling {
            Some(RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position_embeddings: original,
                attention_factor,
            }) => {
                let beyond = Some((*original, divided(long_factor)));
                (divided(short_factor), beyond, *attention_factor)
            }
            scaling => {
                let inverse = plain.iter().map(|f| stretched(*f, scaling.as_ref()) as f32);
                (inverse.collect(), None, 1.0)
            }
        };
        Self { inverse, beyond, amplitude: amplitude as f32, head_dim: spec.head_dim }
    }

    /// Those of blocks for which [`ModelSpec::has_local_rope`] holds, if there are any.
    #[must_use]
    pub fn local(spec: &ModelSpec) -> Option<Self> {
        let theta = spec.rope_local_base_freq?;
        let inverse = plain(spec, theta).into_iter().map(|f| f as f32).collect();
        Some(Self { inverse, beyond: None, amplitude: 1.0, head_dim: spec.head_dim })
    }

    /// Those of a sequence of `tokens`.
    fn within(&self, tokens: usize) -> &[f32] {
        match &self.beyond {
            Some((original, beyond)) if tokens > *original => beyond,
            _ => &self.inverse,
        }
    }
}

fn plain(spec: &ModelSpec, theta: f64) -> Vec<f64> {
    let half = spec.rotary_dim() / 2;
    (0..half).map(|i| theta.powf(-(i as f64) / half as f64)).collect()
}

/// Cosine and sine of every token's angles.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// `[tokens, half]`.
    pub cos: Vec<f32>,
    /// `[tokens, half]`.
    pub sin: Vec<f32>,
    /// Half of the numbers that are turned, which are the first of each head.
    pub half: usize,
    /// Numbers of a head.
    pub head_dim: usize,
}

impl Rotary {
    /// Angles of examples laid end to end, each given by the positions of its tokens.
    ///
    /// The angle itself is an f32 product, as in transformers' `LlamaRotaryEmbedding`; a more exact one would
    /// drift away from what models were trained with at long distances. Which frequencies a LongRoPE model takes
    /// depends on each example's own length, where transformers asks for the longest of the batch, so that what
    /// an example is packed with does not change it.
    pub fn new(frequencies: &Frequencies, examples: impl Iterator<Item = Range<usize>>) -> Self {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for positions in examples {
            let inverse = frequencies.within(positions.end);
            for position in positions {
                for frequency in inverse {
                    let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                    cos.push(c as f32 * frequencies.amplitude);
                    sin.push(s as f32 * frequencies.amplitude);
                }
            }
        }
        Self { cos, sin, half: frequencies.inverse.len(), head_dim: frequencies.head_dim }
    }
}

fn stretched(frequency: f64, scaling: Option<&RopeScaling>) -> f64 {
    match scaling {
        None | Some(RopeScaling::LongRope { .. }) => frequency,
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
