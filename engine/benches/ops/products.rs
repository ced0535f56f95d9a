//! Matrix products: a layer forwards, its two gradients, and the skinny ones of LoRA.

use std::fmt::{self, Display};

use divan::Bencher;

use crate::score::{Work, time};
use crate::{Case, HIDDEN, INTERMEDIATE, TOKENS, cases, random};

/// `[tokens, input]` and `[output, input]`.
#[derive(Clone, Copy)]
struct Shape {
    tokens: usize,
    input: usize,
    output: usize,
}

impl Shape {
    const fn new(tokens: usize, input: usize, output: usize) -> Self {
        Self { tokens, input, output }
    }

    fn work(&self) -> Work {
        Work::Flops(2 * self.tokens * self.input * self.output)
    }
}

impl Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}→{}", self.tokens, self.input, self.output)
    }
}

/// q and o, k and v, gate and up, down, and the head on one chunk of labelled positions.
const LAYERS: [Shape; 5] = [
    Shape::new(TOKENS, HIDDEN, HIDDEN),
    Shape::new(TOKENS, HIDDEN, 192),
    Shape::new(TOKENS, HIDDEN, INTERMEDIATE),
    Shape::new(TOKENS, INTERMEDIATE, HIDDEN),
    Shape::new(128, HIDDEN, 49_152),
];

/// One A of rank 16, three of them as one product, and that of the widest input.
const DOWN_TO_RANK: [Shape; 3] = [
    Shape::new(TOKENS, HIDDEN, 16),
    Shape::new(TOKENS, HIDDEN, 48),
    Shape::new(TOKENS, INTERMEDIATE, 16),
];

/// B of the narrowest and the widest output.
const UP_FROM_RANK: [Shape; 3] = [
    Shape::new(TOKENS, 16, 192),
    Shape::new(TOKENS, 16, HIDDEN),
    Shape::new(TOKENS, 16, INTERMEDIATE),
];

#[divan::bench(args = cases(&LAYERS))]
fn forward(bencher: Bencher<'_, '_>, case: &Case<Shape>) {
    let Case { backend, shape } = case;
    let (x, w) =
        (backend.activation(&[shape.tokens, shape.input]), random(&[shape.output, shape.input]));
    time(bencher, "product", case, shape.work(), || {
        backend.ops.project(&x, &w).expect("a product")
    });
}

#[divan::bench(args = cases(&LAYERS))]
fn dx(bencher: Bencher<'_, '_>, case: &Case<Shape>) {
    let Case { backend, shape } = case;
    let (dy, w) =
        (backend.activation(&[shape.tokens, shape.output]), random(&[shape.output, shape.input]));
    time(bencher, "product dx", case, shape.work(), || {
        backend.ops.project_dx(&dy, &w).expect("a product")
    });
}

#[divan::bench(args = cases(&LAYERS))]
fn dw(bencher: Bencher<'_, '_>, case: &Case<Shape>) {
    let Case { backend, shape } = case;
    let dy = backend.activation(&[shape.tokens, shape.output]);
    let x = backend.activation(&[shape.tokens, shape.input]);
    time(bencher, "product dw", case, shape.work(), || {
        backend.ops.project_dw(&dy, &x).expect("a product")
    });
}

#[divan::bench(args = cases(&DOWN_TO_RANK))]
fn lora_a(bencher: Bencher<'_, '_>, case: &Case<Shape>) {
    let Case { backend, shape } = case;
    let (x, a) =
        (backend.activation(&[shape.tokens, shape.input]), random(&[shape.output, shape.input]));
    time(bencher, "lora a", case, shape.work(), || backend.ops.project(&x, &a).expect("a product"));
}

#[divan::bench(args = cases(&DOWN_TO_RANK))]
fn lora_a_dw(bencher: Bencher<'_, '_>, case: &Case<Shape>) {
    let Case { backend, shape } = case;
    let dc = backend.activation(&[shape.tokens, shape.output]);
    let x = backend.activation(&[shape.tokens, shape.input]);
    time(bencher, "lora a dw", case, shape.work(), || {
        backend.ops.project_dw(&dc, &x).expect("a product")
    });
}

#[divan::bench(args = cases(&UP_FROM_RANK))]
fn lora_b(bencher: Bencher<'_, '_>, case: &Case<Shape>) {
    let Case { backend, shape } = case;
    let y = backend.activation(&[shape.tokens, shape.output]);
    let (c, m) =
        (backend.activation(&[shape.tokens, shape.input]), random(&[shape.input, shape.output]));
    time(bencher, "lora b added", case, shape.work(), || {
        backend.ops.add_low_rank(&y, &c, &m).expect("a product");
    });
}
