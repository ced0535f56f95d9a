//! `fleetune train --preview`: rows as the model sees them.

use std::path::PathBuf;

use fleetune_engine::data::{Preview, RowPreview, Segment, preview_rows};
use fleetune_shared::Device;
use serde_json::{Value, json};

use crate::Failure;
use crate::context::Context;
use crate::output::{Colour, Show, Style, plain};
use crate::recipe::Planned;

/// Shows the first rows, what is learned marked.
pub(super) fn preview(planned: &Planned, rows: usize, context: &Context) -> Result<(), Failure> {
    let order = planned.order(PathBuf::new(), Device::Cpu)?;
    context.output.show(&Shown(preview_rows(&order, rows as u64)?))
}

struct Shown(Preview);

impl Shown {
    /// Every row with its number and that of its sequence, both from 1.
    fn rows(&self) -> impl Iterator<Item = (usize, usize, &RowPreview)> {
        let rows = self.0.sequences.iter().enumerate();
        let rows = rows.flat_map(|(i, rows)| rows.iter().map(move |row| (i + 1, row)));
        rows.enumerate().map(|(i, (sequence, row))| (i + 1, sequence, row))
    }

    fn packed(&self) -> bool {
        self.0.sequences.iter().any(|rows| rows.len() > 1)
    }
}

impl Show for Shown {
    fn table(&self, style: Style) -> String {
        let row = |(i, sequence, row): (usize, usize, &RowPreview)| {
            let place =
                if self.packed() { format!(" in sequence {sequence}") } else { String::new() };
            let title =
                format!("row {i}{place}: {} tokens, {} learned", row.tokens, row.supervised);
            let segment = |s: &Segment| match (s.supervised, style.colour) {
                (true, true) => style.paint(Colour::Good, &plain(&s.text)),
                (true, false) => format!("⟦{}⟧", plain(&s.text)),
                (false, _) => style.paint(Colour::Quiet, &plain(&s.text)),
            };
            let text: String = row.segments.iter().map(segment).collect();
            format!("{}\n{}", style.paint(Colour::Strong, &title), text.trim_end())
        };
        let rows: Vec<String> = self.rows().map(row).collect();
        let legend = if style.colour { "learned text is green" } else { "⟦learned text⟧" };
        let notes: String = self.0.notes.iter().map(|note| format!("\n{}", plain(note))).collect();
        format!("{}\n\n{}{notes}", rows.join("\n\n"), style.paint(Colour::Quiet, legend))
    }

    fn json(&self) -> Value {
        let segment = |s: &Segment| json!({"text": s.text, "supervised": s.supervised});
        let row = |(_, sequence, row): (usize, usize, &RowPreview)| {
            json!({
                "sequence": sequence,
                "tokens": row.tokens,
                "supervised_tokens": row.supervised,
                "segments": row.segments.iter().map(segment).collect::<Vec<_>>(),
            })
        };
        self.rows().map(row).collect()
    }

    fn quiet(&self) -> String {
        self.rows().map(|(.., row)| row.supervised.to_string()).collect::<Vec<_>>().join("\n")
    }
}
