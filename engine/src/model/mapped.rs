//! bf16 numbers where they lie in a file, mapped into memory: nothing is copied, and trainers of one machine that read
//! the same file share its pages.
//!
//! Whoever changes the file in place while it is mapped changes the model, and whoever cuts it ends the process with a
//! signal; agents map only files of their own stores, which nobody changes (ADR 0019).

use std::fs::File;
use std::io;

use half::bf16;
use memmap2::{Advice, Mmap, MmapOptions};
use rayon::prelude::*;

use crate::Result;
use crate::memory::Held;
use crate::ops::slices::widen;
use crate::quant::{Packed, stretch};

/// Numbers one thread looks at when all are checked.
const PIECE: usize = 1 << 16;

/// A tensor of a file.
#[derive(Debug)]
pub(super) struct Mapped {
    bytes: Mmap,
    _held: Held,
}

impl Mapped {
    /// `bytes` bytes of `file` from `offset` on; `None` where this machine could not read them as they are: its numbers
    /// begin with their upper half, or these lie askew.
    pub(super) fn open(file: &File, offset: u64, bytes: u64) -> io::Result<Option<Self>> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let end =
            offset.checked_add(bytes).filter(|end| file.metadata().is_ok_and(|m| *end <= m.len()));
        if end.is_none() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if cfg!(target_endian = "big") || length == 0 || !bytes.is_multiple_of(2) {
            return Ok(None);
        }
        let mut options = MmapOptions::new();
        #[expect(unsafe_code, reason = "another process could change the file: see above")]
        // SAFETY: the numbers are read as plain bits, of which every one is a bf16, so that a change in the file is a
        // change of the model and nothing worse; no reference is held while the file is cut on purpose.
        let map = unsafe { options.offset(offset).len(length).map(file)? };
        if map.as_ptr().align_offset(align_of::<bf16>()) != 0 {
            return Ok(None);
        }
        // All of it is wanted soon; whether the system listens is its own affair.
        let _ = map.advise(Advice::WillNeed);
        Ok(Some(Self { bytes: map, _held: Held::of(length) }))
    }

    fn numbers(&self) -> &[bf16] {
        let (count, first) = (self.bytes.len() / size_of::<bf16>(), self.bytes.as_ptr());
        #[expect(unsafe_code, reason = "two names for the same bytes")]
        // SAFETY: aligned, as `open` found, within the map, which lives as long as `self`; bf16 is 16 bits of any kind.
        unsafe {
            std::slice::from_raw_parts(first.cast(), count)
        }
    }

    /// The first number that is NaN or infinite, and where.
    pub(super) fn strange(&self) -> Option<(usize, bf16)> {
        let pieces = self.numbers().par_chunks(PIECE).enumerate();
        pieces.find_map_first(|(index, numbers)| {
            // Most pieces have none, which a loop without an exit finds faster.
            let sound = numbers.iter().fold(true, |sound, number| sound & number.is_finite());
            let at = if sound { None } else { numbers.iter().position(|n| !n.is_finite()) };
            at.map(|at| (index * PIECE + at, numbers[at]))
        })
    }
}

impl Packed for Mapped {
    fn count(&self) -> usize {
        self.numbers().len()
    }

    fn bytes(&self) -> usize {
        self.bytes.len()
    }

    fn unpack(&self, from: usize, out: &mut [f32]) -> Result<()> {
        stretch(self.count(), from, out.len())?;
        widen(out, &self.numbers()[from..][..out.len()]);
        Ok(())
    }

    fn as_bf16(&self) -> Option<&[bf16]> {
        Some(self.numbers())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn numbers_are_read_where_they_lie() {
        let numbers: Vec<bf16> = (0..100_000u32).map(|i| bf16::from_f32(i as f32 - 0.5)).collect();
        let mut bytes = vec![7; 10];
        bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
        let held = crate::memory::current();
        let mapped = Mapped::open(&file(&bytes), 10, 200_000).unwrap().unwrap();
        assert_eq!(mapped.as_bf16(), Some(&numbers[..]));
        assert_eq!((mapped.count(), mapped.bytes(), mapped.strange()), (100_000, 200_000, None));
        assert!(crate::memory::current().0 >= held.0 + 200_000);
        let mut three = [0.0; 3];
        mapped.unpack(5, &mut three).unwrap();
        assert_eq!(three.map(f32::to_bits), [4.5f32, 5.5, 6.5].map(f32::to_bits));
        assert!(mapped.unpack(99_999, &mut three).is_err());
    }

    #[test]
    fn a_number_that_is_none_is_found() {
        let mut bytes = vec![0; 300_000];
        bytes[2 * 131_000..][..2].copy_from_slice(&bf16::INFINITY.to_le_bytes());
        bytes[2 * 90_000..][..2].copy_from_slice(&bf16::NEG_INFINITY.to_le_bytes());
        let mapped = Mapped::open(&file(&bytes), 0, 300_000).unwrap().unwrap();
        assert_eq!(mapped.strange(), Some((90_000, bf16::NEG_INFINITY)));
    }

    #[test]
    fn numbers_that_lie_askew_are_left_to_others() {
        let file = file(&[0; 64]);
        assert!(Mapped::open(&file, 9, 10).unwrap().is_none());
        assert!(Mapped::open(&file, 8, 0).unwrap().is_none());
        assert!(Mapped::open(&file, 8, 10).unwrap().is_some());
        assert!(Mapped::open(&file, 8, 58).is_err(), "the file ends before");
    }
}
