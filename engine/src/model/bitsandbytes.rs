//! Checkpoints whose linear layers bitsandbytes quantised, as transformers saves them.
//!
//! ```text
//!   4 bits   M.weight                                 U8   two codes a byte
//!            M.weight.absmax                          F32, or U8 codes under double quantization
//!            M.weight.quant_map                       F32  the sixteen numbers
//!            M.weight.nested_absmax, .nested_quant_map  F32  under double quantization
//!            M.weight.quant_state.bitsandbytes__nf4   U8   JSON: shape, block sizes, offset
//!   8 bits   M.weight                                 I8   [out, in]
//!            M.SCB                                    F32  each row's largest magnitude
//!            M.weight_format                          U8   0: rows in order
//! ```
//!
//! Reference: `QuantState.as_dict` in bitsandbytes' `functional.py`, `Linear8bitLt` in its `nn/modules.py`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use safetensors::tensor::Dtype;
use serde::Deserialize;

use super::files::Shard;
use super::shards::Shards;
use crate::ops::slices::view;
use crate::quant::{
    Absmax, Blockwise8, FourBit, FourBitKind, Int8, PackedMatrix, Weight, dynamic8,
};
use crate::{EngineError, Result};

/// A folder's tensors, quantised or not.
#[derive(Debug)]
pub(super) struct Checkpoint {
    shards: Shards,
    /// Quantised weights by name.
    quantised: BTreeMap<String, Stored>,
}

#[derive(Debug)]
enum Stored {
    FourBit(FourBitKind, State),
    Int8,
}

/// The JSON beside a 4-bit weight.
#[derive(Debug, Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

const STATE: &str = ".quant_state.bitsandbytes__";
/// Larger states are refused.
const STATE_BYTES_MAX: usize = 1 << 12;

impl Checkpoint {
    pub(super) fn open(shards: &[Shard]) -> Result<Self> {
        let shards = Shards::open(shards)?;
        let mut quantised = BTreeMap::new();
        for (name, _, _) in shards.shapes() {
            if let Some((weight, kind)) = name.split_once(STATE) {
                let (kind, state) = state(&shards, name, kind)?;
                quantised.insert(weight.to_owned(), Stored::FourBit(kind, state));
            } else if let Some(module) = name.strip_suffix(".SCB") {
                quantised.insert(format!("{module}.weight"), Stored::Int8);
            }
        }
        Ok(Self { shards, quantised })
    }

    /// Names and shapes of the model's tensors, without what only belongs to a quantised one.
    pub(super) fn shapes(&self) -> impl Iterator<Item = (&str, &[usize], &Path)> {
        self.shards.shapes().filter(|(name, ..)| !self.is_companion(name)).map(
            |(name, shape, file)| match self.quantised.get(name) {
                Some(Stored::FourBit(_, state)) => (name, state.shape.as_slice(), file),
                _ => (name, shape, file),
            },
        )
    }

    fn is_companion(&self, name: &str) -> bool {
        let of_weight = || {
            let (weight, rest) = name.split_once(".weight.")?;
            let four =
                matches!(rest, "absmax" | "quant_map" | "nested_absmax" | "nested_quant_map")
                    || rest.starts_with(&STATE[1..]);
            four.then(|| format!("{weight}.weight"))
        };
        let of_module = || {
            let module = name.strip_suffix(".SCB").or(name.strip_suffix(".weight_format"))?;
            Some(format!("{module}.weight"))
        };
        of_weight().or_else(of_module).is_some_and(|weight| self.quantised.contains_key(&weight))
    }

    /// How `name` is stored; of a quantised weight, what it was before.
    pub(super) fn dtype(&self, name: &str) -> Option<Dtype> {
        match self.quantised.get(name) {
            None => self.shards.dtype(name),
            Some(Stored::FourBit(_, state)) => Some(match state.dtype.as_str() {
                "bfloat16" => Dtype::BF16,
                "float16" => Dtype::F16,
                _ => Dtype::F32,
            }),
            Some(Stored::Int8) => Some(Dtype::F16),
        }
    }

    /// The tensor as f32.
    pub(super) fn read(&self, name: &str) -> Result<Tensor> {
        match self.packed(name)? {
            Some(matrix) => Weight::Packed(matrix).to_f32(),
            None => self.shards.read(name),
        }
    }

