//! Models whose weights are held in few bits, against twins that hold the same numbers in f32.

use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use fleetune_engine::model::{Model, save};
use fleetune_engine::quant::{Absmax, Bf16, FourBit, FourBitKind, Int8, Packed, dynamic8};
use fleetune_shared::recipe::{self, FourBitType, Quantization};
use tempfile::TempDir;

use crate::gradients::{attach, examples, lora};
use crate::{fixture, gguf, max_abs, norm, relative};

const NF4_DOUBLE: Quantization = four_bit(FourBitType::Nf4, true, false);

const fn four_bit(kind: FourBitType, double: bool, bfloat16: bool) -> Quantization {
    Quantization::FourBit(recipe::FourBit { kind, double, bfloat16 })
}

fn numbers(held: &dyn Packed) -> Vec<f32> {
    let mut out = vec![0.0; held.count()];
    held.unpack(0, &mut out).unwrap();
    out
}

/// Tiny Llama in a folder of its own, each tensor as `change` gives it.
fn tiny(change: impl Fn(&str, Tensor, &mut HashMap<String, Tensor>)) -> TempDir {
    changed("tiny-llama", change)
}

fn changed(name: &str, change: impl Fn(&str, Tensor, &mut HashMap<String, Tensor>)) -> TempDir {
    let base = fixture(&format!("models/{name}"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(base.join("config.json"), folder.path().join("config.json")).unwrap();
    let tensors = candle_core::safetensors::load(base.join("model.safetensors"), &Device::Cpu);
    let mut changed = HashMap::new();
    for (name, value) in tensors.unwrap() {
        change(&name, value, &mut changed);
    }
    write(folder.path(), &changed);
    folder
}

fn write(folder: &Path, tensors: &HashMap<String, Tensor>) {
    candle_core::safetensors::save(tensors, folder.join("model.safetensors")).unwrap();
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// A model in f32 with what `how` loses already lost.
fn twin(name: &str, how: Quantization) -> TempDir {
    changed(name, |name, value, changed| {
        let lossy = |value: &Tensor| match how {
            Quantization::FourBit(four) => {
                let nf4 = four.kind == FourBitType::Nf4;
                let kind = if nf4 { FourBitKind::Nf4 } else { FourBitKind::Fp4 };
                numbers(&FourBit::encode(&values(value), kind, four.double))
            }
            Quantization::EightBit => numbers(&Int8::encode(&values(value), value.dims()[1])),
            _ => numbers(&Bf16::encode(&values(value))),
        };
        // What bitsandbytes leaves alone.
        let linear = name.contains("proj") && value.rank() == 2;
        let everything = how == Quantization::Bfloat16 && value.rank() == 2;
        let value = if linear || everything {
            Tensor::from_vec(lossy(&value), value.shape(), &Device::Cpu).unwrap()
        } else {
            value
        };
        changed.insert(name.to_owned(), value);
    })
}

/// With an adapter beside every linear layer, which has left its beginning.
fn adapted(mut model: Model) -> Model {
    attach(&mut model, &lora(&[]));
    model
}

fn assert_as_its_twin(name: &str, how: Quantization) {
    let twin = twin(name, how);
    let base = fixture(&format!("models/{name}"));
    let mut packed = adapted(Model::load_as(&base, how).unwrap());
    let mut plain = adapted(Model::load(twin.path()).unwrap());
    assert!(packed.weights().count() < plain.weights().count(), "{name}: nothing is packed");
    let batch = examples();
    let expected = plain.forward_backward(&batch, 0.25).unwrap();
    let found = packed.forward_backward(&batch, 0.25).unwrap();
    // With weights in bf16 activations and factors of products are bf16 too.
    let bf16 = how == Quantization::Bfloat16;
    let (loss_limit, grad_limit) = if bf16 { (1e-4, 2e-2) } else { (1e-6, 1e-6) };
    let error = (found / expected - 1.0).abs();
    assert!(error < loss_limit, "{name} {how:?}: {found}, not {expected}");
    for (packed, plain) in packed.trainables_mut().zip(plain.trainables_mut()) {
        let (found, expected) = (packed.grad.as_ref().unwrap(), plain.grad.as_ref().unwrap());
        assert!(norm(expected) > 0.0);
        let error = relative(found, expected);
        assert!(
            error < grad_limit,
            "{name} {how:?}: gradient of {} is off by {error:e}",
            packed.name
        );
    }
}

#[test]
fn losses_and_gradients_are_those_of_a_base_that_holds_the_same_numbers_in_f32() {
    for how in [
        four_bit(FourBitType::Nf4, false, false),
        NF4_DOUBLE,
        four_bit(FourBitType::Fp4, true, false),
        Quantization::EightBit,
        Quantization::Bfloat16,
    ] {
        assert_as_its_twin("tiny-llama", how);
    }
}

#[test]
fn what_is_held_in_few_bits_neither_learns_nor_is_saved() {
    let base = fixture("models/tiny-llama");
    let mut model = Model::load_as(&base, NF4_DOUBLE).unwrap();
    assert_eq!(model.packed().count(), 7 * model.spec().num_hidden_layers);
    model.train_full();
    assert!(model.trainables_mut().all(|learned| !learned.name.contains("proj")));
    let folder = tempfile::tempdir().unwrap();
    let refused = save(folder.path(), &model, &base).unwrap_err().to_string();
    assert!(refused.contains("q_proj.weight` is held in few bits"), "{refused}");
    assert!(!folder.path().join("model.safetensors").exists());
}

#[test]
fn every_architecture_stands_on_four_bits() {
    for name in
        ["tiny-llama-tied", "tiny-mistral", "tiny-qwen2", "tiny-qwen3", "tiny-gemma3", "tiny-phi3"]
    {
        assert_as_its_twin(name, NF4_DOUBLE);
    }
}

#[test]
fn four_bits_lose_something_and_not_much() {
    let plain = Model::load(&fixture("models/tiny-llama")).unwrap().logits(&[1, 2, 3]).unwrap();
    let packed = Model::load_as(&fixture("models/tiny-llama"), NF4_DOUBLE).unwrap();
    let error = relative(&packed.logits(&[1, 2, 3]).unwrap(), &plain);
    assert!((1e-3..0.3).contains(&error), "{error}");
}

#[test]
fn gradients_through_four_bits_agree_with_finite_differences() {
    let mut model = adapted(Model::load_as(&fixture("models/tiny-llama"), NF4_DOUBLE).unwrap());
    let batch = examples();
    model.forward_backward(&batch, 1.0).unwrap();
    let slopes: Vec<_> =
        model.trainables_mut().map(|t| (t.value.clone(), t.grad.clone().unwrap())).collect();
    let count = slopes.len();
    for index in [0, 1, count / 2, count / 2 + 1, count - 2, count - 1] {
        let (value, grad) = &slopes[index];
        // Along the gradient itself, which is the direction that rounding hides least.
        let step = 2e-3 / norm(grad);
        let mut moved = |by: f64| {
            let learned = model.trainables_mut().nth(index).unwrap();
            learned.value = (value + (grad * by).unwrap()).unwrap();
            model.loss(&batch).unwrap()
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        moved(0.0);
        let expected = norm(grad).powi(2);
        assert!((slope / expected - 1.0).abs() < 2e-2, "{index}: {slope}, expected {expected}");
    }
}

#[test]
fn a_gguf_model_kept_in_its_blocks_is_the_one_brought_to_f32() {
    for dtype in gguf::PACKED_TYPES {
        let gguf = gguf::gguf(dtype, &[], "llama");
        let ids: Vec<u32> = (0..20).collect();
        let kept = Model::load_as(&gguf.path(), Quantization::AsStored).unwrap();
        assert!(kept.weights().all(|(_, value)| value.rank() == 1), "a matrix is plain");
        let expected = Model::load(&gguf.path()).unwrap().logits(&ids).unwrap();
        let error = max_abs(&kept.logits(&ids).unwrap(), &expected);
        assert!(error < 1e-5, "{dtype:?}: off by {error:e}");
    }
    for name in ["gemma2", "gemma3-scaled", "phi3-long", "qwen2-windowed", "qwen3-biased"] {
        let path = fixture(&format!("models/tiny-{name}.gguf"));
        let expected = Model::load(&path).unwrap().logits(&[1, 2, 3]).unwrap();
        let kept = Model::load_as(&path, Quantization::AsStored).unwrap();
        let error = max_abs(&kept.logits(&[1, 2, 3]).unwrap(), &expected);
        assert!(error < 1e-5, "{name}: off by {error:e}");
    }
    let plain = gguf::gguf(GgmlDType::F32, &[], "llama");
    let kept = Model::load_as(&plain.path(), Quantization::AsStored).unwrap();
    assert!(kept.weights().any(|(_, value)| value.rank() == 2));
}

/// The bytes of a tensor that is not numbers.
fn bytes(bytes: &[u8], shape: &[usize]) -> Tensor {
    Tensor::from_slice(bytes, shape, &Device::Cpu).unwrap()
}

/// Tiny Llama as transformers saves it once bitsandbytes has quantised it to NF4.
fn checkpoint_of_four_bits(
    double: bool,
    spoil: impl Fn(&str, &mut HashMap<String, Tensor>),
) -> TempDir {
    tiny(|name, value, changed| {
        if !name.contains("proj") {
            changed.insert(name.to_owned(), value);
            return;
        }
        let held = FourBit::encode(&values(&value), FourBitKind::Nf4, double);
        let mut put = |key: &str, tensor| {
            changed.insert(format!("{name}{key}"), tensor);
        };
        put("", bytes(held.codes(), &[held.codes().len(), 1]));
        put(".quant_map", floats(FourBitKind::Nf4.codebook().values()));
        let mut state = serde_json::json!({
            "quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": value.dims(),
        });
        match held.absmax() {
            Absmax::Plain(absmax) => put(".absmax", floats(absmax)),
            Absmax::Double { rest, offset } => {
                put(".absmax", bytes(rest.codes(), &[rest.codes().len()]));
                put(".nested_absmax", floats(rest.absmax()));
                put(".nested_quant_map", floats(dynamic8().values()));
                state["nested_blocksize"] = 256.into();
                state["nested_dtype"] = "float32".into();
                state["nested_offset"] = f64::from(*offset).into();
            }
        }
        let state = state.to_string();
        put(".quant_state.bitsandbytes__nf4", bytes(state.as_bytes(), &[state.len()]));
        spoil(name, changed);
    })
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

#[test]
fn a_checkpoint_that_bitsandbytes_quantised_is_read_as_it_is() {
    let ids = [5, 6, 7, 8];
    for double in [false, true] {
        let how = four_bit(FourBitType::Nf4, double, false);
        let expected = Model::load_as(&fixture("models/tiny-llama"), how).unwrap();
        let expected = expected.logits(&ids).unwrap();
        let folder = checkpoint_of_four_bits(double, |_, _| ());
        // Asked for or not, what is quantised stays so.
        for how in [Quantization::AsStored, how, Quantization::EightBit] {
            let model = Model::load_as(folder.path(), how).unwrap();
            assert_eq!(max_abs(&model.logits(&ids).unwrap(), &expected), 0.0, "{how:?}");
            assert!(model.weights().all(|(name, _)| !name.contains("proj")));
        }
        let plain = Model::load(folder.path()).unwrap();
        assert!(plain.weights().any(|(name, _)| name.contains("proj")));
        assert!(max_abs(&plain.logits(&ids).unwrap(), &expected) < 1e-5);
    }
}

#[test]
fn a_checkpoint_of_eight_bits_is_read_as_it_is() {
    let base = fixture("models/tiny-llama");
    let expected = Model::load_as(&base, Quantization::EightBit).unwrap().logits(&[5, 6]).unwrap();
    let checkpoint = |format: u8| {
        let folder = tiny(|name, value, changed| {
            let Some(module) = name.strip_suffix("proj.weight") else {
                changed.insert(name.to_owned(), value);
                return;
            };
            let absmax = value.abs().unwrap().max(1).unwrap();
            changed.insert(format!("{module}proj.SCB"), absmax.clone());
            changed.insert(format!("{module}proj.weight_format"), bytes(&[format], &[]));
            let scale = absmax.unsqueeze(1).unwrap().recip().unwrap();
            let codes = value.broadcast_mul(&(scale * 127.0).unwrap()).unwrap();
            changed.insert(name.to_owned(), codes);
        });
        as_int8(folder.path());
        folder
    };
    let folder = checkpoint(0);
    let model = Model::load_as(folder.path(), Quantization::AsStored).unwrap();
    assert!(max_abs(&model.logits(&[5, 6]).unwrap(), &expected) < 1e-4);
    let refused = Model::load_as(checkpoint(2).path(), Quantization::AsStored).unwrap_err();
    assert!(refused.to_string().contains("expected `weight_format` 0"), "{refused}");
}

/// candle knows no signed bytes, so the linear layers' f32 codes are rounded and written over by hand.
fn as_int8(folder: &Path) {
    use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
    let path = folder.join("model.safetensors");
    let file = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let codes: HashMap<String, Vec<u8>> = tensors
        .iter()
        .filter(|(name, _)| name.ends_with("proj.weight"))
        .map(|(name, view)| {
            let code =
                |b: &[u8; 4]| (f32::from_le_bytes(*b).round_ties_even() as i8).cast_unsigned();
            (name.to_owned(), view.data().as_chunks().0.iter().map(code).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, view)| match codes.get(name) {
        Some(codes) => (name, TensorView::new(Dtype::I8, view.shape().to_vec(), codes).unwrap()),
        None => (name, view),
    });
    let written = serialize(views.collect::<Vec<_>>(), None).unwrap();
    std::fs::write(path, written).unwrap();
}

#[test]
fn a_damaged_checkpoint_is_named() {
    const K: &str = "model.layers.1.self_attn.k_proj.weight";
    let refusal = |key: &str, value: Option<Tensor>| {
        let folder = checkpoint_of_four_bits(true, |name, tensors| {
            if name == K {
                tensors.remove(&format!("{K}{key}"));
                if let Some(value) = &value {
                    tensors.insert(format!("{K}{key}"), value.clone());
                }
            }
        });
        Model::load_as(folder.path(), Quantization::AsStored).unwrap_err().to_string()
    };
    let text = |text: &str| Some(bytes(text.as_bytes(), &[text.len()]));
    let state = ".quant_state.bitsandbytes__nf4";
    for (key, value, expected) in [
        (".absmax", None, "no tensor `model.layers.1.self_attn.k_proj.weight.absmax`"),
        (".absmax", Some(bytes(&[0; 3], &[3])), "3 block constants for"),
        (".nested_absmax", Some(floats(&[f32::NAN])), "NaN"),
        (".quant_map", Some(floats(&[0.0; 16])), "other numbers than bitsandbytes' own"),
        ("", Some(bytes(&[0; 8], &[8, 1])), "numbers of 4 bits in 8 bytes"),
        (state, text("{"), "is no quantization state"),
        (
            state,
            text(r#"{"quant_type":"int3","blocksize":64,"dtype":"float32","shape":[2,2]}"#),
            "speaks of `int3`",
        ),
        (
            state,
            text(
                r#"{"quant_type":"nf4","blocksize":0,"nested_blocksize":256,"nested_offset":0,"dtype":"float32","shape":[32,64]}"#,
            ),
            "blocks of 0",
        ),
        (
            state,
            text(r#"{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[3,64]}"#),
            "the configuration says",
        ),
        (state, None, "tensor `model.layers.1.self_attn.k_proj.weight`"),
    ] {
        let found = refusal(key, value);
        assert!(found.contains(expected), "{key}: {found}");
        assert!(found.contains("k_proj"), "{found}");
    }
}
