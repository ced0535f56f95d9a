//! From [`RecipeFile`] to [`Recipe`]: ranges, combinations and defaults. What depends on the model is checked by
//! [`Recipe::fit_model`].

use std::fmt::Display;

use super::file::{OneOrMany, TargetModules};
use super::{
    AdamW, Batching, Checkpointing, Clip, DataSettings, Duration, Lora, Method, Recipe,
    RecipeError, RecipeFile, Schedule, Warmup,
};
use crate::ModelSpec;

fn refuse<T>(key: &str, found: impl Display, expected: impl Display) -> Result<T, RecipeError> {
    Err(RecipeError::Value {
        key: key.into(),
        found: found.to_string(),
        expected: expected.to_string(),
    })
}

/// A number within `low..=high`; NaN is in no range.
fn number(
    key: &str,
    value: Option<f64>,
    default: f64,
    low: f64,
    high: f64,
) -> Result<f64, RecipeError> {
    let value = value.unwrap_or(default);
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        refuse(key, value, format!("{} to {}", short(low), short(high)))
    }
}

/// What "above zero" means for rates, epochs and factors.
const SMALLEST: f64 = 1e-12;

/// A bound as people write it: `1e-12`, not a dozen zeros.
fn short(bound: f64) -> String {
    if bound != 0.0 && bound < 1e-3 { format!("{bound:e}") } else { bound.to_string() }
}

fn count(
    key: &str,
    value: Option<u64>,
    default: u64,
    low: u64,
    high: u64,
) -> Result<usize, RecipeError> {
    let value = value.unwrap_or(default);
    if (low..=high).contains(&value) {
        usize::try_from(value).or_else(|_| refuse(key, value, "a smaller number"))
    } else {
        refuse(key, value, format!("{low} to {high}"))
    }
}

fn path(key: &'static str, value: Option<&String>) -> Result<Option<String>, RecipeError> {
    match value {
        Some(text) if text.is_empty() || text.contains('\0') => {
            refuse(key, format!("{text:?}"), "a path")
        }
        other => Ok(other.cloned()),
    }
}

pub(super) fn validate(file: RecipeFile) -> Result<Recipe, RecipeError> {
    let use_peft = file.use_peft.unwrap_or(true);
    if !use_peft {
        let adapter_keys = [
            ("peft_type", file.peft_type.is_some()),
            ("r", file.r.is_some()),
            ("lora_alpha", file.lora_alpha.is_some()),
            ("use_rslora", file.use_rslora.is_some()),
            ("target_modules", file.target_modules.is_some()),
            ("init_adapter", file.init_adapter.is_some()),
        ];
        if let Some((key, _)) = adapter_keys.iter().find(|(_, set)| *set) {
            return refuse(key, "set", "absent where `use_peft` is false");
        }
    }
    let model = path("model_name_or_path", file.model_name_or_path.as_ref())?.ok_or(
        RecipeError::Missing {
            key: "model_name_or_path",
            expected: "a model folder or a GGUF file",
        },
    )?;
    let data = data(&file)?;
    let batching = Batching {
        micro_batch: count(
            "per_device_train_batch_size",
            file.per_device_train_batch_size,
            8,
            1,
            65_536,
        )?,
        accumulation: count(
            "gradient_accumulation_steps",
            file.gradient_accumulation_steps,
            1,
            1,
            65_536,
        )?,
    };
    let tokens =
        batching.micro_batch as u64 * batching.accumulation as u64 * data.max_length as u64;
    if tokens > 1 << 32 {
        return refuse(
            "per_device_train_batch_size",
            format!("{tokens} tokens per optimizer step"),
            "at most 4294967296 (rows × accumulation × max_length)",
        );
    }
    let learning_rate = number(
        "learning_rate",
        file.learning_rate,
        if use_peft { 2e-4 } else { 2e-5 },
        SMALLEST,
        10.0,
    )?;
    let recipe = Recipe {
        name: name(&file)?,
        priority: file.priority.unwrap_or(0),
        model,
        init_adapter: path("init_adapter", file.init_adapter.as_ref())?,
        data,
        method: if use_peft { Method::Lora(lora(&file)?) } else { Method::Full },
        batching,
        duration: duration(&file)?,
        schedule: Schedule {
            name: file.lr_scheduler_type.unwrap_or_default(),
            learning_rate,
            warmup: match file.warmup_steps {
                Some(steps) => {
                    Warmup::Steps(count("warmup_steps", Some(steps), 0, 0, 1 << 40)? as u64)
                }
                None => Warmup::Ratio(number("warmup_ratio", file.warmup_ratio, 0.0, 0.0, 1.0)?),
            },
        },
        optim: AdamW {
            beta1: number("adam_beta1", file.adam_beta1, 0.9, 0.0, 0.999_999)?,
            beta2: number("adam_beta2", file.adam_beta2, 0.999, 0.0, 0.999_999_9)?,
            epsilon: number("adam_epsilon", file.adam_epsilon, 1e-8, 1e-30, 1.0)?,
            weight_decay: number("weight_decay", file.weight_decay, 0.0, 0.0, 10.0)?,
        },
        clip: Clip(
            Some(number("max_grad_norm", file.max_grad_norm, 1.0, 0.0, 1e9)?).filter(|n| *n > 0.0),
        ),
        gradient_checkpointing: file.gradient_checkpointing.unwrap_or(false),
        seed: file.seed.unwrap_or(42),
        checkpointing: Checkpointing {
            save_steps: Some(count("save_steps", file.save_steps, 500, 0, 1 << 40)? as u64)
                .filter(|n| *n > 0),
            save_total_limit: count("save_total_limit", file.save_total_limit, 2, 1, 10_000)?,
        },
        file,
    };
    Ok(recipe)
}

