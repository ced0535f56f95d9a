//! Answers to one prompt: what they begin with is computed once, and everything comes out as if it were not.

use candle_core::Tensor;
use fleetune_engine::data::{IGNORED, MicroBatch, Row};
use fleetune_engine::model::{Model, Policy};
use fleetune_shared::recipe::Quantization;

use crate::gradients::{adapted, attach, lora, noise_like};
use crate::{fixture, norm, relative};

/// `prompt` tokens that depend on `seed`, then `answer` tokens that depend on `seed` and `which`.
fn row(seed: u32, which: u32, prompt: usize, answer: usize) -> Row {
    let id = |mixed: u32| 1 + (mixed.wrapping_mul(2_654_435_761) >> 7) % 61;
    let prompt = (0..prompt as u32).map(|i| (id(1000 * seed + i), IGNORED));
    let answer = (0..answer as u32).map(|i| id(1000 * seed + 300 * (which + 1) + i));
    let (input_ids, labels) = prompt.chain(answer.map(|id| (id, i64::from(id)))).unzip();
    Row { input_ids, labels }
}

/// Pairs with a prompt and answers longer than a tile of queries, with a short prompt, without a common beginning, and
/// with answers that begin alike.
fn answers() -> Vec<Row> {
    let mut rows = vec![
        row(1, 0, 210, 130),
        row(1, 1, 210, 220),
        row(2, 0, 2, 7),
        row(2, 1, 2, 3),
        row(3, 0, 5, 4),
        row(4, 0, 9, 4),
        row(5, 0, 30, 12),
        row(5, 1, 30, 9),
    ];
    let (alike, with) = (rows[7].input_ids[30..33].to_vec(), 30..33);
    rows[6].input_ids.splice(with.clone(), alike.clone());
    rows[6].labels.splice(with, alike.into_iter().map(i64::from));
    rows
}

/// The same pairs without and with one place for what they share.
fn layouts() -> [MicroBatch; 2] {
    let rows = answers();
    let rows: Vec<&Row> = rows.iter().collect();
    let [apart, once] = [MicroBatch::of(&rows), MicroBatch::of_pairs(&rows)];
    assert_eq!((once.supervised(), once.tokens()), (apart.supervised(), apart.tokens()));
    assert_eq!(apart.tokens_computed() - once.tokens_computed(), 209 + 1 + 29);
    [apart, once]
}

fn gradients(model: &mut Model) -> Vec<(String, Tensor)> {
    let of = |t: &fleetune_engine::model::Trainable| Some((t.name.clone(), t.grad.clone()?));
    let gradients = model.trainables().filter_map(of).collect();
    model.clear_gradients();
    gradients
}

/// Within `limits` of log-probabilities, in nats, and of gradients, relative.
fn assert_the_same(what: &str, model: &mut Model, limits: (f64, f64)) {
    let near = |a: &[f64], b: &[f64]| {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() < limits.0, "{what}: {a} {b}");
        }
    };
    let [apart, once] = layouts();
    for policy in [Policy::Learning, Policy::Base] {
        let [a, b] = [&apart, &once].map(|batch| model.token_logps(batch, policy, true).unwrap());
        near(&a.logps, &b.logps);
        near(&a.collisions, &b.collisions);
    }
    let pull = |i: usize| if i.is_multiple_of(3) { -0.5 } else { 0.1 + i as f64 / 1e3 };
    let mut pulled = |batch| {
        let told = |tokens: fleetune_engine::model::TokenLogps| {
            let pulls = (0..tokens.logps.len()).map(pull).collect();
            Ok((tokens.logps, pulls))
        };
        let logps = model.forward_backward_graded(batch, false, told).unwrap();
        (logps, gradients(model))
    };
    let [(a, expected), (b, found)] = [&apart, &once].map(&mut pulled);
    near(&a, &b);
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        assert!(norm(expected) > 0.0, "{name}");
        let error = relative(found, expected);
        assert!(error < limits.1, "{what}: gradient of {name} is off by {error:e}");
    }
}

#[test]
fn a_prompt_that_answers_share_is_computed_once() {
    for name in ["tiny-llama", "tiny-mistral", "tiny-qwen2-windowed", "tiny-gemma2", "tiny-gemma3"]
    {
        assert_the_same(name, &mut adapted(name, &lora(&[])), (1e-5, 1e-5));
    }
    let mut full = Model::load(&fixture("models/tiny-llama-tied")).unwrap();
    full.train_full();
    assert_the_same("full", &mut full, (1e-5, 1e-5));
}

/// A shared prompt's gradient is rounded once more, and in another place.
#[test]
fn and_in_bf16_to_the_precision_of_its_numbers() {
    let base = fixture("models/tiny-llama");
    let mut model = Model::load_as(&base, Quantization::Bfloat16).unwrap();
    attach(&mut model, &lora(&[]));
    assert_the_same("bf16", &mut model, (1e-2, 2e-2));
}

#[test]
fn scores_of_answers_that_share_a_prompt_are_their_own() {
    let mut model = adapted("tiny-llama", &lora(&[]));
    model.score_answers(None, 3).unwrap();
    for (i, trainable) in model.trainables_mut().enumerate() {
        let noise = noise_like(i as u64 + 90, &trainable.value, 0.2);
        trainable.value = (&trainable.value + noise).unwrap();
    }
    let pulls = [0.7, -0.4, 1.1, 0.2, -0.9, 0.3, 0.5, -0.6];
    let [(a, expected), (b, found)] = layouts().map(|batch| {
        let told = |scores: &[f64]| Ok((scores.to_vec(), pulls.to_vec()));
        let scores = model.forward_backward_scored(&batch, told).unwrap();
        assert_eq!(scores, model.scores(&batch).unwrap());
        (scores, gradients(&mut model))
    });
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    for ((name, expected), (_, found)) in expected.iter().zip(&found) {
        let error = relative(found, expected);
        assert!(error < 1e-5, "gradient of {name} is off by {error:e}");
    }
}
