//! Text from elsewhere, made safe to show, and errors as people read them.

use crate::failure::Report;

use super::{Colour, Style};

/// Escapes what would move the cursor, ring the bell or turn text around; newlines and tabs stay.
pub(crate) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push('\n'),
            '\t' => safe.push_str("    "),
            c if c.is_control() || turns_text(c) => safe.extend(c.escape_unicode()),
            c => safe.push(c),
        }
    }
    safe
}

/// As [`plain`], on one line.
pub(crate) fn plain_line(text: &str) -> String {
    plain(text.trim_end()).replace('\n', "\\n")
}

fn turns_text(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

/// At most `most` characters, the last one an ellipsis where something was left out.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// `error: …`, its numbers, `hint: …`.
pub(super) fn error(report: &Report, style: Style) -> String {
    let mut text = format!("{} {}", style.paint(Colour::Bad, "error:"), plain(&report.message));
    if let Some(detail) = &report.detail {
        text += "\n\n";
        text += &detail.text;
        text += "\n";
    }
    if let Some(hint) = &report.hint {
        text += &format!("\n{} {}", style.paint(Colour::Active, "hint:"), plain(hint));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_text_never_reaches_the_terminal_as_a_command() {
        let cleared = plain("a\u{1b}[2Jb\u{7}\r\u{202e}c\td");
        assert_eq!(cleared, "a\\u{1b}[2Jb\\u{7}\\u{d}\\u{202e}c    d");
        assert_eq!(plain_line("one\ntwo\n"), "one\\ntwo");
    }

    #[test]
    fn long_text_is_shortened_visibly() {
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("größe", 5), "größe");
    }
}
