//! What a policy is compared with: the model as it was before the first step.
//!
//! Where a fresh adapter lies beside frozen weights, that is the base with the adapter left out, and it is asked
//! whenever it is needed: no second copy of any weight. Where the base itself learns, or the adapter does not begin as
//! nothing, the model is asked about every row before the first step, and the answers are kept, in checkpoints too.

use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use crate::tensor_file::{TensorEntry, TensorFile};
use crate::{EngineError, Result};

/// The numbers of one data set.
pub(crate) const TENSOR: &str = "reference_logps";

/// Where the reference's log-probabilities of answers come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reference {
    /// The base, asked each time.
    Base,
    /// Both answers of each sequence, in nats.
    Stored(Vec<[f64; 2]>),
}

impl Reference {
    /// Writes stored numbers as a table `[sequences, 2]` of f64.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let Self::Stored(rows) = self else { return Ok(()) };
        let shape = vec![rows.len(), 2];
        let entry = TensorEntry { name: TENSOR.into(), dtype: Dtype::F64, shape };
        let mut file = TensorFile::create(path, &[entry])?;
        for row in rows {
            file.write(&row[0].to_le_bytes())?;
            file.write(&row[1].to_le_bytes())?;
        }
        file.finish()
    }

    /// Reads what [`Self::save`] wrote for `sequences` sequences.
    ///
    /// # Errors
    /// [`EngineError::Io`], or [`EngineError::Input`] for a file that is damaged or of other data.
    pub(crate) fn load(path: &Path, sequences: usize) -> Result<Self> {
        let wrong = |why: String| {
            EngineError::input(format!(
                "{}: {why}, expected `{TENSOR}` of {sequences} sequences; resume from another checkpoint",
                path.display()
            ))
        };
        let bytes = std::fs::read(path).map_err(|e| EngineError::io(path, e))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
        let tensor = tensors.tensor(TENSOR).map_err(|e| wrong(e.to_string()))?;
        if tensor.dtype() != Dtype::F64 || tensor.shape() != [sequences, 2] {
            return Err(wrong(format!("found {:?} {:?}", tensor.dtype(), tensor.shape())));
        }
        let (numbers, _) = tensor.data().as_chunks::<8>();
        let (rows, _) = numbers.as_chunks::<2>();
        Ok(Self::Stored(rows.iter().map(|row| row.map(f64::from_le_bytes)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_numbers_come_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("reference.safetensors");
        let stored = Reference::Stored(vec![[-0.1 - 0.2, -1e-300], [-313.896_392_822, 0.0]]);
        stored.save(&path).unwrap();
        assert_eq!(Reference::load(&path, 2).unwrap(), stored);
        let refused = Reference::load(&path, 3).unwrap_err().to_string();
        assert!(refused.contains("found F64 [2, 2], expected `reference_logps` of 3"), "{refused}");
        std::fs::write(&path, b"half").unwrap();
        assert!(Reference::load(&path, 2).is_err());
    }
}
