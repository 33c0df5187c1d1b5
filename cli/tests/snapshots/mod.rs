//! Snapshots, clones and rollbacks: of volumes at rest, and of one that a node holds in the
//! service. That node is played by the test: it says what a holder of a member says.

use std::process::{Child, Output, Stdio};
use std::time::Duration;

use lunar_metadata_client::{ClientError, MetadataClient, Policy, fresh_request_id};
use lunar_proto::domain::{
    Attach, Attachment, COMMIT_UPDATES_MAX, CommitMap, Detach, DetachMode, Join, MemberFailed,
    MemberPaused, MemberReady, ReserveExtents, Selector, SetState, SlotUpdate, Snapshot,
    SnapshotState,
};
use lunar_types::{
    BlockRange, BootId, LogicalExtent, NodeSession, SessionNumber, Slot, SnapshotSetId,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::World;
use crate::double;

const AT_ONCE: Duration = Duration::ZERO;
const LOOK: Duration = Duration::from_millis(20);

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn names(list: &Value) -> Vec<&str> {
    list["snapshots"].as_array().expect("a list").iter().map(|it| text(&it["name"])).collect()
}

pub(crate) fn with_volumes(volumes: &[&str]) -> World {
    let world = World::start();
    world.json("pool create tank --fencing none /dev/lun0");
    for volume in volumes {
        world.json(&format!("volume create {volume} --pool tank --size 1GiB"));
    }
    world
}

#[test]
fn a_snapshot_is_cut_shown_and_listed() {
    let world = with_volumes(&["v", "w"]);
    let cut = world.json("snapshot create v s");
    let made = &cut["snapshots"][0];
    assert_eq!((&made["state"], &made["volume_name"]), (&"ready".into(), &"v".into()));
    assert_eq!((&made["size_bytes"], &made["set_id"]), (&(1_u64 << 30).into(), &cut["set_id"]));
    assert!(made["created_unix_seconds"].as_u64().expect("a time") > 1_700_000_000);
    let by_id = format!("snapshot show {}", text(&made["snapshot_id"]));
    assert_eq!((&world.json(&by_id), &world.json("snapshot show s")), (made, made));
    world.json("snapshot create w t");
    assert_eq!(names(&world.json("snapshot list")), ["s", "t"]);
    assert_eq!(names(&world.json("snapshot list --volume w")), ["t"]);
    assert!(world.refused("snapshot create w s", 4).contains("'s'"));
    assert!(world.refused("snapshot create none u", 3).contains("'none'"));
    assert!(world.refused("snapshot list --volume none", 3).contains("'none'"));
    assert!(world.refused("snapshot show none", 3).contains("'none'"));
    assert!(world.refused("snapshot delete none", 3).contains("'none'"));
}

#[test]
fn a_group_is_one_set_or_nothing() {
    let world = with_volumes(&["v", "w"]);
    let cut = world.json("snapshot create --group w=sw v=sv");
    assert_eq!(names(&cut), ["sw", "sv"]);
    assert_eq!(cut["snapshots"][0]["set_id"], cut["snapshots"][1]["set_id"]);
    world.refused("snapshot create --group v=a none=b", 3);
    assert!(world.refused("snapshot create --group v=a v=b", 2).contains("twice"));
    assert_eq!(names(&world.json("snapshot list")), ["sv", "sw"]);
}

#[test]
fn a_deleted_snapshot_that_its_volume_stands_on_is_merged_and_gone() {
    let world = with_volumes(&["v"]);
    world.json("snapshot create v s");
    assert_eq!(world.json("snapshot delete s")["outcome"], "freed");
    assert_eq!(world.json("operation list")["operations"], Value::Array(Vec::new()));
    assert_eq!(world.json("snapshot list")["snapshots"], Value::Array(Vec::new()));
    world.refused("snapshot show s", 3);
    world.json("snapshot create v s");
    assert_eq!(world.json("snapshot delete s --no-wait")["outcome"], "started");
}

#[test]
fn deleting_the_volume_first_frees_the_snapshot_at_once() {
    let world = with_volumes(&["v"]);
    world.json("snapshot create v s");
    assert_eq!(world.json("volume delete v")["finished"], true);
    assert_eq!(world.json("operation list")["operations"], Value::Array(Vec::new()));
    let left = world.json("snapshot show s");
    assert_eq!((&left["volume_name"], &left["state"]), (&"".into(), &"ready".into()));
    assert_eq!(world.json("snapshot delete s")["outcome"], "freed");
    assert_eq!(world.json("snapshot list")["snapshots"], Value::Array(Vec::new()));
    assert_eq!(world.json("fsck")["summary"]["findings"], 0);
}

#[test]
fn clones_share_what_a_deleted_snapshot_has() {
    let world = with_volumes(&["v"]);
    world.json("snapshot create v s");
    let clone = world.json("volume clone s c --size 2GiB");
    assert_eq!((&clone["name"], &clone["size_bytes"]), (&"c".into(), &(2_u64 << 30).into()));
    world.refused("volume clone s c", 4);
    assert!(world.refused("volume clone s d --size 512MiB", 2).contains("cut off"));
    assert!(world.refused("volume clone v d", 3).contains("--of-volume"));
    assert_eq!(world.json("snapshot delete s")["outcome"], "shared");
    world.refused("snapshot show s", 3);
    assert_eq!(world.json("fsck")["summary"]["findings"], 0);
}

#[test]
fn a_volume_is_cloned_without_a_snapshot() {
    let world = with_volumes(&["v"]);
    let id = world.json("volume show v")["volume_id"].clone();
    assert_eq!(world.json("volume clone v c --of-volume")["name"], "c");
    assert_eq!(world.json(&format!("volume clone {} d --of-volume", text(&id)))["name"], "d");
    assert_eq!(world.json("snapshot list")["snapshots"], Value::Array(Vec::new()));
    world.refused("volume clone none e --of-volume", 3);
    world.refused("volume clone v c --of-volume", 4);
}

#[test]
fn a_detached_volume_is_rolled_back() {
    let world = with_volumes(&["v", "w"]);
    world.json("snapshot create --group v=s w=t");
    let before = world.json("volume show v")["head_layer"].clone();
    let back = world.json("volume rollback v s");
    assert_eq!((&back["name"], &back["snapshot_name"]), (&"v".into(), &"s".into()));
    assert_ne!(back["head_layer"], before);
    assert_eq!(back["attachment"], Value::Null);
    world.refused("volume rollback v t", 4);
    world.refused("volume rollback v none", 3);
    let refused = world.refused("volume rollback v s --reattach", 4);
    assert!(refused.contains("nobody holds it") && refused.contains("leave --reattach out"));
}

#[test]
fn a_volume_of_this_node_is_detached_rolled_back_and_attached_again() {
    let world = with_volumes(&["v", "w"]);
    world.json("snapshot create --group v=s w=t");
    let before = world.json("volume show v");
    let id = text(&before["volume_id"]);
    world.json(&format!("volume attach {id}"));
    assert!(world.refused("volume rollback v t --reattach", 4).contains("another volume"));
    let back = world.json("volume rollback v s --reattach");
    assert_ne!(back["head_layer"], before["head_layer"]);
    assert_eq!(back["attachment"]["device_path"], "/dev/ublkb7");
    // Detached once and attached once: one attachment is left.
    world.json(&format!("volume detach {id}"));
    assert!(world.refused(&format!("volume detach {id}"), 4).contains("is not attached here"));
}

/// A node that holds `v` in the service.
pub(crate) struct HolderOfV<'a> {
    world: &'a World,
    client: MetadataClient,
    caller: NodeSession,
    held: Attachment,
}

