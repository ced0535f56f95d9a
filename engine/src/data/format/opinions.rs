//! Rows of opinions: two answers of which one was preferred, or one answer that was wanted or not.
//!
//! An answer is what follows a prompt. Where both answers of a pair are given whole, the prompt is what they have in
//! common at their beginning (TRL's implicit prompt).

use serde_json::Value;

use super::columns::{Columns, given, list, names, required, text, text_if_any};
use super::{Line, Sample, chats};
use crate::data::batch::{IGNORED, Row};
use crate::data::conversation::{Message, Role, brief};

/// `prompt`, `chosen` and `rejected` as texts or messages, `prompt` perhaps left out; `conversations`, `messages` or
/// alpaca's `instruction` in the prompt's place (LLaMA-Factory's ranking data); or `prompt_ids`, `chosen_ids` and
/// `rejected_ids`.
pub(super) fn pair(columns: &Columns, vocab_size: usize) -> Result<Line, String> {
    let both = |of: &dyn Fn(&str) -> Result<Sample, String>| {
        let (chosen, rejected) = (of("chosen")?, of("rejected")?);
        if chosen == rejected {
            return Err("`chosen` and `rejected` are the same, so there is nothing to prefer; \
                        leave the row out"
                .to_owned());
        }
        Ok(Line::Pair(Box::new([chosen, rejected])))
    };
    if columns.contains_key("chosen_ids") {
        return both(&|name| {
            tokens(columns, "prompt_ids", &format!("{name}_ids"), vocab_size).map(Sample::Tokens)
        });
    }
    match prompt(columns)? {
        Prompt::Messages(prompt) => {
            both(&|name| chat(columns, prompt.clone(), answer(columns, name)?, name))
        }
        Prompt::Text(prompt) if !conversational(columns, "chosen") => {
            both(&|name| plain(prompt, text(columns, name)?, name))
        }
        // A prompt in words beside answers that are whole conversations repeats what they begin with.
        Prompt::None | Prompt::Text(_) if conversational(columns, "chosen") => {
            let (chosen, rejected) = (answer(columns, "chosen")?, answer(columns, "rejected")?);
            let shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            let prompt = &chosen[..shared];
            both(&|name| {
                let whole = if name == "chosen" { &chosen } else { &rejected };
                chat(columns, prompt.to_vec(), whole[shared..].to_vec(), name)
            })
        }
        Prompt::None | Prompt::Text(_) => {
            let (chosen, rejected) = (text(columns, "chosen")?, text(columns, "rejected")?);
            let prompt = shared_text(chosen, rejected);
            both(&|name| {
                let whole = if name == "chosen" { chosen } else { rejected };
                plain(prompt, &whole[prompt.len()..], name)
            })
        }
    }
}

/// `prompt`, `completion` and `label` as texts or messages; `messages` or `conversations`, whose last turn is the
/// answer, and `label`; or `prompt_ids`, `completion_ids` and `label`.
pub(super) fn verdict(columns: &Columns, vocab_size: usize) -> Result<Line, String> {
    let label = if given(columns, "label").is_some() { "label" } else { "kto_tag" };
    if given(columns, label).is_none() {
        return Err(format!(
            "column `label` is missing, expected true for a wanted answer or false; found {}",
            names(columns)
        ));
    }
    let desirable = match required(columns, label)? {
        Value::Bool(label) => *label,
        Value::Number(number) if number.as_u64() == Some(1) => true,
        Value::Number(number) if number.as_u64() == Some(0) => false,
        other => {
            return Err(format!("column `{label}` is {}, expected true or false", brief(other)));
        }
    };
    let answer = if columns.contains_key("completion_ids") {
        Sample::Tokens(tokens(columns, "prompt_ids", "completion_ids", vocab_size)?)
    } else if given(columns, "completion").is_some() {
        match prompt(columns)? {
            Prompt::Messages(prompt) => {
                chat(columns, prompt, answer(columns, "completion")?, "completion")?
            }
            Prompt::Text(prompt) => plain(prompt, text(columns, "completion")?, "completion")?,
            Prompt::None => {
                return Err(format!("column `prompt` is missing; found {}", names(columns)));
            }
        }
    } else {
        let Prompt::Messages(mut messages) = prompt(columns)? else {
            return Err(format!(
                "columns are {}, expected `prompt` and `completion`, or `messages`, beside `label`",
                names(columns)
            ));
        };
        let last = messages.pop().filter(|last| last.role == Role::Assistant);
        let last = last.ok_or("the last message is not by `assistant`, so no answer is judged")?;
        chat(columns, messages, vec![last], "the last message")?
    };
    Ok(Line::Judged(answer, desirable))
}

