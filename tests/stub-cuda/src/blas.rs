//! cuBLAS: products of matrices. Their arguments are looked at as cuBLAS does, and besides whether they lie in the
//! card's memory.

use std::ffi::{c_int, c_uint, c_void};
use std::slice;

use half::bf16;

use crate::gemm::{Element, Factor, Shape};
use crate::memory;

const SUCCESS: c_uint = 0;
const NOT_INITIALIZED: c_uint = 1;
const INVALID_VALUE: c_uint = 7;
const EXECUTION_FAILED: c_uint = 13;
const NOT_SUPPORTED: c_uint = 15;

/// `cudaDataType_t`.
const F32: c_uint = 0;
const F64: c_uint = 1;
const BF16: c_uint = 14;

/// All handles are the same. Any address would do.
const HANDLE: *mut c_void = std::ptr::without_provenance_mut(0x50);

fn known(handle: *mut c_void) -> c_uint {
    if handle == HANDLE { SUCCESS } else { NOT_INITIALIZED }
}

/// A matrix, or one of each product of a batch.
#[derive(Clone, Copy)]
struct Matrices {
    begin: *mut c_void,
    dtype: c_uint,
    leading: c_int,
    stride: i64,
}

/// What every call for a product says, each in its own way.
struct Call {
    handle: *mut c_void,
    operations: [c_uint; 2],
    sizes: [c_int; 3],
    alpha: *const c_void,
    a: Matrices,
    b: Matrices,
    beta: *const c_void,
    c: Matrices,
    batch: c_int,
    compute: c_uint,
}

impl Call {
    /// # Safety
    /// `alpha` and `beta` point to numbers of the type that is computed in.
    unsafe fn answer(&self) -> c_uint {
        // SAFETY: the caller's promise.
        match unsafe { self.run() } {
            Ok(()) => SUCCESS,
            Err((status, why)) => {
                eprintln!("stub-cuda: a product failed: {why}");
                status
            }
        }
    }

    unsafe fn run(&self) -> Result<(), (c_uint, String)> {
        if self.handle != HANDLE {
            return Err((NOT_INITIALIZED, "no handle".into()));
        }
        let shape = self.shape().ok_or_else(|| {
            let (a, b, c) = (self.a.leading, self.b.leading, self.c.leading);
            let says = format!("sizes {:?} with leading {a}, {b} and {c}", self.sizes);
            (INVALID_VALUE, says)
        })?;
        if self.alpha.is_null() || self.beta.is_null() {
            return Err((INVALID_VALUE, "no alpha or beta".into()));
        }
        // COMPUTE_32F and its faster kinds; COMPUTE_64F and its stricter one.
        let in_f32 = matches!(self.compute, 68 | 69 | 74 | 75 | 77);
        let in_f64 = matches!(self.compute, 70 | 71);
        // SAFETY: the caller's promise.
        unsafe {
            match (self.a.dtype, self.b.dtype, self.c.dtype) {
                (F32, F32, F32) if in_f32 => self.each::<f32, f32>(shape),
                (BF16, BF16, BF16) if in_f32 => self.each::<bf16, bf16>(shape),
                (BF16, BF16, F32) if in_f32 => self.each::<bf16, f32>(shape),
                (F64, F64, F64) if in_f64 => self.each::<f64, f64>(shape),
                types => Err((NOT_SUPPORTED, format!("types {types:?} in {}", self.compute))),
            }
        }
    }

    fn shape(&self) -> Option<Shape> {
        let size = |size: c_int| usize::try_from(size).ok();
        let factor = |operation, matrices: Matrices| {
            let transposed = match operation {
                0 => false,
                1 | 2 => true,
                _ => return None,
            };
            Some(Factor { transposed, leading: size(matrices.leading)? })
        };
        let [m, n, k] = self.sizes;
        let shape = Shape {
            m: size(m)?,
            n: size(n)?,
            k: size(k)?,
            a: factor(self.operations[0], self.a)?,
            b: factor(self.operations[1], self.b)?,
            leading: size(self.c.leading)?,
        };
        (self.batch >= 0 && shape.fits()).then_some(shape)
    }

