//! Fleetune's own kernels: the very source that a card's compiler takes, compiled by this machine's C++ compiler.
//!
//! `engine/kernels/host` has the other side.

use std::env;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::{LazyLock, Mutex, PoisonError};

use libloading::Library;

/// Names the shared object they are in.
const LIBRARY: &str = "FLEETUNE_STUB_CUDA_KERNELS";

/// None, said once, when the variable is not set or names something else.
static KERNELS: LazyLock<Option<Library>> = LazyLock::new(|| {
    let Some(path) = env::var_os(LIBRARY) else {
        eprintln!("stub-cuda: {LIBRARY} is not set, so there are none of Fleetune's kernels");
        return None;
    };
    // SAFETY: it runs nothing when it is loaded.
    let loaded = unsafe { Library::new(&path) };
    loaded.inspect_err(|e| eprintln!("stub-cuda: {LIBRARY}: {e}")).ok()
});
/// The shim runs one kernel at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Blocks, threads, the arguments' addresses, their sizes and how many they are; gives a complaint or null.
type Launch =
    unsafe extern "C" fn(u32, u32, *const *const c_void, *const usize, usize) -> *const c_char;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel(Launch);

/// The kernel of that name.
pub(crate) fn find(name: &str) -> Option<Kernel> {
    let library = KERNELS.as_ref()?;
    // SAFETY: every `host_` function has this type.
    let launch = unsafe { library.get::<Launch>(format!("host_{name}").as_bytes()) };
    Some(Kernel(*launch.ok()?))
}

impl Kernel {
    /// Runs it on `blocks` of `threads`, or says why it could not.
    ///
    /// # Safety
    /// `arguments` are the addresses of as many arguments as the kernel takes, of its types; what they point to is
    /// there.
    pub(crate) unsafe fn launch(
        self,
        blocks: u32,
        threads: u32,
        arguments: *const *const c_void,
    ) -> Result<(), String> {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's promise. The driver is not told the arguments' sizes.
        let complaint = unsafe { (self.0)(blocks, threads, arguments, ptr::null(), 0) };
        if complaint.is_null() {
            return Ok(());
        }
        // SAFETY: a complaint is a C string that lasts.
        Err(unsafe { CStr::from_ptr(complaint) }.to_string_lossy().into_owned())
    }
}
