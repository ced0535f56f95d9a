//! The same prompts answered before and after, side by side.

use serde_json::{Value, json};

use super::{Colour, Show, Style, plain};

/// One prompt and its two answers.
pub(crate) struct Answer {
    pub(crate) prompt: String,
    pub(crate) before: String,
    pub(crate) after: String,
}

pub(crate) struct Answers(pub(crate) Vec<Answer>);

impl Show for Answers {
    fn table(&self, style: Style) -> String {
        let width = usize::from(style.width.unwrap_or(100).clamp(60, 120));
        // Whoever shows this may set it in by two.
        let column = (width - 5) / 2;
        let mut lines = Vec::new();
        let mut side_by_side = |left: &str, right: &str, colours: (Colour, Colour)| {
            let (left, right) = (wrapped(left, column), wrapped(right, column));
            for i in 0..left.len().max(right.len()) {
                let at = |side: &[String]| side.get(i).cloned().unwrap_or_default();
                let (l, r) = (at(&left), at(&right));
                let gap = " ".repeat(column.saturating_sub(l.chars().count()));
                let line =
                    format!("{}{gap} │ {}", style.paint(colours.0, &l), style.paint(colours.1, &r));
                lines.push(line.trim_end().to_owned());
            }
        };
        side_by_side("BEFORE", "AFTER", (Colour::Quiet, Colour::Quiet));
        for answer in &self.0 {
            side_by_side("", "", (Colour::Quiet, Colour::Quiet));
            let prompt = format!("▸ {}", plain(&answer.prompt));
            side_by_side(&prompt, &prompt, (Colour::Strong, Colour::Strong));
            let (before, after) = (plain(&answer.before), plain(&answer.after));
            side_by_side(before.trim(), after.trim(), (Colour::Waiting, Colour::Good));
        }
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let one = |a: &Answer| json!({"prompt": a.prompt, "before": a.before, "after": a.after});
        self.0.iter().map(one).collect()
    }

    fn quiet(&self) -> String {
        self.0.iter().map(|a| a.after.trim().replace('\n', " ")).collect::<Vec<_>>().join("\n")
    }
}

/// Lines of at most `width` characters, broken at spaces where there are some.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            let mut word: Vec<char> = word.chars().collect();
            if !line.is_empty() && line.chars().count() + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
            }
            while word.len() > width {
                lines.push(word.drain(..width).collect());
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_stand_side_by_side_and_wrap() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefgh", 3), ["abc", "def", "gh"]);
        let answers = Answers(vec![Answer {
            prompt: "Who?".into(),
            before: "dunno dunno dunno dunno dunno dunno dunno dunno dunno".into(),
            after: "Fleetune.".into(),
        }]);
        insta::assert_snapshot!(answers.table(Style { colour: false, width: Some(60) }));
    }
}