    /// All products of the batch.
    ///
    /// # Safety
    /// `alpha` and `beta` point to numbers of the type of `T`'s sums, and `a`, `b` and `c` are of these types.
    unsafe fn each<S, T>(&self, shape: Shape) -> Result<(), (c_uint, String)>
    where
        S: Element<Sum = T::Sum>,
        T: Element,
    {
        // SAFETY: the caller's promise, and neither is null.
        let (alpha, beta) =
            unsafe { (self.alpha.cast::<T::Sum>().read(), self.beta.cast::<T::Sum>().read()) };
        let [a, b, c] = shape.extents();
        for product in 0..self.batch {
            // SAFETY: the caller's promise; what is found lies in the card's memory, and who frees it before this
            // returns would also do so on a card.
            unsafe {
                let a = slice::from_raw_parts(find::<S>("A", self.a, product, a)?, a);
                let b = slice::from_raw_parts(find::<S>("B", self.b, product, b)?, b);
                let c = slice::from_raw_parts_mut(find::<T>("C", self.c, product, c)?, c);
                shape.multiply(alpha, a, b, beta, c);
            }
        }
        Ok(())
    }
}

/// Where one of the matrices begins, of so many numbers.
fn find<T>(
    name: &str,
    matrices: Matrices,
    product: c_int,
    numbers: usize,
) -> Result<*mut T, (c_uint, String)> {
    let offset = i64::from(product) * matrices.stride * size_of::<T>() as i64;
    let begin = (matrices.begin as u64).wrapping_add_signed(offset);
    let found = memory::card().reach(begin, numbers * size_of::<T>());
    let found = found.map(<*mut u8>::cast::<T>).ok().filter(|begin| begin.is_aligned());
    let says =
        || format!("{name} of product {product} is not {numbers} numbers in the card's memory");
    found.ok_or_else(|| (EXECUTION_FAILED, says()))
}

