//! What a configuration comes to on a model: which modules are adapted, in what sizes, and what is trained whole.

use super::{AdapterConfig, AdapterTargets, TargetError};
use crate::ModelSpec;
use crate::recipe::{LoraBias, LoraInit, PeftType, TargetModules};

/// What a module is to an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// A linear layer of a block.
    Linear,
    /// The linear layer that makes logits.
    Head,
    /// The table of token vectors.
    Embedding,
}

/// A module with an adapter beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptedModule {
    /// Its name in the model, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// What it is.
    pub kind: ModuleKind,
    /// Width of its output.
    pub out_features: usize,
    /// Width of its input; of an embedding, the vocabulary.
    pub in_features: usize,
    /// What is laid beside it.
    pub shape: AdapterShape,
}

/// What is laid beside a module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AdapterShape {
    /// A `[r, in]`, B `[out, r]` and, with DoRA, magnitudes `[out]`.
    Lora {
        /// Rank.
        r: usize,
        /// Factor on B·A.
        scaling: f64,
    },
    /// IA³: a scale for each input or output.
    Scale {
        /// Whether it is the input that is scaled.
        feedforward: bool,
    },
}

/// An adapter's shape on one model.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterLayout {
    /// In the model's order: the embedding, the blocks, the head.
    pub modules: Vec<AdaptedModule>,
    /// Numbers an adapter learns.
    pub parameters: u64,
    /// Numbers that lie beside the base's own while they learn: modules trained whole, and biases.
    pub copied: u64,
    /// Per token, numbers kept from the forward to the backward pass.
    pub saved_per_token: u64,
}

impl AdapterConfig {
    /// Checks that every name this configuration lists is that of a module of `model`; PEFT passes over unknown ones.
    ///
    /// # Errors
    /// [`TargetError`] naming the first one.
    pub fn names_fit(&self, model: &ModelSpec) -> Result<(), TargetError> {
        let names: Vec<_> = modules_of(model).into_iter().map(|m| (m.name, m.kind)).collect();
        let targets = AdapterTargets::of(self)?;
        match targets.unknown(&names).next() {
            None => Ok(()),
            Some(name) => Err(TargetError::new(
                "target_modules",
                name.escape_debug().to_string(),
                known_modules(model),
            )),
        }
    }

    /// What this configuration comes to on `model`.
    ///
    /// # Errors
    /// [`TargetError`] naming the key where no module is left, or one is of a kind that cannot be adapted this way.
    pub fn layout(&self, model: &ModelSpec) -> Result<AdapterLayout, TargetError> {
        let all = modules_of(model);
        let targets = AdapterTargets::of(self)?;
        let saved = self.saved_whole(model, &all)?;
        let (mut parameters, mut saved_per_token) = (saved, 0);
        let mut modules = Vec::new();
        for module in &all {
            let Some(shape) = targets.shape(&module.name, module.kind) else { continue };
            let (out, inp) = (module.out_features, module.in_features);
            let (own, kept) = match shape {
                AdapterShape::Lora { r, .. } => {
                    let magnitudes = if self.use_dora { out } else { 0 };
                    let bias = if self.lora_bias { out } else { 0 };
                    (r * (out + inp) + magnitudes + bias, r + magnitudes)
                }
                AdapterShape::Scale { feedforward: true } => (inp, 0),
                AdapterShape::Scale { feedforward: false } => (out, out),
            };
            parameters += own as u64;
            if module.kind == ModuleKind::Embedding {
                self.embedding_fits(&module.name)?;
            } else {
                saved_per_token += kept as u64;
            }
            modules.push(AdaptedModule { shape, ..module.clone() });
        }
        if modules.is_empty() && saved == 0 {
            let found = match &self.target_modules {
                TargetModules::Word(word) => word.clone(),
                TargetModules::Names(names) => names.join(", "),
            };
            let expected = format!("{}, of which some are left", known_modules(model));
            return Err(TargetError::new("target_modules", found, expected));
        }
        let biases = self.biases(model, &all, &modules);
        Ok(AdapterLayout {
            modules,
            parameters: parameters + biases,
            copied: saved + biases,
            saved_per_token,
        })
    }

