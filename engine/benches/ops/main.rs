//! The leaf operations at SmolLM2-135M's shapes, each against what the machine could do at most.
//!
//! ```sh
//! cargo bench --workspace --bench ops                # all of them
//! cargo bench --workspace --bench ops -- products    # some of them
//! ```
//!
//! Operations are reached through `Backend` alone: one that is added to [`backends`] is timed beside the others. divan's
//! items are floating-point operations. A second table follows divan's, with percentages.

mod attention;
mod ceiling;
mod head;
mod optimizer;
mod products;
mod rowwise;
mod score;

use std::fmt::{self, Display};

use candle_core::{Device, Tensor};
use fleetune_engine::ops::{Backend, Portable};

/// Tokens of a micro-batch: four rows of 512.
const TOKENS: usize = 2048;
/// SmolLM2-135M's residual width.
const HIDDEN: usize = 576;
/// Width of its MLP.
const INTERMEDIATE: usize = 1536;
/// Bytes of an f32.
const F32: usize = 4;

/// A backend under its name.
#[derive(Clone, Copy)]
struct Named {
    name: &'static str,
    ops: &'static dyn Backend,
}

impl Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Every backend that computes on the CPU.
fn backends() -> Vec<Named> {
    vec![Named { name: "portable", ops: &Portable }]
}

/// A backend at work on a shape.
struct Case<S> {
    backend: Named,
    shape: S,
}

impl<S: Display> Display for Case<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.backend, self.shape)
    }
}

/// Every backend on every shape.
fn cases<S: Copy>(shapes: &[S]) -> Vec<Case<S>> {
    let mut cases = Vec::new();
    for shape in shapes {
        cases.extend(backends().into_iter().map(|backend| Case { backend, shape: *shape }));
    }
    cases
}

/// Numbers from −1 to 1.
fn random(shape: &[usize]) -> Tensor {
    Tensor::rand(-1f32, 1f32, shape, &Device::Cpu).expect("memory for a tensor")
}

fn main() -> std::io::Result<()> {
    let ceiling = ceiling::Ceiling::measure();
    divan::Divan::default().sample_count(20).config_with_args().main();
    score::print(ceiling)
}
