//! What learns, and how the rest is held.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::words::{Dtype, FourBitType, LoraBias};
use crate::Device;

/// What is trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Every weight.
    Full,
    /// Some weights of the base.
    Freeze(Freeze),
    /// Low-rank products beside frozen layers.
    Lora(Lora),
    /// Learned scales on frozen layers.
    Ia3(Ia3),
}

impl Method {
    /// Whether an adapter is what a run makes, and not a model.
    #[must_use]
    pub fn makes_adapter(&self) -> bool {
        matches!(self, Self::Lora(_) | Self::Ia3(_))
    }
}

/// Which weights of the base learn; a tensor that either names does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Freeze {
    /// The last so many blocks; negative: the first.
    pub layers: i64,
    /// Regular expressions found in tensors' names.
    pub patterns: Vec<String>,
}

/// A LoRA adapter's shape (arXiv 2106.09685); defaults are PEFT's, but for the targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Rank.
    pub r: usize,
    /// `scaling = lora_alpha / r`, or over `√r` with `use_rslora`.
    pub lora_alpha: f64,
    /// Probability of dropping an input of the adapter.
    pub dropout: f64,
    /// arXiv 2312.03732.
    pub use_rslora: bool,
    /// Magnitude and direction apart, arXiv 2402.09353.
    pub use_dora: bool,
    /// How A and B begin.
    pub init: LoraInit,
    /// Layers that get an adapter.
    pub target_modules: Targets,
    /// Layers that get none all the same; `None` excludes nothing.
    pub exclude_modules: Option<Targets>,
    /// Only these blocks, if any are named.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Ranks by module name or regular expression.
    pub rank_pattern: BTreeMap<String, u64>,
    /// Alphas by module name or regular expression.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Modules trained and stored whole.
    pub modules_to_save: Vec<String>,
    /// Biases that learn too.
    pub bias: LoraBias,
    /// Whether B has a bias.
    pub lora_bias: bool,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            init: LoraInit::Default,
            target_modules: Targets::AllLinear,
            exclude_modules: None,
            layers_to_transform: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            modules_to_save: Vec::new(),
            bias: LoraBias::None,
            lora_bias: false,
        }
    }
}

impl Lora {
    /// Whether a fresh adapter leaves both the base and its answers as they were.
    #[must_use]
    pub fn begins_as_nothing(&self) -> bool {
        matches!(self.init, LoraInit::Default | LoraInit::Gaussian | LoraInit::Orthogonal)
    }
}

/// Modules, as PEFT lets them be named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Targets {
    /// Every linear layer but the head.
    #[default]
    AllLinear,
    /// Those whose name is, or ends in `.` and, one of these.
    Names(Vec<String>),
    /// Those whose whole name matches.
    Regex(String),
}

/// How A and B begin; as PEFT spells it in its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum LoraInit {
    /// A uniform in ±1/√in, B zero.
    #[default]
    Default,
    /// A uniform in ±1/√in, B likewise: PEFT's `false`.
    NonZero,
    /// A normal with deviation 1/r, B zero.
    Gaussian,
    /// Rows of A and columns of B orthogonal.
    Orthogonal,
    /// The largest singular directions of the weight (arXiv 2404.02948); the base keeps the rest.
    Pissa {
        /// Rounds of PEFT's randomised SVD; here it is always the exact one.
        niter: Option<usize>,
    },
    /// A QR decomposition of the weight (arXiv 2406.01775); the base keeps the rest.
    Olora,
    /// What quantisation lost (arXiv 2310.08659).
    Loftq,
    /// Directions of the activations (arXiv 2410.07170). Adapters that began so are read; none begins so here.
    Eva,
}

impl LoraInit {
    /// Whether the base is changed too, so that the pair alone does not say what the adapter does.
    #[must_use]
    pub fn changes_base(self) -> bool {
        matches!(self, Self::Pissa { .. } | Self::Olora)
    }
}

/// An IA³ adapter's shape, arXiv 2205.05638.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ia3 {
    /// Scaled layers; `None` takes PEFT's default for the architecture.
    pub target_modules: Option<Targets>,
    /// Those of them whose input is scaled instead of their output; `None` takes PEFT's default.
    pub feedforward_modules: Option<Targets>,
    /// Modules trained and stored whole.
    pub modules_to_save: Vec<String>,
}

/// How the base is held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// As f32.
    Float32,
    /// As bfloat16.
    Bfloat16,
    /// A GGUF file's own blocks; anything else as f32.
    AsStored,
    /// Linear layers in blocks of 64 four-bit codes (QLoRA, arXiv 2305.14314), the rest as f32.
    FourBit(FourBit),
    /// Linear layers as int8 with a scale for each row, the rest as f32.
    EightBit,
}

impl Quantization {
    /// Whether activations and factors of products are bf16 too: where bf16 is asked for, as under autocast.
    #[must_use]
    pub const fn computes_in_bf16(self) -> bool {
        matches!(self, Self::Bfloat16 | Self::FourBit(FourBit { bfloat16: true, .. }))
    }

    /// Whether activations are bf16 on `device`: a card's are f32 always.
    #[must_use]
    pub const fn halves_activations(self, device: Device) -> bool {
        self.computes_in_bf16() && matches!(device, Device::Cpu)
    }

    /// What activations are made of.
    #[must_use]
    pub const fn activations(self) -> Dtype {
        if self.computes_in_bf16() { Dtype::Bfloat16 } else { Dtype::Float32 }
    }
}

/// Four-bit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FourBit {
    /// Code book.
    pub kind: FourBitType,
    /// Whether the blocks' scales are quantised too.
    pub double: bool,
    /// Whether what stays unquantised is bfloat16 instead of f32.
    pub bfloat16: bool,
}
