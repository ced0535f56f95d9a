//! Large blocks of memory, mapped page by page from the system, and kept for the next of their size while a run lasts.
//!
//! A training step asks for the same blocks every time. Giving them back in between would have the system clear every
//! page again, which costs as much as a pass over the numbers; kept, a steady step asks the system for nothing. What is
//! kept is never more than what was held at the highest moment and is not held now, so the process stays as small as
//! its peak. Blocks begin with a page, so that rows of matrices begin with a cache line.

use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A block begins and ends with one.
pub(super) const PAGE: usize = 4096;
/// How many blocks are kept at most.
const SLOTS: usize = 2048;

/// A block that nobody holds, whole pages.
#[derive(Clone, Copy)]
struct Block {
    address: usize,
    bytes: usize,
}

/// What is kept, oldest first.
struct Kept {
    blocks: [Block; SLOTS],
    count: usize,
    bytes: usize,
    keeping: bool,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept {
    blocks: [Block { address: 0, bytes: 0 }; SLOTS],
    count: 0,
    bytes: 0,
    keeping: false,
});

/// Nothing here panics while it holds the lock.
fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins or ends keeping blocks; at the end all go back to the system.
pub(super) fn keep(keeping: bool) {
    hold(keeping);
    let mut kept = kept();
    kept.keeping = keeping;
    if !keeping {
        kept.shrink(0);
    }
}

/// Has the C library keep what is smaller than a block as well, instead of giving the end of its heap back each time
/// it is free.
fn hold(keeping: bool) {
    #[cfg(target_env = "gnu")]
    {
        /// glibc's own.
        const DEFAULT: i32 = 128 << 10;
        #[expect(unsafe_code, reason = "a call without a safe form")]
        // SAFETY: it sets a number.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, if keeping { 64 << 20 } else { DEFAULT });
            libc::mallopt(libc::M_TOP_PAD, if keeping { 1 << 20 } else { DEFAULT });
        }
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = keeping;
}

/// A block of at least `bytes`, of zeros where that is asked. After it no more is kept than `spare` bytes. `None` where
/// the system has no more.
pub(super) fn take(bytes: usize, zeroed: bool, spare: usize) -> Option<NonNull<u8>> {
    let bytes = bytes.checked_next_multiple_of(PAGE)?;
    let mut kept = kept();
    let found = kept.take(bytes);
    kept.shrink(spare);
    drop(kept);
    let Some(Block { address, .. }) = found else { return map(bytes) };
    let block = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(address))?;
    if zeroed {
        #[expect(unsafe_code, reason = "memory without a type yet")]
        // SAFETY: the block is ours alone and has that many bytes.
        unsafe {
            block.write_bytes(0, bytes);
        }
    }
    Some(block)
}

/// Takes back a block of `bytes` that [`take`] gave.
pub(super) fn give(block: NonNull<u8>, bytes: usize) {
    let bytes = bytes.next_multiple_of(PAGE);
    let mut kept = kept();
    if !kept.keeping {
        drop(kept);
        return unmap(block.as_ptr().expose_provenance(), bytes);
    }
    if kept.count == SLOTS {
        kept.drop_oldest();
    }
    let at = kept.count;
    kept.blocks[at] = Block { address: block.as_ptr().expose_provenance(), bytes };
    kept.count += 1;
    kept.bytes += bytes;
}

/// Makes a block that [`take`] gave larger or smaller, and moves it where it has to.
pub(super) fn resize(block: NonNull<u8>, bytes: usize, wanted: usize) -> Option<NonNull<u8>> {
    let (bytes, wanted) = (bytes.next_multiple_of(PAGE), wanted.checked_next_multiple_of(PAGE)?);
    if bytes == wanted {
        return Some(block);
    }
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "a system call without a safe form")]
    // SAFETY: the caller holds the whole block, and nobody else does.
    unsafe {
        let moved = libc::mremap(block.as_ptr().cast(), bytes, wanted, libc::MREMAP_MAYMOVE);
        if moved == libc::MAP_FAILED { None } else { NonNull::new(moved.cast()) }
    }
    #[cfg(not(target_os = "linux"))]
    #[expect(unsafe_code, reason = "memory without a type yet")]
    // SAFETY: two blocks, both ours and as large as what is copied.
    unsafe {
        let moved = map(wanted)?;
        moved.copy_from_nonoverlapping(block, bytes.min(wanted));
        unmap(block.as_ptr().expose_provenance(), bytes);
        Some(moved)
    }
}

