//! Which crate may depend on which: the directions of the architecture, all others denied.
//!
//! - The table below is the whole truth; a crate that it does not name is a finding.
//! - Dependencies for tests only (`dev-dependencies`) may go to any crate of the workspace, because
//!   a test may bind together what the product keeps apart; nothing may depend on the tests
//!   themselves, and the denied external crates stay denied.

use toml::{Table, Value};

use crate::{Finding, SourceTree};

/// A crate of the workspace and what it may know.
struct Direction {
    name: &'static str,
    may_use: &'static [&'static str],
    /// Crates from outside whose whole subject this crate knows nothing of.
    denied: &'static [&'static str],
}

const UBLK: &str = "libublk";
const RPC: [&str; 3] = ["tonic", "prost", "tokio"];

const DIRECTIONS: [Direction; 15] = [
    Direction {
        name: "types",
        may_use: &[],
        denied: &[UBLK, RPC[0], RPC[1], RPC[2], "io-uring", "nix", "redb"],
    },
    Direction { name: "proto", may_use: &["types"], denied: &[UBLK, "io-uring", "redb", "nix"] },
    Direction {
        name: "backup",
        may_use: &["types"],
        denied: &[UBLK, RPC[0], RPC[1], RPC[2], "io-uring", "nix", "redb"],
    },
    Direction {
        name: "identity",
        may_use: &["types", "proto"],
        denied: &[UBLK, RPC[0], RPC[1], RPC[2], "io-uring", "nix", "redb"],
    },
    Direction {
        name: "metadata-client",
        may_use: &["types", "proto", "identity"],
        denied: &[UBLK, "io-uring", "redb"],
    },
    Direction {
        name: "engine",
        may_use: &["types"],
        denied: &[UBLK, RPC[0], RPC[1], RPC[2], "redb"],
    },
    Direction {
        name: "metadata",
        may_use: &["types", "proto", "identity", "backup"],
        denied: &[UBLK, "io-uring"],
    },
    Direction {
        name: "ublk-target",
        may_use: &["types", "proto", "identity", "engine", "metadata-client"],
        denied: &["redb", "kube"],
    },
    Direction {
        name: "csi",
        may_use: &["types", "proto", "identity", "metadata-client"],
        denied: &[UBLK, "io-uring", "redb"],
    },
    Direction {
        name: "cli",
        may_use: &["types", "proto", "identity", "metadata-client", "backup"],
        denied: &[UBLK, "io-uring", "redb"],
    },
    Direction {
        name: "sim",
        may_use: &["types", "engine", "metadata"],
        denied: &[UBLK, "io-uring"],
    },
    Direction { name: "lab", may_use: &[], denied: &[UBLK] },
    Direction { name: "packaging", may_use: &[], denied: &[UBLK] },
    Direction { name: "e2e", may_use: &["types", "proto", "lab"], denied: &[UBLK] },
    Direction { name: "tidy", may_use: &[], denied: &[UBLK] },
];

/// The crates that test others, which no crate may use, not even in its tests.
const TESTS_ONLY: [&str; 4] = ["sim", "e2e", "tidy", "packaging"];

/// Dependencies of the workspace's crates that the table does not allow.
#[must_use]
pub fn check_directions(tree: &SourceTree) -> Vec<Finding> {
    let manifests = tree.files().iter().filter(|file| file.name() == "Cargo.toml");
    let mut findings = Vec::new();
    let mut parsed = Vec::new();
    for file in manifests {
        match file.text.parse::<Table>() {
            Ok(table) => parsed.push((file.path.as_str(), table)),
            Err(error) => findings.push(Finding::new(&file.path, 0, error.to_string())),
        }
    }
    let renames = workspace_dependencies(&parsed);
    for (path, table) in &parsed {
        findings.extend(check_manifest(path, table, renames.as_ref()));
    }
    findings
}

fn workspace_dependencies(parsed: &[(&str, Table)]) -> Option<Table> {
    let (_, root) = parsed.iter().find(|(path, _)| *path == "Cargo.toml")?;
    root.get("workspace")?.get("dependencies")?.as_table().cloned()
}

