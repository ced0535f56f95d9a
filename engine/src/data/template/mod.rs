//! Chat templates: from a conversation to the text a model was trained on, and to the spans its assistant wrote.
//!
//! Jinja by minijinja, set up as transformers sets Jinja2 up (`trim_blocks`, `lstrip_blocks`, loop controls,
//! Python's string methods, `raise_exception`, Python's JSON). Templates come with models, so they are not trusted:
//! no loader, a fixed budget of work and bytes. `strftime_now` is absent on purpose: a run must not depend on the
//! day it is started.
//!
//! The assistant's spans come from `{% generation %}` where the template has it. Where it has not, turn `i` lies
//! between `render(messages[..i], add_generation_prompt)` and `render(messages[..=i])`, provided that both are
//! beginnings of the whole. A template that rewrites earlier turns (Qwen3 drops their reasoning) is found out here:
//! what it rewrites is not learned, and said.

mod builtin;
mod generation;
#[cfg(test)]
mod parity;
mod python;

use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::path::Path;

use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, context};

use super::conversation::{Conversation, Message, Role};
use super::guard::{Guard, Guarded};
use super::tokenizer::Tokenizer;
use crate::{EngineError, Result};

/// Longest text a template may write for one conversation.
const OUTPUT_BYTES_MAX: usize = 8 << 20;
/// minijinja's fuel: one per instruction and per 64 bytes made. A second of work, far above any real template.
const FUEL: u64 = 5_000_000;
const NAME: &str = "chat";

pub(super) use self::builtin::named;

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    place: String,
    marks_generation: bool,
    eos_token: Option<String>,
}

/// A conversation as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) guarded: Guarded,
    /// What the assistant wrote, in bytes of `guarded.text`; ordered, disjoint, touching ones joined.
    pub(crate) spans: Vec<Range<usize>>,
    /// Messages by the assistant, counted from 1, that cannot be learned because the template rewrites them once
    /// later ones follow.
    pub(crate) lost: Vec<usize>,
}

/// A conversation whose texts carry stand-ins, ready for several renderings that can be compared.
struct Shielded {
    messages: Vec<Value>,
    tools: Value,
    pairs: Vec<(char, char)>,
    open: char,
    close: char,
}

impl ChatTemplate {
    /// The template of a tokenizer, if it has one.
    ///
    /// # Errors
    /// A template that does not compile, by file and line.
    pub fn of(tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let Some((source, path)) = tokenizer.chat_template() else { return Ok(None) };
        Self::compile(source, path, tokenizer.template_names()).map(Some)
    }

