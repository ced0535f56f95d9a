//! Log-probabilities of tokens, and learning from a gradient for each of them.

use candle_core::{DType, IndexOp, Tensor};
use fleetune_engine::data::{IGNORED, MicroBatch};
use fleetune_engine::model::{Model, Policy};

use crate::gradients::{adapted, examples, lora, noise_like};
use crate::{fixture, norm, relative};

/// The batch with every second label only, the first or the second of each two.
fn half(batch: &MicroBatch, which: usize) -> MicroBatch {
    let mut batch = batch.clone();
    let labels = batch.targets.iter_mut().filter(|target| **target != IGNORED);
    labels.enumerate().filter(|(i, _)| i % 2 != which).for_each(|(_, target)| *target = IGNORED);
    batch
}

fn gradients(model: &mut Model) -> Vec<(String, Tensor)> {
    let of = |t: &mut fleetune_engine::model::Trainable| (t.name.clone(), t.grad.clone().unwrap());
    let gradients = model.trainables_mut().map(of).collect();
    model.clear_gradients();
    gradients
}

#[test]
fn each_token_pulls_as_much_as_it_is_told_to() {
    let full = || {
        let mut model = Model::load(&fixture("models/tiny-llama-tied")).unwrap();
        model.train_full();
        model
    };
    for mut model in [adapted("tiny-llama", &lora(&[])), full()] {
        let batch = examples();
        for (which, scale) in [(0, 0.5), (1, -0.25)] {
            model.forward_backward(&half(&batch, which), scale).unwrap();
        }
        let expected = gradients(&mut model);
        let answer = model
            .forward_backward_graded(&batch, false, |tokens| {
                let pull = |i| if i % 2 == 0 { -0.5 } else { 0.25 };
                Ok((tokens.logps.len(), (0..tokens.logps.len()).map(pull).collect()))
            })
            .unwrap();
        assert_eq!(answer, batch.supervised());
        for ((name, expected), (_, found)) in expected.iter().zip(gradients(&mut model)) {
            assert!(norm(expected) > 0.0, "{name}");
            let error = relative(&found, expected);
            assert!(error < 1e-5, "gradient of {name} is off by {error:e}");
        }
    }
}

#[test]
fn log_probabilities_and_collisions_are_those_of_the_logits() {
    let mut model = adapted("tiny-llama", &lora(&[]));
    let batch = examples();
    let logits = model.packed_logits(&batch.input_ids, &batch.cu_seqlens).unwrap();
    let logits = logits.to_dtype(DType::F64).unwrap();
    let mut expected = Vec::new();
    for (at, target) in batch.targets.iter().enumerate().filter(|(_, t)| **t != IGNORED) {
        let row = logits.i(at).unwrap().to_vec1::<f64>().unwrap();
        let total: f64 = row.iter().map(|logit| logit.exp()).sum();
        let squares: f64 = row.iter().map(|logit| (logit.exp() / total).powi(2)).sum();
        expected.push((row[*target as usize] - total.ln(), squares.ln()));
    }
    let tokens = model
        .forward_backward_graded(&batch, true, |tokens| {
            let none = vec![0.0; tokens.logps.len()];
            Ok((tokens, none))
        })
        .unwrap();
    assert_eq!((tokens.logps.len(), tokens.collisions.len()), (expected.len(), expected.len()));
    for (i, (logp, collision)) in expected.iter().enumerate() {
        assert!((tokens.logps[i] - logp).abs() < 1e-5, "{} {logp}", tokens.logps[i]);
        assert!((tokens.collisions[i] - collision).abs() < 1e-5);
    }
    assert_eq!(model.token_logps(&batch, Policy::Learning, true).unwrap(), tokens);
}

#[test]
fn the_base_answers_as_if_nothing_lay_beside_it() {
    let mut adapted = adapted("tiny-llama", &lora(&[]));
    let mut plain = Model::load(&fixture("models/tiny-llama")).unwrap();
    let batch = examples();
    let base = adapted.token_logps(&batch, Policy::Base, false).unwrap();
    assert_eq!(base, plain.token_logps(&batch, Policy::Learning, false).unwrap());
    assert_ne!(base, adapted.token_logps(&batch, Policy::Learning, false).unwrap());
}

#[test]
fn scores_pull_on_everything_below_them() {
    let mut model = adapted("tiny-llama", &lora(&[]));
    let batch = examples();
    assert!(model.scores(&batch).unwrap_err().to_string().contains("has no score"));
    model.score_answers(None, 3).unwrap();
    let weights = [0.7, -0.4, 1.1];
    let loss = |model: &Model| -> f64 {
        model.scores(&batch).unwrap().iter().zip(weights).map(|(score, w)| score * w).sum()
    };
    let told = model
        .forward_backward_scored(&batch, |scores| Ok((scores.to_vec(), weights.to_vec())))
        .unwrap();
    assert_eq!(told, model.scores(&batch).unwrap());
    // One direction for all tensors together.
    let direction = |i: usize, like: &Tensor| noise_like(i as u64 + 70, like, 1.0);
    let mut slope = 0.0;
    for (i, trainable) in model.trainables_mut().enumerate() {
        let grad = trainable.grad.clone().unwrap();
        let product = grad.mul(&direction(i, &trainable.value)).unwrap().sum_all().unwrap();
        slope += f64::from(product.to_scalar::<f32>().unwrap());
    }
    let mut moved = |by: f64| {
        for (i, trainable) in model.trainables_mut().enumerate() {
            let step = (direction(i, &trainable.value) * by).unwrap();
            trainable.value = trainable.value.add(&step).unwrap();
        }
        loss(&model)
    };
    let (step, ahead) = (2e-3, moved(2e-3));
    let difference = (ahead - moved(-2.0 * step)) / (2.0 * step);
    assert!((slope / difference - 1.0).abs() < 1e-2, "{slope} {difference}");
}
