//! Ratios of measured to estimated memory, kind by kind, and what follows from them.
//!
//! All in whole numbers ([`Ratio`] says why) and bounded: [`KEYS_MAX`] kinds of [`WINDOW`] ratios each.

use std::collections::{BTreeMap, VecDeque};

use fleetune_shared::{CardFamily, PeakSource, Ratio, quantile};
use serde::{Deserialize, Serialize};

use super::Traits;

/// Kinds of jobs that are remembered; the one that learned nothing for longest makes room.
const KEYS_MAX: usize = 512;
/// Ratios that count, the last ones: three strange ones among them change nothing.
const WINDOW: usize = 64;
/// The part of them, in per cent, that a promise is to cover. Of fewer than 20 that is the largest.
const COVERED: usize = 95;
/// So many runs of a kind have to agree before it is promised less than its estimate.
const WITNESSES_MIN: usize = 8;
/// Added to what was measured, in ten-thousandths: threads and allocators are never twice the same.
const HEADROOM: u32 = 200;
/// No correction is smaller: half of an estimate is not believed, whatever was measured.
const LEAST: Ratio = Ratio(5_000);
/// No correction is larger.
const MOST: Ratio = Ratio(40_000);

/// Jobs of one kind on cards of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The cards.
    pub family: CardFamily,
    /// The jobs.
    #[serde(flatten)]
    pub traits: Traits,
    /// Who measured: what two do not count alike is never mixed.
    #[serde(default)]
    pub source: PeakSource,
}

/// What an attempt says of its estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// It ran to its end, and this is its peak over the estimate of what it ran.
    Whole(Ratio),
    /// It took at least so much of the estimate it was placed by: it ran out of memory, was ended early, or did not say
    /// how long its rows were. Shows that an estimate is too low, never that it is too high.
    AtLeast(Ratio),
}

/// What was learned, kind by kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Entry>", into = "Vec<Entry>")]
pub struct Corrections {
    learned: BTreeMap<Key, Learned>,
    /// Counts what was learned, to tell which kind is oldest.
    clock: u64,
}

/// What was learned of jobs of one kind, whatever the size of their models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// On which cards.
    pub family: CardFamily,
    /// The jobs; the size of the model is that of the smallest.
    pub traits: Traits,
    /// Who measured.
    pub source: PeakSource,
    /// Ratios that count.
    pub samples: usize,
    /// The median of them.
    pub median: Ratio,
    /// The largest.
    pub most: Ratio,
    /// The largest of the corrections.
    pub correction: Ratio,
}

/// The last ratios of a kind, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
struct Learned {
    ratios: VecDeque<Ratio>,
    /// When it last learned, by the count of [`Corrections`].
    at: u64,
    /// Found from the ratios whenever they change, since plans ask often.
    correction: Ratio,
}

/// As it is stored: JSON has no maps with such keys.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    key: Key,
    ratios: VecDeque<Ratio>,
    at: u64,
}

impl From<Vec<Entry>> for Corrections {
    fn from(entries: Vec<Entry>) -> Self {
        let clock = entries.iter().map(|entry| entry.at).max().unwrap_or(0);
        let learned = entries.into_iter().map(|Entry { key, ratios, at }| {
            let correction = correction(&ratios);
            (key, Learned { ratios, at, correction })
        });
        Self { learned: learned.collect(), clock }
    }
}

impl From<Corrections> for Vec<Entry> {
    fn from(corrections: Corrections) -> Self {
        let entry = |(key, Learned { ratios, at, .. })| Entry { key, ratios, at };
        corrections.learned.into_iter().map(entry).collect()
    }
}

impl Corrections {
    /// What an estimate is multiplied by; one to one where nothing was learned. What drivers say comes first: they count
    /// everything a process holds.
    #[must_use]
    pub fn of(&self, family: CardFamily, traits: Traits) -> Ratio {
        let learned = |source| self.learned.get(&Key { family, traits, source });
        let learned = learned(PeakSource::Driver).or_else(|| learned(PeakSource::Trainer));
        learned.map_or(Ratio::ONE, |learned| learned.correction)
    }

    fn of_key(&self, key: &Key) -> Ratio {
        self.learned.get(key).map_or(Ratio::ONE, |learned| learned.correction)
    }

