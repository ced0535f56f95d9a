use std::ops::Range;

use candle_core::Device;
use fleetune_shared::Recipe;

use super::super::fixture::{numbers, tensor};
use super::*;
use crate::ops::Portable;

/// What a recipe's keys make of the optimizer.
fn settings(keys: &str) -> Optim {
    let text = format!("model_name_or_path: m\ndataset_name: d\n{keys}");
    Recipe::read(&text).unwrap().optim
}

/// An optimizer and the two tensors of the fixture: one that is large enough for 8 bits and ends in the middle of a
/// block, one that is small.
struct Story {
    folder: tempfile::TempDir,
    optimizer: Optimizer,
    trainables: Vec<Trainable>,
    rate: f64,
}

impl Story {
    fn new(keys: &str, rate: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            let mut trainable = Trainable::new(name, tensor(&format!("p0.{name}")));
            trainable.decay = true;
            trainable
        };
        let mut trainables = vec![of("odd"), of("small")];
        let optimizer = Optimizer::new(
            Arc::new(Portable),
            settings(keys),
            rate,
            42,
            folder.path(),
            &mut trainables,
        )
        .unwrap();
        Self { folder, optimizer, trainables, rate }
    }

    fn steps(&mut self, range: Range<usize>) {
        for step in range {
            for trainable in &mut self.trainables {
                trainable.grad = Some(tensor(&format!("grad.{step}.{}", trainable.name)));
            }
            self.optimizer.step(&mut self.trainables, self.rate, 1.0).unwrap();
        }
    }

    fn values(&self, index: usize) -> Vec<f32> {
        self.trainables[index].value.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The bytes of a saved state's array.
    fn state(&self, name: &str) -> candle_core::Tensor {
        let path = self.folder.path().join("state.safetensors");
        self.optimizer.save(&path).unwrap();
        candle_core::safetensors::load(&path, &Device::Cpu).unwrap().remove(name).unwrap()
    }

    fn state_numbers(&self, name: &str) -> Vec<f32> {
        let state = self.state(name).to_dtype(candle_core::DType::F32).unwrap();
        state.to_vec1().unwrap()
    }
}

fn furthest(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Parameters after the first and the fifth step within `1e-6`.
fn follows(keys: &str, rate: f64, peer: &str) -> Story {
    let mut story = Story::new(keys, rate);
    for (steps, after) in [(0..1, 1), (1..5, 5)] {
        story.steps(steps);
        for index in 0..2 {
            let name = format!("{peer}.step{after}.{}", story.trainables[index].name);
            let error = furthest(&story.values(index), &numbers(&name));
            assert!(error < 1e-6, "{name}: {error}");
        }
    }
    story
}

#[test]
fn adamw_is_that_of_torch() {
    for name in ["adamw_torch", "paged_adamw_32bit", "adamw_anyprecision"] {
        let keys = format!("weight_decay: 0.01\noptim: {name}");
        let story = follows(&keys, 0.01, "torch.AdamW");
        for name in ["odd.exp_avg", "odd.exp_avg_sq", "small.exp_avg"] {
            let error = furthest(
                &story.state_numbers(name),
                &numbers(&format!("torch.AdamW.state5.{name}")),
            );
            assert!(error < 1e-6, "{name}: {error}");
        }
    }
}

#[test]
fn adafactor_is_that_of_transformers() {
    let story = follows("optim: adafactor", 0.01, "transformers.Adafactor");
    for name in ["odd.exp_avg_sq_row", "odd.exp_avg_sq_col", "small.exp_avg_sq"] {
        let expected = numbers(&format!("transformers.Adafactor.state5.{name}"));
        assert!(furthest(&story.state_numbers(name), &expected) < 1e-6, "{name}");
    }
    follows("optim: adafactor\nweight_decay: 0.1", 0.01, "transformers.Adafactor_decay");
}

#[test]
fn sgd_is_that_of_torch() {
    follows("optim: sgd\nweight_decay: 0.01", 0.01, "torch.SGD");
    let story =
        follows("optim: sgd\nweight_decay: 0.01\nsgd_momentum: 0.9", 0.01, "torch.SGD_momentum");
    let error = furthest(
        &story.state_numbers("odd.momentum_buffer"),
        &numbers("torch.SGD_momentum.state5.odd.momentum_buffer"),
    );
    assert!(error < 1e-6, "{error}");
}

#[test]
fn lion_is_that_of_bitsandbytes() {
    let lion = "adam_beta2: 0.99\nweight_decay: 0.01\noptim:";
    // What is too small for 8 bits is kept in 32.
    let mut full = Story::new(&format!("{lion} lion_32bit"), 1e-3);
    full.steps(0..5);
    assert!(furthest(&full.values(1), &numbers("bnb.Lion8bit.step5.small")) < 1e-6);
    let momentum = full.state_numbers("small.exp_avg");
    assert!(furthest(&momentum, &numbers("bnb.Lion8bit.state5.small.state1")) < 1e-6);
    let story = follows(&format!("{lion} lion_8bit"), 1e-3, "bnb.Lion8bit");
    codes_agree(&story, "bnb.Lion8bit", &[("exp_avg", "1")]);
}

#[test]
fn eight_bit_adamw_is_that_of_bitsandbytes() {
    for name in ["adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"] {
        let mut story = Story::new(&format!("weight_decay: 0.01\noptim: {name}"), 0.01);
        story.steps(0..1);
        let error = furthest(&story.values(0), &numbers("bnb.AdamW8bit.step1.odd"));
        assert!(error < 1e-6, "{name}: {error}");
        story.steps(1..5);
        codes_agree(&story, "bnb.AdamW8bit", &[("exp_avg", "1"), ("exp_avg_sq", "2")]);
        let (found, expected) = (story.values(0), numbers("bnb.AdamW8bit.step5.odd"));
        // Small codes are nearer here than on bitsandbytes' grid, and a small moment's step shows it.
        let off = found.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 1e-4).count();
        assert!(off as f64 <= 0.02 * found.len() as f64, "{name}: {off} of {}", found.len());
        // Below 4096 numbers nothing is rounded.
        let error = furthest(&story.values(1), &numbers("bnb.AdamW8bit.step5.small"));
        assert!(error < 1e-6, "{name}: {error}");
    }
}

