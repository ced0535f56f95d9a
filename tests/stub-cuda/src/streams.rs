//! Streams and events: numbers that must be alive when they are used. Nothing is ever left to wait for.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use crate::device::has_context;
use crate::status::{Answer, Error, code, put};

/// The default streams: of the context, the same by its newer name, and of each thread. They belong to the thread's
/// context; a thread without one has none of them.
const DEFAULT: [usize; 3] = [0, 1, 2];

static STREAMS: LazyLock<Mutex<Handles<()>>> = LazyLock::new(Mutex::default);
/// With when they were last recorded.
static EVENTS: LazyLock<Mutex<Handles<Option<Instant>>>> = LazyLock::new(Mutex::default);

/// What is alive, by its handle.
#[derive(Debug)]
struct Handles<T> {
    last: usize,
    alive: HashMap<usize, T>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        // Handles are told apart from the default streams.
        Self { last: 0x1000, alive: HashMap::new() }
    }
}

impl<T> Handles<T> {
    fn create(&mut self, state: T) -> usize {
        self.last += 0x10;
        self.alive.insert(self.last, state);
        self.last
    }

    fn get(&mut self, handle: usize) -> Answer<&mut T> {
        self.alive.get_mut(&handle).ok_or(Error::InvalidHandle)
    }

    fn destroy(&mut self, handle: usize) -> Answer {
        self.alive.remove(&handle).map(drop).ok_or(Error::InvalidHandle)
    }
}

fn streams<R>(act: impl FnOnce(&mut Handles<()>) -> R) -> R {
    act(&mut STREAMS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn events<R>(act: impl FnOnce(&mut Handles<Option<Instant>>) -> R) -> R {
    act(&mut EVENTS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Whether the calling thread may queue work on a stream.
pub(crate) fn check(stream: usize) -> Answer {
    if DEFAULT.contains(&stream) {
        return has_context();
    }
    streams(|streams| streams.get(stream).map(drop))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: *mut usize, _flags: c_uint) -> c_uint {
    code(has_context().and_then(|()| put(stream, streams(|streams| streams.create(())))))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(
    stream: *mut usize,
    flags: c_uint,
    _priority: c_int,
) -> c_uint {
    cuStreamCreate(stream, flags)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: usize) -> c_uint {
    code(streams(|streams| streams.destroy(stream)))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: usize) -> c_uint {
    code(check(stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: usize, event: usize, _flags: c_uint) -> c_uint {
    code(check(stream).and_then(|()| events(|events| events.get(event).map(drop))))
}

/// None is ever being captured.
#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: usize, status: *mut c_uint) -> c_uint {
    code(check(stream).and_then(|()| put(status, 0)))
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: usize,
    function: Option<unsafe extern "C" fn(*mut c_void)>,
    data: *mut c_void,
) -> c_uint {
    code(check(stream).and_then(|()| {
        let function = function.ok_or(Error::InvalidValue)?;
        // SAFETY: the caller's promise: the function takes this.
        unsafe { function(data) };
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: *mut usize, _flags: c_uint) -> c_uint {
    code(has_context().and_then(|()| put(event, events(|events| events.create(None)))))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: usize) -> c_uint {
    code(events(|events| events.destroy(event)))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: usize, stream: usize) -> c_uint {
    let now = Instant::now();
    code(check(stream).and_then(|()| events(|events| events.get(event).map(|at| *at = Some(now)))))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: usize) -> c_uint {
    code(events(|events| events.get(event).map(drop)))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: usize) -> c_uint {
    cuEventQuery(event)
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(ms: *mut f32, start: usize, end: usize) -> c_uint {
    let at = |event| events(|events| events.get(event)?.ok_or(Error::InvalidHandle));
    code(at(start).and_then(|start| put(ms, (at(end)? - start).as_secs_f32() * 1e3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_good_until_it_is_destroyed() {
        let mut handles = Handles::default();
        let (first, second) = (handles.create(1), handles.create(2));
        assert_ne!(first, second);
        assert_eq!(handles.get(second), Ok(&mut 2));
        handles.destroy(second).unwrap();
        assert_eq!(handles.get(second), Err(Error::InvalidHandle));
        assert_eq!(handles.destroy(second), Err(Error::InvalidHandle));
        assert_eq!(handles.get(first), Ok(&mut 1));
    }
}
