//! Whether a card takes jobs, and why not: its owner comes first.
//!
//! An agent decides it from what it measures (`agent/src/owner`) and its offer carries it; the scheduler heeds it, and
//! every front end shows it in the same words.

use serde::{Deserialize, Serialize};

use crate::ByteSize;

/// Whether a card takes jobs. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Availability {
    /// Jobs are welcome.
    #[default]
    Open,
    /// Its owner uses it, or did a moment ago.
    Owner {
        /// What gave the owner away.
        sign: OwnerSign,
        /// When it opens if the owner stays away; absent while the owner is there.
        opens_ms: Option<u64>,
    },
    /// It is lent at other hours.
    OffHours {
        /// As its owner wrote them.
        hours: String,
        /// When the next of them begins.
        opens_ms: Option<u64>,
    },
    /// It is too hot.
    TooHot {
        /// What was measured, in °C.
        celsius: u32,
        /// What is allowed.
        celsius_max: u32,
    },
    /// Its driver reported an error after which it should be looked at.
    DriverError {
        /// NVIDIA's number for it.
        xid: u64,
    },
    /// Its driver does not answer.
    Gone {
        /// What the driver said.
        error: String,
    },
    /// Somebody paused it by hand.
    Paused,
}

/// What gives an owner away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerSign {
    /// Programs that hold memory on the card.
    Programs {
        /// The name of the largest, where it has one.
        name: Option<String>,
        /// How many.
        count: u32,
        /// What they hold together.
        vram_bytes: ByteSize,
    },
    /// The card computes for somebody else.
    Load {
        /// Of its time.
        percent: u32,
    },
    /// A keyboard, a mouse or a terminal was used.
    Input,
}

impl Availability {
    /// Whether new jobs may go there.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::Open
    }

    /// Whether jobs that are there have to leave. After a driver's error they may go on: those it hit have ended.
    #[must_use]
    pub fn yields(&self) -> bool {
        !matches!(self, Self::Open | Self::DriverError { .. })
    }

    /// When it opens, if it is closed and that can be told.
    #[must_use]
    pub fn opens_ms(&self) -> Option<u64> {
        match self {
            Self::Owner { opens_ms, .. } | Self::OffHours { opens_ms, .. } => *opens_ms,
            _ => None,
        }
    }

    /// The word for it in tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Owner { .. } => "in use",
            Self::OffHours { .. } => "off hours",
            Self::TooHot { .. } => "too hot",
            Self::DriverError { .. } => "error",
            Self::Gone { .. } => "gone",
            Self::Paused => "paused",
        }
    }

    /// Why it is closed, with the numbers; `None` where it is open. `now_ms` is what times are told from.
    #[must_use]
    pub fn reason(&self, now_ms: u64) -> Option<String> {
        let opens_in = |ms: u64| in_words(ms.saturating_sub(now_ms));
        Some(match self {
            Self::Open => return None,
            Self::Owner { sign, opens_ms: None } => format!("its owner uses it: {}", sign.reason()),
            Self::Owner { sign, opens_ms: Some(ms) } => format!(
                "its owner used it: {}; opens in {} if it stays idle",
                sign.reason(),
                opens_in(*ms)
            ),
            Self::OffHours { hours, opens_ms: None } => format!("available {hours}"),
            Self::OffHours { hours, opens_ms: Some(ms) } => {
                format!("available {hours}; opens in {}", opens_in(*ms))
            }
            Self::TooHot { celsius, celsius_max } => {
                format!("too hot: {celsius} °C, limit {celsius_max} °C")
            }
            Self::DriverError { xid } => format!(
                "its driver reported error Xid {xid}; look at the card, then restart the agent"
            ),
            Self::Gone { error } => format!("its driver does not answer: {error}"),
            Self::Paused => "paused by hand".into(),
        })
    }
}

impl OwnerSign {
    fn reason(&self) -> String {
        match self {
            Self::Programs { name, count, vram_bytes } => {
                let name = name.as_deref().unwrap_or("a program that the driver does not name");
                match count {
                    0 | 1 => format!("{name}, {vram_bytes}"),
                    more => format!("{name} and {} more, {vram_bytes}", more - 1),
                }
            }
            Self::Load { percent } => format!("{percent} % of its time"),
            Self::Input => "keyboard or mouse".into(),
        }
    }
}

/// A span of time for people: its two largest units, the smaller rounded up.
fn in_words(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    let minutes = seconds.div_ceil(60);
    let hours = minutes.div_ceil(60);
    match (seconds, minutes, hours) {
        (0..60, ..) => format!("{seconds} s"),
        (_, 0..60, _) => format!("{minutes} min"),
        (.., 0..48) if minutes.is_multiple_of(60) => format!("{} h", minutes / 60),
        (.., 0..48) => format!("{} h {} min", minutes / 60, minutes % 60),
        _ if hours.is_multiple_of(24) => format!("{} days", hours / 24),
        _ => format!("{} days {} h", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn a_span_has_two_units_at_most() {
        let said = |seconds: u64| in_words(seconds * 1000);
        assert_eq!(said(0), "0 s");
        assert_eq!(said(59), "59 s");
        assert_eq!(said(61), "2 min");
        assert_eq!(said(59 * 60 + 1), "1 h");
        assert_eq!(said(200 * 60), "3 h 20 min");
        assert_eq!(said(47 * 3600), "47 h");
        assert_eq!(said(48 * 3600), "2 days");
        assert_eq!(said(60 * 3600 + 1), "2 days 13 h");
    }

    #[test]
    fn a_reason_has_the_numbers() {
        let programs = |count| OwnerSign::Programs {
            name: Some("blender".into()),
            count,
            vram_bytes: ByteSize(6_549_825_126),
        };
        let owner = |sign, opens_ms| Availability::Owner { sign, opens_ms }.reason(0).unwrap();
        assert_eq!(owner(programs(1), None), "its owner uses it: blender, 6.10 GiB");
        assert_eq!(
            owner(programs(3), Some(7 * MINUTE)),
            "its owner used it: blender and 2 more, 6.10 GiB; opens in 7 min if it stays idle"
        );
        assert_eq!(
            owner(OwnerSign::Load { percent: 80 }, None),
            "its owner uses it: 80 % of its time"
        );
        let hours = "Mon-Fri 19:00-08:00".to_owned();
        let off = Availability::OffHours { hours, opens_ms: Some(210 * MINUTE) };
        assert_eq!(
            off.reason(10 * MINUTE).unwrap(),
            "available Mon-Fri 19:00-08:00; opens in 3 h 20 min"
        );
        let hot = Availability::TooHot { celsius: 87, celsius_max: 85 };
        assert_eq!(hot.reason(0).unwrap(), "too hot: 87 °C, limit 85 °C");
        assert_eq!(Availability::Open.reason(0), None);
    }

    #[test]
    fn only_an_open_card_takes_jobs_and_a_driver_error_lets_them_end() {
        let error = Availability::DriverError { xid: 48 };
        assert!(!error.is_open() && !error.yields());
        assert!(!Availability::Paused.is_open() && Availability::Paused.yields());
        assert!(Availability::Open.is_open() && !Availability::Open.yields());
    }
}
