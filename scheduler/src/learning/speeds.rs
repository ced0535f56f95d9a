//! How fast jobs of a kind go, so that it can be told when those that wait would end.

use std::collections::BTreeMap;

use fleetune_shared::CardFamily;
use serde::{Deserialize, Serialize};

use super::Traits;

/// Kinds that are remembered; the one that learned nothing for longest makes room.
const KINDS_MAX: usize = 512;
/// A new speed moves the one that is remembered by one part of so many.
const INERTIA: u64 = 4;

/// What jobs did with their cards, from the promise to the result: the most they could have had to compute over the time
/// it took. So what is the same for all jobs of a kind (shorter rows than allowed, fetching, loading) is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Speed(u64);

impl Speed {
    /// So much work in such a time; `None` where one of them is nothing.
    #[must_use]
    pub fn of(work: u64, ms: u64) -> Option<Self> {
        let speed = (u128::from(work) * u128::from(Self::UNIT)).checked_div(u128::from(ms))?;
        (speed > 0).then(|| Self(u64::try_from(speed).unwrap_or(u64::MAX)))
    }

    /// In how many milliseconds a unit of speed does one unit of work: whole numbers, and tiny models have some too.
    const UNIT: u64 = 1_000_000;

    /// How long so much work takes, to the nearest millisecond.
    #[must_use]
    pub fn ms(self, work: u64) -> u64 {
        let speed = u128::from(self.0.max(1));
        let ms = (u128::from(work) * u128::from(Self::UNIT) + speed / 2) / speed;
        u64::try_from(ms).unwrap_or(u64::MAX)
    }
}

/// What was learned, kind by kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Speeds {
    learned: BTreeMap<Kind, Learned>,
    /// Counts what was learned, to tell which kind is oldest.
    clock: u64,
}

/// Jobs of these traits on cards of this family.
type Kind = (CardFamily, Traits);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Learned {
    speed: Speed,
    /// When it last learned, by the count of [`Speeds`].
    at: u64,
}

/// As it is stored: JSON has no maps with such keys.
#[derive(Serialize, Deserialize)]
struct Entry {
    family: CardFamily,
    #[serde(flatten)]
    traits: Traits,
    speed: Speed,
    at: u64,
}

impl From<Vec<Entry>> for Speeds {
    fn from(entries: Vec<Entry>) -> Self {
        let clock = entries.iter().map(|entry| entry.at).max().unwrap_or(0);
        let learned = entries
            .into_iter()
            .map(|Entry { family, traits, speed, at }| ((family, traits), Learned { speed, at }));
        Self { learned: learned.collect(), clock }
    }
}

impl From<Speeds> for Vec<Entry> {
    fn from(speeds: Speeds) -> Self {
        let entry = |((family, traits), Learned { speed, at })| Entry { family, traits, speed, at };
        speeds.learned.into_iter().map(entry).collect()
    }
}

impl Speeds {
    /// How fast jobs of a kind go; nothing before the first of them has ended.
    #[must_use]
    pub fn of(&self, family: CardFamily, traits: Traits) -> Option<Speed> {
        self.learned.get(&(family, traits)).map(|learned| learned.speed)
    }

    /// A job has ended well.
    pub fn learn(&mut self, family: CardFamily, traits: Traits, speed: Speed) {
        let kind = (family, traits);
        if !self.learned.contains_key(&kind) && self.learned.len() == KINDS_MAX {
            let oldest = self.learned.iter().min_by_key(|(_, learned)| learned.at);
            if let Some(oldest) = oldest.map(|(kind, _)| *kind) {
                self.learned.remove(&oldest);
            }
        }
        self.clock += 1;
        let at = self.clock;
        let learned = self.learned.entry(kind).or_insert(Learned { speed, at });
        let kept = learned.speed.0 - learned.speed.0 / INERTIA;
        learned.speed = Speed(kept.saturating_add(speed.0 / INERTIA).max(1));
        learned.at = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::{AttentionKind, DtypeKind, MethodKind, UpTo};

    fn traits(tokens: u64) -> Traits {
        Traits {
            method: MethodKind::Lora,
            dtype: DtypeKind::Bfloat16,
            attention: AttentionKind::Full,
            length: UpTo::of(tokens),
            parameters: UpTo::of(1 << 27),
        }
    }

    #[test]
    fn work_takes_as_long_as_it_took() {
        let speed = Speed::of(5_000, 2_000).unwrap();
        assert_eq!(speed.ms(5_000), 2_000);
        assert_eq!(speed.ms(12_500), 5_000);
        assert_eq!(Speed::of(0, 2_000), None);
        assert_eq!(Speed::of(5_000, 0), None);
        assert_eq!(Speed::of(1, 900_000).unwrap().ms(1), 1_000_000, "a tiny model has a speed too");
    }

    #[test]
    fn the_first_counts_whole_and_later_ones_a_quarter() {
        let (mut speeds, family) = (Speeds::default(), CardFamily::default());
        assert_eq!(speeds.of(family, traits(512)), None);
        speeds.learn(family, traits(512), Speed(800));
        assert_eq!(speeds.of(family, traits(512)), Some(Speed(800)));
        speeds.learn(family, traits(512), Speed(1_600));
        assert_eq!(speeds.of(family, traits(512)), Some(Speed(1_000)));
        assert_eq!(speeds.of(family, traits(2_048)), None, "another kind");
    }

    #[test]
    fn what_is_kept_is_bounded_and_reads_as_it_was_written() {
        let mut speeds = Speeds::default();
        for number in 0..=KINDS_MAX as u64 {
            let name = format!("card {number}");
            let family = CardFamily::of(&fleetune_shared::Card {
                name,
                vram_bytes_total: fleetune_shared::ByteSize(1),
                compute_capability: None,
                device: fleetune_shared::Device::Cpu,
            });
            speeds.learn(family, traits(512), Speed(number + 1));
        }
        assert_eq!(speeds.learned.len(), KINDS_MAX);
        assert!(speeds.learned.values().all(|learned| learned.speed > Speed(1)), "the oldest went");
        let text = serde_json::to_string(&speeds).unwrap();
        assert_eq!(serde_json::from_str::<Speeds>(&text).unwrap(), speeds);
    }
}
