//! Images are read back by a reader of their own, and by QEMU's where it is installed.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, Cursor, ErrorKind, Read as _};
use std::path::Path;
use std::process::{Command, Output};

use super::super::golden;
use super::writer::refcount_clusters;
use super::*;

const CLUSTER: usize = CLUSTER_BYTES as usize;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Data(u64, Vec<u8>),
    Zero(u64, u64),
}

fn image(bytes: u64, backing: Option<(&str, BackingFormat)>) -> Image {
    let backing = backing.map(|(path, format)| Backing { path: path.to_owned(), format });
    Image::new(VolumeSize::from_bytes(bytes).unwrap(), backing).unwrap()
}

fn fill(mut writer: Qcow2Writer<impl io::Write + io::Seek>, parts: &[Part]) {
    for part in parts {
        match part {
            Part::Data(offset, bytes) => writer.data(*offset, bytes).unwrap(),
            Part::Zero(offset, length) => writer.zero(*offset, *length).unwrap(),
        }
    }
    writer.finish(|_| Ok(())).unwrap();
}

fn bytes_of(image: Image, parts: &[Part]) -> Vec<u8> {
    let mut output = Cursor::new(Vec::new());
    fill(Qcow2Writer::create(&mut output, image).unwrap(), parts);
    output.into_inner()
}

/// Data that differs from cluster to cluster and within each.
fn pattern(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|n| seed ^ (n as u8) ^ ((n >> 8) as u8).wrapping_mul(31)).collect()
}

/// Data over a boundary of second-level tables, zeros, and a last cluster of one block.
const SIZE: u64 = (512 << 20) + 5 * CLUSTER_BYTES + 4096;

fn base_parts() -> Vec<Part> {
    vec![
        Part::Data(0, pattern(1, 3 * CLUSTER)),
        Part::Data((512 << 20) - CLUSTER_BYTES, pattern(2, 2 * CLUSTER)),
        Part::Data(SIZE - 4096 - CLUSTER_BYTES, pattern(3, CLUSTER + 4096)),
    ]
}

fn changed_parts() -> Vec<Part> {
    vec![
        Part::Zero(CLUSTER_BYTES, CLUSTER_BYTES),
        Part::Data(10 * CLUSTER_BYTES, pattern(4, CLUSTER)),
        Part::Zero(512 << 20, CLUSTER_BYTES),
        Part::Zero(SIZE - 4096, 4096),
    ]
}

fn apply(volume: &mut [u8], parts: &[Part]) {
    for part in parts {
        match part {
            Part::Data(offset, bytes) => {
                volume[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
            }
            Part::Zero(offset, length) => {
                volume[*offset as usize..][..*length as usize].fill(0);
            }
        }
    }
}

fn be64(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[at as usize..][..8].try_into().unwrap())
}

fn be32(bytes: &[u8], at: u64) -> u64 {
    u64::from(u32::from_be_bytes(bytes[at as usize..][..4].try_into().unwrap()))
}

/// What the tables say of each cluster of the volume, after every reference of the file was held
/// against them.
fn read(bytes: &[u8]) -> BTreeMap<u64, Option<Vec<u8>>> {
    assert_eq!(&bytes[..8], b"QFI\xfb\0\0\0\x03");
    let offset_of = |entry: u64| entry & 0x00ff_ffff_ffff_fe00;
    let mut uses = vec![0_u16; bytes.len() / CLUSTER];
    let mut used = |at: u64| {
        assert_eq!(at % CLUSTER_BYTES, 0);
        uses[(at / CLUSTER_BYTES) as usize] += 1;
        at
    };
    used(0);
    let (l1, l1_entries) = (be64(bytes, 40), be32(bytes, 36));
    for n in 0..(l1_entries * 8).div_ceil(CLUSTER_BYTES) {
        used(l1 + n * CLUSTER_BYTES);
    }
    let mut clusters = BTreeMap::new();
    for index in 0..l1_entries {
        let table = be64(bytes, l1 + index * 8);
        if table == 0 {
            continue;
        }
        assert_eq!(table >> 63, 1);
        let table = used(offset_of(table));
        for n in 0..L2_ENTRIES {
            let found = match be64(bytes, table + n * 8) {
                0 => continue,
                1 => None,
                entry => {
                    assert_eq!((entry >> 62, entry & 1), (2, 0), "used once, not compressed");
                    Some(bytes[used(offset_of(entry)) as usize..][..CLUSTER].to_vec())
                }
            };
            clusters.insert(index * L2_ENTRIES + n, found);
        }
    }
    let (table, table_clusters) = (be64(bytes, 48), be32(bytes, 56));
    let mut counts = Vec::new();
    for n in 0..table_clusters {
        used(table + n * CLUSTER_BYTES);
    }
    for n in 0..table_clusters * L2_ENTRIES {
        let block = be64(bytes, table + n * 8);
        if block != 0 {
            let block = used(block) as usize;
            let words = bytes[block..][..CLUSTER].chunks(2);
            counts.extend(words.map(|word| u16::from_be_bytes(word.try_into().unwrap())));
        }
    }
    counts.truncate(counts.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1));
    assert_eq!(counts, uses, "each cluster of the file is used once and counted once");
    clusters
}

