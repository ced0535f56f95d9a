//! The one device and its context, of which each thread chooses whether it works in it.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::memory;
use crate::status::{Answer, Error, code, put};

/// The primary context, which is the only one. Any address would do.
const CONTEXT: *mut c_void = std::ptr::without_provenance_mut(0x10);
const NAME: &[u8] = b"Stub GPU\0";
const UUID: [u8; 16] = *b"stub GPU, no. 0.";
/// The driver's, as `cuDriverGetVersion` writes 13.2.
const VERSION: c_int = 13020;

thread_local! {
    static CURRENT: Cell<*mut c_void> = const { Cell::new(std::ptr::null_mut()) };
}

/// Whether the calling thread has chosen the context.
pub(crate) fn has_context() -> Answer {
    if CURRENT.get().is_null() { Err(Error::InvalidContext) } else { Ok(()) }
}

fn check(device: c_int) -> Answer {
    if device == 0 { Ok(()) } else { Err(Error::InvalidDevice) }
}

/// By the numbers of `CUdevice_attribute`: what an RTX 3080 answers.
fn attribute(number: c_uint) -> Answer<c_int> {
    Ok(match number {
        1 => 1024,      // MAX_THREADS_PER_BLOCK
        8 => 48 << 10,  // MAX_SHARED_MEMORY_PER_BLOCK
        10 => 32,       // WARP_SIZE
        16 => 68,       // MULTIPROCESSOR_COUNT
        39 => 1536,     // MAX_THREADS_PER_MULTIPROCESSOR
        75 => 8,        // COMPUTE_CAPABILITY_MAJOR
        76 => 6,        // COMPUTE_CAPABILITY_MINOR
        97 => 99 << 10, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        115 => 1,       // MEMORY_POOLS_SUPPORTED
        _ => {
            eprintln!("stub-cuda: no answer for device attribute {number}");
            return Err(Error::InvalidValue);
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> c_uint {
    code(Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_uint {
    code(put(version, VERSION))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_uint {
    code(put(count, 1))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_uint {
    code(check(ordinal).and_then(|()| put(device, ordinal)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> c_uint {
    let room = usize::try_from(length).unwrap_or(0);
    code(check(device).and_then(|()| {
        if room < NAME.len() || name.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: the caller has room for `length` bytes, which are enough.
        unsafe { name.copy_from_nonoverlapping(NAME.as_ptr().cast(), NAME.len()) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_uint {
    code(check(device).and_then(|()| put(uuid, UUID)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> c_uint {
    code(check(device).and_then(|()| put(bytes, memory::card().limit() as usize)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: *mut c_int, number: c_uint, device: c_int) -> c_uint {
    code(check(device).and_then(|()| put(value, attribute(number)?)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> c_uint {
    code(check(device).and_then(|()| put(context, CONTEXT)))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_uint {
    code(check(device))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> c_uint {
    code(put(context, CURRENT.get()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> c_uint {
    if !context.is_null() && context != CONTEXT {
        return code(Err(Error::InvalidContext));
    }
    CURRENT.set(context);
    code(Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> c_uint {
    code(has_context())
}
