//! The same model composed of candle's plainest operations, differentiated by candle's autograd, in f64: slow, and
//! sharing nothing with the engine but the weights.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fleetune_engine::data::{IGNORED, MicroBatch};
use fleetune_engine::model::Model;
use fleetune_shared::peft::AdapterShape;
use fleetune_shared::{Activation, AdapterConfig, LayerType, ModelSpec, NormPlacement};

pub(crate) struct Oracle {
    spec: ModelSpec,
    /// By the engine's names.
    pub(crate) values: BTreeMap<String, Var>,
    /// What lies beside which module.
    shapes: BTreeMap<String, AdapterShape>,
}

impl Oracle {
    /// Takes weights and what learns from `model`, and from `config` what its adapter's tensors stand for.
    pub(crate) fn of(model: &Model, config: Option<&AdapterConfig>) -> Self {
        let var = |(name, value): (&str, &Tensor)| {
            (name.to_owned(), Var::from_tensor(&value.to_dtype(DType::F64).unwrap()).unwrap())
        };
        let learns = model.trainables().map(|t| (t.name.as_str(), &t.value));
        let values = model.weights().chain(learns).map(var).collect();
        let layout = config.map(|config| config.layout(model.spec()).unwrap().modules);
        let shapes = layout.into_iter().flatten().map(|m| (m.name, m.shape)).collect();
        Self { spec: model.spec().clone(), values, shapes }
    }

    /// The copy an adapter trains, or else the base's own.
    fn value(&self, name: &str) -> Option<&Tensor> {
        let keys = [
            format!("base_model.model.{name}"),
            format!("base_model.model.{}", name.replace(".bias", ".base_layer.bias")),
            name.to_owned(),
        ];
        keys.iter().find_map(|key| self.values.get(key)).map(Var::as_tensor)
    }

    fn beside(&self, module: &str, tensor: &str) -> Option<&Tensor> {
        self.values.get(&format!("base_model.model.{module}.{tensor}")).map(Var::as_tensor)
    }

    /// Summed loss and its gradients by name.
    pub(crate) fn gradients(&self, batch: &MicroBatch) -> (f64, BTreeMap<String, Tensor>) {
        let loss = self.loss(batch).unwrap();
        let store = loss.backward().unwrap();
        let gradient = |(name, var): (&String, &Var)| {
            store.get(var.as_tensor()).map(|g| (name.clone(), g.clone()))
        };
        (loss.to_scalar().unwrap(), self.values.iter().filter_map(gradient).collect())
    }

    pub(crate) fn loss(&self, batch: &MicroBatch) -> Result<Tensor> {
        let mut sum = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        for pair in batch.cu_seqlens.windows(2) {
            let tokens = pair[0]..pair[1];
            let logits = self.logits(&batch.input_ids[tokens.clone()])?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
            let lse = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
            let log_p = shifted.broadcast_sub(&lse)?;
            for (t, target) in batch.targets[tokens].iter().enumerate() {
                if *target != IGNORED {
                    sum = (sum - log_p.get(t)?.get(*target as usize)?)?;
                }
            }
        }
        Ok(sum)
    }

