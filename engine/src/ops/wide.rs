//! Loops compiled for the widest registers there are.
//!
//! A function written inside [`wide!`] exists once in the source and three times in the binary: for AVX-512, for AVX2
//! and for any machine; which one runs is decided where it runs. All do the same operations in the same order (nothing
//! is fused that the source does not fuse), so the numbers are the same bits on every machine.

/// What the compiler may use.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Avx512,
    Avx2,
    Plain,
}

/// That of this machine.
#[cfg(target_arch = "x86_64")]
pub(crate) fn level() -> Level {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
    {
        Level::Avx512
    } else if is_x86_feature_detected!("avx2") {
        Level::Avx2
    } else {
        Level::Plain
    }
}

/// Wraps one function; generic parameters stand in brackets after its name.
macro_rules! wide {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($g:tt)*])?
     ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name $(<$($g)*>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain $(<$($g)*>)? ($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use crate::ops::wide::{Level, level};
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512 $(<$($g)*>)? ($($arg: $ty),*) $(-> $ret)? {
                    plain($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2 $(<$($g)*>)? ($($arg: $ty),*) $(-> $ret)? {
                    plain($($arg),*)
                }
                #[expect(unsafe_code, reason = "only a machine that has the instructions runs them")]
                // SAFETY: the machine was asked.
                match level() {
                    Level::Avx512 => return unsafe { avx512($($arg),*) },
                    Level::Avx2 => return unsafe { avx2($($arg),*) },
                    Level::Plain => {}
                }
            }
            plain($($arg),*)
        }
    };
}
pub(crate) use wide;
