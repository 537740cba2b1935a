//! How commands print: tables as `kubectl` and `istioctl` print them, JSON, YAML.
//!
//! Tables are for people and may change; scripts read `-o json`.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

/// A line of success.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// A line of failure.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What needs attention but is no failure.
pub const NOTE: Style = AnsiColor::Yellow.on_default();
/// A heading.
pub const HEADING: Style = Style::new().bold();
/// What explains something else.
pub const FAINT: Style = Style::new().dimmed();

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON for scripts.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// Prints a value as JSON or YAML, or the table that `table` makes of it.
    pub fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> Result<()> {
        let text = match self {
            Self::Table => table(value),
            Self::Json => serde_json::to_string_pretty(value)?,
            Self::Yaml => yaml_serde::to_string(value)?,
        };
        anstream::println!("{}", text.trim_end());
        Ok(())
    }
}

/// Columns under upper-case headings, three spaces apart, never wrapped: a line of output is a row.
pub fn table<R>(headings: &[&str], rows: R) -> String
where
    R: IntoIterator,
    R::Item: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A page without its colours, for files.
pub fn plain(page: &str) -> String {
    anstream::adapter::strip_str(page).to_string()
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_upper_case_headings_and_no_trailing_blanks() {
        let text =
            table(&["NAME", "PORT"], [["web".to_owned(), "80".to_owned()], ["details".to_owned(), String::new()]]);
        assert_eq!(text, "NAME      PORT\nweb       80\ndetails");
    }

    #[test]
    fn large_numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