/// At most one code in a thousand is another, and then the next one; scales agree.
fn codes_agree(story: &Story, peer: &str, moments: &[(&str, &str)]) {
    for (ours, theirs) in moments {
        let codes = story.state(&format!("odd.{ours}"));
        assert_eq!(codes.dtype(), candle_core::DType::U8);
        let found = story.state_numbers(&format!("odd.{ours}"));
        let expected = numbers(&format!("{peer}.state5.odd.state{theirs}"));
        let others = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        eprintln!("{peer} {ours}: {others} of {} codes differ", found.len());
        assert!(others as f64 <= 1e-3 * found.len() as f64, "{others} of {}", found.len());
        assert!(furthest(&found, &expected) <= 1.0);
        let scales = story.state_numbers(&format!("odd.{ours}.absmax"));
        let expected = numbers(&format!("{peer}.state5.odd.absmax{theirs}"));
        assert!(furthest(&scales, &expected) < 1e-6);
    }
}

const ALL: [&str; 11] = [
    "optim: adamw_torch",
    "optim: adamw_anyprecision\noptim_args: momentum_dtype=bfloat16,variance_dtype=bfloat16",
    "optim: adamw_8bit",
    "optim: paged_adamw_32bit",
    "optim: paged_adamw_8bit",
    "optim: adafactor",
    "optim: lion_32bit",
    "optim: lion_8bit",
    "optim: sgd",
    "optim: sgd\nsgd_momentum: 0.9",
    "optim: adamw_torch\nweight_decay: 0.1",
];

#[test]
fn a_restored_optimizer_goes_on_bit_for_bit() {
    for keys in ALL {
        let mut straight = Story::new(keys, 0.01);
        straight.steps(0..3);
        let path = straight.folder.path().join("optimizer.safetensors");
        straight.optimizer.save(&path).unwrap();

        let mut resumed = Story::new(keys, 0.01);
        for (copy, one) in resumed.trainables.iter_mut().zip(&straight.trainables) {
            copy.value = one.value.copy().unwrap();
        }
        resumed.optimizer.restore(&path, 3).unwrap();
        straight.steps(3..5);
        resumed.steps(3..5);
        for index in 0..2 {
            assert_eq!(straight.values(index), resumed.values(index), "{keys}");
        }
        let again = straight.folder.path().join("again.safetensors");
        straight.optimizer.save(&path).unwrap();
        resumed.optimizer.save(&again).unwrap();
        assert!(std::fs::read(&path).unwrap() == std::fs::read(&again).unwrap(), "{keys}");
    }
}

#[test]
fn another_optimizers_state_is_refused() {
    let mut adamw = Story::new("optim: adamw_torch", 0.01);
    adamw.steps(0..1);
    let path = adamw.folder.path().join("optimizer.safetensors");
    adamw.optimizer.save(&path).unwrap();
    let refused =
        |keys: &str| Story::new(keys, 0.01).optimizer.restore(&path, 1).unwrap_err().to_string();
    let found = refused("optim: adamw_8bit");
    assert!(
        found.contains("`odd.exp_avg` has 4355 numbers of F32, expected 4355 of U8"),
        "{found}"
    );
    let found = refused("optim: adafactor");
    assert!(found.contains("`odd.exp_avg_sq_row` is missing"), "{found}");
    std::fs::write(&path, b"not a state, but long enough to have a header").unwrap();
    let found = refused("optim: adamw_torch");
    assert!(found.contains("optimizer.safetensors: its header claims"), "{found}");
}

