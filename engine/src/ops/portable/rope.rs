//! Rotary positions (arXiv 2104.09864), Hugging Face's layout: number `i` of a head is paired with `i + head_dim / 2`.

use candle_core::Tensor;

use super::parallel;
use crate::Result;
use crate::ops::slices::edit;
use crate::ops::{Rotary, Turn};

pub(super) fn rotate(x: &Tensor, rotary: &Rotary, turn: Turn) -> Result<()> {
    let (_, width) = x.dims2()?;
    let half = rotary.half;
    let sign = match turn {
        Turn::Forth => 1.0,
        Turn::Back => -1.0,
    };
    edit(x, |x| {
        parallel::rows(x, width, |t, row| {
            let cos = &rotary.cos[t * half..][..half];
            let sin = &rotary.sin[t * half..][..half];
            for head in row.chunks_exact_mut(rotary.head_dim) {
                let (low, high) = head[..2 * half].split_at_mut(half);
                for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    let (a, b) = (*low, *high);
                    *low = a * cos - b * (sign * sin);
                    *high = b * cos + a * (sign * sin);
                }
            }
        });
    })
}
