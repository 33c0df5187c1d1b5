//! The worker by itself: it obeys its driver and nobody else.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use lunar_csi::file_system::FileSystem;
use lunar_csi::node::device::{Device, DeviceNumber};
use lunar_csi::node::worker::failure::{Failure, Kind};
use lunar_csi::node::worker::tools::Tool;
use lunar_csi::node::worker::{FAILED, Order, Work};

use crate::loops::Loop;

fn run(order: &[u8]) -> Output {
    let mut worker = Command::new(env!("CARGO_BIN_EXE_csi-driver"))
        .arg("worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = worker.stdin.take().expect("a pipe");
    stdin.write_all(order).expect("written");
    drop(stdin);
    worker.wait_with_output().expect("it ends")
}

fn failure(output: &Output) -> Failure {
    assert_eq!(output.status.code(), Some(i32::from(FAILED)), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("it says why")
}

fn order(driver: u32, work: Work) -> Vec<u8> {
    let order = Order { driver, root: "/var/lib/kubelet".into(), work };
    serde_json::to_vec(&order).expect("an order is text")
}

#[test]
fn a_worker_whose_driver_is_not_its_parent_does_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = Loop::new(folder.path(), "device", 32 << 20);
    let (major, minor) = device.number;
    let told = Device { path: device.device.clone(), number: DeviceNumber { major, minor } };
    for driver in [0, 1, u32::MAX] {
        let tool = Tool::Make(FileSystem::Ext4);
        let output = run(&order(driver, Work::Run { tool, device: told.clone() }));
        assert_eq!(failure(&output).kind, Kind::Internal);
        assert!(device.read(0, 1 << 20).iter().all(|byte| *byte == 0), "nothing was made");
    }
}

#[test]
fn what_is_no_order_is_refused() {
    for text in
        ["", "{", "null", "[]", "{\"driver\":1}", "{\"driver\":-1,\"root\":\"/\",\"work\":0}"]
    {
        assert_eq!(failure(&run(text.as_bytes())).kind, Kind::Invalid, "{text}");
    }
}

#[test]
fn a_tool_changes_no_device_with_another_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = Loop::new(folder.path(), "device", 32 << 20);
    let other = Loop::new(folder.path(), "other", 32 << 20);
    let (major, minor) = other.number;
    let mixed = Device { path: device.device.clone(), number: DeviceNumber { major, minor } };
    for tool in [Tool::Wipe, Tool::Make(FileSystem::Ext4), Tool::CheckExt4, Tool::SetReadOnly] {
        let output = run(&order(std::process::id(), Work::Run { tool, device: mixed.clone() }));
        assert_eq!(failure(&output).kind, Kind::Internal);
    }
    for device in [&device, &other] {
        assert!(device.read(0, 1 << 20).iter().all(|byte| *byte == 0), "nothing was made");
    }
}

#[test]
fn people_are_not_offered_the_worker() {
    let help = Command::new(env!("CARGO_BIN_EXE_csi-driver")).arg("--help").output();
    let help = String::from_utf8(help.expect("it runs").stdout).expect("text");
    assert!(help.contains("controller") && !help.contains("worker"), "{help}");
}
