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
    pub(super) fn take_columns(&mut self, w: &[bf16], depth: usize) {
        self.shape(w.len() / depth, depth);
        pack::columns(&mut self.numbers, w, depth);
    }

    /// Takes columns `..columns` of `w`, rows of `stride` numbers.
    pub(super) fn take_rows<N: Number>(&mut self, w: &[N], stride: usize, columns: usize) {
        self.shape(columns, w.len() / stride);
        pack::rows(&mut self.numbers, w, stride, (0, columns));
    }

    fn shape(&mut self, columns: usize, depth: usize) {
        (self.columns, self.depth) = (columns, depth);
        self.numbers.resize(pack::room(columns, depth), bf16::ZERO);
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
            let (begin, filled) = pack::panel(self.columns, self.depth, from / COLUMNS);
            let begin = begin + depths.start * filled;
            let panel = &self.numbers[begin..begin + 2 * pairs * filled];
            let width = COLUMNS.min(columns.end - from);
            for row in (0..left.count).step_by(ROWS) {
                let numbers = &left.numbers[row * left.stride..];
                let out = &mut out[row * stride + from - columns.start..];
                let mut target = Target { out, stride, columns: width, add };
                let rows = LeftRows { numbers, stride: left.stride, pairs };
                work.take(ROWS.min(left.count - row), [Some(rows), None]);
                work.tile(filled, [panel, &[]], &mut target);
            }
        }
    }
}
