//! ggml's blocks as they lie in a GGUF file, given back through candle's k-quants.

use std::borrow::Cow;
use std::fmt;

use candle_core::CpuStorage;
use candle_core::quantized::{GgmlDType, QuantizedType};

use super::{Packed, stretch};
use crate::{EngineError, Result};

/// A matrix in ggml's blocks (Q4_0 … Q8_K, F16); no block crosses a row.
pub struct GgufBlocks {
    blocks: Box<dyn QuantizedType>,
    rows: usize,
    width: usize,
}

impl GgufBlocks {
    /// Takes the bytes of `rows` rows of `width` numbers.
    ///
    /// # Errors
    /// When a row is no whole number of blocks, or the bytes are not those of that many rows.
    pub fn of_bytes(kind: GgmlDType, bytes: &[u8], rows: usize, width: usize) -> Result<Self> {
        let row_bytes = row_bytes(kind, width)?;
        if bytes.len() != rows * row_bytes {
            let found = bytes.len();
            return Err(EngineError::input(format!(
                "{found} bytes of {kind:?}, expected {rows} rows of {row_bytes}"
            )));
        }
        Ok(Self { blocks: kind.from_data(Cow::Borrowed(bytes)), rows, width })
    }
}

/// Bytes of a row of `width` numbers.
///
/// # Errors
/// When it is no whole number of blocks.
fn row_bytes(kind: GgmlDType, width: usize) -> Result<usize> {
    let block = kind.block_size();
    if !width.is_multiple_of(block) {
        let why = format!("rows of {width} numbers in blocks of {block} ({kind:?})");
        return Err(EngineError::input(why));
    }
    Ok(width / block * kind.type_size())
}

impl Packed for GgufBlocks {
    fn count(&self) -> usize {
        self.rows * self.width
    }

    fn bytes(&self) -> usize {
        self.blocks.storage_size_in_bytes()
    }

    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()> {
        stretch(self.count(), from, out.len())?;
        if !from.is_multiple_of(self.width) || !out.len().is_multiple_of(self.width) {
            return Err(EngineError::input("GGUF blocks: cut inside a row"));
        }
        let first = from / self.width;
        let ids: Vec<u32> = (first..first + out.len() / self.width).map(|i| i as u32).collect();
        let CpuStorage::F32(rows) = self.blocks.embedding(&ids, self.rows, self.width)? else {
            return Err(EngineError::input("GGUF blocks: not given back as f32"));
        };
        out.copy_from_slice(&rows);
        Ok(())
    }
}

impl fmt::Debug for GgufBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GgufBlocks({:?}, {} × {})", self.blocks.dtype(), self.rows, self.width)
    }
}
