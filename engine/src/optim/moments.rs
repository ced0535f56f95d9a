//! Where a tensor's moments live between steps: in memory, on a card beside the tensor, or in a file of which one piece
//! at a time visits memory.
//!
//! The file is how a run on the CPU pages its optimizer: what a card would leave in host memory, the host leaves on
//! disk, and the system caches as much of it as it has room for. It has no name, so nothing is left of it when the
//! run ends, however it ends.

use std::borrow::Cow;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use fleetune_shared::PAGED_NUMBERS;
use safetensors::tensor::Dtype;

use super::moment::{Form, Moment};
use super::state_file::Array;
use super::values::BLOCK;
use crate::tensor_file::TensorFile;
use crate::{EngineError, Result};

/// Numbers that move together: whole blocks.
const PIECE: usize = PAGED_NUMBERS as usize;
const _: () = assert!(PIECE.is_multiple_of(BLOCK));

/// A file that moments live in.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    folder: PathBuf,
    file: Arc<File>,
    bytes: u64,
}

impl Pages {
    /// A nameless file in `folder`.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|e| EngineError::io(folder, e))?;
        Ok(Self { folder: folder.to_owned(), file: Arc::new(file), bytes: 0 })
    }

    fn io(&self, error: std::io::Error) -> EngineError {
        EngineError::io(&self.folder.join("(paged optimizer states)"), error)
    }
}

/// The moments of one tensor of `count` numbers.
#[derive(Debug)]
pub(super) struct Moments {
    count: usize,
    forms: Vec<Form>,
    home: Home,
}

#[derive(Debug)]
enum Home {
    /// Piece by piece.
    Memory(Vec<Vec<Moment>>),
    /// From this byte on: pieces one after the other, in each its moments, in each their arrays.
    File(Pages, u64),
    /// Whole arrays of both moments, where [`Backend::adamw`](crate::ops::Backend::adamw) steps them.
    Card([Vec<Tensor>; 2]),
}

impl Moments {
    /// Zeros, in memory unless there are `pages`.
    pub(super) fn zeros(count: usize, forms: Vec<Form>, pages: Option<&mut Pages>) -> Result<Self> {
        let home = match pages {
            None => Home::Memory(
                pieces(count)
                    .map(|piece| forms.iter().map(|form| form.zeros(piece.len())).collect())
                    .collect(),
            ),
            Some(pages) => {
                let from = pages.bytes;
                pages.bytes += forms.iter().map(|form| form.bytes(count) as u64).sum::<u64>();
                // What was never written reads as zeros, and zeros are what moments begin as.
                pages.file.set_len(pages.bytes).map_err(|e| pages.io(e))?;
                Home::File(pages.clone(), from)
            }
        };
        Ok(Self { count, forms, home })
    }

    /// Zeros of both moments at `place`.
    ///
    /// # Errors
    /// A device that failed, or forms that are not two.
    pub(super) fn on_card(count: usize, forms: Vec<Form>, place: &Device) -> Result<Self> {
        let zeros = |form: &Form| -> Result<Vec<Tensor>> {
            let arrays = form.arrays(count).into_iter();
            arrays.map(|(_, dtype, length)| empty(dtype, length, place)).collect()
        };
        let [m, v] = forms.as_slice() else {
            return Err(EngineError::input(format!("{} moments for AdamW", forms.len())));
        };
        let home = Home::Card([zeros(m)?, zeros(v)?]);
        Ok(Self { count, forms, home })
    }

    /// The arrays of both moments, where they lie on a card.
    pub(super) fn arrays_on_card(&self) -> Option<[&[Tensor]; 2]> {
        match &self.home {
            Home::Card([m, v]) => Some([m, v]),
            Home::Memory(_) | Home::File(..) => None,
        }
    }

    /// Shows `change` every piece: which of the tensor's numbers it belongs to, and its moments; none of those on a
    /// card.
    pub(super) fn visit(
        &mut self,
        mut change: impl FnMut(Range<usize>, &mut [Moment]) -> Result<()>,
    ) -> Result<()> {
        for (index, range) in pieces(self.count).enumerate() {
            match &mut self.home {
                Home::Memory(pieces) => change(range, &mut pieces[index])?,
                Home::File(pages, from) => {
                    let from = place(&self.forms, *from, index);
                    let mut moments = fetch(pages, &self.forms, from, range.len())?;
                    change(range, &mut moments)?;
                    put(pages, &self.forms, from, &moments)?;
                }
                Home::Card(_) => break,
            }
        }
        Ok(())
    }

    /// What each moment's arrays are called after its name, their types and lengths.
    pub(super) fn arrays(&self, moment: usize) -> Vec<(&'static str, Dtype, usize)> {
        self.forms[moment].arrays(self.count)
    }

    /// Writes one array of one moment.
    pub(super) fn write(&self, moment: usize, array: usize, file: &mut TensorFile) -> Result<()> {
        for (index, range) in pieces(self.count).enumerate() {
            let piece = match &self.home {
                Home::Memory(pieces) => Cow::Borrowed(&pieces[index]),
                Home::File(pages, from) => {
                    let from = place(&self.forms, *from, index);
                    Cow::Owned(fetch(pages, &self.forms, from, range.len())?)
                }
                Home::Card(arrays) => return store(&arrays[moment][array], file),
            };
            file.write(&piece[moment].array_bytes(array))?;
        }
        Ok(())
    }

