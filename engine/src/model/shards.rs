//! Reading safetensors: headers believed only after checking, numbers widened to f32 as they are read.
//!
//! bf16 that stays bf16 is mapped. Whatever becomes f32 is copied anyway and so read piece by piece: the buffer is
//! small, and a file cut while it is read is an error instead of a signal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::files::{Shard, wrong};
use super::mapped::Mapped;
use crate::quant::PackedMatrix;
use crate::{EngineError, Result};

/// Where a header has what is no tensor.
const METADATA: &str = "__metadata__";
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// A multiple of every dtype's size.
const PIECE_BYTES: usize = 1 << 20;

/// The tensors of all shards.
#[derive(Debug)]
pub(crate) struct Shards {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    path: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
    offset: u64,
    bytes: u64,
}

impl Entry {
    fn strange(&self, name: &str, at: usize, number: f32) -> EngineError {
        wrong(&self.path, &format!("tensor `{}` holds {number} at {at}", show(name)))
    }
}

impl Shards {
    /// A file outside a model folder, such as an adapter or an optimizer's state.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        Self::open(&[Shard { path: path.to_owned(), promised: None }])
    }

    pub(super) fn open(shards: &[Shard]) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for Shard { path, promised } in shards {
            let found = header(path)?;
            let absent = promised.iter().flatten().find(|name| !found.contains_key(*name));
            if let Some(name) = absent {
                let why = format!("has no tensor `{}`, though the index names it", show(name));
                return Err(wrong(path, &why));
            }
            for (name, entry) in found {
                if let Some(other) = entries.insert(name.clone(), entry) {
                    let why =
                        format!("tensor `{}` is also in {}", show(&name), other.path.display());
                    return Err(wrong(path, &why));
                }
            }
        }
        Ok(Self { entries })
    }

    pub(super) fn shapes(&self) -> impl Iterator<Item = (&str, &[usize], &Path)> {
        self.entries.iter().map(|(name, e)| (name.as_str(), e.shape.as_slice(), e.path.as_path()))
    }

    /// How the file stores `name`.
    pub(super) fn dtype(&self, name: &str) -> Option<Dtype> {
        Some(self.entries.get(name)?.dtype)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.entries.get(name)?.shape)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.entries.get(name);
        entry.ok_or_else(|| EngineError::input(format!("no tensor `{}`", show(name))))
    }

    /// The tensor's bytes as they lie in the file, which must be of `dtype`.
    pub(super) fn bytes(&self, name: &str, dtype: Dtype) -> Result<Vec<u8>> {
        let entry = self.entry(name)?;
        if entry.dtype != dtype {
            let why =
                format!("tensor `{}` has dtype {}, expected {dtype}", show(name), entry.dtype);
            return Err(wrong(&entry.path, &why));
        }
        let io = |e| EngineError::io(&entry.path, e);
        let mut file = File::open(&entry.path).map_err(io)?;
        file.seek(SeekFrom::Start(entry.offset)).map_err(io)?;
        let mut bytes = vec![0; entry.bytes as usize];
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    /// The matrix where it lies, if the file stores it as bf16.
    pub(super) fn map(&self, name: &str) -> Result<Option<PackedMatrix>> {
        let entry = self.entry(name)?;
        let (&[_, width], Dtype::BF16) = (entry.shape.as_slice(), entry.dtype) else {
            return Ok(None);
        };
        let mapped = File::open(&entry.path)
            .and_then(|file| Mapped::open(&file, entry.offset, entry.bytes))
            .map_err(|e| EngineError::io(&entry.path, e))?;
        let Some(mapped) = mapped else { return Ok(None) };
        match mapped.strange() {
            Some((at, number)) => Err(entry.strange(name, at, number.to_f32())),
            None => Ok(Some(PackedMatrix::new(Arc::new(mapped), width))),
        }
    }

    /// The tensor as f32; `name` must be one of [`Self::shapes`].
    pub(crate) fn read(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name)?;
        if matches!(entry.dtype, Dtype::U8 | Dtype::I8) {
            let found = entry.dtype;
            let why = format!("has dtype {found}, expected F32, F16 or BF16");
            return Err(wrong(&entry.path, &format!("tensor `{}` {why}", show(name))));
        }
        let io = |e| EngineError::io(&entry.path, e);
        let mut file = File::open(&entry.path).map_err(io)?;
        file.seek(SeekFrom::Start(entry.offset)).map_err(io)?;
        let mut numbers = Vec::with_capacity(entry.shape.iter().product());
        let mut piece = vec![0; PIECE_BYTES];
        let mut left = entry.bytes as usize;
        while left > 0 {
            let piece = &mut piece[..left.min(PIECE_BYTES)];
            file.read_exact(piece).map_err(io)?;
            left -= piece.len();
            match entry.dtype {
                Dtype::F32 => {
                    numbers.extend(piece.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
                }
                Dtype::F16 => {
                    numbers.extend(
                        piece.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()),
                    );
                }
                _ => {
                    numbers.extend(
                        piece.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()),
                    );
                }
            }
        }
        if let Some(at) = numbers.iter().position(|x| !x.is_finite()) {
            return Err(entry.strange(name, at, numbers[at]));
        }
        Ok(Tensor::from_vec(numbers, entry.shape.as_slice(), &Device::Cpu)?)
    }
}

