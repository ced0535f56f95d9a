use clap::Parser;
use fleetune_shared::recipe::{Method, Quantization};
use fleetune_shared::{Device, Recipe, Sizer, TorchSetting};

use super::model::{Model, RuntimeArg};
use super::{Estimate, Path};
use crate::Failure;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    estimate: Estimate,
}

/// Who sizes what the flags say, and the recipe they make.
fn sized(flags: &str) -> Result<(Sizer, Recipe), String> {
    let words = std::iter::once("estimate").chain(flags.split_whitespace());
    let estimate = Line::try_parse_from(words).map_err(|error| error.to_string())?.estimate;
    let told = |failure| match failure {
        Failure::Error(report) => report.message,
        other => format!("{other:?}"),
    };
    let (disk, model) = estimate.source().map_err(told)?;
    let setting = estimate.setting(Default::default());
    let (sizer, _) = model.sizer(estimate.runtime, Device::Cuda, setting).map_err(told)?;
    let recipe = estimate.recipe_of(disk, &sizer).map_err(told)?;
    Ok((sizer, recipe))
}

#[test]
fn flags_are_keys_of_a_recipe() {
    let (_, recipe) = sized(
        "--model llama-3.2-1b --method qlora --rank 32 --target q_proj,v_proj --seq 777 --micro-batch 3 \
         --optim AdamW --set gradient_accumulation_steps=4",
    )
    .unwrap();
    let Method::Lora(lora) = &recipe.method else { panic!("{:?}", recipe.method) };
    assert_eq!((lora.r, recipe.data.max_length), (32, 777));
    assert_eq!((recipe.batching.micro_batch, recipe.batching.accumulation), (3, 4));
    let Quantization::FourBit(four) = recipe.quantization else { panic!() };
    assert!(four.double && four.bfloat16);
    let refused = sized("--model llama-3.2-1b --set max_lenght=3").unwrap_err();
    assert_eq!(refused, "recipe: unknown key `max_lenght`, did you mean `max_length`?");
}

#[test]
fn plain_full_tuning_under_transformers_learns_in_f32() {
    let how = |flags| sized(flags).unwrap().1.quantization;
    assert_eq!(how("--model llama-3.2-1b --method full --runtime hf"), Quantization::Float32);
    assert_eq!(how("--model llama-3.2-1b --method full"), Quantization::Bfloat16);
    let half = "--model llama-3.2-1b --method full --runtime hf --dtype bfloat16";
    assert_eq!(how(half), Quantization::Bfloat16);
}

#[test]
fn a_model_the_engine_does_not_train_is_sized_as_transformers_would() {
    assert!(matches!(sized("--model llama-3.2-1b").unwrap().0, Sizer::Fleetune { .. }));
    let read = || Model::read("phi-2", Path::new("phi-2")).unwrap();
    let (sizer, note) = read().sizer(None, Device::Cuda, TorchSetting::default()).unwrap();
    assert!(matches!(sizer, Sizer::Torch { .. }));
    assert!(note.unwrap().contains("does not train `phi` yet"));
    let ours = Some(RuntimeArg::Fleetune);
    assert!(read().sizer(ours, Device::Cuda, TorchSetting::default()).is_err());
    let refused = sized("--model no-such-model").unwrap_err();
    assert!(refused.contains("no model is known as `no-such-model`"), "{refused}");
}

#[test]
fn a_folder_or_its_config_is_read_without_weights() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, fleetune_shared::known_config("llama-3.2-1b").unwrap()).unwrap();
    for path in [folder.path(), &config] {
        let (sizer, _) = sized(&format!("--model {}", path.display())).unwrap();
        let Sizer::Fleetune { model, .. } = sizer else { panic!() };
        assert_eq!(model.hidden_size, 2048);
    }
    std::fs::write(&config, r#"{"model_type":"falcon","hidden_size":4544}"#).unwrap();
    let refused = sized(&format!("--model {}", config.display())).unwrap_err();
    assert!(refused.contains("`num_hidden_layers`"), "{refused}");
}
