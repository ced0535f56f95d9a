//! What learns and from what, in one word of a command line.

use clap::ValueEnum;
use serde_json::{Value, json};

/// What a recipe says of its method and task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Method {
    Lora,
    Dora,
    Ia3,
    Qlora,
    Full,
    Dpo,
    Kto,
    Orpo,
    Cpo,
    Simpo,
    Reward,
}

impl Method {
    /// The keys of a recipe it stands for.
    pub(super) fn keys(self) -> Value {
        match self {
            Self::Lora => json!({}),
            Self::Dora => json!({"use_dora": true}),
            Self::Ia3 => json!({"peft_type": "IA3"}),
            Self::Qlora => json!({"load_in_4bit": true, "bnb_4bit_use_double_quant": true}),
            Self::Full => json!({"use_peft": false}),
            Self::Dpo => json!({"task": "dpo"}),
            Self::Kto => json!({"task": "kto"}),
            Self::Orpo => json!({"task": "orpo"}),
            Self::Cpo => json!({"task": "cpo"}),
            Self::Simpo => json!({"task": "simpo"}),
            Self::Reward => json!({"task": "reward"}),
        }
    }

    /// Whether it has a rank.
    pub(super) fn is_low_rank(self) -> bool {
        !matches!(self, Self::Full | Self::Ia3)
    }
}