    /// Whether nothing was learned yet, so that nobody needs to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.learned.is_empty()
    }

    /// Takes in what an attempt says.
    pub fn learn(&mut self, key: Key, sample: Sample) {
        let ratio = match sample {
            Sample::Whole(ratio) => ratio,
            // A lower bound below what is promised anyway says nothing.
            Sample::AtLeast(ratio) if ratio <= self.of_key(&key) => return,
            Sample::AtLeast(ratio) => ratio,
        };
        if !self.learned.contains_key(&key) && self.learned.len() == KEYS_MAX {
            let oldest = self.learned.iter().min_by_key(|(_, learned)| learned.at);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.learned.remove(&oldest);
            }
        }
        self.clock += 1;
        let learned = self.learned.entry(key).or_default();
        if learned.ratios.len() == WINDOW {
            learned.ratios.pop_front();
        }
        learned.ratios.push_back(ratio);
        learned.at = self.clock;
        learned.correction = correction(&learned.ratios);
    }

    /// What was learned, kind by kind, models of all sizes together.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<(Kind, Vec<Ratio>)> = Vec::new();
        for (Key { family, traits, source }, learned) in &self.learned {
            let alike = |kind: &Kind| {
                let of_its_size = Traits { parameters: kind.traits.parameters, ..*traits };
                (kind.family, kind.traits, kind.source) == (*family, of_its_size, *source)
            };
            let at = kinds.iter().position(|(kind, _)| alike(kind)).unwrap_or_else(|| {
                let (samples, median, most, correction) = (0, Ratio::ONE, Ratio(0), Ratio(0));
                let (family, traits, source) = (*family, *traits, *source);
                let kind = Kind { family, traits, source, samples, median, most, correction };
                kinds.push((kind, Vec::new()));
                kinds.len() - 1
            });
            let (kind, ratios) = &mut kinds[at];
            ratios.extend(&learned.ratios);
            kind.samples += learned.ratios.len();
            kind.correction = kind.correction.max(learned.correction);
        }
        let finished = |(kind, mut ratios): (Kind, Vec<Ratio>)| {
            ratios.sort_unstable();
            let median = quantile(&ratios, 50).unwrap_or_default();
            Kind { median, most: ratios.last().copied().unwrap_or_default(), ..kind }
        };
        kinds.into_iter().map(finished).collect()
    }
}

/// What covers most of `ratios`, with some headroom. Below one to one only where enough of them agree, and then never
/// below the largest of them: what was measured once can be measured again.
fn correction(ratios: &VecDeque<Ratio>) -> Ratio {
    let sorted = sorted(ratios);
    let (Some(most), Some(covering)) = (sorted.last(), quantile(&sorted, COVERED)) else {
        return Ratio::ONE;
    };
    let with_headroom = |ratio: Ratio| Ratio(ratio.0.saturating_add(HEADROOM));
    let found = if *most <= Ratio::ONE {
        let trusted = sorted.len() >= WITNESSES_MIN;
        if trusted { with_headroom(*most).min(Ratio::ONE) } else { Ratio::ONE }
    } else if covering <= Ratio::ONE {
        Ratio::ONE
    } else {
        with_headroom(covering)
    };
    found.clamp(LEAST, MOST)
}

