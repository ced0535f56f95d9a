//! What the job asks of a card.

use super::super::{RecipeError, RecipeFile};
use super::range::refuse;
use crate::Requirements;

const WORD_CHARS_MAX: usize = 63;

pub(super) fn requirements(file: &RecipeFile) -> Result<Requirements, RecipeError> {
    let labels = file.labels.iter().flatten();
    Ok(Requirements {
        min_compute_capability: file.min_compute_capability.map(capability).transpose()?,
        card: file.card.as_ref().map(|text| word("card", text)).transpose()?,
        labels: labels.map(|text| word("labels", text)).collect::<Result<_, _>>()?,
        anti_affinity: file
            .anti_affinity
            .as_ref()
            .map(|text| word("anti_affinity", text))
            .transpose()?,
    })
}

/// `8.6` is major 8, minor 6: NVIDIA's minors have one digit.
fn capability(value: f64) -> Result<(u32, u32), RecipeError> {
    let tenths = (value * 10.0).round();
    if !(10.0..=999.0).contains(&tenths) || (value * 10.0 - tenths).abs() > 1e-6 {
        return refuse("min_compute_capability", value, "a version such as 8.6, from 1.0 to 99.9");
    }
    let tenths = tenths as u32;
    Ok((tenths / 10, tenths % 10))
}

fn word(key: &str, text: &str) -> Result<String, RecipeError> {
    let trimmed = text.trim();
    let length = trimmed.chars().count();
    if !(1..=WORD_CHARS_MAX).contains(&length) || trimmed.chars().any(char::is_control) {
        return refuse(
            key,
            format!("{text:?}"),
            format!("1 to {WORD_CHARS_MAX} printable characters"),
        );
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &str) -> Result<Requirements, String> {
        crate::Recipe::read(&format!("model_name_or_path: m\ndataset_name: d\n{keys}"))
            .map(|recipe| recipe.requirements)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn requirements_are_read_as_people_write_them() {
        let keys = "min_compute_capability: 8.6\ncard: RTX 4000\nlabels: [nvme, office]\nanti_affinity: ablation";
        let ask = read(keys).unwrap();
        assert_eq!(ask.min_compute_capability, Some((8, 6)));
        assert_eq!(ask.card.as_deref(), Some("RTX 4000"));
        assert_eq!(ask.labels.iter().collect::<Vec<_>>(), ["nvme", "office"]);
        assert_eq!(ask.anti_affinity.as_deref(), Some("ablation"));
        assert_eq!(
            read("min_compute_capability: 12").unwrap().min_compute_capability,
            Some((12, 0))
        );
        assert_eq!(read("").unwrap(), Requirements::default());
    }

    #[test]
    fn what_cannot_be_asked_is_refused_by_its_key() {
        for (keys, key) in [
            ("min_compute_capability: 8.65", "min_compute_capability"),
            ("min_compute_capability: 0", "min_compute_capability"),
            ("card: ''", "card"),
            ("labels: [fast, '  ']", "labels"),
            ("anti_affinity: \"a\\nb\"", "anti_affinity"),
        ] {
            let error = read(keys).unwrap_err();
            assert!(error.contains(key), "{keys}: {error}");
        }
    }
}
