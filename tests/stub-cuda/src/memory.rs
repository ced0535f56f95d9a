//! The card's memory: pieces of the host's, each known by where it begins, so that whoever frees or copies what is not
//! there is told.

use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::env;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::status::{Answer, Error};

/// Names how many bytes the card has.
const LIMIT: &str = "FLEETUNE_STUB_CUDA_MEMORY";
/// As an RTX 3080.
const LIMIT_DEFAULT: u64 = 10 << 30;
/// The driver promises that much to every allocation.
const ALIGNMENT: usize = 256;
/// NaN in every type of floats, and an index beyond everything.
const UNWRITTEN: u8 = 0xff;

static CARD: LazyLock<Mutex<Memory>> = LazyLock::new(|| {
    let limit = match env::var(LIMIT) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{LIMIT} is not a number: {text}")),
        Err(_) => LIMIT_DEFAULT,
    };
    Mutex::new(Memory::new(limit))
});

/// The memory of the one card.
pub(crate) fn card() -> MutexGuard<'static, Memory> {
    CARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where an allocation came from, for both are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `cuMemAllocAsync`, from the device's pool.
    Pool,
    /// `cuMemAlloc`.
    Device,
}

#[derive(Debug)]
struct Piece {
    layout: Layout,
    source: Source,
}

/// Bytes in use, and the most there were since somebody asked to begin anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) now: u64,
    pub(crate) high: u64,
}

#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    pieces: BTreeMap<u64, Piece>,
    pool: Count,
    outside: u64,
}

impl Memory {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, pieces: BTreeMap::new(), pool: Count::default(), outside: 0 }
    }

    /// All there is, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// What nobody holds, in bytes.
    pub(crate) fn free(&self) -> u64 {
        self.limit - self.pool.now - self.outside
    }

    /// What the pool has given out. It keeps nothing for itself: what is reserved is what is used.
    pub(crate) fn pool(&self) -> Count {
        self.pool
    }

    /// The most is what there is now.
    pub(crate) fn reset_high(&mut self) {
        self.pool.high = self.pool.now;
    }

    /// A piece of `bytes`. Of nothing, the pool gives the null pointer and the device none.
    pub(crate) fn allocate(&mut self, bytes: usize, source: Source) -> Answer<u64> {
        if bytes == 0 {
            return if source == Source::Pool { Ok(0) } else { Err(Error::InvalidValue) };
        }
        if bytes as u64 > self.free() {
            return Err(Error::OutOfMemory);
        }
        let layout = Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| Error::OutOfMemory)?;
        // SAFETY: the layout is not of size 0.
        let begin = unsafe { alloc::alloc(layout) };
        if begin.is_null() {
            return Err(Error::OutOfMemory);
        }
        // SAFETY: `begin` is the start of `bytes` just allocated.
        unsafe { begin.write_bytes(UNWRITTEN, bytes) };
        match source {
            Source::Pool => {
                self.pool.now += bytes as u64;
                self.pool.high = self.pool.high.max(self.pool.now);
            }
            Source::Device => self.outside += bytes as u64,
        }
        self.pieces.insert(begin as u64, Piece { layout, source });
        Ok(begin as u64)
    }

    /// Takes a piece back: by where it begins, and once. The null pointer may be freed, as in C.
    pub(crate) fn release(&mut self, begin: u64) -> Answer {
        if begin == 0 {
            return Ok(());
        }
        let piece = self.pieces.remove(&begin).ok_or(Error::InvalidValue)?;
        let bytes = piece.layout.size() as u64;
        match piece.source {
            Source::Pool => self.pool.now -= bytes,
            Source::Device => self.outside -= bytes,
        }
        // SAFETY: it was allocated with this layout, and was among the pieces until now.
        unsafe { alloc::dealloc(begin as *mut u8, piece.layout) };
        Ok(())
    }

    /// Where `bytes` from `address` on lie: all in one piece. They stay there while the memory is borrowed.
    pub(crate) fn reach(&self, address: u64, bytes: usize) -> Answer<*mut u8> {
        if bytes == 0 {
            return Ok(std::ptr::dangling_mut());
        }
        let (begin, piece) =
            self.pieces.range(..=address).next_back().ok_or(Error::InvalidValue)?;
        let left = (piece.layout.size() as u64).saturating_sub(address - begin);
        if bytes as u64 > left {
            return Err(Error::InvalidValue);
        }
        Ok(address as *mut u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_for_both_sources_together() {
        let mut memory = Memory::new(1000);
        let first = memory.allocate(600, Source::Pool).unwrap();
        let second = memory.allocate(300, Source::Device).unwrap();
        assert_eq!(memory.allocate(101, Source::Pool), Err(Error::OutOfMemory));
        assert_eq!(memory.allocate(usize::MAX, Source::Pool), Err(Error::OutOfMemory));
        assert_eq!(memory.free(), 100);
        memory.release(second).unwrap();
        let third = memory.allocate(400, Source::Pool).unwrap();
        assert_eq!((memory.free(), memory.pool()), (0, Count { now: 1000, high: 1000 }));
        memory.release(first).unwrap();
        memory.release(third).unwrap();
        assert_eq!((memory.free(), memory.pool()), (1000, Count { now: 0, high: 1000 }));
    }

    #[test]
    fn the_most_begins_anew_from_what_is_in_use() {
        let mut memory = Memory::new(1000);
        let first = memory.allocate(500, Source::Pool).unwrap();
        let second = memory.allocate(100, Source::Pool).unwrap();
        memory.release(first).unwrap();
        memory.reset_high();
        assert_eq!(memory.pool(), Count { now: 100, high: 100 });
        memory.release(second).unwrap();
    }

    #[test]
    fn what_is_not_there_is_neither_freed_nor_reached() {
        let mut memory = Memory::new(1000);
        let begin = memory.allocate(64, Source::Pool).unwrap();
        assert_eq!(memory.release(begin + 8), Err(Error::InvalidValue));
        assert_eq!(memory.reach(begin, 64), Ok(begin as *mut u8));
        assert_eq!(memory.reach(begin + 60, 4), Ok((begin + 60) as *mut u8));
        for (address, bytes) in [(begin, 65), (begin + 60, 5), (begin + 64, 1), (begin - 1, 1)] {
            assert_eq!(memory.reach(address, bytes), Err(Error::InvalidValue), "{bytes} bytes");
        }
        memory.release(begin).unwrap();
        assert_eq!(memory.release(begin), Err(Error::InvalidValue));
        assert_eq!(memory.reach(begin, 1), Err(Error::InvalidValue));
    }

    #[test]
    fn nothing_is_a_piece_only_for_the_pool() {
        let mut memory = Memory::new(1000);
        assert_eq!(memory.allocate(0, Source::Pool), Ok(0));
        assert_eq!(memory.allocate(0, Source::Device), Err(Error::InvalidValue));
        assert_eq!(memory.release(0), Ok(()));
        assert!(memory.reach(0, 0).is_ok());
        assert_eq!(memory.reach(0, 1), Err(Error::InvalidValue));
    }

    #[test]
    fn numbers_that_nobody_wrote_are_nan() {
        let mut memory = Memory::new(1000);
        let begin = memory.allocate(8, Source::Pool).unwrap();
        // SAFETY: 8 bytes begin there.
        let number = unsafe { memory.reach(begin, 8).unwrap().cast::<f64>().read() };
        assert!(number.is_nan());
        memory.release(begin).unwrap();
    }
}
