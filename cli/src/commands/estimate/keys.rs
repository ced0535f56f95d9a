//! Flags that stand for keys of a recipe.

use clap::{Args, ValueEnum};
use fleetune_shared::recipe::{RecipeError, RecipeFile, nearest_key};
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::commands::method::Method;

/// What is trained, and how. Each flag is a key of the recipe.
#[derive(Debug, Default, Args)]
pub(super) struct Keys {
    /// What learns, and from what [default: the recipe's, or lora]
    #[arg(long, value_enum, value_name = "METHOD")]
    method: Option<Method>,
    /// Rank of an adapter
    #[arg(long, value_name = "R")]
    rank: Option<u64>,
    /// Layers that get an adapter: all-linear, or names such as q_proj,v_proj
    #[arg(long, value_name = "NAMES", alias = "target-modules")]
    target: Option<String>,
    /// Longest row in tokens
    #[arg(long, value_name = "TOKENS", alias = "max-length")]
    seq: Option<u64>,
    /// Rows of a micro-batch [default: the recipe's, or 1]
    #[arg(long, value_name = "ROWS")]
    micro_batch: Option<u64>,
    /// Optimizer, as in a recipe: adamw_torch, adamw_8bit, paged_adamw_8bit, adafactor …
    #[arg(long, value_name = "NAME")]
    optim: Option<String>,
    /// What blocks keep: true, false, or a level
    #[arg(long, value_name = "LEVEL", num_args = 0..=1, default_missing_value = "true")]
    gradient_checkpointing: Option<String>,
    /// How the base is held
    #[arg(long, value_enum, value_name = "HOW", alias = "quant")]
    quantization: Option<QuantizationArg>,
    /// Numbers that are not quantised: float32 or bfloat16
    #[arg(long)]
    dtype: Option<String>,
    /// Another key of the recipe, such as optimizer_in_backward=true; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// How the base is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum QuantizationArg {
    None,
    Nf4,
    /// With quantised constants
    #[value(name = "nf4-dq", alias = "nf4-double")]
    Nf4Dq,
    Int8,
    /// A GPTQ model of four bits, with --runtime hf
    #[value(alias = "gptq-int4")]
    Gptq,
}

impl Keys {
    pub(super) fn is_gptq(&self) -> bool {
        self.quantization == Some(QuantizationArg::Gptq)
    }

    /// Whether numbers of full fine-tuning are what `dtype` says, rather than what is usual.
    pub(super) fn names_dtype(&self) -> bool {
        self.dtype.is_some()
    }

    /// The recipe with what the flags say.
    pub(super) fn on(&self, file: RecipeFile) -> Result<RecipeFile, Failure> {
        let mut keys = match serde_json::to_value(file) {
            Ok(Value::Object(keys)) => keys,
            _ => Map::new(),
        };
        let mut put = |more: Value| {
            if let Value::Object(more) = more {
                keys.extend(more);
            }
        };
        if let Some(method) = self.method {
            // The recipe may have said that the whole model learns.
            if matches!(method, Method::Lora | Method::Qlora | Method::Dora) {
                put(json!({"use_peft": true}));
            }
            put(method.keys());
        }
        match self.quantization {
            None => {}
            Some(QuantizationArg::None | QuantizationArg::Gptq) => put(
                json!({"load_in_4bit": null, "load_in_8bit": null, "bnb_4bit_use_double_quant": null}),
            ),
            Some(QuantizationArg::Nf4) => {
                put(json!({"load_in_4bit": true, "bnb_4bit_use_double_quant": false}));
            }
            Some(QuantizationArg::Nf4Dq) => {
                put(json!({"load_in_4bit": true, "bnb_4bit_use_double_quant": true}));
            }
            Some(QuantizationArg::Int8) => put(json!({"load_in_8bit": true})),
        }
        let mut number = |key: &str, value: Option<u64>| {
            if let Some(value) = value {
                put(json!({key: value}));
            }
        };
        number("r", self.rank);
        number("max_length", self.seq);
        number("per_device_train_batch_size", self.micro_batch);
        if let Some(names) = &self.target {
            put(json!({"target_modules": match names.as_str() {
                "all-linear" => json!("all-linear"),
                names => json!(names.split([',', '+']).map(str::trim).collect::<Vec<_>>()),
            }}));
        }
        if let Some(name) = &self.optim {
            // As papers and tables write it.
            let name = match name.to_ascii_lowercase().as_str() {
                "adamw" | "adam" => "adamw_torch".to_owned(),
                other => other.to_owned(),
            };
            put(json!({"optim": name}));
        }
        if let Some(level) = &self.gradient_checkpointing {
            put(json!({"gradient_checkpointing": match level.as_str() {
                "true" => json!(true),
                "false" => json!(false),
                level => json!(level),
            }}));
        }
        if let Some(dtype) = &self.dtype {
            let dtype = match dtype.as_str() {
                // As large, and all that matters here.
                "bf16" | "fp16" | "float16" => "bfloat16",
                "fp32" => "float32",
                other => other,
            };
            put(json!({"dtype": dtype}));
        }
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Failure::usage(&format!("--set {pair}: expected KEY=VALUE, such as packing=true"))
            })?;
            if RecipeFile::from_value(json!({key: null})).is_err() {
                let nearest = nearest_key(key);
                return Err(RecipeError::UnknownKey { key: key.into(), nearest }.into());
            }
            put(
                json!({key: serde_json::from_str::<Value>(value).unwrap_or_else(|_| value.into())}),
            );
        }
        keys.retain(|_, value| !value.is_null());
        Ok(RecipeFile::from_value(Value::Object(keys))?)
    }
}
