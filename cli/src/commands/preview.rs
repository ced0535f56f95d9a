//! `fleetune train --preview`: rows as the model sees them.

use std::path::Path;

use fleetune_engine::data::{Dataset, Segment, Tokenizer, preview as segments};
use fleetune_shared::Device;
use fleetune_shared::recipe::DataFormat;
use serde_json::{Value, json};

use crate::Failure;
use crate::context::Context;
use crate::output::{Colour, Show, Style, plain};
use crate::recipe::Planned;

/// Shows the first rows, what is learned marked.
pub(super) fn preview(planned: &Planned, rows: usize, context: &Context) -> Result<(), Failure> {
    let order = planned.order(std::path::PathBuf::new(), Device::Cpu)?;
    let mut settings = order.recipe.data.clone();
    let wanted = (rows as u64).max(1);
    settings.rows_max = Some(settings.rows_max.map_or(wanted, |most| most.min(wanted)));
    let mut tokenizer = match Tokenizer::load(&order.model) {
        Ok(tokenizer) => tokenizer,
        Err(error) if settings.format == DataFormat::Tokenized => {
            return Err(Failure::from(error).hint("without a tokenizer there is no text to show"));
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(template) = &settings.chat_template_path {
        tokenizer.use_chat_template(Path::new(template))?;
    }
    let dataset = Dataset::load(&order.data, &settings, Some(&tokenizer), &planned.spec)?;
    let mut rows = Vec::new();
    for row in dataset.iter().collect::<Result<Vec<_>, _>>()?.iter().flatten() {
        rows.push(Previewed {
            tokens: row.input_ids.len(),
            supervised: row.supervised(),
            segments: segments(row, &tokenizer)?,
        });
    }
    context.output.show(&Preview(rows))
}

struct Previewed {
    tokens: usize,
    supervised: usize,
    segments: Vec<Segment>,
}

struct Preview(Vec<Previewed>);

impl Show for Preview {
    fn table(&self, style: Style) -> String {
        let row = |(i, row): (usize, &Previewed)| {
            let title = format!("row {}: {} tokens, {} learned", i + 1, row.tokens, row.supervised);
            let segment = |s: &Segment| match (s.supervised, style.colour) {
                (true, true) => style.paint(Colour::Good, &plain(&s.text)),
                (true, false) => format!("⟦{}⟧", plain(&s.text)),
                (false, _) => style.paint(Colour::Quiet, &plain(&s.text)),
            };
            let text: String = row.segments.iter().map(segment).collect();
            format!("{}\n{}", style.paint(Colour::Strong, &title), text.trim_end())
        };
        let rows: Vec<String> = self.0.iter().enumerate().map(row).collect();
        let legend = if style.colour { "learned text is green" } else { "⟦learned text⟧" };
        format!("{}\n\n{}", rows.join("\n\n"), style.paint(Colour::Quiet, legend))
    }

    fn json(&self) -> Value {
        let segment = |s: &Segment| json!({"text": s.text, "supervised": s.supervised});
        let row = |row: &Previewed| {
            json!({
                "tokens": row.tokens,
                "supervised_tokens": row.supervised,
                "segments": row.segments.iter().map(segment).collect::<Vec<_>>(),
            })
        };
        self.0.iter().map(row).collect()
    }

    fn quiet(&self) -> String {
        self.0.iter().map(|row| row.supervised.to_string()).collect::<Vec<_>>().join("\n")
    }
}
