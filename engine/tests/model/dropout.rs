//! Dropout: drawn from a place in the run, off wherever nothing is learned.

use candle_core::{Device, Tensor};
use fleetune_engine::data::MicroBatch;
use fleetune_engine::model::{Model, Noise};
use fleetune_engine::ops::{Backend, DropoutMask, Portable};
use fleetune_shared::AdapterConfig;

use crate::gradients::{adapted, examples, lora};
use crate::norm;

const HERE: Noise = Noise { seed: 5, step: 3, micro_batch: 1 };

fn dropping(use_dora: bool) -> Model {
    let config = AdapterConfig { lora_dropout: 0.4, use_dora, ..lora(&[]) };
    adapted("tiny-llama", &config)
}

fn loss_at(model: &mut Model, batch: &MicroBatch, noise: Option<Noise>) -> f64 {
    model.noise = noise;
    let loss = model.forward_backward(batch, 1.0).unwrap();
    model.clear_gradients();
    loss
}

#[test]
fn what_drops_is_a_matter_of_place() {
    let mut model = dropping(false);
    let batch = examples();
    let here = loss_at(&mut model, &batch, Some(HERE));
    assert_eq!(loss_at(&mut model, &batch, Some(HERE)), here);
    for elsewhere in
        [Noise { seed: 6, ..HERE }, Noise { step: 4, ..HERE }, Noise { micro_batch: 0, ..HERE }]
    {
        assert_ne!(loss_at(&mut model, &batch, Some(elsewhere)), here, "{elsewhere:?}");
    }
    let still = loss_at(&mut model, &batch, None);
    assert_ne!(still, here);
    // Asking draws nothing, wherever the run stands.
    model.noise = Some(HERE);
    assert!((model.loss(&batch).unwrap() / still - 1.0).abs() < 1e-6);
}

#[test]
fn the_mean_stays_and_the_share_is_right() {
    let ones = Tensor::ones((400, 501), candle_core::DType::F32, &Device::Cpu).unwrap();
    for p in [0.1, 0.5, 0.9] {
        let masked = |stream| {
            let mask = DropoutMask::new([7; 32], stream, p);
            let dropped = Portable.dropout(&ones, &mask).unwrap();
            dropped.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let numbers = masked(1);
        let count = numbers.len() as f64;
        let share = numbers.iter().filter(|x| **x == 0.0).count() as f64 / count;
        let mean = numbers.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
        // Five deviations of a mean of 200,400 draws.
        let deviation = 5.0 * (p * (1.0 - p) / count).sqrt();
        assert!((share - p).abs() < deviation, "{share} of {p}");
        assert!((mean - 1.0).abs() < deviation / (1.0 - p), "{mean}");
        assert_ne!(numbers, masked(2));
    }
}

#[test]
fn gradients_behind_a_mask_agree_with_finite_differences() {
    for dora in [false, true] {
        let mut model = dropping(dora);
        model.noise = Some(HERE);
        let batch = examples();
        model.forward_backward(&batch, 1.0).unwrap();
        let slopes: Vec<(Tensor, Tensor)> = model
            .trainables_mut()
            .map(|t| (t.value.copy().unwrap(), t.grad.take().unwrap()))
            .collect();
        for index in [0, 1, slopes.len() / 2, slopes.len() - 2, slopes.len() - 1] {
            let (value, grad) = &slopes[index];
            let step = 4e-3 / norm(grad);
            let mut moved = |by: f64| {
                let learned = model.trainables_mut().nth(index).unwrap();
                learned.value = (value + (grad * by).unwrap()).unwrap();
                loss_at(&mut model, &batch, Some(HERE))
            };
            let found = (moved(step) - moved(-step)) / (2.0 * step);
            moved(0.0);
            let expected = norm(grad).powi(2);
            // DoRA holds the rows' lengths constant, which differences do not; magnitudes are exact.
            let name = model.trainables().nth(index).unwrap().name.clone();
            if !dora || name.ends_with("magnitude_vector") {
                assert!((found / expected - 1.0).abs() < 0.02, "{name}: {found}, {expected}");
            }
        }
    }
}
