//! Where results go: a report is written as a table for people or as JSON for programs.
//!
//! - A report is complete before its first byte is written.
//! - A reader that goes away (`lunar … | head`) is no error.
//! - Tables have no colour and no borders, never wrap and never shorten an id.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::OutputFormat;
use crate::error::{CliError, Exit};

/// A result of a command.
pub trait Report: Serialize {
    /// The text for people; it ends with a line break.
    fn to_text(&self) -> String;
}

/// The text of a report in a format.
#[must_use]
pub fn render<R: Report>(report: &R, format: OutputFormat) -> String {
    match format {
        OutputFormat::Table => report.to_text(),
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(report);
            json.expect("a report has text keys only, so it is always JSON") + "\n"
        }
    }
}

/// Writes to the standard output.
///
/// # Errors
/// When it cannot be written to, such as on a full disk.
pub fn write_out(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let message = format!("write the result to the standard output: {error}");
            Err(CliError::new(Exit::Failed, "OUTPUT", message))
        }
        _ => Ok(()),
    }
}

/// Rows under a header; a sentence where there are none.
#[must_use]
pub fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>, none: &str) -> String {
    if rows.is_empty() {
        return format!("{none}\n");
    }
    let mut table = bare_table();
    table.set_header(header);
    table.add_rows(rows);
    lines_of(&table)
}

/// Names and values of one object.
#[must_use]
pub fn facts(pairs: &[(&str, String)]) -> String {
    let mut table = bare_table();
    table.add_rows(pairs.iter().map(|(name, value)| [(*name).to_owned(), value.clone()]));
    lines_of(&table)
}

fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The lines of a table without the margins that comfy-table pads with.
fn lines_of(table: &Table) -> String {
    table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_trailing_space() {
        let rows = vec![["a".to_owned(), "1".to_owned()], ["long".to_owned(), "22".to_owned()]];
        assert_eq!(table(["NAME", "N"], rows, "none"), "NAME  N\na     1\nlong  22\n");
    }

    #[test]
    fn long_cells_are_never_shortened() {
        let id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10".repeat(8);
        assert!(table(["ID"], vec![[id.clone()]], "none").contains(&id));
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(table(["NAME"], Vec::new(), "no volumes"), "no volumes\n");
    }
}
