//! Keeps what people wrote apart from what the template wrote.
//!
//! A tokenizer turns the text `<|im_end|>` into a control token wherever it stands, also inside a message: whoever
//! writes the data could then open and close turns. So before a template sees a message, the first character of
//! every special token inside it is replaced by a stand-in, a private-use character that occurs nowhere else; the
//! tokenizer looks for special tokens first and puts the characters back second ([`super::Tokenizer`]). One
//! character for one character, so that a template's tests and trims see the text they expect.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Map, Value};

/// Supplementary Private Use Area-A: no character of any language.
const STAND_INS: Range<u32> = 0xF_0000..0xF_FFFE;

/// The special tokens of a tokenizer, by their first character.
#[derive(Clone, Debug, Default)]
pub(crate) struct Specials(BTreeMap<char, Vec<String>>);

impl Specials {
    pub(crate) fn of(contents: impl IntoIterator<Item = String>) -> Self {
        let mut specials = Self::default();
        for content in contents {
            if let Some(first) = content.chars().next() {
                specials.0.entry(first).or_default().push(content);
            }
        }
        specials
    }

    /// Whether a special token begins where `rest` does, or would if more text followed its end.
    fn begins(&self, rest: &str) -> bool {
        let tokens = rest.chars().next().and_then(|first| self.0.get(&first));
        tokens.is_some_and(|tokens| {
            let open_end = rest.trim_end();
            tokens.iter().any(|token| {
                rest.starts_with(token) || (!open_end.is_empty() && token.starts_with(open_end))
            })
        })
    }
}

/// Text in which stand-ins take the place of some characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guarded {
    pub(crate) text: String,
    /// Stand-in and the character it stands for.
    pub(crate) pairs: Vec<(char, char)>,
}

#[cfg(test)]
impl Guarded {
    /// The text with every character back in its place.
    pub(crate) fn plain(&self) -> String {
        let real = |c: char| self.pairs.iter().find(|pair| pair.0 == c).map_or(c, |pair| pair.1);
        self.text.chars().map(real).collect()
    }
}

/// Hands out stand-ins for one conversation or text.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    specials: &'a Specials,
    taken: BTreeSet<char>,
    pub(crate) pairs: Vec<(char, char)>,
}

impl<'a> Guard<'a> {
    /// A guard for `texts` and whatever is derived from them.
    pub(crate) fn new<'t>(
        specials: &'a Specials,
        texts: impl IntoIterator<Item = &'t Value>,
    ) -> Self {
        let mut taken = BTreeSet::new();
        for text in texts {
            collect_stand_ins(text, &mut taken);
        }
        Self { specials, taken, pairs: Vec::new() }
    }

    /// One text alone.
    pub(crate) fn text(specials: &'a Specials, text: &str) -> Guarded {
        let taken = text.chars().filter(|c| STAND_INS.contains(&u32::from(*c))).collect();
        let mut guard = Self { specials, taken, pairs: Vec::new() };
        let text = guard.shield(text);
        Guarded { text, pairs: guard.pairs }
    }

    /// A character that occurs nowhere in the texts, for marks of the caller's own.
    pub(crate) fn unused(&mut self) -> char {
        let free = STAND_INS.filter_map(char::from_u32).find(|c| !self.taken.contains(c));
        // A text holding all 65,534 of them is no text; its last one then counts as free.
        let free = free.unwrap_or('\u{FFFFD}');
        self.taken.insert(free);
        free
    }

    /// The text with no special token left in it.
    pub(crate) fn shield(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            if self.specials.begins(&text[at..]) {
                let known = self.pairs.iter().find(|(_, real)| *real == c).map(|pair| pair.0);
                out.push(known.unwrap_or_else(|| {
                    let stand_in = self.unused();
                    self.pairs.push((stand_in, c));
                    stand_in
                }));
            } else {
                out.push(c);
            }
        }
        out
    }

    /// Every text inside a JSON value, keys included.
    pub(crate) fn shield_value(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.shield(text)),
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.shield_value(item)).collect())
            }
            Value::Object(object) => Value::Object(
                object
                    .iter()
                    .map(|(key, value)| (self.shield(key), self.shield_value(value)))
                    .collect::<Map<_, _>>(),
            ),
            other => other.clone(),
        }
    }
}

fn collect_stand_ins(value: &Value, taken: &mut BTreeSet<char>) {
    let mut collect =
        |text: &str| taken.extend(text.chars().filter(|c| STAND_INS.contains(&u32::from(*c))));
    match value {
        Value::String(text) => collect(text),
        Value::Array(items) => items.iter().for_each(|item| collect_stand_ins(item, taken)),
        Value::Object(object) => {
            object.keys().for_each(|key| collect(key));
            object.values().for_each(|value| collect_stand_ins(value, taken));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials() -> Specials {
        Specials::of(["<|im_start|>", "<|im_end|>", "[INST]"].map(String::from))
    }

    #[test]
    fn nothing_of_a_special_token_can_be_put_together() {
        for text in [
            "<|im_end|>",
            "a<|im_end|>b",
            "<|im_<|im_end|>end|>",
            "[INST][INST]",
            "ends <|im_",
            "<",
        ] {
            let guarded = Guard::text(&specials(), text);
            assert!(!guarded.text.contains("<|im_end|>") && !guarded.text.contains("[INST]"));
            assert!(!(guarded.text.clone() + "end|>").contains("<|im_end|>"), "{text}");
            assert_eq!(guarded.text.chars().count(), text.chars().count());
            assert_eq!(guarded.plain(), text);
        }
    }

    #[test]
    fn ordinary_text_is_left_alone() {
        for text in ["", "1 < 2", "<think>", "[1, 2]", "<|im_out|> "] {
            assert_eq!(Guard::text(&specials(), text).text, text);
        }
    }

    #[test]
    fn stand_ins_in_the_text_itself_survive() {
        let text = "\u{F0000}<|im_end|>\u{F0001}";
        let guarded = Guard::text(&specials(), text);
        assert_eq!(guarded.pairs, [('\u{F0002}', '<')]);
        assert_eq!(guarded.plain(), text);
    }
}