impl Kept {
    /// The smallest block that has room and is not much larger; what is too much goes back to the system.
    fn take(&mut self, bytes: usize) -> Option<Block> {
        let most = bytes + bytes / 8;
        let fitting = self.blocks[..self.count].iter().enumerate().rev();
        let fitting = fitting.filter(|(_, block)| (bytes..=most).contains(&block.bytes));
        let (at, block) = fitting.min_by_key(|(_, block)| block.bytes)?;
        let block = *block;
        self.remove(at);
        if block.bytes > bytes {
            unmap(block.address + bytes, block.bytes - bytes);
        }
        Some(block)
    }

    fn remove(&mut self, at: usize) {
        self.bytes -= self.blocks[at].bytes;
        self.blocks.copy_within(at + 1..self.count, at);
        self.count -= 1;
    }

    fn drop_oldest(&mut self) {
        let Block { address, bytes } = self.blocks[0];
        self.remove(0);
        unmap(address, bytes);
    }

    fn shrink(&mut self, spare: usize) {
        while self.bytes > spare && self.count > 0 {
            self.drop_oldest();
        }
    }
}

fn map(bytes: usize) -> Option<NonNull<u8>> {
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    #[expect(unsafe_code, reason = "a system call without a safe form")]
    // SAFETY: a new mapping touches none that is there.
    let block = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
    if block == libc::MAP_FAILED { None } else { NonNull::new(block.cast()) }
}

fn unmap(address: usize, bytes: usize) {
    #[expect(unsafe_code, reason = "a system call without a safe form")]
    // SAFETY: these pages were mapped here, whole, and nobody holds them any more.
    unsafe {
        libc::munmap(ptr::with_exposed_provenance_mut(address), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, because what is kept is the process's.
    #[test]
    fn blocks_come_back_whole_and_only_as_many_as_may_be_kept() {
        const BLOCK: usize = 40 * PAGE;
        let write = |block: NonNull<u8>, byte: u8| {
            #[expect(unsafe_code, reason = "memory without a type")]
            // SAFETY: a block of that size.
            unsafe {
                block.write_bytes(byte, BLOCK);
            }
        };
        let read = |block: NonNull<u8>, at: usize| {
            #[expect(unsafe_code, reason = "memory without a type")]
            // SAFETY: a block of that size, written before.
            unsafe {
                block.add(at).read()
            }
        };
        keep(true);
        let first = take(BLOCK - 5, true, usize::MAX).unwrap();
        assert_eq!(first.as_ptr().addr() % PAGE, 0);
        write(first, 7);
        give(first, BLOCK - 5);
        let again = take(BLOCK, false, usize::MAX).unwrap();
        assert_eq!((again, read(again, BLOCK - 1)), (first, 7));
        give(again, BLOCK);
        let zeros = take(BLOCK - PAGE, true, usize::MAX).unwrap();
        assert_eq!((zeros, read(zeros, 0)), (first, 0), "the nearest larger one");
        let larger = resize(zeros, BLOCK - PAGE, 10 * BLOCK).unwrap();
        assert_eq!(read(larger, 9 * BLOCK), 0);
        give(larger, 10 * BLOCK);
        assert_eq!(kept().bytes, 10 * BLOCK);
        let other = take(BLOCK, true, 9 * BLOCK).unwrap();
        assert_eq!(kept().bytes, 0, "more than there was to spare");
        give(other, BLOCK);
        keep(false);
        assert_eq!(kept().bytes, 0);
    }
}
