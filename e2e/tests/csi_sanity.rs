//! The conformance suite of the CSI project, csi-sanity, against the driver on real ublk: with file
//! systems and with raw block.
//!
//! Nothing is left out by us. Two specs do not run: the suite itself has switched one off (volumes
//! that are added and deleted between two pages of a list), and one is for drivers that limit how
//! many volumes a node has, which this one does not.
//!
//! The suite is a Go program that `make csi-sanity` installs into `target/tools`. On a host without
//! Go there is none, and the test says so; with `LUNAR_REQUIRE_GO=1` that is a failure.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use lunar_e2e::csi::{CONTROLLER_SOCKET, Drivers, KUBELET, NODE_SOCKET};
use lunar_e2e::machine::{Machine, MachineError, Ran};
use lunar_lab::{Lab, LunSpec};
use support::{GIB, lab, make_pool, must, product, programs, say, session};

const LIMIT: Duration = Duration::from_secs(1200);
const SUITE: &str = "/root/csi-sanity";

/// The suite, where it is installed.
fn suite() -> Option<PathBuf> {
    let tools = programs().parent().map(|folder| folder.join("tools/csi-sanity"))?;
    tools.exists().then_some(tools)
}

fn run_suite(lab: &Lab, access: &str) -> Result<String, MachineError> {
    let script = format!(
        "mkdir -p {KUBELET}/sanity
         echo 'pool: tank' > /root/parameters.yaml
         {SUITE} -csi.endpoint {NODE_SOCKET} -csi.controllerendpoint {CONTROLLER_SOCKET} \\
           -csi.mountdir {KUBELET}/sanity/target -csi.stagingdir {KUBELET}/sanity/staging \\
           -csi.testvolumeparameters /root/parameters.yaml -csi.testvolumeaccesstype {access} \\
           -csi.testvolumesize {GIB} -csi.testvolumeexpandsize {} \\
           -ginkgo.no-color -ginkgo.v 2>&1",
        2 * GIB
    );
    let Ran { code, stdout: text, .. } = Machine::sh(lab.node(0), &script, LIMIT)?;
    match code {
        0 => Ok(text),
        code => Err(MachineError::Unexpected(format!("csi-sanity ended with {code}:\n{text}"))),
    }
}

/// The lines that sum a run up, and what was skipped.
fn summary(text: &str) -> String {
    let wanted = |line: &&str| {
        let marks = ["Passed", "[SKIPPED] ", "[PENDING]"];
        line.starts_with("Ran ") || marks.iter().any(|mark| line.contains(mark))
    };
    text.lines().map(str::trim).filter(wanted).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_driver_passes_the_suite_of_csi() {
    let Some(suite) = suite() else {
        let text = "csi-sanity is not installed: 'make csi-sanity' installs it where Go is";
        assert!(std::env::var("LUNAR_REQUIRE_GO").is_err(), "{text}");
        say(&format!("NOT RUN: {text}"));
        return;
    };
    let lab = lab([LunSpec::new(8 * GIB)]);
    let daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let drivers = Drivers::start(lab.node(0)).unwrap_or_else(|error| panic!("{error}"));
    let suite = std::fs::read(suite).expect("the suite can be read");
    lab.node(0).write_file(SUITE, suite, 0o755).expect("the suite is there");
    for access in ["mount", "block"] {
        let text = run_suite(&lab, access)
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", drivers.logs(), daemons.logs()));
        say(&format!("csi-sanity, {access}:\n{}", summary(&text)));
    }
    must(&daemons, session.quiet("lunar fsck"));
    lab.down();
}
