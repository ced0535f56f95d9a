//! candle's own kernels, by their names in its crate `candle-kernels`: copies, casts, arithmetic and sums.
//!
//! A kernel runs once for all its blocks and threads, which is why it does not look at them.

mod arguments;
mod arithmetic;
mod copies;
mod number;
mod sums;
mod walk;

pub(crate) use arguments::Arguments;

/// A kernel.
pub(crate) type Run = Box<dyn Fn(Arguments) + Send + Sync>;

/// The kernel of that name: what it does, then the type it does it to.
pub(crate) fn find(name: &str) -> Option<Run> {
    if let Some(types) = name.strip_prefix("cast_") {
        let (from, to) = types.split_once('_')?;
        return arithmetic::cast(from, to);
    }
    let (does, dtype) = name.rsplit_once('_')?;
    copies::find(does, dtype)
        .or_else(|| sums::find(does, dtype))
        .or_else(|| arithmetic::find(does, dtype))
}

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    use super::*;

    /// Runs a kernel on arguments given by their addresses.
    pub(super) fn run<const N: usize>(name: &str, arguments: [*const c_void; N]) {
        let run = find(name).unwrap_or_else(|| panic!("no kernel {name}"));
        // SAFETY: each test gives what the kernel takes.
        run(unsafe { Arguments::new(arguments.as_ptr()) });
    }

    /// The address of a value.
    pub(super) fn at<T>(value: &T) -> *const c_void {
        std::ptr::from_ref(value).cast()
    }

    #[test]
    fn a_name_that_is_not_there_is_no_kernel() {
        for name in ["ucopy", "ucopy_f3", "cast_f32", "cast_f32_f8", "badd_u8", "conv1d_f32", ""] {
            assert!(find(name).is_none(), "{name}");
        }
    }
}
