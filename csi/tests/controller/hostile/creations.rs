//! Rows of CreateVolume.

use lunar_proto::csi;
use lunar_proto::csi::volume_capability::access_mode::Mode;
use lunar_proto::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use tonic::Code;

use super::{Call, Known, NOBODY, Row, row};
use crate::calls::*;
use crate::world::*;

/// A row that changes a good request.
fn changed(
    what: impl std::fmt::Display,
    expected: Code,
    change: impl FnOnce(&mut csi::CreateVolumeRequest),
) -> Row {
    let mut request = new_volume("never");
    change(&mut request);
    row(format!("create: {what}"), Call::Create(request), expected)
}

pub(super) fn rows(known: &Known) -> Vec<Row> {
    let tables =
        [names(), sizes(), capabilities(), file_systems(), parameters(), sources(known), others()];
    tables.into_iter().flatten().collect()
}

pub(super) fn bad_names() -> Vec<String> {
    let mut names: Vec<String> =
        ["", "a\0b", "a\nb", "\t", "\r", "\u{7f}", "a\u{85}", "\u{1b}[31m", "\0", "end\n"]
            .map(str::to_owned)
            .to_vec();
    names.push("v".repeat(129));
    names.push("ü".repeat(65));
    names.push("🦀".repeat(33));
    names.push("v".repeat(1 << 20));
    names
}

fn names() -> Vec<Row> {
    let row = |name: String| {
        let what = format!("name of {} bytes {name:?}", name.len());
        changed(what, Code::InvalidArgument, |it| it.name = name)
    };
    bad_names().into_iter().map(row).collect()
}

fn sizes() -> Vec<Row> {
    let invalid = [
        (-1, 0),
        (0, -1),
        (i64::MIN, 0),
        (0, i64::MIN),
        (-1, -1),
        (MIB, -5),
        (-5, MIB),
        (i64::MIN, i64::MAX),
    ];
    let beyond = [
        (2 * MIB, MIB),
        (i64::MAX, 0),
        (i64::MAX, i64::MAX),
        (i64::MAX, 1),
        ((1 << 47) + 1, 0),
        ((1 << 47) + 1, i64::MAX),
        (1 << 52, 0),
        ((1 << 52) + 1, 0),
        (1 << 62, 0),
        (5000, 8191),
        (1, 4095),
        (0, 1),
        (0, 4095),
        (4097, 4097),
        (GIB + 1, GIB),
    ];
    let rows = |of: &[(i64, i64)], code| {
        let row = |(required, limit): &(i64, i64)| {
            let what = format!("size {required} to {limit}");
            changed(what, code, |it| it.capacity_range = range(*required, *limit))
        };
        of.iter().map(row).collect::<Vec<_>>()
    };
    [rows(&invalid, Code::InvalidArgument), rows(&beyond, Code::OutOfRange)].concat_all()
}

trait ConcatAll {
    fn concat_all(self) -> Vec<Row>;
}

impl<const N: usize> ConcatAll for [Vec<Row>; N] {
    fn concat_all(self) -> Vec<Row> {
        self.into_iter().flatten().collect()
    }
}

/// Capabilities of which none can be served.
pub(super) fn bad_capabilities() -> Vec<(String, csi::VolumeCapability)> {
    let mode = |mode: i32| Some(AccessMode { mode });
    let mut bad = vec![
        ("nothing".to_owned(), csi::VolumeCapability::default()),
        (
            "no access type".to_owned(),
            csi::VolumeCapability { access_mode: mode(1), access_type: None },
        ),
        (
            "no access mode".to_owned(),
            csi::VolumeCapability { access_mode: None, access_type: Some(block()) },
        ),
    ];
    for number in [0, 8, 9, 99, -1, i32::MAX, i32::MIN] {
        for (kind, access) in [("block", block()), ("mount", mount(""))] {
            let capability =
                csi::VolumeCapability { access_mode: mode(number), access_type: Some(access) };
            bad.push((format!("{kind} of mode {number}"), capability));
        }
    }
    for several in [Mode::MultiNodeReaderOnly, Mode::MultiNodeSingleWriter] {
        bad.push((format!("block of {several:?}"), capability(block(), several)));
        bad.push((format!("mount of {several:?}"), capability(mount("xfs"), several)));
    }
    let shared = capability(mount("ext4"), Mode::MultiNodeMultiWriter);
    bad.push(("a file system on two nodes".to_owned(), shared));
    bad
}

