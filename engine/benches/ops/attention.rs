//! Attention over short rows and over one long one; the products of a causal half are counted.

use std::fmt::{self, Display};

use divan::Bencher;
use fleetune_engine::ops::{AttentionShape, Span};

use crate::score::{Work, time};
use crate::{Case, cases};

const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;

/// Rows laid end to end.
#[derive(Clone, Copy)]
struct Rows {
    count: usize,
    length: usize,
}

const ROWS: [Rows; 2] = [Rows { count: 4, length: 512 }, Rows { count: 1, length: 4096 }];

impl Rows {
    fn tokens(self) -> usize {
        self.count * self.length
    }

    fn spans(self) -> Vec<Span> {
        let span = |row| Span::causal(row * self.length..(row + 1) * self.length);
        (0..self.count).map(span).collect()
    }

    /// Of `products` that meet each query with each key it sees.
    fn work(self, products: usize) -> Work {
        let seen = self.count * self.length * (self.length + 1) / 2;
        Work::Flops(products * 2 * seen * HEAD_DIM * HEADS)
    }
}

impl Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}", self.count, self.length)
    }
}

fn shape(spans: &[Span]) -> AttentionShape<'_> {
    AttentionShape {
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        spans,
        window: None,
        scale: 0.125,
        soft_cap: None,
    }
}

#[divan::bench(args = cases(&ROWS))]
fn forward(bencher: Bencher<'_, '_>, case: &Case<Rows>) {
    let Case { backend, shape: rows } = case;
    let q = backend.activation(&[rows.tokens(), HEADS * HEAD_DIM]);
    let [k, v] = std::array::from_fn(|_| backend.activation(&[rows.tokens(), KV_HEADS * HEAD_DIM]));
    let spans = rows.spans();
    time(bencher, "attention", case, rows.work(2), || {
        backend.ops.attention(&q, &k, &v, &shape(&spans)).expect("attention")
    });
}

#[divan::bench(args = cases(&ROWS))]
fn backward(bencher: Bencher<'_, '_>, case: &Case<Rows>) {
    let Case { backend, shape: rows } = case;
    let [q, dout] = std::array::from_fn(|_| backend.activation(&[rows.tokens(), HEADS * HEAD_DIM]));
    let [k, v] = std::array::from_fn(|_| backend.activation(&[rows.tokens(), KV_HEADS * HEAD_DIM]));
    let spans = rows.spans();
    let (out, lse) = backend.ops.attention(&q, &k, &v, &shape(&spans)).expect("attention");
    time(bencher, "attention backward", case, rows.work(5), || {
        backend
            .ops
            .attention_backward(&dout, &q, &k, &v, &out, &lse, &shape(&spans))
            .expect("gradients")
    });
}
