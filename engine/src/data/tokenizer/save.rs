//! A tokenizer as Hugging Face stores it, for a model whose own came inside a GGUF file.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::processors::template::TemplateProcessing;

use super::{Tokenizer, fault};
use crate::{EngineError, Result};

impl Tokenizer {
    /// Writes `tokenizer.json`, `tokenizer_config.json` (special tokens, chat template) and `generation_config.json`
    /// (what ends a generation) into `folder`, which exists. [`Self::load`] reads them to the same tokenizer.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join("tokenizer.json");
        let mut inner = self.inner.clone();
        if let (None, Some(bos), [_]) = (inner.get_post_processor(), &self.bos, &*self.prefix_ids) {
            // A GGUF file says in a flag what a `tokenizer.json` says in a template.
            let template = TemplateProcessing::builder()
                .try_single(format!("{}:0 $A:0", bos.text))
                .and_then(|template| {
                    template
                        .special_tokens(vec![(bos.text.clone(), bos.id)])
                        .build()
                        .map_err(|e| e.to_string())
                })
                .map_err(|e| fault(&path, e))?;
            inner.with_post_processor(Some(template));
        }
        let text = inner.to_string(false).map_err(|e| fault(&path, e))?;
        write(&path, &text)?;

        let mut config = Map::from_iter([
            ("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into()),
            ("clean_up_tokenization_spaces".to_owned(), false.into()),
        ]);
        for (name, text) in &self.template_names {
            config.insert(name.clone(), text.clone().into());
        }
        if let Some((template, _)) = &self.chat_template {
            config.insert("chat_template".into(), template.clone().into());
        }
        write(&folder.join("tokenizer_config.json"), &format!("{:#}\n", Value::from(config)))?;
        let generation = json!({
            "bos_token_id": self.bos.as_ref().map(|token| token.id),
            "eos_token_id": self.stop_ids,
        });
        write(&folder.join("generation_config.json"), &format!("{generation:#}\n"))
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|e| EngineError::io(path, e))
}
