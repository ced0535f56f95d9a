//! A model, an adapter, a tokenizer and a template: everything it takes to ask something.

use std::path::Path;

use candle_core::Tensor;

use super::sample::{End, NextLogits, Settings, generate};
use super::stream::TextStream;
use crate::data::{ChatTemplate, Conversation, Tokenizer};
use crate::model::{KvCache, Model};
use crate::{EngineError, Result, adapter};

/// A loaded model that answers.
pub struct Answerer {
    model: Model,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    stop_ids: Vec<u32>,
    warning: Option<String>,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The text, without special tokens.
    pub text: String,
    /// Its tokens, the one that ended it included.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub end: End,
}

impl Answerer {
    /// Loads a model folder or GGUF file, and a PEFT adapter folder to lay beside it.
    ///
    /// # Errors
    /// What is wrong with any of the files.
    pub fn load(model_path: &Path, adapter_path: Option<&Path>) -> Result<Self> {
        let mut tokenizer = Tokenizer::load(model_path)?;
        let adapter = adapter_path.map(adapter::load).transpose()?;
        let warning = adapter.as_ref().map(|adapter| adapter.stranger_to(model_path));
        let warning = warning.transpose()?.flatten();
        let mut model = Model::load(model_path)?;
        if let Some(path) = adapter_path {
            // An adapter that learned another template than the model's brings it along.
            let template = path.join("chat_template.jinja");
            if template.exists() {
                tokenizer.use_chat_template(&template)?;
            }
        }
        if let Some(adapter) = adapter {
            model.attach(adapter)?;
        }
        Ok(Self { warning, ..Self::new(model, tokenizer)? })
    }

    /// What makes answers doubtful: an adapter that was trained on another base.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Takes what is already loaded.
    ///
    /// # Errors
    /// A tokenizer that does not belong to the model, or a template that does not compile.
    pub fn new(model: Model, tokenizer: Tokenizer) -> Result<Self> {
        tokenizer.check_fits(model.spec())?;
        let template = ChatTemplate::of(&tokenizer)?;
        let mut stop_ids = tokenizer.stop_ids(model.spec());
        // The token that ends a turn in the template is not always called EOS.
        let turn_end = template.as_ref().and_then(|template| template.turn_end(&tokenizer));
        stop_ids.extend(turn_end.filter(|id| !stop_ids.contains(id)));
        Ok(Self { model, tokenizer, template, stop_ids, warning: None })
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Ids that end an answer.
    #[must_use]
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Answers a conversation, telling `piece` the text as it grows. A model without a chat template continues the
    /// last message as plain text.
    ///
    /// # Errors
    /// A template that refuses the conversation, a prompt longer than the model's context, or a device that failed.
    pub fn answer(
        &self,
        conversation: &Conversation,
        settings: &Settings,
        piece: impl FnMut(&str),
    ) -> Result<Answer> {
        match &self.template {
            Some(template) => {
                let prompt = template.prompt(conversation, &self.tokenizer)?;
                self.run(&prompt, settings, piece)
            }
            None => self.complete(conversation.last_text(), settings, piece),
        }
    }

    /// Continues a text without any template.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn complete(
        &self,
        text: &str,
        settings: &Settings,
        piece: impl FnMut(&str),
    ) -> Result<Answer> {
        let mut prompt = self.tokenizer.prefix_ids().to_vec();
        prompt.extend(self.tokenizer.encode(text)?);
        self.run(&prompt, settings, piece)
    }

    fn run(
        &self,
        prompt: &[u32],
        settings: &Settings,
        mut piece: impl FnMut(&str),
    ) -> Result<Answer> {
        let context = self.model.spec().max_position_embeddings;
        if prompt.len() >= context {
            return Err(EngineError::input(format!(
                "the prompt has {} tokens, the model's context {context}; shorten the prompt",
                prompt.len()
            )));
        }
        let mut settings = settings.clone();
        settings.max_new_tokens = settings.max_new_tokens.min(context - prompt.len());
        settings.stop_ids.extend(&self.stop_ids);
        let mut model = Remembering { model: &self.model, cache: KvCache::new() };
        let mut stream = TextStream::new(&self.tokenizer);
        let generation = generate(&mut model, prompt, &settings, |id| {
            if let Some(text) = stream.push(id)? {
                piece(&text);
            }
            Ok(())
        })?;
        if let Some(text) = stream.finish()? {
            piece(&text);
        }
        let text = self.tokenizer.decode_plain(&generation.ids)?;
        Ok(Answer { text, ids: generation.ids, end: generation.end })
    }
}

/// A model and what it has read so far.
struct Remembering<'a> {
    model: &'a Model,
    cache: KvCache,
}

impl NextLogits for Remembering<'_> {
    fn next_logits(&mut self, tokens: &[u32]) -> Result<Tensor> {
        self.model.step(tokens, &mut self.cache)
    }
}
