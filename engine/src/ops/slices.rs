//! Tensors seen as slices: how the portable loops reach into candle's storage.

use std::ops::{Deref, Range};
use std::sync::Mutex;

use candle_core::{CpuStorage, Device, Error, InplaceOp1, Layout, Storage, StorageRef, Tensor};

use half::bf16;

use crate::Result;

/// Read access to the numbers of a tensor.
pub(crate) struct View<'a> {
    guard: StorageRef<'a>,
    range: Range<usize>,
}

impl Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(all)) => &all[self.range.clone()],
            // `view` made this, and let nothing else through.
            _ => &[],
        }
    }
}

/// The numbers of `tensor`, which must be contiguous f32 on the CPU.
pub(crate) fn view(tensor: &Tensor) -> Result<View<'_>> {
    let (guard, layout) = tensor.storage_and_layout();
    let range = contiguous(layout)?;
    match &*guard {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(View { guard, range }),
        _ => Err(wrong("f32 on the cpu", layout).into()),
    }
}

fn contiguous(layout: &Layout) -> candle_core::Result<Range<usize>> {
    let (from, to) = layout.contiguous_offsets().ok_or_else(|| wrong("contiguous", layout))?;
    Ok(from..to)
}

fn wrong(what: &str, layout: &Layout) -> Error {
    Error::Msg(format!("tensor {:?} is not {what}", layout.shape()))
}

/// candle lends a tensor's storage for writing only inside such an operation.
struct Write<F>(Mutex<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Write<F> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let range = contiguous(layout)?;
        let CpuStorage::F32(all) = storage else { return Err(wrong("f32", layout)) };
        if let Some(write) = self.0.lock().ok().and_then(|mut write| write.take()) {
            write(&mut all[range]);
        }
        Ok(())
    }
}

/// Lets `write` change the numbers of `tensor`, which must be contiguous f32 on the CPU and must not share its
/// storage with a [`View`] that is still open.
pub(crate) fn edit(tensor: &Tensor, write: impl FnOnce(&mut [f32])) -> Result<()> {
    Ok(tensor.inplace_op1(&Write(Mutex::new(Some(write))))?)
}

/// As [`view`], of a bf16 tensor, lent to `read`.
pub(crate) fn with_bf16<T>(tensor: &Tensor, read: impl FnOnce(&[bf16]) -> T) -> Result<T> {
    let (guard, layout) = tensor.storage_and_layout();
    let range = contiguous(layout)?;
    match &*guard {
        Storage::Cpu(CpuStorage::BF16(all)) => Ok(read(&all[range])),
        _ => Err(wrong("bf16 on the cpu", layout).into()),
    }
}

/// As [`edit`], of a bf16 tensor.
pub(crate) fn edit_bf16(tensor: &Tensor, write: impl FnOnce(&mut [bf16])) -> Result<()> {
    Ok(tensor.inplace_op1(&WriteBf16(Mutex::new(Some(write))))?)
}

struct WriteBf16<F>(Mutex<Option<F>>);

impl<F: FnOnce(&mut [bf16])> InplaceOp1 for WriteBf16<F> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let range = contiguous(layout)?;
        let CpuStorage::BF16(all) = storage else { return Err(wrong("bf16", layout)) };
        if let Some(write) = self.0.lock().ok().and_then(|mut write| write.take()) {
            write(&mut all[range]);
        }
        Ok(())
    }
}

/// A tensor around `numbers`.
pub(crate) fn tensor(numbers: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
}