fn check_manifest(path: &str, manifest: &Table, renames: Option<&Table>) -> Vec<Finding> {
    let package = manifest.get("package").and_then(|package| package.get("name"));
    let Some(name) = package.and_then(Value::as_str) else { return Vec::new() };
    let Some(direction) = DIRECTIONS.iter().find(|direction| direction.name == name) else {
        let message = format!("crate '{name}' has no direction: add it to tidy/src/directions.rs");
        return vec![Finding::new(path, 0, message)];
    };
    let mut findings = Vec::new();
    for (section, key, value) in dependencies(manifest) {
        let used = real_name(key, value, renames);
        findings.extend(check_dependency(path, direction, section, used));
    }
    findings
}

fn check_dependency(
    path: &str,
    direction: &Direction,
    section: &str,
    used: &str,
) -> Option<Finding> {
    let name = direction.name;
    if direction.denied.contains(&used) {
        let message = format!("'{name}' must know nothing of '{used}'");
        return Some(Finding::new(path, 0, message));
    }
    let ours = used != name && DIRECTIONS.iter().any(|direction| direction.name == used);
    let for_tests = section == "dev-dependencies" && !TESTS_ONLY.contains(&used);
    let allowed = !ours || for_tests || direction.may_use.contains(&used);
    let message = format!("'{name}' must not depend on '{used}' ({section})");
    (!allowed).then(|| Finding::new(path, 0, message))
}

/// Every dependency of a manifest: its section, its key and its value.
fn dependencies(manifest: &Table) -> Vec<(&'static str, &str, &Value)> {
    const SECTIONS: [&str; 3] = ["dependencies", "build-dependencies", "dev-dependencies"];
    let targets = manifest.get("target").and_then(Value::as_table);
    let tables = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    let mut found = Vec::new();
    for table in tables.chain([manifest]) {
        for section in SECTIONS {
            let entries = table.get(section).and_then(Value::as_table);
            let entries = entries.into_iter().flatten();
            found.extend(entries.map(|(key, value)| (section, key.as_str(), value)));
        }
    }
    found
}

/// The name of the crate behind a key, which `package = "…"` may change here or in the workspace.
fn real_name<'a>(key: &'a str, value: &'a Value, workspace: Option<&'a Table>) -> &'a str {
    let renamed = |value: &'a Value| value.get("package").and_then(Value::as_str);
    let inherited = || workspace.and_then(|table| table.get(key)).and_then(renamed);
    renamed(value).or_else(inherited).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, dependencies: &str) -> Vec<String> {
        let manifest = format!("[package]\nname = '{name}'\n{dependencies}\n");
        let root = "[workspace.dependencies]\nquick = { package = 'libublk', version = '1' }\n";
        let tree = SourceTree::of(&[("a/Cargo.toml", &manifest), ("Cargo.toml", root)]);
        check_directions(&tree).into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn allowed_directions_pass() {
        let all = "[dependencies]\nengine.workspace = true\nlibublk = '1'\nserde = '1'";
        assert_eq!(check("ublk-target", all), [""; 0]);
    }

    #[test]
    fn denied_directions_are_found_in_every_section() {
        for section in ["dependencies", "build-dependencies", "target.'cfg(unix)'.dependencies"] {
            let found = check("cli", &format!("[{section}]\nengine = '1'"));
            assert_eq!(found.len(), 1, "{section}");
            assert!(found[0].starts_with("'cli' must not depend on 'engine'"));
        }
    }

    #[test]
    fn tests_may_go_further_but_not_to_tests() {
        let found = check("cli", "[dev-dependencies]\nmetadata.workspace = true");
        assert_eq!(found, [""; 0]);
        assert_eq!(check("cli", "[dev-dependencies]\nsim.workspace = true").len(), 1);
    }

    #[test]
    fn only_the_daemon_links_libublk_even_under_another_name() {
        let renamed = "[dependencies]\nublk = { package = 'libublk', version = '1' }";
        assert_eq!(check("cli", renamed).len(), 1);
        assert_eq!(check("cli", "[dependencies]\nquick.workspace = true").len(), 1);
        assert_eq!(check("lab", "[dev-dependencies]\nlibublk = '1'").len(), 1);
    }

    #[test]
    fn unknown_crates_are_found() {
        assert_eq!(check("extra", "").len(), 1);
    }
}
