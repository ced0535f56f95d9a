//! A merge of whole models, as its file says it: mergekit's configuration with `models`, read and validated.
//!
//! The arithmetic is the engine's (`merge::models`).

mod file;
mod setting;

pub use file::ModelMergeError;
pub use setting::Setting;

/// What is computed from the models' tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelMergeMethod {
    /// A weighted mean of the models.
    Linear,
    /// The way on a sphere from the base to one other model.
    Slerp,
    /// The base and a weighted sum of what the models changed (arXiv 2212.04089).
    TaskArithmetic,
    /// The largest changes only, and those of the elected sign (arXiv 2306.01708).
    Ties,
    /// Some changes by chance, made larger for those left out (arXiv 2311.03099).
    DareLinear,
    /// As DARE, then those of the elected sign.
    DareTies,
}

impl ModelMergeMethod {
    const ALL: [(&'static str, Self); 6] = [
        ("linear", Self::Linear),
        ("slerp", Self::Slerp),
        ("task_arithmetic", Self::TaskArithmetic),
        ("ties", Self::Ties),
        ("dare_linear", Self::DareLinear),
        ("dare_ties", Self::DareTies),
    ];

    /// mergekit's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, it)| *it == self).map_or("", |(name, _)| name)
    }

    /// Whether signs are elected.
    #[must_use]
    pub fn elects(self) -> bool {
        matches!(self, Self::Ties | Self::DareTies)
    }

    /// Whether numbers are dropped by chance.
    #[must_use]
    pub fn draws(self) -> bool {
        matches!(self, Self::DareLinear | Self::DareTies)
    }
}

/// How merged numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeDtype {
    /// 32 bits.
    Float32,
    /// IEEE's 16 bits.
    Float16,
    /// The upper half of 32 bits.
    Bfloat16,
}

impl MergeDtype {
    /// PyTorch's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }

    /// The type of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Float32, Self::Float16, Self::Bfloat16].into_iter().find(|it| it.name() == name)
    }
}

/// One of the models to merge.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedModel {
    /// A model folder or a GGUF file.
    pub path: String,
    /// Its weight; 1 for slerp, which has none.
    pub weight: Setting,
    /// Share of its changes that stay.
    pub density: Setting,
}

/// A validated merge.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelMerge {
    /// What is computed.
    pub method: ModelMergeMethod,
    /// What the models were trained from; tokenizer and configuration of the result are its own. `None` for linear.
    pub base: Option<String>,
    /// The models, without the base.
    pub models: Vec<MergedModel>,
    /// For slerp, how far the way is gone: 0 at the base, 1 at the other model.
    pub t: Setting,
    /// Whether the sum is divided by the weights.
    pub normalize: bool,
    /// Factor on the merged change.
    pub lambda: f64,
    /// How the result is stored; as the base (or the first model) where `None`.
    pub dtype: Option<MergeDtype>,
}
