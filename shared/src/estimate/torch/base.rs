//! The base model's weights, and what unpacking them takes.

use super::{F32, HALF, Precision, TorchRun};
use crate::recipe::Quantization;

/// Numbers that share a GPTQ scale.
const GPTQ_GROUP: u128 = 128;

impl TorchRun<'_> {
    /// Bytes of the base; of full fine-tuning what learns.
    pub(super) fn weights(&self) -> u128 {
        let all = u128::from(self.shape.parameters());
        let head = if self.setting.runtime.quantises_head() { self.shape.table() } else { 0 };
        let linears =
            u128::from(self.shape.block_linears()) * u128::from(self.shape.num_hidden_layers);
        let linears = linears + u128::from(head);
        let rest = match self.setting.runtime.rest_in_f32(self.precision) {
            true => F32,
            false => HALF,
        };
        let quantised = |packed: u128, rest: u128| packed + rest * all.saturating_sub(linears);
        if !self.recipe.method.makes_adapter() {
            return match self.precision {
                Precision::Mixed => F32 * all,
                Precision::Half | Precision::Partitioned => HALF * all,
            };
        }
        match self.recipe.quantization {
            // Half a byte, and of each group a half scale and half a byte of zero point.
            _ if self.setting.gptq => quantised(linears / 2 + linears * 5 / 2 / GPTQ_GROUP, HALF),
            Quantization::FourBit(four) => {
                let blocks = linears / 64;
                // An f32 for each block, or a byte and an f32 for 256 of those.
                let constants =
                    if four.double { blocks + F32 * blocks / 256 } else { F32 * blocks };
                quantised(linears / 2 + constants, rest)
            }
            // A byte, and an f32 for each row of about as many columns as the stream is wide.
            Quantization::EightBit => {
                quantised(linears + F32 * linears / u128::from(self.shape.hidden_size), rest)
            }
            _ => self.number() * all,
        }
    }

    /// Whether linear layers are packed.
    pub(super) fn packed(&self) -> bool {
        let bits =
            matches!(self.recipe.quantization, Quantization::FourBit(_) | Quantization::EightBit);
        self.recipe.method.makes_adapter() && (bits || self.setting.gptq)
    }

    /// Bytes of weights unpacked for a product. bitsandbytes unpacks one whole weight into the compute dtype. GPTQ's plain
    /// path, the one with gradients, keeps those of a block for its backward pass, and shifts codes out as int32, int32 and
    /// two int16 on the way.
    pub(super) fn unpacked(&self) -> u128 {
        if !self.packed() {
            return 0;
        }
        let linears = self.shape.linears();
        let largest = linears.iter().map(|linear| linear.numbers()).max().unwrap_or(0);
        if self.setting.gptq {
            return HALF * u128::from(self.shape.block_linears()) + 12 * u128::from(largest);
        }
        let head = if self.setting.runtime.quantises_head() { self.shape.table() } else { 0 };
        HALF * u128::from(largest.max(head))
    }

    /// Bytes of half copies that autocast makes of weights which are f32: those a product needs until its backward pass.
    pub(super) fn casts(&self) -> u128 {
        let learns_in_f32 = self.precision == Precision::Mixed;
        if self.recipe.method.makes_adapter() || !learns_in_f32 {
            return 0;
        }
        HALF * u128::from(self.shape.parameters())
    }
}