impl<'a> HolderOfV<'a> {
    pub(crate) fn of(world: &'a World) -> Self {
        let (client, caller, held) = world.runtime.block_on(async {
            let client =
                MetadataClient::new(std::slice::from_ref(&world.endpoint), Policy::default());
            let client = client.expect("a client");
            let join = Join {
                is_drained: true,
                request: fresh_request_id(),
                name: "n".parse().expect("a name"),
                boot: BootId::from_u128(1),
                resume: None,
                last_session: SessionNumber::default(),
            };
            let caller = client.join(&join).await.expect("joined").session;
            let volume = Selector::Name("v".parse().expect("a name"));
            let request = fresh_request_id();
            let attach = Attach {
                request,
                volume,
                caller,
                understands_layers: true,
                accept_restored: false,
                publication: None,
                for_file_system: false,
            };
            let held = client.attach(&attach).await.expect("granted");
            (client, caller, held)
        });
        Self { world, client, caller, held }
    }

    fn ask<T>(&self, call: impl AsyncFnOnce(&MetadataClient) -> Result<T, ClientError>) -> T {
        self.world.runtime.block_on(call(&self.client)).expect("answered")
    }

    /// The snapshot `s` as soon as there is one; its set is open.
    fn asked_for(&self) -> Snapshot {
        let by_name = Selector::Name("s".parse().expect("a name"));
        self.world.runtime.block_on(async {
            for _ in 0..500 {
                if let Ok(snapshot) = self.client.snapshot(&by_name).await {
                    return snapshot;
                }
                tokio::time::sleep(LOOK).await;
            }
            panic!("lunar has asked for no snapshot in 10 s");
        })
    }

