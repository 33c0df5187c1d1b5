//! Calls that no kubelet makes. Each is refused with its code and changes nothing: no mount, no
//! attachment, no file; and the driver lives.

use std::collections::HashMap;
use std::os::unix::fs::symlink;

use lunar_csi::publication::PUBLICATION_KEY;
use lunar_proto::csi::volume_capability::access_mode::Mode;
use lunar_proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use lunar_proto::csi::{
    CapacityRange, NodeExpandVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, VolumeCapability,
};
use tonic::Code;

use crate::world::{Claim, World, wanted, wanted_block};

/// The fewest rows that the table may shrink to.
const ROWS_MIN: usize = 300;

#[derive(Clone)]
enum Call {
    Stage(NodeStageVolumeRequest),
    Unstage(NodeUnstageVolumeRequest),
    Publish(NodePublishVolumeRequest),
    Unpublish(NodeUnpublishVolumeRequest),
    Stats(NodeGetVolumeStatsRequest),
    Expand(NodeExpandVolumeRequest),
}

struct Row {
    what: String,
    call: Call,
    expected: Code,
}

/// The good calls that rows are made of, each with one thing wrong.
struct Good {
    stage: NodeStageVolumeRequest,
    unstage: NodeUnstageVolumeRequest,
    publish: NodePublishVolumeRequest,
    unpublish: NodeUnpublishVolumeRequest,
    stats: NodeGetVolumeStatsRequest,
    expand: NodeExpandVolumeRequest,
}

impl Good {
    fn of(claim: &Claim) -> Self {
        let ext4 = wanted("ext4");
        Self {
            stage: claim.stage_request(&ext4),
            unstage: claim.unstage_request(),
            publish: claim.publish_request(&ext4),
            unpublish: claim.unpublish_request(),
            stats: NodeGetVolumeStatsRequest {
                volume_id: claim.id.clone(),
                volume_path: claim.target.clone(),
                staging_target_path: claim.staging.clone(),
            },
            expand: NodeExpandVolumeRequest {
                volume_id: claim.id.clone(),
                volume_path: claim.target.clone(),
                staging_target_path: claim.staging.clone(),
                ..NodeExpandVolumeRequest::default()
            },
        }
    }

    /// The calls with this path in each of their fields for paths.
    fn with_path(&self, path: &str) -> Vec<(&'static str, Call)> {
        let text = || path.to_owned();
        let Self { stage, unstage, publish, unpublish, stats, expand } = self;
        let mut calls = vec![
            (
                "stage staging",
                Call::Stage(NodeStageVolumeRequest {
                    staging_target_path: text(),
                    ..stage.clone()
                }),
            ),
            (
                "unstage staging",
                Call::Unstage(NodeUnstageVolumeRequest {
                    staging_target_path: text(),
                    ..unstage.clone()
                }),
            ),
            (
                "publish target",
                Call::Publish(NodePublishVolumeRequest { target_path: text(), ..publish.clone() }),
            ),
            (
                "unpublish target",
                Call::Unpublish(NodeUnpublishVolumeRequest {
                    target_path: text(),
                    ..unpublish.clone()
                }),
            ),
            (
                "stats path",
                Call::Stats(NodeGetVolumeStatsRequest { volume_path: text(), ..stats.clone() }),
            ),
            (
                "expand path",
                Call::Expand(NodeExpandVolumeRequest { volume_path: text(), ..expand.clone() }),
            ),
        ];
        if !path.is_empty() {
            // Publish without a stage has a code of its own, and the others need none.
            calls.extend([
                (
                    "publish staging",
                    Call::Publish(NodePublishVolumeRequest {
                        staging_target_path: text(),
                        ..publish.clone()
                    }),
                ),
                (
                    "stats staging",
                    Call::Stats(NodeGetVolumeStatsRequest {
                        staging_target_path: text(),
                        ..stats.clone()
                    }),
                ),
                (
                    "expand staging",
                    Call::Expand(NodeExpandVolumeRequest {
                        staging_target_path: text(),
                        ..expand.clone()
                    }),
                ),
            ]);
        }
        calls
    }