enum Prompt<'a> {
    None,
    Text(&'a str),
    Messages(Vec<Message>),
}

fn prompt(columns: &Columns) -> Result<Prompt<'_>, String> {
    let system = || -> Result<Vec<Message>, String> {
        let system = text_if_any(columns, "system")?;
        Ok(Vec::from_iter(system.map(|text| Message::new(Role::System, text))))
    };
    if let Some(prompt) = given(columns, "prompt") {
        return match prompt {
            Value::Array(_) => Ok(Prompt::Messages(chats::messages(columns, "prompt")?)),
            _ => Ok(Prompt::Text(text(columns, "prompt")?)),
        };
    }
    for name in ["conversations", "messages"] {
        if given(columns, name).is_some() {
            let mut messages = system()?;
            messages.extend(turns(list(columns, name)?, name)?);
            return Ok(Prompt::Messages(messages));
        }
    }
    if given(columns, "instruction").is_some() {
        let mut question = text(columns, "instruction")?.to_owned();
        if let Some(input) = text_if_any(columns, "input")? {
            question = format!("{question}\n\n{input}");
        }
        let mut messages = system()?;
        messages.push(Message::new(Role::User, question));
        return Ok(Prompt::Messages(messages));
    }
    Ok(Prompt::None)
}

fn turns(items: &[Value], name: &str) -> Result<Vec<Message>, String> {
    let items = items.iter().enumerate();
    items.map(|(i, item)| chats::turn(item).map_err(|why| format!("`{name}[{i}]` {why}"))).collect()
}

fn conversational(columns: &Columns, name: &str) -> bool {
    matches!(columns.get(name), Some(Value::Array(_) | Value::Object(_)))
}

/// Messages of an answer: a list, a single one, or its text alone.
fn answer(columns: &Columns, name: &str) -> Result<Vec<Message>, String> {
    match required(columns, name)? {
        Value::Array(items) => turns(items, name),
        one @ Value::Object(_) => {
            Ok(vec![chats::turn(one).map_err(|why| format!("`{name}` {why}"))?])
        }
        _ => Ok(vec![Message::new(Role::Assistant, text(columns, name)?)]),
    }
}

fn chat(
    columns: &Columns,
    prompt: Vec<Message>,
    answer: Vec<Message>,
    name: &str,
) -> Result<Sample, String> {
    let says = |m: &Message| m.content().is_none_or(|text| !text.trim().is_empty());
    if !answer.iter().any(says) {
        return Err(empty(name));
    }
    let completion_from = Some(prompt.len());
    let messages = prompt.into_iter().chain(answer).collect();
    Ok(Sample::Chat { conversation: chats::conversation(messages, columns)?, completion_from })
}

fn plain(prompt: &str, completion: &str, name: &str) -> Result<Sample, String> {
    if completion.trim().is_empty() {
        return Err(empty(name));
    }
    Ok(Sample::Text { prompt: prompt.to_owned(), completion: completion.to_owned() })
}

fn empty(name: &str) -> String {
    let name = if name.contains(' ') { name.to_owned() } else { format!("`{name}`") };
    format!("{name} is empty, so there is nothing to judge; leave the row out")
}

/// What two texts have in common at their beginning, without a space at its end, which belongs to the answers.
fn shared_text<'a>(chosen: &'a str, rejected: &str) -> &'a str {
    let same = chosen.char_indices().zip(rejected.chars()).find(|((_, a), b)| a != b);
    let end = same.map_or(chosen.len().min(rejected.len()), |((at, _), _)| at);
    let shared = &chosen[..end];
    shared.strip_suffix(' ').unwrap_or(shared)
}

