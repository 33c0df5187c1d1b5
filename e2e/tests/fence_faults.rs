//! What goes wrong while a node is being fenced, and LUNs that are not as they should be: three
//! nodes over real reservations.

mod support;

use std::time::Duration;

use lunar_e2e::cluster::{Cluster, ClusterSpec};
use lunar_e2e::machine::{MachineError, require};
use lunar_e2e::recorder::{BLOCKS, Recorder};
use lunar_e2e::session::wait_until;
use lunar_e2e::takeover::{Fault, Meanwhile, Plan, make_pool_of, take_over};
use lunar_lab::Signal;
use support::{programs, say};

const LIMIT: Duration = Duration::from_secs(60);
/// `lunar` ends so when the state of an object forbids something.
const REFUSED: i32 = 4;

/// One cluster serves all claims: to boot it takes longer than most of them.
#[test]
fn fences_end_whatever_dies_meanwhile_and_bad_luns_are_named() {
    let spec = ClusterSpec { nodes: 3, luns: 4, cpus: 1, paths: 1, programs: programs() };
    let mut cluster = Cluster::start(&spec).unwrap_or_else(|error| panic!("{error}"));
    let done = make_pool_of(&cluster, "tank", 0..2)
        .and_then(|()| a_second_host_with_the_name_of_a_node_is_refused(&cluster))
        .and_then(|()| keys_of_somebody_else_are_named_and_left_alone(&cluster))
        .and_then(|()| a_reservation_that_vanished_is_made_again_and_io_goes_on(&cluster))
        .and_then(|()| a_target_that_starts_again_fences_nobody(&cluster))
        .and_then(|()| the_metadata_service_dies_at_every_step(&mut cluster))
        .and_then(|()| the_fencer_dies_in_the_middle(&mut cluster))
        .and_then(|()| clocks_that_step_change_nothing(&mut cluster))
        .and_then(|()| a_node_that_sees_one_lun_less_gives_its_volume_away(&mut cluster))
        .and_then(|()| a_pool_with_leases_freezes_and_is_taken_over(&mut cluster))
        .and_then(|()| writes_of_a_killed_daemon_keep_its_node_out(&mut cluster));
    done.map_err(|error| cluster.with_logs(error)).unwrap_or_else(|error| panic!("{error}"));
}

fn unexpected(text: String) -> MachineError {
    MachineError::Unexpected(text)
}

fn lost(
    cluster: &mut Cluster,
    (number, what): (u64, &str),
    meanwhile: &mut Meanwhile<'_>,
) -> Result<(), MachineError> {
    let plan = Plan { number, pool: "tank", fault: Fault::Cut, victim: 0, heir: 1 };
    taken_over(cluster, plan, what, meanwhile)
}

fn taken_over(
    cluster: &mut Cluster,
    plan: Plan,
    what: &str,
    meanwhile: &mut Meanwhile<'_>,
) -> Result<(), MachineError> {
    let takeover = take_over(cluster, plan, meanwhile)?;
    say(&format!("{what}: {takeover}"));
    require(takeover.stale == 0, || format!("{what}: {} stale writes", takeover.stale))
}

fn the_metadata_service_dies_at_every_step(cluster: &mut Cluster) -> Result<(), MachineError> {
    for (number, text) in
        (100..).zip(["fencing begins", "attempt=1", "proof=", "fenced victim", " serving "])
    {
        let what = format!("the metadata service is killed at '{text}'");
        let restart = &mut |cluster: &mut Cluster| {
            cluster.wait_for_metadata(text)?;
            cluster.restart_metadata()
        };
        lost(cluster, (number, &what), restart)?;
        // What the next one waits for is not to be in the log yet.
        cluster.restart_metadata()?;
    }
    Ok(())
}

/// The LUN is held below the target, so the fencer's reset does not end before it is killed.
fn the_fencer_dies_in_the_middle(cluster: &mut Cluster) -> Result<(), MachineError> {
    lost(cluster, (200, "the fencer is killed"), &mut |cluster| {
        cluster.wait_for_metadata("fencing begins")?;
        cluster.lab().target().hold_lun(0)?;
        cluster.wait_for_metadata("attempt=1")?;
        let log = cluster.metadata_log();
        let line = log.lines().find(|line| line.contains("attempt=1")).unwrap_or_default();
        let fencer = (1..3).find(|node| line.contains(&format!("fencer={}.", node + 1)));
        let fencer = fencer.ok_or_else(|| unexpected(format!("no fencer in {line}")))?;
        cluster.signal_fs_core(fencer, Signal::SIGKILL)?;
        cluster.lab().target().release_lun(0)?;
        say(&format!("killed the fencer, node {fencer}"));
        cluster.restart_fs_core(fencer)
    })
}

