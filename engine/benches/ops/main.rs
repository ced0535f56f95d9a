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
use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use fleetune_engine::ops::{Backend, Mixed, Portable};

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

impl Named {
    /// Numbers from −1 to 1, made as this backend's activations are.
    fn activation(&self, shape: &[usize]) -> Tensor {
        self.ops.as_activation(&random(shape)).expect("memory for a tensor")
    }

    /// Bytes of one number of an activation.
    fn number(&self) -> usize {
        self.ops.activations().size_in_bytes()
    }
}

impl Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

static MIXED: LazyLock<Mixed> = LazyLock::new(Mixed::default);

/// Every backend that computes on the CPU.
fn backends() -> [Named; 2] {
    [Named { name: "portable", ops: &Portable }, Named { name: "bf16", ops: &*MIXED }]
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
