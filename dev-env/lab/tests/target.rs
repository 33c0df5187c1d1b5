//! The target: shared LUNs over iSCSI, real reservations, partitions, and the record of commands.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use lunar_lab::{
    CommandKind, InitiatorTimeouts, Job, Lab, LunSpec, Network, Node, Outcome, Output, TargetSpec,
};
use std::time::Duration;
use support::{LIMIT, lab};

/// Keys of the two nodes.
const KEYS: [&str; 2] = ["0x7a1100000001", "0x7a1100000002"];
/// Exit code of `sg_persist` for a reservation conflict.
const CONFLICT: i32 = 24;
/// Exit code of `sg_persist` for news about the LUN, told in place of an answer: ask again.
const UNIT_ATTENTION: i32 = 6;
const REGISTER: [&str; 2] = ["--register-ignore", "--param-aptpl"];
const ALL_REGISTRANTS: &str = "--prout-type=7";

/// One lab serves all claims about one target; each leaves the LUNs without reservations.
#[test]
fn reservations_partitions_and_the_record_are_real() {
    let timeouts = InitiatorTimeouts {
        noop_interval: Duration::from_secs(2),
        noop_timeout: Duration::from_secs(2),
        replacement: Duration::from_secs(4),
    };
    let target = TargetSpec::new([LunSpec::new(64 << 20), LunSpec::new(64 << 20)]);
    let target = target.paths(2).timeouts(timeouts);
    let lab = lab().nodes(2).cpus(1).target(target).start().unwrap();
    two_nodes_see_one_iscsi_lun_and_a_preempted_one_cannot_write(&lab);
    a_second_path_writes_with_the_registration_of_the_first(&lab);
    the_target_log_names_the_initiator_of_each_write(&lab);
    an_abort_does_not_wait_for_a_held_write_but_a_reset_does(&lab);
    a_partitioned_storage_network_stops_io_and_heals(&lab);
    reservations_survive_a_restart_of_the_target(&lab);
    lab.down();
}

/// PERSISTENT RESERVE OUT from a node to its LUN 0, with the node's own key.
fn reserve_out(node: &Node, own: &str, arguments: &[&str]) -> Output {
    let device = node.lun_path(0).unwrap();
    let register = arguments.contains(&REGISTER[0]);
    let key = if register { "--param-sark" } else { "--param-rk" };
    let key = format!("{key}={own}");
    let mut command = vec!["sg_persist", "--no-inquiry", "--out", &key];
    command.extend(arguments);
    command.push(&device);
    loop {
        let output = node.exec(&command).unwrap();
        if output.code() != Some(UNIT_ATTENTION) {
            return output;
        }
    }
}

fn reserve_out_ok(node: &Node, own: &str, arguments: &[&str]) {
    let output = reserve_out(node, own, arguments);
    assert!(output.success(), "{}: {arguments:?}: {output:?}", node.name());
}

fn preempt_and_abort(node: &Node, own: &str, victim: &str) -> Output {
    let victim = format!("--param-sark={victim}");
    reserve_out(node, own, &["--preempt-abort", &victim, ALL_REGISTRANTS])
}

/// What READ KEYS says.
fn keys(node: &Node) -> String {
    let device = node.lun_path(0).unwrap();
    let command = ["sg_persist", "--no-inquiry", "--in", "--read-keys", &device];
    node.exec_ok(&command).unwrap().stdout_text()
}

fn register_both(lab: &Lab) {
    for (node, key) in lab.nodes().iter().zip(KEYS) {
        reserve_out_ok(node, key, &REGISTER);
    }
    reserve_out_ok(lab.node(0), KEYS[0], &["--reserve", ALL_REGISTRANTS]);
}

fn clear(node: &Node, own: &str) {
    reserve_out_ok(node, own, &["--clear"]);
}

/// One block of 4 KiB with this text, past the page cache.
fn write_script(device: &str, block: u32, text: &str) -> String {
    format!("printf '{text}' | dd of={device} bs=4096 seek={block} conv=sync,notrunc oflag=direct")
}

