//! Which model this is, in whatever form it is stored.
//!
//! An adapter changes one base. Laid beside another one it fits if the shapes agree, and answers nonsense. So what
//! learns here carries its base's identity, and whoever lays it beside a base asks whether that is the one.

use std::collections::BTreeSet;
use std::path::Path;

use fleetune_shared::{BlobHash, ModelSpec};
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use super::source::WeightFiles;
use crate::Result;
use crate::ops::slices;

/// Numbers kept of each matrix.
const SAMPLES: usize = 16;

/// The least correlation of two samples of one model. Blocks of two bits leave about 0.95, of four 0.99; other models
/// of the same shape have about 0.
const CORRELATION_MIN: f64 = 0.9;

/// What tells a model from others: the linear layers of its first, its middle and its last block. Every way of training
/// a whole model, and every merge, changes those; new tokens, a template or another split into files do not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// BLAKE3 of their numbers as f32, in the order of blocks and layers.
    hash: BlobHash,
    /// The type all of them are stored in, such as `BF16`; none for codes and blocks of few bits.
    dtype: Option<String>,
    /// Some of the numbers, spread over all of them.
    sample: Vec<f32>,
}

impl Identity {
    /// Of the model at `path`. Reads about three blocks' weights, one matrix at a time.
    ///
    /// # Errors
    /// As [`WeightFiles::open`] and [`WeightFiles::read`].
    pub fn of(path: &Path) -> Result<Self> {
        let files = WeightFiles::open(path)?;
        let spec = files.spec();
        let last = spec.num_hidden_layers - 1;
        let mut hasher = blake3::Hasher::new();
        let mut dtypes = BTreeSet::new();
        let mut sample = Vec::new();
        for block in BTreeSet::from([0, last / 2, last]) {
            for (linear, ..) in spec.linears() {
                let name = format!("{}.weight", ModelSpec::module(block, linear));
                let matrix = files.read(&name)?;
                let numbers = slices::view(&matrix)?;
                let mut bytes = Vec::new();
                for piece in numbers.chunks(1 << 14) {
                    bytes.clear();
                    bytes.extend(piece.iter().flat_map(|number| number.to_le_bytes()));
                    hasher.update(&bytes);
                }
                // The second summand keeps off the first columns, which a plain share of the length would hit.
                let at = |i| (i * numbers.len() / SAMPLES + i * 7919) % numbers.len();
                sample.extend((0..SAMPLES).map(|i| numbers[at(i)]));
                dtypes.insert(plain_dtype(&files, &name));
            }
        }
        let dtype = dtypes.pop_first().filter(|_| dtypes.is_empty()).flatten();
        Ok(Self { hash: BlobHash(*hasher.finalize().as_bytes()), dtype, sample })
    }

    /// Whether both are one model. Stored in one type, the same numbers; otherwise, since a conversion rounds, numbers
    /// that run alike: a quantised fine-tuning of a model cannot be told from the quantised model.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        if self.hash == other.hash {
            return true;
        }
        if self.sample.len() != other.sample.len() {
            return false;
        }
        let one_type = self.dtype.is_some() && self.dtype == other.dtype;
        !one_type && correlation(&self.sample, &other.sample) >= CORRELATION_MIN
    }
}

/// The type `name` is stored in, where its numbers stand there one by one.
fn plain_dtype(files: &WeightFiles, name: &str) -> Option<String> {
    let dtype = files.dtype(name);
    let plain = files.is_checkpoint() && matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
    plain.then(|| dtype.to_string())
}

/// Pearson's, about zero, where weights have their mean.
fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}