fn sorted(ratios: &VecDeque<Ratio>) -> Vec<Ratio> {
    let mut sorted: Vec<Ratio> = ratios.iter().copied().collect();
    sorted.sort_unstable();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::{AttentionKind, DtypeKind, MethodKind, UpTo};

    fn key(tokens: u64) -> Key {
        let traits = Traits {
            method: MethodKind::Lora,
            dtype: DtypeKind::Bfloat16,
            attention: AttentionKind::Full,
            length: UpTo::of(tokens),
            parameters: UpTo::of(1 << 27),
        };
        Key { family: CardFamily::default(), traits, source: PeakSource::Trainer }
    }

    fn learned(samples: &[Sample]) -> Corrections {
        let mut corrections = Corrections::default();
        samples.iter().for_each(|sample| corrections.learn(key(512), *sample));
        corrections
    }

    fn correction_of(samples: &[Sample]) -> Ratio {
        learned(samples).of_key(&key(512))
    }

    fn whole(ratio: u32, times: usize) -> Vec<Sample> {
        vec![Sample::Whole(Ratio(ratio)); times]
    }

    #[test]
    fn one_run_that_took_more_is_enough_to_promise_more() {
        assert_eq!(correction_of(&[]), Ratio::ONE);
        assert_eq!(correction_of(&whole(11_000, 1)), Ratio(11_200));
        assert_eq!(learned(&whole(11_000, 1)).of_key(&key(2048)), Ratio::ONE, "another length");
    }

    #[test]
    fn less_is_promised_only_where_enough_agree_and_never_less_than_was_measured() {
        assert_eq!(correction_of(&whole(8_000, WITNESSES_MIN - 1)), Ratio::ONE);
        assert_eq!(correction_of(&whole(8_000, WITNESSES_MIN)), Ratio(8_200));
        let mut mixed = whole(8_000, 60);
        mixed.extend(whole(9_500, 1));
        assert_eq!(correction_of(&mixed), Ratio(9_700));
        assert_eq!(correction_of(&whole(9_990, 60)), Ratio::ONE);
        assert_eq!(correction_of(&whole(10, 60)), LEAST);
        assert_eq!(correction_of(&whole(900_000, 60)), MOST);
    }

    #[test]
    fn a_few_strange_runs_among_many_change_nothing() {
        let mut samples = whole(10_100, WINDOW - 3);
        samples.extend(whole(30_000, 3));
        assert_eq!(correction_of(&samples), Ratio(10_300));
        samples.extend(whole(30_000, 1));
        assert_eq!(correction_of(&samples), Ratio(30_200), "a fourth is no accident");
        let mut below = whole(9_000, WINDOW - 1);
        below.extend(whole(30_000, 1));
        assert_eq!(correction_of(&below), Ratio::ONE, "nor do they let it fall below the estimate");
    }

    #[test]
    fn a_lower_bound_only_ever_raises() {
        let below = [Sample::AtLeast(Ratio(4_000)); 20];
        assert!(learned(&below).is_empty());
        assert_eq!(correction_of(&[Sample::AtLeast(Ratio(12_000))]), Ratio(12_200));
        let mut samples = whole(12_000, 5);
        samples.push(Sample::AtLeast(Ratio(11_000)));
        assert_eq!(correction_of(&samples), Ratio(12_200));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes() {
        let mut corrections = learned(&whole(12_000, 10 * WINDOW));
        assert_eq!(corrections.learned[&key(512)].ratios.len(), WINDOW);
        let other = |number: usize| {
            let mut other = key(1);
            let name = format!("card {number}");
            other.family = CardFamily::of(&fleetune_shared::Card {
                name,
                vram_bytes_total: fleetune_shared::ByteSize(1),
                compute_capability: None,
                device: fleetune_shared::Device::Cpu,
            });
            other
        };
        for number in 0..KEYS_MAX {
            corrections.learn(other(number), Sample::Whole(Ratio(12_000)));
        }
        assert_eq!(corrections.learned.len(), KEYS_MAX);
        assert_eq!(corrections.of_key(&key(512)), Ratio::ONE, "it learned nothing for longest");
        assert_eq!(corrections.of_key(&other(0)), Ratio(12_200));
    }

    #[test]
    fn tiny_models_say_nothing_about_large_ones_but_are_shown_with_them() {
        let mut large = key(512);
        large.traits.parameters = UpTo::of(1 << 33);
        let mut corrections = learned(&whole(6_000, 20));
        assert_eq!(corrections.of_key(&large), Ratio::ONE);
        corrections.learn(large, Sample::Whole(Ratio(10_500)));
        assert_eq!(corrections.of_key(&key(512)), Ratio(6_200));
        let kinds = corrections.kinds();
        assert_eq!(kinds.len(), 1);
        assert_eq!((kinds[0].samples, kinds[0].median), (21, Ratio(6_000)));
        assert_eq!((kinds[0].most, kinds[0].correction), (Ratio(10_500), Ratio(10_700)));
    }

    #[test]
    fn what_drivers_say_is_not_mixed_with_what_trainers_say_and_comes_first() {
        let driver = Key { source: PeakSource::Driver, ..key(512) };
        let mut corrections = learned(&whole(11_000, 20));
        let found = |corrections: &Corrections| corrections.of(driver.family, driver.traits);
        assert_eq!(found(&corrections), Ratio(11_200), "as long as no driver was asked");
        corrections.learn(driver, Sample::Whole(Ratio(13_000)));
        assert_eq!(found(&corrections), Ratio(13_200));
        assert_eq!(corrections.of_key(&key(512)), Ratio(11_200));
        assert_eq!(corrections.kinds().len(), 2);
    }

    #[test]
    fn it_reads_as_it_was_written() {
        let mut corrections = learned(&whole(12_000, 3));
        corrections.learn(key(2048), Sample::Whole(Ratio(9_000)));
        let text = serde_json::to_string(&corrections).unwrap();
        assert_eq!(serde_json::from_str::<Corrections>(&text).unwrap(), corrections);
    }
}