fn assert_reads_as(bytes: &[u8], parts: &[Part]) {
    let mut wanted = BTreeMap::new();
    for part in parts {
        match part {
            Part::Data(offset, data) => {
                for (n, chunk) in data.chunks(CLUSTER).enumerate() {
                    let mut cluster = chunk.to_vec();
                    cluster.resize(CLUSTER, 0);
                    wanted.insert(offset / CLUSTER_BYTES + n as u64, Some(cluster));
                }
            }
            Part::Zero(offset, length) => {
                for n in 0..length.div_ceil(CLUSTER_BYTES) {
                    wanted.insert(offset / CLUSTER_BYTES + n, None);
                }
            }
        }
    }
    assert!(read(bytes) == wanted, "the clusters differ");
}

#[test]
fn what_was_written_is_in_the_image_and_every_cluster_is_counted() {
    let base = bytes_of(image(SIZE, None), &base_parts());
    assert_reads_as(&base, &base_parts());
    let changed = image(SIZE, Some(("base.qcow2", BackingFormat::Qcow2)));
    assert_reads_as(&bytes_of(changed, &changed_parts()), &changed_parts());
    assert_reads_as(&bytes_of(image(4096, None), &[]), &[]);
}

#[test]
fn the_bytes_of_an_image_are_those_of_the_fixture() {
    let mut data = vec![0; CLUSTER];
    data[0] = 0xa5;
    let parts = [Part::Data(CLUSTER_BYTES, data), Part::Zero(2 * CLUSTER_BYTES, CLUSTER_BYTES)];
    let image = image(4 * CLUSTER_BYTES, Some(("base.raw", BackingFormat::Raw)));
    let bytes = bytes_of(image, &parts);
    golden::assert_golden("qcow2-v3.hex", &bytes);
    assert_reads_as(&golden::load("qcow2-v3.hex"), &parts);
}

#[test]
fn the_header_comes_behind_a_sync_of_all_else() {
    let mut syncs = Vec::new();
    let mut output = Cursor::new(Vec::new());
    let mut writer = Qcow2Writer::create(&mut output, image(SIZE, None)).unwrap();
    writer.data(0, &pattern(1, CLUSTER)).unwrap();
    let saved = |output: &mut &mut Cursor<Vec<u8>>| output.get_ref().clone();
    writer
        .finish(|output| {
            syncs.push(saved(output));
            Ok(())
        })
        .unwrap();
    assert_eq!(syncs.len(), 2);
    assert!(syncs[0][..CLUSTER].iter().all(|byte| *byte == 0), "no header yet");
    assert_eq!(syncs[0][CLUSTER..], syncs[1][CLUSTER..], "only the header is new");
    assert_eq!(&syncs[1], output.get_ref());
}

#[test]
fn an_image_whose_sync_fails_has_no_header() {
    let mut output = Cursor::new(Vec::new());
    let writer = Qcow2Writer::create(&mut output, image(SIZE, None)).unwrap();
    let error = writer.finish(|_| Err(io::Error::other("no power"))).expect_err("the sync");
    assert_eq!(error.to_string(), "no power");
    assert!(output.get_ref()[..CLUSTER].iter().all(|byte| *byte == 0));
}

