//! `fleetune estimate`: a job's memory piece by piece, and which cards would hold it.

use fleetune_shared::{Bounded, ByteSize, Estimate, Fit, Headroom};
use serde_json::{Value, json};

use super::bar::bar;
use super::table::Field;
use super::{Colour, Show, Style, Table, plain_line};

/// An estimate and the cards it was held against.
pub(crate) struct Sizing {
    pub(crate) name: String,
    /// The model, the runtime and the micro-batch, on one line.
    pub(crate) about: String,
    pub(crate) need: Bounded,
    /// What the job can make use of: more than the estimate where it keeps as much as it has room for.
    pub(crate) useful: ByteSize,
    pub(crate) fits: Vec<Fit>,
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

/// What is left of a card, or what it lacks.
fn left(fit: &Fit, needed: ByteSize) -> String {
    let usable = fit.card.usable();
    match usable.0.checked_sub(needed.0) {
        Some(left) => ByteSize(left).to_string(),
        None => format!("−{}", ByteSize(needed.0 - usable.0)),
    }
}

/// A changed recipe's keys, or that there are none.
fn changes(fit: &Fit) -> String {
    match (&fit.changes, fit.headroom) {
        (_, Headroom::Comfortable | Headroom::Tight) => String::new(),
        (None, Headroom::No) => "no change here would do".into(),
        (Some(changes), Headroom::No) => {
            changes.iter().map(|change| change.keys()).collect::<Vec<_>>().join(", ")
        }
    }
}

impl Show for Sizing {
    fn table(&self, style: Style) -> String {
        let needed = self.need.total();
        let misfits = self.fits.iter().any(|fit| fit.headroom == Headroom::No);
        let mut columns =
            vec!["card", "?>memory", "?>usable", ">left", "verdict", "?>longest", "?>rows"];
        if misfits {
            columns.push("to make it fit");
        }
        let mut cards = Table::new(style, &columns);
        let most = |count: Option<u64>| count.map_or_else(|| "–".into(), |count| count.to_string());
        for fit in &self.fits {
            let colour = match fit.headroom {
                Headroom::Comfortable => Colour::Good,
                Headroom::Tight => Colour::Waiting,
                Headroom::No => Colour::Bad,
            };
            let mut fields = vec![
                plain_line(&fit.card.name).into(),
                fit.card.vram_bytes_total.to_string().into(),
                fit.card.usable().to_string().into(),
                left(fit, needed).into(),
                Field::new(fit.headroom.word(), colour),
                most(fit.length).into(),
                most(fit.rows).into(),
            ];
            if misfits {
                fields.push(changes(fit).into());
            }
            cards.row_of(fields);
        }
        let mut memory = breakdown(&self.need.estimate, style);
        memory += &format!("\n\ntrusted between {} and {}", self.need.low, self.need.high);
        if self.useful > needed {
            memory += &format!(
                "\nthe least it can do with; with room it keeps more and computes less, up to {}",
                self.useful
            );
        }
        let caption =
            "longest: tokens of a row; rows: of a micro-batch; each with all else as it is";
        format!(
            "{}\n{}\n\n{memory}\n\n{}\n\n{}",
            style.paint(Colour::Strong, &plain_line(&self.name)),
            style.paint(Colour::Quiet, &plain_line(&self.about)),
            cards.text("no cards"),
            style.paint(Colour::Quiet, caption)
        )
    }

    fn json(&self) -> Value {
        let card = |fit: &Fit| {
            let changes = fit
                .changes
                .as_ref()
                .map(|changes| changes.iter().map(|change| change.keys()).collect::<Vec<_>>());
            json!({
                "name": fit.card.name,
                "vram_bytes_total": fit.card.vram_bytes_total,
                "vram_bytes_usable": fit.card.usable(),
                "fits": fit.headroom != Headroom::No,
                "verdict": fit.headroom,
                "max_length_fits": fit.length,
                "micro_batch_fits": fit.rows,
                "changes_to_fit": changes,
            })
        };
        json!({
            "name": self.name,
            "about": self.about,
            "estimate": self.need.estimate,
            "vram_bytes_needed": self.need.total(),
            "vram_bytes_low": self.need.low,
            "vram_bytes_high": self.need.high,
            "vram_bytes_useful": self.useful,
            "cards": self.fits.iter().map(card).collect::<Vec<_>>(),
        })
    }

    fn quiet(&self) -> String {
        self.need.total().0.to_string()
    }
}
