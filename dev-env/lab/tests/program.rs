//! The program `lab`: its background process, its exit codes, its errors.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::wait_until;

/// A run directory of its own, so that a lab of the person who runs the tests is left alone.
struct Program {
    base: tempfile::TempDir,
}

impl Program {
    fn new() -> Self {
        let maker = tempfile::Builder::new().prefix("lab-").tempdir_in("/var/tmp");
        Self { base: maker.unwrap() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.env("LUNAR_LAB_RUN", self.base.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "lab {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn error(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(125), "lab {arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
    }
}

/// Processes whose command line has this text.
fn processes_with(text: &Path) -> Vec<PathBuf> {
    let text = text.to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let has = |path: &PathBuf| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    };
    entries.map(|entry| entry.path()).filter(has).collect()
}

#[test]
fn a_lab_in_the_background_serves_commands_until_it_is_ended() {
    let program = Program::new();
    assert!(program.error(&["exec", "0", "--", "true"]).contains("`lab up` starts one"));
    program.run_ok(&["up", "--nodes", "1", "--luns", "1", "--lun-size", "64MiB", "--networks"]);
    assert!(program.error(&["up"]).contains("a lab runs in"));

    assert_eq!(program.run(&["exec", "0", "--", "sh", "-c", "exit 9"]).status.code(), Some(9));
    let killed = program.run(&["exec", "node0", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137));
    let slow = program.run(&["exec", "0", "--timeout", "1", "--", "sleep", "60"]);
    assert_eq!(slow.status.code(), Some(124));
    assert!(program.error(&["exec", "7", "--", "true"]).contains("no node 7"));
    let mut counting = program.command(&["exec", "0", "--", "wc", "-c"]);
    counting.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut counting = counting.spawn().unwrap();
    counting.stdin.take().unwrap().write_all(&vec![b'x'; 700_000]).unwrap();
    let counted = counting.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&counted.stdout), "700000\n");

    let status: Value = serde_json::from_str(&program.run_ok(&["status", "--json"])).unwrap();
    assert_eq!(status["nodes"][0]["state"], "running");
    assert_eq!(status["luns"][0]["size_bytes"], 64 << 20);
    let source = program.base.path().join("pushed");
    fs::write(&source, "content").unwrap();
    program.run_ok(&["push", "0", source.to_str().unwrap(), "/var/lib/lunar/pushed"]);
    program.run_ok(&["exec", "0", "--", "sync"]);
    program.run_ok(&["cut", "0"]);
    assert!(program.run_ok(&["status"]).contains("off"));
    program.run_ok(&["boot", "0"]);
    assert_eq!(program.run_ok(&["pull", "0", "/var/lib/lunar/pushed"]), "content");
    program.run_ok(&["pause", "0"]);
    assert!(program.run_ok(&["status"]).contains("paused"));
    program.run_ok(&["resume", "0"]);
    program.run_ok(&["partition", "0", "storage"]);
    assert!(program.run_ok(&["status"]).contains("storage 10.78.0.10  cut off"));
    program.run_ok(&["heal", "0", "storage"]);
    assert!(!program.run_ok(&["status"]).contains("cut off"));
    assert!(program.error(&["partition", "0", "storage-b"]).contains("on no storage-b network"));
    assert!(program.error(&["cut", "meta"]).contains("the lab has node0"));
    assert!(program.run_ok(&["logs", "0"]).contains("lab-agent: serving"));

    program.run_ok(&["down"]);
    wait_until("every process of the lab has ended", || {
        processes_with(program.base.path()).is_empty()
    });
    assert!(!program.base.path().join("default").exists(), "the directory is removed");
    program.run_ok(&["down"]);
}

#[test]
fn machines_die_with_their_supervisor_and_the_litter_is_named() {
    let program = Program::new();
    program.run_ok(&["up", "--luns", "0"]);
    let machines = processes_with(program.base.path());
    assert_eq!(machines.len(), 1, "QEMU: {machines:?}");
    let parent = fs::read_to_string(machines[0].join("stat")).unwrap();
    let parent = parent.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().to_owned();
    assert!(Command::new("kill").args(["-9", &parent]).status().unwrap().success());
    wait_until("QEMU has ended", || processes_with(program.base.path()).is_empty());
    // QEMU dies as soon as its parent begins to; the parent's socket and lock go a little later.
    wait_until("what is left is named", || {
        let error = program.error(&["exec", "0", "--", "true"]);
        error.contains("any more") && error.contains("`lab down` removes that")
    });
    program.run_ok(&["down"]);
    assert!(!program.base.path().join("default").exists());
}

#[test]
fn what_is_missing_is_named_with_the_way_to_get_it() {
    let program = Program::new();
    let without_tools = program.command(&["up"]).env("PATH", "/nonexistent").output().unwrap();
    assert_eq!(without_tools.status.code(), Some(125));
    let text = String::from_utf8_lossy(&without_tools.stderr).into_owned();
    assert!(text.contains("qemu-system-x86_64 is not installed"), "{text}");
    assert!(text.contains("scripts/bootstrap.sh"), "{text}");

    let cache = tempfile::tempdir().unwrap();
    let mut without_mirror = program.command(&["image"]);
    without_mirror.env("LUNAR_LAB_CACHE", cache.path());
    without_mirror.env("LUNAR_LAB_MIRROR", "http://127.0.0.1:9/debian");
    let output = without_mirror.output().unwrap();
    assert_eq!(output.status.code(), Some(125), "an image that cannot be built is an error");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("127.0.0.1"), "{text}");
    let left = fs::read_dir(cache.path().join("images")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["lock"], "a build that failed leaves nothing");

    let no_agent = program.command(&["up"]).env("LUNAR_LAB_AGENT", "/no/agent").output().unwrap();
    let text = String::from_utf8_lossy(&no_agent.stderr).into_owned();
    assert!(text.contains("/no/agent") && text.contains("cargo build"), "{text}");
    assert!(program.error(&["up", "--lun-size", "1000"]).contains("multiple of 4096"));
    assert!(program.error(&["up", "--nodes", "99"]).contains("1 to 8"));
    assert_eq!(program.run(&["up", "--lun-size", "4GB"]).status.code(), Some(2), "a usage error");
}
