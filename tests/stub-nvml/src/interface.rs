//! The C interface: one function per call that `nvml-wrapper` makes for a probe.
//!
//! Names, signatures and struct layouts are those of `nvml.h` (API version 12).

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::{env, fs};

use crate::{ANSWERS, Answers, CardAnswer, ProcessAnswer, Script};

pub(crate) const SUCCESS: c_uint = 0;
pub(crate) const INVALID_ARGUMENT: c_uint = 2;
const NOT_SUPPORTED: c_uint = 3;
const NOT_FOUND: c_uint = 6;
const INSUFFICIENT_SIZE: c_uint = 7;
const UNKNOWN: c_uint = 999;

/// `NVML_VALUE_NOT_AVAILABLE`.
const NOT_AVAILABLE: u64 = u64::MAX;

/// A card's index plus one, so that none is null; of a MIG instance with its number plus one from [`INSTANCE`] on.
pub type Handle = *mut c_void;

/// Where a MIG instance's number begins in a handle.
const INSTANCE: u32 = 16;
/// Most MIG instances of a card.
const INSTANCES_MAX: c_uint = 7;

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
    let text = fs::read(&path).map_err(|_| UNKNOWN)?;
    let script: Script = serde_json::from_slice(&text).map_err(|_| UNKNOWN)?;
    let written = fs::metadata(&path).and_then(|data| data.modified()).map_err(|_| UNKNOWN)?;
    let answers = script.at(written.elapsed().unwrap_or_default().as_millis() as u64);
    if answers.error == SUCCESS { Ok(answers) } else { Err(answers.error) }
}

/// A handle's card, and its number of a MIG instance.
fn parts(handle: Handle) -> Result<(usize, Option<usize>), c_uint> {
    let (card, instance) = (handle as usize & ((1 << INSTANCE) - 1), handle as usize >> INSTANCE);
    Ok((card.checked_sub(1).ok_or(INVALID_ARGUMENT)?, instance.checked_sub(1)))
}

fn handle(card: usize, instance: Option<usize>) -> Handle {
    let instance = instance.map_or(0, |instance| instance + 1);
    ((card + 1) | (instance << INSTANCE)) as Handle
}

fn whole(index: usize) -> Result<CardAnswer, c_uint> {
    let card = answers()?.cards.into_iter().nth(index).ok_or(INVALID_ARGUMENT)?;
    if card.error == SUCCESS { Ok(card) } else { Err(card.error) }
}

fn instance(card: usize, number: usize) -> Result<CardAnswer, c_uint> {
    let instances = whole(card)?.instances.ok_or(NOT_FOUND)?;
    let instance = instances.into_iter().nth(number).ok_or(NOT_FOUND)?;
    if instance.error == SUCCESS { Ok(instance) } else { Err(instance.error) }
}

/// What a whole card answers for; nobody asks an instance for it.
pub(crate) fn card(handle: Handle) -> Result<CardAnswer, c_uint> {
    match parts(handle)? {
        (index, None) => whole(index).map(with_children),
        (_, Some(_)) => Err(NOT_SUPPORTED),
    }
}

/// What a card and an instance answer for.
fn device(handle: Handle) -> Result<CardAnswer, c_uint> {
    match parts(handle)? {
        (card, Some(number)) => instance(card, number).map(with_children),
        (_, None) => card(handle),
    }
}

/// What a card answers for as long as it is not divided.
fn undivided(handle: Handle) -> Result<CardAnswer, c_uint> {
    let card = card(handle)?;
    if card.instances.is_none() { Ok(card) } else { Err(NOT_SUPPORTED) }
}

fn with_children(mut card: CardAnswer) -> CardAnswer {
    card.processes = card.processes.into_iter().flat_map(resolved).collect();
    card
}

/// A process as it is, or one for each child of this process.
fn resolved(process: ProcessAnswer) -> Vec<ProcessAnswer> {
    if !process.trainer {
        return vec![process];
    }
    let children = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name, which may hold anything: the state, then the parent.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        (parent == std::process::id()).then_some(pid)
    });
    children.map(|pid| ProcessAnswer { pid, ..process.clone() }).collect()
}

pub(crate) fn code(result: Result<(), c_uint>) -> c_uint {
    result.err().unwrap_or(SUCCESS)
}

