//! Limits of length: columns of a line, lines of a function, lines of a file without its tests.

use crate::exceptions::{LongItem, stale};
use crate::rust_source::RustSource;
use crate::{Exceptions, Finding, SourceFile, SourceTree};

/// The most columns of a line of source.
pub const COLUMNS_MAX: usize = 100;
/// The most lines of a function, from `fn` to its closing brace.
pub const FUNCTION_LINES_MAX: usize = 70;
/// The most lines of a file of Rust; tests, in it or a file of their own, are not counted.
pub const FILE_LINES_MAX: usize = 600;

/// The extensions of files whose lines are measured.
const MEASURED: [&str; 5] = ["rs", "proto", "sh", "c", "h"];

/// Lines of source beyond [`COLUMNS_MAX`].
#[must_use]
pub fn check_columns(tree: &SourceTree) -> Vec<Finding> {
    let measured = |file: &&SourceFile| MEASURED.contains(&file.extension());
    tree.files().iter().filter(measured).flat_map(long_lines).collect()
}

fn long_lines(file: &SourceFile) -> impl Iterator<Item = Finding> {
    file.lines().filter_map(|(number, line)| {
        let columns = line.chars().count();
        let message = format!("{columns} columns: the limit is {COLUMNS_MAX}");
        (columns > COLUMNS_MAX).then(|| Finding::new(&file.path, number, message))
    })
}

/// Functions beyond [`FUNCTION_LINES_MAX`] or their exception, and stale exceptions.
#[must_use]
pub fn check_functions(tree: &SourceTree, exceptions: &Exceptions) -> Vec<Finding> {
    let (sources, mut findings) = parse_all(tree);
    let mut needed = Vec::new();
    for (file, source) in &sources {
        for function in &source.functions {
            let item = LongItem {
                path: file.path.clone(),
                name: function.name.clone(),
                lines: function.span.count(),
            };
            let subject = format!("function '{}'", item.name);
            let line = function.span.first;
            let limits = (FUNCTION_LINES_MAX, exceptions.functions.as_slice());
            findings.extend(check_length(&item, limits, &mut needed, line, &subject));
        }
    }
    findings.extend(unneeded(&exceptions.functions, &needed));
    findings
}

/// Files beyond [`FILE_LINES_MAX`] or their exception, and stale exceptions.
#[must_use]
pub fn check_files(tree: &SourceTree, exceptions: &Exceptions) -> Vec<Finding> {
    let (sources, mut findings) = parse_all(tree);
    let mut needed = Vec::new();
    for (file, source) in sources.iter().filter(|(file, _)| !is_test(&file.path)) {
        let tests: usize = source.test_items.iter().map(|item| item.count()).sum();
        let lines = file.text.lines().count().saturating_sub(tests);
        let item = LongItem { path: file.path.clone(), name: String::new(), lines };
        let limits = (FILE_LINES_MAX, exceptions.files.as_slice());
        findings.extend(check_length(&item, limits, &mut needed, 0, "the file without its tests"));
    }
    findings.extend(unneeded(&exceptions.files, &needed));
    findings
}

/// Whether a whole file is a test: in a folder `tests`, or the module `tests`.
fn is_test(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs")
}

fn parse_all(tree: &SourceTree) -> (Vec<(&SourceFile, RustSource)>, Vec<Finding>) {
    let mut sources = Vec::new();
    let mut findings = Vec::new();
    for file in tree.with_extension("rs") {
        match RustSource::parse(&file.text) {
            Ok(source) => sources.push((file, source)),
            Err(error) => findings.push(Finding::new(&file.path, 0, error)),
        }
    }
    (sources, findings)
}

/// Measures `item` against the limit, or against its exception, which it then adds to `needed`.
fn check_length(
    item: &LongItem,
    (limit, exceptions): (usize, &[LongItem]),
    needed: &mut Vec<LongItem>,
    line: usize,
    subject: &str,
) -> Option<Finding> {
    if item.lines <= limit {
        return None;
    }
    let same = |known: &&LongItem| known.path == item.path && known.name == item.name;
    let exception = exceptions.iter().find(same);
    needed.extend(exception.cloned());
    let allowed = exception.map_or(limit, |known| known.lines);
    let has = format!("{subject} has {} lines: {allowed} are allowed, split it", item.lines);
    (item.lines > allowed).then(|| Finding::new(&item.path, line, has))
}

fn unneeded(exceptions: &[LongItem], needed: &[LongItem]) -> Vec<Finding> {
    let unused = exceptions.iter().filter(|exception| !needed.contains(exception));
    unused.map(|unused| stale(&format!("{} {}", unused.path, unused.name), "is unneeded")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "a();\n".repeat(lines - 2))
    }

    fn excepted(path: &str, name: &str, lines: usize) -> LongItem {
        LongItem { path: path.to_owned(), name: name.to_owned(), lines }
    }

    #[test]
    fn line_of_101_columns_is_found() {
        let text = format!("{}\n{}\n", "é".repeat(100), "x".repeat(101));
        let found = check_columns(&SourceTree::of(&[("a.rs", &text), ("a.md", &text)]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].path.as_str(), found[0].line), ("a.rs", 2));
    }

    #[test]
    fn function_of_71_lines_is_found() {
        let none = Exceptions::default();
        let (good, bad) = (function_of(70), function_of(71));
        assert_eq!(check_functions(&SourceTree::of(&[("a.rs", &good)]), &none), []);
        assert_eq!(check_functions(&SourceTree::of(&[("a.rs", &bad)]), &none).len(), 1);
    }

    #[test]
    fn excepted_function_may_not_grow() {
        let functions = vec![excepted("a.rs", "long", 80)];
        let exceptions = Exceptions { functions, ..Exceptions::default() };
        let (same, grown) = (function_of(80), function_of(81));
        assert_eq!(check_functions(&SourceTree::of(&[("a.rs", &same)]), &exceptions), []);
        assert_eq!(check_functions(&SourceTree::of(&[("a.rs", &grown)]), &exceptions).len(), 1);
    }

    #[test]
    fn exception_that_nothing_needs_is_found() {
        let functions = vec![excepted("a.rs", "long", 80)];
        let files = vec![excepted("b.rs", "", 900)];
        let exceptions = Exceptions { functions, files, ..Exceptions::default() };
        let tree = SourceTree::of(&[("a.rs", &function_of(12))]);
        assert_eq!(check_functions(&tree, &exceptions).len(), 1);
        assert_eq!(check_files(&tree, &exceptions).len(), 1);
    }

    #[test]
    fn tests_do_not_count_to_a_file() {
        let none = Exceptions::default();
        let code = "const A: u8 = 0;\n".repeat(600);
        let tested = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n");
        let long = format!("{code}const B: u8 = 0;\n");
        let whole = [("a/tests/b.rs", long.as_str()), ("a/src/b/tests.rs", long.as_str())];
        assert_eq!(check_files(&SourceTree::of(&[("a.rs", &tested)]), &none), []);
        assert_eq!(check_files(&SourceTree::of(&whole), &none), []);
        assert_eq!(check_files(&SourceTree::of(&[("a.rs", &long)]), &none).len(), 1);
    }

    #[test]
    fn text_that_is_no_rust_is_found() {
        let tree = SourceTree::of(&[("a.rs", "fn a( {")]);
        assert_eq!(check_files(&tree, &Exceptions::default()).len(), 1);
    }
}