fn clocks_that_step_change_nothing(cluster: &mut Cluster) -> Result<(), MachineError> {
    for node in 0..3 {
        cluster.node(node).sh("date -s '+1 hour' > /dev/null")?;
    }
    cluster.meta().sh("date -s '+3 hours' > /dev/null")?;
    require(!cluster.json(1, "node list")?.to_string().contains("fenc"), || {
        "somebody was fenced because a clock was set".to_owned()
    })?;
    lost(cluster, (300, "clocks stepped"), &mut |cluster| {
        cluster.node(1).sh("date -s '-30 minutes' > /dev/null")?;
        cluster.meta().sh("date -s '-30 minutes' > /dev/null")?;
        Ok(())
    })
}

/// Nobody can see the abort of a key that is gone, so the fencer waits instead.
fn a_node_that_sees_one_lun_less_gives_its_volume_away(
    cluster: &mut Cluster,
) -> Result<(), MachineError> {
    let plan = Plan { number: 400, pool: "tank", fault: Fault::OneLun, victim: 0, heir: 1 };
    taken_over(cluster, plan, "one LUN of two is masked", &mut |_| Ok(()))
}

/// The LUNs take whatever comes: that nothing does is the lease's doing.
fn a_pool_with_leases_freezes_and_is_taken_over(cluster: &mut Cluster) -> Result<(), MachineError> {
    make_pool_of(cluster, "leased --fencing lease", 3..4)?;
    for (number, fault) in (500..).zip([Fault::NoMetadata, Fault::Stop, Fault::Cut]) {
        let plan = Plan { number, pool: "leased", fault, victim: 0, heir: 1 };
        taken_over(cluster, plan, "a pool with leases", &mut |_| Ok(()))?;
    }
    Ok(())
}

/// Killed while it stops a device with a write at a LUN without reservations that does not answer:
/// the node stays out while the write may arrive, and comes back by itself when it has.
fn writes_of_a_killed_daemon_keep_its_node_out(cluster: &mut Cluster) -> Result<(), MachineError> {
    make_pool_of(cluster, "bare --fencing none", 2..3)?;
    cluster.run(2, "lunar volume create loose --pool bare --size 64MiB")?;
    let attached = cluster.attach(2, "loose", "")?;
    let recorder = Recorder::new(78, 1000).granted(attached.volume, attached.epoch);
    let writer = recorder.start(cluster.node(2), &attached.device, 0);
    writer.wait_for(5, LIMIT);
    cluster.lab().target().hold_lun(2)?;
    let name = cluster.node(2).name().to_owned();
    cluster.run(0, &format!("sleep 2; lunar node fence {name} --reason test"))?;
    wait_until("node 2 hears that it is fenced", LIMIT, || {
        Ok(cluster.log_of(2).contains("this node was fenced"))
    })?;
    // It is stopping the device by now, which does not end before the write has.
    cluster.run(0, &format!("sleep 3; lunar node unfence {name}"))?;
    cluster.signal_fs_core(2, Signal::SIGKILL)?;
    cluster.spawn_fs_core(2)?;
    cluster.run(0, "sleep 8")?;
    require(cluster.times_let_in(2) == 0, || "it is in while its write is under way".to_owned())?;
    cluster.lab().target().release_lun(2)?;
    cluster.lets_requests_in(2, 1)?;
    say("the write had ended, and node 2 was back");
    cluster.run(2, "lunar volume attach loose && lunar volume detach loose")?;
    cluster.run(2, "lunar volume delete loose").map(drop)
}

/// A load on node 2, which has to go on.
fn under_load(
    cluster: &Cluster,
    volume: &str,
    happens: impl FnOnce() -> Result<(), MachineError>,
) -> Result<(), MachineError> {
    let shown = cluster.run(2, &format!("lunar volume create {volume} --pool tank --size 256MiB"));
    shown?;
    let attached = cluster.attach(2, volume, "")?;
    let recorder = Recorder::new(77, BLOCKS).granted(attached.volume, attached.epoch);
    let writer = recorder.start(cluster.node(2), &attached.device, 4);
    writer.wait_for(10, LIMIT);
    happens()?;
    writer.must_run();
    writer.wait_for(writer.flushed() + 10, LIMIT);
    let rounds = writer.stop(LIMIT);
    cluster.node(2).sh(&recorder.verification(&attached.device, rounds))?;
    cluster.run(2, &format!("lunar volume detach {volume} && lunar volume delete {volume}"))?;
    Ok(())
}

fn keys(cluster: &Cluster, node: usize, lun: usize) -> Result<String, MachineError> {
    let device = cluster.node(node).lun_path(lun)?;
    Ok(cluster.node(node).sh(&format!("sg_persist --no-inquiry --in --read-keys {device}"))?)
}

