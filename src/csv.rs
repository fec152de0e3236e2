//! CSV as RFC 4180 has it, safe to open in a spreadsheet: a text that would be read as a formula gets a `'` in front.

use crate::session::UsageRow;

/// A line: cells, with its line break.
pub(crate) fn line<'a>(cells: impl IntoIterator<Item = &'a str>) -> String {
    let mut line = String::new();
    for (i, cell) in cells.into_iter().enumerate() {
        if i > 0 {
            line.push(',');
        }
        push_cell(&mut line, cell);
    }
    line.push_str("\r\n");
    line
}

/// The lines of usage by day, the first with the names of the columns.
pub(crate) fn of_usage(rows: &[UsageRow]) -> impl Iterator<Item = String> {
    let names = ["day", "prefix", "sessions", "connections", "connection_minutes", "bytes_in", "bytes_out"];
    let cells = |row: &UsageRow| {
        let cells = [
            row.day.clone(),
            row.prefix.clone(),
            row.sessions.to_string(),
            row.connections.to_string(),
            row.connection_minutes.to_string(),
            row.bytes_in.to_string(),
            row.bytes_out.to_string(),
        ];
        line(cells.iter().map(String::as_str))
    };
    std::iter::once(line(names)).chain(rows.iter().map(cells))
}

fn push_cell(line: &mut String, cell: &str) {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if !is_formula && !cell.contains([',', '"', '\r', '\n']) {
        return line.push_str(cell);
    }
    line.push('"');
    if is_formula {
        line.push('\'');
    }
    line.push_str(&cell.replace('"', "\"\""));
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn cells_are_quoted_where_they_have_to_be_and_nothing_is_a_formula() {
        assert_eq!(line(["a", "", "1.5", "x y"]), "a,,1.5,x y\r\n");
        assert_eq!(line(["a,b", "say \"hi\"", "two\nlines"]), "\"a,b\",\"say \"\"hi\"\"\",\"two\nlines\"\r\n");
        assert_eq!(line(["=1+1", "+49", "-x", "@a", "\tx"]), "\"'=1+1\",\"'+49\",\"'-x\",\"'@a\",\"'\tx\"\r\n");
    }
}
