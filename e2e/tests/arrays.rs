//! LUNs as arrays show them: two paths to each, of which one may be lost or lack the key; a LUN
//! whose target refuses reservations.

mod support;

use std::time::Duration;

use lunar_e2e::cluster::{Cluster, ClusterSpec};
use lunar_e2e::machine::{Machine, MachineError, require};
use lunar_e2e::recorder::{BLOCKS, Recorder};
use lunar_e2e::session::wait_until;
use lunar_e2e::takeover::make_pool_of;
use lunar_lab::Network;
use support::{programs, say};

const LIMIT: Duration = Duration::from_secs(90);
/// `lunar` ends so when the state of an object forbids something.
const REFUSED: i32 = 4;

/// One cluster serves all claims: to boot it takes longer than most of them.
#[test]
fn luns_are_used_on_all_of_their_paths_or_not_at_all() {
    let spec = ClusterSpec { nodes: 2, luns: 3, cpus: 1, paths: 2, programs: programs() };
    let cluster = Cluster::start(&spec).unwrap_or_else(|error| panic!("{error}"));
    let done = run(&cluster);
    done.map_err(|error| cluster.with_logs(error)).unwrap_or_else(|error| panic!("{error}"));
}

fn run(cluster: &Cluster) -> Result<(), MachineError> {
    a_target_without_reservations_makes_no_pool_with_them(cluster)?;
    make_pool_of(cluster, "tank", 0..1)?;
    the_key_is_on_both_paths(cluster)?;
    a_key_that_is_gone_from_one_path_stops_io_until_it_is_back(cluster)?;
    one_path_is_lost_and_io_goes_on(cluster, Network::Storage)?;
    one_path_is_lost_and_io_goes_on(cluster, Network::StorageB)?;
    a_node_with_one_path_of_two_does_not_use_the_lun(cluster)
}

/// Runs a command of the operator that has to be refused; gives what it said.
fn refused(cluster: &Cluster, node: usize, command: &str) -> Result<String, MachineError> {
    let line = Cluster::as_operator(command);
    Ok(Machine::sh(cluster.node(node), &line, LIMIT)?.expect_code(REFUSED)?.stderr)
}

/// LUN 1: its target is told to refuse PERSISTENT RESERVE.
fn a_target_without_reservations_makes_no_pool_with_them(
    cluster: &Cluster,
) -> Result<(), MachineError> {
    cluster
        .lab()
        .target()
        .node()
        .sh("echo 0 > /sys/kernel/config/target/core/iblock_1/iscsi1/attrib/emulate_pr")?;
    let lun = cluster.lun_device(0, 1)?;
    cluster.run(0, &format!("lunar lun label {lun}"))?;
    for fencing in ["", "--fencing reservations"] {
        let said = refused(cluster, 0, &format!("lunar pool create weak {fencing} {lun}"))?;
        require(said.contains("reservations"), || format!("'{fencing}': {said}"))?;
        say(&format!("refused '{fencing}': {}", said.lines().next().unwrap_or_default()));
    }
    cluster.run(0, &format!("lunar pool create weak --fencing lease {lun}")).map(drop)
}

/// What a daemon has said of its registration at LUNs, the newest line last.
fn registrations(cluster: &Cluster, node: usize) -> Vec<String> {
    let log = cluster.log_of(node);
    log.lines()
        .filter(|line| line.contains("registered at the LUN lun="))
        .map(str::to_owned)
        .collect()
}

fn word(line: &str, name: &str) -> Result<String, MachineError> {
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
    value.map(str::to_owned).ok_or_else(|| MachineError::Unexpected(format!("no {name} in {line}")))
}

fn the_key_is_on_both_paths(cluster: &Cluster) -> Result<(), MachineError> {
    for node in 0..2 {
        wait_until("the node registers", LIMIT, || Ok(!registrations(cluster, node).is_empty()))?;
        let paths = word(&registrations(cluster, node)[0], "paths=")?;
        require(paths == "2", || format!("node {node} is registered on {paths} paths"))?;
    }
    Ok(())
}

/// A load on node 0, which has to go on.
fn under_load(
    cluster: &Cluster,
    happens: impl FnOnce() -> Result<(), MachineError>,
) -> Result<(), MachineError> {
    cluster.run(0, "lunar volume create db --pool tank --size 256MiB")?;
    let attached = cluster.attach(0, "db", "")?;
    let recorder = Recorder::new(79, BLOCKS).granted(attached.volume, attached.epoch);
    let writer = recorder.start(cluster.node(0), &attached.device, 4);
    writer.wait_for(10, LIMIT);
    happens()?;
    writer.must_run();
    writer.wait_for(writer.flushed() + 20, LIMIT);
    let rounds = writer.stop(LIMIT);
    cluster.node(0).sh(&recorder.verification(&attached.device, rounds))?;
    cluster.run(0, "lunar volume detach db && lunar volume delete db").map(drop)
}

