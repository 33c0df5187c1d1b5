//! A host that lacks something: each missing thing is named, with how to get it.

mod support;

use std::time::Duration;

use lunar_e2e::machine::Machine;
use lunar_lab::{Lab, LunSpec};
use support::{GIB, lab, must, product, programs, session};

const LIMIT: Duration = Duration::from_secs(60);

/// What a command says that has to fail.
fn fails(lab: &Lab, script: &str) -> String {
    let ran = Machine::sh(lab.node(0), script, LIMIT).expect("it runs");
    assert_ne!(ran.code, 0, "'{script}' should fail");
    format!("{}{}", ran.stdout, ran.stderr)
}

fn sh(lab: &Lab, script: &str) {
    Machine::sh(lab.node(0), script, LIMIT).and_then(|ran| ran.expect_code(0)).expect(script);
}

#[test]
fn a_kernel_without_ublk_and_a_user_without_root_are_told_so() {
    let lab = Lab::builder().luns([LunSpec::new(GIB)]).programs(programs()).start();
    let lab = lab.unwrap_or_else(|error| panic!("the lab does not start: {error}"));
    // Without the module: it is moved away, as on a kernel that was built without it.
    sh(&lab, "find /usr/lib/modules -name 'ublk_drv.ko*' -exec mv {} /tmp/ublk.ko \\; ; depmod -a");
    let said = fails(&lab, "fs-core serve");
    assert!(said.contains("ublk"), "{said}");
    let said = fails(&lab, "lunar doctor");
    assert!(said.contains("ublk") && said.contains("linux-image"), "{said}");
    let said = fails(&lab, "setpriv --reuid=65534 --regid=65534 --clear-groups fs-core serve");
    assert!(said.contains("root"), "{said}");
    lab.down();
}

#[test]
fn a_port_in_use_a_locked_store_and_a_newer_store_are_told_so() {
    let lab = lab([LunSpec::new(GIB)]);
    let mut daemons = product(&lab);
    let session = session(&lab);
    let said = fails(&lab, "metadata-service serve --store /tmp/other.redb");
    assert!(said.contains("7420") && said.contains("in use"), "{said}");
    let locked = "metadata-service serve --store /var/lib/lunar/metadata.redb --listen 127.0.0.1:0";
    let said = fails(&lab, locked);
    assert!(said.contains("metadata.redb"), "{said}");
    let said = fails(&lab, "metadata-service serve --store /tmp/x.redb --listen 0.0.0.0:7420");
    assert!(said.contains("TLS"), "{said}");
    let stopped = daemons.stop_fs_core().and_then(|()| daemons.stop_metadata());
    must(&daemons, stopped);
    must(&daemons, session.quiet("echo this is no store > /tmp/text.redb"));
    let said = fails(&lab, "metadata-service serve --store /tmp/text.redb");
    assert!(said.contains("/tmp/text.redb"), "{said}");
    lab.down();
}