fn name(file: &RecipeFile) -> Result<String, RecipeError> {
    let name = file.name.clone().unwrap_or_else(|| "job".into());
    if name.trim().is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return refuse("name", format!("{name:?}"), "1 to 100 printable characters");
    }
    Ok(name)
}

fn data(file: &RecipeFile) -> Result<DataSettings, RecipeError> {
    let paths = file.dataset_name.as_ref().map(OneOrMany::to_vec).unwrap_or_default();
    if paths.is_empty() {
        return Err(RecipeError::Missing {
            key: "dataset_name",
            expected: "a JSON or JSONL file, or a list of them",
        });
    }
    for one in &paths {
        path("dataset_name", Some(one))?;
    }
    Ok(DataSettings {
        paths,
        format: file.dataset_format.unwrap_or_default(),
        rows_max: file
            .max_samples
            .map(|n| count("max_samples", Some(n), 0, 1, 1 << 40))
            .transpose()?
            .map(|n| n as u64),
        max_length: count("max_length", file.max_length, 1024, 2, 1 << 24)?,
        over_length: file.over_length.unwrap_or_default(),
        assistant_only_loss: file.assistant_only_loss.unwrap_or(true),
        completion_only_loss: file.completion_only_loss.unwrap_or(true),
        chat_template_path: path("chat_template_path", file.chat_template_path.as_ref())?,
        sampling: file.train_sampling_strategy.unwrap_or_default(),
    })
}

fn lora(file: &RecipeFile) -> Result<Lora, RecipeError> {
    let target_modules = match &file.target_modules {
        None => Vec::new(),
        Some(TargetModules::Word(word)) if word == "all-linear" => Vec::new(),
        Some(TargetModules::Word(word)) => {
            return refuse("target_modules", word, "`all-linear` or a list of names");
        }
        Some(TargetModules::Names(names)) if names.is_empty() => {
            return refuse("target_modules", "an empty list", "`all-linear` or a list of names");
        }
        Some(TargetModules::Names(names)) => names.clone(),
    };
    Ok(Lora {
        r: count("r", file.r, 8, 1, 65_536)?,
        lora_alpha: number("lora_alpha", file.lora_alpha, 8.0, SMALLEST, 1e6)?,
        use_rslora: file.use_rslora.unwrap_or(false),
        target_modules,
    })
}

fn duration(file: &RecipeFile) -> Result<Duration, RecipeError> {
    match file.max_steps {
        None | Some(-1) => Ok(Duration::Epochs(number(
            "num_train_epochs",
            file.num_train_epochs,
            3.0,
            SMALLEST,
            1e6,
        )?)),
        Some(steps) if (1..=1 << 40).contains(&steps) => Ok(Duration::Steps(steps as u64)),
        Some(steps) => refuse("max_steps", steps, "a positive number, or -1 to count epochs"),
    }
}

