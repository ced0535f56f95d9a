//! Reading a GGUF file: names, rows and numbers brought to Hugging Face's form.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::TensorInfo;
use candle_core::{Device, Tensor};
use fleetune_shared::{
    GgufError, GgufHeader, GgufTensor, GgufType, GgufValue, ModelSpec, RopeScaling,
};

use super::files::wrong;
use super::gguf_names::hf_name;
use crate::ops::Frequencies;
use crate::quant::{GgufBlocks, PackedMatrix};
use crate::{EngineError, Result};

/// An open GGUF file.
#[derive(Debug)]
pub(super) struct GgufFile {
    path: PathBuf,
    header: GgufHeader,
    pub(super) spec: ModelSpec,
    /// Whether rows of q and k lie in pairs, see [`halves`]: llama.cpp reorders them for its `llama` alone.
    in_pairs: bool,
}

/// llama.cpp's long-context factors, which it stores as a tensor instead of the four numbers they come from.
const ROPE_FREQS: &str = "rope_freqs.weight";
/// Those of LongRoPE: for sequences within the first context, and beyond it.
const ROPE_FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

impl GgufFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let header = header(path)?;
        let spec = ModelSpec::from_gguf(&header).map_err(|e| wrong(path, &e.to_string()))?;
        let in_pairs = architecture(&header) == "llama";
        let mut file = Self { path: path.to_owned(), header, spec, in_pairs };
        if let Some(tensor) = file.find(ROPE_FREQS) {
            file.spec.rope_scaling = Some(file.scaling_of(&file.numbers(tensor)?)?);
        }
        if let [Some(short), Some(long)] = ROPE_FACTORS.map(|name| file.find(name)) {
            file.spec.rope_scaling = Some(file.long_rope(short, long)?);
        }
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn find(&self, gguf_name: &str) -> Option<&GgufTensor> {
        self.header.tensors.iter().find(|tensor| tensor.name == gguf_name)
    }

    /// Tensors under Hugging Face's names; those without one keep their own.
    pub(super) fn shapes(&self) -> impl Iterator<Item = (String, &[usize], &Path)> {
        let factors = |name: &str| name == ROPE_FREQS || ROPE_FACTORS.contains(&name);
        let tensors = self.header.tensors.iter().filter(move |tensor| !factors(&tensor.name));
        tensors.map(|t| {
            let name = hf_name(&t.name, &self.spec).unwrap_or_else(|| t.name.clone());
            (name, t.shape.as_slice(), self.path.as_path())
        })
    }

    fn named(&self, name: &str) -> Result<&GgufTensor> {
        let mine = |t: &&GgufTensor| hf_name(&t.name, &self.spec).as_deref() == Some(name);
        self.header
            .tensors
            .iter()
            .find(mine)
            .ok_or_else(|| wrong(&self.path, &format!("no tensor for `{}`", name.escape_debug())))
    }

    /// The tensor as f32 under Hugging Face's name `name`.
    pub(super) fn read(&self, name: &str) -> Result<Tensor> {
        let tensor = self.named(name)?;
        let value = self.dequantise(tensor)?;
        self.finite(tensor, &value)?;
        if self.spec.norm_unit_offset && name.ends_with("norm.weight") {
            // llama.cpp stores what its norms multiply by.
            return Ok((value - 1.0)?);
        }
        match self.heads_in_pairs(name) {
            Some(heads) => halves(&value, heads),
            None => Ok(value),
        }
    }

    /// The matrix under Hugging Face's name `name` in its own blocks; `None` where those are plain f32.
    pub(super) fn packed(&self, name: &str) -> Result<Option<PackedMatrix>> {
        let tensor = self.named(name)?;
        let (&[rows, width], kind) = (&tensor.shape[..], tensor.kind) else { return Ok(None) };
        if kind == GgufType::F32 {
            return Ok(None);
        }
        let io = |e| EngineError::io(&self.path, e);
        let mut file = File::open(&self.path).map_err(io)?;
        file.seek(SeekFrom::Start(self.header.data_offset + tensor.offset)).map_err(io)?;
        let mut bytes = vec![0; tensor.bytes as usize];
        file.read_exact(&mut bytes).map_err(io)?;
        if let Some(heads) = self.heads_in_pairs(name) {
            bytes = halves_of_rows(&bytes, rows, heads);
        }
        let blocks = GgufBlocks::of_bytes(ggml_type(kind), &bytes, rows, width)?;
        drop(bytes);
        let matrix = PackedMatrix::new(Arc::new(blocks), width);
        matrix.tiles(|_, tile| self.finite(tensor, tile))?;
        Ok(Some(matrix))
    }

    /// Of a projection whose rows llama.cpp reordered, its heads.
    fn heads_in_pairs(&self, name: &str) -> Option<usize> {
        match name.rsplit('.').nth(1).filter(|_| self.in_pairs) {
            Some("q_proj") => Some(self.spec.num_attention_heads),
            Some("k_proj") => Some(self.spec.num_key_value_heads),
            _ => None,
        }
    }

    fn finite(&self, tensor: &GgufTensor, value: &Tensor) -> Result<()> {
        if crate::ops::slices::view(value)?.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        let why = format!("tensor `{}` holds NaN or infinity", tensor.name.escape_debug());
        Err(wrong(&self.path, &why))
    }

    fn numbers(&self, tensor: &GgufTensor) -> Result<Vec<f32>> {
        Ok(self.dequantise(tensor)?.flatten_all()?.to_vec1()?)
    }

    /// The header has checked sizes and offsets, so that candle never meets a file it would panic on.
    fn dequantise(&self, tensor: &GgufTensor) -> Result<Tensor> {
        let io = |e| EngineError::io(&self.path, e);
        let mut reader = BufReader::new(File::open(&self.path).map_err(io)?);
        let info = TensorInfo {
            ggml_dtype: ggml_type(tensor.kind),
            shape: tensor.shape.as_slice().into(),
            offset: tensor.offset,
        };
        let quantised = info.read(&mut reader, self.header.data_offset, &Device::Cpu)?;
        Ok(quantised.dequantize(&Device::Cpu)?)
    }

    fn long_rope(&self, short: &GgufTensor, long: &GgufTensor) -> Result<RopeScaling> {
        let factors = |tensor| -> Result<Vec<f64>> {
            let numbers = self.numbers(tensor)?;
            if numbers.len() != self.spec.rotary_dim() / 2 || !numbers.iter().all(|n| *n > 0.0) {
                let half = self.spec.rotary_dim() / 2;
                let why = format!("tensor `{}` is not {half} positive numbers", tensor.name);
                return Err(wrong(&self.path, &why));
            }
            Ok(numbers.into_iter().map(f64::from).collect())
        };
        let key = |key: &str| {
            let key = format!("{}.rope.scaling.{key}", architecture(&self.header));
            self.header.metadata.get(&key).and_then(GgufValue::as_f64)
        };
        let original = key("original_context_length").filter(|n| *n >= 2.0).ok_or_else(|| {
            let why = "has LongRoPE factors but no key `rope.scaling.original_context_length`";
            wrong(&self.path, why)
        })?;
        let ratio = (self.spec.max_position_embeddings as f64 / original).max(1.0);
        let recommended = (1.0 + ratio.ln() / original.ln()).sqrt();
        Ok(RopeScaling::LongRope {
            short_factor: factors(short)?,
            long_factor: factors(long)?,
            original_max_position_embeddings: original as usize,
            attention_factor: key("attn_factor").filter(|n| *n > 0.0).unwrap_or(recommended),
        })
    }

    /// The scaling llama.cpp made `factors` from; it divides each frequency by its factor.
    fn scaling_of(&self, factors: &[f32]) -> Result<RopeScaling> {
        let largest = factors.iter().copied().fold(1.0, f32::max);
        let scaling = RopeScaling::Llama3 {
            factor: f64::from(largest),
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let plain = ModelSpec { rope_scaling: None, ..self.spec.clone() };
        let stretched = ModelSpec { rope_scaling: Some(scaling.clone()), ..plain.clone() };
        let expected = Frequencies::of(&plain).inverse;
        let found = Frequencies::of(&stretched).inverse;
        let agrees = expected.len() == factors.len()
            && expected.iter().zip(&found).zip(factors).all(|((plain, stretched), factor)| {
                (plain / stretched / factor - 1.0).abs() < 1e-3
            });
        agrees.then_some(scaling).ok_or_else(|| {
            let why = "holds rotary factors other than Llama 3's; use the safetensors folder";
            wrong(&self.path, &format!("tensor `{ROPE_FREQS}` {why}"))
        })
    }
}

