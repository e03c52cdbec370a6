//! Columns of text.

use std::fmt;

use crate::text::Shown;

/// Rows under headings, each column as wide as its widest text.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(headings: [&str; N]) -> Self {
        Table { rows: vec![headings.map(str::to_owned)] }
    }

    /// Adds a row. What nothing is said about becomes `-`; control characters are escaped.
    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows
            .push(row.map(|text| if text.is_empty() { "-".to_owned() } else { Shown(text.as_bytes()).to_string() }));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..N).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let line: String = row.iter().zip(&widths).map(|(text, width)| format!("{text:width$}  ")).collect();
            if index > 0 {
                writeln!(f)?;
            }
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
}
