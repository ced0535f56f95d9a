//! A card that is this machine's CPU: kernels compiled by its C++ compiler through `kernels/host`.

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use candle_core::{CpuStorage, DType, Device, Error, InplaceOp1, Layout, Storage, Tensor};
use libloading::Library;

use super::super::Cuda;
use super::super::launch::{Arg, Card, THREADS, Word};
use crate::Result;

/// The kernels, or why there are none.
static KERNELS: LazyLock<Option<Library>> = LazyLock::new(compile);
/// The shim knows one block at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The backend on the CPU's card, with tiles of attention so small that most examples need several. None, said
/// loudly, on a machine without a C++ compiler.
pub(crate) fn host() -> Option<Cuda> {
    without("")
}

/// As [`host`], with a kernel that does nothing.
pub(super) fn without(kernel: &'static str) -> Option<Cuda> {
    KERNELS.as_ref()?;
    Some(Cuda::on(Arc::new(Host { without: kernel }), DType::F32, 700))
}

fn compile() -> Option<Library> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!(
            "\nSKIPPED: no kernel was tested, for want of a C++ compiler (`{compiler}`; set CXX)\n"
        );
        return None;
    }
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/host");
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("kernels.so");
    let compiled = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-U_FORTIFY_SOURCE"])
        .args(["-Wall", "-Wextra", "-Werror"])
        .args([sources.join("kernels.cpp"), sources.join("launch.cpp")])
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    #[expect(unsafe_code, reason = "loads the library that was just compiled")]
    // SAFETY: it runs nothing when it is loaded.
    Some(unsafe { Library::new(&library) }.unwrap())
}

#[derive(Debug)]
struct Host {
    without: &'static str,
}

/// As a driver's `cuLaunchKernel`, with the arguments' sizes; gives a complaint or null.
type Launch =
    unsafe extern "C" fn(u32, u32, *const *const c_void, *const usize, usize) -> *const c_char;

impl Card for Host {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn queue(&self, kernel: &'static str, blocks: usize, args: &[Arg<'_>]) -> Result<()> {
        if kernel == self.without {
            return Ok(());
        }
        let words: Vec<Word> =
            args.iter().map(|arg| arg.word(address)).collect::<candle_core::Result<_>>()?;
        let (addresses, sizes): (Vec<*const c_void>, Vec<usize>) = words
            .iter()
            .map(|word| match word {
                Word::U32(number) => (std::ptr::from_ref(number).cast(), 4),
                Word::U64(number) => (std::ptr::from_ref(number).cast(), 8),
                Word::F32(number) => (std::ptr::from_ref(number).cast(), 4),
                Word::F64(number) => (std::ptr::from_ref(number).cast(), 8),
            })
            .unzip();
        let name = format!("host_{kernel}");
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(unsafe_code, reason = "calls into the shim")]
        // SAFETY: every `host_` function has this type; addresses and sizes live until it returns, and tensors longer.
        let complaint = unsafe {
            let launch = KERNELS.as_ref().unwrap().get::<Launch>(name.as_bytes());
            let launch = launch.unwrap_or_else(|_| panic!("kernels.cpp does not list {kernel}"));
            let complaint = launch(
                blocks as u32,
                THREADS as u32,
                addresses.as_ptr(),
                sizes.as_ptr(),
                args.len(),
            );
            (!complaint.is_null()).then(|| CStr::from_ptr(complaint).to_string_lossy().into_owned())
        };
        match complaint {
            None => Ok(()),
            Some(text) => Err(Error::Msg(format!("{kernel}: {text}")).into()),
        }
    }
}

/// Where a tensor's numbers lie; the driver's business on a card.
fn address(tensor: &Tensor, written: bool) -> candle_core::Result<u64> {
    if written {
        let taken = Taken(Mutex::new(0));
        tensor.inplace_op1(&taken)?;
        return Ok(taken.0.into_inner().unwrap());
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { unreachable!("a tensor beyond the CPU") };
    let offset = layout.start_offset();
    Ok(match storage {
        CpuStorage::U8(numbers) => numbers[offset..].as_ptr() as u64,
        CpuStorage::U32(numbers) => numbers[offset..].as_ptr() as u64,
        CpuStorage::BF16(numbers) => numbers[offset..].as_ptr() as u64,
        CpuStorage::F32(numbers) => numbers[offset..].as_ptr() as u64,
        CpuStorage::F64(numbers) => numbers[offset..].as_ptr() as u64,
        _ => panic!("a kernel that reads {:?}", tensor.dtype()),
    })
}

struct Taken(Mutex<u64>);

impl InplaceOp1 for Taken {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let offset = layout.start_offset();
        *self.0.lock().unwrap() = match storage {
            CpuStorage::U8(numbers) => numbers[offset..].as_mut_ptr() as u64,
            CpuStorage::BF16(numbers) => numbers[offset..].as_mut_ptr() as u64,
            CpuStorage::F32(numbers) => numbers[offset..].as_mut_ptr() as u64,
            CpuStorage::F64(numbers) => numbers[offset..].as_mut_ptr() as u64,
            _ => panic!("a kernel that writes another type"),
        };
        Ok(())
    }
}
