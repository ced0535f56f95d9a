//! Adapters that begin with a part of the base, which keeps the rest: PiSSA (arXiv 2404.02948) and OLoRA
//! (arXiv 2406.01775).

use candle_core::Tensor;
use fleetune_shared::recipe::LoraInit;

use super::trainable::Parameter;
use crate::adapter::LoraLayer;
use crate::linalg::{qr, svd};
use crate::{EngineError, Result};

/// The pair an adapter began with. Base and pair together were the base as it was loaded.
#[derive(Debug)]
pub(crate) struct Beginning {
    /// `[r, in]`.
    pub(super) a: Tensor,
    /// `[out, r]`.
    pub(super) b: Tensor,
}

impl Beginning {
    /// Takes the part that `init` says out of `weight`, which keeps `W − s·B·A`. A `fresh` layer begins with that pair;
    /// one that was read keeps its own.
    ///
    /// # Errors
    /// [`EngineError::Input`] where the base is held in fewer bits than f32: the rest would have to be rounded again.
    pub(super) fn take(
        init: LoraInit,
        weight: &mut Parameter,
        layer: &mut LoraLayer,
        fresh: bool,
    ) -> Result<Self> {
        let Some(whole) = weight.plain() else {
            return Err(EngineError::input(format!(
                "init_lora_weights takes a part out of `{}`, which is held in fewer bits than float32; leave \
                 load_in_4bit, load_in_8bit and bfloat16 out, or begin with `init_lora_weights: true`",
                weight.name()
            )));
        };
        let (r, s) = (layer.a.dim(0)?, layer.scaling);
        let (a, b) = match init {
            LoraInit::Olora => {
                let parts = qr(whole, r)?;
                (parts.r, parts.q)
            }
            _ => {
                let parts = svd(whole, r)?;
                let root = (parts.s / s)?.sqrt()?;
                let a = parts.vt.broadcast_mul(&root.reshape((r, 1))?)?;
                (a, parts.u.broadcast_mul(&root)?)
            }
        };
        let (a, b) = (a.contiguous()?, b.contiguous()?);
        let rest = (whole - (b.matmul(&a)? * s)?)?;
        if fresh {
            // What learns is written in place.
            (layer.a, layer.b) = (a.copy()?, b.copy()?);
        }
        weight.replace(rest);
        Ok(Self { a, b })
    }
}