fn architecture(header: &GgufHeader) -> &str {
    header.metadata.get("general.architecture").and_then(GgufValue::as_str).unwrap_or_default()
}

/// Reads as much of the file as the header takes.
pub(crate) fn header(path: &Path) -> Result<GgufHeader> {
    let io = |e| EngineError::io(path, e);
    let mut file = File::open(path).map_err(io)?;
    let file_bytes = file.seek(SeekFrom::End(0)).map_err(io)?;
    let mut want = 1 << 20;
    loop {
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(want).read_to_end(&mut bytes).map_err(io)?;
        match GgufHeader::parse(&bytes, file_bytes) {
            Err(GgufError::Truncated(_)) if want < file_bytes => want *= 4,
            parsed => return parsed.map_err(|e| wrong(path, &e.to_string())),
        }
    }
}

/// The rows of q and k as llama.cpp's `llama` wants them: from half a head apart to next to each other. Biases and B's
/// of adapters are reordered alike.
pub(crate) fn in_pairs(value: &Tensor, heads: usize) -> Result<Tensor> {
    let rows = value.dim(0)?;
    let rest: usize = value.dims()[1..].iter().product();
    let halves = value.reshape((heads, 2, rows / heads / 2, rest))?;
    Ok(halves.transpose(1, 2)?.contiguous()?.reshape(value.shape())?)
}