fn capabilities() -> Vec<Row> {
    let invalid = Code::InvalidArgument;
    let with = |what: &str, of: Vec<csi::VolumeCapability>| {
        changed(what, invalid, |it| it.volume_capabilities = of)
    };
    let mut rows = vec![
        with("no capabilities", vec![]),
        with("block and mount", vec![writer(), migratable()]),
        with("mount and block", vec![migratable(), writer()]),
        with("two file systems", vec![writer(), capability(mount("xfs"), Mode::SingleNodeWriter)]),
        with("too many capabilities", vec![writer(); 65]),
    ];
    for (what, bad) in bad_capabilities() {
        rows.push(with(&what, vec![bad.clone()]));
        rows.push(with(&format!("a good one and {what}"), vec![writer(), bad]));
    }
    rows
}

fn file_systems() -> Vec<Row> {
    let with = |what: String, mount: MountVolume| {
        let capability = capability(AccessType::Mount(mount), Mode::SingleNodeWriter);
        changed(what, Code::InvalidArgument, |it| it.volume_capabilities = vec![capability])
    };
    let long = "x".repeat(10_000);
    let types = [
        "ext2",
        "ext3",
        "EXT4",
        "Xfs",
        "ext4 ",
        " xfs",
        "ext4\0",
        "btrfs",
        "ntfs",
        "vfat",
        "tmpfs",
        "auto",
        "none",
        "../xfs",
        "ext4;reboot",
        "-t",
        long.as_str(),
    ];
    let of_type = |fs_type: &str| {
        let fs_type = fs_type.to_owned();
        let what = format!("file system {fs_type:?}");
        with(what, MountVolume { fs_type, ..MountVolume::default() })
    };
    let mut rows: Vec<Row> = types.into_iter().map(of_type).collect();
    let flags: [Vec<String>; 6] = [
        vec![String::new()],
        vec!["noatime".to_owned(), String::new()],
        vec!["no\natime".to_owned()],
        vec!["\0".to_owned()],
        vec!["a".repeat(4097)],
        vec!["noatime".to_owned(); 1000],
    ];
    for (number, mount_flags) in flags.into_iter().enumerate() {
        let mount = MountVolume { mount_flags, ..MountVolume::default() };
        rows.push(with(format!("mount flags {number}"), mount));
    }
    for group in ["1000", "root", "-1", "\0"] {
        let volume_mount_group = group.to_owned();
        let mount = MountVolume { volume_mount_group, ..MountVolume::default() };
        rows.push(with(format!("mount group {group:?}"), mount));
    }
    rows
}

/// Parameters that no volume is made with.
pub(super) fn bad_parameters() -> Vec<(String, Map)> {
    let mut bad = vec![("no parameters".to_owned(), map(&[]))];
    let long = "p".repeat(129);
    let pools =
        ["", "nowhere", "a b", "tank\0", "../tank", "TANK", " tank", NOBODY, "-", long.as_str()];
    for pool in pools {
        bad.push((format!("pool {pool:?}"), map(&[("pool", pool)])));
    }
    let sizes = ["", "0", "1", "1024", "4097", "4K", "-512", "512 ", "0512", "4096.0", "ünf"];
    for size in sizes {
        bad.push((format!("blockSize {size:?}"), map(&[("pool", TANK), ("blockSize", size)])));
    }
    for fs_type in ["", "btrfs", "EXT4", "xfs "] {
        let of = [("pool", TANK), ("csi.storage.k8s.io/fstype", fs_type)];
        bad.push((format!("fstype {fs_type:?}"), map(&of)));
    }
    let long = "k".repeat(10_000);
    let names = [
        "",
        "Pool",
        "POOL",
        "pool ",
        "blocksize",
        "fstype",
        "fsType",
        "iops",
        "encryption",
        "encrypted",
        "replicas",
        "thin",
        "qos.iops",
        "csi.storage.k8s.io",
        "csi.storage.k8s.io/",
        "CSI.storage.k8s.io/pv/name",
        "x.csi.storage.k8s.io/pv/name",
        "\0",
        long.as_str(),
    ];
    for name in names {
        bad.push((format!("parameter {name:?}"), map(&[("pool", TANK), (name, "hush")])));
    }
    bad
}

pub(super) type Map = std::collections::HashMap<String, String>;

fn parameters() -> Vec<Row> {
    let invalid = Code::InvalidArgument;
    let mut rows: Vec<Row> = bad_parameters()
        .into_iter()
        .map(|(what, parameters)| changed(what, invalid, |it| it.parameters = parameters))
        .collect();
    let finer = map(&[("pool", POND), ("blockSize", "512")]);
    rows.push(changed("blocks finer than the pool's", invalid, |it| it.parameters = finer));
    let other = map(&[("pool", TANK), ("csi.storage.k8s.io/fstype", "xfs")]);
    rows.push(changed("another file system", invalid, |it| it.parameters = other));
    rows
}

