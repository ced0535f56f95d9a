//! Writing a safetensors file piece by piece, so that no more than one piece is ever held.
//!
//! The header comes first and names every tensor with its place; the bytes follow in that order.
//! Format: safetensors' README.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::Map;

use crate::{EngineError, Result};

/// What the header says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// Its number type.
    pub dtype: Dtype,
    /// Its shape, outermost first.
    pub shape: Vec<usize>,
}

impl TensorEntry {
    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Numbers turned into bytes at a time.
const PIECE: usize = 1 << 14;

/// A safetensors file being written.
pub struct TensorFile {
    path: PathBuf,
    file: BufWriter<File>,
    left: usize,
}

impl TensorFile {
    /// Begins `path` with a header for `entries`.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn create(path: &Path, entries: &[TensorEntry]) -> Result<Self> {
        Self::create_with(path, entries, None)
    }

    /// Begins `path` with a header for `entries` that holds a key and a text of our own besides.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn create_with(
        path: &Path,
        entries: &[TensorEntry],
        own: Option<(&str, String)>,
    ) -> Result<Self> {
        let mut at = 0;
        let infos = entries.iter().map(|entry| {
            let begin = at;
            at += entry.bytes();
            let info = TensorInfo {
                dtype: entry.dtype,
                shape: entry.shape.clone(),
                data_offsets: (begin, at),
            };
            (entry.name.clone(), info)
        });
        let infos = infos.collect();
        // Readers from transformers on refuse a file that does not say `format`.
        let keys = [("format", "pt".to_owned())].into_iter().chain(own);
        let keys: Map<_, _> = keys.map(|(key, text)| (key.to_owned(), text.into())).collect();
        let io = |e| EngineError::io(path, e);
        // safetensors would write the keys in an order of chance, and two runs of the same would leave two files.
        let header = Metadata::new(None, infos)
            .map_err(std::io::Error::other)
            .and_then(|tensors| Ok(serde_json::to_value(tensors)?))
            .and_then(|mut header| {
                header["__metadata__"] = keys.into();
                Ok(serde_json::to_vec(&header)?)
            });
        let mut header = header.map_err(io)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        file.write_all(&header).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, left: at })
    }

    /// Writes the next bytes as they stand in the file.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.left = self.left.checked_sub(bytes.len()).ok_or_else(|| self.wrong("more"))?;
        self.file.write_all(bytes).map_err(|e| EngineError::io(&self.path, e))
    }

    /// Writes the next numbers, f32.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn write_f32(&mut self, values: &[f32]) -> Result<()> {
        self.write_numbers(values, f32::to_le_bytes)
    }

    /// Writes the next numbers, each as `bytes` has it.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn write_numbers<const N: usize>(
        &mut self,
        values: &[f32],
        bytes: impl Fn(f32) -> [u8; N],
    ) -> Result<()> {
        let mut piece = Vec::with_capacity(values.len().min(PIECE) * N);
        for values in values.chunks(PIECE) {
            piece.clear();
            piece.extend(values.iter().flat_map(|value| bytes(*value)));
            self.write(&piece)?;
        }
        Ok(())
    }

    /// Ends the file and makes it durable.
    ///
    /// # Errors
    /// [`EngineError::Io`], also when fewer bytes came than the header announced.
    pub fn finish(mut self) -> Result<()> {
        if self.left > 0 {
            return Err(self.wrong("fewer"));
        }
        let end = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        end.map_err(|e| EngineError::io(&self.path, e))
    }

    fn wrong(&self, how: &str) -> EngineError {
        let why = format!("{how} tensor bytes than its header announced");
        EngineError::io(&self.path, std::io::Error::other(why))
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    fn entry(name: &str, dtype: Dtype, shape: &[usize]) -> TensorEntry {
        TensorEntry { name: name.into(), dtype, shape: shape.to_vec() }
    }

    #[test]
    fn what_is_written_in_pieces_reads_as_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("two.safetensors");
        let entries = [entry("a", Dtype::F32, &[2, 2]), entry("b", Dtype::BF16, &[3])];
        let mut file = TensorFile::create(&path, &entries).unwrap();
        file.write_f32(&[1.0, 2.0]).unwrap();
        file.write_f32(&[3.0, 4.0]).unwrap();
        file.write(&[0; 6]).unwrap();
        file.finish().unwrap();

        let bytes = std::fs::read(&path).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("a").unwrap().shape(), [2, 2]);
        assert_eq!(read.tensor("a").unwrap().data()[12..], 4f32.to_le_bytes());
        assert_eq!(read.tensor("b").unwrap().dtype(), Dtype::BF16);
    }

    #[test]
    fn a_text_of_our_own_stands_where_it_stood_before() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            let own = Some(("fleetune.base", "that one".to_owned()));
            let mut file =
                TensorFile::create_with(&path, &[entry("a", Dtype::F32, &[1])], own).unwrap();
            file.write_f32(&[1.0]).unwrap();
            file.finish().unwrap();
            std::fs::read(path).unwrap()
        };
        let first = write("first");
        // A map with an order of chance would have to be lucky twenty times.
        for i in 0..20 {
            assert_eq!(write(&i.to_string()), first);
        }
        let (_, header) = SafeTensors::read_metadata(&first).unwrap();
        let keys = header.metadata().as_ref().unwrap();
        assert_eq!((keys["format"].as_str(), keys["fleetune.base"].as_str()), ("pt", "that one"));
    }

    #[test]
    fn a_file_that_does_not_match_its_header_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("short.safetensors");
        let entries = [entry("a", Dtype::F32, &[2])];
        let mut file = TensorFile::create(&path, &entries).unwrap();
        file.write_f32(&[1.0]).unwrap();
        assert!(file.write_f32(&[1.0, 2.0]).is_err());
        let mut file = TensorFile::create(&path, &entries).unwrap();
        file.write_f32(&[1.0]).unwrap();
        assert!(file.finish().is_err());
    }
}
