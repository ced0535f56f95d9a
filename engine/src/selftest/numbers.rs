//! Numbers that look random and are the same everywhere.

use candle_core::{Device, Tensor};

use crate::Result;

/// A source of numbers; each case begins a new one.
#[derive(Default)]
pub(super) struct Numbers(u64);

impl Numbers {
    /// Splitmix64 (Steele, Lea, Flood 2014): 24 bits of it.
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 40) as u32
    }

    /// A tensor of numbers between −`most` and `most`.
    pub(super) fn tensor(&mut self, dims: &[usize], most: f32) -> Result<Tensor> {
        let scale = most / (1 << 23) as f32;
        let count = dims.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| self.next() as f32 * scale - most).collect();
        Ok(Tensor::from_vec(numbers, dims, &Device::Cpu)?)
    }

    /// Numbers below `limit`; some come more than once.
    pub(super) fn ids(&mut self, count: usize, limit: usize) -> Vec<u32> {
        (0..count).map(|_| self.next() % limit as u32).collect()
    }
}