    /// An embedding takes a plain LoRA pair and nothing else.
    fn embedding_fits(&self, module: &str) -> Result<(), TargetError> {
        let refuse = |key, found: &str, expected: &str| {
            Err(TargetError::new(key, found, format!("{expected} where `{module}` is adapted")))
        };
        let init = self.init_lora_weights;
        match self.peft_type {
            PeftType::Ia3 => refuse("target_modules", module, "linear layers"),
            PeftType::Lora if self.use_dora => refuse("use_dora", "true", "false"),
            PeftType::Lora if self.lora_bias => refuse("lora_bias", "true", "false"),
            PeftType::Lora
                if !matches!(init, LoraInit::Default | LoraInit::NonZero | LoraInit::Gaussian) =>
            {
                let found = serde_json::Value::from(init).to_string();
                refuse("init_lora_weights", &found, "true")
            }
            PeftType::Lora => Ok(()),
        }
    }

    /// Numbers in the modules that are trained whole.
    fn saved_whole(&self, model: &ModelSpec, all: &[AdaptedModule]) -> Result<u64, TargetError> {
        let blocks = model.num_hidden_layers;
        let norms = model.block_norms().into_iter().map(|(name, width)| (name, blocks * width));
        let modules = all.iter().map(|m| (m.name.as_str(), m.out_features * m.in_features));
        let modules: Vec<(&str, usize)> =
            modules.chain(norms).chain([("model.norm", model.hidden_size)]).collect();
        for name in self.modules_to_save.iter().flatten() {
            if !modules.iter().any(|(module, _)| module.ends_with(name.as_str())) {
                return Err(TargetError::new(
                    "modules_to_save",
                    name.escape_debug().to_string(),
                    "modules of the model, such as embed_tokens, lm_head or norm",
                ));
            }
        }
        let whole = modules.into_iter().filter(|(module, _)| self.saves_whole(module));
        let sum: usize = whole.map(|(_, numbers)| numbers).sum();
        Ok(sum as u64)
    }

    /// Numbers in the biases that learn.
    fn biases(&self, model: &ModelSpec, all: &[AdaptedModule], adapted: &[AdaptedModule]) -> u64 {
        let learns = |module: &AdaptedModule| match self.bias {
            LoraBias::None => false,
            LoraBias::All => true,
            LoraBias::LoraOnly => adapted.iter().any(|other| other.name == module.name),
        };
        let biased = all.iter().filter(|module| {
            let linear = module.name.rsplit('.').next().unwrap_or_default();
            module.kind == ModuleKind::Linear && model.has_bias(linear) && learns(module)
        });
        biased.map(|module| module.out_features as u64).sum()
    }
}

fn known_modules(model: &ModelSpec) -> String {
    let linears = model.linears().into_iter().map(|(name, ..)| name).collect::<Vec<_>>().join(", ");
    format!("names of modules ({linears}, embed_tokens, lm_head)")
}

