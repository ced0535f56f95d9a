//! What of a job decides how far its estimate is off, as a small key.

use fleetune_shared::recipe::{Lora, Method, Quantization};
use fleetune_shared::{JobSpec, ModelSpec, Recipe, Work};
use serde::{Deserialize, Serialize};

/// What kind of job it is, apart from its sizes, which the estimate knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Traits {
    /// What is trained.
    pub method: MethodKind,
    /// How the base is held.
    pub dtype: DtypeKind,
    /// How far queries see.
    pub attention: AttentionKind,
    /// Longest row, in tokens.
    pub length: UpTo,
    /// Parameters of the model. What is the same for all runs, the process itself, is most of a tiny run and next to
    /// nothing of a large one: what one shows says little about the other.
    pub parameters: UpTo,
}

impl Traits {
    /// Of a job as it was submitted.
    #[must_use]
    pub fn of(spec: &JobSpec) -> Self {
        match &spec.work {
            Work::Train { recipe } => Self::of_training(recipe, &spec.model),
            Work::Merge(_) => Self {
                method: MethodKind::Merge,
                dtype: DtypeKind::Float32,
                attention: AttentionKind::of(&spec.model),
                length: UpTo::of(0),
                parameters: UpTo::of(spec.model.parameters()),
            },
        }
    }

    /// Of a run of `recipe` on `model`.
    pub(crate) fn of_training(recipe: &Recipe, model: &ModelSpec) -> Self {
        Self {
            method: MethodKind::of(&recipe.method),
            dtype: DtypeKind::of(recipe.quantization),
            attention: AttentionKind::of(model),
            length: UpTo::of(recipe.data.max_length as u64),
            parameters: UpTo::of(model.parameters()),
        }
    }
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodKind {
    /// Every weight.
    Full,
    /// Some weights of the base.
    Freeze,
    /// Low-rank products.
    Lora,
    /// Low-rank products with magnitudes.
    Dora,
    /// Learned scales.
    Ia3,
    /// Nothing: an adapter is merged.
    Merge,
}

impl MethodKind {
    fn of(method: &Method) -> Self {
        match method {
            Method::Full => Self::Full,
            Method::Freeze(_) => Self::Freeze,
            Method::Lora(Lora { use_dora: true, .. }) => Self::Dora,
            Method::Lora(_) => Self::Lora,
            Method::Ia3(_) => Self::Ia3,
        }
    }

    /// As it is shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Freeze => "freeze",
            Self::Lora => "lora",
            Self::Dora => "dora",
            Self::Ia3 => "ia3",
            Self::Merge => "merge",
        }
    }
}

/// How the base is held, and what activations are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DtypeKind {
    /// As f32.
    Float32,
    /// As bfloat16.
    Bfloat16,
    /// As a GGUF file's blocks.
    AsStored,
    /// As int8.
    EightBit,
    /// As four-bit codes, computing in f32.
    FourBit,
    /// As four-bit codes, computing in bfloat16.
    FourBitBfloat16,
}

impl DtypeKind {
    fn of(how: Quantization) -> Self {
        match how {
            Quantization::Float32 => Self::Float32,
            Quantization::Bfloat16 => Self::Bfloat16,
            Quantization::AsStored => Self::AsStored,
            Quantization::EightBit => Self::EightBit,
            Quantization::FourBit(_) if how.computes_in_bf16() => Self::FourBitBfloat16,
            Quantization::FourBit(_) => Self::FourBit,
        }
    }

    /// As it is shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::AsStored => "as stored",
            Self::EightBit => "8bit",
            Self::FourBit => "4bit",
            Self::FourBitBfloat16 => "4bit bfloat16",
        }
    }
}

/// How far queries see: the engine has one way to compute attention, models have two shapes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// All keys before them.
    Full,
    /// In some blocks only the last few.
    Windowed,
}

impl AttentionKind {
    fn of(model: &ModelSpec) -> Self {
        if model.sliding_window.is_some() { Self::Windowed } else { Self::Full }
    }

    /// As it is shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Windowed => "windowed",
        }
    }
}

/// Numbers that are alike: up to a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UpTo(u8);

impl UpTo {
    /// The bucket of a number.
    #[must_use]
    pub fn of(number: u64) -> Self {
        // At most 63, the exponent of the largest power there is.
        Self(number.max(1).checked_next_power_of_two().map_or(63, u64::trailing_zeros) as u8)
    }

    /// The largest number in it.
    #[must_use]
    pub fn most(self) -> u64 {
        1 << self.0.min(63)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_with_its_power_of_two() {
        let ends = |number| UpTo::of(number).most();
        assert_eq!([0, 1, 2, 3, 512, 513].map(ends), [1, 1, 2, 4, 512, 1024]);
        assert_eq!(ends(u64::MAX), 1 << 63);
    }
}
