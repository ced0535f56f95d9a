//! Colours, where there is someone to see them: on a terminal, unless `NO_COLOR` is set.

use std::io::IsTerminal;

/// Whether colours are used, and how wide a line may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) colour: bool,
    /// `None` where nobody looks: lines are as long as they are.
    pub(crate) width: Option<u16>,
}

/// What a colour means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colour {
    Good,
    Bad,
    Waiting,
    Active,
    Quiet,
    Strong,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::Waiting => "33",
            Self::Active => "36",
            Self::Quiet => "2",
            Self::Strong => "1",
        }
    }
}

impl Style {
    /// Neither colours nor a width.
    pub(crate) const PLAIN: Self = Self { colour: false, width: None };

    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        if !stream.is_terminal() {
            return Self::PLAIN;
        }
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let width = ratatui::crossterm::terminal::size().ok().map(|(columns, _)| columns.max(40));
        Self { colour: !unwanted, width }
    }

    /// For text that is set in by `columns`.
    pub(crate) fn narrower(self, columns: u16) -> Self {
        Self { width: self.width.map(|width| width.saturating_sub(columns)), ..self }
    }

    /// The text in a colour.
    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        if self.colour && !text.is_empty() {
            format!("\u{1b}[{}m{text}\u{1b}[0m", colour.code())
        } else {
            text.to_owned()
        }
    }
}
