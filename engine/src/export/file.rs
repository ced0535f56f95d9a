//! A GGUF file (version 3) being written: header first, then one tensor after the other.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::Tensor;

use super::NumberType;
use crate::{EngineError, Result};

/// Every tensor begins at a multiple of this.
const ALIGNMENT: usize = 32;

/// A metadata value of the types that are written here.
#[derive(Clone, Debug)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor's place in the header.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    pub(super) kind: NumberType,
}

/// The file.
pub(super) struct GgufWriter {
    path: PathBuf,
    file: BufWriter<File>,
    /// Those still to come, the next one last.
    left: Vec<Entry>,
}

impl GgufWriter {
    /// Begins `path` with the header.
    pub(super) fn create(
        path: &Path,
        metadata: &[(String, Value)],
        mut entries: Vec<Entry>,
    ) -> Result<Self> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((entries.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            text(&mut header, key);
            put(&mut header, value);
        }
        let mut offset = 0;
        for entry in &entries {
            text(&mut header, &entry.name);
            header.extend((entry.shape.len() as u32).to_le_bytes());
            for size in entry.shape.iter().rev() {
                header.extend((*size as u64).to_le_bytes());
            }
            header.extend(entry.kind.code().to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += entry.kind.bytes(entry.shape.iter().product()).next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        let io = |e| EngineError::io(path, e);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
        file.write_all(&header).map_err(io)?;
        entries.reverse();
        Ok(Self { path: path.to_owned(), file, left: entries })
    }

    /// Writes the next tensor, f32, in the type its entry says.
    pub(super) fn put(&mut self, tensor: &Tensor) -> Result<()> {
        let kind = self.left.pop().map_or(NumberType::F32, |entry| entry.kind);
        let mut bytes = kind.encode(tensor)?;
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        self.file.write_all(&bytes).map_err(|e| EngineError::io(&self.path, e))
    }

    /// Ends the file and makes it durable.
    pub(super) fn finish(mut self) -> Result<()> {
        let end = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        end.map_err(|e| EngineError::io(&self.path, e))
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &Value) {
    let code = |out: &mut Vec<u8>, code: u32| out.extend(code.to_le_bytes());
    let list = |out: &mut Vec<u8>, of: u32, length: usize| {
        code(out, 9);
        code(out, of);
        out.extend((length as u64).to_le_bytes());
    };
    match value {
        Value::U32(n) => {
            code(out, 4);
            out.extend(n.to_le_bytes());
        }
        Value::F32(x) => {
            code(out, 6);
            out.extend(x.to_le_bytes());
        }
        Value::Bool(is) => {
            code(out, 7);
            out.push(u8::from(*is));
        }
        Value::Text(it) => {
            code(out, 8);
            text(out, it);
        }
        Value::Texts(all) => {
            list(out, 8, all.len());
            all.iter().for_each(|it| text(out, it));
        }
        Value::I32s(all) => {
            list(out, 5, all.len());
            all.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Value::F32s(all) => {
            list(out, 6, all.len());
            all.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}