/// llama.cpp stores the rows of q and k with the pairs of a rotation next to each other; Hugging Face keeps them half
/// a head apart. Reference: `LlamaTensorProcessor` in transformers' `modeling_gguf_pytorch_utils`.
fn halves(value: &Tensor, heads: usize) -> Result<Tensor> {
    let rows = value.dim(0)?;
    let rest: usize = value.dims()[1..].iter().product();
    let pairs = value.reshape((heads, rows / heads / 2, 2, rest))?;
    Ok(pairs.transpose(1, 2)?.contiguous()?.reshape(value.shape())?)
}

/// As [`halves`], for rows of bytes.
fn halves_of_rows(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (row, half) = (bytes.len() / rows, rows / heads / 2);
    let order = (0..rows).map(|to| {
        let (head, side, place) = (to / (2 * half), to / half % 2, to % half);
        head * 2 * half + 2 * place + side
    });
    order.flat_map(|from| &bytes[from * row..][..row]).copied().collect()
}

fn ggml_type(kind: GgufType) -> GgmlDType {
    match kind {
        GgufType::F32 => GgmlDType::F32,
        GgufType::F16 => GgmlDType::F16,
        GgufType::Bf16 => GgmlDType::BF16,
        GgufType::Q4_0 => GgmlDType::Q4_0,
        GgufType::Q4_1 => GgmlDType::Q4_1,
        GgufType::Q5_0 => GgmlDType::Q5_0,
        GgufType::Q5_1 => GgmlDType::Q5_1,
        GgufType::Q8_0 => GgmlDType::Q8_0,
        GgufType::Q2K => GgmlDType::Q2K,
        GgufType::Q3K => GgmlDType::Q3K,
        GgufType::Q4K => GgmlDType::Q4K,
        GgufType::Q5K => GgmlDType::Q5K,
        GgufType::Q6K => GgmlDType::Q6K,
        GgufType::Q8K => GgmlDType::Q8K,
    }
}
