//! The table that `bench` prints.

use std::fmt;

/// Rows of what was measured, each with its goal.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<[String; 3]>,
}

impl Table {
    /// A measurement with its goal; an empty goal where there is none.
    pub(super) fn row(&mut self, what: impl Into<String>, measured: impl Into<String>, goal: &str) {
        self.rows
            .push([what.into(), measured.into(), goal.to_owned()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["", "measured", "goal"].map(String::from);
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .chain([&head])
                .map(|row| row[column].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2)];
        let line = |f: &mut fmt::Formatter<'_>, row: &[String; 3]| {
            writeln!(
                f,
                "| {:<a$} | {:>b$} | {:>c$} |",
                row[0],
                row[1],
                row[2],
                a = widths[0],
                b = widths[1],
                c = widths[2]
            )
        };
        line(f, &head)?;
        writeln!(
            f,
            "|{}|{}:|{}:|",
            "-".repeat(widths[0] + 2),
            "-".repeat(widths[1] + 1),
            "-".repeat(widths[2] + 1)
        )?;
        self.rows.iter().try_for_each(|row| line(f, row))
    }
}
