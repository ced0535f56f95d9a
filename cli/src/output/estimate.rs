//! `fleetune estimate`: a job's memory piece by piece, and which cards would hold it.

use fleetune_shared::{ByteSize, Card, Estimate};
use serde_json::{Value, json};

use super::bar::bar;
use super::table::Field;
use super::{Colour, Show, Style, Table, plain_line};

/// An estimate and the cards it was held against.
pub(crate) struct Sizing {
    pub(crate) name: String,
    pub(crate) estimate: Estimate,
    /// What the job can make use of: more than the estimate where it keeps as much as it has room for.
    pub(crate) useful: ByteSize,
    pub(crate) cards: Vec<Card>,
}

/// The pieces, one a line, with a bar for each one's share.
pub(super) fn breakdown(estimate: &Estimate, style: Style) -> String {
    let total = estimate.total();
    let share = |bytes: ByteSize| bytes.0 as f64 / total.0.max(1) as f64;
    let mut table = Table::new(style, &["memory", ">bytes", ">share", "?"]);
    for (name, bytes) in estimate.parts().into_iter().filter(|(_, bytes)| bytes.0 > 0) {
        table.row([
            name.into(),
            bytes.to_string().into(),
            match share(bytes) * 100.0 {
                percent if percent < 0.5 => "<1 %".into(),
                percent => format!("{percent:.0} %").into(),
            },
            Field::new(bar(share(bytes), 24), Colour::Active),
        ]);
    }
    table.row([
        Field::new("total", Colour::Strong),
        Field::new(total.to_string(), Colour::Strong),
        "".into(),
        "".into(),
    ]);
    table.text("")
}

impl Show for Sizing {
    fn table(&self, style: Style) -> String {
        let needed = self.estimate.total();
        let mut cards = Table::new(style, &["card", ">memory", ">usable", ">left", "verdict"]);
        for card in &self.cards {
            let usable = card.usable();
            let (left, verdict) = match usable.0.checked_sub(needed.0) {
                Some(left) => (ByteSize(left).to_string(), Field::new("fits", Colour::Good)),
                None => (
                    format!("−{}", ByteSize(needed.0 - usable.0)),
                    Field::new("too small", Colour::Bad),
                ),
            };
            cards.row([
                plain_line(&card.name).into(),
                card.vram_bytes_total.to_string().into(),
                usable.to_string().into(),
                left.into(),
                verdict,
            ]);
        }
        let mut memory = breakdown(&self.estimate, style);
        if self.useful > needed {
            memory += &format!(
                "\n\nthe least it can do with; with room it keeps more and computes less, up to {}",
                self.useful
            );
        }
        format!(
            "{}\n\n{memory}\n\n{}",
            style.paint(Colour::Strong, &plain_line(&self.name)),
            cards.text("no cards")
        )
    }

    fn json(&self) -> Value {
        let card = |card: &Card| {
            json!({
                "name": card.name,
                "vram_bytes_total": card.vram_bytes_total,
                "vram_bytes_usable": card.usable(),
                "fits": card.usable() >= self.estimate.total(),
            })
        };
        json!({
            "name": self.name,
            "estimate": self.estimate,
            "vram_bytes_needed": self.estimate.total(),
            "vram_bytes_useful": self.useful,
            "cards": self.cards.iter().map(card).collect::<Vec<_>>(),
        })
    }

    fn quiet(&self) -> String {
        self.estimate.total().0.to_string()
    }
}
