//! From a [`Sample`] to a [`Row`]: which tokens, and which of them are learned.

use std::ops::Range;

use fleetune_shared::ModelSpec;
use fleetune_shared::recipe::{DataSettings, OverLength, TruncationMode};

use super::batch::{IGNORED, Row};
use super::format::Sample;
use super::guard::{Guard, Guarded};
use super::template::{ChatTemplate, Rendered};
use super::tokenizer::{Encoded, Tokenizer};
use crate::{EngineError, Result};

/// A text of this size is always tokenised.
const TEXT_BYTES_ALWAYS: usize = 1 << 20;

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
                    let encoded = self.encode(rendered.guarded)?;
                    let all = vec![true; encoded.ids.len()];
                    return whole(labelled(encoded.ids, &all));
                }
                let Rendered { guarded, spans, lost } =
                    template.spans(&conversation, self.tokenizer, from)?;
                let whole = guarded.text.len();
                let encoded = self.encode(guarded)?;
                let mask = self.mask(&spans, &encoded, whole)?;
                Ok((labelled(encoded.ids, &mask), lost))
            }
        }
    }

    /// Tokens of a text. What stands so far behind that it cannot fit into `max_length` is refused, or left out where
    /// the settings cut or drop: a word of many megabytes would take a tokenizer minutes and gigabytes.
    fn encode(&self, mut guarded: Guarded) -> Result<Encoded> {
        let DataSettings { max_length, over_length, truncation, packing, .. } = self.settings;
        // Normalisation may shrink a text, but never to a quarter.
        let most = max_length * self.tokenizer.token_bytes_max() * 4 + TEXT_BYTES_ALWAYS;
        let bytes = guarded.text.len();
        if bytes > most && !packing.splits() {
            match (over_length, truncation) {
                (OverLength::Error, _) => {
                    return Err(EngineError::input(format!(
                        "{bytes} bytes of text, far longer than `max_length` {max_length}; raise `max_length`, or \
                         choose `over_length: truncate` or `drop`"
                    )));
                }
                (OverLength::Truncate, TruncationMode::KeepEnd) => {}
                _ => {
                    let end = (0..=most).rev().find(|at| guarded.text.is_char_boundary(*at));
                    guarded.text.truncate(end.unwrap_or_default());
                }
            }
        }
        self.tokenizer.encode_guarded(&guarded)
    }

    /// A text, its continuation, and EOS.
    fn text(&self, prompt: &str, completion: &str) -> Result<Row> {
        let guarded = Guard::text(self.tokenizer.specials(), &format!("{prompt}{completion}"));
        // Stand-ins are longer than what they stand for, so the boundary is counted in characters.
        let boundary = guarded.text.char_indices().nth(prompt.chars().count());
        let boundary = boundary.map_or(guarded.text.len(), |(at, _)| at);
        let encoded = self.encode(guarded)?;
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
        let encoded = self.encode(Guarded { text, pairs: Vec::new() })?;
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
    ///
    /// `whole` is the length of the text, of which `encoded` may be the beginning only.
    fn mask(&self, spans: &[Range<usize>], encoded: &Encoded, whole: usize) -> Result<Vec<bool>> {
        let mut mask = vec![false; encoded.ids.len()];
        let read = encoded.ranges.last().map_or(0, |last| last.end);
        for (i, span) in spans.iter().enumerate() {
            let tokens = tokens_of(encoded, span);
            mask[tokens.clone()].fill(true);
            if tokens.end == mask.len() && span.end > read && read < whole {
                // The rest of it is too far behind to be learned.
                break;
            }
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