fn a_key_that_is_gone_from_one_path_stops_io_until_it_is_back(
    cluster: &Cluster,
) -> Result<(), MachineError> {
    let before = registrations(cluster, 0);
    let key = word(before.last().expect("it has registered"), "key=")?;
    let path = cluster.node(0).lun_paths(0)?.remove(1).device;
    under_load(cluster, || {
        let unregister = format!(
            "sg_persist --no-inquiry --out --register --param-rk={key} --param-sark=0 {path}"
        );
        // The first command after news about the LUN is answered with that.
        cluster.node(0).sh(&format!("{unregister} || {unregister}"))?;
        wait_until("it registers again", LIMIT, || {
            Ok(registrations(cluster, 0).len() > before.len())
        })
    })?;
    // A write over that path may be answered before the daemon looks at the paths.
    let log = cluster.log_of(0);
    let why = ["registered on 1 of 2 paths", "the array has rejected a write"];
    require(why.iter().any(|text| log.contains(text)), || "it has not said why".to_owned())?;
    let paths = word(registrations(cluster, 0).last().expect("it has registered"), "paths=")?;
    require(paths == "2", || format!("it is registered again on {paths} paths"))?;
    say("a key that was gone from one of two paths stopped I/O, and was put there again");
    Ok(())
}

/// Has the nodes use a path again that they have given up, as multipathd does.
fn reinstate(
    cluster: &Cluster,
    node: usize,
    (lun, path): (usize, usize),
) -> Result<(), MachineError> {
    let device = cluster.node(node).lun_paths(lun)?.remove(path).device;
    let name = device.trim_start_matches("/dev/");
    let script = format!(
        "dd if={device} of=/dev/null bs=4096 count=1 iflag=direct status=none && \
         dmsetup message mp{lun} 0 reinstate_path $(cat /sys/class/block/{name}/dev)"
    );
    wait_until("the path is back", LIMIT, || {
        Ok(Machine::sh(cluster.node(node), &script, LIMIT)?.code == 0)
    })
}

fn one_path_is_lost_and_io_goes_on(
    cluster: &Cluster,
    network: Network,
) -> Result<(), MachineError> {
    let path = usize::from(network == Network::StorageB);
    under_load(cluster, || {
        cluster.node(0).partition(network)?;
        let failed = "dmsetup status mp0 | grep -c ' F ' || true";
        wait_until("the path fails", LIMIT, || Ok(cluster.node(0).sh(failed)?.trim() != "0"))
    })?;
    cluster.node(0).heal(network)?;
    reinstate(cluster, 0, (0, path))?;
    let nodes = cluster.json(1, "node list")?.to_string();
    require(nodes.matches("\"active\"").count() == 2, || format!("not all are active: {nodes}"))?;
    say(&format!("path {path} of two was lost under load: I/O went on, nobody was fenced"));
    Ok(())
}

/// LUN 2: one of its paths from node 1 is down when its pool is made.
fn a_node_with_one_path_of_two_does_not_use_the_lun(cluster: &Cluster) -> Result<(), MachineError> {
    cluster.node(1).partition(Network::StorageB)?;
    make_pool_of(cluster, "half", 2..3)?;
    cluster.run(0, "lunar volume create half --pool half --size 64MiB")?;
    wait_until("node 1 says that it does not use the LUN", LIMIT, || {
        Ok(cluster.log_of(1).contains("of pool 'half' is not used here"))
    })?;
    let said = refused(cluster, 1, "lunar volume attach half")?;
    require(said.contains("not registered at LUN"), || said.clone())?;
    let log = cluster.log_of(1);
    let why = log.lines().find(|line| line.contains("of pool 'half' is not used here"));
    say(&format!("one path of two: {}", why.unwrap_or_default()));
    cluster.node(1).heal(Network::StorageB)?;
    reinstate(cluster, 1, (2, 1))?;
    wait_until("the node uses the LUN", LIMIT, || {
        let attach = Cluster::as_operator("lunar volume attach half");
        Ok(Machine::sh(cluster.node(1), &attach, LIMIT)?.code == 0)
    })
}
