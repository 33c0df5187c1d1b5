//! Networks between machines, and partitions of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use lunar_lab::{LabError, Network, Node};
use std::time::Duration;
use support::lab;

fn reaches(from: &Node, host: &str) -> bool {
    let output = from.exec(&["ping", "-c", "1", "-W", "1", host]).unwrap();
    let text = output.stdout_text() + &output.stderr_text();
    assert!(!text.to_lowercase().contains("unreachable"), "a cut network says nothing: {text}");
    output.success()
}

#[test]
fn a_partition_is_silent_both_ways_and_leaves_the_other_network_alone() {
    let lab = lab().nodes(1).machine("meta").cpus(1).start().unwrap();
    let (node, meta) = (lab.node(0), lab.machine("meta"));
    assert_eq!(node.address(Network::Control).unwrap().to_string(), "10.77.0.10");
    let both = |node_side: bool, meta_side: bool, network: &str| {
        let seen =
            (reaches(node, &format!("meta{network}")), reaches(meta, &format!("node0{network}")));
        assert_eq!(seen, (node_side, meta_side), "over {network:?}");
    };
    both(true, true, "");
    both(true, true, "-storage");

    node.partition(Network::Control).unwrap();
    assert_eq!(node.partitions(), [Network::Control]);
    both(false, false, "");
    both(true, true, "-storage");
    assert_eq!(node.sh("cat /sys/class/net/control/carrier").unwrap(), "1\n", "nothing tells it");
    let limit = Duration::from_secs(3);
    let call = node.command(&["bash", "-c", "exec 3<>/dev/tcp/meta/7"]).timeout(limit).run();
    assert_eq!(call.unwrap().code(), None, "a call hangs, it does not fail");

    // A boot changes nothing on the wire.
    node.cut().unwrap();
    node.boot().unwrap();
    both(false, false, "");
    node.heal(Network::Control).unwrap();
    both(true, true, "");

    let bytes = "3000000";
    let listen = meta.spawn(&["socat", "-u", "TCP-LISTEN:7000", "EXEC:wc -c,nofork"]).unwrap();
    let send = format!("until head -c {bytes} /dev/zero >/dev/tcp/meta/7000; do sleep 0.1; done");
    node.sh(&send).unwrap();
    listen.wait(support::LIMIT).unwrap();
    assert_eq!(listen.stdout().trim(), bytes);

    let error = node.partition(Network::StorageB).unwrap_err();
    assert!(matches!(error, LabError::NoNetwork { .. }), "{error}");
    assert!(lab.try_machine("nobody").err().unwrap().to_string().contains("node0, meta"));
    lab.down();
}
