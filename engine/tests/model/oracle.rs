//! The same model composed of candle's plainest operations, differentiated by candle's autograd, in f64: slow, and
//! sharing nothing with the engine but the weights.

use std::collections::BTreeMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use fleetune_engine::data::{IGNORED, MicroBatch};
use fleetune_engine::model::Model;
use fleetune_shared::ModelSpec;

pub(crate) struct Oracle {
    spec: ModelSpec,
    /// By the engine's names.
    pub(crate) values: BTreeMap<String, Var>,
    scaling: f64,
}

impl Oracle {
    /// Takes weights from `model` and an adapter's pairs, if it carries them, from `pairs`.
    pub(crate) fn of(model: &Model, pairs: &[(String, Tensor)], scaling: f64) -> Self {
        let var = |(name, value): (&str, &Tensor)| {
            (name.to_owned(), Var::from_tensor(&value.to_dtype(DType::F64).unwrap()).unwrap())
        };
        let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value));
        let values = model.weights().chain(pairs).map(var).collect();
        Self { spec: model.spec().clone(), values, scaling }
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
        let embed = self.values["model.embed_tokens.weight"].as_tensor();
        let mut x = embed.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        for block in 0..self.spec.num_hidden_layers {
            let at = |name: &str| format!("model.layers.{block}.{name}");
            let normed = self.norm(&x, &at("input_layernorm"))?;
            let q = self.linear(&normed, &at("self_attn.q_proj"))?;
            let k = self.linear(&normed, &at("self_attn.k_proj"))?;
            let v = self.linear(&normed, &at("self_attn.v_proj"))?;
            let heads = self.attention(&q, &k, &v)?;
            x = (x + self.linear(&heads, &at("self_attn.o_proj"))?)?;
            let normed = self.norm(&x, &at("post_attention_layernorm"))?;
            let gate = self.linear(&normed, &at("mlp.gate_proj"))?;
            let up = self.linear(&normed, &at("mlp.up_proj"))?;
            let silu = (&gate / (gate.neg()?.exp()? + 1.0)?)?;
            x = (x + self.linear(&(silu * up)?, &at("mlp.down_proj"))?)?;
        }
        let x = self.norm(&x, "model.norm")?;
        x.matmul(&self.values.get("lm_head.weight").map_or(embed, Var::as_tensor).t()?)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = x.broadcast_div(&(mean + self.spec.rms_norm_eps)?.sqrt()?)?;
        normed.broadcast_mul(self.values[&format!("{name}.weight")].as_tensor())
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let mut y = x.matmul(&self.values[&format!("{name}.weight")].t()?)?;
        if let Some(bias) = self.values.get(&format!("{name}.bias")) {
            y = y.broadcast_add(bias)?;
        }
        let pair =
            |which: &str| self.values.get(&format!("base_model.model.{name}.{which}.weight"));
        if let (Some(a), Some(b)) = (pair("lora_A"), pair("lora_B")) {
            y = (y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * self.scaling)?)?;
        }
        Ok(y)
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (tokens, d) = (q.dim(0)?, self.spec.head_dim);
        let group = self.spec.num_attention_heads / self.spec.num_key_value_heads;
        let hidden: Vec<f64> = (0..tokens * tokens)
            .map(|i| if i % tokens > i / tokens { -1e9 } else { 0.0 })
            .collect();
        let mask = Tensor::from_vec(hidden, (tokens, tokens), &Device::Cpu)?;
        let head = |h: usize| {
            let q = self.rotate(&q.narrow(1, h * d, d)?)?;
            let k = self.rotate(&k.narrow(1, h / group * d, d)?)?;
            let v = v.narrow(1, h / group * d, d)?;
            let scores = ((q.matmul(&k.t()?)? / (d as f64).sqrt())? + &mask)?;
            let p = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
            p.broadcast_div(&p.sum_keepdim(D::Minus1)?)?.matmul(&v)
        };
        let heads: Vec<Tensor> =
            (0..self.spec.num_attention_heads).map(head).collect::<Result<_>>()?;
        Tensor::cat(&heads, 1)
    }

    /// Plain rotary positions from 0; stretched ones are covered by the fixtures.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (tokens, d) = x.dims2()?;
        let half = d / 2;
        let angle = |i: usize| {
            let (t, j) = (i / half, i % half);
            t as f64 * self.spec.rope_theta.powf(-2.0 * j as f64 / d as f64)
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