/// Writes `value` where the caller asked for it.
pub(crate) fn put<T>(place: *mut T, value: T) -> Result<(), c_uint> {
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
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, place: *mut Handle) -> c_uint {
    code(whole(index as usize).and_then(|_| put(place, handle(index as usize, None))))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetIndex(device: Handle, index: *mut c_uint) -> c_uint {
    code(card(device).and_then(|_| put(index, parts(device)?.0 as c_uint)))
}

/// # Safety
/// `uuid` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(
    uuid: *const c_char,
    place: *mut Handle,
) -> c_uint {
    // SAFETY: the caller's promise.
    let uuid = unsafe { CStr::from_ptr(uuid) }.to_string_lossy();
    code(answers().and_then(|answers| {
        let found = answers.cards.iter().enumerate().find_map(|(index, card)| {
            let instances = card.instances.iter().flatten();
            let part = instances.clone().position(|instance| instance.uuid == uuid);
            let whole = (card.uuid == uuid).then(|| handle(index, None));
            whole.or_else(|| part.map(|part| handle(index, Some(part))))
        });
        put(place, found.ok_or(NOT_FOUND)?)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(device: Handle, text: *mut c_char, length: c_uint) -> c_uint {
    code(self::device(device).and_then(|card| put_text(text, length, &card.name)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(device: Handle, text: *mut c_char, length: c_uint) -> c_uint {
    code(self::device(device).and_then(|card| put_text(text, length, &card.uuid)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Handle, memory: *mut Memory) -> c_uint {
    code(self::device(device).and_then(|card| {
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
/// As [`list`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Handle,
    count: *mut c_uint,
    processes: *mut Process,
) -> c_uint {
    // SAFETY: the caller's promise.
    unsafe { list(self::device(device), count, processes, |card| card.processes) }
}

/// # Safety
/// As [`list`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: Handle,
    count: *mut c_uint,
    processes: *mut Process,
) -> c_uint {
    // SAFETY: the caller's promise.
    unsafe { list(card(device), count, processes, |card| card.graphics) }
}

/// # Safety
/// `count` holds how many processes there is room for at `processes`.
unsafe fn list(
    card: Result<CardAnswer, c_uint>,
    count: *mut c_uint,
    processes: *mut Process,
    pick: impl Fn(CardAnswer) -> Vec<ProcessAnswer>,
) -> c_uint {
    let listed = match card {
        Ok(card) if card.processes_error != SUCCESS => return card.processes_error,
        Ok(card) => pick(card),
        Err(error) => return error,
    };
    let needed = listed.len() as c_uint;
    // SAFETY: the caller's promise.
    let room = unsafe { count.replace(needed) };
    if needed == 0 {
        return SUCCESS;
    }
    if room < needed || processes.is_null() {
        return INSUFFICIENT_SIZE;
    }
    for (i, process) in listed.iter().enumerate() {
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

/// `nvmlUtilization_t`.
#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(device: Handle, rates: *mut Utilization) -> c_uint {
    code(
        undivided(device)
            .and_then(|card| put(rates, Utilization { gpu: card.utilization, memory: 0 })),
    )
}

/// `nvmlProcessUtilizationSample_t`.
#[repr(C)]
pub struct Sample {
    pid: c_uint,
    timestamp_us: u64,
    sm: c_uint,
    memory: c_uint,
    encoder: c_uint,
    decoder: c_uint,
}

/// # Safety
/// `count` holds how many samples there is room for at `samples`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    device: Handle,
    samples: *mut Sample,
    count: *mut c_uint,
    _since_us: u64,
) -> c_uint {
    let card = match undivided(device) {
        Ok(card) => card,
        Err(error) => return error,
    };
    let busy: Vec<_> = card.processes.iter().filter(|process| process.utilization > 0).collect();
    if busy.is_empty() {
        return NOT_FOUND;
    }
    // SAFETY: the caller's promise.
    let room = unsafe { count.replace(busy.len() as c_uint) };
    if (room as usize) < busy.len() || samples.is_null() {
        return INSUFFICIENT_SIZE;
    }
    for (i, process) in busy.iter().enumerate() {
        let (pid, sm) = (process.pid, process.utilization);
        let sample = Sample { pid, timestamp_us: 1, sm, memory: 0, encoder: 0, decoder: 0 };
        // SAFETY: the caller has room for that many.
        unsafe { samples.add(i).write(sample) };
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTemperature(
    device: Handle,
    _sensor: c_uint,
    celsius: *mut c_uint,
) -> c_uint {
    code(card(device).and_then(|card| put(celsius, card.celsius.ok_or(NOT_SUPPORTED)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPowerUsage(device: Handle, milliwatts: *mut c_uint) -> c_uint {
    code(card(device).and_then(|card| put(milliwatts, card.milliwatts.ok_or(NOT_SUPPORTED)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    device: Handle,
    reasons: *mut u64,
) -> c_uint {
    code(card(device).and_then(|card| put(reasons, card.throttle)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTemperatureThreshold(
    device: Handle,
    _which: c_uint,
    celsius: *mut c_uint,
) -> c_uint {
    code(card(device).and_then(|card| put(celsius, card.celsius_slowdown.ok_or(NOT_SUPPORTED)?)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigMode(
    device: Handle,
    current: *mut c_uint,
    pending: *mut c_uint,
) -> c_uint {
    code(card(device).and_then(|card| {
        let divided = c_uint::from(card.instances.is_some());
        put(current, divided)?;
        put(pending, divided)
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: Handle, count: *mut c_uint) -> c_uint {
    code(card(device).and_then(|_| put(count, INSTANCES_MAX)))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: Handle,
    number: c_uint,
    place: *mut Handle,
) -> c_uint {
    code(card(device).and_then(|_| {
        let (index, number) = (parts(device)?.0, number as usize);
        instance(index, number)?;
        put(place, handle(index, Some(number)))
    }))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceIsMigDeviceHandle(device: Handle, is: *mut c_uint) -> c_uint {
    code(parts(device).and_then(|(_, instance)| put(is, c_uint::from(instance.is_some()))))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(
    device: Handle,
    place: *mut Handle,
) -> c_uint {
    code(parts(device).and_then(|(index, _)| put(place, handle(index, None))))
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetProcessName(
    pid: c_uint,
    text: *mut c_char,
    length: c_uint,
) -> c_uint {
    code(answers().and_then(|answers| {
        let parts = answers.cards.iter().flat_map(|card| card.instances.iter().flatten());
        let all = answers.cards.iter().chain(parts);
        let all = all.flat_map(|card| card.processes.iter().chain(&card.graphics));
        let process = all.into_iter().find(|process| process.pid == pid).ok_or(NOT_FOUND)?;
        put_text(text, length, &process.name)
    }))
}