#[test]
fn only_marked_tensors_decay() {
    let mut story = Story::new("weight_decay: 0.01", 0.1);
    story.trainables[1].decay = false;
    let before = [story.values(0), story.values(1)];
    for one in &mut story.trainables {
        one.grad = Some(one.value.zeros_like().unwrap());
    }
    story.optimizer.step(&mut story.trainables, 0.1, 1.0).unwrap();
    let shrunk: Vec<f32> = before[0].iter().map(|x| x * 0.999).collect();
    assert!(furthest(&story.values(0), &shrunk) < 1e-6);
    assert_eq!(story.values(1), before[1]);
}

#[test]
fn a_tensor_without_a_gradient_stays() {
    for keys in ALL {
        let mut story = Story::new(keys, 0.01);
        let before = story.values(1);
        story.trainables[0].grad = Some(tensor("grad.0.odd"));
        story.optimizer.step(&mut story.trainables, 0.01, 1.0).unwrap();
        assert_eq!(story.values(1), before, "{keys}");
        assert!(story.trainables.iter().all(|t| t.grad.is_none()), "gradients are taken away");
    }
}

/// A zero stays zero in 8 bits even beside a large neighbour in its block, for ever.
#[test]
fn what_has_no_gradient_never_moves_in_eight_bits() {
    let folder = tempfile::tempdir().unwrap();
    let values = candle_core::Tensor::ones((64, 64), candle_core::DType::F32, &Device::Cpu);
    let mut one = [Trainable::new("w", values.unwrap())];
    let mut optimizer = Optimizer::new(
        Arc::new(Portable),
        settings("optim: adamw_8bit"),
        0.01,
        42,
        folder.path(),
        &mut one,
    )
    .unwrap();
    let grad: Vec<f32> = (0..4096).map(|i| if i % 64 == 0 { 3.0 } else { 0.0 }).collect();
    for _ in 0..10 {
        one[0].grad = Some(candle_core::Tensor::from_slice(&grad, (64, 64), &Device::Cpu).unwrap());
        optimizer.step(&mut one, 0.01, 1.0).unwrap();
    }
    let values = one[0].value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(values.iter().zip(&grad).all(|(value, grad)| (*value == 1.0) == (*grad == 0.0)));
}

/// A second moment in bf16 moves by less a step than bf16 can show: nearest rounding would stop it at a quarter.
#[test]
fn moments_in_bf16_are_right_on_average() {
    let folder = tempfile::tempdir().unwrap();
    let ones = || candle_core::Tensor::ones((64, 64), candle_core::DType::F32, &Device::Cpu);
    let mut one = [Trainable::new("w", ones().unwrap())];
    let keys =
        "optim: adamw_anyprecision\noptim_args: variance_dtype=bfloat16,momentum_dtype=bfloat16";
    let mut optimizer =
        Optimizer::new(Arc::new(Portable), settings(keys), 1e-4, 42, folder.path(), &mut one)
            .unwrap();
    for _ in 0..1000 {
        one[0].grad = Some(ones().unwrap());
        optimizer.step(&mut one, 1e-4, 1.0).unwrap();
    }
    let path = folder.path().join("state.safetensors");
    optimizer.save(&path).unwrap();
    let state = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let mean = |tensor: &candle_core::Tensor| {
        let wide = tensor.to_dtype(candle_core::DType::F64).unwrap();
        wide.mean_all().unwrap().to_scalar::<f64>().unwrap()
    };
    for (name, expected) in [("w.exp_avg", 1.0), ("w.exp_avg_sq", 1.0 - 0.999_f64.powi(1000))] {
        assert_eq!(state[name].dtype(), candle_core::DType::BF16);
        let found = mean(&state[name]);
        assert!((found / expected - 1.0).abs() < 2e-3, "{name}: {found}, expected {expected}");
    }
    let found = mean(&one[0].value);
    assert!((found - 0.9).abs() < 1e-3, "a thousand steps of 1e-4: {found}");
}

/// Steps far below what bf16 can hold, many times: nearest rounding would never move.
#[test]
fn small_steps_add_up_in_bf16() {
    let folder = tempfile::tempdir().unwrap();
    let ones = candle_core::Tensor::ones((64, 64), candle_core::DType::BF16, &Device::Cpu);
    let mut one = [Trainable::new("w", ones.unwrap())];
    let mut optimizer = Optimizer::new(
        Arc::new(Portable),
        settings("optim: sgd"),
        1e-4,
        42,
        folder.path(),
        &mut one,
    )
    .unwrap();
    for _ in 0..100 {
        let grad = candle_core::Tensor::ones((64, 64), candle_core::DType::F32, &Device::Cpu);
        one[0].grad = Some(grad.unwrap());
        optimizer.step(&mut one, 1e-4, 1.0).unwrap();
    }
    let values = one[0].value.to_dtype(candle_core::DType::F32).unwrap();
    let mean = values.mean_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((mean - 0.99).abs() < 1e-3, "{mean}");
}
