//! From files to a model.

use std::path::Path;
use std::sync::Arc;

use fleetune_shared::recipe::Quantization;
use fleetune_shared::{MemoryPlan, ModelSpec, NormPlacement};

use super::attention::Attention;
use super::block::Block;
use super::decoder::Model;
use super::embedding::Embedding;
use super::hold;
use super::linear::Linear;
use super::mlp::Mlp;
use super::norm::{Norm, OutNorm};
use super::projections::Projections;
use super::source::{self, WeightFiles};
use super::trainable::Parameter;
use crate::Result;
use crate::ops::{Backend, Frequencies};
use crate::quant::Weight;

pub(super) fn load(path: &Path, ops: Arc<dyn Backend>, how: Quantization) -> Result<Model> {
    let files = WeightFiles::open(path)?;
    assemble(files.spec().clone(), ops, &|name| hold::weight(&files, name, how))
}

/// A frozen model of the weights that `weight` gives by name.
pub(super) fn assemble(
    spec: ModelSpec,
    ops: Arc<dyn Backend>,
    weight: &dyn Fn(&str) -> Result<Weight>,
) -> Result<Model> {
    let read = |name: String| -> Result<Parameter> {
        crate::memory::check()?;
        let weight = weight(&name)?;
        Ok(Parameter::Frozen(name, weight))
    };
    let linear = |block: usize, name: &str| -> Result<Linear> {
        let module = ModelSpec::module(block, name);
        let bias = spec.has_bias(name).then(|| read(format!("{module}.bias"))).transpose()?;
        Ok(Linear::new(read(format!("{module}.weight"))?, bias))
    };
    let linears = |block: usize, names: &[&str]| -> Result<Vec<Linear>> {
        names.iter().map(|name| linear(block, name)).collect()
    };
    let norm = |block: usize, name: &str| -> Result<Norm> {
        Ok(Norm::new(read(format!("{}.weight", source::norm(block, name)))?, &spec))
    };
    let block = |index: usize| -> Result<Block> {
        let (q, kv, f) = (spec.query_width(), spec.key_value_width(), spec.intermediate_size);
        let (qkv, gate_up): (&[&str], &[&str]) = if spec.fused_projections {
            (&["qkv_proj"], &["gate_up_proj"])
        } else {
            (&["q_proj", "k_proj", "v_proj"], &["gate_proj", "up_proj"])
        };
        let (before_mlp, after_attention, after_mlp) = match spec.norm_placement {
            NormPlacement::Pre => ("post_attention_layernorm", None, None),
            NormPlacement::Sandwich => (
                "pre_feedforward_layernorm",
                Some("post_attention_layernorm"),
                Some("post_feedforward_layernorm"),
            ),
        };
        let out_norm = |name: Option<&str>| -> Result<OutNorm> {
            Ok(OutNorm(name.map(|name| norm(index, name)).transpose()?))
        };
        let head_norms = || -> Result<[Norm; 2]> {
            Ok([norm(index, "self_attn.q_norm")?, norm(index, "self_attn.k_norm")?])
        };
        let attention = Attention {
            norm: norm(index, "input_layernorm")?,
            qkv: Projections::new(linears(index, qkv)?, [q, kv, kv]),
            head_norms: spec.qk_norm.then(head_norms).transpose()?,
            o: linear(index, "o_proj")?,
            out_norm: out_norm(after_attention)?,
            window: spec.window(index),
            local_rope: spec.has_local_rope(index),
        };
        let mlp = Mlp {
            norm: norm(index, before_mlp)?,
            gate_up: Projections::new(linears(index, gate_up)?, [f, f]),
            down: linear(index, "down_proj")?,
            out_norm: out_norm(after_mlp)?,
        };
        Ok(Block { attention, mlp })
    };
    let head = || -> Result<Linear> { Ok(Linear::new(read("lm_head.weight".into())?, None)) };
    Ok(Model {
        score: None,
        embed: Embedding::new(read("model.embed_tokens.weight".into())?),
        blocks: (0..spec.num_hidden_layers).map(block).collect::<Result<_>>()?,
        norm: Norm::new(read("model.norm.weight".into())?, &spec),
        head: (!spec.tie_word_embeddings).then(head).transpose()?,
        frequencies: Frequencies::of(&spec),
        local_frequencies: Frequencies::local(&spec),
        adapters: true,
        noise: None,
        disable_dropout: false,
        memory_plan: MemoryPlan::default(),
        neftune_noise_alpha: None,
        identity: None,
        ops,
        spec,
    })
}
