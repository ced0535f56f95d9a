//! An adapter that is not attached to a model.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use fleetune_shared::peft::{AdapterLayout, AdapterShape, ModuleKind};
use fleetune_shared::{AdapterConfig, ModelSpec};

use crate::model::Identity;
use crate::{EngineError, Result};

/// A configuration and, for each adapted module, its tensors.
#[derive(Clone, Debug)]
pub struct Adapter {
    config: AdapterConfig,
    /// By module, such as `model.layers.0.self_attn.q_proj`.
    layers: BTreeMap<String, Layer>,
    /// What is trained whole, by the base's names, such as `lm_head.weight`; `None` in a fresh adapter, which begins
    /// with the base's own.
    whole: Option<BTreeMap<String, Tensor>>,
    /// The model it learned beside; `None` where nobody noted it.
    base: Option<Identity>,
}

/// What is laid beside one module. All tensors are f32.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A low-rank product, arXiv 2106.09685.
    Lora(LoraLayer),
    /// A scale for each input or output, arXiv 2205.05638.
    Scale(ScaleLayer),
}

/// `W + s·B·A`, and with magnitudes (DoRA, arXiv 2402.09353) each row of that stretched to its magnitude.
#[derive(Clone, Debug)]
pub struct LoraLayer {
    /// `[r, in]`; of an embedding `[r, vocabulary]`.
    pub a: Tensor,
    /// `[out, r]`; of an embedding `[hidden, r]`, where the weight is the transpose of B·A.
    pub b: Tensor,
    /// `[out]`, added to what B makes.
    pub bias: Option<Tensor>,
    /// `[out]`, of a DoRA adapter. A fresh one has none: it takes the lengths of the base's rows when it is attached.
    pub magnitude: Option<Tensor>,
    /// `s`.
    pub scaling: f64,
    /// Whether the module is an embedding.
    pub embedding: bool,
}

/// `l ⊙ (W·x + b)`, or `W·(l ⊙ x) + b` in the feed-forward half.
#[derive(Clone, Debug)]
pub struct ScaleLayer {
    /// `[out, 1]`, or `[1, in]` in the feed-forward half, as PEFT keeps it.
    pub scale: Tensor,
    /// Whether it is the input that is scaled.
    pub feedforward: bool,
}

impl Layer {
    /// Sizes of the module this was made for: out, in.
    pub(super) fn features(&self) -> Result<(Option<usize>, Option<usize>)> {
        Ok(match self {
            Self::Lora(LoraLayer { a, b, .. }) => (Some(b.dim(0)?), Some(a.dim(1)?)),
            Self::Scale(ScaleLayer { scale, feedforward: false }) => (Some(scale.dim(0)?), None),
            Self::Scale(ScaleLayer { scale, feedforward: true }) => (None, Some(scale.dim(1)?)),
        })
    }
}

impl Adapter {
    /// From parts; the caller has checked them against one another.
    pub(crate) fn of(
        config: AdapterConfig,
        layers: BTreeMap<String, Layer>,
        whole: Option<BTreeMap<String, Tensor>>,
    ) -> Self {
        Self { config, layers, whole, base: None }
    }

    /// The same, of a known base.
    #[must_use]
    pub(crate) fn with_base(mut self, base: Option<Identity>) -> Self {
        self.base = base;
        self
    }

    /// The model it learned beside; `None` in an adapter that was not made here.
    #[must_use]
    pub fn base(&self) -> Option<&Identity> {
        self.base.as_ref()
    }

    /// Says so where this adapter learned beside another model than the one at `model`, which is read only if the
    /// adapter tells of its base.
    ///
    /// # Errors
    /// As [`Identity::of`].
    pub fn stranger_to(&self, model: &Path) -> Result<Option<String>> {
        let Some(base) = &self.base else { return Ok(None) };
        if base.is(&Identity::of(model)?) {
            return Ok(None);
        }
        let named = self.config.base_model_name_or_path.as_deref();
        let named = named.map_or_else(String::new, |name| format!(", `{}`", name.escape_debug()));
        Ok(Some(format!(
            "the adapter was trained on another base{named}: its weights are not those of {}",
            model.display()
        )))
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// The same, dropping inputs with probability `p` while it learns.
    #[must_use]
    pub(crate) fn with_dropout(mut self, p: f64) -> Self {
        self.config.lora_dropout = p;
        self
    }

    /// What lies beside `module`, such as `model.layers.0.self_attn.q_proj`.
    #[must_use]
    pub fn layer(&self, module: &str) -> Option<&Layer> {
        self.layers.get(module)
    }

    /// Adapted modules and what lies beside them.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Layer)> {
        self.layers.iter().map(|(module, layer)| (module.as_str(), layer))
    }

    /// Tensors that replace the base's, by its names: modules trained whole, and biases.
    pub fn whole(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.whole.iter().flatten().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Takes the tensor `name` of a module that is not the base's, and the module out of the configuration.
    pub(crate) fn take_whole(&mut self, name: &str, module: &str) -> Option<Tensor> {
        if let Some(modules) = &mut self.config.modules_to_save {
            modules.retain(|other| other != module);
        }
        self.whole.as_mut()?.remove(name)
    }

    pub(crate) fn into_parts(
        self,
    ) -> (AdapterConfig, BTreeMap<String, Layer>, Option<BTreeMap<String, Tensor>>) {
        (self.config, self.layers, self.whole)
    }

    /// Checks that a model of this shape has every adapted module, in this adapter's sizes, and that no module the
    /// configuration asks for lacks its tensors.
    ///
    /// # Errors
    /// [`EngineError::Input`] naming the module.
    pub fn fits(&self, spec: &ModelSpec) -> Result<AdapterLayout> {
        let wrong = |why: String| Err(EngineError::input(format!("adapter: {why}")));
        let layout = match self.config.layout(spec) {
            Ok(layout) => layout,
            Err(error) => return wrong(format!("{error}; was it trained on another base?")),
        };
        for module in &layout.modules {
            let name = &module.name;
            let Some(layer) = self.layer(name) else {
                return wrong(format!("target_modules asks for `{name}`, which has no tensors"));
            };
            let (out, inp) = layer.features()?;
            let (out, inp) =
                (out.unwrap_or(module.out_features), inp.unwrap_or(module.in_features));
            let embedding = matches!(layer, Layer::Lora(LoraLayer { embedding: true, .. }));
            if (out, inp) != (module.out_features, module.in_features)
                || embedding != (module.kind == ModuleKind::Embedding)
            {
                return wrong(format!(
                    "`{name}` is {inp} → {out}, the model's is {} → {}; was it trained on another base?",
                    module.in_features, module.out_features
                ));
            }
            if let (Layer::Lora(LoraLayer { a, .. }), AdapterShape::Lora { r, .. }) =
                (layer, module.shape)
                && a.dim(0)? != r
            {
                return wrong(format!(
                    "`{name}` is of rank {}, its configuration says {r}",
                    a.dim(0)?
                ));
            }
        }
        let known = |name: &str| layout.modules.iter().any(|module| module.name == name);
        match self.layers.keys().find(|name| !known(name)) {
            None => Ok(layout),
            Some(module) => wrong(format!(
                "the model has no module `{}` for it; was it trained on another base?",
                module.escape_debug()
            )),
        }
    }
}