/// The key of a node among those of a LUN.
fn key_of(cluster: &Cluster, node: usize, lun: usize) -> Result<String, MachineError> {
    let id = format!("{:04x}", node + 1);
    let found = keys(cluster, node, lun)?;
    // Cluster tag, node and incarnation: 16, 16 and 32 bits.
    let of_node = |key: &&str| key.len() >= 14 && key[..key.len() - 8].ends_with(&id);
    let key = found.split_whitespace().filter(|word| word.starts_with("0x")).find(of_node);
    key.map(str::to_owned).ok_or_else(|| unexpected(format!("no key of node {node} in {found}")))
}

fn a_reservation_that_vanished_is_made_again_and_io_goes_on(
    cluster: &Cluster,
) -> Result<(), MachineError> {
    under_load(cluster, "vanish", || {
        let (key, device) = (key_of(cluster, 1, 0)?, cluster.node(1).lun_path(0)?);
        let clear = format!("sg_persist --no-inquiry --out --clear --param-rk={key} {device}");
        // The first command after news about the LUN is answered with that.
        cluster.node(1).sh(&format!("{clear} || {clear}"))?;
        wait_until("every node has its key again", LIMIT, || {
            Ok((0..3).all(|node| key_of(cluster, node, 0).is_ok()))
        })?;
        let reservation = "sg_persist --no-inquiry --in --read-reservation";
        let held = cluster.node(1).sh(&format!("{reservation} {device}"))?;
        require(held.contains("all registrants"), || format!("reserved so: {held}"))
    })
}

fn a_target_that_starts_again_fences_nobody(cluster: &Cluster) -> Result<(), MachineError> {
    under_load(cluster, "restart", || {
        cluster.lab().target().cut()?;
        cluster.lab().target().boot()?;
        Ok(())
    })?;
    let nodes = cluster.json(1, "node list")?.to_string();
    require(nodes.matches("\"active\"").count() == 3, || format!("not all are active: {nodes}"))
}

fn keys_of_somebody_else_are_named_and_left_alone(cluster: &Cluster) -> Result<(), MachineError> {
    // A further LUN of the pool would do; the one at hand is a file of the node with a loop device,
    // which has no reservations, so a registered LUN gets a foreign key beside its own ones.
    let device = cluster.node(2).lun_path(1)?;
    let foreign = "0x00c0ffee00000001";
    let register =
        format!("sg_persist --no-inquiry --out --register-ignore --param-sark={foreign} {device}");
    cluster.node(2).sh(&format!("{register} || {register}"))?;
    // The node finds its own key gone and somebody else's there: it does not use the LUN.
    wait_until("node 2 says whose keys there are", LIMIT, || {
        Ok(cluster.log_of(2).contains("not of this cluster"))
    })?;
    let create = "lunar volume create foreign --pool tank --size 64MiB";
    cluster.run(1, create)?;
    let unregister = format!(
        "sg_persist --no-inquiry --out --register --param-rk={foreign} --param-sark=0 {device}"
    );
    cluster.node(2).sh(&format!("{unregister} || {unregister}"))?;
    wait_until("node 2 registers again", LIMIT, || Ok(key_of(cluster, 2, 1).is_ok()))?;
    cluster.run(2, "lunar volume attach foreign --wait 30 && lunar volume detach foreign")?;
    cluster.run(2, "lunar volume delete foreign").map(drop)
}

fn a_second_host_with_the_name_of_a_node_is_refused(cluster: &Cluster) -> Result<(), MachineError> {
    let (twin, tls) = (cluster.node(2), "/etc/lunar/tls");
    for file in ["node.crt", "node.key"] {
        let content = cluster.node(1).read_file(&format!("{tls}/{file}"))?;
        twin.write_file(&format!("{tls}/twin-{file}"), content, 0o600)?;
    }
    let name = cluster.node(1).name();
    let daemon = twin.script(&format!(
        "exec fs-core serve --node-name {name} --metadata-endpoint https://meta:7420 \
         --tls-ca {tls}/ca.crt --tls-cert {tls}/twin-node.crt --tls-key {tls}/twin-node.key \
         --state-dir /run/twin --admin-socket /run/twin.sock"
    ));
    let daemon = daemon.spawn()?;
    wait_until("the twin is refused by name", LIMIT, || {
        let log = format!("{}{}", daemon.stdout(), daemon.stderr());
        Ok(log.contains(&format!("node '{name}' runs already")))
    })?;
    daemon.kill(Signal::SIGKILL)?;
    let refused =
        cluster.node(1).sh("source /etc/lunar/operator; lunar node fence nobody; echo $?");
    drop(refused);
    let shown = cluster.json(1, "node list")?.to_string();
    require(shown.matches("\"active\"").count() == 3, || format!("the twin did harm: {shown}"))?;
    let certify = format!(
        "lunar node fence {name} --certified-powered-off --confirm {name} --reason test || \
         exit $?"
    );
    let ran =
        lunar_e2e::machine::Machine::sh(cluster.node(2), &Cluster::as_operator(&certify), LIMIT)?;
    let said = ran.expect_code(REFUSED)?.stderr;
    require(said.contains("not powered off"), || format!("certified so: {said}"))
}