/// A prompt's ids and an answer's, of which the latter are learned.
fn tokens(columns: &Columns, prompt: &str, answer: &str, vocab_size: usize) -> Result<Row, String> {
    let ids = |name: &str| -> Result<Vec<u32>, String> {
        let id = |(i, value): (usize, &Value)| {
            let id = value.as_u64().filter(|id| *id < vocab_size as u64);
            id.map(|id| id as u32).ok_or_else(|| {
                format!("`{name}[{i}]` is {}, expected 0 to {}", brief(value), vocab_size - 1)
            })
        };
        list(columns, name)?.iter().enumerate().map(id).collect()
    };
    let (prompt, answer_ids) = (ids(prompt)?, ids(answer)?);
    if answer_ids.is_empty() {
        return Err(empty(answer));
    }
    let labels = std::iter::repeat_n(IGNORED, prompt.len())
        .chain(answer_ids.iter().map(|id| i64::from(*id)))
        .collect();
    Ok(Row { input_ids: [prompt, answer_ids].concat(), labels })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::data::conversation::Conversation;

    fn columns(value: Value) -> Columns {
        value.as_object().unwrap().clone()
    }

    fn understood(value: Value) -> [Sample; 2] {
        match pair(&columns(value), 100).unwrap() {
            Line::Pair(pair) => *pair,
            other => panic!("{other:?}"),
        }
    }

    fn said(sample: &Sample) -> (Vec<String>, usize) {
        let Sample::Chat { conversation: Conversation { messages, .. }, completion_from } = sample
        else {
            panic!("{sample:?}")
        };
        let say = |m: &Message| format!("{}: {}", m.role.name(), m.content().unwrap_or_default());
        (messages.iter().map(say).collect(), completion_from.unwrap())
    }

    #[test]
    fn every_layout_of_a_pair_is_the_same_pair() {
        let user = json!({"role": "user", "content": "why?"});
        let yes = json!({"role": "assistant", "content": "yes"});
        let no = json!({"role": "assistant", "content": "no"});
        let expected =
            |last: &str| (vec!["user: why?".to_owned(), format!("assistant: {last}")], 1);
        for row in [
            json!({"prompt": [user], "chosen": [yes], "rejected": [no]}),
            json!({"prompt": [user], "chosen": "yes", "rejected": "no"}),
            json!({"chosen": [user, yes], "rejected": [user, no]}),
            json!({"prompt": "why?", "chosen": [user, yes], "rejected": [user, no]}),
            json!({"messages": [user], "chosen": yes, "rejected": no}),
            json!({"instruction": "why?", "input": "", "chosen": "yes", "rejected": "no"}),
            json!({
                "conversations": [{"from": "human", "value": "why?"}],
                "chosen": {"from": "gpt", "value": "yes"},
                "rejected": {"from": "gpt", "value": "no"},
            }),
        ] {
            let [chosen, rejected] = understood(row.clone());
            assert_eq!(
                (said(&chosen), said(&rejected)),
                (expected("yes"), expected("no")),
                "{row}"
            );
        }
    }

    #[test]
    fn texts_share_their_prompt() {
        for row in [
            json!({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}),
            json!({"chosen": "The sky is blue.", "rejected": "The sky is green."}),
        ] {
            let text = |completion: &str| Sample::Text {
                prompt: "The sky is".into(),
                completion: completion.into(),
            };
            assert_eq!(understood(row), [text(" blue."), text(" green.")]);
        }
    }

    #[test]
    fn tokens_are_taken_as_they_are() {
        let row = json!({"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]});
        let [chosen, _] = understood(row);
        let row = Row { input_ids: vec![1, 2, 3], labels: vec![IGNORED, IGNORED, 3] };
        assert_eq!(chosen, Sample::Tokens(row));
    }

    #[test]
    fn pairs_that_teach_nothing_are_refused() {
        for (row, part) in [
            (json!({"prompt": "a", "chosen": "b", "rejected": "b"}), "are the same"),
            (json!({"prompt": "a", "chosen": " ", "rejected": "b"}), "`chosen` is empty"),
            (json!({"chosen": "ab", "rejected": "a"}), "`rejected` is empty"),
            (json!({"prompt": "a", "chosen": "b"}), "column `rejected` is missing"),
            (json!({"prompt": "a", "chosen": 3, "rejected": "b"}), "`chosen` is `3`"),
            (json!({"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": []}), "is empty"),
            (json!({"prompt_ids": [1], "chosen_ids": [200], "rejected_ids": [1]}), "0 to 99"),
        ] {
            let refused = pair(&columns(row), 100).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn verdicts_come_with_answers() {
        let user = json!({"role": "user", "content": "why?"});
        let yes = json!({"role": "assistant", "content": "yes"});
        for (row, expected) in [
            (json!({"prompt": [user], "completion": [yes], "label": true}), true),
            (json!({"messages": [user, yes], "label": false}), false),
            (json!({"conversations": [user, yes], "kto_tag": 1}), true),
        ] {
            let Line::Judged(answer, desirable) = verdict(&columns(row), 100).unwrap() else {
                panic!()
            };
            assert_eq!(said(&answer).1, 1);
            assert_eq!(desirable, expected);
        }
        for (row, part) in [
            (json!({"messages": [user, yes]}), "column `label` is missing"),
            (json!({"messages": [user, yes], "label": "yes"}), "expected true or false"),
            (json!({"messages": [user], "label": true}), "not by `assistant`"),
            (json!({"completion": "x", "label": true}), "column `prompt` is missing"),
        ] {
            let refused = verdict(&columns(row), 100).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
