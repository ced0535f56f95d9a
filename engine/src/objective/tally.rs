//! Means over a step, added up micro-batch by micro-batch.

use std::collections::BTreeMap;

/// Sums and counts by the name TRL logs them under.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    sums: BTreeMap<&'static str, (f64, f64)>,
}

impl Tally {
    /// Adds values that count one each.
    pub fn add(&mut self, name: &'static str, values: impl IntoIterator<Item = f64>) {
        for value in values {
            let (sum, count) = self.sums.entry(name).or_default();
            *sum += value;
            *count += 1.0;
        }
    }

    /// Takes over what another micro-batch has added up.
    pub fn merge(&mut self, other: Self) {
        for (name, (sum, count)) in other.sums {
            let mine = self.sums.entry(name).or_default();
            mine.0 += sum;
            mine.1 += count;
        }
    }

    /// The mean of what was added under `name`.
    #[must_use]
    pub fn mean(&self, name: &str) -> Option<f64> {
        self.sums.get(name).map(|(sum, count)| sum / count)
    }

    /// All means; a margin is that of the means where no pair gave one (KTO's rows are not paired).
    #[must_use]
    pub fn means(&self) -> BTreeMap<String, f64> {
        let mut means: BTreeMap<String, f64> = self
            .sums
            .iter()
            .map(|(name, (sum, count))| ((*name).to_owned(), sum / count))
            .collect();
        let of = |name: &str| self.mean(name);
        if let (Some(chosen), Some(rejected)) = (of("rewards/chosen"), of("rewards/rejected")) {
            means.entry("rewards/margins".into()).or_insert(chosen - rejected);
        }
        means
    }
}