    fn compile(source: &str, path: &Path, names: &[(String, String)]) -> Result<Self> {
        let place = format!("{}: chat template", path.display());
        let (source, marks_generation) = generation::rewrite(source);
        let mut env = Environment::new();
        let mut syntax = minijinja::syntax::SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        env.set_syntax(syntax.build().map_err(|e| fault(&place, &e))?);
        env.set_auto_escape_callback(|_| AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.set_fuel(Some(FUEL));
        env.add_filter("tojson", |value: Value, options| python::tojson(&value, options));
        env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("it refuses this conversation: {message}"),
            ))
        });
        for (name, text) in names {
            env.add_global(name.clone(), text.clone());
        }
        env.add_template_owned(NAME, source).map_err(|e| fault(&place, &e))?;
        let eos_token = names.iter().find(|(name, _)| name == "eos_token");
        let eos_token = eos_token.map(|(_, text)| text.clone());
        Ok(Self { env, place, marks_generation, eos_token })
    }

    /// Token ids that make the model answer: the conversation and the opening of the assistant's turn.
    ///
    /// # Errors
    /// What the template refuses, by line.
    pub fn prompt(&self, conversation: &Conversation, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let shielded = Shielded::new(conversation, tokenizer);
        let (text, _) = self.render(&shielded, shielded.messages.len(), true)?;
        let guarded = Guarded { text, pairs: shielded.pairs };
        Ok(tokenizer.encode_guarded(&guarded)?.ids)
    }

    /// The special token that ends an assistant's turn, tried on a small conversation.
    pub(crate) fn turn_end(&self, tokenizer: &Tokenizer) -> Option<u32> {
        let (question, answer) = ("question", "answer");
        let messages =
            vec![Message::new(Role::User, question), Message::new(Role::Assistant, answer)];
        let conversation = Conversation { messages, tools: None };
        let rendered = self.spans(&conversation, tokenizer, 0).ok()?;
        let span = rendered.spans.first()?;
        let text = &rendered.guarded.text;
        let end = span.start + text[span.clone()].find(answer)? + answer.len();
        let encoded = tokenizer.encode_guarded(&rendered.guarded).ok()?;
        let tokens = encoded.ranges.iter().zip(&encoded.ids);
        let after = tokens.filter(|(range, _)| range.start >= end).map(|(_, id)| *id);
        after.into_iter().find(|id| tokenizer.is_special(*id))
    }

    /// The whole conversation without the assistant's spans.
    pub(crate) fn text(
        &self,
        conversation: &Conversation,
        tokenizer: &Tokenizer,
    ) -> Result<Rendered> {
        let shielded = Shielded::new(conversation, tokenizer);
        let (text, _) = self.render(&shielded, shielded.messages.len(), false)?;
        let turns: Vec<usize> = conversation.assistant_turns().collect();
        self.check_nothing_dropped(conversation, &shielded, &turns, &text)?;
        self.check_nothing_ignored(conversation, &shielded, &text)?;
        let guarded = Guarded { text, pairs: shielded.pairs };
        Ok(Rendered { guarded, spans: Vec::new(), lost: Vec::new() })
    }

    /// The whole conversation and the spans of its assistant turns from message `from` on, but for those the row
    /// excepts.
    ///
    /// # Errors
    /// What the template refuses; something it drops; turns none of which can be located.
    pub(crate) fn spans(
        &self,
        conversation: &Conversation,
        tokenizer: &Tokenizer,
        from: usize,
    ) -> Result<Rendered> {
        let shielded = Shielded::new(conversation, tokenizer);
        let (text, marked) = self.render(&shielded, shielded.messages.len(), false)?;
        self.check_nothing_ignored(conversation, &shielded, &text)?;
        let wanted: Vec<usize> = conversation
            .assistant_turns()
            .filter(|i| *i >= from && conversation.messages[*i].learned)
            .collect();
        let (turns, lost) = if self.marks_generation {
            (self.marked(conversation, &wanted, marked)?, Vec::new())
        } else {
            self.located(&shielded, &text, &wanted)?
        };
        let found: Vec<usize> = wanted.into_iter().filter(|i| !lost.contains(&(i + 1))).collect();
        let written: String = turns.iter().map(|span| &text[span.clone()]).collect();
        self.check_nothing_dropped(conversation, &shielded, &found, &written)?;
        let guarded = Guarded { text, pairs: shielded.pairs };
        Ok(Rendered { guarded, spans: turns, lost })
    }

    /// Of the spans that `{% generation %}` marked, those of the messages `wanted`.
    fn marked(
        &self,
        conversation: &Conversation,
        wanted: &[usize],
        marked: Vec<Range<usize>>,
    ) -> Result<Vec<Range<usize>>> {
        let turns: Vec<usize> = conversation.assistant_turns().collect();
        if marked.len() < turns.len() {
            return Err(self.refuse(format!(
                "writes {} {{% generation %}} blocks for {} assistant turns; put one around every assistant turn",
                marked.len(),
                turns.len()
            )));
        }
        if wanted == turns {
            return Ok(marked);
        }
        if marked.len() > turns.len() {
            return Err(self.refuse(format!(
                "writes {} {{% generation %}} blocks for {} assistant turns, so they cannot be told apart where only \
                 some turns are learned; put one around every assistant turn",
                marked.len(),
                turns.len()
            )));
        }
        let pairs = turns.iter().zip(marked).filter(|(turn, _)| wanted.contains(turn));
        Ok(pairs.map(|(_, span)| span).collect())
    }

    /// Spans of the messages `wanted`, by comparing beginnings of the conversation with the whole, and which of them
    /// (counted from 1) cannot be told.
    fn located(
        &self,
        shielded: &Shielded,
        whole: &str,
        wanted: &[usize],
    ) -> Result<(Vec<Range<usize>>, Vec<usize>)> {
        let (mut spans, mut lost) = (Vec::new(), Vec::new());
        let mut reason = None;
        for i in wanted {
            match self.turn(shielded, whole, *i)? {
                Ok(span) => spans.push(span),
                Err(why) => {
                    lost.push(i + 1);
                    reason.get_or_insert(why);
                }
            }
        }
        match reason {
            Some(why) if spans.is_empty() => Err(self.refuse(format!(
                "message {}, by the assistant, cannot be located: {why}; give a template with {{% generation %}} \
                 blocks as `chat_template_path`, train conversations of one answer, or set \
                 `assistant_only_loss: false`",
                lost[0]
            ))),
            _ => Ok((spans, lost)),
        }
    }

    /// Where message `i` stands in the whole, or why that cannot be told.
    fn turn(
        &self,
        shielded: &Shielded,
        whole: &str,
        i: usize,
    ) -> Result<Result<Range<usize>, &'static str>> {
        let (prompt, _) = self.render(shielded, i, true)?;
        if !whole.starts_with(&prompt) {
            return Ok(Err("what stands before it is rendered differently in a prompt"));
        }
        let (upto, _) = self.render(shielded, i + 1, false)?;
        // Some templates end every text, not every turn, with EOS.
        let upto = if i + 1 < shielded.messages.len() && !whole.starts_with(&upto) {
            self.eos_token.as_deref().and_then(|eos| upto.strip_suffix(eos)).unwrap_or(&upto)
        } else {
            &upto
        };
        if !whole.starts_with(upto) {
            return Ok(Err("it is rendered differently once later messages follow"));
        }
        if upto.len() <= prompt.len() {
            return Ok(Err("the template drops it"));
        }
        Ok(Ok(prompt.len()..upto.len()))
    }

    /// Makes sure that what each of `turns` says, and which functions it calls, stands in the text, in order.
    fn check_nothing_dropped(
        &self,
        conversation: &Conversation,
        shielded: &Shielded,
        turns: &[usize],
        written: &str,
    ) -> Result<()> {
        let mut rest = written;
        for i in turns {
            let message = &conversation.messages[*i];
            let content = shielded.messages[*i].get_attr("content").unwrap_or_default();
            let content = message.content().and(content.as_str()).unwrap_or_default();
            // Templates may take reasoning out of the history; the answer behind it must stay.
            let answer = content.rsplit("</think>").next().unwrap_or(content).trim();
            let at = rest.find(answer);
            let called = message.calls().all(|function| rest.contains(function));
            let Some(at) = at.filter(|_| called) else {
                return Err(self.refuse(format!(
                    "drops what the assistant {} in message {}; use a template that renders it",
                    if called { "says" } else { "calls" },
                    i + 1
                )));
            };
            rest = &rest[at + answer.len()..];
        }
        Ok(())
    }

    /// Makes sure that the tools, and what the assistant thought before its last turn, stand in the text.
    fn check_nothing_ignored(
        &self,
        conversation: &Conversation,
        shielded: &Shielded,
        text: &str,
    ) -> Result<()> {
        let tools = conversation.tools.iter().filter_map(|tools| tools.as_array()).flatten();
        let mut names = tools.filter_map(|tool| tool["function"]["name"].as_str());
        if let Some(name) = names.find(|name| !text.contains(name)) {
            return Err(self.refuse(format!(
                "drops the tool `{name}`; use a template that renders `tools`, such as `chat_template: qwen`, or \
                 leave that column out"
            )));
        }
        let Some((last, message)) = conversation.messages.iter().enumerate().next_back() else {
            return Ok(());
        };
        if message.reasoning().is_some() {
            let thought = shielded.messages[last].get_attr("reasoning_content").unwrap_or_default();
            if !text.contains(thought.as_str().unwrap_or_default().trim()) {
                return Err(self.refuse(format!(
                    "drops the reasoning of message {}; use a template that renders it, or leave it out",
                    last + 1
                )));
            }
        }
        Ok(())
    }

    /// The text of the first `count` messages and the spans marked in it.
    fn render(
        &self,
        shielded: &Shielded,
        count: usize,
        add_generation_prompt: bool,
    ) -> Result<(String, Vec<Range<usize>>)> {
        let template = self.env.get_template(NAME).map_err(|e| fault(&self.place, &e))?;
        let context = context! {
            messages => shielded.messages[..count].to_vec(),
            tools => shielded.tools.clone(),
            documents => (),
            add_generation_prompt,
            __generation_open__ => shielded.open.to_string(),
            __generation_close__ => shielded.close.to_string(),
        };
        let mut output = Bounded::default();
        let result = template.render_captured_to(context, &mut output);
        if output.overflowed {
            return Err(self.refuse(format!(
                "writes more than {} MiB for one conversation; it repeats itself, use another template",
                OUTPUT_BYTES_MAX >> 20
            )));
        }
        result.map_err(|e| fault(&self.place, &e))?;
        let marked = String::from_utf8(output.bytes).map_err(|e| {
            self.refuse(format!("writes what is no UTF-8 at byte {}", e.utf8_error().valid_up_to()))
        })?;
        Ok(take_marks(&marked, shielded.open, shielded.close))
    }

    fn refuse(&self, why: impl std::fmt::Display) -> EngineError {
        EngineError::input(format!("{}: {why}", self.place))
    }
}

