//! The model to be sized: a folder, a file, or a name that everybody knows.

use std::path::Path;

use clap::ValueEnum;
use fleetune_engine::model;
use fleetune_shared::{
    Device, ModelShape, ModelSpec, ModelSpecError, Runtime, Sizer, TorchSetting, known_config,
    known_models,
};

use crate::Failure;

/// What would train it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RuntimeArg {
    /// This engine
    Fleetune,
    /// transformers, PEFT and bitsandbytes
    Hf,
    /// Axolotl
    Axolotl,
    /// LitGPT
    Litgpt,
    /// torchtune
    Torchtune,
}

impl RuntimeArg {
    pub(super) fn torch(self) -> Option<Runtime> {
        match self {
            Self::Fleetune => None,
            Self::Hf => Some(Runtime::Hf),
            Self::Axolotl => Some(Runtime::Axolotl),
            Self::Litgpt => Some(Runtime::Litgpt),
            Self::Torchtune => Some(Runtime::Torchtune),
        }
    }
}

/// A model's sizes, as far as each runtime can read them.
pub(super) struct Model {
    spec: Result<ModelSpec, ModelSpecError>,
    shape: Result<ModelShape, ModelSpecError>,
}

/// A `config.json` is small; a larger one is a mistake or an attack.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

impl Model {
    /// Reads what lies at `path`, or else takes `name` for one of the models that everybody knows.
    pub(super) fn read(name: &str, path: &Path) -> Result<Self, Failure> {
        let config = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        let is_config = config.extension().is_some_and(|end| end == "json") && config.exists();
        if path.exists() && !is_config {
            let spec = model::spec_of(path)?;
            let shape = ModelShape::from_hf_config(&spec.to_hf_config().to_string());
            return Ok(Self { spec: Ok(spec), shape });
        }
        let text = if is_config {
            let io = |error| Failure::io(&config, &error);
            let bytes = std::fs::metadata(&config).map_err(io)?.len();
            if bytes > CONFIG_BYTES_MAX {
                let found =
                    format!("{}: has {bytes} bytes, expected at most 4 MiB", config.display());
                return Err(Failure::new("input", found));
            }
            std::fs::read_to_string(&config).map_err(io)?
        } else {
            known_config(name).ok_or_else(|| unknown(name))?
        };
        Ok(Self {
            spec: ModelSpec::from_hf_config(&text),
            shape: ModelShape::from_hf_config(&text),
        })
    }

    /// Who sizes it, and a word about it where that was not what one might expect.
    pub(super) fn sizer(
        self,
        runtime: Option<RuntimeArg>,
        device: Device,
        setting: TorchSetting,
    ) -> Result<(Sizer, Option<String>), Failure> {
        let failure = |error: ModelSpecError| Failure::new("input", error.to_string());
        let ours = |spec| Sizer::Fleetune { model: Box::new(spec), device };
        let torch = |shape| Sizer::Torch { shape: Box::new(shape), setting };
        let assumed = |shape: &ModelShape| {
            let told = format!(
                "architecture `{}` is not known; sized as a Llama of the same sizes",
                shape.model_type
            );
            shape.assumed.then_some(told)
        };
        match (runtime.map(RuntimeArg::torch), self.spec) {
            (Some(Some(_)), _) => {
                let shape = self.shape.map_err(failure)?;
                let note = assumed(&shape);
                Ok((torch(shape), note))
            }
            (Some(None) | None, Ok(spec)) => Ok((ours(spec), None)),
            (None, Err(ModelSpecError::Architecture { found, .. })) => {
                let shape = self.shape.map_err(failure)?;
                let note = assumed(&shape).unwrap_or_else(|| {
                    format!("this engine does not train `{found}` yet; sized as transformers would train it")
                });
                Ok((torch(shape), Some(note)))
            }
            (Some(None), Err(error @ ModelSpecError::Architecture { .. })) => {
                Err(failure(error).hint("--runtime hf sizes models of any architecture"))
            }
            (_, Err(error)) => Err(failure(error)),
        }
    }
}

fn unknown(name: &str) -> Failure {
    let names: Vec<&str> = known_models().collect();
    let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
    Failure::new(
        "not_found",
        format!("no model is known as `{name}`, and nothing lies at that path"),
    )
    .hint(format!("give a model folder or its config.json; known are {}", names.join(", ")))
}
