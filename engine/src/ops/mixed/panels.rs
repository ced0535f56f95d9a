//! A small right factor packed whole, for whoever multiplies with it several times on one core.

use std::ops::Range;

use half::bf16;

use super::kernel::{COLUMNS, LeftRows, ROWS, Target, Work};
use super::pack;
use crate::ops::number::Number;

/// `[depth, columns]`.
#[derive(Debug, Default)]
pub(super) struct Panels {
    numbers: Vec<bf16>,
    columns: usize,
    depth: usize,
}

/// Rows of a left factor: from one to the next, and how many.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) numbers: &'a [bf16],
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl Panels {
    /// Takes `wᵀ`, of which rows of `depth` numbers are given.
    pub(super) fn take_columns<N: Number>(&mut self, w: &[N], depth: usize) {
        let panels = self.shape(w.len() / depth, depth);
        pack::columns(panels, w, depth);
    }

    /// Takes some columns of `w`, rows of `stride` numbers, and below them as many of zeros as make `depth` of them.
    pub(super) fn take_rows<N: Number>(
        &mut self,
        w: &[N],
        (stride, depth): (usize, usize),
        columns: &Range<usize>,
    ) {
        let panels = self.shape(columns.len(), depth);
        pack::rows(panels, w, (stride, depth), columns);
    }

    fn shape(&mut self, columns: usize, depth: usize) -> &mut [bf16] {
        (self.columns, self.depth) = (columns, depth);
        room(&mut self.numbers, pack::room(columns, depth))
    }

    /// One of them, and how many columns it is filled to.
    pub(super) fn panel(&self, index: usize) -> (&[bf16], usize) {
        let (begin, filled) = pack::panel(self.columns, self.depth, index);
        (&self.numbers[begin..begin + filled * self.depth.next_multiple_of(2)], filled)
    }

    /// `left` times columns `columns` of rows `depths`, written into rows of `stride` numbers of `out` or added to what
    /// is there. Columns begin with a panel, rows with a pair; of an odd number of rows the last pair's second is zero.
    pub(super) fn times<N: Number>(
        &self,
        left: Rows<'_>,
        (columns, depths): (Range<usize>, Range<usize>),
        (out, stride): (&mut [N], usize),
        add: bool,
    ) {
        assert!(columns.start.is_multiple_of(COLUMNS) && depths.start.is_multiple_of(2));
        let pairs = depths.len().div_ceil(2);
        let mut work = Work::begin();
        for from in columns.clone().step_by(COLUMNS) {
            let (panel, filled) = self.panel(from / COLUMNS);
            let panel = &panel[depths.start * filled..][..2 * pairs * filled];
            let width = COLUMNS.min(columns.end - from);
            for row in (0..left.count).step_by(ROWS) {
                let numbers = &left.numbers[row * left.stride..];
                let out = &mut out[row * stride + from - columns.start..];
                let mut target = Target::of(out, stride, width, add);
                let rows = LeftRows { numbers, stride: left.stride, pairs };
                work.take(ROWS.min(left.count - row), [Some(rows), None]);
                work.tile(filled, [panel, &[]], &mut target);
            }
        }
    }
}

/// Room for `count` numbers, whatever they are now; a buffer that is too small is replaced by one that has room for no
/// more.
pub(super) fn room(buffer: &mut Vec<bf16>, count: usize) -> &mut [bf16] {
    if buffer.len() < count {
        *buffer = vec![bf16::ZERO; count];
    }
    &mut buffer[..count]
}
