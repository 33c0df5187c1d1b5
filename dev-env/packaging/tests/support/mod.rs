//! What the tests of packaging share: where things are, and the tools that render.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod programs;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use lunar_packaging::objects::Objects;
use lunar_packaging::tools::{self, KUBERNETES, ToolError};

/// The folder of everything that is packaged.
pub(crate) fn dev_env() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("it is there")
}

pub(crate) fn repository() -> PathBuf {
    dev_env().join("..").canonicalize().expect("it is there")
}

pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("..").canonicalize().expect("cargo has made it")
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Tells the person at the terminal, whom the harness keeps what tests print from.
pub(crate) fn tell(text: &str) {
    writeln!(std::io::stderr().lock(), "\nNOT TESTED: {text}").expect("standard error is there");
}

/// A tool, or nothing where the host has no Go to build it. LUNAR_REQUIRE_GO=1 makes that a
/// failure.
fn required<T>(tool: Result<T, ToolError>) -> Option<T> {
    match tool {
        Ok(tool) => Some(tool),
        Err(missing @ ToolError::NoGo { .. }) => {
            let is_required = std::env::var("LUNAR_REQUIRE_GO").is_ok_and(|value| value == "1");
            assert!(!is_required, "{missing}");
            tell(&missing.to_string());
            None
        }
        Err(problem) => panic!("{problem}"),
    }
}

pub(crate) fn helm() -> Option<PathBuf> {
    required(tools::helm(&target()))
}

pub(crate) fn kustomize(folder: &Path) -> Option<Objects> {
    let yaml = required(tools::kustomize(&target(), folder))?;
    Some(Objects::parse(&yaml).unwrap_or_else(|error| panic!("{}: {error}", folder.display())))
}

pub(crate) fn overlay(name: &str) -> PathBuf {
    dev_env().join("k8s/overlays").join(name)
}

/// The command that renders the chart with values.
pub(crate) fn template(helm: &Path, values: &[&str]) -> Command {
    let mut command = Command::new(helm);
    command.args(["template", "lunar"]).arg(dev_env().join("helm/lunar"));
    command.args(["--namespace", "lunar", "--kube-version", KUBERNETES]);
    for value in values {
        match value.strip_prefix("file:") {
            Some(file) => command.arg("--values").arg(dev_env().join("helm/lunar").join(file)),
            None => command.args(["--set", value]),
        };
    }
    command
}

/// What the chart renders with values; a value `file:NAME` is a file of the chart.
pub(crate) fn rendered(helm: &Path, values: &[&str]) -> Objects {
    let yaml = tools::run(&mut template(helm, values)).unwrap_or_else(|error| panic!("{error}"));
    Objects::parse(&yaml).unwrap_or_else(|error| panic!("{values:?}: {error}"))
}
