//! The C interface: one function per call that `nvml-wrapper` makes for a probe.
//!
//! Names, signatures and struct layouts are those of `nvml.h` (API version 12).

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::{env, fs};

use crate::{ANSWERS, Answers, CardAnswer};

const SUCCESS: c_uint = 0;
const INVALID_ARGUMENT: c_uint = 2;
const NOT_FOUND: c_uint = 6;
const INSUFFICIENT_SIZE: c_uint = 7;
const UNKNOWN: c_uint = 999;

/// `NVML_VALUE_NOT_AVAILABLE`.
const NOT_AVAILABLE: u64 = u64::MAX;

/// A card's index plus one, so that none is null.
type Handle = *mut c_void;

/// `nvmlMemory_v2_t`.
#[repr(C)]
pub struct Memory {
    version: c_uint,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

/// `nvmlProcessInfo_t`.
#[repr(C)]
pub struct Process {
    pid: c_uint,
    used: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

fn answers() -> Result<Answers, c_uint> {
    let path = env::var_os(ANSWERS).ok_or(UNKNOWN)?;
    let text = fs::read(path).map_err(|_| UNKNOWN)?;
    let answers: Answers = serde_json::from_slice(&text).map_err(|_| UNKNOWN)?;
    if answers.error == SUCCESS { Ok(answers) } else { Err(answers.error) }
}

fn card(handle: Handle) -> Result<CardAnswer, c_uint> {
    let index = (handle as usize).checked_sub(1).ok_or(INVALID_ARGUMENT)?;
    let card = answers()?.cards.into_iter().nth(index).ok_or(INVALID_ARGUMENT)?;
    if card.error == SUCCESS { Ok(card) } else { Err(card.error) }
}

fn code(result: Result<(), c_uint>) -> c_uint {
    result.err().unwrap_or(SUCCESS)
}

/// Writes `value` where the caller asked for it.
fn put<T>(place: *mut T, value: T) -> Result<(), c_uint> {
    if place.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: NVML's contract has the caller pass a valid place for a `T`.
    unsafe { place.write(value) };
    Ok(())
}

fn put_text(place: *mut c_char, length: c_uint, text: &str) -> Result<(), c_uint> {
    if place.is_null() || text.len() >= length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: the caller's buffer has `length` bytes, more than the text and its closing NUL.
    unsafe {
        place.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        place.add(text.len()).write(0);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_uint {
    code(answers().map(drop))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_uint {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(_code: c_uint) -> *const c_char {
    c"an error of the stub".as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(text: *mut c_char, length: c_uint) -> c_uint {
    code(put_text(text, length, "570.00"))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_uint {
    code(answers().and_then(|answers| put(count, answers.cards.len() as c_uint)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, handle: *mut Handle) -> c_uint {
    let device = (index as usize + 1) as Handle;
    code(card(device).and_then(|_| put(handle, device)))
}

/// # Safety
/// `uuid` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(
    uuid: *const c_char,
    handle: *mut Handle,
) -> c_uint {
    // SAFETY: the caller's promise.
    let uuid = unsafe { CStr::from_ptr(uuid) }.to_string_lossy();
    code(answers().and_then(|answers| {
        let index = answers.cards.iter().position(|card| card.uuid == uuid).ok_or(NOT_FOUND)?;
        put(handle, (index + 1) as Handle)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(device: Handle, text: *mut c_char, length: c_uint) -> c_uint {
    code(card(device).and_then(|card| put_text(text, length, &card.name)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(device: Handle, text: *mut c_char, length: c_uint) -> c_uint {
    code(card(device).and_then(|card| put_text(text, length, &card.uuid)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Handle, memory: *mut Memory) -> c_uint {
    code(card(device).and_then(|card| {
        put(
            memory,
            Memory {
                version: (size_of::<Memory>() | 2 << 24) as c_uint,
                total: card.total,
                reserved: card.reserved,
                free: card.total - card.reserved - card.used,
                used: card.used,
            },
        )
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCudaComputeCapability(
    device: Handle,
    major: *mut c_int,
    minor: *mut c_int,
) -> c_uint {
    code(card(device).and_then(|card| {
        put(major, card.compute.0)?;
        put(minor, card.compute.1)
    }))
}

/// # Safety
/// `count` holds how many processes there is room for at `processes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Handle,
    count: *mut c_uint,
    processes: *mut Process,
) -> c_uint {
    let card = match card(device) {
        Ok(card) => card,
        Err(error) => return error,
    };
    let needed = card.processes.len() as c_uint;
    // SAFETY: the caller's promise.
    let room = unsafe { count.replace(needed) };
    if needed == 0 {
        return SUCCESS;
    }
    if room < needed || processes.is_null() {
        return INSUFFICIENT_SIZE;
    }
    for (i, process) in card.processes.iter().enumerate() {
        let process = Process {
            pid: process.pid,
            used: process.used.unwrap_or(NOT_AVAILABLE),
            gpu_instance: c_uint::MAX,
            compute_instance: c_uint::MAX,
        };
        // SAFETY: `i` is below `needed`, and the caller has room for that many.
        unsafe { processes.add(i).write(process) };
    }
    SUCCESS
}
