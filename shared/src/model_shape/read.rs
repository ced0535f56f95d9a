//! From any `config.json`, whatever its family calls its sizes.

use serde_json::{Map, Value};

use super::ModelShape;
use super::family::{LLAMA, family_of};
use crate::ModelSpecError;
use crate::model_spec::{CONFIG, object};

/// The keys that a size goes by, the usual one first.
const HIDDEN: &[&str] = &["hidden_size", "n_embd", "d_model"];
const LAYERS: &[&str] = &["num_hidden_layers", "n_layer", "num_layers", "n_layers"];
const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads"];
const KEY_VALUE: &[&str] = &["num_key_value_heads", "num_kv_heads", "n_head_kv"];
const MLP: &[&str] = &["intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"];
const VOCAB: &[&str] = &["vocab_size", "n_vocab"];
const POSITIONS: &[&str] = &["max_position_embeddings", "n_positions", "max_seq_len", "seq_length"];
const EXPERTS: &[&str] = &["num_local_experts", "num_experts", "n_routed_experts"];
const EXPERTS_USED: &[&str] = &["num_experts_per_tok", "moe_top_k"];

/// Beyond any known model; what passes is multiplied without overflow.
const WIDTH_MAX: u64 = 1 << 20;
const ROWS_MAX: u64 = 1 << 24;
const LAYERS_MAX: u64 = 4096;
const EXPERTS_MAX: u64 = 1024;
const PARAMETERS_MAX: u128 = 1 << 44;

impl ModelShape {
    /// Reads a Hugging Face `config.json` of any decoder. Of a file with a `text_config` that part is read; a
    /// `model_type` that is not known is taken for a Llama and says so in [`Self::assumed`].
    ///
    /// # Errors
    /// [`ModelSpecError`]: a size that is missing, by the names it goes by; one that is no positive whole number; sizes
    /// that contradict one another or are beyond any known model.
    pub fn from_hf_config(text: &str) -> Result<Self, ModelSpecError> {
        let object = object(text)?;
        let inner = object.get("text_config").and_then(Value::as_object);
        let sizes = Sizes { outer: &object, object: inner.unwrap_or(&object) };
        let model_type = sizes.text("model_type").unwrap_or_default();
        let (family, assumed) = match family_of(&model_type) {
            Some(family) => (family, false),
            None => (LLAMA, true),
        };

        let hidden_size = sizes.required(HIDDEN, WIDTH_MAX)?;
        let num_hidden_layers = sizes.required(LAYERS, LAYERS_MAX)?;
        let num_attention_heads = sizes.required(HEADS, WIDTH_MAX)?;
        // Falcon's first: all heads of queries share one of keys.
        let shared = sizes.flag("multi_query") == Some(true)
            && sizes.flag("new_decoder_architecture") != Some(true);
        let num_key_value_heads = match sizes.optional(KEY_VALUE, WIDTH_MAX)? {
            _ if shared => 1,
            Some(heads) => heads,
            None => num_attention_heads,
        };
        let head_dim = match sizes.optional(&["head_dim"], WIDTH_MAX)?.or(family.head_dim) {
            Some(width) => width,
            None => (hidden_size / num_attention_heads).max(1),
        };
        let width = match sizes.optional(MLP, WIDTH_MAX)? {
            Some(width) => width,
            // Where a class with a plain MLP leaves it out, it is four times the width.
            None if !family.gated => 4 * hidden_size,
            None => return Err(sizes.missing(MLP)),
        };
        let experts = sizes.optional(EXPERTS, EXPERTS_MAX)?.unwrap_or(1);
        let expert_width = sizes.optional(&["moe_intermediate_size"], WIDTH_MAX)?;
        let max_position_embeddings = sizes.optional(POSITIONS, u64::MAX)?;
        let norms = match sizes.flag("new_decoder_architecture") {
            Some(true) => 2,
            _ => family.norms,
        };
        let shape = Self {
            assumed,
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            intermediate_size: match expert_width {
                Some(width) if experts > 1 => width,
                _ if family.both_ways => (width / 2).max(1),
                _ => width,
            },
            vocab_size: sizes.required(VOCAB, ROWS_MAX)?,
            max_position_embeddings,
            tie_word_embeddings: sizes.flag("tie_word_embeddings").unwrap_or(family.tied),
            gated: family.gated,
            experts,
            experts_used: sizes.optional(EXPERTS_USED, EXPERTS_MAX)?.unwrap_or(1).min(experts),
            layer_norm: family.layer_norm,
            norms,
            qk_norm: family.qk_norm,
            qkv_bias: family.qkv_bias,
            linear_bias: family.linear_bias,
            fused_qkv: family.fused_qkv,
            fused_gate_up: family.fused_gate_up,
            position_rows: match max_position_embeddings {
                Some(rows) if family.learned_positions => rows.min(ROWS_MAX),
                _ => 0,
            },
            model_type,
        };
        shape.consistent()
    }