fn write(node: &Node, block: u32, text: &str) -> Output {
    node.script(&write_script(&node.lun_path(0).unwrap(), block, text)).run().unwrap()
}

fn write_in_background(node: &Node, block: u32, text: &str) -> Job {
    let script = write_script(&node.lun_path(0).unwrap(), block, text);
    node.script(&script).spawn().unwrap()
}

fn read(node: &Node, block: u32) -> String {
    let device = node.lun_path(0).unwrap();
    node.sh(&format!("dd if={device} bs=4096 skip={block} count=1 iflag=direct | tr -d '\\0'"))
        .unwrap()
}

fn assert_fenced(output: &Output) {
    let text = output.stderr_text();
    assert!(!output.success() && text.contains("Invalid exchange"), "not EBADE: {text}");
}

fn two_nodes_see_one_iscsi_lun_and_a_preempted_one_cannot_write(lab: &Lab) {
    let (first, second) = (lab.node(0), lab.node(1));
    assert_ne!(first.lun_path(0).unwrap(), first.lun_path(1).unwrap());
    first.sh("test -b /dev/disk/by-id/scsi-iscsi1 -a -b /dev/disk/by-path/storage-iscsi0").unwrap();
    assert!(write(first, 1, "from the first").success());
    assert_eq!(read(second, 1), "from the first");

    register_both(lab);
    assert!(write(second, 2, "registered").success());
    assert!(preempt_and_abort(first, KEYS[0], KEYS[1]).success());
    assert!(keys(first).contains(KEYS[0]) && !keys(first).contains(KEYS[1]));
    assert_fenced(&write(second, 2, "fenced"));
    assert_eq!(read(second, 2), "registered", "a fenced node still reads");
    let again = preempt_and_abort(first, KEYS[0], KEYS[1]);
    assert_eq!(again.code(), Some(CONFLICT), "the key of nobody cannot be preempted");
    assert_eq!(preempt_and_abort(second, KEYS[1], KEYS[0]).code(), Some(CONFLICT));
    clear(first, KEYS[0]);
}

/// A fact about Linux's target, which looks at the initiator's name and not at its session.
fn a_second_path_writes_with_the_registration_of_the_first(lab: &Lab) {
    let (fencer, victim) = (lab.node(0), lab.node(1));
    let paths = victim.lun_paths(0).unwrap();
    let networks: Vec<_> = paths.iter().map(|path| path.network).collect();
    assert_eq!(networks, [Network::Storage, Network::StorageB]);
    let through =
        |path: usize| victim.script(&write_script(&paths[path].device, 5, "a path")).run().unwrap();
    register_both(lab);
    assert!(through(0).success() && through(1).success());
    assert_eq!(keys(fencer).matches(KEYS[1]).count(), 1, "one path is registered");
    assert!(preempt_and_abort(fencer, KEYS[0], KEYS[1]).success());
    assert_fenced(&through(0));
    assert_fenced(&through(1));
    clear(fencer, KEYS[0]);
}

fn the_target_log_names_the_initiator_of_each_write(lab: &Lab) {
    let target = lab.target();
    let mark = target.mark().unwrap();
    register_both(lab);
    assert!(write(lab.node(0), 10, "one").success());
    assert!(write(lab.node(1), 11, "two").success());
    assert!(preempt_and_abort(lab.node(0), KEYS[0], KEYS[1]).success());
    assert_fenced(&write(lab.node(1), 12, "three"));

    let writes = target.writes_since(mark).unwrap();
    let done = writes.iter().filter(|write| write.is_done());
    let done = done.map(|write| (write.machine(), write.lun, write.lba, write.blocks));
    let done: Vec<_> = done.collect();
    assert_eq!(done, [("node0", 0, 80, 8), ("node1", 0, 88, 8)]);
    let refused: Vec<_> = writes.iter().filter(|write| write.is_refused()).collect();
    assert_eq!(refused.iter().map(|w| (w.machine(), w.lba)).collect::<Vec<_>>(), [("node1", 96)]);
    let commands = target.commands_since(mark).unwrap();
    let abort = commands.iter().find(|command| command.kind == CommandKind::Reservation(5));
    assert!(abort.unwrap().time < refused[0].time, "{commands:#?}");
    let later = target.mark().unwrap();
    assert_eq!(target.writes_since(later).unwrap(), []);
    clear(lab.node(0), KEYS[0]);
}

