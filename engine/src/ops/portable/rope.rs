//! Rotary positions (arXiv 2104.09864), Hugging Face's layout: number `i` of a head is paired with `i + head_dim / 2`.

use candle_core::Tensor;

use super::parallel;
use crate::Result;
use crate::ops::number::Number;
use crate::ops::slices::edit_as;
use crate::ops::wide::wide;
use crate::ops::{Rotary, Turn};

wide! {
    /// One token's heads; `cos` and `sin` have a number for each pair.
    fn rotate_row[N: Number](row: &mut [N], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in row.chunks_exact_mut(head_dim) {
            let (low, high) = head[..2 * half].split_at_mut(half);
            for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let (a, b) = (low.widen(), high.widen());
                *low = N::narrow(a * cos - b * (sign * sin));
                *high = N::narrow(b * cos + a * (sign * sin));
            }
        }
    }
}

pub(crate) fn rotate<N: Number>(x: &Tensor, rotary: &Rotary, turn: Turn) -> Result<()> {
    let (_, width) = x.dims2()?;
    let half = rotary.half;
    let sign = match turn {
        Turn::Forth => 1.0,
        Turn::Back => -1.0,
    };
    edit_as(x, |x: &mut [N]| {
        parallel::rows(x, width, |t, row| {
            let cos = &rotary.cos[t * half..][..half];
            let sin = &rotary.sin[t * half..][..half];
            rotate_row(row, rotary.head_dim, cos, sin, sign);
        });
    })
}