    fn fail(&self, set: SnapshotSetId, why: &str) {
        let (volume, epoch) = (self.held.volume.id, self.held.epoch);
        let why = why.parse().expect("a name");
        let failed = MemberFailed { caller: self.caller, set, volume, epoch, why };
        self.ask(async |client| client.member_failed(&failed).await);
    }

    fn take_part(&self, set: SnapshotSetId) {
        let Attachment { volume, epoch, last_commit, checkpoint, next_head, .. } =
            self.held.clone();
        let (caller, volume) = (self.caller, volume.id);
        let ready = MemberReady { caller, set, volume, epoch };
        self.ask(async |client| client.member_ready(ready, AT_ONCE).await);
        let paused =
            MemberPaused { caller, set, volume, epoch, last_commit, checkpoint, next_head };
        self.ask(async |client| client.member_paused(&paused, AT_ONCE).await);
    }

    /// Writes the first block of the first extents of the volume, as many as one commit takes.
    pub(crate) fn write(&self) -> usize {
        let Attachment { volume, epoch, pool, last_commit, .. } = &self.held;
        let (count, caller) = (u32::try_from(COMMIT_UPDATES_MAX).expect("small"), self.caller);
        let reserve = ReserveExtents { request: fresh_request_id(), caller, pool: pool.id, count };
        let runs = self.ask(async |client| client.reserve_extents(&reserve).await);
        let extents = runs.iter().flat_map(|run| run.iter());
        let update = |(at, extent)| {
            let mut slot = Slot::fresh(extent, pool.extent_size);
            slot.presence.insert(BlockRange::new(0, 1));
            SlotUpdate { at: LogicalExtent::new(at), slot: Some(slot) }
        };
        let commit = CommitMap {
            request: fresh_request_id(),
            caller,
            volume: volume.id,
            epoch: *epoch,
            number: last_commit.next(),
            layer: volume.head,
            extent_size: pool.extent_size,
            updates: (0..).zip(extents).map(update).collect(),
            checkpoint: None,
            replay_of: None,
        };
        self.ask(async |client| client.commit_map(&commit).await);
        commit.updates.len()
    }

    pub(crate) fn detach(&self) {
        let (request, volume, epoch) = (fresh_request_id(), self.held.volume.id, self.held.epoch);
        let (caller, mode) = (self.caller, DetachMode::Clean);
        let detach = Detach { request, volume, epoch, caller, mode };
        self.ask(async |client| client.detach(&detach).await);
    }

    fn state_of(&self, set: SnapshotSetId) -> SetState {
        let found = self
            .ask(async |client| client.snapshot_set(set, Some(SetState::Aborted), AT_ONCE).await);
        found.state
    }
}

pub(crate) fn begin(world: &World, line: &str) -> Child {
    let mut lunar = double::command(&world.endpoint, &world.double.socket(), line);
    lunar.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("lunar runs")
}

pub(crate) fn end(lunar: Child) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = lunar.wait_with_output().expect("lunar ends");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

fn mapped(world: &World) -> u64 {
    world.json("pool status tank")["pools"][0]["usage"]["mapped_bytes"].as_u64().expect("a size")
}

#[test]
fn a_deleted_volume_has_given_its_extents_back_when_lunar_ends() {
    let world = with_volumes(&["v"]);
    let holder = HolderOfV::of(&world);
    // More than the service frees in one step.
    assert_eq!(holder.write(), 1000);
    holder.detach();
    assert_eq!(mapped(&world), 1000 << 20);
    assert_eq!(world.json("volume delete v")["finished"], true);
    assert_eq!(mapped(&world), 0);
    assert_eq!(world.json("operation list")["operations"], Value::Array(Vec::new()));
}

#[test]
fn a_deleted_snapshot_has_given_its_extents_back_when_lunar_says_so() {
    let world = with_volumes(&["v"]);
    let holder = HolderOfV::of(&world);
    holder.write();
    holder.detach();
    world.json("snapshot create v s");
    assert_eq!(world.json("snapshot show s")["owned_bytes"], 1000 << 20);
    let shared = world.json("snapshot usage s");
    assert_eq!(
        (&shared["unique_bytes"], &shared["shared_bytes"]),
        (&0.into(), &(1000 << 20).into())
    );
    let of_volume = world.json("volume usage v");
    assert_eq!(
        (&of_volume["owned_bytes"], &of_volume["shared_bytes"]),
        (&0.into(), &(1000 << 20).into())
    );
    world.json("volume delete v");
    assert_eq!(world.json("snapshot usage s")["unique_bytes"], 1000 << 20);
    assert_eq!(mapped(&world), 1000 << 20);
    assert_eq!(world.json("snapshot delete s")["outcome"], "freed");
    assert_eq!(mapped(&world), 0);
}