/// A fact about Linux's target, and what does help: see docs/lab.md.
fn an_abort_does_not_wait_for_a_held_write_but_a_reset_does(lab: &Lab) {
    let (target, fencer, victim) = (lab.target(), lab.node(0), lab.node(1));
    register_both(lab);
    let mark = target.mark().unwrap();
    target.hold_lun(0).unwrap();
    let held = write_in_background(victim, 20, "late");
    support::wait_until("the target has the write", || {
        !target.writes_since(mark).unwrap().is_empty()
    });
    assert!(preempt_and_abort(fencer, KEYS[0], KEYS[1]).success());
    assert!(held.is_running());
    target.release_lun(0).unwrap();
    assert_eq!(held.wait(LIMIT).unwrap(), Outcome::Exited(0));
    assert_eq!(read(fencer, 20), "late", "it landed after the abort had its answer");

    reserve_out_ok(victim, KEYS[1], &REGISTER);
    let mark = target.mark().unwrap();
    target.hold_lun(0).unwrap();
    let held = write_in_background(victim, 21, "late");
    support::wait_until("the target has the write", || {
        !target.writes_since(mark).unwrap().is_empty()
    });
    assert!(preempt_and_abort(fencer, KEYS[0], KEYS[1]).success());
    let device = fencer.lun_path(0).unwrap();
    let reset = fencer.spawn(&["sg_reset", "--device", "--no-escalate", &device]).unwrap();
    assert!(reset.wait(Duration::from_secs(1)).is_err(), "the reset waits for the held write");
    target.release_lun(0).unwrap();
    assert_eq!(reset.wait(LIMIT).unwrap(), Outcome::Exited(0));
    assert!(matches!(held.wait(LIMIT).unwrap(), Outcome::Exited(1)), "it is sent again: EBADE");
    clear(fencer, KEYS[0]);
}

fn a_partitioned_storage_network_stops_io_and_heals(lab: &Lab) {
    let (cut, other) = (lab.node(0), lab.node(1));
    assert!(write(cut, 30, "before").success());
    cut.partition(Network::Storage).unwrap();
    let hanging = write_in_background(cut, 30, "through");
    assert!(hanging.wait(Duration::from_secs(1)).is_err(), "a write hangs at first");
    assert!(write(other, 31, "alone").success());
    assert!(cut.exec(&["ping", "-c", "1", "-W", "5", "node1"]).unwrap().success(), "control works");
    assert_eq!(hanging.wait(LIMIT).unwrap(), Outcome::Exited(1), "and fails at its time limits");
    assert_eq!(read(other, 30), "before");
    cut.heal(Network::Storage).unwrap();
    support::wait_until("writes go through again", || write(cut, 30, "healed").success());
    assert_eq!(read(other, 30), "healed");
}

fn reservations_survive_a_restart_of_the_target(lab: &Lab) {
    let (fencer, victim, target) = (lab.node(0), lab.node(1), lab.target());
    register_both(lab);
    assert!(preempt_and_abort(fencer, KEYS[0], KEYS[1]).success());
    target.cut().unwrap();
    target.boot().unwrap();
    support::wait_until("the fencer is connected again", || write(fencer, 40, "on").success());
    assert!(keys(fencer).contains(KEYS[0]) && !keys(fencer).contains(KEYS[1]));
    support::wait_until("the victim is connected again and still fenced", || {
        write(victim, 40, "off").stderr_text().contains("Invalid exchange")
    });
    assert_eq!(read(fencer, 40), "on");
    assert!(target.log().unwrap().commands.iter().any(|command| command.is_refused()));
    clear(fencer, KEYS[0]);
}