/// Every module that can be adapted, in order; the shape is filled in later.
fn modules_of(model: &ModelSpec) -> Vec<AdaptedModule> {
    let (h, v) = (model.hidden_size, model.vocab_size);
    let of = |name: String, kind, out_features, in_features| AdaptedModule {
        name,
        kind,
        out_features,
        in_features,
        shape: AdapterShape::Scale { feedforward: false },
    };
    let mut all = vec![of("model.embed_tokens".into(), ModuleKind::Embedding, h, v)];
    for block in 0..model.num_hidden_layers {
        for (name, out, inp) in model.linears() {
            all.push(of(ModelSpec::module(block, name), ModuleKind::Linear, out, inp));
        }
    }
    all.push(of("lm_head".into(), ModuleKind::Head, v, h));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> ModelSpec {
        let config = r#"{"model_type":"llama","hidden_size":64,"intermediate_size":160,"num_hidden_layers":2,
            "num_attention_heads":4,"num_key_value_heads":2,"vocab_size":512,"max_position_embeddings":512,
            "rms_norm_eps":1e-5,"attention_bias":true}"#;
        ModelSpec::from_hf_config(config).unwrap()
    }

    fn names(names: &[&str]) -> TargetModules {
        TargetModules::Names(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn lora(targets: &[&str]) -> AdapterConfig {
        AdapterConfig { target_modules: names(targets), r: 4, ..AdapterConfig::default() }
    }

    #[test]
    fn ranks_and_alphas_follow_their_patterns() {
        let config = AdapterConfig {
            rank_pattern: [("down_proj".to_owned(), 16), (r"layers\.1\..*q_proj".to_owned(), 2)]
                .into(),
            alpha_pattern: [("layers.1.self_attn.q_proj".to_owned(), 3.0)].into(),
            ..lora(&["q_proj", "down_proj"])
        };
        let layout = config.layout(&model()).unwrap();
        let shapes: Vec<AdapterShape> = layout.modules.iter().map(|m| m.shape).collect();
        let shape = |r, scaling| AdapterShape::Lora { r, scaling };
        assert_eq!(shapes, [shape(4, 2.0), shape(16, 0.5), shape(2, 1.5), shape(16, 0.5)]);
        assert_eq!(layout.parameters, 4 * 128 + 16 * 224 + 2 * 128 + 16 * 224);
    }

    #[test]
    fn everything_that_learns_is_counted() {
        let count = |config: AdapterConfig| {
            let layout = config.layout(&model()).unwrap();
            (layout.parameters, layout.copied, layout.saved_per_token)
        };
        let plain = lora(&["q_proj", "v_proj"]);
        // q is 64 wide, v 32; two blocks.
        let pairs = 2 * 4 * (128 + 96);
        assert_eq!(count(plain.clone()), (pairs, 0, 16));
        let dora = AdapterConfig { use_dora: true, ..plain.clone() };
        assert_eq!(count(dora), (pairs + 192, 0, 16 + 192));
        let biases = AdapterConfig { bias: LoraBias::LoraOnly, ..plain.clone() };
        assert_eq!(count(biases), (pairs + 192, 192, 16));
        let all = AdapterConfig { bias: LoraBias::All, ..plain.clone() };
        assert_eq!(count(all).1, 2 * (64 + 32 + 32 + 64));
        let modules_to_save =
            Some(vec!["lm_head".into(), "embed_tokens".into(), "model.norm".into()]);
        let saved = AdapterConfig { modules_to_save, ..plain };
        let whole = 2 * 512 * 64 + 64;
        assert_eq!(count(saved), (pairs + whole, whole, 16));
        assert_eq!(count(lora(&["embed_tokens"])), (4 * (512 + 64), 0, 0));
        let ia3 = AdapterConfig {
            peft_type: PeftType::Ia3,
            feedforward_modules: Some(names(&["down_proj"])),
            ..lora(&["k_proj", "v_proj", "down_proj"])
        };
        assert_eq!(count(ia3), (2 * (32 + 32 + 160), 0, 2 * 64));
    }

    #[test]
    fn names_no_module_has_are_refused() {
        let refused = |config: AdapterConfig| config.layout(&model()).unwrap_err().to_string();
        let mixed = lora(&["q_proj", "c_attn"]);
        assert_eq!(mixed.layout(&model()).unwrap().modules.len(), 2);
        let unknown = mixed.names_fit(&model()).unwrap_err().to_string();
        assert!(
            unknown.contains("`target_modules` is c_attn") && unknown.contains("q_proj"),
            "{unknown}"
        );
        let word = TargetModules::Word("h.*".into());
        assert!(refused(AdapterConfig { target_modules: word, ..lora(&[]) }).contains("is h.*"));
        let modules_to_save = Some(vec!["score".to_owned()]);
        let message = refused(AdapterConfig { modules_to_save, ..lora(&["q_proj"]) });
        assert!(message.contains("`modules_to_save` is score"), "{message}");
        let pattern =
            AdapterConfig { rank_pattern: [("(".to_owned(), 1)].into(), ..lora(&["q_proj"]) };
        assert!(refused(pattern).contains("`rank_pattern` is `(`"));
        let ia3 = AdapterConfig { peft_type: PeftType::Ia3, ..lora(&["embed_tokens"]) };
        assert!(refused(ia3).contains("expected linear layers"));
        let dora = AdapterConfig { use_dora: true, ..lora(&["embed_tokens"]) };
        assert!(refused(dora).contains("`use_dora` is true"));
    }
}
