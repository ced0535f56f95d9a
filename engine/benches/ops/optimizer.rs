//! AdamW on a matrix of about as many numbers as an adapter has, with moments in 32, 16 and 8 bits.

use std::sync::Arc;

use divan::Bencher;
use fleetune_engine::model::Trainable;
use fleetune_engine::ops::Portable;
use fleetune_engine::optim::Optimizer;
use fleetune_shared::Recipe;

use crate::random;
use crate::score::{Work, time};

const SHAPE: [usize; 2] = [4096, 1024];
const LEARNING_RATE: f64 = 1e-5;

/// What to call an optimizer, its keys in a recipe, and the bytes it reads and writes for one parameter: value and
/// gradient, and two moments each way.
const KINDS: [(&str, &str, usize); 3] = [
    ("adamw_torch", "optim: adamw_torch", 3 * 4 + 4 * 4),
    (
        "adamw_anyprecision bf16",
        "optim: adamw_anyprecision\noptim_args: momentum_dtype=bfloat16,variance_dtype=bfloat16",
        3 * 4 + 4 * 2,
    ),
    ("adamw_8bit", "optim: adamw_8bit", 3 * 4 + 4),
];

#[divan::bench(args = KINDS.map(|kind| kind.0))]
fn step(bencher: Bencher<'_, '_>, name: &str) {
    let kind = KINDS.iter().find(|kind| kind.0 == name);
    let (_, keys, bytes) = kind.copied().unwrap_or_default();
    let recipe = format!("model_name_or_path: m\ndataset_name: d\n{keys}");
    let recipe = Recipe::read(&recipe).expect("a recipe");
    let mut weight = Trainable::new("weight", random(&SHAPE));
    let folder = std::env::temp_dir();
    let optimizer =
        Optimizer::new(Arc::new(Portable), recipe.optim, LEARNING_RATE, 0, &folder, [&mut weight]);
    let mut optimizer = optimizer.expect("an optimizer");
    let grad = random(&SHAPE);
    let work = Work::Bytes(bytes * SHAPE[0] * SHAPE[1]);
    time(bencher, "optimizer", name, work, || {
        weight.grad = Some(grad.clone());
        optimizer.step([&mut weight], LEARNING_RATE, 1.0).expect("a step");
    });
}
