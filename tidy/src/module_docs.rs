//! Every crate root and module begins with its purpose.

use crate::{Finding, SourceFile, SourceTree};

/// Files of Rust whose first line is no `//!` sentence.
#[must_use]
pub fn check_module_docs(tree: &SourceTree) -> Vec<Finding> {
    let bare = |file: &&SourceFile| !begins_with_doc(&file.text);
    let message = "begins without a '//!' sentence that says what the module is for";
    let bare = tree.with_extension("rs").filter(bare);
    bare.map(|file| Finding::new(&file.path, 1, message)).collect()
}

fn begins_with_doc(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix("//!").is_some_and(|doc| !doc.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_without_purpose_is_found() {
        let good = ("a.rs", "//! Purpose.\n");
        for bad in ["", "use a;\n//! Late.\n", "//!\n", "// Comment\n", "/// Item\n"] {
            let found = check_module_docs(&SourceTree::of(&[good, ("b.rs", bad)]));
            assert_eq!(found.len(), 1, "{bad:?}");
            assert_eq!(found[0].path, "b.rs");
        }
    }
}
