//! The header of a GGUF file (version 2 and 3): metadata and where each tensor lies.
//!
//! Read from bytes, with every count and size checked before it is believed, so that a damaged or hostile file is
//! refused here and never reaches the dequantisers. Format: ggml's `docs/gguf.md`.

use std::collections::BTreeMap;

use thiserror::Error;

/// A parsed header.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufHeader {
    /// Keys and values, such as `llama.block_count`.
    pub metadata: BTreeMap<String, GgufValue>,
    /// Tensors in file order.
    pub tensors: Vec<GgufTensor>,
    /// Where the first tensor's bytes begin, counted from the start of the file.
    pub data_offset: u64,
}

/// One tensor's place and shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    /// ggml's name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Row-major, outermost first (GGUF stores it the other way round).
    pub shape: Vec<usize>,
    /// How its numbers are stored.
    pub kind: GgufType,
    /// Bytes from [`GgufHeader::data_offset`].
    pub offset: u64,
    /// How many bytes it takes.
    pub bytes: u64,
}

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the GGUF type of its name")]
pub enum GgufValue {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(Vec<Self>),
}

impl GgufValue {
    /// The value as a count, if it is a whole number that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The value as a number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(n) => Some(*n as f64),
            Self::Signed(n) => Some(*n as f64),
            Self::Float(n) => Some(*n),
            _ => None,
        }
    }

    /// The value as text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }
}

/// How a tensor's numbers are stored; the block types this engine dequantises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the ggml type of its name")]
pub enum GgufType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

impl GgufType {
    fn of_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            15 => Self::Q8K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// Numbers per block and bytes per block.
    #[must_use]
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Q8K => (256, 292),
        }
    }
}

/// Why a header was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GgufError {
    /// The bytes end inside the header: read more of the file, or the file is cut.
    #[error("GGUF header ends after {0} bytes, expected more: the file is truncated")]
    Truncated(usize),
    /// Anything else, in words.
    #[error("GGUF header: {0}")]
    Bad(String),
}

/// Larger headers are refused.
const HEADER_BYTES_MAX: usize = 100 << 20;
const COUNT_MAX: u64 = 1 << 20;
const ARRAY_MAX: u64 = 1 << 24;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], GgufError> {
        let end = self.at.checked_add(count).filter(|end| *end <= HEADER_BYTES_MAX);
        let end = end.ok_or_else(|| GgufError::Bad("longer than 100 MiB".into()))?;
        let taken = self.bytes.get(self.at..end).ok_or(GgufError::Truncated(self.bytes.len()))?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn count(&mut self, what: &str, max: u64) -> Result<usize, GgufError> {
        let count = self.u64()?;
        if count > max {
            return Err(GgufError::Bad(format!("{what} is {count}, expected at most {max}")));
        }
        Ok(count as usize)
    }

    fn string(&mut self) -> Result<String, GgufError> {
        let length = self.count("a string's length", HEADER_BYTES_MAX as u64)?;
        // A token may be cut inside a UTF-8 sequence; the vocabulary stays usable with a replacement mark.
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self, code: u32, depth: usize) -> Result<GgufValue, GgufError> {
        Ok(match code {
            0 => GgufValue::Unsigned(u64::from(self.array::<1>()?[0])),
            1 => GgufValue::Signed(i64::from(i8::from_le_bytes(self.array()?))),
            2 => GgufValue::Unsigned(u64::from(u16::from_le_bytes(self.array()?))),
            3 => GgufValue::Signed(i64::from(i16::from_le_bytes(self.array()?))),
            4 => GgufValue::Unsigned(u64::from(self.u32()?)),
            5 => GgufValue::Signed(i64::from(i32::from_le_bytes(self.array()?))),
            6 => GgufValue::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => GgufValue::Bool(self.array::<1>()?[0] != 0),
            8 => GgufValue::String(self.string()?),
            9 if depth < 4 => {
                let code = self.u32()?;
                let length = self.count("an array's length", ARRAY_MAX)?;
                // Grown as read, so that a lying length cannot reserve memory.
                let mut items = Vec::new();
                for _ in 0..length {
                    items.push(self.value(code, depth + 1)?);
                }
                GgufValue::Array(items)
            }
            10 => GgufValue::Unsigned(self.u64()?),
            11 => GgufValue::Signed(i64::from_le_bytes(self.array()?)),
            12 => GgufValue::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(GgufError::Bad(format!("unknown value type {code}"))),
        })
    }

    fn tensor(&mut self) -> Result<GgufTensor, GgufError> {
        let name = self.string()?;
        let bad = |why: String| GgufError::Bad(format!("tensor `{}` {why}", name.escape_debug()));
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            return Err(bad(format!("has {dimensions} dimensions, expected 1 to 4")));
        }
        let mut shape = Vec::new();
        let mut numbers = 1u64;
        for _ in 0..dimensions {
            let size = self.u64()?;
            numbers = numbers
                .checked_mul(size)
                .filter(|n| *n > 0 && *n < 1 << 40)
                .ok_or_else(|| bad("has no sensible number of elements".into()))?;
            shape.push(size as usize);
        }
        shape.reverse();
        let code = self.u32()?;
        let kind =
            GgufType::of_code(code).ok_or_else(|| bad(format!("has unsupported type {code}")))?;
        let (per_block, block_bytes) = kind.block();
        let row = shape.last().copied().unwrap_or(0);
        if !row.is_multiple_of(per_block) {
            return Err(bad(format!(
                "has rows of {row}, expected a multiple of {per_block} for {kind:?}"
            )));
        }
        let offset = self.u64()?;
        let bytes = numbers / per_block as u64 * block_bytes as u64;
        Ok(GgufTensor { name, shape, kind, offset, bytes })
    }
}