    /// The calls that look a volume up, with this id.
    fn with_id(&self, id: &str) -> Vec<(&'static str, Call)> {
        let volume_id = id.to_owned();
        let Self { stage, publish, stats, expand, .. } = self;
        vec![
            (
                "stage",
                Call::Stage(NodeStageVolumeRequest {
                    volume_id: volume_id.clone(),
                    ..stage.clone()
                }),
            ),
            (
                "publish",
                Call::Publish(NodePublishVolumeRequest {
                    volume_id: volume_id.clone(),
                    ..publish.clone()
                }),
            ),
            (
                "stats",
                Call::Stats(NodeGetVolumeStatsRequest {
                    volume_id: volume_id.clone(),
                    ..stats.clone()
                }),
            ),
            ("expand", Call::Expand(NodeExpandVolumeRequest { volume_id, ..expand.clone() })),
        ]
    }

    fn with_capability(&self, given: Option<VolumeCapability>) -> Vec<(&'static str, Call)> {
        let Self { stage, publish, expand, .. } = self;
        let mut calls = vec![
            (
                "stage",
                Call::Stage(NodeStageVolumeRequest {
                    volume_capability: given.clone(),
                    ..stage.clone()
                }),
            ),
            (
                "publish",
                Call::Publish(NodePublishVolumeRequest {
                    volume_capability: given.clone(),
                    ..publish.clone()
                }),
            ),
        ];
        // An expansion need not say how the volume is used.
        if given.is_some() {
            let volume_capability = given;
            let expand = NodeExpandVolumeRequest { volume_capability, ..expand.clone() };
            calls.push(("expand", Call::Expand(expand)));
        }
        calls
    }
}

fn bad_paths(root: &str) -> Vec<String> {
    vec![
        String::new(),
        "plugins/a".to_owned(),
        "a".to_owned(),
        "../etc".to_owned(),
        "/".to_owned(),
        "//".to_owned(),
        root.to_owned(),
        format!("{root}/"),
        format!("{root}/.."),
        format!("{root}/../etc"),
        format!("{root}/pods/../../../etc/shadow"),
        format!("{root}/pods/./a"),
        format!("{root}/pods//a"),
        format!("/{root}/pods/a"),
        format!("{root}/pods/a/"),
        format!("{root}/pods/a/."),
        format!("{root}-other/pods/a"),
        "/etc".to_owned(),
        "/dev/sda".to_owned(),
        "/proc/self/root".to_owned(),
        format!("/proc/self/root{root}/pods/a"),
        format!("{root}/pods/a\nb"),
        format!("{root}/pods/a\0b"),
        format!("{root}/pods/\u{7f}"),
        format!("{root}/pods/\u{85}"),
        format!("{root}/{}", "n".repeat(256)),
        format!("{root}{}", "/d".repeat(2_100)),
        format!("{root}/{}", "x".repeat(1_000_000)),
        format!("unix://{root}/pods/a"),
        format!(" {root}/pods/a"),
    ]
}

fn path_rows(good: &Good, root: &str, rows: &mut Vec<Row>) {
    for path in bad_paths(root) {
        for (field, call) in good.with_path(&path) {
            let what = format!("{field} {:.80}", path.escape_debug().to_string());
            // Where a volume is said to be that is never at such a path.
            let is_elsewhere = !path.is_empty() && !path.starts_with('/');
            let expected = match field {
                "stats path" | "expand path" if is_elsewhere => Code::NotFound,
                _ => Code::InvalidArgument,
            };
            rows.push(Row { what, call, expected });
        }
    }
}

/// Paths that are well by their text, and lead through what is there.
fn object_rows(good: &Good, root: &str, rows: &mut Vec<Row>) {
    let paths = [
        format!("{root}/trap/a"),
        format!("{root}/near-trap/a"),
        format!("{root}/pods/trap"),
        format!("{root}/proc-trap/a"),
        format!("{root}/file/a"),
        format!("{root}/file/a/b"),
    ];
    for path in paths {
        for (field, call) in good.with_path(&path) {
            // The staging path of these two is not opened.
            let is_unused = matches!(field, "stats staging" | "expand staging");
            let expected = if is_unused { Code::NotFound } else { Code::InvalidArgument };
            rows.push(Row { what: format!("{field} {path}"), call, expected });
        }
    }
    for (field, call) in good.with_path(&format!("{root}/absent/a/b")) {
        let expected = match field {
            "stage staging" | "publish target" | "publish staging" => Code::InvalidArgument,
            "unstage staging" | "unpublish target" => Code::Ok,
            _ => Code::NotFound,
        };
        rows.push(Row { what: format!("{field} without a directory"), call, expected });
    }
    for object in ["file", "fifo"] {
        let path = format!("{root}/{object}");
        for (field, call) in good.with_path(&path) {
            if matches!(field, "stage staging" | "publish target" | "publish staging") {
                let what = format!("{field} is a {object}");
                rows.push(Row { what, call, expected: Code::InvalidArgument });
            }
        }
    }
}

