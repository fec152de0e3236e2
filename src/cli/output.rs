//! Output of commands: tables that fit 80 columns, and JSON. A reader that has gone is not an error. Control characters are
//! escaped: ids, reasons and errors come from outside and must not control the terminal.

use std::io::{self, Write};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use serde::Serialize;

use super::outcome::{Failure, Outcome};
use crate::printable::{one_line, printable};

/// The width of output if no terminal has another one.
const COLUMNS: u16 = 80;

/// Prints a line; a reader that has gone (`| head`) is not an error.
///
/// # Errors
/// When stdout cannot be written for another reason.
pub fn line(text: impl AsRef<str>) -> Outcome {
    line_while_read(text).map(|_| ())
}

/// Prints a line; returns false if the reader has gone, so that long output can stop.
///
/// # Errors
/// When stdout cannot be written for another reason.
pub fn line_while_read(text: impl AsRef<str>) -> Result<bool, Failure> {
    text_while_read(&format!("{}\n", printable(text.as_ref())))
}

/// Prints a line of CSV, which has its line break, CR LF; returns false if the reader has gone.
///
/// # Errors
/// When stdout cannot be written for another reason.
pub(super) fn csv_while_read(line: &str) -> Result<bool, Failure> {
    let text = line.strip_suffix("\r\n").unwrap_or(line);
    text_while_read(&format!("{}\r\n", printable(text)))
}

fn text_while_read(text: &str) -> Result<bool, Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Prints a line on stderr, for people.
pub fn complain(text: impl AsRef<str>) {
    // A failed write to stderr cannot be reported anywhere.
    let _ = writeln!(io::stderr(), "{}", printable(text.as_ref()));
}

/// Prints a value as JSON, indented.
///
/// # Errors
/// When stdout cannot be written.
pub fn json(value: &impl Serialize) -> Outcome {
    line(serde_json::to_string_pretty(value)?)
}

/// A table with these columns; those whose name begins with `>` are numbers and aligned to the right.
#[must_use]
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width());
    table.set_header(columns.iter().map(|name| Cell::new(name.trim_start_matches('>'))));
    for (i, name) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, 2));
            if name.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
                column.set_constraint(ColumnConstraint::ContentWidth);
            } else {
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(6)));
            }
        }
    }
    table
}

/// Adds a row; line breaks in a cell are escaped.
pub fn add_row<const N: usize>(table: &mut Table, cells: [String; N]) {
    table.add_row(cells.map(|cell| one_line(&cell).into_owned()));
}

/// Prints a table.
///
/// # Errors
/// When stdout cannot be written.
pub fn print_table(table: &Table) -> Outcome {
    for row in table.lines() {
        line(row.trim_end())?;
    }
    Ok(())
}

/// The columns that a line may have.
pub(super) fn width() -> u16 {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(COLUMNS, |size| size.ws_col.clamp(60, 200).max(1))
}
