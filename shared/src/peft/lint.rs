//! What other programs will say to an adapter.

use serde::Serialize;

use super::AdapterConfig;
use crate::recipe::{LoraBias, PeftType};

/// One thing a program cannot do with an adapter, or must be told first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lint {
    /// The program.
    pub reader: Reader,
    /// What, and what to do.
    pub message: String,
}

/// Programs that read adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Reader {
    /// Hugging Face's own.
    #[serde(rename = "PEFT")]
    Peft,
    /// The server.
    #[serde(rename = "vLLM")]
    Vllm,
    /// By way of a GGUF file.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
}

impl Reader {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Peft, Self::Vllm, Self::LlamaCpp];

    /// How it calls itself.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Peft => "PEFT",
            Self::Vllm => "vLLM",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

/// Ranks vLLM's `--max-lora-rank` may be; the second is what it is unless told.
const VLLM_RANKS: [usize; 9] = [8, 16, 32, 64, 128, 256, 320, 512, usize::MAX];

impl AdapterConfig {
    /// What PEFT, vLLM and llama.cpp will say to an adapter of this configuration; nothing where they take it as it is.
    #[must_use]
    pub fn lints(&self) -> Vec<Lint> {
        let mut lints = Vec::new();
        let mut say = |reader, message: String| lints.push(Lint { reader, message });
        if self.base_model_name_or_path.is_none() {
            let why = "`base_model_name_or_path` is missing: load the base yourself and put the adapter on it";
            say(Reader::Peft, why.into());
        }
        if self.init_lora_weights.changes_base() {
            let why = "`init_lora_weights` began by changing the base, which is changed again at every load";
            say(Reader::Peft, why.into());
        }
        let saved = self.modules_to_save.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
        for reader in [Reader::Vllm, Reader::LlamaCpp] {
            let lora = self.peft_type == PeftType::Lora;
            let unserved = [
                (!lora, "IA³ is not supported".to_owned()),
                (lora && self.use_dora, "DoRA is not supported".to_owned()),
                (
                    lora && (self.lora_bias || self.bias != LoraBias::None),
                    "biases are not applied".to_owned(),
                ),
                (!saved.is_empty(), format!("modules_to_save ({saved}) are not applied")),
                (
                    self.init_lora_weights.changes_base(),
                    "it belongs to a base that was changed, not to the one on disk".to_owned(),
                ),
            ];
            for (_, why) in unserved.into_iter().filter(|(is, _)| *is) {
                say(reader, format!("{why}; merge it into its base and serve that"));
            }
        }
        if self.peft_type == PeftType::Lora {
            self.ranks_of_vllm(&mut say);
        }
        lints
    }

    fn ranks_of_vllm(&self, say: &mut impl FnMut(Reader, String)) {
        let rank = self.rank_pattern.values().copied().chain([self.r]).max().unwrap_or(self.r);
        let fits = VLLM_RANKS.into_iter().find(|max| rank <= *max).unwrap_or(usize::MAX);
        if fits == usize::MAX {
            let why = format!(
                "rank {rank} is more than the 512 it can take; combine it by svd to a lower one"
            );
            say(Reader::Vllm, why);
        } else if rank > VLLM_RANKS[1] {
            say(
                Reader::Vllm,
                format!("rank {rank}: start it with --max-lora-rank {fits}, the default is 16"),
            );
        }
        if !self.rank_pattern.is_empty() || !self.alpha_pattern.is_empty() {
            let why = "rank_pattern and alpha_pattern are ignored, so some modules get a wrong factor; merge it into \
                       its base and serve that";
            say(Reader::Vllm, why.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(config: &AdapterConfig) -> Vec<String> {
        config.lints().into_iter().map(|l| format!("{}: {}", l.reader.name(), l.message)).collect()
    }

    #[test]
    fn a_plain_adapter_is_taken_by_all_and_a_special_one_by_few() {
        let plain = AdapterConfig {
            base_model_name_or_path: Some("base".into()),
            ..AdapterConfig::default()
        };
        assert_eq!(said(&plain), Vec::<String>::new());
        let check = |config: AdapterConfig, parts: &[&str]| {
            let said = said(&config);
            assert_eq!(said.len(), parts.len(), "{said:?}");
            for (said, part) in said.iter().zip(parts) {
                assert!(said.contains(part), "{said} has no {part}");
            }
        };
        let with = || plain.clone();
        check(
            AdapterConfig { r: 24, ..with() },
            &["vLLM: rank 24: start it with --max-lora-rank 32"],
        );
        check(AdapterConfig { r: 1024, ..with() }, &["vLLM: rank 1024 is more than the 512"]);
        check(AdapterConfig { r: 16, ..with() }, &[]);
        check(AdapterConfig { use_dora: true, ..with() }, &["vLLM: DoRA", "llama.cpp: DoRA"]);
        check(
            AdapterConfig { modules_to_save: Some(vec!["lm_head".into()]), ..with() },
            &["vLLM: modules_to_save (lm_head)", "llama.cpp: modules_to_save"],
        );
        check(
            AdapterConfig { peft_type: PeftType::Ia3, ..with() },
            &["vLLM: IA³", "llama.cpp: IA³"],
        );
        let pattern = [("q_proj".to_owned(), 64)].into();
        check(
            AdapterConfig { rank_pattern: pattern, ..with() },
            &["vLLM: rank 64: start", "vLLM: rank_pattern"],
        );
        check(AdapterConfig::default(), &["PEFT: `base_model_name_or_path` is missing"]);
    }
}
