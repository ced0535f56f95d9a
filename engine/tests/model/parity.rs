//! The same logits, losses and gradients as transformers and PEFT (`tests/fixtures`, made by them).

use fleetune_engine::adapter;
use fleetune_engine::model::{KvCache, Model};

use crate::{batch, fixture, max_abs, relative, rows, tensors};

/// One for every choice by which an architecture's block differs from another's.
pub(crate) const MODELS: [&str; 15] = [
    "tiny-llama",
    "tiny-llama-tied",
    "tiny-llama3rope",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen2-windowed",
    "tiny-qwen3",
    "tiny-qwen3-biased",
    "tiny-gemma",
    "tiny-gemma2",
    "tiny-gemma3",
    "tiny-gemma3-scaled",
    "tiny-phi3",
    "tiny-phi3-long",
    "tiny-phi3-short",
];

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
        let reference = tensors(&format!("logits/{name}.safetensors"));
        let mut worst = 0.0_f64;
        for (i, row) in rows(&reference, "").iter().enumerate() {
            let expected = reference["logits"].get(i).unwrap();
            let expected = expected.narrow(0, 0, row.input_ids.len()).unwrap();
            let error = max_abs(&model.logits(&row.input_ids).unwrap(), &expected);
            assert!(error < 1e-4, "{name}, row {i}: logits are off by {error:e}");
            worst = worst.max(error);
        }
        eprintln!("{name}: logits within {worst:.1e}");
    }
}

#[test]
fn loss_and_every_gradient_are_those_of_transformers() {
    for name in MODELS {
        let reference = tensors(&format!("logits/{name}.safetensors"));
        let expected =
            f64::from(reference["loss"].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]);
        let batch = batch(&rows(&reference, ""));
        let mut model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
        model.train_full();
        let supervised = batch.supervised() as f64;
        let loss = model.forward_backward(&batch, 1.0 / supervised).unwrap() / supervised;
        assert!((loss / expected - 1.0).abs() < 1e-5, "{name}: loss is {loss}, not {expected}");
        let (mut seen, mut worst) = (0, 0.0_f64);
        for trainable in model.trainables_mut() {
            let error = relative(
                trainable.grad.as_ref().unwrap(),
                &reference[&format!("grad.{}", trainable.name)],
            );
            assert!(error < 1e-4, "{name}: gradient of {} is off by {error:e}", trainable.name);
            worst = worst.max(error);
            seen += 1;
        }
        let stored = reference.keys().filter(|key| key.starts_with("grad.")).count();
        assert_eq!(seen, stored, "{name}: not every gradient was made");
        eprintln!("{name}: gradients within {worst:.1e}");
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
fn adapters_of_peft_answer_the_same_on_every_architecture() {
    for name in [
        "tiny-qwen2-windowed",
        "tiny-qwen3-biased",
        "tiny-gemma2",
        "tiny-gemma3-scaled",
        "tiny-phi3-long",
    ] {
        let mut model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
        let reference = tensors(&format!("adapters/{name}/logits.safetensors"));
        let ids = reference["input_ids"].get(0).unwrap().to_vec1::<i64>().unwrap();
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        let plain = model.logits(&ids).unwrap();
        let adapter = adapter::load(&fixture(&format!("adapters/{name}"))).unwrap();
        model.attach(adapter).unwrap();
        let adapted = model.logits(&ids).unwrap();
        let error = max_abs(&adapted, &reference["logits"].get(0).unwrap());
        eprintln!("{name} adapted: logits within {error:.1e}");
        assert!(error < 1e-4, "{name}: logits are off by {error:e}");
        assert!(max_abs(&adapted, &plain) > 0.1, "{name}: the adapter does nothing");
    }
}

#[test]
fn no_example_sees_another() {
    for name in MODELS {
        let model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
        let rows = rows(&tensors(&format!("logits/{name}.safetensors")), "");
        let packed = batch(&rows);
        let together = model.packed_logits(&packed.input_ids, &packed.cu_seqlens).unwrap();
        for (row, from) in rows.iter().zip(&packed.cu_seqlens) {
            let alone = model.logits(&row.input_ids).unwrap();
            let within = together.narrow(0, *from, row.input_ids.len()).unwrap();
            let error = max_abs(&alone, &within);
            assert!(error < 3e-5, "{name}: {error:e}");
        }
    }
}

#[test]
fn stepping_with_a_cache_equals_reading_at_once() {
    // LongRoPE turns by other angles once a sequence leaves its first context, and what is cached stays as it was.
    for name in MODELS.into_iter().filter(|name| *name != "tiny-phi3-long") {
        let model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
        let row = rows(&tensors(&format!("logits/{name}.safetensors")), "").remove(0);
        let at_once = model.logits(&row.input_ids).unwrap();
        let mut cache = KvCache::new();
        // A prompt first, then some at once, then token by token.
        let (prompt, rest) = row.input_ids.split_at(7);
        let (some, rest) = rest.split_at(3);
        let mut found = vec![(6, model.step(prompt, &mut cache).unwrap())];
        found.push((9, model.step(some, &mut cache).unwrap()));
        found.extend(
            (10..).zip(rest).map(|(i, token)| (i, model.step(&[*token], &mut cache).unwrap())),
        );
        assert_eq!(cache.len(), row.input_ids.len());
        for (i, logits) in &found {
            let error = max_abs(logits, &at_once.get(*i).unwrap());
            assert!(error < 1e-4, "{name}: step {i} is off by {error:e}");
        }
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
