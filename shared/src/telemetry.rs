//! What a card is doing at the moment, as its driver says. Shown, never decided by: it changes too often for the log.

use serde::{Deserialize, Serialize};

/// A card at one moment; what its driver cannot tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telemetry {
    /// Part of its time that it computes, in percent.
    pub utilization_percent: Option<u32>,
    /// How hot it is, in °C.
    pub celsius: Option<u32>,
    /// What it draws, in milliwatts.
    pub milliwatts: Option<u32>,
    /// Why it computes slower than it could.
    pub throttled: Vec<Throttle>,
}

/// Why a card computes slower than it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Throttle {
    /// It would draw more power than it may.
    Power,
    /// It is too hot.
    Heat,
    /// The machine's power supply asks for it.
    PowerBrake,
    /// Somebody set its clocks.
    Clocks,
}

impl Throttle {
    /// The word shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Power => "power cap",
            Self::Heat => "heat",
            Self::PowerBrake => "power brake",
            Self::Clocks => "clocks set",
        }
    }
}
