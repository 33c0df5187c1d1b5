//! The tools that render: found on the host, or built from their source as Go modules.
//!
//! - A tool has one version, named here, so that everybody renders the same.
//! - Built tools are kept in `tools` of the target directory, and built once.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// The version of Kubernetes that the chart is rendered for; a Helm that was built without its
/// release process believes in a very old one.
pub const KUBERNETES: &str = "1.32.0";

const HELM: Module =
    Module { program: "helm", path: "helm.sh/helm/v3/cmd/helm", version: "v3.21.4" };
const KUSTOMIZE: Module =
    Module { program: "kustomize", path: "sigs.k8s.io/kustomize/kustomize/v5", version: "v5.8.1" };

/// Tests run side by side, and one build of a tool is enough.
static BUILDING: Mutex<()> = Mutex::new(());

/// A program that `go install` makes.
struct Module {
    program: &'static str,
    path: &'static str,
    version: &'static str,
}

/// Something could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// There is no such program and no Go to build it.
    #[error(
        "there is no {program}, and no Go to build it with: install Go (Debian: apt-get install \
         golang) or put {program} on PATH"
    )]
    NoGo {
        /// The program.
        program: &'static str,
    },
    /// A program cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// What it said.
        said: String,
    },
}

/// A program of `PATH`, or of where Go installs itself.
#[must_use]
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/local/go/bin")]);
    folders.map(|folder| folder.join(program)).find(|program| program.is_file())
}

/// Runs a command and gives what it wrote.
///
/// # Errors
/// It cannot be started, or failed.
pub fn run(command: &mut Command) -> Result<String, ToolError> {
    let output = output(command)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => {
            let said = text(&output.stderr) + &text(&output.stdout);
            Err(ToolError::Failed { program: format!("{command:?}"), said })
        }
    }
}

/// Runs a command, however it ends.
///
/// # Errors
/// It cannot be started.
pub fn output(command: &mut Command) -> Result<Output, ToolError> {
    let started = command.output();
    started.map_err(|source| {
        let program = command.get_program().to_string_lossy().into_owned();
        ToolError::Start { program, source }
    })
}

impl Module {
    fn built(&self, target: &Path) -> Result<PathBuf, ToolError> {
        let tools = target.join("tools").join(self.version);
        let program = tools.join(self.program);
        // Who held it and failed has left nothing half done that this one would take.
        let _building = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        if program.is_file() {
            return Ok(program);
        }
        let go = on_path("go").ok_or(ToolError::NoGo { program: self.program })?;
        let module = format!("{}@{}", self.path, self.version);
        // One package at a time and out of the way: it may take minutes, and others work here.
        let mut build = Command::new("nice");
        build.arg("-n19").arg(go).args(["install", &module]);
        build.env("GOBIN", &tools).env("GOFLAGS", "-p=1").env("GOMAXPROCS", "1");
        run(&mut build)?;
        Ok(program)
    }
}

/// Helm of the version that is named here.
///
/// # Errors
/// There is none and it cannot be built.
pub fn helm(target: &Path) -> Result<PathBuf, ToolError> {
    HELM.built(target)
}

/// Renders a kustomization, by `kubectl` or, where there is none, by a kustomize that is built.
///
/// # Errors
/// There is neither, or it cannot be rendered.
pub fn kustomize(target: &Path, folder: &Path) -> Result<String, ToolError> {
    let mut command = match on_path("kubectl") {
        Some(kubectl) => Command::new(kubectl),
        None => Command::new(KUSTOMIZE.built(target)?),
    };
    let verb = if on_path("kubectl").is_some() { "kustomize" } else { "build" };
    run(command.arg(verb).arg(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_says_what_it_said() {
        let failed = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"]));
        let said = failed.expect_err("it fails").to_string();
        assert!(said.contains("why"), "{said}");
        let missing = run(&mut Command::new("/no/such/program")).expect_err("it is not there");
        assert!(missing.to_string().contains("/no/such/program"), "{missing}");
    }

    #[test]
    fn a_tool_that_was_built_is_not_built_again() {
        let target = tempfile::tempdir().expect("a folder");
        let built = target.path().join("tools").join(HELM.version);
        std::fs::create_dir_all(&built).expect("made");
        std::fs::write(built.join("helm"), "").expect("written");
        let found = helm(target.path()).expect("it is there");
        assert_eq!(found, built.join("helm"));
    }
}