fn id_rows(good: &Good, live: &Claim, rows: &mut Vec<Row>) {
    let id = &live.id;
    let ids = [
        ("empty", String::new(), Code::InvalidArgument),
        ("a name", "pvc-1".to_owned(), Code::NotFound),
        ("dots", "..".to_owned(), Code::NotFound),
        ("a path", "../../etc/passwd".to_owned(), Code::NotFound),
        ("a number", "0".to_owned(), Code::NotFound),
        ("upper case", id.to_uppercase().replace('0', "A"), Code::NotFound),
        ("no dashes", id.replace('-', ""), Code::NotFound),
        ("braces", format!("{{{id}}}"), Code::NotFound),
        ("a space", format!("{id} "), Code::NotFound),
        ("a newline", format!("{id}\n"), Code::NotFound),
        ("a zero", format!("{id}\0"), Code::NotFound),
        ("urn", format!("urn:uuid:{id}"), Code::NotFound),
        ("no text", "\u{1f980}\u{202e}".to_owned(), Code::NotFound),
        ("huge", "v".repeat(1_000_000), Code::NotFound),
        ("nil", uuid::Uuid::nil().to_string(), Code::NotFound),
        ("of nobody", uuid::Uuid::new_v4().to_string(), Code::NotFound),
    ];
    for (what, id, expected) in ids {
        for (name, call) in good.with_id(&id) {
            rows.push(Row { what: format!("{name} id {what}"), call, expected });
        }
        if uuid::Uuid::parse_str(&id).is_ok_and(|parsed| parsed.to_string() == id) {
            continue;
        }
        // Where something is mounted, an id that names nothing takes nothing off.
        let unstage = NodeUnstageVolumeRequest {
            volume_id: id.clone(),
            staging_target_path: live.staging.clone(),
        };
        let unpublish =
            NodeUnpublishVolumeRequest { volume_id: id, target_path: live.target.clone() };
        for (name, call) in
            [("unstage", Call::Unstage(unstage)), ("unpublish", Call::Unpublish(unpublish))]
        {
            rows.push(Row { what: format!("{name} id {what}"), call, expected });
        }
    }
}

fn capability(access_type: Option<AccessType>, mode: Option<i32>) -> Option<VolumeCapability> {
    let access_mode = mode.map(|mode| AccessMode { mode });
    Some(VolumeCapability { access_type, access_mode })
}

fn mount(fs_type: &str, flags: &[&str], group: &str) -> Option<AccessType> {
    Some(AccessType::Mount(MountVolume {
        fs_type: fs_type.to_owned(),
        mount_flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        volume_mount_group: group.to_owned(),
    }))
}

type Given = (String, Option<VolumeCapability>);

const WRITER: Option<i32> = Some(Mode::SingleNodeMultiWriter as i32);

fn bad_forms_and_modes() -> Vec<Given> {
    let block = || Some(AccessType::Block(BlockVolume {}));
    let mut given = vec![
        ("none".to_owned(), None),
        ("no type".to_owned(), capability(None, WRITER)),
        ("no mode".to_owned(), capability(mount("ext4", &[], ""), None)),
        ("nothing".to_owned(), capability(None, None)),
        ("group".to_owned(), capability(mount("ext4", &[], "1000"), WRITER)),
        ("group name".to_owned(), capability(mount("ext4", &[], "root"), WRITER)),
        ("file system on nodes".to_owned(), capability(mount("ext4", &[], ""), Some(5))),
    ];
    for mode in [0, 3, 4, 8, 9, 99, -1, i32::MAX, i32::MIN] {
        given.push((format!("mode {mode}"), capability(mount("ext4", &[], ""), Some(mode))));
        given.push((format!("block mode {mode}"), capability(block(), Some(mode))));
    }
    given
}

fn bad_file_systems() -> Vec<Given> {
    let mut given = Vec::new();
    let huge = "f".repeat(1_000_000);
    for fs_type in [
        "btrfs", "ext2", "ext3", "EXT4", "ext4 ", " ext4", "ext4\0", "ext4,ro", "xfs\n", "vfat",
        "nfs", "tmpfs", "proc", "overlay", "../ext4", "/bin/sh", "-t", "$(id)", "auto", &huge,
    ] {
        let name = format!("file system {:.20}", fs_type.escape_debug().to_string());
        given.push((name, capability(mount(fs_type, &[], ""), WRITER)));
    }
    given
}

