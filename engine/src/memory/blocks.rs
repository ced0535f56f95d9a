//! Large blocks of memory, mapped page by page from the system, and kept for the next of their size while a run lasts.
//!
//! A training step asks for the same blocks every time. Giving them back in between would have the system clear every
//! page again, which costs as much as a pass over the numbers; kept, a steady step asks the system for nothing. What is
//! kept is never more than what was held at the highest moment and is not held now, so the process stays as small as
//! its peak. What is given back joins what is kept beside it, and what is asked for is cut from the smallest that has
//! room: activations of the forward pass lie where gradients lay in the step before. Blocks begin with a page, so that
//! rows of matrices begin with a cache line.

use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A block begins and ends with one.
pub(super) const PAGE: usize = 4096;
/// What is at least as large is written whole soon, and cleared by the system in as few steps as it can.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;
/// How many blocks are kept at most.
const SLOTS: usize = 2048;

/// A block that nobody holds, whole pages.
#[derive(Clone, Copy)]
struct Block {
    address: usize,
    bytes: usize,
}

impl Block {
    fn end(self) -> usize {
        self.address + self.bytes
    }
}

/// What is kept, by address; no two lie beside each other.
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
    let Some(address) = found else { return map(bytes) };
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
    kept.give(Block { address: block.as_ptr().expose_provenance(), bytes });
}

/// Makes a block that [`take`] gave larger or smaller, and moves it where it has to.
pub(super) fn resize(block: NonNull<u8>, bytes: usize, wanted: usize) -> Option<NonNull<u8>> {
    let (bytes, wanted) = (bytes.next_multiple_of(PAGE), wanted.checked_next_multiple_of(PAGE)?);
    if bytes == wanted {
        return Some(block);
    }
    #[cfg(target_os = "linux")]
    {
        #[expect(unsafe_code, reason = "a system call without a safe form")]
        // SAFETY: the caller holds the whole block, and nobody else does.
        let moved =
            unsafe { libc::mremap(block.as_ptr().cast(), bytes, wanted, libc::MREMAP_MAYMOVE) };
        // The system moves only what it mapped as one, which blocks that lay beside each other need not be.
        if moved != libc::MAP_FAILED {
            return NonNull::new(moved.cast());
        }
    }
    let moved = map(wanted)?;
    #[expect(unsafe_code, reason = "memory without a type yet")]
    // SAFETY: two blocks, both ours and as large as what is copied.
    unsafe {
        moved.copy_from_nonoverlapping(block, bytes.min(wanted));
    }
    unmap(block.as_ptr().expose_provenance(), bytes);
    Some(moved)
}

impl Kept {
    /// Cuts `bytes` from the smallest block that has room.
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let fitting = self.blocks[..self.count].iter_mut().enumerate();
        let fitting = fitting.filter(|(_, block)| block.bytes >= bytes);
        let (at, block) = fitting.min_by_key(|(_, block)| block.bytes)?;
        let address = block.address;
        block.address += bytes;
        block.bytes -= bytes;
        self.bytes -= bytes;
        if block.bytes == 0 {
            self.remove(at);
        }
        Some(address)
    }

    /// Joins a block to those it lies beside.
    fn give(&mut self, block: Block) {
        let at = self.blocks[..self.count].partition_point(|other| other.address < block.address);
        let joins_before = at > 0 && self.blocks[at - 1].end() == block.address;
        let joins_after = at < self.count && block.end() == self.blocks[at].address;
        match (joins_before, joins_after) {
            (true, true) => {
                self.blocks[at - 1].bytes += block.bytes + self.blocks[at].bytes;
                self.remove(at);
            }
            (true, false) => self.blocks[at - 1].bytes += block.bytes,
            (false, true) => {
                self.blocks[at].address = block.address;
                self.blocks[at].bytes += block.bytes;
            }
            (false, false) if self.count == SLOTS => {
                return unmap(block.address, block.bytes);
            }
            (false, false) => {
                self.blocks.copy_within(at..self.count, at + 1);
                self.blocks[at] = block;
                self.count += 1;
            }
        }
        self.bytes += block.bytes;
    }

    fn remove(&mut self, at: usize) {
        self.blocks.copy_within(at + 1..self.count, at);
        self.count -= 1;
    }

    /// Gives back what is kept above `spare`, the smallest blocks first: the larger ones have room for more.
    fn shrink(&mut self, spare: usize) {
        while self.bytes > spare {
            let smallest = self.blocks[..self.count].iter().enumerate();
            let Some((at, block)) = smallest.min_by_key(|(_, block)| block.bytes) else { return };
            let bytes = (self.bytes - spare).next_multiple_of(PAGE).min(block.bytes);
            unmap(block.end() - bytes, bytes);
            self.blocks[at].bytes -= bytes;
            self.bytes -= bytes;
            if self.blocks[at].bytes == 0 {
                self.remove(at);
            }
        }
    }
}

fn map(bytes: usize) -> Option<NonNull<u8>> {
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    #[expect(unsafe_code, reason = "a system call without a safe form")]
    // SAFETY: a new mapping touches none that is there.
    let block = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
    if block == libc::MAP_FAILED {
        return None;
    }
    #[cfg(target_os = "linux")]
    if bytes >= HUGE_PAGE {
        #[expect(unsafe_code, reason = "a system call without a safe form")]
        // SAFETY: these pages were mapped a moment ago. Where the system has no larger ones, nothing changes.
        unsafe {
            libc::madvise(block, bytes, libc::MADV_HUGEPAGE);
        }
    }
    NonNull::new(block.cast())
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
        assert_eq!((zeros, read(zeros, 0)), (first, 0), "cut from what is larger");
        assert_eq!(kept().bytes, PAGE);
        // What is left of the first lies behind it.
        let last = take(PAGE, false, usize::MAX).unwrap();
        assert_eq!(last.as_ptr().addr(), first.as_ptr().addr() + BLOCK - PAGE);
        give(last, PAGE);
        let larger = resize(zeros, BLOCK - PAGE, 10 * BLOCK).unwrap();
        assert_eq!(read(larger, 9 * BLOCK), 0);
        give(larger, 10 * BLOCK);
        assert_eq!(kept().bytes, 10 * BLOCK + PAGE);
        // Three beside each other, given back in any order, are one.
        let three = [0, 1, 2].map(|_| take(BLOCK, true, usize::MAX).unwrap());
        for i in [0, 2, 1] {
            give(three[i], BLOCK);
        }
        let largest = |kept: &Kept| kept.blocks[..kept.count].iter().map(|b| b.bytes).max();
        assert_eq!(largest(&kept()), Some(10 * BLOCK));
        // Of what the system maps as several, here because one part may not be forked, a block is moved by hand.
        let seam = take(4 * BLOCK, true, usize::MAX).unwrap();
        write(seam, 9);
        #[expect(unsafe_code, reason = "a system call without a safe form")]
        // SAFETY: pages of a block that is ours.
        let advised = unsafe { libc::madvise(seam.as_ptr().cast(), BLOCK, libc::MADV_DONTFORK) };
        assert_eq!(advised, 0);
        let moved = resize(seam, 4 * BLOCK, 6 * BLOCK).unwrap();
        assert_eq!(read(moved, BLOCK - 1), 9);
        give(moved, 6 * BLOCK);
        let other = take(BLOCK, true, 4 * BLOCK).unwrap();
        assert_eq!(kept().bytes, 4 * BLOCK, "no more than there is to spare");
        give(other, BLOCK);
        keep(false);
        assert_eq!(kept().bytes, 0);
    }
}
