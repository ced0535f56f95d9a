//! Names of an adapter's tensors in PEFT's files.

use fleetune_shared::AdapterConfig;
use fleetune_shared::recipe::LoraBias;

/// What every key begins with.
const PREFIX: &str = "base_model.model.";

/// Which tensor of a module's adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    A,
    B,
    BBias,
    Magnitude,
    EmbeddingA,
    EmbeddingB,
    Scale,
}

const HALVES: [(Half, &str); 8] = [
    (Half::A, ".lora_A.weight"),
    (Half::B, ".lora_B.weight"),
    (Half::BBias, ".lora_B.bias"),
    (Half::Magnitude, ".lora_magnitude_vector"),
    // As PEFT 0.9 wrote it.
    (Half::Magnitude, ".lora_magnitude_vector.weight"),
    (Half::EmbeddingA, ".lora_embedding_A"),
    (Half::EmbeddingB, ".lora_embedding_B"),
    (Half::Scale, ".ia3_l"),
];

/// The key of one tensor of `module`'s adapter.
pub(crate) fn key(module: &str, half: Half) -> String {
    let suffix = HALVES.iter().find(|(other, _)| *other == half).map_or("", |(_, suffix)| suffix);
    format!("{PREFIX}{module}{suffix}")
}

/// The key of a tensor of the base that is trained whole. PEFT's wrapper puts a segment of its own into the name of an
/// adapted module's bias.
pub(crate) fn whole_key(name: &str, adapted: bool) -> String {
    match name.strip_suffix(".bias").filter(|_| adapted) {
        Some(module) => format!("{PREFIX}{module}.base_layer.bias"),
        None => format!("{PREFIX}{name}"),
    }
}

/// What a key of the file stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// One tensor of a module's adapter.
    Of(&'a str, Half),
    /// A tensor of the base, by its name, that the adapter replaces.
    Whole(String),
    /// A copy of a tensor of the base, which PEFT stores beside an adapted embedding.
    Copy,
    /// Not a key of PEFT's.
    Foreign,
    /// None of the kinds above.
    Unknown,
}

pub(super) fn meaning<'a>(key: &'a str, config: &AdapterConfig) -> Meaning<'a> {
    let Some(rest) = key.strip_prefix(PREFIX) else { return Meaning::Foreign };
    for (half, suffix) in HALVES {
        if let Some(module) = rest.strip_suffix(suffix) {
            return Meaning::Of(module, half);
        }
    }
    let name = rest.replace(".base_layer.", ".");
    let Some((module, tensor)) = name.rsplit_once('.') else { return Meaning::Unknown };
    if config.saves_whole(module) || (tensor == "bias" && config.bias != LoraBias::None) {
        return Meaning::Whole(name);
    }
    let table = module.ends_with("embed_tokens") || module.ends_with("lm_head");
    if table { Meaning::Copy } else { Meaning::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let config = AdapterConfig {
            modules_to_save: Some(vec!["lm_head".into()]),
            bias: LoraBias::All,
            ..AdapterConfig::default()
        };
        let module = "model.layers.0.self_attn.q_proj";
        for (half, _) in HALVES {
            assert_eq!(meaning(&key(module, half), &config), Meaning::Of(module, half));
        }
        for name in ["lm_head.weight", "model.layers.0.self_attn.q_proj.bias"] {
            for adapted in [false, true] {
                let key = whole_key(name, adapted);
                assert_eq!(meaning(&key, &config), Meaning::Whole(name.into()), "{key}");
            }
        }
        let of = |key| meaning(key, &config);
        assert_eq!(of("base_model.model.model.embed_tokens.base_layer.weight"), Meaning::Copy);
        assert_eq!(of("model.layers.0.self_attn.q_proj.lora_A.weight"), Meaning::Foreign);
        assert_eq!(
            of("base_model.model.model.layers.0.self_attn.q_proj.hada_w1_a"),
            Meaning::Unknown
        );
    }
}
