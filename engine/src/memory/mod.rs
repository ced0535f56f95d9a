//! What this process holds on the heap and of mapped weights, and the bound a run is kept to.
//!
//! On the CPU the heap stands for a card's memory: a run ordered with a limit fails as out of memory where a card of
//! that size would have. Binaries install [`Meter`]; where nobody did, everything reads 0 and [`check`] always
//! passes. Of files mapped into memory only weights are counted ([`Held`]): a card would hold them. While a run
//! computes on a card, the card's driver counts in the heap's place ([`card`]).
//!
//! ```
//! #[global_allocator]
//! static METER: fleetune_engine::memory::Meter = fleetune_engine::memory::Meter;
//! ```

mod blocks;
mod card;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use fleetune_shared::ByteSize;

pub(crate) use self::card::refusal;
pub use self::card::{Counter, count_by};
use crate::{EngineError, Result};

static CURRENT: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Where an allocation is a block of its own: what a C library takes for large as well.
const LARGE: usize = 128 << 10;

/// From this size on an allocation begins with a cache line: what loads one whole wants no more than one of them, a
/// matrix register most of all.
const LINED: usize = 8 << 10;
const LINE: usize = 64;

/// The system's allocator, counting; large blocks are kept for the next while a [`Steady`] lives.
pub struct Meter;

fn grown(bytes: usize) {
    let now = CURRENT.fetch_add(bytes, Relaxed) + bytes;
    if now > PEAK.load(Relaxed) {
        PEAK.fetch_max(now, Relaxed);
    }
}

/// Whether it is a block of its own.
fn large(layout: Layout) -> bool {
    layout.size() >= LARGE && layout.align() <= blocks::PAGE
}

/// What the system is asked for, where it is asked.
fn lined(layout: Layout) -> Layout {
    if layout.size() < LINED {
        return layout;
    }
    layout.align_to(LINE).unwrap_or(layout)
}

fn take(bytes: usize, zeroed: bool) -> *mut u8 {
    let peak = PEAK.load(Relaxed);
    // A little more than the peak, so that the moment of it does not scatter all that the next needs.
    let spare = (peak + peak / 64).saturating_sub(CURRENT.load(Relaxed) + bytes);
    blocks::take(bytes, zeroed, spare).map_or(ptr::null_mut(), NonNull::as_ptr)
}

fn counted(pointer: *mut u8, bytes: usize) -> *mut u8 {
    if !pointer.is_null() {
        grown(bytes);
    }
    pointer
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: small layouts are handed to `System`, with more of an alignment at most, large ones to `blocks`; which they
// are and what is asked for is told by the layout alone, so what one gave comes back to the same.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let bytes = layout.size();
        if large(layout) {
            return counted(take(bytes, false), bytes);
        }
        // SAFETY: the caller's promise about `layout` is passed on.
        counted(unsafe { System.alloc(lined(layout)) }, bytes)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let bytes = layout.size();
        if large(layout) {
            return counted(take(bytes, true), bytes);
        }
        // SAFETY: as in `alloc`.
        counted(unsafe { System.alloc_zeroed(lined(layout)) }, bytes)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match NonNull::new(pointer) {
            Some(block) if large(layout) => blocks::give(block, layout.size()),
            // SAFETY: the caller got `pointer` from this allocator, that is from `System`, with what this layout becomes.
            _ => unsafe { System.dealloc(pointer, lined(layout)) },
        }
        CURRENT.fetch_sub(layout.size(), Relaxed);
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: a size with the alignment of a layout is what the caller promised to ask for.
        let wanted = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        let moved = match (large(layout), large(wanted)) {
            // SAFETY: as in `dealloc`; `bytes` is the caller's promise.
            (false, false) if lined(layout).align() == lined(wanted).align() => unsafe {
                System.realloc(pointer, lined(layout), bytes)
            },
            (true, true) => NonNull::new(pointer)
                .and_then(|block| blocks::resize(block, layout.size(), bytes))
                .map_or(ptr::null_mut(), NonNull::as_ptr),
            // From one home to the other; the two count for themselves.
            // SAFETY: both allocations are of this allocator, apart, and at least as large as what is copied.
            _ => unsafe {
                let moved = self.alloc(wanted);
                if !moved.is_null() {
                    moved.copy_from_nonoverlapping(pointer, bytes.min(layout.size()));
                    self.dealloc(pointer, layout);
                }
                return moved;
            },
        };
        if !moved.is_null() {
            grown(bytes);
            CURRENT.fetch_sub(layout.size(), Relaxed);
        }
        moved
    }
}

/// Bytes that are no allocation and count as one while this lives.
#[derive(Debug)]
pub(crate) struct Held(usize);

impl Held {
    pub(crate) fn of(bytes: usize) -> Self {
        grown(bytes);
        Self(bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        CURRENT.fetch_sub(self.0, Relaxed);
    }
}

/// While it lives, large blocks that are given back are kept for the next of their size, within the peak so far: what a
/// run needs whose steps all ask for the same.
#[derive(Debug)]
pub(crate) struct Steady(());

impl Steady {
    pub(crate) fn begin() -> Self {
        blocks::keep(true);
        Self(())
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        blocks::keep(false);
    }
}

/// Bytes held now.
#[must_use]
pub fn current() -> ByteSize {
    ByteSize(card::counter().map_or(CURRENT.load(Relaxed) as u64, |card| card.current()))
}

/// The most bytes held at any moment since the start or [`reset_peak`].
#[must_use]
pub fn peak() -> ByteSize {
    ByteSize(card::counter().map_or(PEAK.load(Relaxed) as u64, |card| card.peak()))
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
    if let Some(card) = card::counter() {
        card.forget_peak();
    }
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
    /// Sets it and forgets the peak so far. `card` counts from here on, or the heap where there is none, until another
    /// bound is set: whoever fails is still asked what it took.
    pub(crate) fn set(bytes: Option<ByteSize>, card: Option<Arc<dyn Counter>>) -> Self {
        count_by(card);
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
    let (needed, limit) = (peak(), ByteSize(LIMIT.load(Relaxed) as u64));
    if needed <= limit { Ok(()) } else { Err(EngineError::OutOfMemory { needed, limit }) }
}