impl GgufHeader {
    /// Parses the beginning of a file whose whole length is `file_bytes`.
    ///
    /// # Errors
    /// [`GgufError::Truncated`] when `bytes` ends too early (read more and try again, unless that was all);
    /// [`GgufError::Bad`] for anything a sound file cannot hold.
    pub fn parse(bytes: &[u8], file_bytes: u64) -> Result<Self, GgufError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4)? != b"GGUF" {
            return Err(GgufError::Bad("the file does not begin with `GGUF`".into()));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Bad(format!("version is {version}, expected 2 or 3")));
        }
        let tensor_count = reader.count("the tensor count", COUNT_MAX)?;
        let key_count = reader.count("the key count", COUNT_MAX)?;
        let mut metadata = BTreeMap::new();
        for _ in 0..key_count {
            let key = reader.string()?;
            let code = reader.u32()?;
            let value = reader.value(code, 0)?;
            metadata.insert(key, value);
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(value) => {
                value.as_u64().filter(|n| n.is_power_of_two() && *n <= 1 << 20).ok_or_else(
                    || GgufError::Bad(format!("alignment is {value:?}, expected a power of two")),
                )?
            }
        };
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(reader.tensor()?);
        }
        let data_offset = (reader.at as u64).next_multiple_of(alignment);
        let mut names = std::collections::BTreeSet::new();
        for tensor in &tensors {
            let name = tensor.name.escape_debug();
            if !names.insert(&tensor.name) {
                return Err(GgufError::Bad(format!("tensor `{name}` is listed twice")));
            }
            let end =
                data_offset.checked_add(tensor.offset).and_then(|at| at.checked_add(tensor.bytes));
            if end.is_none_or(|end| end > file_bytes) || !tensor.offset.is_multiple_of(alignment) {
                return Err(GgufError::Bad(format!(
                    "tensor `{name}` takes {} bytes at {}, outside the file of {file_bytes} bytes",
                    tensor.bytes, tensor.offset
                )));
            }
        }
        Ok(Self { metadata, tensors, data_offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    /// A file with one 2 × 32 Q4_0 tensor, the given alignment and inner dimension.
    fn file(alignment: u32, inner: u64) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(1u64.to_le_bytes());
        out.extend(1u64.to_le_bytes());
        text(&mut out, "general.alignment");
        out.extend(4u32.to_le_bytes());
        out.extend(alignment.to_le_bytes());
        text(&mut out, "w");
        out.extend(2u32.to_le_bytes());
        out.extend(inner.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.extend(2u32.to_le_bytes());
        out.extend(0u64.to_le_bytes());
        out
    }

    #[test]
    fn shape_is_row_major_and_sized() {
        let bytes = file(64, 32);
        let header = GgufHeader::parse(&bytes, 4096).unwrap();
        let tensor = &header.tensors[0];
        assert_eq!((tensor.shape.as_slice(), tensor.bytes), ([2, 32].as_slice(), 36));
        assert_eq!(header.data_offset, 128);
    }

    #[test]
    fn damage_is_refused_in_words() {
        let parse =
            |bytes: &[u8], length| GgufHeader::parse(bytes, length).unwrap_err().to_string();
        assert!(parse(&file(0, 32), 4096).contains("alignment"));
        assert!(parse(&file(32, u64::MAX), 4096).contains("no sensible number"));
        assert!(parse(&file(32, 33), 4096).contains("multiple of 32"));
        assert!(parse(&file(32, 32), 100).contains("outside the file"));
        for cut in 0..file(32, 32).len() {
            assert!(
                matches!(GgufHeader::parse(&file(32, 32)[..cut], 4096), Err(GgufError::Truncated(n)) if n == cut)
            );
        }
    }
}
