//! `fleetune estimate`.

mod cards;
mod keys;
mod model;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, ValueEnum};
use fleetune_shared::recipe::{Dtype, OneOrMany, RecipeFile};
use fleetune_shared::{
    Attention, ByteSize, CardClass, Device, Fit, Meter, Precision, Recipe, Sizer, TorchSetting,
};

use self::cards::card;
pub(super) use self::cards::{known_card, known_cards};
use self::keys::Keys;
use self::model::{Model, RuntimeArg};
use super::{device::DeviceArg, history};
use crate::Failure;
use crate::context::{Context, block_on};
use crate::output::Sizing;
use crate::recipe::RecipeOnDisk;

/// Says how much memory a recipe or a model needs, piece by piece, which cards would do, and what else they would hold.
/// Reads no weights, and asks no coordinator but for its history.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["recipe", "model", "history"]))]
pub(crate) struct Estimate {
    /// The recipe; its paths are relative to it
    recipe: Option<PathBuf>,
    /// Instead of a recipe: a known model such as llama-3.2-1b, a model folder or a config.json
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    keys: Keys,
    /// What would train it [default: fleetune, or hf for a model that the engine cannot train]
    #[arg(long, value_enum)]
    runtime: Option<RuntimeArg>,
    /// How a PyTorch runtime computes attention
    #[arg(long, value_enum, default_value = "sdpa")]
    attention: AttentionArg,
    /// What learns under a PyTorch runtime: f32 under autocast, half throughout, or DeepSpeed's both
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,
    /// What a PyTorch runtime's memory is read with
    #[arg(long, value_enum, default_value = "process", alias = "metric")]
    meter: MeterArg,
    /// Hold it against this card, such as "RTX 3080"; may be given several times
    #[arg(long, value_name = "NAME")]
    card: Vec<String>,
    /// Hold it against a card of this size, such as 10GiB
    #[arg(long, value_name = "SIZE")]
    vram: Option<ByteSize>,
    /// What computes under fleetune
    #[arg(long, default_value = "cuda")]
    device: DeviceArg,
    /// Ask the coordinator how good the fleet's estimates were, and what it learned from that
    #[arg(long, conflicts_with_all = ["card", "vram", "device"])]
    history: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AttentionArg {
    Eager,
    Sdpa,
    #[value(alias = "fa2", alias = "flash_attention_2")]
    Flash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PrecisionArg {
    Mixed,
    #[value(alias = "bf16-true")]
    Half,
    #[value(alias = "deepspeed")]
    Partitioned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MeterArg {
    /// torch.cuda.max_memory_allocated
    #[value(alias = "max_memory_allocated")]
    Allocated,
    /// torch.cuda.max_memory_reserved
    #[value(alias = "max_memory_reserved")]
    Reserved,
    /// nvidia-smi
    #[value(alias = "nvidia-smi")]
    Process,
}

impl Estimate {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.history {
            return block_on(history::show(context));
        }
        let cards = match (self.card.as_slice(), self.vram) {
            ([], None) => known_cards(),
            ([], Some(vram)) => vec![card("a card", vram)],
            ([name], Some(vram)) => vec![card(name, vram)],
            (_, Some(_)) => return Err(Failure::usage("--vram goes with one --card at most")),
            (names, None) => names.iter().map(|name| known_card(name)).collect::<Result<_, _>>()?,
        };
        let device = match self.device {
            DeviceArg::Cpu => Device::Cpu,
            DeviceArg::Cuda | DeviceArg::Auto => Device::Cuda,
        };
        let family =
            cards.first().map_or_else(CardClass::default, |card| CardClass::of(&card.name));
        let (disk, model) = self.source()?;
        let (sizer, note) = model.sizer(self.runtime, device, self.setting(family))?;
        if self.keys.is_gptq() && matches!(sizer, Sizer::Fleetune { .. }) {
            return Err(Failure::usage("--quantization gptq goes with --runtime hf"));
        }
        let recipe = sizer.prepare(self.recipe_of(disk, &sizer)?)?;
        if let Some(note) = note {
            context.output.note(&note);
        }
        let need = sizer.size(&recipe);
        context.output.show(&Sizing {
            name: recipe.name.clone(),
            about: about(&sizer, &recipe),
            need,
            useful: sizer.useful(&recipe),
            fits: cards.into_iter().map(|card| Fit::of(&sizer, &recipe, &need, card)).collect(),
        })
    }

    /// The recipe as it was given, and the model it names.
    fn source(&self) -> Result<(RecipeOnDisk, Model), Failure> {
        let Some(name) = &self.model else {
            let disk = RecipeOnDisk::read(self.recipe.as_deref().unwrap_or(Path::new("")))?;
            let name = disk.file.model_name_or_path.clone().unwrap_or_default();
            let model = Model::read(&name, &disk.resolve(&name))?;
            return Ok((disk, model));
        };
        let title: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
        let file = RecipeFile {
            name: Some(title),
            model_name_or_path: Some(name.clone()),
            dataset_name: Some(OneOrMany::One("-".into())),
            per_device_train_batch_size: Some(1),
            ..RecipeFile::default()
        };
        Ok((RecipeOnDisk::here(file), Model::read(name, Path::new(name))?))
    }

    /// The recipe with what the flags say.
    fn recipe_of(&self, mut disk: RecipeOnDisk, sizer: &Sizer) -> Result<Recipe, Failure> {
        disk.file = self.keys.on(disk.file)?;
        let full = disk.file.use_peft == Some(false);
        let ours = matches!(sizer, Sizer::Fleetune { .. });
        if self.model.is_some() && !self.keys.names_dtype() && (ours || !full) {
            disk.file.dtype = Some(Dtype::Bfloat16);
        }
        disk.recipe()
    }

    fn setting(&self, family: CardClass) -> TorchSetting {
        TorchSetting {
            runtime: self.runtime.and_then(RuntimeArg::torch).unwrap_or_default(),
            precision: self.precision.map(|precision| match precision {
                PrecisionArg::Mixed => Precision::Mixed,
                PrecisionArg::Half => Precision::Half,
                PrecisionArg::Partitioned => Precision::Partitioned,
            }),
            attention: match self.attention {
                AttentionArg::Eager => Attention::Eager,
                AttentionArg::Sdpa => Attention::Sdpa,
                AttentionArg::Flash => Attention::Flash,
            },
            meter: match self.meter {
                MeterArg::Allocated => Meter::Allocated,
                MeterArg::Reserved => Meter::Reserved,
                MeterArg::Process => Meter::Process,
            },
            gptq: self.keys.is_gptq(),
            family,
        }
    }
}

/// The model's size, the runtime, and the micro-batch, on one line.
pub(super) fn about(sizer: &Sizer, recipe: &Recipe) -> String {
    let (parameters, runtime) = match sizer {
        Sizer::Fleetune { model, device } => {
            let device = match device {
                Device::Cpu => "the CPU",
                Device::Cuda => "CUDA",
            };
            (model.parameters(), format!("fleetune on {device}"))
        }
        Sizer::Torch { shape, setting } => {
            let name = match setting.runtime {
                fleetune_shared::Runtime::Hf => "transformers and PEFT",
                fleetune_shared::Runtime::Axolotl => "Axolotl",
                fleetune_shared::Runtime::Litgpt => "LitGPT",
                fleetune_shared::Runtime::Torchtune => "torchtune",
            };
            (shape.parameters(), name.to_owned())
        }
    };
    let rows = recipe.batching.micro_batch;
    let parameters = match parameters as f64 {
        many if many >= 1e9 => format!("{:.2} billion", many / 1e9),
        few => format!("{:.1} million", few / 1e6),
    };
    format!(
        "{parameters} parameters, {runtime}, {rows} row{} of {} tokens at a time",
        if rows == 1 { "" } else { "s" },
        recipe.data.max_length
    )
}
