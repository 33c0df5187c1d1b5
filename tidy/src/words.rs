//! Words that do not belong into the tree: unfinished work, paths of one machine, registries.

use crate::rust_source::RustSource;
use crate::{Finding, SourceFile, SourceTree};

/// Extensions of source, where a note of unfinished work is a finding.
const SOURCE: [&str; 6] = ["rs", "proto", "sh", "c", "h", "toml"];

/// Notes of unfinished work. Split, so that this file does not find itself.
const UNFINISHED: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Macros that are for a moment of development only.
const UNFINISHED_MACROS: [&str; 3] = ["dbg", "todo", "unimplemented"];

/// Folders of one person's machine.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ho", "me/")];

/// Hosts of package and image registries: which one serves is the machine's configuration.
const REGISTRIES: [&str; 11] = [
    concat!("crates", ".io"),
    concat!("docker", ".io"),
    concat!("docker", ".com"),
    concat!("quay", ".io"),
    concat!("ghcr", ".io"),
    concat!("gcr", ".io"),
    concat!("registry", ".k8s.io"),
    concat!("debian", ".org/debian"),
    concat!("deb.debian", ".org"),
    concat!("pypi", ".org"),
    concat!("npmjs", ".org"),
];

/// The lock file is cargo's own and names the registry of each crate.
const GENERATED: &str = "Cargo.lock";

/// Notes and macros of unfinished work in source.
#[must_use]
pub fn check_unfinished(tree: &SourceTree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files().iter().filter(|file| SOURCE.contains(&file.extension())) {
        findings.extend(find_words(file, &UNFINISHED, "finish the work or describe the limit"));
        findings.extend(unfinished_macros(file));
    }
    findings
}

fn unfinished_macros(file: &SourceFile) -> Vec<Finding> {
    let calls = match file.extension() {
        "rs" => RustSource::parse(&file.text).unwrap_or_default().macro_calls,
        _ => Vec::new(),
    };
    let bad = calls.iter().filter(|(_, name)| UNFINISHED_MACROS.contains(&name.as_str()));
    bad.map(|(line, name)| Finding::new(&file.path, *line, format!("calls {name}!"))).collect()
}

/// Absolute paths of a developer's machine.
#[must_use]
pub fn check_machine_paths(tree: &SourceTree) -> Vec<Finding> {
    let advice = "a path of one machine: take it from the environment";
    let found = tree.files().iter().flat_map(|file| find_words(file, &MACHINE_PATHS, advice));
    found.collect()
}

/// Host names of package and image registries.
#[must_use]
pub fn check_registries(tree: &SourceTree) -> Vec<Finding> {
    let advice = "a registry's host: name the package, the machine knows its registry";
    let ours = tree.files().iter().filter(|file| file.name() != GENERATED);
    ours.flat_map(|file| find_words(file, &REGISTRIES, advice)).collect()
}

fn find_words(file: &SourceFile, words: &[&str], advice: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        let found = words.iter().find(|word| has_word(line, word));
        let finding = |word| Finding::new(&file.path, number, format!("'{word}': {advice}"));
        findings.extend(found.map(finding));
    }
    findings
}

/// Whether `line` has `word` with neither a letter nor a digit before it, nor after its letters.
fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric();
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let joined_after = word.ends_with(inside) && after.is_some_and(inside);
        !before.is_some_and(inside) && !joined_after
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_unfinished_work_are_found_in_source() {
        for note in UNFINISHED {
            let text = format!("//! Good.\n// {note}: later\n");
            let tree = SourceTree::of(&[("a.rs", &text), ("a.md", &text)]);
            assert_eq!(check_unfinished(&tree).len(), 1, "{note}");
        }
        assert_eq!(check_unfinished(&SourceTree::of(&[("a.rs", "// mkstemp: aXXXXXX")])), []);
    }

    #[test]
    fn macros_of_unfinished_work_are_found() {
        for name in UNFINISHED_MACROS {
            let text = format!("fn f() {{ {name}!(1); }}");
            assert_eq!(check_unfinished(&SourceTree::of(&[("a.rs", &text)])).len(), 1, "{name}");
        }
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for path in MACHINE_PATHS {
            let bad = format!("cache = \"{path}me/cache\"");
            let good = format!("a net{path}plan is no path of a machine");
            let tree = SourceTree::of(&[("a.toml", &bad), ("b.md", &good)]);
            assert_eq!(check_machine_paths(&tree).len(), 1, "{path}");
        }
    }

    #[test]
    fn hosts_of_registries_are_found() {
        for host in REGISTRIES {
            let text = format!("image: {host}/library/debian");
            let tree = SourceTree::of(&[("a.yaml", &text), (GENERATED, &text)]);
            assert_eq!(check_registries(&tree).len(), 1, "{host}");
        }
    }
}
