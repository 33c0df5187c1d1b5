//! What the end-to-end tests share: a lab of one node with the product on it, and its failures.

#![allow(dead_code, reason = "each test program uses its own part")]

pub(crate) mod fio;

use std::path::{Path, PathBuf};

use lunar_e2e::machine::MachineError;
use lunar_e2e::product::{Places, Product};
use lunar_e2e::session::{Echo, Session};
use lunar_lab::{Lab, Lun, LunSpec};

pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const MIB: u64 = 1 << 20;

/// A number that the environment may set.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// Adds a line to the test's output.
#[allow(clippy::print_stdout, reason = "what a test has seen is its record")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// The folder of the programs that were built with this test.
pub(crate) fn programs() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_BIN_EXE_flush-recorder"));
    let folder = own.parent().map(Path::to_owned).expect("a program lies in a folder");
    for program in ["fs-core", "metadata-service", "lunar", "lab-agent"] {
        assert!(
            folder.join(program).exists(),
            "{program} is missing in {}: run cargo build --release --workspace --bins",
            folder.display()
        );
    }
    folder
}

/// A lab of one node with these LUNs, ublk loaded.
pub(crate) fn lab(luns: impl IntoIterator<Item = LunSpec>) -> Lab {
    let lab = Lab::builder().luns(luns).programs(programs()).start();
    let lab = lab.unwrap_or_else(|error| panic!("the lab does not start: {error}"));
    lab.node(0).exec_ok(&["modprobe", "ublk_drv"]).expect("the lab's kernel has ublk");
    lab
}

/// The device paths of a lab's LUNs.
pub(crate) fn devices(lab: &Lab) -> Vec<String> {
    lab.luns().iter().map(Lun::device).collect()
}

/// Starts the product on the lab's first node.
pub(crate) fn product(lab: &Lab) -> Product<'_> {
    let product = Product::start(lab.node(0), Places::default());
    product.unwrap_or_else(|error| panic!("the product does not start: {error}"))
}

/// A session on the lab's first node that shows nothing unless something fails.
pub(crate) fn session(lab: &Lab) -> Session<'_> {
    Session::new(lab.node(0), Echo::Off)
}

/// The value, or a failure with the logs of both daemons.
pub(crate) fn must<T>(product: &Product<'_>, done: Result<T, MachineError>) -> T {
    done.unwrap_or_else(|error| panic!("{error}\n{}", product.logs()))
}

/// Labels every LUN of the lab and makes the pool `tank` of them.
pub(crate) fn make_pool(session: &Session<'_>, lab: &Lab) -> Result<(), MachineError> {
    let luns = devices(lab);
    for lun in &luns {
        session.quiet(&format!("lunar lun label {lun}"))?;
    }
    session.quiet(&format!("lunar pool create tank --fencing none {}", luns.join(" ")))?;
    Ok(())
}

/// Makes a volume and attaches it; gives its device.
pub(crate) fn volume(
    session: &Session<'_>,
    name: &str,
    size: &str,
) -> Result<String, MachineError> {
    session.quiet(&format!("lunar volume create {name} --pool tank --size {size}"))?;
    lunar_e2e::main_job::attach_quietly(session, name)
}
