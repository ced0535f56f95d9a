//! From a [`Sample`] to a [`Row`]: which tokens, and which of them are learned.

use std::ops::Range;

use fleetune_shared::ModelSpec;
use fleetune_shared::recipe::DataSettings;

use super::batch::{IGNORED, Row};
use super::format::Sample;
use super::guard::{Guard, Guarded};
use super::template::{ChatTemplate, Rendered};
use super::tokenizer::{Encoded, Tokenizer};
use crate::{EngineError, Result};

/// Everything that turns words into tokens.
pub(super) struct Encoder<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) template: Option<ChatTemplate>,
    eos_id: Result<u32, String>,
    settings: &'a DataSettings,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        spec: &ModelSpec,
        settings: &'a DataSettings,
    ) -> Result<Self> {
        tokenizer.check_fits(spec)?;
        Ok(Self {
            tokenizer,
            template: ChatTemplate::of(tokenizer)?,
            // Only texts without a template need it, so its absence is an error there and not here.
            eos_id: tokenizer.eos_id(spec).map_err(|e| e.to_string()),
            settings,
        })
    }

    /// The row a sample becomes, and which of its assistant turns, counted from 1, cannot be learned.
    pub(super) fn row(&self, sample: Sample) -> Result<(Row, Vec<usize>)> {
        let whole = |row| Ok((row, Vec::new()));
        match sample {
            Sample::Tokens(row) => whole(row),
            Sample::Text { prompt, completion } => whole(self.text(&prompt, &completion)?),
            Sample::Plain(text) => whole(self.plain(text)?),
            Sample::Chat { conversation, completion_from } => {
                let template = self.template.as_ref().ok_or_else(|| {
                    EngineError::input(format!(
                        "a conversation needs a chat template, and {} has none; \
                         name one as `chat_template`, or give one as `chat_template_path`",
                        self.tokenizer.path().display()
                    ))
                })?;
                let (only_answers, from) = match completion_from {
                    Some(from) => (self.settings.completion_only_loss, from),
                    None => (self.settings.assistant_only_loss, 0),
                };
                if !only_answers {
                    let rendered = template.text(&conversation, self.tokenizer)?;
                    let encoded = self.tokenizer.encode_guarded(&rendered.guarded)?;
                    let all = vec![true; encoded.ids.len()];
                    return whole(labelled(encoded.ids, &all));
                }
                let rendered = template.spans(&conversation, self.tokenizer, from)?;
                let encoded = self.tokenizer.encode_guarded(&rendered.guarded)?;
                let mask = self.mask(&rendered, &encoded)?;
                Ok((labelled(encoded.ids, &mask), rendered.lost))
            }
        }
    }

    /// A text, its continuation, and EOS.
    fn text(&self, prompt: &str, completion: &str) -> Result<Row> {
        let guarded = Guard::text(self.tokenizer.specials(), &format!("{prompt}{completion}"));
        // Stand-ins are longer than what they stand for, so the boundary is counted in characters.
        let boundary = guarded.text.char_indices().nth(prompt.chars().count());
        let boundary = boundary.map_or(guarded.text.len(), |(at, _)| at);
        let encoded = self.tokenizer.encode_guarded(&guarded)?;
        let mut ids = self.tokenizer.prefix_ids().to_vec();
        let mut mask = vec![!self.settings.completion_only_loss; ids.len()];
        let learned =
            |range: &Range<usize>| !self.settings.completion_only_loss || range.end > boundary;
        mask.extend(encoded.ranges.iter().map(learned));
        ids.extend(encoded.ids);
        ids.push(self.eos_id.clone().map_err(EngineError::Input)?);
        mask.push(true);
        Ok(labelled(ids, &mask))
    }

    /// A text as it is, between BOS and EOS where it does not have them itself.
    fn plain(&self, text: String) -> Result<Row> {
        let encoded = self.tokenizer.encode_guarded(&Guarded { text, pairs: Vec::new() })?;
        let prefix = self.tokenizer.prefix_ids();
        let mut ids = if encoded.ids.starts_with(prefix) { Vec::new() } else { prefix.to_vec() };
        ids.extend(encoded.ids);
        let eos = self.eos_id.clone().map_err(EngineError::Input)?;
        if ids.last() != Some(&eos) {
            ids.push(eos);
        }
        let all = vec![true; ids.len()];
        Ok(labelled(ids, &all))
    }

    /// Tokens of the assistant's spans; each span gets the special token that ends it, if it is not inside already.
    fn mask(&self, rendered: &Rendered, encoded: &Encoded) -> Result<Vec<bool>> {
        let mut mask = vec![false; encoded.ids.len()];
        for (i, span) in rendered.spans.iter().enumerate() {
            let tokens = tokens_of(encoded, span);
            mask[tokens.clone()].fill(true);
            let ends =
                |at: usize| encoded.ids.get(at).is_some_and(|id| self.tokenizer.is_special(*id));
            if tokens.clone().any(ends) {
                continue;
            }
            if !ends(tokens.end) {
                return Err(EngineError::input(format!(
                    "assistant turn {} ends without a special token, so the model would not learn to stop; \
                     end it with {{{{ eos_token }}}} in the chat template",
                    i + 1
                )));
            }
            mask[tokens.end] = true;
        }
        Ok(mask)
    }
}

/// The tokens that share a character with `span`.
pub(super) fn tokens_of(encoded: &Encoded, span: &Range<usize>) -> Range<usize> {
    let first = encoded.ranges.partition_point(|range| range.end <= span.start);
    let end = encoded.ranges.partition_point(|range| range.start < span.end);
    first..end.max(first)
}

fn labelled(ids: Vec<u32>, mask: &[bool]) -> Row {
    let labels =
        ids.iter().zip(mask).map(|(id, on)| if *on { i64::from(*id) } else { IGNORED }).collect();
    Row { input_ids: ids, labels }
}