    fn consistent(self) -> Result<Self, ModelSpecError> {
        let fail = |why: String| Err(ModelSpecError::Shape { place: CONFIG, why });
        let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
        if kv > heads || !heads.is_multiple_of(kv) {
            return fail(format!(
                "num_key_value_heads {kv} does not divide num_attention_heads {heads}"
            ));
        }
        let query = u128::from(heads) * u128::from(self.head_dim);
        if query > u128::from(WIDTH_MAX) {
            return fail(format!(
                "num_attention_heads {heads} × head_dim {} is beyond any known model, expected at most {WIDTH_MAX}",
                self.head_dim
            ));
        }
        let (h, f) = (u128::from(self.hidden_size), u128::from(self.intermediate_size));
        let block = 4 * h * query + 3 * h * f * u128::from(self.experts);
        let tables = h * (2 * u128::from(self.vocab_size) + u128::from(self.position_rows));
        let numbers = tables + u128::from(self.num_hidden_layers) * block;
        if numbers > PARAMETERS_MAX {
            return fail(format!(
                "its sizes make {numbers} parameters, beyond any known model, the file is likely damaged"
            ));
        }
        Ok(self)
    }
}

/// Sizes by whichever of their names is there.
struct Sizes<'a> {
    outer: &'a Map<String, Value>,
    object: &'a Map<String, Value>,
}

impl Sizes<'_> {
    fn optional(&self, names: &[&'static str], most: u64) -> Result<Option<u64>, ModelSpecError> {
        let found = |name: &&'static str| match self.object.get(*name) {
            None | Some(Value::Null) => None,
            Some(value) => Some((*name, value)),
        };
        let Some((name, value)) = names.iter().find_map(found) else { return Ok(None) };
        match value.as_u64() {
            Some(size) if (1..=most).contains(&size) => Ok(Some(size)),
            Some(size) if size > 0 => Err(ModelSpecError::Shape {
                place: CONFIG,
                why: format!("{name} {size} is beyond any known model, expected at most {most}"),
            }),
            _ => Err(wrong(name.into(), format!("is {}", abridged(value)))),
        }
    }

    fn required(&self, names: &[&'static str], most: u64) -> Result<u64, ModelSpecError> {
        self.optional(names, most)?.ok_or_else(|| self.missing(names))
    }

    fn missing(&self, names: &[&'static str]) -> ModelSpecError {
        wrong(names.join("` or `"), "is missing".into())
    }

    /// Also from around a `text_config`, which leaves out what is the same.
    fn flag(&self, name: &str) -> Option<bool> {
        self.object.get(name).or_else(|| self.outer.get(name))?.as_bool()
    }

    fn text(&self, name: &str) -> Option<String> {
        let text = self.object.get(name).or_else(|| self.outer.get(name))?.as_str()?;
        Some(text.chars().filter(|c| !c.is_control()).take(60).collect())
    }
}

fn wrong(key: String, found: String) -> ModelSpecError {
    ModelSpecError::Key { place: CONFIG, key, found, expected: "a positive whole number" }
}

fn abridged(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
