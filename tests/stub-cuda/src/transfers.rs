//! The driver's calls for memory: to have some, to fill and to copy it, and how much there is. They return when it is
//! done, whether their names say so or not.

use std::ffi::{c_int, c_uchar, c_uint, c_void};

use crate::device::has_context;
use crate::memory::{self, Source};
use crate::status::{Answer, Error, code, put};
use crate::streams;

/// The device's pool, which is the only one. Any address would do.
const POOL: *mut c_void = std::ptr::without_provenance_mut(0x20);

fn check(pool: *mut c_void) -> Answer {
    if pool == POOL { Ok(()) } else { Err(Error::InvalidValue) }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(place: *mut u64, bytes: usize) -> c_uint {
    code(has_context().and_then(|()| put(place, memory::card().allocate(bytes, Source::Device)?)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(begin: u64) -> c_uint {
    code(has_context().and_then(|()| memory::card().release(begin)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(place: *mut u64, bytes: usize, stream: usize) -> c_uint {
    code(
        streams::check(stream)
            .and_then(|()| put(place, memory::card().allocate(bytes, Source::Pool)?)),
    )
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocFromPoolAsync(
    place: *mut u64,
    bytes: usize,
    pool: *mut c_void,
    stream: usize,
) -> c_uint {
    match check(pool) {
        Ok(()) => cuMemAllocAsync(place, bytes, stream),
        Err(error) => code(Err(error)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(begin: u64, stream: usize) -> c_uint {
    code(streams::check(stream).and_then(|()| memory::card().release(begin)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_uint {
    code(has_context().and_then(|()| {
        let card = memory::card();
        put(free, card.free() as usize)?;
        put(total, card.limit() as usize)
    }))
}

fn fill(to: u64, byte: c_uchar, bytes: usize) -> Answer {
    let card = memory::card();
    // SAFETY: so many bytes lie there, and the card is locked.
    unsafe { card.reach(to, bytes)?.write_bytes(byte, bytes) };
    Ok(())
}

fn upload(to: u64, from: *const c_void, bytes: usize) -> Answer {
    let card = memory::card();
    let to = card.reach(to, bytes)?;
    if bytes > 0 && from.is_null() {
        return Err(Error::InvalidValue);
    }
    if bytes > 0 {
        // SAFETY: so many bytes lie there, the card is locked, and the caller has as many to read.
        unsafe { to.copy_from(from.cast(), bytes) };
    }
    Ok(())
}

fn download(to: *mut c_void, from: u64, bytes: usize) -> Answer {
    let card = memory::card();
    let from = card.reach(from, bytes)?;
    if bytes > 0 && to.is_null() {
        return Err(Error::InvalidValue);
    }
    if bytes > 0 {
        // SAFETY: so many bytes lie there, the card is locked, and the caller has room for as many.
        unsafe { from.copy_to(to.cast(), bytes) };
    }
    Ok(())
}

fn copy(to: u64, from: u64, bytes: usize) -> Answer {
    let card = memory::card();
    // SAFETY: so many bytes lie at both places, and the card is locked.
    unsafe { card.reach(to, bytes)?.copy_from(card.reach(from, bytes)?, bytes) };
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(to: u64, byte: c_uchar, bytes: usize) -> c_uint {
    code(has_context().and_then(|()| fill(to, byte, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, byte: c_uchar, bytes: usize, stream: usize) -> c_uint {
    code(streams::check(stream).and_then(|()| fill(to, byte, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) -> c_uint {
    code(has_context().and_then(|()| upload(to, from, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const c_void,
    bytes: usize,
    stream: usize,
) -> c_uint {
    code(streams::check(stream).and_then(|()| upload(to, from, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) -> c_uint {
    code(has_context().and_then(|()| download(to, from, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: u64,
    bytes: usize,
    stream: usize,
) -> c_uint {
    code(streams::check(stream).and_then(|()| download(to, from, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> c_uint {
    code(has_context().and_then(|()| copy(to, from, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> c_uint {
    code(streams::check(stream).and_then(|()| copy(to, from, bytes)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut *mut c_void, device: c_int) -> c_uint {
    match device {
        0 => code(put(pool, POOL)),
        _ => code(Err(Error::InvalidDevice)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetMemPool(pool: *mut *mut c_void, device: c_int) -> c_uint {
    cuDeviceGetDefaultMemPool(pool, device)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(pool: *mut c_void, _bytes: usize) -> c_uint {
    code(check(pool))
}

/// By the numbers of `CUmemPool_attribute`.
#[unsafe(no_mangle)]
extern "C" fn cuMemPoolGetAttribute(
    pool: *mut c_void,
    attribute: c_uint,
    value: *mut c_void,
) -> c_uint {
    let count = memory::card().pool();
    code(check(pool).and_then(|()| match attribute {
        // Whether memory is used again, in three ways.
        1..=3 => put(value.cast::<c_int>(), 1),
        // How much is kept when it is not used.
        4 => put(value.cast::<u64>(), 0),
        // Reserved and used.
        5 | 7 => put(value.cast(), count.now),
        6 | 8 => put(value.cast(), count.high),
        _ => Err(Error::InvalidValue),
    }))
}

/// By the numbers of `CUmemPool_attribute`: how the pool keeps memory is of no consequence here, and of the counts
/// only the highest may be set, and only to begin anew.
///
/// # Safety
/// `value` points to a number of the attribute's type.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemPoolSetAttribute(
    pool: *mut c_void,
    attribute: c_uint,
    value: *mut c_void,
) -> c_uint {
    code(check(pool).and_then(|()| match attribute {
        1..=4 => Ok(()),
        6 | 8 if value.is_null() => Err(Error::InvalidValue),
        6 | 8 => {
            // SAFETY: the caller's promise, and these attributes are of 64 bits.
            if unsafe { value.cast::<u64>().read() } != 0 {
                return Err(Error::InvalidValue);
            }
            memory::card().reset_high();
            Ok(())
        }
        _ => Err(Error::InvalidValue),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_go_there_and_back_and_stay_within_a_piece() {
        let numbers = [1.5f32, -2.0, 0.25];
        let bytes = size_of_val(&numbers);
        let [a, b] = [(); 2].map(|()| memory::card().allocate(bytes, Source::Pool).unwrap());
        upload(a, numbers.as_ptr().cast(), bytes).unwrap();
        fill(b, 0, bytes).unwrap();
        copy(b + 4, a + 4, 4).unwrap();
        let mut back = [f32::NAN; 3];
        download(back.as_mut_ptr().cast(), b, bytes).unwrap();
        assert_eq!(back, [0.0, -2.0, 0.0]);

        assert_eq!(upload(a + 4, numbers.as_ptr().cast(), bytes), Err(Error::InvalidValue));
        assert_eq!(download(back.as_mut_ptr().cast(), a, bytes + 1), Err(Error::InvalidValue));
        assert_eq!(copy(b + 8, a, 8), Err(Error::InvalidValue));
        assert_eq!(fill(b, 0, bytes + 1), Err(Error::InvalidValue));
        memory::card().release(a).unwrap();
        assert_eq!(copy(b, a, 4), Err(Error::InvalidValue));
        memory::card().release(b).unwrap();
    }

    #[test]
    fn a_thread_without_the_context_has_no_default_stream() {
        std::thread::spawn(|| {
            let mut place = 0;
            assert_eq!(cuMemAllocAsync(&raw mut place, 4, 2), Error::InvalidContext as c_uint);
            assert_eq!(cuMemFreeAsync(place, 2), Error::InvalidContext as c_uint);
        })
        .join()
        .unwrap();
    }
}
