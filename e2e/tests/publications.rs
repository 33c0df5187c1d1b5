//! Who has leave to attach a volume, and how it is taken back: from a node that lives, and from one
//! that is lost.

mod support;

use std::time::Duration;

use lunar_e2e::cluster::{Attached, Cluster, ClusterSpec};
use lunar_e2e::machine::{Machine, MachineError, require};
use lunar_e2e::recorder::{BLOCKS, HeirRounds, Recorder, Rounds};
use lunar_e2e::takeover::{judge, make_pool};
use support::{programs, say};

const LIMIT: Duration = Duration::from_secs(120);
/// `lunar` ends so when the state of an object forbids something.
const REFUSED: i32 = 4;
/// Rounds of the next owner, more than the one before can come to.
const HEIR_FIRST: u64 = 1_000_000;
const HEIR_ROUNDS: u64 = 10;

/// One cluster serves all claims: to boot it takes longer than most of them.
#[test]
fn leave_to_attach_is_given_and_taken_back() {
    let spec = ClusterSpec { nodes: 2, luns: 2, cpus: 1, paths: 1, programs: programs() };
    let mut cluster = Cluster::start(&spec).unwrap_or_else(|error| panic!("{error}"));
    let done = make_pool(&cluster)
        .and_then(|()| only_who_has_leave_attaches(&cluster))
        .and_then(|()| a_node_that_lives_gives_it_back(&mut cluster))
        .and_then(|()| a_node_that_is_lost_is_fenced_first(&mut cluster));
    done.map_err(|error| cluster.with_logs(error)).unwrap_or_else(|error| panic!("{error}"));
}

fn name_of(cluster: &Cluster, node: usize) -> String {
    cluster.node(node).name().to_owned()
}

/// Gives a node leave; gives the id of the publication.
fn publish(cluster: &Cluster, volume: &str, node: usize) -> Result<String, MachineError> {
    let command = format!("volume publish {volume} --node {}", name_of(cluster, node));
    let shown = cluster.json(node, &command)?;
    let id = shown.get("publication_id").and_then(|id| id.as_str()).map(str::to_owned);
    id.ok_or_else(|| MachineError::Unexpected(format!("no id in {shown}")))
}

/// Runs a command of the operator that has to be refused; gives what it said.
fn refused(cluster: &Cluster, node: usize, command: &str) -> Result<String, MachineError> {
    let line = Cluster::as_operator(command);
    Ok(Machine::sh(cluster.node(node), &line, LIMIT)?.expect_code(REFUSED)?.stderr)
}

fn only_who_has_leave_attaches(cluster: &Cluster) -> Result<(), MachineError> {
    cluster.run(0, "lunar volume create db --pool tank --size 256MiB")?;
    let leave = publish(cluster, "db", 0)?;
    require(publish(cluster, "db", 0)? == leave, || "the same again is another one".to_owned())?;
    for (node, how) in [(0, String::new()), (1, String::new()), (1, leave.clone())] {
        let flag = if how.is_empty() { how } else { format!("--publication {how}") };
        let said = refused(cluster, node, &format!("lunar volume attach db {flag}"))?;
        require(said.contains("published to node"), || said.clone())?;
    }
    cluster.attach(0, "db", &format!("--publication {leave}"))?;
    let said = refused(cluster, 0, "lunar volume delete db")?;
    require(said.contains("unpublish it there first"), || said.clone())?;
    cluster.run(0, "lunar volume detach db && lunar volume unpublish db")?;
    cluster.run(0, "lunar volume delete db").map(drop)
}

/// The next owner attaches, writes over a part, and everything of both is there.
fn takes_over(
    cluster: &Cluster,
    (volume, recorder): (&str, Recorder),
    lost: &Attached,
    rounds: Rounds,
) -> Result<(), MachineError> {
    let leave = publish(cluster, volume, 1)?;
    let heir = cluster.attach(1, volume, &format!("--publication {leave}"))?;
    let writing = recorder.granted(heir.volume, heir.epoch);
    cluster.run(1, &writing.writing(&heir.device, HEIR_FIRST, HEIR_ROUNDS))?;
    let last = HEIR_FIRST + HEIR_ROUNDS - 1;
    let written = HeirRounds { epoch: heir.epoch, first: HEIR_FIRST, last };
    let reading = recorder.granted(lost.volume, lost.epoch);
    cluster.run(1, &reading.verification_of_both(&heir.device, rounds, written)).map(drop)
}