    /// Takes over arrays that [`Self::write`] wrote: for each moment those of [`Self::arrays`].
    pub(super) fn read(&mut self, stored: &[Vec<Array>]) -> Result<()> {
        if let Home::Card(arrays) = &mut self.home {
            let mut all = arrays.iter_mut().flatten().zip(stored.iter().flatten());
            return all.try_for_each(|(tensor, array)| refill(tensor, array));
        }
        let forms = self.forms.clone();
        self.visit(|range, moments| {
            for ((moment, form), stored) in moments.iter_mut().zip(&forms).zip(stored) {
                let begins = form.arrays(range.start).into_iter();
                let sizes = form.arrays(range.len()).into_iter();
                for (array, ((begin, size), stored)) in begins.zip(sizes).zip(stored).enumerate() {
                    let width = size.1.bitsize() / 8;
                    let bytes = stored.bytes(begin.2 * width, size.2 * width)?;
                    moment.set_array_bytes(array, &bytes);
                }
            }
            Ok(())
        })
    }
}

/// An array of zeros on a card.
fn empty(dtype: Dtype, length: usize, place: &Device) -> Result<Tensor> {
    let dtype = if dtype == Dtype::U8 { DType::U8 } else { DType::F32 };
    Ok(Tensor::zeros(length, dtype, place)?)
}

/// Writes an array on a card.
fn store(array: &Tensor, file: &mut TensorFile) -> Result<()> {
    match array.dtype() {
        DType::U8 => file.write(&array.to_vec1()?),
        _ => file.write_f32(&array.to_vec1()?),
    }
}

/// Replaces an array on a card by a stored one.
fn refill(array: &mut Tensor, stored: &Array) -> Result<()> {
    let count = array.elem_count();
    *array = match array.dtype() {
        DType::U8 => Tensor::from_vec(stored.bytes(0, count)?, count, array.device())?,
        _ => Tensor::from_vec(stored.floats(count)?, count, array.device())?,
    };
    Ok(())
}

fn pieces(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(PIECE).map(move |from| from..count.min(from + PIECE))
}

/// Where piece `index` begins.
fn place(forms: &[Form], from: u64, index: usize) -> u64 {
    let piece: usize = forms.iter().map(|form| form.bytes(PIECE)).sum();
    from + (index * piece) as u64
}

fn fetch(pages: &Pages, forms: &[Form], mut from: u64, count: usize) -> Result<Vec<Moment>> {
    let mut moments = Vec::with_capacity(forms.len());
    for form in forms {
        let mut moment = form.zeros(count);
        for (array, (_, dtype, length)) in form.arrays(count).into_iter().enumerate() {
            let mut bytes = vec![0; length * dtype.bitsize() / 8];
            pages.file.read_exact_at(&mut bytes, from).map_err(|e| pages.io(e))?;
            from += bytes.len() as u64;
            moment.set_array_bytes(array, &bytes);
        }
        moments.push(moment);
    }
    Ok(moments)
}

fn put(pages: &Pages, forms: &[Form], mut from: u64, moments: &[Moment]) -> Result<()> {
    for (form, moment) in forms.iter().zip(moments) {
        for array in 0..form.arrays(0).len() {
            let bytes = moment.array_bytes(array);
            pages.file.write_all_at(&bytes, from).map_err(|e| pages.io(e))?;
            from += bytes.len() as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::codes::CodeMap;
    use super::*;

    /// Two pieces and a bit, in both forms: what one visit leaves, the next finds.
    #[test]
    fn pages_hold_what_memory_holds() {
        let count = 2 * PIECE + 300;
        let forms = || vec![Form::Full, Form::Blockwise(CodeMap::signed())];
        let folder = tempfile::tempdir().unwrap();
        let mut pages = Pages::create(folder.path()).unwrap();
        let neighbour = || vec![Form::Full];
        let mut before = Moments::zeros(700, neighbour(), Some(&mut pages)).unwrap();
        let mut paged = Moments::zeros(count, forms(), Some(&mut pages)).unwrap();
        let mut after = Moments::zeros(700, neighbour(), Some(&mut pages)).unwrap();
        let mut resident = Moments::zeros(count, forms(), None).unwrap();
        for home in [&mut paged, &mut resident] {
            for round in 1..3u8 {
                let mut seen = 0;
                home.visit(|range, moments| {
                    assert_eq!(range.start, seen);
                    seen = range.end;
                    let bytes = moments[0].array_bytes(0);
                    let numbers = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
                    let next: Vec<u8> = numbers
                        .enumerate()
                        .flat_map(|(i, x)| (x + i as f32).to_le_bytes())
                        .collect();
                    moments[0].set_array_bytes(0, &next);
                    let codes =
                        moments[1].array_bytes(0).iter().map(|c| c + round).collect::<Vec<_>>();
                    moments[1].set_array_bytes(0, &codes);
                    Ok(())
                })
                .unwrap();
                assert_eq!(seen, count);
            }
        }
        let all = |home: &mut Moments| {
            let mut bytes = Vec::new();
            home.visit(|_, moments| {
                bytes.extend(moments.iter().flat_map(|m| [m.array_bytes(0), m.array_bytes(1)]));
                Ok(())
            })
            .unwrap();
            bytes
        };
        assert!(all(&mut paged) == all(&mut resident));
        for neighbour in [&mut before, &mut after] {
            assert!(all(neighbour).concat().iter().all(|byte| *byte == 0), "a neighbour was hit");
        }
    }
}
