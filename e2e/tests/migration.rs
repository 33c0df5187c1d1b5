//! A volume that two nodes have, as at a live migration: real ublk devices, real reservations.

#![allow(clippy::disallowed_methods, reason = "tells a person how long a move took")]

mod support;

use std::time::{Duration, Instant};

use lunar_e2e::cluster::{Cluster, ClusterSpec};
use lunar_e2e::machine::{MachineError, require};
use lunar_e2e::session::wait_until;
use lunar_e2e::takeover::make_pool;
use lunar_lab::{Job, Outcome, Signal};
use serde_json::Value;
use support::{programs, say, setting};

const LIMIT: Duration = Duration::from_secs(120);
/// `lunar` ends so when the state of an object forbids something.
const REFUSED: i32 = 4;
/// A block that nothing else of the test uses.
const TOKEN: u64 = 100;

/// One cluster serves all claims: to boot it takes longer than most of them.
#[test]
fn a_volume_on_two_nodes_is_one_volume() {
    let spec = ClusterSpec { nodes: 2, luns: 2, cpus: 2, paths: 1, programs: programs() };
    let mut cluster = Cluster::start(&spec).unwrap_or_else(|error| panic!("{error}"));
    let done = run(&mut cluster);
    done.map_err(|error| cluster.with_logs(error)).unwrap_or_else(|error| panic!("{error}"));
}

fn run(cluster: &mut Cluster) -> Result<(), MachineError> {
    make_pool(cluster)?;
    cluster.run(0, "lunar volume create vm --pool tank --size 64MiB")?;
    let devices = [attach(cluster, 0)?, attach(cluster, 1)?];
    nobody_else_gets_it(cluster)?;
    what_one_side_writes_the_other_one_reads(cluster, &devices)?;
    a_token_goes_to_and_fro(cluster, &devices)?;
    both_sides_write_without_pause(cluster, &devices)?;
    it_moves_by_hand(cluster)?;
    a_mounted_device_keeps_it(cluster, &devices)?;
    snapshots_and_growth_find_it_wherever_it_is(cluster, &devices)?;
    daemons_and_services_die_under_load(cluster, &devices)?;
    a_lost_owner_is_taken_over(cluster, &devices)?;
    both_let_it_go(cluster, &devices)
}

fn unexpected(text: String) -> MachineError {
    MachineError::Unexpected(text)
}