/// Its other volumes go on, and whoever comes late with the old leave gets nothing.
fn a_node_that_lives_gives_it_back(cluster: &mut Cluster) -> Result<(), MachineError> {
    for volume in ["recalled", "other"] {
        cluster.run(0, &format!("lunar volume create {volume} --pool tank --size 256MiB"))?;
    }
    let leave = publish(cluster, "recalled", 0)?;
    let lost = cluster.attach(0, "recalled", &format!("--publication {leave}"))?;
    let recorder = Recorder::new(91, BLOCKS);
    let writer = recorder.granted(lost.volume, lost.epoch);
    let writer = writer.start(cluster.node(0), &lost.device, 0);
    let other = cluster.attach(0, "other", "")?;
    let bystander = Recorder::new(92, BLOCKS).granted(other.volume, other.epoch);
    let bystander = bystander.start(cluster.node(0), &other.device, 0);
    writer.wait_for(10, LIMIT);
    bystander.wait_for(10, LIMIT);
    cluster.run(1, &format!("lunar volume unpublish recalled --node {}", name_of(cluster, 0)))?;
    writer.must_fail(LIMIT)?;
    let rounds = writer.rounds();
    bystander.wait_for(bystander.flushed() + 10, LIMIT);
    bystander.must_run();
    bystander.stop(LIMIT);
    // From here on nothing but the recalled volume could have node 0 write.
    cluster.run(0, "lunar volume detach other && lunar volume delete other")?;
    let mark = cluster.lab().target().mark()?;
    takes_over(cluster, ("recalled", recorder), &lost, rounds)?;
    let said = refused(cluster, 0, &format!("lunar volume attach recalled --publication {leave}"))?;
    require(said.contains("published to node"), || said.clone())?;
    let (stale, _) = judge(cluster, mark, (0, 1))?;
    require(stale == 0, || format!("{stale} stale writes"))?;
    let nodes = cluster.json(1, "node list")?.to_string();
    require(nodes.matches("\"active\"").count() == 2, || format!("not all are active: {nodes}"))?;
    cluster.run(1, "lunar volume detach recalled && lunar volume unpublish recalled")?;
    cluster.run(1, "lunar volume delete recalled && lunar fsck")?;
    say("a node that lives has given its volume back, and kept the other one");
    Ok(())
}

fn a_node_that_is_lost_is_fenced_first(cluster: &mut Cluster) -> Result<(), MachineError> {
    cluster.run(0, "lunar volume create lost --pool tank --size 256MiB")?;
    let leave = publish(cluster, "lost", 0)?;
    let lost = cluster.attach(0, "lost", &format!("--publication {leave}"))?;
    let recorder = Recorder::new(93, BLOCKS);
    let writer = recorder.granted(lost.volume, lost.epoch);
    let writer = writer.start(cluster.node(0), &lost.device, 0);
    writer.wait_for(10, LIMIT);
    let mark = cluster.lab().target().mark()?;
    cluster.node(0).pause()?;
    let said = refused(cluster, 1, "lunar volume unpublish lost --wait 1")?;
    require(said.contains("told to detach it"), || said.clone())?;
    let said =
        refused(cluster, 1, &format!("lunar volume publish lost --node {}", name_of(cluster, 1)))?;
    require(said.contains("is published to node"), || said.clone())?;
    let explained = cluster.run(1, "lunar explain volume lost")?;
    require(explained.contains("recalled"), || explained.clone())?;
    cluster.run(1, "lunar volume unpublish lost")?;
    let rounds = writer.rounds();
    takes_over(cluster, ("lost", recorder), &lost, rounds)?;
    cluster.node(0).resume()?;
    writer.must_fail(LIMIT)?;
    cluster.lets_requests_in(0, 2)?;
    let (stale, refused) = judge(cluster, mark, (0, 1))?;
    require(stale == 0, || format!("{stale} stale writes"))?;
    cluster.run(1, "lunar volume detach lost && lunar volume unpublish lost")?;
    cluster.run(1, "lunar volume delete lost && lunar fsck")?;
    say(&format!(
        "a lost node was fenced before its volume was published elsewhere: {refused} of its writes \
         refused, stale writes: 0"
    ));
    Ok(())
}
