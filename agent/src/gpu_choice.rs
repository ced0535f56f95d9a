//! Which GPU, or which part of one, an owner lends: `1`, `0:1` or a UUID.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A GPU, or a MIG instance of one, as `nvidia-smi -L` and `CUDA_VISIBLE_DEVICES` name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GpuChoice {
    /// A whole GPU, counted from 0.
    Index(u32),
    /// A part of a divided GPU, counted from 0 within it.
    Instance {
        /// The GPU.
        gpu: u32,
        /// Its MIG device.
        instance: u32,
    },
    /// Either, by its own name: `GPU-…`, `MIG-…`.
    Uuid(String),
}

/// Text that names no GPU.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "expected a GPU's number (0), the numbers of a GPU and a MIG instance (0:1), or a UUID (GPU-…, MIG-…)"
)]
pub struct GpuChoiceError;

impl Default for GpuChoice {
    fn default() -> Self {
        Self::Index(0)
    }
}

impl FromStr for GpuChoice {
    type Err = GpuChoiceError;
    fn from_str(text: &str) -> Result<Self, GpuChoiceError> {
        if ["GPU-", "MIG-"].iter().any(|prefix| text.starts_with(prefix)) {
            let plain = text.len() <= 200 && text.bytes().all(|byte| byte.is_ascii_graphic());
            return if plain { Ok(Self::Uuid(text.to_owned())) } else { Err(GpuChoiceError) };
        }
        let number = |text: &str| text.parse().map_err(|_| GpuChoiceError);
        match text.split_once(':') {
            Some((gpu, instance)) => {
                Ok(Self::Instance { gpu: number(gpu)?, instance: number(instance)? })
            }
            None => Ok(Self::Index(number(text)?)),
        }
    }
}

impl fmt::Display for GpuChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Instance { gpu, instance } => write!(f, "{gpu}:{instance}"),
            Self::Uuid(uuid) => f.write_str(uuid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_reads_as_it_is_written() {
        let old = "MIG-GPU-20bed2f5-819b-69ad-8d42-d3e1446080c1/3/0";
        for text in ["0", "7", "0:1", "GPU-d8d7e984-7a52-6ad0-676c-222f4be482b9", "MIG-8c4c", old] {
            assert_eq!(text.parse::<GpuChoice>().unwrap().to_string(), text);
        }
        assert_eq!("1:3".parse(), Ok(GpuChoice::Instance { gpu: 1, instance: 3 }));
        for text in ["", "-1", "0:", ":1", "0:1:2", "0,1", "all", "gpu-1", "GPU-1 2", "MIG-\0"] {
            assert_eq!(text.parse::<GpuChoice>(), Err(GpuChoiceError), "{text}");
        }
    }
}
