//! The rotary keys of `config.json`, in the spellings of transformers 4 and 5.
//!
//! ```text
//!   5   rope_parameters: {rope_theta, rope_type, …}             one for all blocks
//!       rope_parameters: {full_attention: {…}, sliding_attention: {…}}
//!   4   rope_theta, rope_scaling: {type or rope_type, …}, rope_local_base_freq, partial_rotary_factor
//! ```

use serde_json::Value;

use super::family::Family;
use super::keys::{Keys, positive_number};
use super::{ModelSpecError, RopeScaling};

/// What the keys say.
pub(super) struct Rope {
    pub(super) theta: f64,
    pub(super) scaling: Option<RopeScaling>,
    pub(super) local_theta: Option<f64>,
    pub(super) partial: f64,
}

pub(super) fn rope_of(keys: Keys<'_>, family: &Family) -> Result<Rope, ModelSpecError> {
    let as_object = |v: &Value| v.as_object().cloned();
    let (object, path) = match keys.optional("rope_parameters", "an object", as_object)? {
        Some(object) => (object, "rope_parameters."),
        None => {
            let object = keys.optional("rope_scaling", "an object or null", as_object)?;
            (object.unwrap_or_default(), "rope_scaling.")
        }
    };
    let outer = Keys { object: &object, path };
    let part = |name| outer.optional(name, "an object", as_object);
    let (full, full_path) = match part("full_attention")? {
        Some(full) => (full, "rope_parameters.full_attention."),
        None => (object.clone(), path),
    };
    let full = Keys { object: &full, path: full_path };

    let theta = match full.optional_number("rope_theta")? {
        Some(theta) => theta,
        None => keys.optional_number("rope_theta")?.unwrap_or(family.rope_theta),
    };
    let mut local_theta = match keys.optional_number("rope_local_base_freq")? {
        Some(theta) if family.rope_local_base_freq.is_some() => Some(theta),
        _ => family.rope_local_base_freq,
    };
    if let Some(object) = part("sliding_attention")? {
        let sliding = Keys { object: &object, path: "rope_parameters.sliding_attention." };
        if scaling_of(keys, sliding)?.is_some() {
            let found = format!("is {}", object.get("rope_type").unwrap_or(&Value::Null));
            return Err(sliding.wrong("rope_type", found, "default"));
        }
        local_theta = sliding.optional_number("rope_theta")?.or(local_theta);
    }
    let partial = match full.optional_number("partial_rotary_factor")? {
        Some(partial) => partial,
        None => keys.optional_number("partial_rotary_factor")?.unwrap_or(1.0),
    };
    if partial > 1.0 || (partial < 1.0 && !family.partial_rotary) {
        let expected = if family.partial_rotary { "at most 1" } else { "1 for this architecture" };
        return Err(full.wrong("partial_rotary_factor", format!("is {partial}"), expected));
    }
    Ok(Rope { theta, scaling: scaling_of(keys, full)?, local_theta, partial })
}

fn scaling_of(config: Keys<'_>, rope: Keys<'_>) -> Result<Option<RopeScaling>, ModelSpecError> {
    let kind = match rope.text("rope_type")? {
        Some(kind) => kind,
        None => rope.text("type")?.unwrap_or_else(|| "default".into()),
    };
    Ok(match kind.as_str() {
        "default" => None,
        "linear" => Some(RopeScaling::Linear { factor: rope.number("factor")? }),
        "llama3" => Some(RopeScaling::Llama3 {
            factor: rope.number("factor")?,
            low_freq_factor: rope.number("low_freq_factor")?,
            high_freq_factor: rope.number("high_freq_factor")?,
            original_max_position_embeddings: rope.count("original_max_position_embeddings")?,
        }),
        // Phi-3's first release called it `su`.
        "longrope" | "su" => Some(long_rope_of(config, rope)?),
        _ => {
            return Err(rope.wrong(
                "rope_type",
                format!("is \"{}\"", kind.escape_debug()),
                "default, linear, llama3 or longrope",
            ));
        }
    })
}

/// The original context stands inside or outside; where both, the outer wins, as in transformers.
fn long_rope_of(config: Keys<'_>, rope: Keys<'_>) -> Result<RopeScaling, ModelSpecError> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = match config.optional_count(ORIGINAL)? {
        Some(count) => count,
        None => rope.count(ORIGINAL)?,
    };
    let factor = match rope.optional_number("factor")? {
        Some(factor) => factor,
        None => config.count("max_position_embeddings")? as f64 / original as f64,
    };
    let recommended = (1.0 + factor.max(1.0).ln() / (original as f64).ln()).sqrt();
    Ok(RopeScaling::LongRope {
        short_factor: rope.required("short_factor", NUMBERS, numbers)?,
        long_factor: rope.required("long_factor", NUMBERS, numbers)?,
        original_max_position_embeddings: original,
        attention_factor: rope.optional_number("attention_factor")?.unwrap_or(recommended),
    })
}

const NUMBERS: &str = "a list of positive numbers";

fn numbers(value: &Value) -> Option<Vec<f64>> {
    value.as_array()?.iter().map(positive_number).collect()
}