impl Shielded {
    fn new(conversation: &Conversation, tokenizer: &Tokenizer) -> Self {
        let objects: Vec<serde_json::Value> =
            conversation.messages.iter().map(|message| message.value.clone().into()).collect();
        let mut guard = Guard::new(tokenizer.specials(), objects.iter().chain(&conversation.tools));
        let open = guard.unused();
        let close = guard.unused();
        let messages = objects.iter().map(|object| Value::from(Serde(guard.shield_value(object))));
        let messages = messages.collect();
        let tools = conversation.tools.as_ref().map(|tools| guard.shield_value(tools));
        let tools = tools.map_or(Value::from(()), |tools| Value::from(Serde(tools)));
        Self { messages, tools, pairs: guard.pairs, open, close }
    }
}

/// The text without marks, and what stood between them.
fn take_marks(marked: &str, open: char, close: char) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut begun = None;
    for c in marked.chars() {
        if c == open {
            begun = Some(text.len());
        } else if c == close {
            match (begun.take(), spans.last_mut()) {
                (Some(start), Some(last)) if last.end == start => last.end = text.len(),
                (Some(start), _) => spans.push(start..text.len()),
                (None, _) => {}
            }
        } else {
            text.push(c);
        }
    }
    (text, spans)
}

fn fault(place: &str, error: &Error) -> EngineError {
    let mut text = place.to_owned();
    if let Some(line) = error.line() {
        // A String never fails to take text.
        let _ = write!(text, " line {line}");
    }
    let why = match error.kind() {
        ErrorKind::OutOfFuel => "it loops for too long; use another template".to_owned(),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    EngineError::input(format!("{text}: {why}"))
}

/// Takes what a template writes, up to a limit.
#[derive(Debug, Default)]
struct Bounded {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + more.len() > OUTPUT_BYTES_MAX {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(more);
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
