//! The linear layers of a block, and the names that libraries give them.

use super::ModelShape;

/// Which linear layer of a block, whatever its family calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// Queries, keys and values in one.
    QueryKeyValue,
    /// What attention's output goes through.
    Output,
    /// The MLP's gate.
    Gate,
    /// The MLP's way up.
    Up,
    /// Gate and up in one.
    GateUp,
    /// The MLP's way down.
    Down,
}

/// A linear layer: `out × inp` numbers, `count` times in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Linear {
    /// Which.
    pub(crate) slot: Slot,
    /// Rows.
    pub(crate) out: u64,
    /// Columns.
    pub(crate) inp: u64,
    /// How many there are: experts.
    pub(crate) count: u64,
}

impl Linear {
    /// Numbers of one weight.
    #[must_use]
    pub(crate) fn numbers(&self) -> u64 {
        self.out * self.inp
    }
}

impl ModelShape {
    /// The linear layers of one block, q, k, v, gate and up apart also where the family keeps them as one.
    #[must_use]
    pub(crate) fn linears(&self) -> Vec<Linear> {
        let mut slots =
            vec![Slot::Query, Slot::Key, Slot::Value, Slot::Output, Slot::Up, Slot::Down];
        if self.gated {
            slots.push(Slot::Gate);
        }
        slots.into_iter().map(|slot| self.linear(slot)).collect()
    }

    /// The linear layers that PEFT's `all-linear` finds in one block.
    #[must_use]
    pub(crate) fn all_linear(&self) -> Vec<Slot> {
        let mut slots = match self.fused_qkv {
            true => vec![Slot::QueryKeyValue],
            false => vec![Slot::Query, Slot::Key, Slot::Value],
        };
        slots.push(Slot::Output);
        slots.extend(match (self.gated, self.fused_gate_up) {
            (false, _) => vec![Slot::Up],
            (true, true) => vec![Slot::GateUp],
            (true, false) => vec![Slot::Gate, Slot::Up],
        });
        slots.push(Slot::Down);
        slots
    }

    /// One linear layer.
    #[must_use]
    pub(crate) fn linear(&self, slot: Slot) -> Linear {
        let (h, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.query_width(), self.key_value_width());
        let (out, inp) = match slot {
            Slot::Query => (q, h),
            Slot::Key | Slot::Value => (kv, h),
            Slot::QueryKeyValue => (q + 2 * kv, h),
            Slot::Output => (h, q),
            Slot::Gate | Slot::Up => (f, h),
            Slot::GateUp => (2 * f, h),
            Slot::Down => (h, f),
        };
        let count = match slot {
            Slot::Gate | Slot::Up | Slot::GateUp | Slot::Down => self.experts,
            _ => 1,
        };
        Linear { slot, out, inp, count }
    }
}

/// The layers that a module name means in an architecture, empty for a name nobody uses: `c_proj` is two of them.
#[must_use]
pub(crate) fn slots_of(name: &str, model_type: &str) -> Vec<Slot> {
    use Slot::{Down, Gate, GateUp, Key, Output, Query, QueryKeyValue, Up, Value};
    match name {
        "q_proj" | "q" | "wq" | "query" => vec![Query],
        "k_proj" | "k" | "wk" | "key" => vec![Key],
        "v_proj" | "v" | "wv" | "value" => vec![Value],
        "qkv_proj" | "qkv" | "c_attn" | "query_key_value" | "Wqkv" | "W_pack" => {
            vec![QueryKeyValue]
        }
        "o_proj" | "o" | "wo" | "dense" | "out_proj" => vec![Output],
        "c_proj" => vec![Output, Down],
        // The two ways up of the first Qwen.
        "w1" if model_type == "qwen" => vec![Up],
        "w2" if model_type == "qwen" => vec![Gate],
        "gate_proj" | "gate" | "w1" => vec![Gate],
        "up_proj" | "up" | "w3" | "fc1" | "fc_in" | "dense_h_to_4h" | "c_fc" => vec![Up],
        "gate_up_proj" => vec![GateUp],
        "down_proj" | "down" | "w2" | "fc2" | "fc_out" | "dense_4h_to_h" => vec![Down],
        _ => Vec::new(),
    }
}
