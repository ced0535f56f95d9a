//! What this process holds on the heap, and the bound a run is kept to.
//!
//! On the CPU the heap stands for a card's memory: a run ordered with a limit fails as out of memory where a card of
//! that size would have. Binaries install [`Meter`]; where nobody did, everything reads 0 and [`check`] always
//! passes. Files mapped into memory are not counted, they are the page cache's.
//!
//! ```
//! #[global_allocator]
//! static METER: fleetune_engine::memory::Meter = fleetune_engine::memory::Meter;
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fleetune_shared::ByteSize;

use crate::{EngineError, Result};

static CURRENT: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The system's allocator, counting.
pub struct Meter;

fn grown(bytes: usize) {
    let now = CURRENT.fetch_add(bytes, Relaxed) + bytes;
    if now > PEAK.load(Relaxed) {
        PEAK.fetch_max(now, Relaxed);
    }
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; this one only counts")]
// SAFETY: every call is handed to `System` with its arguments unchanged.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about `layout` is passed on.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            grown(layout.size());
        }
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            grown(layout.size());
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller got `pointer` from this allocator, that is from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) };
        CURRENT.fetch_sub(layout.size(), Relaxed);
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as in `dealloc`; `bytes` is the caller's promise.
        let moved = unsafe { System.realloc(pointer, layout, bytes) };
        if !moved.is_null() {
            grown(bytes);
            CURRENT.fetch_sub(layout.size(), Relaxed);
        }
        moved
    }
}

/// Bytes held now.
#[must_use]
pub fn current() -> ByteSize {
    ByteSize(CURRENT.load(Relaxed) as u64)
}

/// The most bytes held at any moment since the start or [`reset_peak`].
#[must_use]
pub fn peak() -> ByteSize {
    ByteSize(PEAK.load(Relaxed) as u64)
}

/// The most of this process that was in memory at any moment since its start, mapped files included, where the system
/// says so (`VmHWM` of Linux).
#[must_use]
pub fn resident_peak() -> Option<ByteSize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(ByteSize(kib << 10))
}

/// Forgets the peak so far.
pub fn reset_peak() {
    PEAK.store(CURRENT.load(Relaxed), Relaxed);
}

/// Bounds the process from here on; `None` lifts the bound. Nothing happens at the moment the bound is passed: the
/// next [`check`] tells.
pub fn limit(bytes: Option<ByteSize>) {
    reset_peak();
    LIMIT.store(bytes.map_or(usize::MAX, |b| usize::try_from(b.0).unwrap_or(usize::MAX)), Relaxed);
}

/// A bound on the process for as long as this lives.
pub(crate) struct Bound;

impl Bound {
    /// Sets it and forgets the peak so far.
    pub(crate) fn set(bytes: Option<ByteSize>) -> Self {
        limit(bytes);
        Self
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        limit(None);
    }
}

/// Asks whether the bound was passed at any moment since it was set: a card would have refused that allocation, even
/// if it was freed since. Cheap enough for every block of a model.
///
/// # Errors
/// [`EngineError::OutOfMemory`].
pub fn check() -> Result<()> {
    let (peak, limit) = (PEAK.load(Relaxed), LIMIT.load(Relaxed));
    if peak <= limit {
        return Ok(());
    }
    Err(EngineError::OutOfMemory { needed: ByteSize(peak as u64), limit: ByteSize(limit as u64) })
}
