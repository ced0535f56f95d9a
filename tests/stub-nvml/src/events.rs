//! Events: a set that is waited on, and the errors told through it.

use std::ffi::c_uint;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::interface::{Handle, INVALID_ARGUMENT, SUCCESS, card, code, put};

const TIMEOUT: c_uint = 10;
/// `nvmlEventTypeXidCriticalError`.
const XID_CRITICAL: u64 = 8;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The cards that are listened to, each with the error told last.
type Listened = Mutex<Vec<(usize, Option<u64>)>>;
/// `nvmlEventSet_t`.
type Set = *mut Listened;

/// `nvmlEventData_t`.
#[repr(C)]
pub struct Event {
    device: Handle,
    kind: u64,
    data: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetCreate(set: *mut Set) -> c_uint {
    code(put(set, Box::into_raw(Box::default())))
}

/// # Safety
/// `set` was created and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetFree(set: Set) -> c_uint {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(set) });
    SUCCESS
}

/// # Safety
/// `set` was created and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceRegisterEvents(device: Handle, kinds: u64, set: Set) -> c_uint {
    if kinds != XID_CRITICAL {
        return INVALID_ARGUMENT;
    }
    code(card(device).map(|_| {
        // SAFETY: the caller's promise.
        let listened = unsafe { &*set };
        listened.lock().unwrap_or_else(PoisonError::into_inner).push((device as usize, None));
    }))
}

/// # Safety
/// `set` was created and not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    set: Set,
    event: *mut Event,
    timeout_ms: c_uint,
) -> c_uint {
    let begun = Instant::now();
    // SAFETY: the caller's promise.
    let mut listened = unsafe { &*set }.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        for (device, told) in listened.iter_mut() {
            let device = *device as Handle;
            match card(device) {
                Err(error) => return error,
                Ok(card) if card.xid.is_some() && card.xid != *told => {
                    *told = card.xid;
                    let (data, instance) = (card.xid.unwrap_or_default(), c_uint::MAX);
                    let kind = XID_CRITICAL;
                    let (gpu_instance, compute_instance) = (instance, instance);
                    return code(put(
                        event,
                        Event { device, kind, data, gpu_instance, compute_instance },
                    ));
                }
                Ok(_) => {}
            }
        }
        if begun.elapsed() >= Duration::from_millis(u64::from(timeout_ms)) {
            return TIMEOUT;
        }
        thread::sleep(LOOK_EVERY);
    }
}