fn bad_flags() -> Vec<Given> {
    let mut given = Vec::new();
    let long = format!("a{}", "b".repeat(255));
    for flag in [
        "",
        ",",
        "ro,",
        "a b",
        "a\nb",
        "a\0b",
        "=",
        "=x",
        "x=",
        "a=b=c",
        "a;b",
        "a|b",
        "$(a)",
        "`a`",
        "\u{e9}",
        "bind",
        "rbind",
        "move",
        "remount",
        "remount,ro",
        "shared",
        "private",
        "slave",
        "unbindable",
        "loop",
        "source=/dev/sda",
        "source",
        "logdev=/dev/sda",
        "rtdev=/dev/sda",
        "journal_dev=1",
        "journal_path=/dev/sda",
        "noatime,relatime",
        "a=\"b\"",
        "a'b",
        &long,
    ] {
        let name = format!("flag {:.20}", flag.escape_debug().to_string());
        given.push((name, capability(mount("ext4", &[flag], ""), WRITER)));
    }
    given.push(("flags".to_owned(), capability(mount("ext4", &["discard"; 65], ""), WRITER)));
    given
}

fn capability_rows(good: &Good, rows: &mut Vec<Row>) {
    let given = [bad_forms_and_modes(), bad_file_systems(), bad_flags()].concat();
    for (what, capability) in given {
        for (name, call) in good.with_capability(capability) {
            let what = format!("{name} capability {what}");
            rows.push(Row { what, call, expected: Code::InvalidArgument });
        }
    }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn context_rows(good: &Good, publication: &str, rows: &mut Vec<Row>) {
    let huge = "k".repeat(500_000);
    let with_key = |key, value| map(&[(PUBLICATION_KEY, publication), (key, value)]);
    let other = uuid::Uuid::new_v4().to_string();
    let publish_contexts = [
        (map(&[]), Code::InvalidArgument),
        (map(&[(PUBLICATION_KEY, "")]), Code::InvalidArgument),
        (map(&[(PUBLICATION_KEY, "1")]), Code::InvalidArgument),
        (map(&[(PUBLICATION_KEY, &huge)]), Code::InvalidArgument),
        (map(&[("PublicationId", publication)]), Code::InvalidArgument),
        (map(&[(&huge, publication)]), Code::InvalidArgument),
        (with_key("devicePath", "/dev/sda"), Code::InvalidArgument),
        (with_key("", ""), Code::InvalidArgument),
        (with_key("token", "secret"), Code::InvalidArgument),
        (map(&[(PUBLICATION_KEY, &other)]), Code::FailedPrecondition),
    ];
    for (n, (publish_context, expected)) in publish_contexts.into_iter().enumerate() {
        let stage = NodeStageVolumeRequest {
            publish_context: publish_context.clone(),
            ..good.stage.clone()
        };
        let publish = NodePublishVolumeRequest { publish_context, ..good.publish.clone() };
        for (name, call) in [("stage", Call::Stage(stage)), ("publish", Call::Publish(publish))] {
            rows.push(Row { what: format!("{name} publish context {n}"), call, expected });
        }
    }
    let volume_contexts = [
        map(&[("fsType", "ext4")]),
        map(&[("devicePath", "/dev/sda")]),
        map(&[("", "")]),
        map(&[("csi.storage.k8s.io", "x")]),
        map(&[("pool", "p"), ("csi.storage.k8s.io/pod.name", "p")]),
        map(&[("a\nb", "c")]),
        map(&[(&huge, "c")]),
    ];
    for (n, volume_context) in volume_contexts.into_iter().enumerate() {
        let stage =
            NodeStageVolumeRequest { volume_context: volume_context.clone(), ..good.stage.clone() };
        let publish = NodePublishVolumeRequest { volume_context, ..good.publish.clone() };
        for (name, call) in [("stage", Call::Stage(stage)), ("publish", Call::Publish(publish))] {
            let what = format!("{name} volume context {n}");
            rows.push(Row { what, call, expected: Code::InvalidArgument });
        }
    }
}

fn combination_rows(good: &Good, claim: &Claim, rows: &mut Vec<Row>) {
    let publish = |staging: &str, target: &str| {
        Call::Publish(NodePublishVolumeRequest {
            staging_target_path: staging.to_owned(),
            target_path: target.to_owned(),
            ..good.publish.clone()
        })
    };
    let (staging, target) = (claim.staging.as_str(), claim.target.as_str());
    let mut row = |what: &str, call, expected| {
        rows.push(Row { what: what.to_owned(), call, expected });
    };
    row("publish without a stage", publish("", target), Code::FailedPrecondition);
    row("publish at the stage", publish(staging, staging), Code::InvalidArgument);
    let inside = format!("{staging}/pod");
    row("publish in the stage", publish(staging, &inside), Code::InvalidArgument);
    let around = format!("{target}/stage");
    row("stage in the target", publish(&around, target), Code::InvalidArgument);
    let block = claim.publish_request(&wanted_block());
    let target_path = claim.staging.replace("/globalmount", "");
    let on_directory =
        NodePublishVolumeRequest { target_path, staging_target_path: around, ..block };
    row("a device on a directory", Call::Publish(on_directory), Code::InvalidArgument);
    for (required_bytes, limit_bytes) in [(-1, 0), (0, -1), (2, 1), (i64::MIN, 0), (0, i64::MIN)] {
        let capacity_range = Some(CapacityRange { required_bytes, limit_bytes });
        let expand = NodeExpandVolumeRequest { capacity_range, ..good.expand.clone() };
        let what = format!("range {required_bytes} {limit_bytes}");
        row(&what, Call::Expand(expand), Code::InvalidArgument);
    }
    let volume_id = "x".repeat(8 << 20);
    let huge = NodeStageVolumeRequest { volume_id, ..good.stage.clone() };
    row("a message beyond the limit", Call::Stage(huge), Code::OutOfRange);
}

async fn code_of(world: &World, call: Call) -> Code {
    let mut client = world.client();
    let answer = match call {
        Call::Stage(request) => client.node_stage_volume(request).await.map(|_| ()),
        Call::Unstage(request) => client.node_unstage_volume(request).await.map(|_| ()),
        Call::Publish(request) => client.node_publish_volume(request).await.map(|_| ()),
        Call::Unpublish(request) => client.node_unpublish_volume(request).await.map(|_| ()),
        Call::Stats(request) => client.node_get_volume_stats(request).await.map(|_| ()),
        Call::Expand(request) => client.node_expand_volume(request).await.map(|_| ()),
    };
    answer.map_or_else(|status| status.code(), |()| Code::Ok)
}

/// Every path beneath the root, mounts included.
fn tree(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).expect("it can be read").flatten() {
            found.push(entry.path());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn every_hostile_call_has_its_code_and_changes_nothing() {
    let mut world = World::new().await;
    let (live, claim) = (world.volume(32), world.volume(32));
    world.publish(&live, &wanted("ext4")).await.expect("published");
    let root = world.root.display().to_string();
    std::fs::create_dir_all(world.folder.path().join("outside/a")).expect("made");
    symlink(world.folder.path().join("outside"), world.root.join("trap")).expect("made");
    symlink("plugins", world.root.join("near-trap")).expect("made");
    symlink("plugins", world.root.join("pods/trap")).expect("made");
    symlink("/proc/self/root", world.root.join("proc-trap")).expect("made");
    std::fs::write(world.root.join("file"), "a file").expect("written");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, world.root.join("fifo"), fifo, mode, 0).expect("made");

    let good = Good::of(&claim);
    let mut rows = Vec::new();
    path_rows(&good, &root, &mut rows);
    object_rows(&good, &root, &mut rows);
    id_rows(&good, &live, &mut rows);
    capability_rows(&good, &mut rows);
    context_rows(&good, &claim.publication, &mut rows);
    combination_rows(&good, &claim, &mut rows);
    assert!(rows.len() >= ROWS_MIN, "only {} rows", rows.len());

    let (mounts, before) = (world.mounts(), tree(&world.root));
    for Row { what, call, expected } in rows {
        assert_eq!(code_of(&world, call).await, expected, "{what}");
        assert_eq!(world.mounts(), mounts, "{what}");
        assert!(world.is_attached(&live) && !world.is_attached(&claim), "{what}");
        assert!(world.is_driver_alive(), "{what}");
    }
    assert_eq!(tree(&world.root), before, "no call has made or removed anything");
    assert_eq!(tree(&world.folder.path().join("outside")).len(), 1);
    assert!(claim.device.read(0, 1 << 20).iter().all(|byte| *byte == 0), "nothing was formatted");
}
