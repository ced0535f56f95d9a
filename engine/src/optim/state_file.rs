//! Reading an optimizer's state back, a piece at a time and bit for bit.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::{Dtype, Metadata};

use crate::{EngineError, Result};

/// The largest header that is believed.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// A safetensors file of flat arrays.
pub(super) struct StateFile {
    path: PathBuf,
    file: Arc<File>,
    metadata: Metadata,
    /// Where the arrays begin.
    body: u64,
}

/// One array of a [`StateFile`].
pub(super) struct Array {
    path: PathBuf,
    file: Arc<File>,
    from: u64,
}

impl StateFile {
    /// Reads the header.
    ///
    /// # Errors
    /// [`EngineError::Io`], or [`EngineError::Input`] for a file that is no safetensors.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |e| EngineError::io(path, e);
        let bad = |why: String| EngineError::input(format!("{}: {why}", path.display()));
        let file = File::open(path).map_err(io)?;
        let mut length = [0; 8];
        file.read_exact_at(&mut length, 0).map_err(io)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX {
            return Err(bad(format!("its header claims {length} bytes")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact_at(&mut header, 8).map_err(io)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| bad(format!("no safetensors: {e}")))?;
        let body = 8 + length;
        Ok(Self { path: path.to_owned(), file: Arc::new(file), metadata, body })
    }

    /// The array `name` of `count` numbers of type `dtype`.
    ///
    /// # Errors
    /// [`EngineError::Input`] where there is none, or another one.
    pub(super) fn array(&self, name: &str, dtype: Dtype, count: usize) -> Result<Array> {
        let bad = |why: String| {
            EngineError::input(format!("{}: tensor `{name}` {why}", self.path.display()))
        };
        let Some(info) = self.metadata.info(name) else {
            return Err(bad("is missing; was it written for another optimizer?".into()));
        };
        let found: usize = info.shape.iter().product();
        if info.dtype != dtype || found != count {
            let stored = info.dtype;
            return Err(bad(format!(
                "has {found} numbers of {stored:?}, expected {count} of {dtype:?}"
            )));
        }
        let from = self.body + info.data_offsets.0 as u64;
        Ok(Array { path: self.path.clone(), file: self.file.clone(), from })
    }
}

impl Array {
    /// `length` bytes from byte `begin` of the array on.
    pub(super) fn bytes(&self, begin: usize, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, self.from + begin as u64);
        read.map_err(|e| EngineError::io(&self.path, e))?;
        Ok(bytes)
    }

    /// All of it as `count` numbers of f32.
    pub(super) fn floats(&self, count: usize) -> Result<Vec<f32>> {
        let bytes = self.bytes(0, 4 * count)?;
        Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}