    /// The matrix where it lies, if that is as bf16.
    pub(super) fn map(&self, name: &str) -> Result<Option<PackedMatrix>> {
        if self.quantised.contains_key(name) { Ok(None) } else { self.shards.map(name) }
    }

    /// The weight as it is stored, where that is quantised.
    pub(super) fn packed(&self, name: &str) -> Result<Option<PackedMatrix>> {
        let Some(stored) = self.quantised.get(name) else { return Ok(None) };
        let matrix = match stored {
            Stored::FourBit(kind, state) => self.four_bit(name, *kind, state),
            Stored::Int8 => self.int8(name),
        };
        matrix.map(Some).map_err(|e| EngineError::input(format!("tensor `{name}`: {e}")))
    }

    fn four_bit(&self, name: &str, kind: FourBitKind, state: &State) -> Result<PackedMatrix> {
        let [rows, width] = state.shape[..] else {
            let shape = &state.shape;
            return Err(EngineError::input(format!(
                "4 bits in shape {shape:?}, expected a matrix"
            )));
        };
        self.same_book(&format!("{name}.quant_map"), kind.codebook().values())?;
        let absmax = format!("{name}.absmax");
        let absmax = match (state.nested_offset, state.nested_blocksize) {
            (Some(offset), Some(block)) => {
                self.same_book(&format!("{name}.nested_quant_map"), dynamic8().values())?;
                let codes = self.shards.bytes(&absmax, Dtype::U8)?;
                let nested = self.floats(&format!("{name}.nested_absmax"))?;
                let rest = Blockwise8::of_parts(codes, nested, block)?;
                Absmax::Double { rest, offset: offset as f32 }
            }
            _ => Absmax::Plain(self.floats(&absmax)?),
        };
        let codes = self.shards.bytes(name, Dtype::U8)?;
        let count = rows.saturating_mul(width);
        let held = FourBit::of_parts(kind, state.blocksize, count, codes, absmax)?;
        Ok(PackedMatrix::new(Arc::new(held), width))
    }

    fn int8(&self, name: &str) -> Result<PackedMatrix> {
        let module = name.trim_end_matches(".weight");
        let format = format!("{module}.weight_format");
        if self.shards.has(&format) && self.shards.bytes(&format, Dtype::U8)? != [0] {
            return Err(EngineError::input("8 bits in a tiled order, expected `weight_format` 0"));
        }
        let width = self.shards.shape(name).and_then(|shape| shape.last()).copied().unwrap_or(0);
        let codes = self.shards.bytes(name, Dtype::I8)?.into_iter().map(u8::cast_signed).collect();
        let held = Int8::of_parts(codes, self.floats(&format!("{module}.SCB"))?, width)?;
        Ok(PackedMatrix::new(Arc::new(held), width))
    }

    fn floats(&self, name: &str) -> Result<Vec<f32>> {
        Ok(view(&self.shards.read(name)?)?.to_vec())
    }

    fn same_book(&self, name: &str, expected: &[f32]) -> Result<()> {
        if self.floats(name)? == expected {
            return Ok(());
        }
        Err(EngineError::input(format!("`{name}` holds other numbers than bitsandbytes' own")))
    }
}

fn state(shards: &Shards, name: &str, kind: &str) -> Result<(FourBitKind, State)> {
    let wrong = |why: String| EngineError::input(format!("tensor `{}` {why}", name.escape_debug()));
    let bytes = shards.bytes(name, Dtype::U8)?;
    if bytes.len() > STATE_BYTES_MAX {
        return Err(wrong(format!("has {} bytes, expected at most 4096", bytes.len())));
    }
    let state: State = serde_json::from_slice(&bytes)
        .map_err(|e| wrong(format!("is no quantization state: {e}")))?;
    let kind = match kind {
        "nf4" if state.quant_type == kind => FourBitKind::Nf4,
        "fp4" if state.quant_type == kind => FourBitKind::Fp4,
        _ => return Err(wrong(format!("speaks of `{}`, expected nf4 or fp4", state.quant_type))),
    };
    Ok((kind, state))
}
