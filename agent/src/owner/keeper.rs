//! Decides whether the card takes jobs, from what was seen and when. Looks at nothing itself.
//!
//! It closes at the first sign (load alone has to last, for it lags behind a job of ours that has just ended) and opens
//! once there was none for `idle_after`. What was on the card when the agent began and holds little is furniture, the
//! desktop itself: it counts only for what it has grown.

use std::collections::BTreeMap;

use fleetune_shared::{Availability, ByteSize, OwnerSign};
use jiff::ZonedDateTime;

use super::hours::Opening;
use super::policy::OwnerPolicy;
use crate::probe::{Sight, Stranger};

/// Load that lasts for less is nobody.
const LOAD_MS: u64 = 3_000;
/// What was there at the start and holds more is somebody at work.
const FURNITURE_MAX: ByteSize = ByteSize(1 << 30);
/// A card that was too hot opens again so far below its limit …
const COOLER_BY: u32 = 5;
/// … once it has been so for as long.
const COOL_MS: u64 = 60_000;
/// Before an owner's absence is announced.
const QUIET_MS_MAX: u64 = 60_000;
/// Numbers that change by less are told as they were: each change goes through the log.
const BYTES_CHANGE: u64 = 256 << 20;
const PERCENT_CHANGE: u32 = 20;
const CELSIUS_CHANGE: u32 = 3;

/// What was seen at one moment.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The card, or what its driver said instead.
    pub(super) card: Result<Sight, String>,
    /// When somebody last typed or moved a mouse, where that is watched.
    pub(super) input_ms: Option<u64>,
}

/// Decides, and remembers what that takes.
#[derive(Debug)]
pub(super) struct Keeper {
    policy: OwnerPolicy,
    furniture: Option<Furniture>,
    /// The last sign of the owner, and when it was seen.
    sign: Option<(OwnerSign, u64)>,
    loaded_since_ms: Option<u64>,
    /// Since it was too hot: the time since which it is cool enough.
    heat: Option<Option<u64>>,
    xid: Option<u64>,
    said: Availability,
}

/// What was on the card when the agent began.
#[derive(Debug)]
struct Furniture {
    /// By process.
    held: BTreeMap<u32, ByteSize>,
    /// In all, for a driver that does not tell who holds it.
    foreign: ByteSize,
}

impl Keeper {
    pub(super) fn new(policy: OwnerPolicy) -> Self {
        Self {
            policy,
            furniture: None,
            sign: None,
            loaded_since_ms: None,
            heat: None,
            xid: None,
            said: Availability::Open,
        }
    }

    /// Whether the card takes jobs now, after what was seen.
    pub(super) fn decide(&mut self, seen: &Seen, now: &ZonedDateTime) -> Availability {
        let now_ms = u64::try_from(now.timestamp().as_millisecond()).unwrap_or(0);
        let found = match &seen.card {
            Err(error) => Availability::Gone { error: error.clone() },
            Ok(sight) => {
                self.xid = sight.xid.or(self.xid);
                self.notice(sight, seen.input_ms, now_ms);
                // What has jobs leave comes before what lets them end.
                let reasons = [
                    self.heat(sight, now_ms),
                    self.owner(now_ms),
                    self.off_hours(now),
                    self.xid.map(|xid| Availability::DriverError { xid }),
                ];
                reasons.into_iter().flatten().next().unwrap_or_default()
            }
        };
        if !is_alike(&self.said, &found) {
            self.said = found;
        }
        self.said.clone()
    }

    /// Takes note of every sign of the owner.
    fn notice(&mut self, sight: &Sight, input_ms: Option<u64>, now_ms: u64) {
        let programs = self.programs(sight);
        let load = self.load(sight, now_ms);
        if let Some(sign) = programs.or(load) {
            self.sign = Some((sign, now_ms));
        } else if let Some(at_ms) = input_ms.filter(|_| self.policy.signs.input)
            && self.sign.as_ref().is_none_or(|(_, last)| *last < at_ms)
        {
            self.sign = Some((OwnerSign::Input, at_ms));
        }
    }