    fn logits(&self, ids: &[u32]) -> Result<Tensor> {
        let spec = &self.spec;
        let module = "model.embed_tokens";
        let table = self.value("model.embed_tokens.weight").unwrap();
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let mut x = table.index_select(&ids, 0)?;
        if let (Some(a), Some(b), Some(AdapterShape::Lora { scaling, .. })) = (
            self.beside(module, "lora_embedding_A"),
            self.beside(module, "lora_embedding_B"),
            self.shapes.get(module),
        ) {
            x = (x + (a.t()?.contiguous()?.index_select(&ids, 0)?.matmul(&b.t()?)? * *scaling)?)?;
        }
        if spec.scaled_embedding {
            x = (x * (spec.hidden_size as f64).sqrt())?;
        }
        for block in 0..spec.num_hidden_layers {
            let at = |name: &str| format!("model.layers.{block}.{name}");
            let normed = self.norm(&x, &at("input_layernorm"))?;
            let heads = self.attention(&normed, block)?;
            let mut out = self.linear(&heads, &at("self_attn.o_proj"))?;
            let before_mlp = match spec.norm_placement {
                NormPlacement::Pre => "post_attention_layernorm",
                NormPlacement::Sandwich => {
                    out = self.norm(&out, &at("post_attention_layernorm"))?;
                    "pre_feedforward_layernorm"
                }
            };
            x = (x + out)?;
            let normed = self.norm(&x, &at(before_mlp))?;
            let [gate, up] = self.projections(
                &normed,
                [&at("mlp.gate_proj"), &at("mlp.up_proj")],
                &at("mlp.gate_up_proj"),
            )?;
            let gate = match spec.hidden_act {
                Activation::Silu => (&gate / (gate.neg()?.exp()? + 1.0)?)?,
                Activation::GeluTanh => {
                    let inner = (&gate + (gate.powf(3.0)? * 0.044715)?)?;
                    let tanh = (inner * (2.0 / std::f64::consts::PI).sqrt())?.tanh()?;
                    ((&gate * 0.5)? * (tanh + 1.0)?)?
                }
            };
            let mut out = self.linear(&(gate * up)?, &at("mlp.down_proj"))?;
            if spec.norm_placement == NormPlacement::Sandwich {
                out = self.norm(&out, &at("post_feedforward_layernorm"))?;
            }
            x = (x + out)?;
        }
        let x = self.norm(&x, "model.norm")?;
        let logits = match self.value("lm_head.weight") {
            Some(_) => self.linear(&x, "lm_head")?,
            None => x.matmul(&table.t()?)?,
        };
        capped(logits, spec.final_logit_softcapping)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = x.broadcast_div(&(mean + self.spec.rms_norm_eps)?.sqrt()?)?;
        let weight = self.value(&format!("{name}.weight")).unwrap();
        let offset = if self.spec.norm_unit_offset { 1.0 } else { 0.0 };
        normed.broadcast_mul(&(weight + offset)?)
    }

    /// Each from its own layer, or all cut from one.
    fn projections<const N: usize>(
        &self,
        x: &Tensor,
        names: [&str; N],
        fused: &str,
    ) -> Result<[Tensor; N]> {
        if !self.spec.fused_projections {
            return Ok(names.map(|name| self.linear(x, name).unwrap()));
        }
        let all = self.linear(x, fused)?;
        let mut from = 0;
        Ok(names.map(|name| {
            let width = match name.rsplit('.').next() {
                Some("q_proj") => self.spec.num_attention_heads * self.spec.head_dim,
                Some("k_proj" | "v_proj") => self.spec.num_key_value_heads * self.spec.head_dim,
                _ => self.spec.intermediate_size,
            };
            from += width;
            all.narrow(1, from - width, width).unwrap()
        }))
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let weight = self.value(&format!("{name}.weight")).unwrap();
        let scale = self.beside(name, "ia3_l");
        let feedforward =
            matches!(self.shapes.get(name), Some(AdapterShape::Scale { feedforward: true }));
        let mut y = match scale.filter(|_| feedforward) {
            Some(scale) => x.broadcast_mul(scale)?.matmul(&weight.t()?)?,
            None => x.matmul(&weight.t()?)?,
        };
        let (a, b) = (self.beside(name, "lora_A.weight"), self.beside(name, "lora_B.weight"));
        if let (Some(a), Some(b), Some(AdapterShape::Lora { scaling, .. })) =
            (a, b, self.shapes.get(name))
        {
            let mut made = x.matmul(&a.t()?)?.matmul(&b.t()?)?;
            if let Some(bias) = self.beside(name, "lora_B.bias") {
                made = made.broadcast_add(bias)?;
            }
            y = (y + (made * *scaling)?)?;
            if let Some(magnitude) = self.beside(name, "lora_magnitude_vector") {
                let moved = (weight + (b.matmul(a)? * *scaling)?)?;
                let lengths = moved.sqr()?.sum(D::Minus1)?.sqrt()?.detach();
                y = y.broadcast_mul(&(magnitude / lengths)?)?;
            }
        }
        if let Some(bias) = self.value(&format!("{name}.bias")) {
            y = y.broadcast_add(bias)?;
        }
        match scale.filter(|_| !feedforward) {
            Some(scale) => y.broadcast_mul(&scale.flatten_all()?),
            None => Ok(y),
        }
    }

