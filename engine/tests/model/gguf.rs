//! GGUF files of every block type, written here: numbers, names, and the order of rows of q and k.

use std::fs::File;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use fleetune_engine::model::{Model, WeightFiles, files_of, spec_of};
use fleetune_shared::{LayerType, ModelSpec, RopeScaling};
use tempfile::TempDir;

use crate::{fixture, max_abs};

const H: usize = 256;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

pub(crate) struct Gguf {
    folder: TempDir,
    /// Under Hugging Face's names, as they come back from the block type.
    expected: Vec<(String, Tensor)>,
}

impl Gguf {
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("model.gguf")
    }
}

/// llama.cpp's order of rows: pairs of a rotation next to each other.
fn permuted(w: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = w.dims2().unwrap();
    let cut = w.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
    cut.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}

/// One block with random weights of `dtype`, and whatever else is asked for.
pub(crate) fn gguf(dtype: GgmlDType, more: &[(&str, Tensor)], architecture: &str) -> Gguf {
    let kv = H / HEADS * KV_HEADS;
    let mut tensors = Vec::new();
    let mut expected = Vec::new();
    let names: [(&str, &str, &[usize]); 11] = [
        ("token_embd", "model.embed_tokens", &[32, H]),
        ("blk.0.attn_norm", "model.layers.0.input_layernorm", &[H]),
        ("blk.0.ffn_norm", "model.layers.0.post_attention_layernorm", &[H]),
        ("blk.0.attn_q", "model.layers.0.self_attn.q_proj", &[H, H]),
        ("blk.0.attn_k", "model.layers.0.self_attn.k_proj", &[kv, H]),
        ("blk.0.attn_v", "model.layers.0.self_attn.v_proj", &[kv, H]),
        ("blk.0.attn_output", "model.layers.0.self_attn.o_proj", &[H, H]),
        ("blk.0.ffn_gate", "model.layers.0.mlp.gate_proj", &[2 * H, H]),
        ("blk.0.ffn_up", "model.layers.0.mlp.up_proj", &[2 * H, H]),
        ("blk.0.ffn_down", "model.layers.0.mlp.down_proj", &[H, 2 * H]),
        ("output_norm", "model.norm", &[H]),
    ];
    for (name, hf, shape) in names {
        let value = Tensor::randn(0.0_f32, 0.1, shape, &Device::Cpu).unwrap();
        let heads = match name {
            "blk.0.attn_q" => Some(HEADS),
            "blk.0.attn_k" => Some(KV_HEADS),
            _ => None,
        };
        let dtype = if shape.len() == 1 { GgmlDType::F32 } else { dtype };
        // Rows are quantised one by one, so that their order does not change their numbers.
        let stored = QTensor::quantize(&value, dtype).unwrap().dequantize(&Device::Cpu).unwrap();
        let order = heads.map_or(value.clone(), |heads| permuted(&value, heads));
        tensors.push((format!("{name}.weight"), QTensor::quantize(&order, dtype).unwrap()));
        expected.push((format!("{hf}.weight"), stored));
    }
    for (name, value) in more {
        tensors.push(((*name).to_owned(), QTensor::quantize(value, GgmlDType::F32).unwrap()));
    }
    let count = |n: usize| Value::U32(n as u32);
    let metadata = [
        ("general.architecture", Value::String(architecture.into())),
        ("llama.embedding_length", count(H)),
        ("llama.feed_forward_length", count(2 * H)),
        ("llama.block_count", count(1)),
        ("llama.attention.head_count", count(HEADS)),
        ("llama.attention.head_count_kv", count(KV_HEADS)),
        ("llama.context_length", count(512)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(500_000.0)),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut file = File::create(folder.path().join("model.gguf")).unwrap();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, value)| (name.as_str(), value)).collect();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    Gguf { folder, expected }
}

/// Every form of a matrix that is smaller than f32.
pub(crate) const PACKED_TYPES: [GgmlDType; 12] = [
    GgmlDType::F16,
    GgmlDType::BF16,
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
];

#[test]
fn every_block_type_comes_back_under_its_own_name() {
    for dtype in [GgmlDType::F32].into_iter().chain(PACKED_TYPES) {
        let gguf = gguf(dtype, &[], "llama");
        let files = WeightFiles::open(&gguf.path()).unwrap();
        for (name, value) in &gguf.expected {
            let error = max_abs(&files.read(name).unwrap(), value);
            assert!(error < 1e-6, "{dtype:?} {name}: off by {error:e}");
        }
        let model = Model::load(&gguf.path()).unwrap();
        assert_eq!(model.logits(&[1, 2, 3]).unwrap().dims(), [3, 32]);
        assert!(model.spec().tie_word_embeddings);
        assert_eq!(files_of(&gguf.path()).unwrap(), [gguf.path()]);
    }
}