impl Recipe {
    /// Checks the recipe against the model it names and shortens the default `max_length` to the model's own.
    ///
    /// # Errors
    /// [`RecipeError::Value`] for a rank above the model's width, an unknown target module, or a `max_length` the
    /// model was not made for.
    pub fn fit_model(mut self, model: &ModelSpec) -> Result<Self, RecipeError> {
        if let Method::Lora(lora) = &self.method {
            if lora.r > model.hidden_size {
                return refuse(
                    "r",
                    lora.r,
                    format!("at most the model's hidden_size, {}", model.hidden_size),
                );
            }
            let names = model.linears().map(|(name, ..)| name);
            if let Some(unknown) = lora.target_modules.iter().find(|t| !names.contains(&t.as_str()))
            {
                return refuse("target_modules", unknown, names.join(", "));
            }
        }
        let limit = model.max_position_embeddings;
        if self.data.max_length > limit {
            if self.file.max_length.is_some() {
                let expected = format!("at most the model's max_position_embeddings, {limit}");
                return refuse("max_length", self.data.max_length, expected);
            }
            self.data.max_length = limit;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(extra: &str) -> Result<Recipe, RecipeError> {
        Recipe::read(&format!("model_name_or_path: base\ndataset_name: rows.jsonl\n{extra}"))
    }

    fn message(extra: &str) -> String {
        read(extra).expect_err(extra).to_string()
    }

    #[test]
    fn defaults_are_those_of_the_field() {
        let recipe = read("").unwrap();
        assert_eq!(recipe.duration, Duration::Epochs(3.0));
        assert_eq!(recipe.batching, Batching { micro_batch: 8, accumulation: 1 });
        assert_eq!(recipe.clip, Clip(Some(1.0)));
        assert_eq!(recipe.schedule.learning_rate, 2e-4);
        assert!(
            matches!(&recipe.method, Method::Lora(l) if l.scaling() == 1.0 && l.targets("up_proj"))
        );
    }

    #[test]
    fn bad_values_name_key_found_and_expected() {
        for (text, part) in [
            ("learning_rate: 0", "`learning_rate` is 0, expected"),
            ("learning_rate: -1", "`learning_rate` is -1"),
            ("learning_rate: .nan", "line 3 column 16: non-finite float"),
            ("learning_rate: 1e9", "`learning_rate` is 1000000000"),
            ("per_device_train_batch_size: 0", "`per_device_train_batch_size` is 0, expected 1 to"),
            (
                "per_device_train_batch_size: 60000\ngradient_accumulation_steps: 60000",
                "tokens per optimizer step",
            ),
            ("r: 0", "`r` is 0"),
            ("num_train_epochs: 0", "`num_train_epochs` is 0"),
            (
                "num_train_epochs: 18446744073709551615",
                "`num_train_epochs` is 18446744073709552000",
            ),
            ("max_steps: 0", "`max_steps` is 0, expected a positive number"),
            ("max_stepz: 5", "unknown key `max_stepz`, did you mean `max_steps`?"),
            ("beta: 0.1", "unknown key `beta`"),
            ("r: eight", "`r` is \"eight\""),
            ("use_peft: false\nr: 8", "`r` is set, expected absent"),
            ("target_modules: all", "`target_modules` is all"),
        ] {
            let message = message(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let deep = format!("a: {}", "[".repeat(100_000));
        assert!(matches!(Recipe::read(&deep), Err(RecipeError::Syntax(_))));
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let previous = format!("*a{},", i - 1).repeat(9);
            bomb += &format!("a{i}: &a{i} [{previous}]\n");
        }
        assert!(matches!(Recipe::read(&bomb), Err(RecipeError::Syntax(_))));
    }

    #[test]
    fn a_recipe_travels_as_its_file() {
        let recipe = read("r: 16\nmax_steps: 3\nsweep: {parameters: {r: [8, 16]}}").unwrap();
        let text = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&text).unwrap(), recipe);
        assert!(serde_json::from_str::<Recipe>(&text.replace("\"r\":16", "\"r\":0")).is_err());
    }

    #[test]
    fn the_model_has_a_say() {
        let config = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,"num_hidden_layers":2,
            "num_attention_heads":4,"vocab_size":512,"max_position_embeddings":512,"rms_norm_eps":1e-5}"#;
        let model = ModelSpec::from_hf_config(config).unwrap();
        assert_eq!(read("").unwrap().fit_model(&model).unwrap().data.max_length, 512);
        let refused = |extra: &str| read(extra).unwrap().fit_model(&model).unwrap_err().to_string();
        assert!(refused("r: 65").contains("hidden_size, 64"));
        assert!(refused("max_length: 513").contains("max_position_embeddings, 512"));
        assert!(
            refused("target_modules: [q_proj, query]")
                .contains("`target_modules` is query, expected q_proj")
        );
    }
}
