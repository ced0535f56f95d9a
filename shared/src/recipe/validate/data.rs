//! Keys about data.

use super::super::words::{FinetuningTask, OneOrMany};
use super::super::{DataFormat, DataSettings, HeldOut, Mixing, Packing, RecipeError, RecipeFile};
use super::range::{SMALLEST, count, number, path, refuse};

pub(super) fn data(file: &RecipeFile) -> Result<DataSettings, RecipeError> {
    let paths = paths("dataset_name", file.dataset_name.as_ref())?;
    if paths.is_empty() {
        return Err(RecipeError::Missing {
            key: "dataset_name",
            expected: "a JSON or JSONL file, or a list of them",
        });
    }
    if file.chat_template.is_some() && file.chat_template_path.is_some() {
        return refuse("chat_template", "set", "absent where `chat_template_path` is set");
    }
    Ok(DataSettings {
        mixing: mixing(file, paths.len())?,
        paths,
        split: path("dataset_split", file.dataset_split.as_ref())?.unwrap_or("train".into()),
        config: path("dataset_config", file.dataset_config.as_ref())?,
        held_out: held_out(file)?,
        format: layout(file)?,
        text_field: path("dataset_text_field", file.dataset_text_field.as_ref())?
            .unwrap_or("text".into()),
        rows_max: file
            .max_samples
            .map(|n| count("max_samples", Some(n), 0, 1, 1 << 40))
            .transpose()?
            .map(|n| n as u64),
        max_length: count("max_length", file.max_length, 1024, 2, 1 << 24)?,
        over_length: file.over_length.unwrap_or_default(),
        truncation: file.truncation_mode.unwrap_or_default(),
        packing: packing(file)?,
        assistant_only_loss: file.assistant_only_loss.unwrap_or(true),
        completion_only_loss: file.completion_only_loss.unwrap_or(true),
        chat_template: path("chat_template", file.chat_template.as_ref())?,
        chat_template_path: path("chat_template_path", file.chat_template_path.as_ref())?,
        sampling: file.train_sampling_strategy.unwrap_or_default(),
    })
}

fn paths(key: &'static str, value: Option<&OneOrMany>) -> Result<Vec<String>, RecipeError> {
    let paths = value.map(OneOrMany::to_vec).unwrap_or_default();
    for one in &paths {
        path(key, Some(one))?;
    }
    Ok(paths)
}

fn mixing(file: &RecipeFile, sets: usize) -> Result<Option<Mixing>, RecipeError> {
    let Some(weights) = &file.dataset_probabilities else {
        if file.stopping_strategy.is_some() {
            return refuse(
                "stopping_strategy",
                "set",
                "absent where `dataset_probabilities` is absent",
            );
        }
        return Ok(None);
    };
    if weights.len() != sets {
        let expected = format!("{sets}, one for each of `dataset_name`");
        return refuse("dataset_probabilities", format!("{} numbers", weights.len()), expected);
    }
    for weight in weights {
        number("dataset_probabilities", Some(*weight), 0.0, SMALLEST, 1e12)?;
    }
    let sum: f64 = weights.iter().sum();
    Ok(Some(Mixing {
        probabilities: weights.iter().map(|weight| weight / sum).collect(),
        stopping: file.stopping_strategy.unwrap_or_default(),
    }))
}

fn held_out(file: &RecipeFile) -> Result<HeldOut, RecipeError> {
    let sets = paths("eval_dataset", file.eval_dataset.as_ref())?;
    match file.test_split_size {
        None if sets.is_empty() => Ok(HeldOut::None),
        None => Ok(HeldOut::Sets(sets)),
        Some(_) if !sets.is_empty() => {
            refuse("test_split_size", "set", "absent where `eval_dataset` is set")
        }
        Some(part) if part > 0.0 && part < 1.0 => Ok(HeldOut::Part(part)),
        Some(rows) if (1.0..=1e12).contains(&rows) && rows.fract() == 0.0 => {
            Ok(HeldOut::Rows(rows as u64))
        }
        Some(other) => refuse(
            "test_split_size",
            other,
            "a part above 0 and below 1, or a whole number of rows",
        ),
    }
}

/// Rows are laid out as the task needs them, whatever their columns are called.
fn layout(file: &RecipeFile) -> Result<DataFormat, RecipeError> {
    use DataFormat::{Kto, Preference};
    let named = file.dataset_format.unwrap_or_default();
    let needed = match file.task.unwrap_or_default() {
        FinetuningTask::Sft if matches!(named, Kto | Preference) => {
            let expected = "a layout of single answers where `task` is sft";
            return refuse("dataset_format", word(named), expected);
        }
        FinetuningTask::Sft => return Ok(named),
        FinetuningTask::Kto => Kto,
        _ => Preference,
    };
    if matches!(named, Kto | Preference) && named != needed {
        return refuse("dataset_format", word(named), format!("{} for this task", word(needed)));
    }
    Ok(needed)
}

fn word(format: DataFormat) -> &'static str {
    match format {
        DataFormat::Kto => "kto",
        DataFormat::Preference => "preference",
        _ => "another",
    }
}

fn packing(file: &RecipeFile) -> Result<Packing, RecipeError> {
    let task = file.task.unwrap_or_default();
    match (file.packing.unwrap_or(false), file.packing_strategy) {
        (true, _) if task != FinetuningTask::Sft => {
            refuse("packing", "set", "absent unless `task` is sft")
        }
        (true, strategy) => Ok(Packing(Some(strategy.unwrap_or_default()))),
        (false, Some(_)) => refuse("packing_strategy", "set", "absent unless `packing` is true"),
        (false, None) => Ok(Packing(None)),
    }
}
