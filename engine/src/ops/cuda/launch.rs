//! What a kernel is launched with, and who launches it.

use std::fmt::Debug;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::memory::Counter;
use crate::{EngineError, Result};

/// Threads of a block, as `kernels/device.cuh` has it.
pub(crate) const THREADS: usize = 256;
/// Threads of a warp.
pub(crate) const WARP: usize = 32;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg<'a> {
    /// The address of numbers that are read.
    In(&'a Tensor),
    /// The address of numbers that are written; no other argument may share them.
    Out(&'a Tensor),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl Arg<'_> {
    /// A size that a kernel takes as `unsigned`.
    ///
    /// # Errors
    /// When it has more than 32 bits.
    pub(crate) fn size(size: usize) -> Result<Self> {
        let size = u32::try_from(size);
        size.map(Self::U32).map_err(|_| EngineError::input("a tensor with a side beyond 2³²"))
    }
}

/// An argument as the machine takes it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    U32(u32),
    /// A number or an address.
    U64(u64),
    F32(f32),
    F64(f64),
}

impl Arg<'_> {
    /// With `address` telling where the numbers of a tensor lie; its second argument says whether they are written.
    pub(crate) fn word(
        &self,
        address: impl Fn(&Tensor, bool) -> candle_core::Result<u64>,
    ) -> candle_core::Result<Word> {
        Ok(match self {
            Self::In(tensor) => Word::U64(address(tensor, false)?),
            Self::Out(tensor) => Word::U64(address(tensor, true)?),
            Self::U32(number) => Word::U32(*number),
            Self::U64(number) => Word::U64(*number),
            Self::F32(number) => Word::F32(*number),
            Self::F64(number) => Word::F64(*number),
        })
    }
}

/// Who runs kernels: a GPU, or in tests the host shim.
pub(crate) trait Card: Debug + Send + Sync {
    /// Where its tensors live.
    fn device(&self) -> &Device;

    /// Who counts its memory.
    fn counter(&self) -> Option<Arc<dyn Counter>> {
        None
    }

    /// Queues `kernel` with `blocks` blocks of [`THREADS`] threads; never called for none.
    ///
    /// # Errors
    /// When the kernel is unknown or the device fails.
    fn queue(&self, kernel: &'static str, blocks: usize, args: &[Arg<'_>]) -> Result<()>;
}

impl dyn Card + '_ {
    /// Runs `kernel` with `blocks` blocks, after all that was queued before.
    pub(crate) fn launch(
        &self,
        kernel: &'static str,
        blocks: usize,
        args: &[Arg<'_>],
    ) -> Result<()> {
        if blocks == 0 { Ok(()) } else { self.queue(kernel, blocks, args) }
    }

    /// Zeros on the card.
    pub(crate) fn zeros(&self, dims: &[usize], dtype: DType) -> Result<Tensor> {
        Ok(Tensor::zeros(dims, dtype, self.device())?)
    }

    /// Carries `numbers` to the card.
    pub(crate) fn upload<T: candle_core::WithDType>(&self, numbers: &[T]) -> Result<Tensor> {
        Ok(Tensor::from_slice(numbers, numbers.len(), self.device())?)
    }
}

/// Blocks whose threads are `count` numbers.
pub(crate) fn blocks(count: usize) -> usize {
    count.div_ceil(THREADS)
}

/// Refuses tensors that are not contiguous f32 of the stated shape: a kernel would read beyond them.
pub(crate) fn wants(tensor: &Tensor, dims: &[usize]) -> Result<()> {
    let fits = tensor.dims() == dims && tensor.dtype() == DType::F32 && tensor.is_contiguous();
    let (found, dtype) = (tensor.dims(), tensor.dtype());
    refuse_unless(fits, || {
        format!("a tensor {found:?} of {dtype:?} where contiguous f32 {dims:?} is wanted")
    })
}

/// Refuses ids at or beyond `limit`, or not `count` of them.
pub(crate) fn ids_within(ids: &[u32], count: usize, limit: usize) -> Result<()> {
    refuse_unless(ids.len() == count, || format!("{} ids for {count} rows", ids.len()))?;
    let beyond = ids.iter().find(|id| **id as usize >= limit);
    refuse_unless(beyond.is_none(), || format!("id {beyond:?} of a table of {limit} rows"))
}

pub(crate) fn refuse_unless(fits: bool, text: impl FnOnce() -> String) -> Result<()> {
    if fits { Ok(()) } else { Err(EngineError::input(text())) }
}