/// Names come from files and end up in terminals.
fn show(name: &str) -> impl std::fmt::Display {
    name.escape_debug()
}

/// The JSON header with every name as often as it is written, where a map would keep the last silently.
struct Header(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[derive(Deserialize)]
struct Place {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The metadata's text under `key`, of a file outside a model folder.
pub(crate) fn metadata(path: &Path, key: &str) -> Result<Option<String>> {
    let Described { entries, .. } = described(path)?;
    let metadata = entries.into_iter().find(|(name, _)| name == METADATA);
    Ok(metadata.and_then(|(_, values)| values.get(key)?.as_str().map(str::to_owned)))
}

/// A header as it is written, and what is known of its file.
struct Described {
    entries: Vec<(String, serde_json::Value)>,
    /// Where the tensors' bytes begin.
    data: u64,
    file_bytes: u64,
}

fn described(path: &Path) -> Result<Described> {
    let io = |e| EngineError::io(path, e);
    let mut file = File::open(path).map_err(io)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    if file_bytes < 8 {
        return Err(wrong(path, &format!("has {file_bytes} bytes, too few for safetensors")));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX {
        return Err(wrong(path, &format!("header takes {length} bytes, expected at most 100 MB")));
    }
    if length > file_bytes - 8 {
        let why = format!("header takes {length} bytes but the file ends after {file_bytes}");
        return Err(wrong(path, &format!("{why}: truncated, or not safetensors")));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(io)?;
    let Header(entries) = serde_json::from_slice(&text)
        .map_err(|e| wrong(path, &format!("header is no JSON object of tensors: {e}")))?;

    Ok(Described { entries, data: 8 + length, file_bytes })
}

fn header(path: &Path) -> Result<BTreeMap<String, Entry>> {
    let Described { entries: described, data, file_bytes } = described(path)?;
    let mut entries = BTreeMap::new();
    for (name, value) in described.into_iter().filter(|(name, _)| name != METADATA) {
        let fail = |why: String| wrong(path, &format!("tensor `{}` {why}", show(&name)));
        let it: Place = serde_json::from_value(value)
            .map_err(|e| fail(format!("is not described by dtype, shape and data_offsets: {e}")))?;
        // Bytes are codes of quantised weights, see `bitsandbytes`.
        let (dtype, size) = match it.dtype.as_str() {
            "F32" => (Dtype::F32, 4),
            "F16" => (Dtype::F16, 2),
            "BF16" => (Dtype::BF16, 2),
            "U8" => (Dtype::U8, 1),
            "I8" => (Dtype::I8, 1),
            other => {
                let other = other.escape_debug();
                return Err(fail(format!("has dtype {other}, expected F32, F16 or BF16")));
            }
        };
        let expected = it.shape.iter().try_fold(size, |bytes: u64, n| bytes.checked_mul(*n));
        let [begin, end] = it.data_offsets;
        let found = end.checked_sub(begin);
        if expected.is_none() || found != expected {
            return Err(fail(format!(
                "of {} {:?} lies at {begin}..{end}, which is not its size",
                it.dtype, it.shape
            )));
        }
        if data.checked_add(end).is_none_or(|end| end > file_bytes) {
            return Err(fail(format!(
                "ends {} bytes into the data but the file has only {}: truncated",
                end,
                file_bytes - data
            )));
        }
        let entry = Entry {
            path: path.to_owned(),
            dtype,
            shape: it.shape.iter().map(|n| *n as usize).collect(),
            offset: data + begin,
            bytes: end - begin,
        };
        if entries.insert(name.clone(), entry).is_some() {
            return Err(fail("is listed twice".into()));
        }
    }
    Ok(entries)
}

/// One file outside a model folder, such as an adapter: every tensor by name, as f32.
pub(crate) fn read_all(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let shards = Shards::of_file(path)?;
    shards.entries.keys().map(|name| Ok((name.clone(), shards.read(name)?))).collect()
}
