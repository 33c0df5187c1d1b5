//! What results look like: one struct a result, with its JSON fields and its text.
//!
//! - Field names are a contract with programs; each ends with its unit where it has one.
//! - Views are made of checked values and nothing else: no I/O, no clock.

pub mod backup;
pub mod diff;
pub mod fence;
pub mod fsck;
pub mod group;
pub mod grow;
pub mod lun;
pub mod map;
pub mod node;
pub mod operation;
pub mod pki;
pub mod pool;
pub mod publication;
pub mod snapshot;
pub(crate) mod time;
pub mod transfer;
pub mod usage;
pub mod volume;

use lunar_types::ByteCount;

/// A size as people read it.
fn size(bytes: u64) -> String {
    ByteCount::new(bytes).to_string()
}

/// What stands in a table where there is nothing.
const NONE: &str = "-";

/// A state, and that what has it came back with a backup.
fn with_restored(state: &str, restored: bool) -> String {
    if restored { format!("{state}, restored") } else { state.to_owned() }
}

/// A number of things, in words.
fn count(number: u64, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests;
