//! Between messages and the words of `shared`.
//!
//! Towards the wire nothing can fail (`From`). From the wire everything is checked (`TryFrom`): a missing message, an
//! enum value nobody knows, a hash of the wrong length are refused by the field's name.

mod artifact;
mod availability;
mod card;
mod error;
mod estimate;
mod history;
mod job;
mod metrics;
mod overview;
mod rung;

#[cfg(test)]
mod tests;

pub use error::ConvertError;
use error::{Field, enumeration, list, optional, required, text};
pub use history::peak;

/// Both directions of an enum without fields; the wire's zero, `Unspecified`, is refused.
macro_rules! convert_enum {
    ($shared:ty, $wire:ident, $($variant:ident),+) => {
        impl From<$shared> for crate::v1::$wire {
            fn from(value: $shared) -> Self {
                match value {
                    $(<$shared>::$variant => Self::$variant,)+
                }
            }
        }

        impl TryFrom<crate::v1::$wire> for $shared {
            type Error = super::ConvertError;
            fn try_from(value: crate::v1::$wire) -> Result<Self, super::ConvertError> {
                match value {
                    $(crate::v1::$wire::$variant => Ok(<$shared>::$variant),)+
                    crate::v1::$wire::Unspecified => Err(super::ConvertError::new("is unspecified")),
                }
            }
        }
    };
}
use convert_enum;
