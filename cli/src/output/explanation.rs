//! Why a job waits or was refused: every card with its numbers.

use fleetune_shared::AgentName;
use fleetune_shared::view::{CardVerdict, Explanation, Verdict};
use serde_json::{Value, json};

use super::table::Field;
use super::{Colour, Show, Style, Table, estimate, iso, plain_line, rung, shortened};

/// The scheduler's answer about one job.
pub(crate) struct Explained<'a> {
    explanation: &'a Explanation,
    /// Where the job is, if it has a card already.
    placed_on: Option<&'a AgentName>,
}

impl<'a> Explained<'a> {
    pub(crate) fn new(explanation: &'a Explanation, placed_on: Option<&'a AgentName>) -> Self {
        Self { explanation, placed_on }
    }
}

fn word(verdict: Verdict) -> (&'static str, Colour) {
    match verdict {
        Verdict::Fits => ("fits", Colour::Good),
        Verdict::Busy => ("busy", Colour::Waiting),
        Verdict::Full => ("full", Colour::Waiting),
        Verdict::Unsuitable => ("unsuitable", Colour::Bad),
        Verdict::TooSmall => ("too small", Colour::Bad),
        Verdict::Disconnected => ("away", Colour::Bad),
        Verdict::Draining => ("draining", Colour::Waiting),
        Verdict::Closed => ("closed", Colour::Waiting),
    }
}

fn cards(explained: &Explained<'_>, style: Style) -> String {
    let columns = [
        "agent",
        "?card",
        ">memory",
        "?>reserved",
        "?>foreign",
        "?>margin",
        ">open",
        ">needed",
        "verdict",
    ];
    let mut table = Table::new(style, &columns);
    for card in &explained.explanation.cards {
        let (word, colour) = match explained.placed_on {
            Some(agent) if *agent == card.agent => ("has it", Colour::Good),
            _ => word(card.verdict),
        };
        table.row([
            card.agent.as_str().into(),
            shortened(&plain_line(&card.card.name), 28).into(),
            card.card.vram_bytes_total.to_string().into(),
            card.vram_bytes_reserved.to_string().into(),
            card.vram_bytes_foreign.to_string().into(),
            card.vram_bytes_margin.to_string().into(),
            card.vram_bytes_open.to_string().into(),
            card.vram_bytes_needed.to_string().into(),
            Field::new(word, colour),
        ]);
    }
    let text = table.text("no agents in the fleet");
    let closed = explained.explanation.cards.iter().filter(|c| c.verdict == Verdict::Closed);
    let closed = closed.filter(|c| explained.placed_on != Some(&c.agent));
    let why = |c: &CardVerdict| Some(format!("\n{}: {}", c.agent, plain_line(c.lacks.as_ref()?)));
    let closed: String = closed.filter_map(why).collect();
    if closed.is_empty() { text } else { format!("{text}\n{closed}") }
}

impl Explained<'_> {
    /// The numbers alone, for an error whose message is the summary.
    pub(crate) fn numbers(&self, style: Style) -> String {
        let Explanation { estimate, cards: verdicts, rung, .. } = self.explanation;
        let plain = verdicts.iter().all(|card| card.vram_bytes_needed == estimate.total());
        let note = match rung {
            None if !plain => {
                "\n\nneeded: the estimate for what computes there, corrected by what was learned"
            }
            Some(_) if !plain => "\n\nneeded: by what was tried and was not enough",
            _ => "",
        };
        format!("{}\n\n{}{note}", estimate::breakdown(estimate, style), cards(self, style))
    }
}

impl Show for Explained<'_> {
    fn table(&self, style: Style) -> String {
        let mut text = format!("{}\n\n", plain_line(&self.explanation.summary));
        if let Some(tried) = &self.explanation.rung {
            text += &format!("tried {}\n\n", rung::rung(tried));
        }
        if !self.explanation.ahead.is_empty() {
            let ahead: Vec<String> =
                self.explanation.ahead.iter().map(ToString::to_string).collect();
            text += &format!("ahead of it: {}\n\n", ahead.join(" "));
        }
        if let Some(ms) = self.explanation.expected_start_ms {
            text += &format!("expected to start by {}\n\n", iso(ms));
        }
        match (&self.explanation.start_note, self.explanation.expected_start_ms) {
            (Some(note), Some(_)) => text += &format!("({})\n\n", plain_line(note)),
            (Some(note), None) => {
                text += &format!("expected start unknown: {}\n\n", plain_line(note));
            }
            (None, _) => {}
        }
        text += &self.numbers(style);
        if let Some(hint) = &self.explanation.hint {
            text += &format!("\n\n{} {}", style.paint(Colour::Active, "hint:"), plain_line(hint));
        }
        text
    }

    fn json(&self) -> Value {
        let mut value = serde_json::to_value(self.explanation).unwrap_or_default();
        value["placed_on"] = json!(self.placed_on);
        value["vram_bytes_needed"] = json!(self.explanation.estimate.total());
        value
    }

    fn quiet(&self) -> String {
        plain_line(&self.explanation.summary)
    }
}

/// Jobs that were refused at submission, by name.
pub(crate) struct Refusals<'a>(pub(crate) &'a [(String, Explanation)]);

impl Refusals<'_> {
    pub(crate) fn text(&self, style: Style) -> String {
        let one = |(name, why): &(String, Explanation)| {
            if self.0.len() == 1 {
                Explained::new(why, None).numbers(style)
            } else {
                format!(
                    "{}: {}\n{}",
                    plain_line(name),
                    plain_line(&why.summary),
                    Explained::new(why, None).numbers(style)
                )
            }
        };
        self.0.iter().map(one).collect::<Vec<_>>().join("\n\n")
    }

    pub(crate) fn json(&self) -> Value {
        let one = |(name, why): &(String, Explanation)| {
            let mut value = Explained::new(why, None).json();
            value["name"] = json!(name);
            value
        };
        self.0.iter().map(one).collect()
    }
}