fn sources(known: &Known) -> Vec<Row> {
    let Known { volume, snapshot } = known;
    let with = |what: &str, source: Option<csi::VolumeContentSource>, code| {
        changed(format!("source {what}"), code, |it| it.volume_content_source = source)
    };
    let nothing = Some(csi::VolumeContentSource { r#type: None });
    let (invalid, not_found) = (Code::InvalidArgument, Code::NotFound);
    let mut rows = vec![
        with("of nothing", nothing, invalid),
        with("of an empty snapshot id", of_snapshot(""), invalid),
        with("of an empty volume id", of_volume(""), invalid),
        with("a snapshot that is a volume", of_snapshot(volume), not_found),
        with("a volume that is a snapshot", of_volume(snapshot), not_found),
    ];
    let long = "f".repeat(10_000);
    for id in ["no uuid", NOBODY, "there", "\0", "../etc", long.as_str()] {
        rows.push(with(&format!("snapshot {id:?}"), of_snapshot(id), not_found));
        rows.push(with(&format!("volume {id:?}"), of_volume(id), not_found));
    }
    for id in [volume, snapshot] {
        for other in [id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}")] {
            rows.push(with(&format!("snapshot {other}"), of_snapshot(&other), not_found));
            rows.push(with(&format!("volume {other}"), of_volume(&other), not_found));
        }
    }
    for (kind, source) in [("snapshot", of_snapshot(snapshot)), ("volume", of_volume(volume))] {
        let parameters = map(&[("pool", POND)]);
        rows.push(changed(format!("{kind} of another pool"), invalid, |it| {
            (it.parameters, it.volume_content_source) = (parameters, source.clone());
        }));
        let parameters = map(&[("pool", TANK), ("blockSize", "512")]);
        rows.push(changed(format!("{kind} with other blocks"), invalid, |it| {
            (it.parameters, it.volume_content_source) = (parameters, source.clone());
        }));
        for (required, limit) in [(MIB, 2 * MIB), (0, 16 * MIB - 1), (1 << 48, 0)] {
            let what = format!("{kind} of {required} to {limit}");
            let source = source.clone();
            rows.push(changed(what, Code::OutOfRange, |it| {
                it.capacity_range = range(required, limit);
                it.volume_content_source = source;
            }));
        }
    }
    rows
}

fn others() -> Vec<Row> {
    let invalid = Code::InvalidArgument;
    let mut rows = vec![
        row("create: an empty request", Call::Create(Default::default()), invalid),
        changed("secrets", invalid, |it| it.secrets = map(&[("key", "hush")])),
        changed("an empty secret", invalid, |it| it.secrets = map(&[("", "")])),
    ];
    for name in ["iops", "", "pool", "csi.storage.k8s.io/x", "\0"] {
        let what = format!("mutable parameter {name:?}");
        rows.push(changed(what, invalid, |it| it.mutable_parameters = map(&[(name, "1")])));
    }
    let topology = |of: &[(&str, &str)]| csi::Topology { segments: map(of) };
    let elsewhere = [
        topology(&[("topology.kubernetes.io/zone", "a")]),
        topology(&[("csi.lunar.storage/cluster", NOBODY)]),
        topology(&[("csi.lunar.storage/cluster", "")]),
        topology(&[("", "")]),
        topology(&[("zone", "a"), ("region", "b")]),
    ];
    for (number, place) in elsewhere.into_iter().enumerate() {
        let only = |requisite, preferred| csi::TopologyRequirement { requisite, preferred };
        let exhausted = Code::ResourceExhausted;
        let requisite = only(vec![place.clone(); 50], vec![]);
        rows.push(changed(format!("requisite {number}"), exhausted, |it| {
            it.accessibility_requirements = Some(requisite);
        }));
        let preferred = only(vec![], vec![place]);
        rows.push(changed(format!("preferred {number}"), exhausted, |it| {
            it.accessibility_requirements = Some(preferred);
        }));
    }
    let exists = Code::AlreadyExists;
    let taken = |what: &str, change: fn(&mut csi::CreateVolumeRequest)| {
        changed(format!("the name of another: {what}"), exists, |it| {
            it.name = "there".to_owned();
            change(it);
        })
    };
    rows.extend([
        taken("larger", |it| it.capacity_range = range(17 * MIB, 0)),
        taken("smaller", |it| it.capacity_range = range(0, 15 * MIB)),
        taken("elsewhere", |it| it.parameters = map(&[("pool", POND)])),
        taken("other blocks", |it| {
            it.parameters = map(&[("pool", TANK), ("blockSize", "512")]);
        }),
    ]);
    rows
}
