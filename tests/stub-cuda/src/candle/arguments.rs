//! What a kernel is launched with.

use std::ffi::c_void;
use std::{ptr, slice};

use super::walk::Walk;

/// A kernel's arguments, by their addresses.
#[derive(Clone, Copy)]
pub(crate) struct Arguments(*const *const c_void);

impl Arguments {
    /// # Safety
    /// They are as many as the kernel takes that they are given to, of its types, and what they point to is there.
    pub(crate) unsafe fn new(addresses: *const *const c_void) -> Self {
        Self(addresses)
    }

    /// An argument by its place. Each kernel asks for what its source in `candle-kernels` declares.
    pub(super) fn get<T: Copy>(self, place: usize) -> T {
        // SAFETY: who made it promised that the kernel's arguments are there.
        unsafe { self.0.add(place).read().cast::<T>().read() }
    }

    /// The dimensions of a tensor and the strides of `N` from a list at `place`, with how many dimensions there are
    /// before it; `count` numbers in all. Without a list, all lie close.
    pub(super) fn walk<'a, const N: usize>(self, place: usize, count: usize) -> Walk<'a, N> {
        let rank: usize = self.get(place - 1);
        let list: *const usize = self.get(place);
        let strided = (!list.is_null()).then(|| {
            // SAFETY: who made it promised that the list is there: the dimensions, then each tensor's strides.
            let list = unsafe { slice::from_raw_parts(list, rank * (1 + N)) };
            let part = |i: usize| &list[i * rank..(i + 1) * rank];
            (part(0), std::array::from_fn(|tensor| part(1 + tensor)))
        });
        Walk { count, strided }
    }

    /// Puts into the `i`th number of a tensor what `value` finds at the `i`th places of `N` others. The tensor and
    /// they may be the same.
    pub(super) fn fill<const N: usize, T>(
        self,
        walk: &Walk<'_, N>,
        out: usize,
        value: impl Fn([usize; N]) -> T,
    ) {
        let out: *mut T = self.get(out);
        // SAFETY: who made it promised that as many numbers are there as the walk has.
        walk.each(|i, places| unsafe { out.add(i).write(value(places)) });
    }

    /// The number of a tensor that lies somewhere.
    pub(super) fn number<T: Copy>(tensor: *const T, place: usize) -> T {
        // SAFETY: who made the arguments promised that the tensor's numbers are there.
        unsafe { ptr::read(tensor.add(place)) }
    }
}
