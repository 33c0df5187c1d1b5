//! The exceptions from the rules, which may only shrink.
//!
//! - An exception says how large its subject is. When that grows, the check fails.
//! - An exception that nothing needs any more is a finding itself.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::Finding;

/// Where the exceptions are written.
pub const EXCEPTIONS_PATH: &str = "tidy/exceptions.toml";

/// A function or file that may be longer than the limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LongItem {
    /// The file.
    pub path: String,
    /// The function's name; empty where the file is meant.
    pub name: String,
    /// How many lines it may have.
    pub lines: usize,
}

/// Everything that is excepted from a rule.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exceptions {
    /// Functions beyond the limit.
    pub functions: Vec<LongItem>,
    /// Files beyond the limit.
    pub files: Vec<LongItem>,
    /// The files of `engine` and `ublk-target` that may say `unsafe`.
    pub unsafe_files: BTreeSet<String>,
}

impl Exceptions {
    /// Reads the exceptions from the text of `exceptions.toml`.
    ///
    /// # Errors
    /// A sentence that says which entry is malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let table: Table = text.parse().map_err(|error| format!("{EXCEPTIONS_PATH}: {error}"))?;
        let mut exceptions = Self::default();
        for (key, value) in &table {
            match key.as_str() {
                "function" => exceptions.functions = long_items(key, value, true)?,
                "file" => exceptions.files = long_items(key, value, false)?,
                "unsafe_files" => exceptions.unsafe_files = paths(key, value)?,
                _ => return Err(format!("{EXCEPTIONS_PATH}: nothing is called '{key}'")),
            }
        }
        Ok(exceptions)
    }
}

fn malformed(key: &str) -> String {
    format!("{EXCEPTIONS_PATH}: an entry of '{key}' is malformed; the head of the file shows how")
}

fn paths(key: &str, value: &Value) -> Result<BTreeSet<String>, String> {
    let entries = value.as_array().ok_or_else(|| malformed(key))?;
    let path = |entry: &Value| entry.as_str().map(str::to_owned).ok_or_else(|| malformed(key));
    entries.iter().map(path).collect()
}

fn long_items(key: &str, value: &Value, named: bool) -> Result<Vec<LongItem>, String> {
    let entries = value.as_array().ok_or_else(|| malformed(key))?;
    entries.iter().map(|entry| long_item(entry, named).ok_or_else(|| malformed(key))).collect()
}

fn long_item(entry: &Value, named: bool) -> Option<LongItem> {
    let path = entry.get("path")?.as_str()?.to_owned();
    let lines = usize::try_from(entry.get("lines")?.as_integer()?).ok()?;
    let name = match named {
        true => entry.get("name")?.as_str()?.to_owned(),
        false => String::new(),
    };
    Some(LongItem { path, name, lines })
}

/// A finding about the list of exceptions itself.
#[must_use]
pub fn stale(subject: &str, why: &str) -> Finding {
    Finding::new(EXCEPTIONS_PATH, 0, format!("the exception for {subject} {why}: remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_read() {
        let text = "unsafe_files = ['engine/src/a.rs']\n\
            [[function]]\npath = 'x.rs'\nname = 'f'\nlines = 80\n\
            [[file]]\npath = 'y.rs'\nlines = 700\n";
        let exceptions = Exceptions::parse(text).expect("well-formed");
        assert!(exceptions.unsafe_files.contains("engine/src/a.rs"));
        assert_eq!(exceptions.functions[0].name, "f");
        assert_eq!(exceptions.files[0].lines, 700);
    }

    #[test]
    fn malformed_and_unknown_entries_are_refused() {
        for text in
            ["[[function]]\npath = 'x.rs'\n", "[[files]]\n", "file = 3", "unsafe_files = [1]"]
        {
            assert!(Exceptions::parse(text).is_err(), "{text}");
        }
    }
}
