//! What an agent hands its trainer, and `fleetune train` and `fleetune merge` hand the engine: local paths
//! only, everything already fetched.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::recipe::{FourBit, FourBitType, Quantization};
use crate::{ByteSize, Device, Recipe};

/// One training run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrainOrder {
    /// What to do.
    pub recipe: Recipe,
    /// A model folder (config.json, safetensors, tokenizer) or a GGUF file.
    pub model: PathBuf,
    /// What it learns from.
    pub data: DataFiles,
    /// A PEFT folder to start from instead of a fresh adapter.
    pub init_adapter: Option<PathBuf>,
    /// Where checkpoints, metrics, report and the result go.
    pub out: PathBuf,
    /// A checkpoint folder to continue from.
    pub resume_from: Option<PathBuf>,
    /// What computes.
    pub device: Device,
    /// The most memory the run may hold; beyond it the run fails as out of memory.
    pub memory_bytes_limit: Option<ByteSize>,
    /// The most that the run's own estimate may come to where it chooses how much it keeps, if that is not the limit:
    /// less where estimates are known to be too low.
    #[serde(default)]
    pub memory_bytes_budget: Option<ByteSize>,
}

/// The files of a run's data, set by set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFiles {
    /// For each of the recipe's `dataset_name` its files, read in this order.
    pub sets: Vec<Vec<PathBuf>>,
    /// The files of its `eval_dataset`.
    pub held_out: Vec<PathBuf>,
    /// Where tokenised rows are kept for later runs; nowhere if absent.
    #[serde(default)]
    pub cache: Option<PathBuf>,
}

impl DataFiles {
    /// The name under which a file travels as a job's input, so that [`Self::place`] finds its set again.
    #[must_use]
    pub fn name_of(set: Option<usize>, index: usize, file: &str) -> String {
        match set {
            Some(set) => format!("{set}/{index}/{file}"),
            None => format!("eval/{index}/{file}"),
        }
    }

    /// Takes in a file that lies at `path`, having travelled as `name`.
    pub fn place(&mut self, name: &str, path: PathBuf) {
        // A name without a set is that of a job that has only one.
        let set = name.split_once('/').map_or("0", |(set, _)| set);
        if set == "eval" {
            self.held_out.push(path);
            return;
        }
        let set = set.parse().unwrap_or(0).min(SETS_MAX);
        if self.sets.len() <= set {
            self.sets.resize(set + 1, Vec::new());
        }
        self.sets[set].push(path);
    }

    /// Every file, in the order they are read.
    pub fn iter(&self) -> impl Iterator<Item = &PathBuf> {
        self.sets.iter().flatten().chain(&self.held_out)
    }
}

/// A name says which set its file is in, and a name can say anything.
const SETS_MAX: usize = 1 << 10;

impl From<PathBuf> for DataFiles {
    fn from(file: PathBuf) -> Self {
        Self { sets: vec![vec![file]], ..Self::default() }
    }
}

/// One merge of an adapter into its base.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MergeOrder {
    /// A model folder or a GGUF file.
    pub model: PathBuf,
    /// A PEFT folder.
    pub adapter: PathBuf,
    /// Where the merged model goes.
    pub out: PathBuf,
    /// What numbers the adapter is added to, and how the sum is stored.
    #[serde(default)]
    pub onto: MergeOnto,
    /// Whether the adapter may have been trained on another base than `model`.
    #[serde(default)]
    pub other_base: bool,
}

/// The base of a merge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeOnto {
    /// The base's own numbers, and its types, tensor by tensor.
    #[default]
    AsStored,
    /// The base's own numbers; the sum is stored in 32 bits.
    Float32,
    /// The base's own numbers; the sum is stored in bfloat16.
    Bfloat16,
    /// What QLoRA trained on: the linear layers of the blocks quantised to four bits and back. Stored as the base.
    Dequantized4bit {
        /// Whether the code book is FP4 instead of NF4.
        fp4: bool,
        /// Whether the scales are quantised too.
        double: bool,
    },
}

impl MergeOnto {
    /// In what form a model has the numbers of this base.
    #[must_use]
    pub fn held(self) -> Quantization {
        let Self::Dequantized4bit { fp4, double } = self else { return Quantization::Float32 };
        let kind = if fp4 { FourBitType::Fp4 } else { FourBitType::Nf4 };
        Quantization::FourBit(FourBit { kind, double, bfloat16: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_find_their_sets_again_by_their_names() {
        let mut files = DataFiles::default();
        let names = [
            DataFiles::name_of(Some(1), 0, "b.jsonl"),
            DataFiles::name_of(Some(0), 0, "a.jsonl"),
            DataFiles::name_of(Some(0), 1, "a.jsonl"),
            DataFiles::name_of(None, 0, "held.jsonl"),
        ];
        for name in &names {
            files.place(name, PathBuf::from(name));
        }
        let path = PathBuf::from;
        assert_eq!(
            files.sets,
            [vec![path("0/0/a.jsonl"), path("0/1/a.jsonl")], vec![path("1/0/b.jsonl")]]
        );
        assert_eq!(files.held_out, [path("eval/0/held.jsonl")]);
        assert_eq!(files.iter().count(), 4);
    }

    #[test]
    fn a_name_without_a_set_is_in_the_only_one() {
        for name in ["rows.jsonl", "7", "eval", "x/rows.jsonl", "99999999999999999999/rows.jsonl"] {
            let mut files = DataFiles::default();
            files.place(name, PathBuf::from(name));
            assert_eq!(files.sets[0], [PathBuf::from(name)], "{name}");
        }
    }
}
