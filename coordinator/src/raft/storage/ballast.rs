//! Room on the disk, looked at before it runs out.
//!
//! A full disk stops sled from writing and even from opening again. So a ballast file is kept that can be dropped, and
//! new work is refused while what is left is small; what runs may still finish.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

const BALLAST_BYTES: usize = 8 << 20;

/// Below this, new jobs and uploads are refused.
const FREE_BYTES_MIN: u64 = 64 << 20;

/// Whether there is room for new work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskSpace {
    Enough,
    Short { bytes_free: u64 },
}

/// The disk under a folder.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    pub(crate) fn under(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Asks the file system.
    pub(crate) fn space(&self) -> DiskSpace {
        match self.bytes_free() {
            Ok(bytes_free) if bytes_free < FREE_BYTES_MIN => DiskSpace::Short { bytes_free },
            _ => DiskSpace::Enough,
        }
    }

    fn bytes_free(&self) -> nix::Result<u64> {
        let stat = statvfs(&self.folder)?;
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }

    /// Keeps the ballast while there is room, drops it when there is none.
    pub(super) fn trim_ballast(&self) -> io::Result<()> {
        let path = self.folder.join("ballast");
        let bytes_free = self.bytes_free()?;
        if bytes_free < BALLAST_BYTES as u64 {
            if path.exists() {
                tracing::warn!(bytes_free, "the disk is full, dropping {}", path.display());
                fs::remove_file(path)?;
            }
        } else if bytes_free > FREE_BYTES_MIN && !path.exists() {
            let mut file = fs::File::create(path)?;
            file.write_all(&vec![0x5a; BALLAST_BYTES])?;
        }
        Ok(())
    }
}
