//! The generator of random numbers, which candle creates when it opens a card. It generates none: a training draws
//! its own, on the CPU or in its kernels.

use std::ffi::{c_int, c_uint, c_void};

const SUCCESS: c_uint = 0;
const NOT_INITIALIZED: c_uint = 101;
/// The nearest to "not here" among cuRAND's answers.
const ARCH_MISMATCH: c_uint = 204;
/// All generators are the same. Any address would do.
const GENERATOR: *mut c_void = std::ptr::without_provenance_mut(0x40);

fn known(generator: *mut c_void) -> c_uint {
    if generator == GENERATOR { SUCCESS } else { NOT_INITIALIZED }
}

#[unsafe(no_mangle)]
extern "C" fn curandCreateGenerator(generator: *mut *mut c_void, _kind: c_int) -> c_uint {
    if generator.is_null() {
        return NOT_INITIALIZED;
    }
    // SAFETY: the caller's promise: a place for a generator.
    unsafe { generator.write(GENERATOR) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn curandDestroyGenerator(generator: *mut c_void) -> c_uint {
    known(generator)
}

#[unsafe(no_mangle)]
extern "C" fn curandSetPseudoRandomGeneratorSeed(generator: *mut c_void, _seed: u64) -> c_uint {
    known(generator)
}

#[unsafe(no_mangle)]
extern "C" fn curandSetGeneratorOffset(generator: *mut c_void, _offset: u64) -> c_uint {
    known(generator)
}

#[unsafe(no_mangle)]
extern "C" fn curandSetStream(generator: *mut c_void, _stream: usize) -> c_uint {
    known(generator)
}

/// A C function may be called with more arguments than it looks at.
macro_rules! generates_none {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> c_uint {
            eprintln!("stub-cuda: {} generates nothing", stringify!($name));
            ARCH_MISMATCH
        }
    )*};
}

generates_none! {
    curandGenerate curandGenerateLongLong curandGenerateUniform curandGenerateUniformDouble curandGenerateNormal
    curandGenerateNormalDouble curandGenerateLogNormal curandGenerateLogNormalDouble curandGeneratePoisson
}