    fn attention(&self, x: &Tensor, block: usize) -> Result<Tensor> {
        let at = |name: &str| format!("model.layers.{block}.self_attn.{name}");
        let names = [&at("q_proj"), &at("k_proj"), &at("v_proj")];
        let [q, k, v] = self.projections(x, names.map(String::as_str), &at("qkv_proj"))?;
        let (tokens, d) = (q.dim(0)?, self.spec.head_dim);
        let group = self.spec.num_attention_heads / self.spec.num_key_value_heads;
        let window = match self.spec.layer_types.get(block) {
            Some(LayerType::SlidingAttention) => self.spec.sliding_window.unwrap(),
            _ => usize::MAX,
        };
        let seen = |i: usize| {
            let (query, key) = (i / tokens, i % tokens);
            key <= query && query - key < window
        };
        let hidden = (0..tokens * tokens).map(|i| if seen(i) { 0.0 } else { -1e9 }).collect();
        let mask = Tensor::from_vec::<_, f64>(hidden, (tokens, tokens), &Device::Cpu)?;
        let theta = match self.spec.rope_local_base_freq {
            Some(theta) if window < usize::MAX => theta,
            _ => self.spec.rope_theta,
        };
        let turned = |x: Tensor, norm: &str| {
            let x = if self.spec.qk_norm { self.norm(&x, &at(norm))? } else { x };
            self.rotate(&x, theta)
        };
        let scale = self.spec.query_pre_attn_scalar.unwrap_or(d as f64).sqrt();
        let head = |h: usize| {
            let q = turned(q.narrow(1, h * d, d)?, "q_norm")?;
            let k = turned(k.narrow(1, h / group * d, d)?, "k_norm")?;
            let v = v.narrow(1, h / group * d, d)?;
            let scores = capped((q.matmul(&k.t()?)? / scale)?, self.spec.attn_logit_softcapping)?;
            let scores = (scores + &mask)?;
            let p = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
            p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?.matmul(&v)
        };
        let heads: Vec<Tensor> =
            (0..self.spec.num_attention_heads).map(head).collect::<Result<_>>()?;
        Tensor::cat(&heads, 1)
    }

    /// Plain rotary positions from 0; stretched ones are covered by the fixtures.
    fn rotate(&self, x: &Tensor, theta: f64) -> Result<Tensor> {
        let (tokens, d) = x.dims2()?;
        let half = d / 2;
        let angle = |i: usize| {
            let (t, j) = (i / half, i % half);
            t as f64 * theta.powf(-2.0 * j as f64 / d as f64)
        };
        let table = |f: fn(f64) -> f64| {
            let numbers: Vec<f64> = (0..tokens * half).map(|i| f(angle(i))).collect();
            Tensor::from_vec(numbers, (tokens, half), &Device::Cpu)
        };
        let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
        let (low, high) = (x.narrow(1, 0, half)?, x.narrow(1, half, half)?);
        let turned_low = ((&low * &cos)? - (&high * &sin)?)?;
        let turned_high = ((&high * &cos)? + (&low * &sin)?)?;
        Tensor::cat(&[turned_low, turned_high], 1)
    }
}

fn capped(x: Tensor, cap: Option<f64>) -> Result<Tensor> {
    match cap {
        None => Ok(x),
        Some(cap) => (x / cap)?.tanh()? * cap,
    }
}
