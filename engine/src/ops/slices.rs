//! Tensors seen as slices: how the loops reach into candle's storage.
//!
//! What lies on a card is carried here for reading, and back after writing: right for whatever has no kernel, and slow.

use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Mutex;

use candle_core::{CpuStorage, Device, Error, InplaceOp1, Layout, Storage, StorageRef, Tensor};

use super::number::Number;
use super::portable::parallel::pieces;
use super::wide::wide;
use crate::Result;

/// Read access to the numbers of a tensor.
pub(crate) enum View<'a, N = f32> {
    /// Where they lie.
    Here(StorageRef<'a>, Range<usize>),
    /// From a card.
    Carried(Vec<N>),
}

impl<N: Number> Deref for View<'_, N> {
    type Target = [N];

    fn deref(&self) -> &[N] {
        match self {
            Self::Carried(numbers) => numbers,
            Self::Here(guard, range) => match &**guard {
                // `view_as` made this, and let nothing else through.
                Storage::Cpu(all) => {
                    N::cpu_storage_as_slice(all).map_or(&[], |all| &all[range.clone()])
                }
                _ => &[],
            },
        }
    }
}

/// The numbers of `tensor`, which must be contiguous f32.
pub(crate) fn view(tensor: &Tensor) -> Result<View<'_>> {
    view_as(tensor)
}

/// The numbers of `tensor`, which must be contiguous and of the type asked for.
pub(crate) fn view_as<N: Number>(tensor: &Tensor) -> Result<View<'_, N>> {
    if !tensor.device().is_cpu() {
        return Ok(View::Carried(carried(tensor)?));
    }
    let (guard, layout) = tensor.storage_and_layout();
    let range = contiguous(layout)?;
    match &*guard {
        Storage::Cpu(all) if N::cpu_storage_as_slice(all).is_ok() => Ok(View::Here(guard, range)),
        _ => Err(wrong(N::DTYPE.as_str(), layout).into()),
    }
}

/// The numbers of a contiguous tensor on a card.
fn carried<N: Number>(tensor: &Tensor) -> Result<Vec<N>> {
    contiguous(tensor.layout())?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// The numbers of a matrix, f32 on the CPU, that may be a part or the transpose of another: from its first to its last,
/// and how far it is from one row to the next, and from one column to the next.
pub(crate) fn view_matrix(tensor: &Tensor) -> Result<(View<'_>, [usize; 2])> {
    let (guard, layout) = tensor.storage_and_layout();
    let (rows, columns) = layout.shape().dims2()?;
    let strides = [layout.stride()[0], layout.stride()[1]];
    let last = rows.saturating_sub(1) * strides[0] + columns.saturating_sub(1) * strides[1];
    let reach = if rows == 0 || columns == 0 { 0 } else { last + 1 };
    let range = layout.start_offset()..layout.start_offset() + reach;
    match &*guard {
        Storage::Cpu(CpuStorage::F32(_)) => Ok((View::Here(guard, range), strides)),
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
struct Write<N, F>(Mutex<Option<F>>, PhantomData<fn(N)>);

impl<N: Number, F: FnOnce(&mut [N])> InplaceOp1 for Write<N, F> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let range = contiguous(layout)?;
        let Some(all) = N::of_mut(storage) else { return Err(wrong(N::DTYPE.as_str(), layout)) };
        if let Some(write) = self.0.lock().ok().and_then(|mut write| write.take()) {
            write(&mut all[range]);
        }
        Ok(())
    }
}

/// Lets `write` change the numbers of `tensor`, which must be contiguous f32 and must not share its storage with a
/// [`View`] that is still open.
pub(crate) fn edit(tensor: &Tensor, write: impl FnOnce(&mut [f32])) -> Result<()> {
    edit_as(tensor, write)
}

/// As [`edit`], of a tensor of `N`.
pub(crate) fn edit_as<N: Number>(tensor: &Tensor, write: impl FnOnce(&mut [N])) -> Result<()> {
    if tensor.device().is_cpu() {
        return Ok(tensor.inplace_op1(&Write(Mutex::new(Some(write)), PhantomData))?);
    }
    let mut numbers = carried::<N>(tensor)?;
    write(&mut numbers);
    let changed = Tensor::from_vec(numbers, tensor.shape(), tensor.device())?;
    Ok(tensor.slice_set(&changed, 0, 0)?)
}

/// A tensor around `numbers`.
pub(crate) fn tensor<N: Number>(numbers: Vec<N>, shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
}

/// A tensor of its own with the numbers of `tensor`, which must be contiguous f32 on the CPU; cores share the work.
pub(crate) fn copied(tensor: &Tensor) -> Result<Tensor> {
    let numbers = view(tensor)?;
    let copy = |to: &mut [f32]| pieces(to, &numbers, |to, from: &[f32]| to.copy_from_slice(from));
    let (copy, ()) = written(numbers.len(), copy);
    self::tensor(copy, tensor.dims())
}

/// `count` numbers that `write` gives, every one of them; it reads none of what was there. And what it answers.
///
/// Setting them to zero first would cost a pass over memory, as much as many an operation.
pub(crate) fn written<N: Number, T>(
    count: usize,
    write: impl FnOnce(&mut [N]) -> T,
) -> (Vec<N>, T) {
    let mut numbers = Vec::<N>::with_capacity(count);
    #[expect(unsafe_code, reason = "numbers that are not set yet")]
    // SAFETY: there is room for `count`; all `Number`s are plain, of any bits, and are written before they are read.
    let answer = unsafe {
        let answer = write(std::slice::from_raw_parts_mut(numbers.as_mut_ptr(), count));
        numbers.set_len(count);
        answer
    };
    (numbers, answer)
}

wide! {
    /// Each of `from` as f32.
    pub(crate) fn widen[N: Number](to: &mut [f32], from: &[N]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen());
    }
}

wide! {
    /// The nearest to each of `from`.
    pub(crate) fn narrow[N: Number](to: &mut [N], from: &[f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = N::narrow(*from));
    }
}
