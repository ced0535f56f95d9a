//! The types of tensors. Arithmetic is done in f64, which rounds to each of the others as if it were done there: f64
//! has more than twice the digits.

use half::bf16;

pub(super) trait Number: Copy + Send + Sync + 'static {
    fn to_f64(self) -> f64;
    /// Rounded to the nearest; as an integer cut off, and the last there is beyond it.
    fn from_f64(x: f64) -> Self;
}

macro_rules! number {
    ($($type:ty)*) => {$(
        impl Number for $type {
            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn from_f64(x: f64) -> Self {
                x as Self
            }
        }
    )*};
}

number! { f32 u8 u32 }

impl Number for f64 {
    fn to_f64(self) -> f64 {
        self
    }

    fn from_f64(x: f64) -> Self {
        x
    }
}

impl Number for bf16 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    fn from_f64(x: f64) -> Self {
        Self::from_f64(x)
    }
}

/// What is made with the type of a name, which must be one of those listed.
macro_rules! with_type {
    ($dtype:expr, [$($name:literal = $type:ty),+], $alias:ident => $made:expr) => {
        match $dtype {
            $($name => {
                type $alias = $type;
                Some($made)
            })+
            _ => None,
        }
    };
}

pub(super) use with_type;
