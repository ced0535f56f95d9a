//! Opening a user's small files: only regular ones, never more than they may hold.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{EngineError, Result};

/// Opens a regular file and tells its size; a folder, device or FIFO is refused before it is opened.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let metadata = std::fs::metadata(path).map_err(|e| EngineError::io(path, e))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a folder" } else { "a device or pipe" };
        return Err(EngineError::input(format!(
            "{}: found {found}, expected a file",
            path.display()
        )));
    }
    let file = File::open(path).map_err(|e| EngineError::io(path, e))?;
    Ok((file, metadata.len()))
}

/// Reads a text file of at most `bytes_max` bytes.
pub(crate) fn text(path: &Path, bytes_max: u64) -> Result<String> {
    let (file, _) = open(path)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|e| EngineError::io(path, e))?;
    if bytes.len() as u64 > bytes_max {
        return Err(EngineError::input(format!(
            "{}: larger than {} MiB",
            path.display(),
            bytes_max >> 20
        )));
    }
    String::from_utf8(bytes).map_err(|e| {
        EngineError::input(format!(
            "{}: byte {} is not UTF-8; save the file as UTF-8",
            path.display(),
            e.utf8_error().valid_up_to()
        ))
    })
}

/// [`text`], or nothing where there is no such file.
pub(crate) fn text_if_any(path: &Path, bytes_max: u64) -> Result<Option<String>> {
    if path.exists() { text(path, bytes_max).map(Some) } else { Ok(None) }
}
