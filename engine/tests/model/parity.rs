//! The same logits, losses and gradients as transformers and PEFT (`tests/fixtures`, made by them).

use fleetune_engine::adapter;
use fleetune_engine::model::{KvCache, Model};

use crate::{batch, fixture, max_abs, relative, rows, tensors};

/// Name and the mean loss transformers reported.
const MODELS: [(&str, f64); 3] = [
    ("tiny-llama", 6.398508071899414),
    ("tiny-llama-tied", 6.454051971435547),
    ("tiny-llama3rope", 6.267144680023193),
];

#[test]
fn logits_are_those_of_transformers() {
    for (name, _) in MODELS {
        let model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
        let reference = tensors(&format!("logits/{name}.safetensors"));
        for (i, row) in rows(&reference, "").iter().enumerate() {
            let expected = reference["logits"].get(i).unwrap();
            let expected = expected.narrow(0, 0, row.input_ids.len()).unwrap();
            let error = max_abs(&model.logits(&row.input_ids).unwrap(), &expected);
            assert!(error < 1e-4, "{name}, row {i}: logits are off by {error:e}");
        }
    }
}

#[test]
fn loss_and_every_gradient_are_those_of_transformers() {
    for (name, expected) in MODELS {
        let reference = tensors(&format!("logits/{name}.safetensors"));
        let batch = batch(&rows(&reference, ""));
        let mut model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
        model.train_full();
        let supervised = batch.supervised() as f64;
        let loss = model.forward_backward(&batch, 1.0 / supervised).unwrap() / supervised;
        assert!((loss / expected - 1.0).abs() < 1e-5, "{name}: loss is {loss}, not {expected}");
        let mut seen = 0;
        for trainable in model.trainables_mut() {
            let error = relative(
                trainable.grad.as_ref().unwrap(),
                &reference[&format!("grad.{}", trainable.name)],
            );
            assert!(error < 1e-4, "{name}: gradient of {} is off by {error:e}", trainable.name);
            seen += 1;
        }
        let stored = reference.keys().filter(|key| key.starts_with("grad.")).count();
        assert_eq!(seen, stored, "{name}: not every gradient was made");
    }
}

#[test]
fn adapter_gradients_are_those_of_peft() {
    let mut model = Model::load(&fixture("models/tiny-llama")).unwrap();
    model.attach(adapter::load(&fixture("gradients/tiny-llama-lora")).unwrap()).unwrap();
    let batch = batch(&rows(&tensors("gradients/tiny-llama-lora/batches.safetensors"), ".0"));
    let supervised = batch.supervised() as f64;
    let loss = model.forward_backward(&batch, 1.0 / supervised).unwrap() / supervised;
    assert!((loss / 6.509233474731445 - 1.0).abs() < 1e-5, "loss is {loss}");
    let reference = tensors("gradients/tiny-llama-lora/gradients.safetensors");
    let mut seen = 0;
    for trainable in model.trainables_mut() {
        let key = trainable.name.replace(".weight", ".default.weight");
        let error = relative(trainable.grad.as_ref().unwrap(), &reference[&key]);
        assert!(error < 1e-4, "gradient of {} is off by {error:e}", trainable.name);
        seen += 1;
    }
    assert_eq!(seen, reference.len());
}

#[test]
fn no_example_sees_another() {
    let model = Model::load(&fixture("models/tiny-llama")).unwrap();
    let rows = rows(&tensors("logits/tiny-llama.safetensors"), "");
    let packed = batch(&rows);
    let together = model.packed_logits(&packed.input_ids, &packed.cu_seqlens).unwrap();
    for (row, from) in rows.iter().zip(&packed.cu_seqlens) {
        let alone = model.logits(&row.input_ids).unwrap();
        let within = together.narrow(0, *from, row.input_ids.len()).unwrap();
        assert!(max_abs(&alone, &within) < 1e-5);
    }
}

#[test]
fn stepping_with_a_cache_equals_reading_at_once() {
    let model = Model::load(&fixture("models/tiny-llama3rope")).unwrap();
    let row = rows(&tensors("logits/tiny-llama3rope.safetensors"), "").remove(0);
    let at_once = model.logits(&row.input_ids).unwrap();
    let mut cache = KvCache::new();
    // A prompt first, then token by token.
    let (prompt, rest) = row.input_ids.split_at(7);
    let mut found = vec![model.step(prompt, &mut cache).unwrap()];
    found.extend(rest.iter().map(|token| model.step(&[*token], &mut cache).unwrap()));
    assert_eq!(cache.len(), row.input_ids.len());
    for (i, logits) in found.iter().enumerate() {
        let error = max_abs(logits, &at_once.get(prompt.len() - 1 + i).unwrap());
        assert!(error < 1e-4, "step {i} is off by {error:e}");
    }
}

#[test]
fn attention_is_causal_over_many_tiles() {
    // Longer than a tile of queries; a change at the end must not reach what comes before.
    let model = Model::load(&fixture("models/tiny-llama")).unwrap();
    let mut ids: Vec<u32> = (0..300).map(|i| (i * 7 % 500) as u32).collect();
    let before = model.logits(&ids).unwrap();
    ids[299] = 3;
    let after = model.logits(&ids).unwrap();
    let head = |x: &candle_core::Tensor| x.narrow(0, 0, 299).unwrap();
    assert_eq!(max_abs(&head(&before), &head(&after)), 0.0);
    let alone = model.logits(&ids[..150]).unwrap();
    assert!(max_abs(&alone, &before.narrow(0, 0, 150).unwrap()) < 1e-4);
}

#[test]
fn ids_beyond_the_vocabulary_are_named() {
    let model = Model::load(&fixture("models/tiny-llama")).unwrap();
    let message = model.logits(&[1, 512]).unwrap_err().to_string();
    assert!(message.contains("token 1 is 512") && message.contains("512"), "{message}");
}