#[unsafe(no_mangle)]
extern "C" fn cublasCreate_v2(handle: *mut *mut c_void) -> c_uint {
    if handle.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's promise: a place for a handle.
    unsafe { handle.write(HANDLE) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn cublasDestroy_v2(handle: *mut c_void) -> c_uint {
    known(handle)
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetStream_v2(handle: *mut c_void, _stream: usize) -> c_uint {
    known(handle)
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetMathMode(handle: *mut c_void, _mode: c_uint) -> c_uint {
    known(handle)
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetWorkspace_v2(
    handle: *mut c_void,
    _workspace: *mut c_void,
    _bytes: usize,
) -> c_uint {
    known(handle)
}

/// Numbers such as `alpha` are the host's; the device's are not known here.
#[unsafe(no_mangle)]
extern "C" fn cublasSetPointerMode_v2(handle: *mut c_void, mode: c_uint) -> c_uint {
    if mode == 0 { known(handle) } else { NOT_SUPPORTED }
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetPointerMode_v2(handle: *mut c_void, mode: *mut c_uint) -> c_uint {
    if mode.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's promise: a place for a mode.
    unsafe { mode.write(0) };
    known(handle)
}

/// # Safety
/// As [`Call::answer`].
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGemmStridedBatchedEx(
    handle: *mut c_void,
    operation_a: c_uint,
    operation_b: c_uint,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *mut c_void,
    a_type: c_uint,
    a_leading: c_int,
    a_stride: i64,
    b: *mut c_void,
    b_type: c_uint,
    b_leading: c_int,
    b_stride: i64,
    beta: *const c_void,
    c: *mut c_void,
    c_type: c_uint,
    c_leading: c_int,
    c_stride: i64,
    batch: c_int,
    compute: c_uint,
    _algorithm: c_int,
) -> c_uint {
    let call = Call {
        handle,
        operations: [operation_a, operation_b],
        sizes: [m, n, k],
        alpha,
        a: Matrices { begin: a, dtype: a_type, leading: a_leading, stride: a_stride },
        b: Matrices { begin: b, dtype: b_type, leading: b_leading, stride: b_stride },
        beta,
        c: Matrices { begin: c, dtype: c_type, leading: c_leading, stride: c_stride },
        batch,
        compute,
    };
    // SAFETY: the caller's promise.
    unsafe { call.answer() }
}

/// # Safety
/// As [`Call::answer`].
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasGemmEx(
    handle: *mut c_void,
    operation_a: c_uint,
    operation_b: c_uint,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *mut c_void,
    a_type: c_uint,
    a_leading: c_int,
    b: *mut c_void,
    b_type: c_uint,
    b_leading: c_int,
    beta: *const c_void,
    c: *mut c_void,
    c_type: c_uint,
    c_leading: c_int,
    compute: c_uint,
    algorithm: c_int,
) -> c_uint {
    // SAFETY: the caller's promise.
    unsafe {
        cublasGemmStridedBatchedEx(
            handle,
            operation_a,
            operation_b,
            m,
            n,
            k,
            alpha,
            a,
            a_type,
            a_leading,
            0,
            b,
            b_type,
            b_leading,
            0,
            beta,
            c,
            c_type,
            c_leading,
            0,
            1,
            compute,
            algorithm,
        )
    }
}

/// The calls for one type, which is also what they compute in: of one product, and of a batch.
macro_rules! of_one_type {
    ($one:ident, $batch:ident: $number:ty = $dtype:expr, $compute:expr) => {
        /// # Safety
        /// As [`Call::answer`].
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $one(
            handle: *mut c_void,
            operation_a: c_uint,
            operation_b: c_uint,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: *const $number,
            a: *mut c_void,
            a_leading: c_int,
            b: *mut c_void,
            b_leading: c_int,
            beta: *const $number,
            c: *mut c_void,
            c_leading: c_int,
        ) -> c_uint {
            // SAFETY: the caller's promise.
            unsafe {
                $batch(
                    handle,
                    operation_a,
                    operation_b,
                    m,
                    n,
                    k,
                    alpha,
                    a,
                    a_leading,
                    0,
                    b,
                    b_leading,
                    0,
                    beta,
                    c,
                    c_leading,
                    0,
                    1,
                )
            }
        }

        /// # Safety
        /// As [`Call::answer`].
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $batch(
            handle: *mut c_void,
            operation_a: c_uint,
            operation_b: c_uint,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: *const $number,
            a: *mut c_void,
            a_leading: c_int,
            a_stride: i64,
            b: *mut c_void,
            b_leading: c_int,
            b_stride: i64,
            beta: *const $number,
            c: *mut c_void,
            c_leading: c_int,
            c_stride: i64,
            batch: c_int,
        ) -> c_uint {
            // SAFETY: the caller's promise.
            unsafe {
                cublasGemmStridedBatchedEx(
                    handle,
                    operation_a,
                    operation_b,
                    m,
                    n,
                    k,
                    alpha.cast(),
                    a,
                    $dtype,
                    a_leading,
                    a_stride,
                    b,
                    $dtype,
                    b_leading,
                    b_stride,
                    beta.cast(),
                    c,
                    $dtype,
                    c_leading,
                    c_stride,
                    batch,
                    $compute,
                    -1,
                )
            }
        }
    };
}

of_one_type!(cublasSgemm_v2, cublasSgemmStridedBatched: f32 = F32, 68);
of_one_type!(cublasDgemm_v2, cublasDgemmStridedBatched: f64 = F64, 70);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Source;

    /// Two products of 2 × 2 in the card's memory, of which the second lies `stride` numbers further.
    fn batch(stride: i64) -> (c_uint, [f32; 8]) {
        let numbers: Vec<f32> = (1..=8).map(|i| i as f32).collect();
        let [a, b, c] = [(); 3].map(|()| memory::card().allocate(32, Source::Pool).unwrap());
        for side in [a, b] {
            let begin = memory::card().reach(side, 32).unwrap().cast::<f32>();
            // SAFETY: 8 numbers lie there.
            unsafe { begin.copy_from_nonoverlapping(numbers.as_ptr(), 8) };
        }
        let (one, zero) = (1.0, 0.0);
        let place = |begin: u64| begin as *mut c_void;
        // SAFETY: `one` and `zero` are f32, as is the call.
        let status = unsafe {
            cublasSgemmStridedBatched(
                HANDLE,
                0,
                0,
                2,
                2,
                2,
                &raw const one,
                place(a),
                2,
                stride,
                place(b),
                2,
                stride,
                &raw const zero,
                place(c),
                2,
                stride,
                2,
            )
        };
        let begin = memory::card().reach(c, 32).unwrap().cast::<[f32; 8]>();
        // SAFETY: 8 numbers lie there.
        let out = unsafe { begin.read() };
        for piece in [a, b, c] {
            memory::card().release(piece).unwrap();
        }
        (status, out)
    }

    #[test]
    fn a_batch_goes_from_one_matrix_to_the_next() {
        assert_eq!(batch(4), (SUCCESS, [7.0, 10.0, 15.0, 22.0, 67.0, 78.0, 91.0, 106.0]));
    }

    #[test]
    fn matrices_beyond_the_memory_are_an_error() {
        assert_eq!(batch(5).0, EXECUTION_FAILED);
    }
}
