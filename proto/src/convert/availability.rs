//! Why a card takes no jobs.

use fleetune_shared::{Availability, ByteSize, OwnerSign};

use super::{ConvertError, required, text};
use crate::v1;
use v1::availability::Closed;
use v1::owner_there::Sign;

impl From<Availability> for v1::Availability {
    fn from(availability: Availability) -> Self {
        let closed = match availability {
            Availability::Open => None,
            Availability::Owner { sign, opens_ms } => {
                Some(Closed::Owner(v1::OwnerThere { sign: Some(sign.into()), opens_ms }))
            }
            Availability::OffHours { hours, opens_ms } => {
                Some(Closed::OffHours(v1::OffHours { hours, opens_ms }))
            }
            Availability::TooHot { celsius, celsius_max } => {
                Some(Closed::TooHot(v1::TooHot { celsius, celsius_max }))
            }
            Availability::DriverError { xid } => Some(Closed::DriverError(v1::DriverError { xid })),
            Availability::Gone { error } => Some(Closed::Gone(v1::Gone { error })),
            Availability::Paused => Some(Closed::Paused(v1::Paused {})),
        };
        Self { closed }
    }
}

impl TryFrom<v1::Availability> for Availability {
    type Error = ConvertError;
    fn try_from(availability: v1::Availability) -> Result<Self, ConvertError> {
        Ok(match availability.closed {
            None => Self::Open,
            Some(Closed::Owner(owner)) => {
                Self::Owner { sign: required("sign", owner.sign)?, opens_ms: owner.opens_ms }
            }
            Some(Closed::OffHours(off)) => {
                Self::OffHours { hours: text("hours", off.hours)?, opens_ms: off.opens_ms }
            }
            Some(Closed::TooHot(v1::TooHot { celsius, celsius_max })) => {
                Self::TooHot { celsius, celsius_max }
            }
            Some(Closed::DriverError(v1::DriverError { xid })) => Self::DriverError { xid },
            Some(Closed::Gone(gone)) => Self::Gone { error: text("error", gone.error)? },
            Some(Closed::Paused(v1::Paused {})) => Self::Paused,
        })
    }
}

impl From<OwnerSign> for Sign {
    fn from(sign: OwnerSign) -> Self {
        match sign {
            OwnerSign::Programs { name, count, vram_bytes } => {
                Self::Programs(v1::OwnerPrograms { name, count, vram_bytes: vram_bytes.0 })
            }
            OwnerSign::Load { percent } => Self::Load(v1::OwnerLoad { percent }),
            OwnerSign::Input => Self::Input(v1::OwnerInput {}),
        }
    }
}

impl TryFrom<Sign> for OwnerSign {
    type Error = ConvertError;
    fn try_from(sign: Sign) -> Result<Self, ConvertError> {
        Ok(match sign {
            Sign::Programs(v1::OwnerPrograms { name, count, vram_bytes }) => Self::Programs {
                name: name.map(|name| text("name", name)).transpose()?,
                count,
                vram_bytes: ByteSize(vram_bytes),
            },
            Sign::Load(v1::OwnerLoad { percent }) => Self::Load { percent },
            Sign::Input(v1::OwnerInput {}) => Self::Input,
        })
    }
}
