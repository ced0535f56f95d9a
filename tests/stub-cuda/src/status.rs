//! What the driver answers: NVIDIA's numbers, and how a result becomes one.

use std::ffi::{CStr, c_char, c_uint};

/// Why a call of the driver's failed, by the numbers of `CUresult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    InvalidValue = 1,
    OutOfMemory = 2,
    InvalidDevice = 101,
    InvalidContext = 201,
    InvalidHandle = 400,
    NotFound = 500,
    LaunchFailed = 719,
    NotSupported = 801,
}

pub(crate) type Answer<T = ()> = Result<T, Error>;

const SUCCESS: c_uint = 0;

/// The number of an answer.
pub(crate) fn code(answer: Answer) -> c_uint {
    answer.err().map_or(SUCCESS, |error| error as c_uint)
}

/// Writes `value` where the caller asked for it.
pub(crate) fn put<T>(place: *mut T, value: T) -> Answer {
    if place.is_null() {
        return Err(Error::InvalidValue);
    }
    // SAFETY: CUDA's contract has the caller pass a valid place for a `T`.
    unsafe { place.write(value) };
    Ok(())
}

/// NVIDIA's name of a number, and what it means.
fn words(code: c_uint) -> Option<(&'static CStr, &'static CStr)> {
    Some(match code {
        0 => (c"CUDA_SUCCESS", c"no error"),
        1 => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        2 => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        101 => (c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal"),
        201 => (c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
        400 => (c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle"),
        500 => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        719 => (c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
        801 => (c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported"),
        _ => return None,
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(error: c_uint, name: *mut *const c_char) -> c_uint {
    let words = words(error).ok_or(Error::InvalidValue);
    code(words.and_then(|(short, _)| put(name, short.as_ptr())))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(error: c_uint, text: *mut *const c_char) -> c_uint {
    let words = words(error).ok_or(Error::InvalidValue);
    code(words.and_then(|(_, long)| put(text, long.as_ptr())))
}
