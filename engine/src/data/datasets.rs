//! What a run trains on and what it is evaluated on, made of one or several sets of files.

use fleetune_shared::recipe::{DataSettings, HeldOut, Packing};
use fleetune_shared::{DataFiles, ModelSpec};

use super::dataset::Dataset;
use super::mixture;
use super::tokenizer::Tokenizer;
use crate::{EngineError, Result};

/// The two data sets of a run. No row is in both.
#[derive(Clone, Debug)]
pub struct Datasets {
    /// What is learned.
    pub train: Dataset,
    /// What is only asked; never packed.
    pub held_out: Option<Dataset>,
}

impl Datasets {
    /// Loads, holds out, mixes and packs, in this order, all drawn from `seed`.
    ///
    /// # Errors
    /// As [`Dataset::load`]; a hold-out that leaves nothing.
    pub fn load(
        files: &DataFiles,
        settings: &DataSettings,
        tokenizer: Option<&Tokenizer>,
        spec: &ModelSpec,
        seed: u64,
    ) -> Result<Self> {
        let cache = files.cache.as_deref();
        // What is mixed is counted afterwards.
        let rows_max = settings.rows_max.filter(|_| settings.mixing.is_none());
        let read = DataSettings { rows_max, ..settings.clone() };
        let (all, sizes) = Dataset::of_sets(&files.sets, &read, tokenizer, spec, cache)?;
        let mut begin = 0;
        let mut sets: Vec<Vec<u32>> = Vec::with_capacity(sizes.len());
        for size in sizes {
            sets.push((begin..begin + size).collect());
            begin += size;
        }
        if let Some(mixing) =
            settings.mixing.as_ref().filter(|m| m.probabilities.len() != sets.len())
        {
            return Err(EngineError::input(format!(
                "{} sets of data, expected {}, one for each of `dataset_probabilities`",
                sets.len(),
                mixing.probabilities.len()
            )));
        }
        let held = mixture::hold_out(&mut sets, &settings.held_out, seed);
        let held = held.map_err(|why| EngineError::input(format!("recipe: {why}")))?;
        let train = match &settings.mixing {
            None if held.is_empty() => all.clone(),
            None => all.pick(&sets.concat())?,
            Some(mixing) => {
                let mut mixed = mixture::interleave(&sets, mixing, seed);
                let most = settings.rows_max.and_then(|most| usize::try_from(most).ok());
                mixed.truncate(most.unwrap_or(usize::MAX));
                all.pick(&mixed)?
            }
        };
        let held_out = match &settings.held_out {
            HeldOut::Sets(_) => {
                let read =
                    DataSettings { rows_max: None, packing: Packing(None), ..settings.clone() };
                let sets = std::slice::from_ref(&files.held_out);
                Some(Dataset::of_sets(sets, &read, tokenizer, spec, cache)?.0)
            }
            _ if held.is_empty() => None,
            _ => Some(all.pick(&held)?),
        };
        let train = train.pack(settings)?;
        Ok(Self { train, held_out })
    }
}