#[test]
fn references_count_themselves() {
    for used in [1, 2, REFCOUNTS - 3, REFCOUNTS - 2, REFCOUNTS - 1, REFCOUNTS, 1 << 28, 1 << 35] {
        let (blocks, table) = refcount_clusters(used);
        assert!(blocks * REFCOUNTS >= used + blocks + table, "{used}: all are counted");
        assert!((blocks - 1) * REFCOUNTS < used + blocks + table, "{used}: none too many");
        assert_eq!(table, blocks.div_ceil(L2_ENTRIES));
    }
}

#[test]
fn images_that_qcow2_cannot_have_are_refused() {
    let size = |bytes| VolumeSize::from_bytes(bytes).unwrap();
    assert_eq!(IMAGE_BYTES_MAX, 2 << 50);
    assert!(Image::new(size(IMAGE_BYTES_MAX), None).is_ok());
    let error = Image::new(size(IMAGE_BYTES_MAX + 4096), None).expect_err("too large");
    assert!(error.to_string().contains("use the format raw or stream"), "{error}");
    for (length, holds) in [(0, false), (1, true), (1023, true), (1024, false)] {
        let backing = Backing { path: "b".repeat(length), format: BackingFormat::Raw };
        assert_eq!(Image::new(size(4096), Some(backing)).is_ok(), holds, "{length}");
    }
}

#[test]
#[should_panic(expected = "are no whole clusters")]
fn a_part_of_a_cluster_is_refused() {
    let mut output = Cursor::new(Vec::new());
    let mut writer = Qcow2Writer::create(&mut output, image(SIZE, None)).unwrap();
    let _ = writer.data(0, &[1; 4096]);
}

#[test]
#[should_panic(expected = "offset 0 after 65536 was written")]
fn clusters_out_of_order_are_refused() {
    let mut output = Cursor::new(Vec::new());
    let mut writer = Qcow2Writer::create(&mut output, image(SIZE, None)).unwrap();
    writer.zero(0, CLUSTER_BYTES).unwrap();
    let _ = writer.zero(0, CLUSTER_BYTES);
}

/// Runs `qemu-img`, if it is installed; where the lab is demanded it has to be.
fn qemu_img(folder: &Path, arguments: &[&str]) -> Option<Output> {
    match Command::new("qemu-img").args(arguments).current_dir(folder).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let demanded = env::var_os("LUNAR_REQUIRE_LAB").is_some_and(|value| value == "1");
            assert!(!demanded, "this test needs qemu-img: install the package qemu-utils");
            eprintln!("NOT RUN: needs qemu-img of the package qemu-utils");
            None
        }
        Err(error) => panic!("qemu-img: {error}"),
    }
}

fn assert_is_file(wanted: &[u8], path: &Path) {
    let mut file = File::open(path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), wanted.len() as u64);
    let mut found = vec![0; 1 << 20];
    for (n, part) in wanted.chunks(found.len()).enumerate() {
        file.read_exact(&mut found[..part.len()]).unwrap();
        assert!(found[..part.len()] == *part, "other bytes in the MiB {n}");
    }
}

fn assert_ok(output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn qemu_finds_no_fault_and_reads_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let make = |name: &str, image, parts: &[Part]| {
        let file = File::create_new(path.join(name)).unwrap();
        fill(Qcow2Writer::create(file, image).unwrap(), parts);
    };
    make("base.qcow2", image(SIZE, None), &base_parts());
    let backing = Some(("base.qcow2", BackingFormat::Qcow2));
    make("changed.qcow2", image(SIZE, backing), &changed_parts());

    let mut volume = vec![0; SIZE as usize];
    for (name, parts) in [("base.qcow2", base_parts()), ("changed.qcow2", changed_parts())] {
        let Some(checked) = qemu_img(path, &["check", "-f", "qcow2", name]) else { return };
        assert_ok(&checked);
        let convert = ["convert", "-f", "qcow2", "-O", "raw", name, "out.raw"];
        assert_ok(&qemu_img(path, &convert).expect("it was there"));
        apply(&mut volume, &parts);
        assert_is_file(&volume, &path.join("out.raw"));
    }

    let cut = fs::read(path.join("base.qcow2")).unwrap();
    fs::write(path.join("cut.qcow2"), [vec![0; CLUSTER], cut[CLUSTER..].to_vec()].concat())
        .unwrap();
    let refused = qemu_img(path, &["check", "-f", "qcow2", "cut.qcow2"]).expect("it was there");
    assert!(!refused.status.success(), "an image without its header is no image");
}