fn text_of(object: &Value, key: &str) -> String {
    object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn attach(cluster: &Cluster, node: usize) -> Result<String, MachineError> {
    let attached = cluster.json(node, "volume attach vm --migratable")?;
    Ok(text_of(&attached, "device_path"))
}

fn shown(cluster: &Cluster, node: usize) -> Result<Value, MachineError> {
    cluster.json(node, "volume show vm")
}

fn moves(cluster: &Cluster) -> Result<u64, MachineError> {
    let shown = shown(cluster, 0)?;
    shown.get("moves").and_then(Value::as_u64).ok_or_else(|| unexpected(shown.to_string()))
}

fn owner(cluster: &Cluster) -> Result<String, MachineError> {
    let shown = shown(cluster, 0)?;
    Ok(shown.get("holder").map(|holder| text_of(holder, "node_name")).unwrap_or_default())
}

/// Runs a command of the operator that has to be refused; gives what it said.
fn refused(cluster: &Cluster, node: usize, command: &str) -> Result<String, MachineError> {
    use lunar_e2e::machine::Machine;
    let line = Cluster::as_operator(command);
    let ran = Machine::sh(cluster.node(node), &line, LIMIT)?.expect_code(REFUSED)?;
    Ok(ran.stderr)
}

/// Starts the recorder of one side.
fn recorder(
    cluster: &Cluster,
    node: usize,
    device: &str,
    words: &str,
) -> Result<Job, MachineError> {
    let line = format!("peer-recorder {device} {words}");
    let words: Vec<&str> = line.split_whitespace().collect();
    Ok(cluster.node(node).spawn(&words)?)
}

fn counter(cluster: &Cluster, node: usize, device: &str, words: &str) -> Result<Job, MachineError> {
    recorder(cluster, node, device, &format!("count --own {node} --other {} {words}", 1 - node))
}

fn ends_well(job: &Job) -> Result<(), MachineError> {
    match job.wait(LIMIT)? {
        Outcome::Exited(0) => Ok(()),
        other => Err(unexpected(format!("{other:?}: {}", job.stderr()))),
    }
}

/// The last round of a recorder that counts.
fn round(job: &Job) -> u64 {
    let number = |line: &str| line.strip_prefix("round ")?.split(' ').next()?.parse().ok();
    job.stdout().lines().rev().find_map(number).unwrap_or(0)
}

/// Waits until a recorder has come so many rounds further.
fn goes_on(what: &str, job: &Job, rounds: u64) -> Result<(), MachineError> {
    let from = round(job);
    wait_until(what, LIMIT, || {
        require(job.is_running(), || format!("{what}: the recorder ended: {}", job.stderr()))?;
        Ok(round(job) >= from + rounds)
    })
}

fn kill(job: &Job) -> Result<u64, MachineError> {
    require(job.is_running(), || format!("the recorder ended: {}", job.stderr()))?;
    job.kill(Signal::SIGKILL)?;
    job.wait(LIMIT)?;
    Ok(round(job))
}

fn value(cluster: &Cluster, node: usize, device: &str, block: u64) -> Result<u64, MachineError> {
    let text = cluster.run(node, &format!("peer-recorder {device} read --block {block}"))?;
    let value = text.trim().strip_prefix("value ").and_then(|value| value.parse().ok());
    value.ok_or_else(|| unexpected(format!("{device} block {block}: {text}")))
}

/// Node 1 owns it: it was attached last.
fn nobody_else_gets_it(cluster: &Cluster) -> Result<(), MachineError> {
    for (node, command, part) in [
        (0, "delete vm", "cannot be deleted"),
        (0, "attach vm", "attached here already"),
        (0, "detach vm --peer node1", "owns volume"),
        (1, "attach other", "cannot be attached to a node alone"),
    ] {
        if command == "attach other" {
            cluster.run(0, "lunar volume create other --pool tank --size 16MiB")?;
            cluster.run(0, "lunar volume attach other --migratable")?;
        }
        let said = refused(cluster, node, &format!("lunar volume {command}"))?;
        require(said.contains(part), || format!("{command}: {said}"))?;
    }
    cluster.run(0, "lunar volume detach other").map(drop)
}

fn what_one_side_writes_the_other_one_reads(
    cluster: &Cluster,
    devices: &[String; 2],
) -> Result<(), MachineError> {
    let sum = |node: usize| {
        let read = format!(
            "dd if={} bs=1M count=16 skip=8 iflag=direct status=none | sha256sum",
            devices[node]
        );
        cluster.run(node, &read)
    };
    for (writer, reader) in [(0, 1), (1, 0), (0, 1)] {
        let write = format!(
            "dd if=/dev/urandom of={} bs=1M count=16 seek=8 oflag=direct status=none",
            devices[writer]
        );
        cluster.run(writer, &write)?;
        let (there, here) = (sum(writer)?, sum(reader)?);
        require(there == here, || format!("node {writer} has {there}, node {reader} {here}"))?;
    }
    say(&format!("what one side wrote the other one read; {} moves so far", moves(cluster)?));
    Ok(())
}

/// Each token is a move: the most that two sides can ask of each other.
fn a_token_goes_to_and_fro(cluster: &Cluster, devices: &[String; 2]) -> Result<(), MachineError> {
    let until = setting("LUNAR_MOVES", 40);
    let (before, began) = (moves(cluster)?, Instant::now());
    let pass = |node: usize| {
        let words = format!("token --block {TOKEN} --turn {node} --until {until}");
        recorder(cluster, node, &devices[node], &words)
    };
    let (first, second) = (pass(0)?, pass(1)?);
    ends_well(&first)?;
    ends_well(&second)?;
    let (moved, took) = (moves(cluster)? - before, began.elapsed());
    say(&format!(
        "{until} tokens to and fro in {:.1} s: {moved} moves, {} ms each",
        took.as_secs_f64(),
        took.as_millis() / u128::from(moved.max(1))
    ));
    require(moved >= until, || format!("{moved} moves for {until} tokens"))
}

/// On each processor, so through each queue: every one of them has to rest before a move.
fn both_sides_write_without_pause(
    cluster: &Cluster,
    devices: &[String; 2],
) -> Result<(), MachineError> {
    let before = moves(cluster)?;
    let mut sides = Vec::new();
    for (node, device) in devices.iter().enumerate() {
        for cpu in [0, 1] {
            let (own, other) = (cpu * 2 + node, cpu * 2 + 1 - node);
            let words = format!(
                "taskset -c {cpu} peer-recorder {device} count --own {own} --other {other}"
            );
            let words: Vec<&str> = words.split_whitespace().collect();
            sides.push((own, cluster.node(node).spawn(&words)?));
        }
    }
    for (_, side) in &sides {
        goes_on("both write without pause", side, 200)?;
    }
    let mut rounds = Vec::new();
    for (block, side) in &sides {
        rounds.push((*block as u64, kill(side)?));
    }
    let moved = moves(cluster)? - before;
    say(&format!("without pause, by block: {rounds:?} rounds, {moved} moves"));
    for (node, device) in devices.iter().enumerate() {
        for (block, round) in &rounds {
            let found = value(cluster, node, device, *block)?;
            require(found == *round || found == round + 1, || {
                format!("node {node} reads {found} in block {block}, of round {round}")
            })?;
        }
    }
    require(moved >= 2, || "they never had it by turns".to_owned())
}

fn it_moves_by_hand(cluster: &Cluster) -> Result<(), MachineError> {
    for node in [0, 1, 0] {
        let began = Instant::now();
        let moved = cluster.json(node, "volume move vm")?;
        require(text_of(&moved, "state") == "live", || moved.to_string())?;
        let owner = owner(cluster)?;
        require(owner == cluster.node(node).name(), || format!("{owner} owns it"))?;
        say(&format!("moved to node {node} by hand in {} ms", began.elapsed().as_millis()));
    }
    let waits = shown(cluster, 1)?;
    let state = waits.get("attachment").map(|local| text_of(local, "state"));
    require(state.as_deref() == Some("waiting"), || waits.to_string())
}

/// Node 0 owns it.
fn a_mounted_device_keeps_it(cluster: &Cluster, devices: &[String; 2]) -> Result<(), MachineError> {
    let device = &devices[0];
    cluster
        .run(0, &format!("mkfs.ext4 -q {device} && mkdir -p /mnt/vm && mount {device} /mnt/vm"))?;
    let reader = recorder(cluster, 1, &devices[1], "read --block 16000")?;
    wait_until("the service says what it waits for", LIMIT, || {
        Ok(cluster.run(0, "lunar explain volume vm")?.contains("where requests wait"))
    })?;
    wait_until("the node says why it keeps it", LIMIT, || {
        Ok(cluster.log_of(0).contains("is mounted on /mnt/vm"))
    })?;
    require(reader.is_running(), || "it was read beneath a mounted file system".to_owned())?;
    cluster.run(0, "umount /mnt/vm")?;
    ends_well(&reader)?;
    say("a mounted device kept the volume, and gave it away when it was unmounted");
    // What the file system has written is gone before the blocks are counted in again.
    cluster
        .run(
            1,
            &format!("dd if=/dev/zero of={} bs=1M count=1 oflag=direct status=none", devices[1]),
        )
        .map(drop)
}

fn snapshots_and_growth_find_it_wherever_it_is(
    cluster: &Cluster,
    devices: &[String; 2],
) -> Result<(), MachineError> {
    let sides = [
        counter(cluster, 0, &devices[0], "--pause 50")?,
        counter(cluster, 1, &devices[1], "--pause 50")?,
    ];
    for side in &sides {
        goes_on("both write", side, 5)?;
    }
    let mut tries = 0;
    wait_until("a snapshot is cut while the volume goes to and fro", LIMIT, || {
        use lunar_e2e::machine::Machine;
        tries += 1;
        let cut = Cluster::as_operator("lunar snapshot create vm vm-1");
        Ok(Machine::sh(cluster.node(0), &cut, LIMIT)?.code == 0)
    })?;
    cluster.run(0, "lunar volume grow vm 96MiB")?;
    for (node, device) in devices.iter().enumerate() {
        let size = format!("blockdev --getsize64 {device}");
        wait_until("the device has grown", LIMIT, || {
            Ok(cluster.run(node, &size)?.trim() == (96 << 20).to_string())
        })?;
    }
    for side in &sides {
        goes_on("both go on", side, 5)?;
        kill(side)?;
    }
    say(&format!("a snapshot in {tries} tries, and growth, under load on both sides"));
    Ok(())
}

fn daemons_and_services_die_under_load(
    cluster: &mut Cluster,
    devices: &[String; 2],
) -> Result<(), MachineError> {
    let from = |cluster: &Cluster, node: u64| value(cluster, 0, &devices[0], node);
    let starts = [from(cluster, 0)?, from(cluster, 1)?];
    let sides = [
        counter(cluster, 0, &devices[0], &format!("--from {}", starts[0]))?,
        counter(cluster, 1, &devices[1], &format!("--from {}", starts[1]))?,
    ];
    for cycle in 0..setting("LUNAR_KILLS", 6) {
        for side in &sides {
            goes_on("both write", side, 20)?;
        }
        match cycle % 3 {
            node @ (0 | 1) => cluster.restart_fs_core(node as usize)?,
            _ => cluster.restart_metadata()?,
        }
    }
    for side in &sides {
        goes_on("both go on", side, 20)?;
    }
    let rounds = [kill(&sides[0])?, kill(&sides[1])?];
    say(&format!("daemons and the service died under load: {rounds:?} rounds, none went back"));
    Ok(())
}

/// Node 1 loses its power while it owns the volume.
fn a_lost_owner_is_taken_over(
    cluster: &mut Cluster,
    devices: &[String; 2],
) -> Result<(), MachineError> {
    cluster.json(1, "volume move vm")?;
    let start = value(cluster, 1, &devices[1], 1)?;
    let writer = counter(cluster, 1, &devices[1], &format!("--from {start}"))?;
    goes_on("node 1 writes", &writer, 40)?;
    let flushed = (round(&writer) / 8) * 8;
    let began = Instant::now();
    cluster.cut(1)?;
    let found = value(cluster, 0, &devices[0], 1)?;
    say(&format!("taken over from a lost owner in {:.1} s", began.elapsed().as_secs_f64()));
    require(found >= flushed, || format!("{found} is there, and {flushed} was flushed"))?;
    let peers = shown(cluster, 0)?;
    let count = peers.get("peers").and_then(Value::as_array).map_or(0, Vec::len);
    require(count == 1, || format!("the lost node is a peer still: {peers}"))?;
    cluster.boot(1)?;
    let again = attach(cluster, 1)?;
    let read = value(cluster, 1, &again, 1)?;
    require(read == found, || format!("{read} on the node that came back, {found} before"))
}

fn both_let_it_go(cluster: &Cluster, devices: &[String; 2]) -> Result<(), MachineError> {
    let count = value(cluster, 0, &devices[0], 1)?;
    cluster.run(1, "lunar volume detach vm")?;
    cluster.run(0, "lunar volume detach vm")?;
    let alone = cluster.json(1, "volume attach vm")?;
    let found = value(cluster, 1, &text_of(&alone, "device_path"), 1)?;
    require(found == count, || format!("{found} is there, and {count} was"))?;
    cluster.run(1, "lunar volume detach vm")?;
    let check = cluster.run(0, "lunar fsck")?;
    say(&format!("both let it go; {}", check.lines().last().unwrap_or_default()));
    Ok(())
}
