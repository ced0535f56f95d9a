//! From [`RecipeFile`] to [`Recipe`]: ranges, combinations and defaults. What depends on the model is checked by
//! [`Recipe::fit_model`].

mod data;
mod method;
mod objective;
mod range;
mod requirements;
mod training;

use range::{number, path, refuse};

use super::words::{CheckpointingChoice, CheckpointingLevel};
use super::{Method, Recipe, RecipeError, RecipeFile};
use crate::ModelSpec;
use crate::peft::{AdapterConfig, TargetError};

pub(super) fn validate(file: RecipeFile) -> Result<Recipe, RecipeError> {
    let model = path("model_name_or_path", file.model_name_or_path.as_ref())?.ok_or(
        RecipeError::Missing {
            key: "model_name_or_path",
            expected: "a model folder or a GGUF file",
        },
    )?;
    let method = method::method(&file)?;
    let data = data::data(&file)?;
    let batching = training::batching(&file)?;
    let tokens =
        batching.micro_batch as u64 * batching.accumulation as u64 * data.max_length as u64;
    if tokens > 1 << 32 {
        return refuse(
            "per_device_train_batch_size",
            format!("{tokens} tokens per optimizer step"),
            "at most 4294967296 (rows × accumulation × max_length)",
        );
    }
    let recipe = Recipe {
        name: name(&file)?,
        priority: file.priority.unwrap_or(0),
        requirements: requirements::requirements(&file)?,
        model,
        init_adapter: path("init_adapter", file.init_adapter.as_ref())?,
        objective: objective::objective(&file)?,
        quantization: method::quantization(&file, &method)?,
        batching,
        duration: training::duration(&file)?,
        schedule: training::schedule(&file, &method)?,
        optim: training::optim(&file, &method)?,
        clip: training::clip(&file)?,
        gradient_checkpointing: match file.gradient_checkpointing {
            None => CheckpointingLevel::default(),
            Some(CheckpointingChoice::Switch(false)) => CheckpointingLevel::None,
            Some(CheckpointingChoice::Switch(true)) => CheckpointingLevel::Block,
            Some(CheckpointingChoice::Level(level)) => level,
        },
        neftune_noise_alpha: file
            .neftune_noise_alpha
            .map(|alpha| number("neftune_noise_alpha", Some(alpha), 0.0, 0.0, 1e3))
            .transpose()?
            .filter(|alpha| *alpha > 0.0),
        seed: file.seed.unwrap_or(42),
        checkpointing: training::checkpointing(&file)?,
        evaluation: training::evaluation(&file, &data.held_out)?,
        data,
        method,
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

/// Numbers of activations of a micro-batch in all blocks.
const NUMBERS_MAX: u128 = 1 << 52;

impl Recipe {
    /// Checks the recipe against the model it names and shortens the default `max_length` to the model's own.
    ///
    /// # Errors
    /// [`RecipeError::Value`] for a rank above the model's width, an unknown target module, or a `max_length` the
    /// model was not made for.
    pub fn fit_model(mut self, model: &ModelSpec) -> Result<Self, RecipeError> {
        if let Method::Lora(lora) = &self.method
            && lora.r > model.hidden_size
        {
            let expected = format!("at most the model's hidden_size, {}", model.hidden_size);
            return refuse("r", lora.r, expected);
        }
        if let Some(config) = AdapterConfig::of(&self.method, model, &self.model) {
            let fits = config.names_fit(model).and_then(|()| config.layout(model));
            if let Err(TargetError { key, found, expected }) = fits {
                return refuse(key, found, expected);
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
        let width = model.hidden_size + model.query_width() + model.intermediate_size;
        self.some_machine_holds(model.num_hidden_layers as u64, width as u64)?;
        Ok(self)
    }

    /// Refuses a micro-batch whose activations, over `blocks` of such a `width`, are beyond any machine. What passes is
    /// counted without overflow.
    pub(crate) fn some_machine_holds(&self, blocks: u64, width: u64) -> Result<(), RecipeError> {
        let rows = self.batching.micro_batch as u128 * self.objective.answers() as u128;
        let tokens = rows * self.data.max_length as u128;
        if tokens * u128::from(blocks) * u128::from(width) > NUMBERS_MAX {
            let found = format!("{tokens} tokens at a time with `max_length`");
            return refuse("per_device_train_batch_size", found, "what some machine could hold");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::EvalStrategy;
    use super::super::{
        Batching, Clip, CpoLoss, DpoLoss, Duration, FourBit, FourBitType, Objective, Quantization,
        Targets,
    };
    use super::*;

    fn read(extra: &str) -> Result<Recipe, RecipeError> {
        Recipe::read(&format!("model_name_or_path: base\ndataset_name: rows.jsonl\n{extra}"))
    }

    fn message(extra: &str) -> String {
        read(extra).expect_err(extra).to_string()
    }

    #[test]
    fn moments_have_the_dtypes_asked_for() {
        use super::super::MomentDtype::{Bfloat16, Float32};
        let moments = |keys: &str| read(keys).map(|recipe| recipe.optim.moments);
        let any = |args: &str| format!("optim: adamw_anyprecision\noptim_args: {args}");
        assert_eq!(moments("optim: adamw_anyprecision"), Ok([Float32; 2]));
        let both = any("momentum_dtype=bfloat16, variance_dtype=bfloat16");
        assert_eq!(moments(&both), Ok([Bfloat16; 2]));
        let one = any("use_kahan_summation=False,variance_dtype=bfloat16");
        assert_eq!(moments(&one), Ok([Float32, Bfloat16]));
        for (keys, expected) in [
            (any("variance_dtype=float16"), "`float32` or `bfloat16` there"),
            (any("use_kahan_summation=True"), "rounded by chance"),
            (any("momentum=0.9"), "`momentum_dtype=…`"),
            ("optim_args: momentum_dtype=bfloat16".into(), "`adamw_anyprecision` takes some"),
        ] {
            let found = message(&keys);
            assert!(found.contains("optim_args") && found.contains(expected), "{found}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_field() {
        let recipe = read("").unwrap();
        assert_eq!(recipe.duration, Duration::Epochs(3.0));
        assert_eq!(recipe.batching, Batching { micro_batch: 8, accumulation: 1 });
        assert_eq!(recipe.clip, Clip(Some(1.0)));
        assert_eq!(recipe.schedule.learning_rate, 2e-4);
        let Method::Lora(lora) = recipe.method else { panic!("another method") };
        assert_eq!((lora.r as f64, lora.use_rslora), (lora.lora_alpha, false), "scaled by one");
        assert_eq!(lora.target_modules, Targets::AllLinear);
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
            ("beta: 0.1", "`beta` is set, expected absent where `task` is sft"),
            (
                "task: dpo\nloss_type: sigmoidal",
                "`loss_type` is sigmoidal, expected one of sigmoid, hinge",
            ),
            ("task: orpo\npacking: true", "`packing` is set"),
            ("load_in_4bit: true\nload_in_8bit: true", "`load_in_8bit` is set"),
            ("use_peft: false\nload_in_4bit: true", "`load_in_4bit` is set"),
            ("peft_type: IA3\nr: 8", "`r` is set, expected absent where `peft_type` is IA3"),
            ("test_split_size: 0", "`test_split_size` is 0"),
            ("eval_strategy: epoch", "`eval_strategy` is set, expected absent without"),
            ("eval_strategy: never", "`eval_strategy` is"),
            ("init_lora_weights: eva", "`init_lora_weights` is eva"),
            (
                "lr_scheduler_type: warmup_stable_decay",
                "`lr_scheduler_kwargs.num_decay_steps` is missing",
            ),
            ("r: eight", "`r` is \"eight\""),
            ("use_peft: false\nr: 8", "`r` is set, expected absent"),
            ("target_modules: '('", "`target_modules` is (, expected"),
        ] {
            let message = message(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn tasks_have_the_defaults_of_trl() {
        let recipe = read("task: dpo").unwrap();
        let Objective::Dpo(dpo) = recipe.objective else { panic!("another objective") };
        assert_eq!((dpo.losses.as_slice(), dpo.beta), ([(DpoLoss::Sigmoid, 1.0)].as_slice(), 0.1));
        let recipe = read("task: simpo\nuse_peft: false").unwrap();
        assert_eq!(recipe.schedule.learning_rate, 1e-6);
        let Objective::Cpo(cpo) = recipe.objective else { panic!("another objective") };
        assert_eq!((cpo.loss, cpo.alpha, cpo.simpo_gamma), (CpoLoss::Simpo, 0.0, 0.5));
    }

    #[test]
    fn a_base_is_held_as_the_recipe_says() {
        let held = |extra| read(extra).unwrap().quantization;
        assert_eq!(held(""), Quantization::AsStored);
        assert_eq!(held("dtype: float32"), Quantization::Float32);
        assert_eq!(held("use_peft: false\ndtype: bfloat16"), Quantization::Bfloat16);
        let four = FourBit { kind: FourBitType::Nf4, double: true, bfloat16: false };
        let found = held("load_in_4bit: true\nbnb_4bit_use_double_quant: true");
        assert_eq!(found, Quantization::FourBit(four));
    }

    #[test]
    fn a_bare_no_means_no() {
        let recipe = read("test_split_size: 5\neval_strategy: no").unwrap();
        assert_eq!(recipe.evaluation.strategy, EvalStrategy::No);
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
                .contains("`target_modules` is query, expected names of modules (q_proj")
        );
    }
}
