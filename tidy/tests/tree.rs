//! The rules of `lunar-tidy`, applied to this repository.

use std::path::Path;
use std::sync::LazyLock;

use lunar_tidy::{Exceptions, Finding, SourceTree};
use lunar_tidy::{directions, exceptions, limits, links, module_docs, unsafe_code, words};

static TREE: LazyLock<SourceTree> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    SourceTree::read(&root).expect("the repository is readable")
});

static EXCEPTIONS: LazyLock<Exceptions> = LazyLock::new(|| {
    let file = TREE.file(exceptions::EXCEPTIONS_PATH).expect("the list of exceptions exists");
    Exceptions::parse(&file.text).expect("the list of exceptions is well-formed")
});

fn assert_none(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), lines.join("\n"));
}

#[test]
fn the_tree_was_read() {
    assert!(TREE.with_extension("rs").count() > 20);
    assert!(TREE.has("Cargo.toml") && TREE.has("types/src/lib.rs"));
}

#[test]
fn lines_are_within_the_columns() {
    assert_none(&limits::check_columns(&TREE));
}

#[test]
fn functions_are_short() {
    assert_none(&limits::check_functions(&TREE, &EXCEPTIONS));
}

#[test]
fn files_are_short() {
    assert_none(&limits::check_files(&TREE, &EXCEPTIONS));
}

#[test]
fn crates_depend_in_the_allowed_directions() {
    assert_none(&directions::check_directions(&TREE));
}

#[test]
fn modules_begin_with_their_purpose() {
    assert_none(&module_docs::check_module_docs(&TREE));
}

#[test]
fn unsafe_code_is_listed_and_explained() {
    assert_none(&unsafe_code::check_unsafe(&TREE, &EXCEPTIONS));
}

#[test]
fn no_work_is_left_unfinished() {
    assert_none(&words::check_unfinished(&TREE));
}

#[test]
fn no_path_of_one_machine_is_written_down() {
    assert_none(&words::check_machine_paths(&TREE));
}

#[test]
fn no_registry_is_written_down() {
    assert_none(&words::check_registries(&TREE));
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    assert_none(&links::check_links(&TREE));
}
