//! Tables without lines: a quiet header, columns two spaces apart, the least important ones left out where the terminal
//! is narrow.

use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, presets};

use super::{Colour, Style};

/// A table that grows row by row.
pub(crate) struct Table {
    style: Style,
    columns: Vec<Column>,
    rows: Vec<Vec<Field>>,
}

struct Column {
    name: String,
    right: bool,
    optional: bool,
}

/// One cell.
#[derive(Clone)]
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

    fn width(&self) -> usize {
        self.text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    fn cell(&self, style: Style) -> Cell {
        let cell = Cell::new(&self.text);
        match self.colour.filter(|_| style.colour) {
            Some(Colour::Good) => cell.fg(comfy_table::Color::Green),
            Some(Colour::Bad) => cell.fg(comfy_table::Color::Red),
            Some(Colour::Waiting) => cell.fg(comfy_table::Color::Yellow),
            Some(Colour::Active) => cell.fg(comfy_table::Color::Cyan),
            Some(Colour::Quiet) => cell.add_attribute(Attribute::Dim),
            Some(Colour::Strong) => cell.add_attribute(Attribute::Bold),
            None => cell,
        }
    }
}

/// What the last column, the talkative one, is left at least.
const LAST_MIN: usize = 24;
const GAP: u16 = 2;

impl Table {
    /// `columns` are headings. One that begins with `?` is left out where there is no room for it, the rightmost first;
    /// one with `>` is set flush right.
    pub(crate) fn new(style: Style, columns: &[&str]) -> Self {
        let column = |heading: &&str| {
            let (optional, heading) = match heading.strip_prefix('?') {
                Some(rest) => (true, rest),
                None => (false, *heading),
            };
            let name = heading.trim_start_matches('>');
            // Capitals would turn a unit into another one.
            let name =
                if name.contains(char::is_numeric) { name.into() } else { name.to_uppercase() };
            Column { name, right: heading.starts_with('>'), optional }
        };
        Self { style, columns: columns.iter().map(column).collect(), rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, fields: [Field; N]) {
        self.row_of(fields.into());
    }

    pub(crate) fn row_of(&mut self, fields: Vec<Field>) {
        debug_assert_eq!(fields.len(), self.columns.len());
        self.rows.push(fields);
    }

    /// The table as text; `empty` where it has no rows.
    pub(crate) fn text(&self, empty: &str) -> String {
        if self.rows.is_empty() {
            return self.style.paint(Colour::Quiet, empty);
        }
        let shown = self.shown();
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        if self.style.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        match self.style.width {
            Some(width) => {
                table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        let heading = |i: &usize| Cell::new(&self.columns[*i].name).add_attribute(Attribute::Dim);
        table.set_header(shown.iter().map(heading));
        for row in &self.rows {
            table.add_row(shown.iter().map(|i| row[*i].cell(self.style)));
        }
        for (at, i) in shown.iter().enumerate() {
            let Some(column) = table.column_mut(at) else { continue };
            let last = at + 1 == shown.len();
            column.set_padding((0, if last { 0 } else { GAP }));
            if self.columns[*i].right {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if !last {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    /// The columns there is room for.
    fn shown(&self) -> Vec<usize> {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let Some(room) = self.style.width else { return shown };
        let width = |i: usize| {
            let cells = self.rows.iter().map(|row| row[i].width());
            cells.max().unwrap_or(0).max(self.columns[i].name.chars().count())
        };
        loop {
            let Some((last, others)) = shown.split_last() else { return shown };
            let gaps = others.len() * usize::from(GAP);
            let needed =
                others.iter().map(|i| width(*i)).sum::<usize>() + gaps + width(*last).min(LAST_MIN);
            if needed <= usize::from(room) {
                return shown;
            }
            match shown.iter().rposition(|i| self.columns[*i].optional) {
                Some(at) => _ = shown.remove(at),
                None => return shown,
            }
        }
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

    #[test]
    fn a_narrow_terminal_loses_the_least_important_columns() {
        let text = |width| {
            let style = Style { colour: false, width: Some(width) };
            let mut table = Table::new(style, &["a", "?b", "?>c", "d"]);
            table.row(["aaaa".into(), "bbbb".into(), "cccc".into(), "d d d".into()]);
            table.text("").lines().next().unwrap().to_owned()
        };
        assert_eq!(text(40), "A     B        C  D");
        assert_eq!(text(20), "A     B     D");
        assert_eq!(text(12), "A     D");
        assert_eq!(text(6), "A     D");
    }
}