#[test]
fn what_was_written_between_two_snapshots_is_listed() {
    let world = with_volumes(&["v", "w"]);
    world.json("snapshot create --group v=s w=other");
    let holder = HolderOfV::of(&world);
    holder.write();
    holder.detach();
    world.json("snapshot create v t");
    let changed = world.json("snapshot diff s t");
    assert_eq!(changed["data_bytes"], 1000 * 4096);
    let runs = changed["runs"].as_array().expect("a list");
    assert_eq!(runs.len(), 1000);
    assert_eq!(runs[7]["offset_bytes"], 7 << 20);
    assert_eq!((&runs[7]["length_bytes"], &runs[7]["kind"]), (&4096.into(), &"data".into()));
    assert_eq!(world.json("snapshot diff t s")["zero_bytes"], 1000 * 4096);
    assert_eq!(world.json("snapshot diff t")["runs"], changed["runs"]);
    assert_eq!(world.json("snapshot diff s")["runs"], Value::Array(Vec::new()));
    assert!(world.refused("snapshot diff s other", 4).contains("no common origin"));
    assert!(world.refused("snapshot diff none t", 3).contains("'none'"));
}

#[test]
fn a_snapshot_of_an_attached_volume_is_waited_for() {
    let world = with_volumes(&["v"]);
    let holder = HolderOfV::of(&world);
    let lunar = begin(&world, "snapshot create v s -o json");
    let asked = holder.asked_for();
    assert_eq!(asked.state, SnapshotState::Creating);
    holder.take_part(asked.set);
    let (code, said, problem) = end(lunar);
    assert_eq!((code, problem.as_str()), (Some(0), ""));
    let cut: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(cut["snapshots"][0]["snapshot_id"], asked.id.to_string());
    assert_eq!(cut["snapshots"][0]["state"], "ready");
}

#[test]
fn an_aborted_set_ends_with_4_the_reason_and_what_to_do() {
    let world = with_volumes(&["v", "w"]);
    let holder = HolderOfV::of(&world);
    let lunar = begin(&world, "snapshot create --group w=t v=s --fsfreeze always");
    let set = holder.asked_for().set;
    holder.fail(set, "fsfreeze-failed");
    let (code, said, problem) = end(lunar);
    assert_eq!((code, said.as_str()), (Some(4), ""), "{problem}");
    assert!(problem.contains("nothing was cut: volume 'v': its file system"), "{problem}");
    assert!(problem.contains("help: ") && problem.contains("--fsfreeze auto"), "{problem}");
    assert_eq!(world.json("snapshot list")["snapshots"], Value::Array(Vec::new()));
}

#[test]
fn ctrl_c_leaves_the_set_alone_and_says_how_to_look() {
    let world = with_volumes(&["v"]);
    let holder = HolderOfV::of(&world);
    let lunar = begin(&world, "snapshot create v s");
    let set = holder.asked_for().set;
    let lunar_pid = Pid::from_raw(lunar.id().try_into().expect("a process id"));
    kill(lunar_pid, Signal::SIGINT).expect("it runs");
    let (code, said, problem) = end(lunar);
    assert_eq!((code, said.as_str()), (Some(130), ""), "{problem}");
    assert!(problem.contains("lunar snapshot show s"), "{problem}");
    assert_eq!(holder.state_of(set), SetState::Gathering);
    holder.take_part(set);
    assert_eq!(world.json("snapshot show s")["state"], "ready");
}

#[test]
fn a_rollback_that_is_refused_after_the_detach_attaches_again() {
    let world = with_volumes(&["v"]);
    world.json("snapshot create v s");
    let id = world.json("volume show v")["volume_id"].clone();
    world.json(&format!("volume attach {}", text(&id)));
    let before = world.json("volume show v")["head_layer"].clone();
    // The stand-in for fs-core does not tell the service of its detach, so this one holds it on.
    let _holder = HolderOfV::of(&world);
    let refused = world.refused("volume rollback v s", 4);
    assert!(refused.contains("--reattach"), "{refused}");
    let refused = world.refused("volume rollback v s --reattach", 4);
    assert!(refused.contains("was not rolled back, and it is attached again as /dev/ublkb7"));
    assert_eq!(world.json("volume show v")["head_layer"], before);
    world.json(&format!("volume detach {}", text(&id)));
}
