//! `unsafe` stands only in the listed files of two crates, and each claim gives its reason.

use crate::exceptions::{Exceptions, stale};
use crate::rust_source::{RustSource, UnsafeKind};
use crate::{Finding, SourceFile, SourceTree};

/// The crates that may have unsafe code at all.
const CRATES: [&str; 2] = ["engine/", "ublk-target/"];

/// Uses of `unsafe` outside of the listed files or without a `SAFETY:` sentence, and listed files
/// that have none or lie in another crate.
#[must_use]
pub fn check_unsafe(tree: &SourceTree, exceptions: &Exceptions) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut needed = Vec::new();
    for file in tree.with_extension("rs") {
        let Ok(source) = RustSource::parse(&file.text) else { continue };
        let Some(first) = source.unsafe_uses.first() else { continue };
        needed.push(file.path.as_str());
        if !exceptions.unsafe_files.contains(&file.path) {
            let message = "unsafe code outside of the files listed in tidy/exceptions.toml";
            findings.push(Finding::new(&file.path, first.line, message));
        }
        findings.extend(unexplained(file, &source));
    }
    for listed in &exceptions.unsafe_files {
        if !CRATES.iter().any(|folder| listed.starts_with(folder)) {
            findings.push(stale(listed, "is outside of engine and ublk-target"));
        } else if !needed.contains(&listed.as_str()) {
            findings.push(stale(listed, "is unneeded"));
        }
    }
    findings
}

fn unexplained(file: &SourceFile, source: &RustSource) -> Vec<Finding> {
    let lines: Vec<&str> = file.text.lines().collect();
    let claims = source.unsafe_uses.iter().filter(|used| used.kind == UnsafeKind::Claim);
    let bare = claims.filter(|claim| !is_explained(&lines, claim.line));
    let message = "unsafe without a '// SAFETY:' sentence above it";
    bare.map(|claim| Finding::new(&file.path, claim.line, message)).collect()
}

/// Whether a `SAFETY:` comment stands above the statement that has this line.
fn is_explained(lines: &[&str], line: usize) -> bool {
    for above in lines[..line - 1].iter().rev().map(|above| above.trim()) {
        if above.starts_with("//") {
            if above.contains("SAFETY:") {
                return true;
            }
        } else if above.is_empty() || above.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, listed: &[&str]) -> Vec<Finding> {
        let unsafe_files = listed.iter().map(|path| (*path).to_owned()).collect();
        let exceptions = Exceptions { unsafe_files, ..Exceptions::default() };
        check_unsafe(&SourceTree::of(&[(path, text)]), &exceptions)
    }

    const GOOD: &str =
        "fn f() {\n    // SAFETY: because.\n    let a =\n        unsafe { g() };\n}\n";

    #[test]
    fn explained_unsafe_in_a_listed_file_passes() {
        assert_eq!(check("engine/src/a.rs", GOOD, &["engine/src/a.rs"]), []);
    }

    #[test]
    fn unlisted_file_is_found() {
        assert_eq!(check("engine/src/a.rs", GOOD, &[]).len(), 1);
    }

    #[test]
    fn other_crates_cannot_be_listed() {
        assert_eq!(check("cli/src/a.rs", GOOD, &["cli/src/a.rs"]).len(), 1);
    }

    #[test]
    fn listed_file_without_unsafe_is_found() {
        assert_eq!(check("engine/src/a.rs", "fn f() {}", &["engine/src/a.rs"]).len(), 1);
    }

    #[test]
    fn unexplained_unsafe_is_found() {
        let far = "// SAFETY: of another.\nlet a = 1;\nlet b = unsafe { g() };\n";
        for text in ["fn f() { unsafe { g() } }", &format!("fn f() {{\n{far}}}")] {
            assert_eq!(check("engine/src/a.rs", text, &["engine/src/a.rs"]).len(), 1, "{text}");
        }
    }
}