    fn programs(&mut self, sight: &Sight) -> Option<OwnerSign> {
        let least = self.policy.signs.programs?;
        let furniture = self.furniture.get_or_insert_with(|| Furniture::of(sight));
        furniture.held.retain(|pid, _| sight.strangers.iter().any(|other| other.pid == *pid));
        let grown = |stranger: &Stranger| {
            let before = furniture.held.get(&stranger.pid).map_or(0, |bytes| bytes.0);
            stranger.vram_bytes.is_some_and(|now| now.0.saturating_sub(before) > least.0)
        };
        let counted: Vec<&Stranger> = sight.strangers.iter().filter(|s| grown(s)).collect();
        let bytes = |stranger: &&&Stranger| stranger.vram_bytes.map_or(0, |bytes| bytes.0);
        if let Some(largest) = counted.iter().max_by_key(bytes) {
            return Some(OwnerSign::Programs {
                name: largest.name.clone(),
                count: counted.len() as u32,
                vram_bytes: ByteSize(counted.iter().map(|s| bytes(&s)).sum()),
            });
        }
        // A driver that does not tell who holds what at least tells how much is held.
        let more = sight.vram_bytes_foreign?.0.saturating_sub(furniture.foreign.0);
        (!sight.tells_strangers && more > least.0).then_some(OwnerSign::Programs {
            name: None,
            count: 1,
            vram_bytes: ByteSize(more),
        })
    }

    fn load(&mut self, sight: &Sight, now_ms: u64) -> Option<OwnerSign> {
        let most = self.policy.signs.load?;
        let Some(percent) = sight.load_percent.filter(|percent| *percent > most) else {
            self.loaded_since_ms = None;
            return None;
        };
        let since_ms = *self.loaded_since_ms.get_or_insert(now_ms);
        (now_ms.saturating_sub(since_ms) >= LOAD_MS).then_some(OwnerSign::Load { percent })
    }

    fn owner(&self, now_ms: u64) -> Option<Availability> {
        let (sign, last_ms) = self.sign.clone()?;
        let idle_ms = self.policy.idle_after.as_millis() as u64;
        let away_ms = now_ms.saturating_sub(last_ms);
        let opens_ms = last_ms.saturating_add(idle_ms);
        let announced = away_ms > (idle_ms / 4).min(QUIET_MS_MAX);
        (away_ms < idle_ms || away_ms == 0)
            .then(|| Availability::Owner { sign, opens_ms: announced.then_some(opens_ms) })
    }

    fn heat(&mut self, sight: &Sight, now_ms: u64) -> Option<Availability> {
        let celsius = sight.telemetry.as_ref()?.celsius?;
        let celsius_max = self.policy.celsius_max.or(sight.celsius_slowdown)?;
        if celsius > celsius_max {
            self.heat = Some(None);
        } else if let Some(cool_since) = &mut self.heat {
            if celsius.saturating_add(COOLER_BY) > celsius_max {
                *cool_since = None;
            } else if now_ms.saturating_sub(*cool_since.get_or_insert(now_ms)) >= COOL_MS {
                self.heat = None;
            }
        }
        self.heat.map(|_| Availability::TooHot { celsius, celsius_max })
    }

    fn off_hours(&self, now: &ZonedDateTime) -> Option<Availability> {
        let hours = self.policy.hours.as_ref()?;
        match hours.at(now) {
            Opening::Now => None,
            Opening::From(opens) => Some(Availability::OffHours {
                hours: hours.to_string(),
                opens_ms: u64::try_from(opens.timestamp().as_millisecond()).ok(),
            }),
        }
    }
}

impl Furniture {
    fn of(sight: &Sight) -> Self {
        let small = |s: &Stranger| {
            s.vram_bytes.filter(|bytes| *bytes <= FURNITURE_MAX).map(|bytes| (s.pid, bytes))
        };
        Self {
            held: sight.strangers.iter().filter_map(small).collect(),
            foreign: sight.vram_bytes_foreign.unwrap_or_default().min(FURNITURE_MAX),
        }
    }
}

/// Whether two say the same to a reader.
fn is_alike(said: &Availability, found: &Availability) -> bool {
    use Availability::{Owner, TooHot};
    match (said, found) {
        (Owner { sign: before, opens_ms }, Owner { sign: now, opens_ms: opens }) => {
            opens_ms == opens && is_alike_sign(before, now)
        }
        (TooHot { celsius: before, .. }, TooHot { celsius: now, .. }) => {
            before.abs_diff(*now) < CELSIUS_CHANGE
        }
        _ => said == found,
    }
}

fn is_alike_sign(before: &OwnerSign, now: &OwnerSign) -> bool {
    use OwnerSign::{Load, Programs};
    match (before, now) {
        (
            Programs { name, count, vram_bytes },
            Programs { name: name_now, count: count_now, vram_bytes: now },
        ) => {
            let change = vram_bytes.0.abs_diff(now.0);
            name == name_now && count == count_now && change < BYTES_CHANGE
        }
        (Load { percent }, Load { percent: now }) => percent.abs_diff(*now) < PERCENT_CHANGE,
        _ => before == now,
    }
}

#[cfg(test)]
mod tests;
