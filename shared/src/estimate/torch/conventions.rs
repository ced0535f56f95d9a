//! What PyTorch runtimes do differently, as values.

use serde::{Deserialize, Serialize};

use super::CardClass;
use crate::Recipe;
use crate::recipe::Quantization;

/// Whose conventions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// transformers' Trainer or TRL, PEFT, bitsandbytes. The loss is computed in f32, adapters are f32 and every adapted
    /// layer casts its input for itself (PEFT's `autocast_adapter_dtype`), a quantised base has its embeddings, norms and
    /// head in f32 (PEFT's `prepare_model_for_kbit_training`).
    #[default]
    Hf,
    /// Axolotl: as transformers, with what stays unquantised cast back to half.
    Axolotl,
    /// LitGPT: everything in half (`bf16-true`) but the loss, for Fabric's precision plugins return logits as f32; the head
    /// is quantised as well; values are a view of the fused q, k, v, so all of that is kept; bitsandbytes of its time keeps
    /// each quantised layer's input.
    Litgpt,
    /// torchtune: everything in half, the loss over chunks whose f32 copies go one after the other.
    Torchtune,
}

impl Runtime {
    pub(super) fn loss_in_half(self, precision: Precision) -> bool {
        match self {
            // Without autocast nothing widens the logits of an engine that holds the model in half.
            Self::Hf | Self::Axolotl => precision == Precision::Partitioned,
            Self::Litgpt => false,
            Self::Torchtune => true,
        }
    }

    /// Whether what a quantised base leaves unquantised is f32.
    pub(super) fn rest_in_f32(self, precision: Precision) -> bool {
        self == Self::Hf && precision == Precision::Mixed
    }

    pub(super) fn quantises_head(self) -> bool {
        self == Self::Litgpt
    }

    /// Whether q, k and v share what an adapter keeps of their input, and are one tensor.
    pub(super) fn fuses_qkv(self) -> bool {
        self == Self::Litgpt
    }

    pub(super) fn keeps_quantised_inputs(self) -> bool {
        self == Self::Litgpt
    }
}

/// What numbers are, beside those that are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// What learns is f32, with f32 gradients and states; products are half under autocast (`bf16: true`). Sixteen bytes
    /// for each number that learns.
    Mixed,
    /// All of it is half, states included (`bf16-true`, a model loaded in bf16). Eight bytes.
    Half,
    /// DeepSpeed: half numbers and gradients, an f32 copy and f32 states of what learns. Sixteen bytes, and the f32
    /// gradients of the step.
    Partitioned,
}

/// How attention is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// Matrices of scores, kept: in f32 from the softmax and in the compute dtype for the product.
    Eager,
    /// `scaled_dot_product_attention`; heads of keys and values are repeated first.
    #[default]
    Sdpa,
    /// FlashAttention 2, which reads shared heads as they are.
    Flash,
}

/// What was read to learn how much memory a run takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meter {
    /// `torch.cuda.max_memory_allocated`: tensors only.
    Allocated,
    /// `torch.cuda.max_memory_reserved`: with what the allocator keeps for later.
    Reserved,
    /// `nvidia-smi`: with the CUDA context. What a card has to have.
    #[default]
    Process,
}

/// How a PyTorch run is set up, beyond its recipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorchSetting {
    /// Whose conventions.
    pub runtime: Runtime,
    /// `None` takes what the recipe's `dtype` means to the runtime.
    pub precision: Option<Precision>,
    /// How attention is computed.
    pub attention: Attention,
    /// What is compared with.
    pub meter: Meter,
    /// The base is a GPTQ model of four bits.
    pub gptq: bool,
    /// Whose context is counted.
    pub family: CardClass,
}

impl TorchSetting {
    /// Full fine-tuning of weights loaded in bf16 learns in bf16; anything else learns in f32.
    pub(super) fn precision_of(&self, recipe: &Recipe) -> Precision {
        let half = match self.runtime {
            Runtime::Litgpt | Runtime::Torchtune => true,
            Runtime::Hf | Runtime::Axolotl => {
                !recipe.method.makes_adapter() && recipe.quantization == Quantization::Bfloat16
            }
        };
        self.precision.unwrap_or(if half { Precision::Half } else { Precision::Mixed })
    }
}