/// What a file leaves out of a model's shape.
type Change = fn(&mut ModelSpec);

/// Files as llama.cpp's converter lays them out, beside the folders they were made from. What a GGUF file has no key
/// for is what llama.cpp takes instead.
#[test]
fn every_architecture_reads_the_same_from_a_gguf_file() {
    let unsaid: [(&str, Change); 5] = [
        ("tiny-qwen2-windowed", |spec| {
            (spec.sliding_window, spec.layer_types) = (None, Vec::new());
        }),
        ("tiny-qwen3-biased", |_| ()),
        ("tiny-gemma2", |spec| spec.query_pre_attn_scalar = Some(spec.head_dim as f64)),
        ("tiny-gemma3-scaled", |spec| {
            spec.query_pre_attn_scalar = Some(spec.head_dim as f64);
            spec.layer_types = vec![LayerType::SlidingAttention; 3];
        }),
        ("tiny-phi3-long", |_| ()),
    ];
    for (name, change) in unsaid {
        let folder = WeightFiles::open(&fixture(&format!("models/{name}"))).unwrap();
        let gguf = WeightFiles::open(&fixture(&format!("models/{name}.gguf"))).unwrap();
        let mut spec = folder.spec().clone();
        change(&mut spec);
        assert_eq!(in_f32(gguf.spec().clone()), in_f32(spec), "{name}");
        assert_eq!(gguf.tensors(), folder.tensors(), "{name}");
        for (tensor, _) in folder.tensors() {
            let error = max_abs(&gguf.read(&tensor).unwrap(), &folder.read(&tensor).unwrap());
            assert!(error < 1e-6, "{name}: {tensor} is off by {error:e}");
        }
    }
}

/// LongRoPE's numbers as GGUF keeps them.
fn in_f32(mut spec: ModelSpec) -> ModelSpec {
    if let Some(RopeScaling::LongRope { short_factor, long_factor, attention_factor, .. }) =
        &mut spec.rope_scaling
    {
        for number in short_factor.iter_mut().chain(long_factor).chain([attention_factor]) {
            *number = f64::from(*number as f32);
        }
    }
    spec
}

/// The factors llama.cpp writes for Llama 3.1 and later.
fn rope_factors(factor: f64) -> Tensor {
    let half = H / HEADS / 2;
    let factors: Vec<f32> = (0..half)
        .map(|i| {
            let wavelength = std::f64::consts::TAU * 500_000_f64.powf(i as f64 / half as f64);
            let smooth = (8192.0 / wavelength - 1.0) / 3.0;
            (1.0 / ((1.0 - smooth.clamp(0.0, 1.0)) / factor + smooth.clamp(0.0, 1.0))) as f32
        })
        .collect();
    Tensor::new(factors, &Device::Cpu).unwrap()
}

#[test]
fn rotary_factors_are_recognised_as_llama_3s() {
    let gguf = gguf(GgmlDType::F32, &[("rope_freqs.weight", rope_factors(32.0))], "llama");
    let scaling = spec_of(&gguf.path()).unwrap().rope_scaling;
    let expected = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!(scaling, Some(expected));
}

#[test]
fn what_cannot_be_served_is_named() {
    let refusal = |gguf: &Gguf| Model::load(&gguf.path()).unwrap_err().to_string();
    let other = Tensor::full(3.0_f32, H / HEADS / 2, &Device::Cpu).unwrap();
    let strange = refusal(&gguf(GgmlDType::F32, &[("rope_freqs.weight", other)], "llama"));
    assert!(strange.contains("rotary factors other than Llama 3's"), "{strange}");
    let extra = Tensor::zeros(8, candle_core::DType::F32, &Device::Cpu).unwrap();
    let extra = refusal(&gguf(GgmlDType::F32, &[("blk.0.attn_q_norm.weight", extra)], "llama"));
    assert!(extra.contains("self_attn.q_norm.weight` [8] has no place"), "{extra}");
    let nan = Tensor::full(f32::NAN, (32, H), &Device::Cpu).unwrap();
    let nan = refusal(&gguf(GgmlDType::F32, &[("output.weight", nan)], "llama"));
    assert!(nan.contains("`output.weight` holds NaN"), "{nan}");
    let other = refusal(&gguf(GgmlDType::F32, &[], "mamba"));
    assert!(other.contains("`mamba` is not supported"), "{other}");

    let whole = gguf(GgmlDType::Q4_0, &[], "llama");
    let bytes = std::fs::read(whole.path()).unwrap();
    std::fs::write(whole.path(), &bytes[..bytes.len() - 200]).unwrap();
    let cut = refusal(&whole);
    assert!(cut.contains("outside the file"), "{cut}");
    std::fs::write(whole.path(), &bytes[..100]).unwrap();
    let cut = refusal(&whole);
    assert!(cut.contains("truncated"), "{cut}");
}
