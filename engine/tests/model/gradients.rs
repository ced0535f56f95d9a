//! Hand-written gradients of whole models against autograd and finite differences.

use candle_core::{DType, Device, Tensor};
use fleetune_engine::adapter::Adapter;
use fleetune_engine::data::{IGNORED, MicroBatch, Row};
use fleetune_engine::model::{self, Model, Noise};
use fleetune_shared::recipe::{LoraBias, LoraInit, OneOrManyLayers, PeftType, TargetModules};
use fleetune_shared::{AdapterConfig, MemoryPlan};

use crate::oracle::Oracle;
use crate::parity::MODELS;
use crate::{batch, fixture, max_abs, norm, relative};

/// Numbers that look random and are the same everywhere.
fn noise(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

pub(crate) fn noise_like(seed: u64, like: &Tensor, size: f64) -> Tensor {
    let numbers = noise(seed, like.elem_count()).into_iter().map(|x| (x * size) as f32).collect();
    Tensor::from_vec::<_, f32>(numbers, like.shape(), &Device::Cpu).unwrap()
}

/// Three examples of unequal length, the longest over two tiles of queries; some labels missing, and more than one
/// chunk of the head left. No token is the padding, whose row does not learn as an input.
fn examples_of(vocab: usize) -> MicroBatch {
    let row = |seed: u64, len: usize| {
        let token = |x: f64| 1 + ((x + 0.5) * (vocab - 1) as f64) as u32;
        let input_ids: Vec<u32> = noise(seed, len).into_iter().map(token).collect();
        let label = |(i, id): (usize, &u32)| if i % 5 < 2 { IGNORED } else { i64::from(*id) };
        let labels = input_ids.iter().enumerate().map(label).collect();
        Row { input_ids, labels }
    };
    batch(&[row(1, 9), row(2, 230), row(3, 2)])
}

pub(crate) fn examples() -> MicroBatch {
    examples_of(512)
}

fn names(names: &[&str]) -> TargetModules {
    TargetModules::Names(names.iter().map(|name| (*name).to_owned()).collect())
}

/// Beside those layers; beside all of them where none is named.
pub(crate) fn lora(targets: &[&str]) -> AdapterConfig {
    AdapterConfig {
        r: 3,
        lora_alpha: 5.0,
        target_modules: if targets.is_empty() {
            TargetModules::Word("all-linear".into())
        } else {
            names(targets)
        },
        ..AdapterConfig::default()
    }
}

pub(crate) fn attach(model: &mut Model, config: &AdapterConfig) {
    let adapter = Adapter::fresh(model.spec(), config.clone(), 7).unwrap();
    model.attach(adapter).unwrap();
    for (i, trainable) in model.trainables_mut().enumerate() {
        let noise = noise_like(i as u64 + 1, &trainable.value, 0.2);
        trainable.value = (&trainable.value + noise).unwrap();
    }
    assert!(model.trainables().next().is_some());
}

/// A model with an adapter, everything of which has left its beginning.
pub(crate) fn adapted(name: &str, config: &AdapterConfig) -> Model {
    let mut model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
    attach(&mut model, config);
    model
}

/// A model of tiny Llama's shape with biases, all learning, and the folder its configuration is in.
fn biased() -> (Model, tempfile::TempDir) {
    let config = std::fs::read_to_string(fixture("models/tiny-llama/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["attention_bias"] = true.into();
    config["mlp_bias"] = true.into();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut model = Model::random(folder.path(), 5).unwrap();
    model.train_full();
    for (i, t) in model.trainables_mut().enumerate().filter(|(_, t)| t.name.ends_with(".bias")) {
        t.value = noise_like(i as u64 + 1, &t.value, 0.2);
    }
    (model, folder)
}

/// Models whose rotary frequencies the oracle knows.
const PLAIN_ROPE: [&str; 11] = [
    "tiny-llama",
    "tiny-llama-tied",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen2-windowed",
    "tiny-qwen3",
    "tiny-qwen3-biased",
    "tiny-gemma",
    "tiny-gemma2",
    "tiny-gemma3",
    "tiny-phi3",
];

fn assert_gradients(model: &mut Model, oracle: &Oracle) {
    let batch = examples_of(model.spec().vocab_size);
    let (expected_loss, expected) = oracle.gradients(&batch);
    let loss = model.forward_backward(&batch, 0.25).unwrap();
    assert!((loss / expected_loss - 1.0).abs() < 1e-5, "loss {loss}, expected {expected_loss}");
    let alone = model.loss(&batch).unwrap();
    assert!((alone / loss - 1.0).abs() < 1e-6, "{alone} without gradients, {loss} with");
    for trainable in model.trainables_mut() {
        let expected = (&expected[&trainable.name] * 0.25).unwrap();
        let found = trainable.grad.as_ref().unwrap();
        assert!(norm(found) > 0.0, "gradient of {} is zero", trainable.name);
        let error = relative(found, &expected);
        assert!(error < 1e-4, "gradient of {} is off by {error:e}", trainable.name);
    }
}

#[test]
fn full_gradients_are_those_of_autograd() {
    for name in PLAIN_ROPE {
        let mut model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
        model.train_full();
        let oracle = Oracle::of(&model, None);
        assert_gradients(&mut model, &oracle);
        assert_eq!(model.trainables_mut().count(), oracle.values.len());
    }
}

#[test]
fn adapter_gradients_of_every_block_are_those_of_autograd() {
    for name in PLAIN_ROPE {
        let config = lora(&[]);
        let mut model = adapted(name, &config);
        let oracle = Oracle::of(&model, Some(&config));
        assert_gradients(&mut model, &oracle);
    }
}

#[test]
fn a_fused_layer_learns_alone() {
    for target in ["qkv_proj", "gate_up_proj"] {
        let config = lora(&[target]);
        let mut model = adapted("tiny-phi3", &config);
        let oracle = Oracle::of(&model, Some(&config));
        assert_gradients(&mut model, &oracle);
        assert_eq!(model.trainables_mut().count(), 4);
    }
}

#[test]
fn biases_learn_too() {
    let (mut model, _) = biased();
    let oracle = Oracle::of(&model, None);
    assert_eq!(oracle.values.keys().filter(|name| name.ends_with(".bias")).count(), 14);
    assert_gradients(&mut model, &oracle);
}

#[test]
fn adapter_gradients_are_those_of_autograd_whatever_is_adapted() {
    let targets: [&[&str]; 6] = [
        &[],
        &["q_proj", "v_proj"],
        &["o_proj"],
        &["down_proj"],
        &["up_proj"],
        &["k_proj", "gate_proj"],
    ];
    for targets in targets {
        let config = lora(targets);
        let mut model = adapted("tiny-llama", &config);
        let oracle = Oracle::of(&model, Some(&config));
        assert_gradients(&mut model, &oracle);
    }
}

/// Every kind of adapter, by name.
fn kinds() -> Vec<(&'static str, AdapterConfig)> {
    let all = || lora(&[]);
    let dora = || AdapterConfig { use_dora: true, ..all() };
    let begun = |init_lora_weights| AdapterConfig { init_lora_weights, ..all() };
    let ia3 = AdapterConfig {
        peft_type: PeftType::Ia3,
        feedforward_modules: Some(names(&["down_proj", "gate_proj"])),
        ..all()
    };
    let whole = |modules: &[&str]| Some(modules.iter().map(|m| (*m).to_owned()).collect());
    vec![
        ("dora", dora()),
        ("dora of some", AdapterConfig { use_dora: true, ..lora(&["k_proj", "down_proj"]) }),
        ("ia3", ia3),
        ("pissa", begun(LoraInit::Pissa { niter: None })),
        ("olora, dora", AdapterConfig { use_dora: true, ..begun(LoraInit::Olora) }),
        ("rslora", AdapterConfig { use_rslora: true, ..all() }),
        ("lora_bias", AdapterConfig { lora_bias: true, ..all() }),
        ("bias all", AdapterConfig { bias: LoraBias::All, ..lora(&["q_proj"]) }),
        ("bias lora_only, dora", AdapterConfig { bias: LoraBias::LoraOnly, ..dora() }),
        ("embedding", lora(&["embed_tokens", "o_proj"])),
        ("head", lora(&["lm_head", "v_proj"])),
        ("dora head", AdapterConfig { use_dora: true, ..lora(&["lm_head"]) }),
        (
            "modules_to_save",
            AdapterConfig {
                modules_to_save: whole(&["embed_tokens", "lm_head", "norm", "k_proj"]),
                ..lora(&["q_proj"])
            },
        ),
        (
            "patterns",
            AdapterConfig {
                rank_pattern: [("down_proj".to_owned(), 5)].into(),
                alpha_pattern: [(r"layers\.1\..*".to_owned(), 2.0)].into(),
                ..all()
            },
        ),
        (
            "some blocks",
            AdapterConfig {
                layers_to_transform: Some(OneOrManyLayers::One(1)),
                ..lora(&["q_proj", "up_proj"])
            },
        ),
    ]
}

#[test]
fn gradients_of_every_kind_of_adapter_are_those_of_autograd() {
    let base = tempfile::tempdir().unwrap();
    model::save(base.path(), &biased().0, biased().1.path()).unwrap();
    for (kind, config) in kinds() {
        eprintln!("{kind}");
        let mut model = Model::load(base.path()).unwrap();
        attach(&mut model, &config);
        let oracle = Oracle::of(&model, Some(&config));
        assert_gradients(&mut model, &oracle);
        assert!(model.trainables().all(|t| t.name.starts_with("base_model.model.")));
    }
}

#[test]
fn gradients_beside_a_tied_head_are_those_of_autograd() {
    let whole = |modules: &[&str]| AdapterConfig {
        modules_to_save: Some(modules.iter().map(|m| (*m).to_owned()).collect()),
        ..lora(&["q_proj"])
    };
    let configs = [
        lora(&["embed_tokens", "q_proj"]),
        lora(&["lm_head", "q_proj"]),
        whole(&["embed_tokens"]),
        whole(&["embed_tokens", "lm_head"]),
        lora(&["q_proj"]),
    ];
    for config in configs {
        let mut model = adapted("tiny-llama-tied", &config);
        let oracle = Oracle::of(&model, Some(&config));
        assert_gradients(&mut model, &oracle);
    }
}

#[test]
fn the_base_answers_when_adapters_are_off() {
    let ids = [5, 6, 7, 8];
    for (kind, config) in kinds() {
        let before = Model::load(&fixture("models/tiny-llama")).unwrap().logits(&ids).unwrap();
        let mut model = adapted("tiny-llama", &config);
        let with = model.logits(&ids).unwrap();
        model.set_adapters(false);
        let apart = max_abs(&model.logits(&ids).unwrap(), &before);
        // What an adapter took from the base is added again.
        let rounding = if config.init_lora_weights.changes_base() { 1e-5 } else { 0.0 };
        assert!(apart <= rounding, "{kind}: {apart:e}");
        model.set_adapters(true);
        assert_eq!(max_abs(&model.logits(&ids).unwrap(), &with), 0.0, "{kind}");
        assert!(max_abs(&with, &before) > 1e-3, "{kind}");
    }
}

#[test]
fn autograd_itself_agrees_with_finite_differences() {
    let config = lora(&[]);
    let model = adapted("tiny-llama", &config);
    let oracle = Oracle::of(&model, Some(&config));
    let batch = examples();
    let (_, gradients) = oracle.gradients(&batch);
    let scalar = |x: Tensor| x.to_scalar::<f64>().unwrap();
    // One direction for all tensors together covers every one of them.
    let (mut slope, mut size) = (0.0, 0.0);
    let mut moves = Vec::new();
    for (i, (name, var)) in oracle.values.iter().enumerate() {
        let direction = noise_like(i as u64 + 90, var, 1.0).to_dtype(DType::F64).unwrap();
        let part = scalar((&gradients[name] * &direction).unwrap().sum_all().unwrap());
        slope += part;
        size += part.abs();
        moves.push((var, var.as_tensor().copy().unwrap(), direction));
    }
    let at = |step: f64| {
        for (var, start, direction) in &moves {
            var.set(&(start + (direction * step).unwrap()).unwrap()).unwrap();
        }
        scalar(oracle.loss(&batch).unwrap())
    };
    let step = 1e-5;
    let difference = (at(step) - at(-step)) / (2.0 * step);
    assert!((difference - slope).abs() < 1e-6 * size, "{difference} by differences, {slope}");
}

#[test]
fn the_engine_agrees_with_finite_differences() {
    for name in ["tiny-llama-tied", "tiny-gemma2", "tiny-gemma3-scaled", "tiny-phi3-long"] {
        agrees_with_finite_differences(name);
    }
}

fn agrees_with_finite_differences(name: &str) {
    let mut model = Model::load(&fixture(&format!("models/{name}"))).unwrap();
    model.train_full();
    let batch = examples_of(model.spec().vocab_size);
    model.forward_backward(&batch, 1.0).unwrap();
    let starts: Vec<(Tensor, Tensor, f64)> = model
        .trainables_mut()
        .enumerate()
        .map(|(i, t)| {
            let direction = noise_like(i as u64 + 40, &t.value, 1.0);
            let grad = t.grad.as_ref().unwrap();
            let slope = (grad * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            (t.value.copy().unwrap(), direction, f64::from(slope))
        })
        .collect();
    let names: Vec<String> = model.trainables_mut().map(|t| t.name.clone()).collect();
    for (i, (start, direction, slope)) in starts.iter().enumerate() {
        let mut at = |step: f64| {
            let moved = (start + (direction * step).unwrap()).unwrap();
            model.trainables_mut().nth(i).unwrap().value = moved;
            model.loss(&batch).unwrap()
        };
        let step = 3e-3;
        let difference = (at(step) - at(-step)) / (2.0 * step);
        at(0.0);
        // f32 sums leave about 1e-4 in each loss.
        let tolerance = 0.02 * slope.abs() + 0.1;
        assert!(
            (difference - slope).abs() < tolerance,
            "{}: {difference} by differences, {slope} by gradient",
            names[i]
        );
    }
}

#[test]
fn checkpointing_changes_no_bit() {
    let dropping = AdapterConfig { lora_dropout: 0.3, ..lora(&[]) };
    let dora = AdapterConfig { use_dora: true, ..dropping.clone() };
    let kinds = kinds().into_iter().chain([("dropout", dropping), ("dora, dropout", dora)]);
    let kinds = kinds.map(|(kind, config)| (kind, "tiny-llama", config));
    let models = MODELS.into_iter().map(|name| (name, name, lora(&[])));
    for (kind, name, config) in kinds.chain(models) {
        let mut model = adapted(name, &config);
        model.noise = Some(Noise { seed: 1, step: 2, micro_batch: 3 });
        let batch = examples_of(model.spec().vocab_size);
        let gradients = |model: &mut Model| -> Vec<Vec<f32>> {
            model.clear_gradients();
            model.forward_backward(&batch, 1.0).unwrap();
            let flat = |g: &Tensor| g.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            model.trainables_mut().map(|t| flat(t.grad.as_ref().unwrap())).collect()
        };
        let kept = gradients(&mut model);
        for (everything, all_but_gates) in [(0, usize::MAX), (0, 0), (1, 1), (1, 0), (0, 1)] {
            model.memory_plan = MemoryPlan { everything, all_but_gates };
            assert!(kept == gradients(&mut model), "{kind} {:?}", model.memory_plan);
        }
    }
}

#[test]
fn gradients_add_up_over_micro_batches() {
    let mut full = Model::load(&fixture("models/tiny-llama-tied")).unwrap();
    full.train_full();
    let lora = adapted("tiny-llama", &lora(&[]));
    let batch = examples();
    for mut model in [full, lora] {
        model.forward_backward(&batch, 0.5).unwrap();
        model.forward_backward(&batch, 0.5).unwrap();
        let twice: Vec<Tensor> = model.trainables_mut().map(|t| t.grad.take().unwrap()).collect();
        model.forward_backward(&batch, 1.0).unwrap();
        for (t, twice) in model.trainables_mut().zip(&twice) {
            let error = relative(twice, t.grad.as_ref().unwrap());
            assert!(error < 1e-5, "{}: {error:e}", t.name);
        }
    }
}

#[test]
fn only_the_adapter_has_gradients() {
    let mut model = adapted("tiny-llama", &lora(&["q_proj"]));
    model.forward_backward(&examples(), 1.0).unwrap();
    let names: Vec<String> = model.trainables_mut().map(|t| t.name.clone()).collect();
    assert_eq!(names.len(), 2 * model.spec().num_hidden_layers);
    assert!(names.iter().all(|name| name.contains("q_proj.lora_")));
    model.clear_gradients();
    assert!(model.trainables_mut().all(|t| t.grad.is_none()));
}

#[test]
fn a_batch_without_labels_teaches_nothing() {
    let mut model = adapted("tiny-llama", &lora(&[]));
    let row = Row { input_ids: vec![1, 2, 3], labels: vec![IGNORED; 3] };
    assert_eq!(model.forward_backward(&batch(&[row]), 1.0).unwrap(), 0.0);
    assert!(model.trainables_mut().all(|t| t.grad.is_none()));
}
