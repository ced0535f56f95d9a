//! What a base model takes in memory in each form it can be held in.
//!
//! Mirrors what `engine` keeps, to the byte: its `hold` decides which tensors are quantised, its `quant` how many bytes
//! a block has. [`Estimate`](crate::Estimate) is who asks.

use crate::recipe::Quantization;
use crate::{ModelSpec, StoredWeights};

/// Numbers of a 4-bit block.
const BLOCK: u64 = 64;
/// Blocks whose constants share one of their own under double quantization.
const BLOCKS: u64 = 256;

const F32: u64 = 4;
const BF16: u64 = 2;

/// Bytes of all weights of `model`.
pub(crate) fn weights(model: &ModelSpec, how: Quantization) -> u64 {
    let linears: Vec<u64> =
        model.linears().iter().map(|(_, out, inp)| (out * inp) as u64).collect();
    let layers = model.num_hidden_layers as u64;
    let in_blocks = layers * linears.iter().sum::<u64>();
    let heads = if model.tie_word_embeddings { 1 } else { 2 };
    let tables = heads * (model.vocab_size * model.hidden_size) as u64;
    let vectors = model.parameters() - in_blocks - tables;

    let plain = |in_blocks: u64, rest: u64| in_blocks + rest * tables + F32 * vectors;
    let four_bit =
        |double: bool| layers * linears.iter().map(|n| four_bits(*n, double)).sum::<u64>();
    let rows: u64 = model.linears().iter().map(|(_, out, _)| *out as u64).sum();
    let eight_bit = in_blocks + F32 * layers * rows;
    match (how, model.stored) {
        (Quantization::Bfloat16, _) => plain(BF16 * in_blocks, BF16),
        (Quantization::AsStored, Some(StoredWeights::Blocks { bytes })) => bytes,
        (
            Quantization::AsStored | Quantization::FourBit(_) | Quantization::EightBit,
            Some(StoredWeights::FourBit { double }),
        ) => plain(four_bit(double), rest(how)),
        (
            Quantization::AsStored | Quantization::FourBit(_) | Quantization::EightBit,
            Some(StoredWeights::EightBit),
        ) => plain(eight_bit, rest(how)),
        (Quantization::FourBit(four), _) => plain(four_bit(four.double), rest(how)),
        (Quantization::EightBit, _) => plain(eight_bit, F32),
        (Quantization::Float32 | Quantization::AsStored, _) => F32 * model.parameters(),
    }
}

/// Bytes a number of what stays unquantised takes.
fn rest(how: Quantization) -> u64 {
    match how {
        Quantization::FourBit(four) if four.bfloat16 => BF16,
        _ => F32,
    }
}

/// Codes and constants of one weight.
fn four_bits(numbers: u64, double: bool) -> u64 {
    let blocks = numbers.div_ceil(BLOCK);
    let constants =
        if double { blocks + F32 * blocks.div_ceil(BLOCKS) + F32 } else { F32 * blocks };
    numbers.div_ceil(2) + constants
}

/// Whether products unpack weights tile by tile.
pub(crate) fn unpacks(model: &ModelSpec, how: Quantization) -> bool {
    match how {
        Quantization::Float32 => false,
        Quantization::AsStored => model.stored.is_some(),
        Quantization::Bfloat16 | Quantization::FourBit(_) | Quantization::EightBit => true,
    }
}
