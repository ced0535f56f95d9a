//! Packed files, read as if they were not: gzip and zstd, known by their first bytes.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use super::head;
use crate::Result;

/// Text shrinks to a tenth, repetitive text to a fiftieth; what unpacks to more than this many times its size was made
/// to fill somebody's disk or day.
const RATIO_MAX: u64 = 200;
/// Below this nothing is a bomb.
const HARMLESS_BYTES: u64 = 64 << 20;

/// What `packed` unpacks to, or `packed` itself.
pub(super) fn reader(mut packed: BufReader<File>, path: &Path) -> Result<Box<dyn Read>> {
    let read = Rc::new(Cell::new(0));
    let kind = head(&mut packed, path)?.to_vec();
    let counted = BufReader::with_capacity(1 << 16, Counted { inner: packed, read: read.clone() });
    let unpacked: Box<dyn Read> = match kind.as_slice() {
        [0x1F, 0x8B, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(counted)),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => {
            let decoder = zstd::stream::read::Decoder::with_buffer(counted);
            Box::new(decoder.map_err(|e| super::unreadable(path, e))?)
        }
        _ => return Ok(Box::new(counted)),
    };
    Ok(Box::new(Bounded { inner: unpacked, packed: read, unpacked: 0 }))
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    read: Rc<Cell<u64>>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

/// Ends a bomb before it goes off.
struct Bounded<R> {
    inner: R,
    packed: Rc<Cell<u64>>,
    unpacked: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.unpacked += count as u64;
        let most = HARMLESS_BYTES.max(self.packed.get().saturating_mul(RATIO_MAX));
        if self.unpacked > most {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!(
                    "it unpacks to more than {RATIO_MAX} times its size; unpack it yourself if it is sound"
                ),
            ));
        }
        Ok(count)
    }
}
