//! Relative links of the documentation lead somewhere: to a file, a folder or a heading.
//!
//! Links to other hosts are not followed: a test must not depend on the network.

use crate::{Finding, SourceFile, SourceTree};

/// Relative links in `*.md` whose target or heading does not exist.
#[must_use]
pub fn check_links(tree: &SourceTree) -> Vec<Finding> {
    tree.with_extension("md").flat_map(|page| check_page(tree, page)).collect()
}

fn check_page(tree: &SourceTree, page: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in prose_lines(page) {
        for target in targets(&without_code(line)) {
            let broken = explain_broken(tree, page, target);
            findings.extend(broken.map(|why| Finding::new(&page.path, number, why)));
        }
    }
    findings
}

/// The lines outside of fenced blocks.
fn prose_lines(page: &SourceFile) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((number, line));
        }
    }
    lines
}

/// The line without its `code`.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// The targets of `[text](target)` and `[name]: target`.
fn targets(line: &str) -> Vec<&str> {
    let inline = line.match_indices("](").filter_map(|(at, _)| line[at + 2..].split(')').next());
    let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
    let all = inline.chain(definition.map(|(_, target)| target));
    all.filter_map(|target| target.split_whitespace().next()).collect()
}

fn explain_broken(tree: &SourceTree, page: &SourceFile, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = match path {
        "" => page.path.clone(),
        path => match resolve(&page.path, path) {
            Some(path) => path,
            None => return Some(format!("link '{target}' leaves the repository")),
        },
    };
    if !tree.has(&path) {
        return Some(format!("link '{target}' leads nowhere: there is no '{path}'"));
    }
    let known = heading.is_empty() || tree.file(&path).is_none_or(|page| has(page, heading));
    (!known).then(|| format!("link '{target}' leads nowhere: '{path}' has no such heading"))
}

/// The path of `link` seen from `page`, or nothing where it leaves the repository.
fn resolve(page: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn has(page: &SourceFile, heading: &str) -> bool {
    let headings = prose_lines(page).into_iter().filter(|(_, line)| line.starts_with('#'));
    headings.map(|(_, line)| anchor(line.trim_start_matches('#'))).any(|known| known == heading)
}

/// The anchor of a heading: lower case, words joined by hyphens, punctuation left out.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    heading.trim().to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(link: &str) -> usize {
        let page = format!("# Head\n\nSee {link}.\n");
        let tree = SourceTree::of(&[
            ("docs/a.md", &page),
            ("docs/b.md", "## The second, with `code`\n"),
            ("README.md", ""),
        ]);
        check_links(&tree).len()
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        for link in [
            "[b](b.md)",
            "[b](b.md#the-second-with-code)",
            "[top](../README.md)",
            "[folder](../docs)",
            "[here](#head)",
            "[far](https://example.org/none)",
            "`[code](none.md)`",
        ] {
            assert_eq!(check(link), 0, "{link}");
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        for link in [
            "[none](none.md)",
            "[none](b.md#first)",
            "[out](../../a.md)",
            "[head](#tail)",
            "[two](b.md) and [none](none.md)",
            "text\n[name]: none.md",
        ] {
            assert_eq!(check(link), 1, "{link}");
        }
    }

    #[test]
    fn fenced_examples_are_no_links() {
        let tree = SourceTree::of(&[("a.md", "```\n[none](none.md)\n```\n[none](none.md)\n")]);
        assert_eq!(check_links(&tree).len(), 1);
    }
}
