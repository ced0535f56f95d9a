//! What a process takes of a card before its first tensor.

use serde::{Deserialize, Serialize};

use super::{Meter, TorchRun};

/// Cards whose contexts are alike: a context holds local memory and kernels' code for every multiprocessor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CardClass {
    /// GeForce and workstation cards.
    #[default]
    Desktop,
    /// A100, H100 and their kind, as they are used on servers: with NCCL's buffers and FlashAttention's kernels loaded.
    Datacentre,
}

impl CardClass {
    /// By the name that the driver prints.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let name = name.to_ascii_uppercase();
        let servers = ["A100", "A800", "H100", "H200", "H800", "B200", "V100", "A30", "GH200"];
        let is = |word: &str| {
            name.split(|c: char| !c.is_ascii_alphanumeric()).any(|part| part.starts_with(word))
        };
        if servers.iter().any(|word| is(word)) { Self::Datacentre } else { Self::Desktop }
    }

    /// Bytes. Desktop: a context with lazily loaded kernels, 0.3 to 0.5 GiB, and cuBLAS's handle and workspace.
    /// Datacentre: what the README of QwenLM/Qwen leaves on an A100 once every tensor is counted, alike for its smallest
    /// and its largest run.
    fn bytes(self) -> u128 {
        match self {
            Self::Desktop => 640 << 20,
            Self::Datacentre => 1600 << 20,
        }
    }
}

impl TorchRun<'_> {
    pub(super) fn context(&self) -> u128 {
        match self.setting.meter {
            Meter::Allocated | Meter::Reserved => 0,
            Meter::Process => self.setting.family.bytes(),
        }
    }
}
