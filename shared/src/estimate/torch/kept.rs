//! What autograd keeps of one block between the passes.

use super::{Attention, F32, HALF, Precision, TorchRun};
use crate::model_shape::{Linear, Slot};
use crate::recipe::{Method, Quantization};

impl TorchRun<'_> {
    /// Bytes that one block keeps where nothing is made again.
    pub(super) fn saved(&self) -> u128 {
        let per_token = self.norms() + self.attention() + self.mlp() + self.beside();
        self.tokens * per_token + self.scores()
    }

    /// transformers' RMSNorm keeps its input as f32, which it squares and divides; a LayerNorm keeps it as it is. Where the
    /// norm's weight learns, what it multiplies is kept as well.
    fn norms(&self) -> u128 {
        let h = u128::from(self.shape.hidden_size);
        let number = self.number();
        let input = if self.shape.layer_norm { number } else { F32 };
        let learns = if self.base_learns() && !self.shape.layer_norm { number } else { 0 };
        let heads = match self.shape.qk_norm {
            true => F32 * u128::from(self.shape.query_width() + self.shape.key_value_width()),
            false => 0,
        };
        u128::from(self.shape.norms) * h * (input + learns) + heads
    }

    /// Turned q and k, v, the output, and a log-sum-exp of each head. Where q, k and v come out of one layer, v is a view
    /// that holds all of it.
    fn attention(&self) -> u128 {
        let (q, kv) =
            (u128::from(self.shape.query_width()), u128::from(self.shape.key_value_width()));
        let keys = match self.setting.attention {
            // Heads of keys and values are repeated, one for each query's.
            Attention::Eager | Attention::Sdpa => q,
            Attention::Flash => kv,
        };
        let values = if self.setting.runtime.fuses_qkv() { q + 2 * kv } else { keys };
        let lse = F32 * u128::from(self.shape.num_attention_heads);
        let inputs = if self.base_learns() { u128::from(self.shape.hidden_size) } else { 0 };
        self.number() * (q + keys + values + q + inputs) + lse
    }

    /// Eager attention keeps each head's scores twice: the softmax's f32 result, and its copy for the product.
    fn scores(&self) -> u128 {
        if self.setting.attention != Attention::Eager {
            return 0;
        }
        let length = self.recipe.data.max_length as u128;
        let heads = u128::from(self.shape.num_attention_heads);
        self.rows * heads * length * length * (F32 + self.number())
    }

    /// Gate, its activation and up; of a plain MLP the input of the activation. Inputs of linear layers only where those
    /// learn.
    fn mlp(&self) -> u128 {
        let f = u128::from(self.shape.intermediate_size) * u128::from(self.shape.experts_used);
        let h = u128::from(self.shape.hidden_size);
        let wide = if self.shape.gated { 3 } else { 1 };
        let inputs = if self.base_learns() { h + f } else { 0 };
        self.number() * (wide * f + inputs)
    }

    /// What adapters keep, and what packed layers do.
    fn beside(&self) -> u128 {
        let adapters: u128 = match &self.recipe.method {
            Method::Lora(_) => self.shared(self.adapted()).iter().map(|l| self.of_lora(l)).sum(),
            Method::Ia3(_) => self.adapted().iter().map(|l| self.of_ia3(l)).sum(),
            Method::Full | Method::Freeze(_) => 0,
        };
        adapters + if self.packed() { self.of_packed() } else { 0 }
    }

    /// Of layers that are adapted together one: they share their input.
    fn shared(&self, mut linears: Vec<Linear>) -> Vec<Linear> {
        if self.setting.runtime.fuses_qkv() {
            let mut seen = false;
            linears.retain(|linear| match linear.slot {
                Slot::Query | Slot::Key | Slot::Value => !std::mem::replace(&mut seen, true),
                _ => true,
            });
        }
        linears
    }

    /// A's input, kept for A's gradient: a cast copy of the layer's where A is f32, and with dropout a mask of bytes. DoRA
    /// keeps both outputs too, the base's and its own.
    fn of_lora(&self, linear: &Linear) -> u128 {
        let Some(lora) = self.lora() else { return 0 };
        let (inp, out) = (u128::from(linear.inp), u128::from(linear.out));
        let times = if linear.count > 1 { u128::from(self.shape.experts_used) } else { 1 };
        let adapter = match self.precision {
            Precision::Mixed => F32,
            Precision::Half | Precision::Partitioned => self.number(),
        };
        let mask = if lora.dropout > 0.0 { inp } else { 0 };
        let dora = if lora.use_dora { out * (self.number() + adapter) } else { 0 };
        times * (adapter * inp + mask + dora)
    }

    /// The f32 copy of an input that is scaled, or an output as it was.
    fn of_ia3(&self, linear: &Linear) -> u128 {
        if self.scales_input(linear.slot) {
            F32 * u128::from(linear.inp)
        } else {
            self.number() * u128::from(linear.out)
        }
    }

    /// Inputs that packed layers keep: all of them in bitsandbytes before 0.44. Eight-bit products keep theirs as bytes.
    fn of_packed(&self) -> u128 {
        let (h, f) = (u128::from(self.shape.hidden_size), u128::from(self.shape.intermediate_size));
        let read_by_mlp = if self.shape.norms > 1 { h } else { 0 };
        let inputs = h + read_by_mlp + f * u128::from(self.shape.experts_used);
        match self.recipe.quantization {
            Quantization::EightBit => inputs,
            _ if self.setting.runtime.keeps_quantised_inputs() => HALF * inputs,
            _ => 0,
        }
    }

    /// Whether weights of the base learn.
    fn base_learns(&self) -> bool {
        !self.recipe.method.makes_adapter()
    }
}
