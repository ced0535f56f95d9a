//! Tables without lines: a quiet header, columns two spaces apart.

use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, presets};

use super::{Colour, Style};

/// A table that grows row by row.
pub(crate) struct Table {
    style: Style,
    inner: comfy_table::Table,
    rows: usize,
}

/// One cell.
pub(crate) struct Field {
    text: String,
    colour: Option<Colour>,
}

impl<T: Into<String>> From<T> for Field {
    fn from(text: T) -> Self {
        Self { text: text.into(), colour: None }
    }
}

impl Field {
    pub(crate) fn new(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour: Some(colour) }
    }
}

impl Table {
    /// `columns` are headings; one that begins with `>` is set flush right.
    pub(crate) fn new(style: Style, columns: &[&str]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(presets::NOTHING);
        if style.colour {
            inner.enforce_styling();
        } else {
            inner.force_no_tty();
        }
        match style.width {
            Some(width) => {
                inner.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
            }
            None => {
                inner.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        let heading = |name: &&str| {
            let name = name.trim_start_matches('>');
            // Capitals would turn a unit into another one.
            let name =
                if name.contains(char::is_numeric) { name.into() } else { name.to_uppercase() };
            Cell::new(name).add_attribute(Attribute::Dim)
        };
        inner.set_header(columns.iter().map(heading));
        let last = columns.len().saturating_sub(1);
        for (i, name) in columns.iter().enumerate() {
            if let Some(column) = inner.column_mut(i) {
                column.set_padding((0, if i == last { 0 } else { 2 }));
                if name.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
                // Only the last column, the talkative one, may be broken into lines.
                if i != last {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
        }
        Self { style, inner, rows: 0 }
    }

    pub(crate) fn row<const N: usize>(&mut self, fields: [Field; N]) {
        self.row_of(fields.into());
    }

    pub(crate) fn row_of(&mut self, fields: Vec<Field>) {
        let cell = |field: Field| {
            let cell = Cell::new(field.text);
            match field.colour.filter(|_| self.style.colour) {
                Some(Colour::Good) => cell.fg(comfy_table::Color::Green),
                Some(Colour::Bad) => cell.fg(comfy_table::Color::Red),
                Some(Colour::Waiting) => cell.fg(comfy_table::Color::Yellow),
                Some(Colour::Active) => cell.fg(comfy_table::Color::Cyan),
                Some(Colour::Quiet) => cell.add_attribute(Attribute::Dim),
                Some(Colour::Strong) => cell.add_attribute(Attribute::Bold),
                None => cell,
            }
        };
        let cells: Vec<Cell> = fields.into_iter().map(cell).collect();
        self.inner.add_row(cells);
        self.rows += 1;
    }

    /// The table as text; `empty` where it has no rows.
    pub(crate) fn text(&self, empty: &str) -> String {
        if self.rows == 0 {
            return self.style.paint(Colour::Quiet, empty);
        }
        self.inner.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let mut table = Table::new(Style::PLAIN, &["name", ">loss"]);
        table.row(["a".into(), "1.50".into()]);
        table.row(["longer".into(), "12.25".into()]);
        assert_eq!(table.text(""), "NAME     LOSS\na        1.50\nlonger  12.25");
        assert_eq!(Table::new(Style::PLAIN, &["name"]).text("none yet"), "none yet");
    }
}
