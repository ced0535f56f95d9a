//! Modules and kernels. What a module is loaded from is not looked at: a kernel is found by its name, first among
//! Fleetune's, then among candle's.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::candle::{self, Arguments};
use crate::status::{Answer, Error, code, put};
use crate::{kernels, streams};

/// All modules are the same. Any address would do.
const MODULE: *mut c_void = std::ptr::without_provenance_mut(0x60);
/// No card runs a block of more.
const THREADS_MAX: u64 = 1024;

/// What was asked for by its name, and is there as long as the process.
static FOUND: LazyLock<Mutex<HashMap<String, &'static Kernel>>> = LazyLock::new(Mutex::default);

struct Kernel {
    name: String,
    runs: Runs,
}

enum Runs {
    Ours(kernels::Kernel),
    Candle(candle::Run),
}

fn find(name: &str) -> Answer<&'static Kernel> {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kernel) = found.get(name) {
        return Ok(kernel);
    }
    let ours = kernels::find(name).map(Runs::Ours);
    let Some(runs) = ours.or_else(|| candle::find(name).map(Runs::Candle)) else {
        eprintln!("stub-cuda: no kernel {name}");
        return Err(Error::NotFound);
    };
    let kernel: &Kernel = Box::leak(Box::new(Kernel { name: name.into(), runs }));
    found.insert(name.into(), kernel);
    Ok(kernel)
}

impl Kernel {
    /// # Safety
    /// `arguments` are the addresses of as many arguments as the kernel takes, of its types; what they point to is
    /// there.
    unsafe fn launch(
        &self,
        grid: [c_uint; 3],
        block: [c_uint; 3],
        arguments: *const *const c_void,
    ) -> Answer {
        let threads: u64 = block.iter().map(|side| u64::from(*side)).product();
        if grid.contains(&0) || threads == 0 || threads > THREADS_MAX || arguments.is_null() {
            eprintln!("stub-cuda: {}: {grid:?} blocks of {block:?} threads", self.name);
            return Err(Error::InvalidValue);
        }
        let result = match &self.runs {
            Runs::Ours(_) if grid[1..] != [1, 1] || block[1..] != [1, 1] => {
                Err(format!("{grid:?} blocks of {block:?} threads, of which it knows one side"))
            }
            // SAFETY: the caller's promise.
            Runs::Ours(kernel) => unsafe { kernel.launch(grid[0], block[0], arguments) },
            Runs::Candle(run) => {
                // SAFETY: the caller's promise.
                run(unsafe { Arguments::new(arguments) });
                Ok(())
            }
        };
        result.map_err(|complaint| {
            eprintln!("stub-cuda: {}: {complaint}", self.name);
            Error::LaunchFailed
        })
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> c_uint {
    if image.is_null() { code(Err(Error::InvalidValue)) } else { code(put(module, MODULE)) }
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadDataEx(
    module: *mut *mut c_void,
    image: *const c_void,
    _count: c_uint,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
) -> c_uint {
    cuModuleLoadData(module, image)
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: *mut c_void) -> c_uint {
    code(if module == MODULE { Ok(()) } else { Err(Error::InvalidHandle) })
}

/// # Safety
/// `name` is a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *const c_void,
    module: *mut c_void,
    name: *const c_char,
) -> c_uint {
    if module != MODULE || name.is_null() {
        return code(Err(Error::InvalidHandle));
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    code(find(&name).and_then(|kernel| put(function, std::ptr::from_ref(kernel).cast())))
}

/// # Safety
/// `function` came from [`cuModuleGetFunction`]; otherwise as [`Kernel::launch`].
#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: *const c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    _shared_bytes: c_uint,
    stream: usize,
    arguments: *const *const c_void,
    _extra: *mut *mut c_void,
) -> c_uint {
    code(streams::check(stream).and_then(|()| {
        // SAFETY: the caller's promise: null, or a kernel that is never dropped.
        let kernel = unsafe { function.cast::<Kernel>().as_ref() }.ok_or(Error::InvalidHandle)?;
        // SAFETY: the caller's promise.
        unsafe { kernel.launch([grid_x, grid_y, grid_z], [block_x, block_y, block_z], arguments) }
    }))
}
