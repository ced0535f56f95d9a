//! The CUDA runtime, which the kernels in candle's static library register with when a program is loaded. They are for
//! quantised models and mixtures of experts; who launches one is stopped.

use std::ffi::{c_int, c_void};
use std::process;

/// What a fat binary is known by from then on.
#[unsafe(no_mangle)]
extern "C" fn __cudaRegisterFatBinary(binary: *mut c_void) -> *mut c_void {
    binary
}

#[unsafe(no_mangle)]
extern "C" fn __cudaRegisterFatBinaryEnd(_binary: *mut c_void) {}

#[unsafe(no_mangle)]
extern "C" fn __cudaUnregisterFatBinary(_binary: *mut c_void) {}

// Both take more than they look at here, which C allows.
#[unsafe(no_mangle)]
extern "C" fn __cudaRegisterFunction(_binary: *mut c_void) {}

#[unsafe(no_mangle)]
extern "C" fn __cudaRegisterVar(_binary: *mut c_void) {}

/// A C function may be called with more arguments than it looks at.
macro_rules! stops {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> c_int {
            eprintln!("stub-cuda: {} was called: a kernel of the CUDA runtime's", stringify!($name));
            process::abort()
        }
    )*};
}

stops! {
    __cudaGetKernel __cudaLaunchKernel_ptsz __cudaPopCallConfiguration __cudaPushCallConfiguration
    cudaDeviceGetAttribute cudaFree cudaFreeAsync_ptsz cudaFuncGetAttributes cudaFuncSetAttribute cudaGetDevice
    cudaGetDeviceCount cudaGetErrorName cudaGetErrorString cudaGetLastError cudaMalloc cudaMallocAsync_ptsz
    cudaMemsetAsync_ptsz cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cudaPeekAtLastError cudaSetDevice
    cudaStreamSynchronize_ptsz
}
