//! The `{% generation %}` tag of transformers: it marks what the assistant wrote.
//!
//! minijinja has no tags of one's own, so the tag is rewritten, before compilation, into a block that prints a
//! mark; the marks are found and taken out of the rendered text. The block stands where the tag stood, with the
//! same whitespace control, so trimming works as it did.

/// Context variables that hold the marks.
pub(super) const OPEN: &str = "__generation_open__";
pub(super) const CLOSE: &str = "__generation_close__";

/// The source with the tag rewritten, and whether it was there.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let mut found = false;
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match rest.as_bytes().get(1) {
            Some(b'#') => rest.find("#}").map(|end| end + 2),
            Some(b'{') => end_of_code(rest, "}}"),
            Some(b'%') => end_of_code(rest, "%}"),
            _ => Some(1),
        };
        // An unclosed tag is the compiler's to refuse.
        let (tag, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        match name(tag) {
            Some("generation") => out.push_str(&print(tag, OPEN)),
            Some("endgeneration") => out.push_str(&print(tag, CLOSE)),
            Some("raw") => {
                let (raw, after) = rest.split_at(end_of_raw(rest).unwrap_or(rest.len()));
                out.push_str(tag);
                out.push_str(raw);
                rest = after;
                continue;
            }
            _ => {
                out.push_str(tag);
                continue;
            }
        }
        found = true;
    }
    out.push_str(rest);
    (out, found)
}

/// The end of a tag, not looking inside quotes.
fn end_of_code(text: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if text[at..].starts_with(close) => return Some(at + close.len()),
            None => {}
        }
    }
    None
}

/// Where `{% endraw %}` begins.
fn end_of_raw(text: &str) -> Option<usize> {
    text.match_indices("{%").map(|(at, _)| at).find(|at| name(&text[*at..]) == Some("endraw"))
}

/// The first word of a block tag.
fn name(tag: &str) -> Option<&str> {
    let inside = tag.strip_prefix("{%")?;
    let inside = inside.strip_prefix(['-', '+']).unwrap_or(inside).trim_start();
    let end = inside.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inside.len());
    Some(&inside[..end])
}

/// `{%- generation -%}` → `{%- if true %}{{ mark }}{% endif -%}`.
fn print(tag: &str, mark: &str) -> String {
    let control = |at: Option<char>| at.filter(|c| matches!(c, '-' | '+')).map(String::from);
    let left = control(tag.chars().nth(2)).unwrap_or_default();
    let right = control(tag.chars().rev().nth(2)).unwrap_or_default();
    format!("{{%{left} if true %}}{{{{ {mark} }}}}{{% endif {right}%}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tag_itself_is_rewritten() {
        for same in [
            "",
            "{",
            "{% if generation %}{{ '{% generation %}' }}{% endif %}",
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{% endraw %}",
            "{{ \"\\\"{% generation %}\" }}",
            "{% unclosed",
        ] {
            assert_eq!(rewrite(same), (same.to_owned(), false));
        }
        let (text, found) = rewrite("a{%- generation +%}b{% endgeneration %}c");
        assert!(found);
        assert_eq!(
            text,
            "a{%- if true %}{{ __generation_open__ }}{% endif +%}b\
             {% if true %}{{ __generation_close__ }}{% endif %}c"
        );
    }
}
