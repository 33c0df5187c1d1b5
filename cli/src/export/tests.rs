//! A volume goes into every format and comes back the same, whole or as differences, broken off
//! anywhere or not; what was damaged in between is found.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;

use lunar_proto::domain::{DiffKind, DiffRun};
use lunar_types::{LogicalBlockSize, SnapshotId, VolumeSize};
use proptest::prelude::*;

use super::image::{ImageReader, ImageWriter, take_back};
use super::manifest::{ImageFormat, Manifest, ManifestHeader, ManifestWriter};
use super::qcow2::{Backing, BackingFormat, Image, Qcow2File, Qcow2Reader};
use super::raw::{RawReader, RawWriter};
use super::stream::{Found, StreamHeader, StreamReader, StreamWriter, cut, scan};
use super::transfer::{
    FileExport, Finished, Zeros, read_file, read_stream, write_device, write_stream,
};
use super::window::{CLUSTER_BYTES, WINDOW_BYTES, windows_of};
use super::*;

const BLOCK: u64 = 4096;
/// Three windows, the last one of a cluster and a block.
const SIZE: u64 = 2 * WINDOW_BYTES + CLUSTER_BYTES + BLOCK;

/// A volume in memory.
#[derive(Clone, PartialEq, Eq)]
struct Memory(Vec<u8>);

impl Source for Memory {
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
        Ok(())
    }
}

impl Sink for Memory {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.0[offset as usize..][..length as usize].fill(0);
        Ok(())
    }
}

fn empty() -> Memory {
    Memory(vec![0; SIZE as usize])
}

fn size() -> VolumeSize {
    VolumeSize::from_bytes(SIZE).expect("a size")
}

fn identity(snapshot: u128, base: Option<u128>) -> StreamHeader {
    StreamHeader {
        snapshot: SnapshotId::from_u128(snapshot),
        base: base.map(SnapshotId::from_u128),
        size: size(),
        logical_block: LogicalBlockSize::from_bytes(4096).expect("a block"),
    }
}

/// A change of a volume and how a diff tells it.
#[derive(Clone, Debug)]
struct Change {
    run: DiffRun,
    byte: u8,
}

fn run(offset: u64, length: u64, kind: DiffKind) -> DiffRun {
    DiffRun { offset, length, kind }
}

fn apply(volume: &mut Memory, changes: &[Change]) -> Vec<DiffRun> {
    for Change { run, byte } in changes {
        let place = run.offset as usize..run.end() as usize;
        match run.kind {
            DiffKind::Zero => volume.0[place].fill(0),
            DiffKind::Data => {
                for (n, at) in volume.0[place].iter_mut().enumerate() {
                    *at = byte.wrapping_mul((n / 512) as u8 | 1);
                }
            }
        }
    }
    changes.iter().map(|change| change.run).collect()
}

/// Runs in order, by gap and length in blocks; `None` is zeros.
fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = (0_u64..900, 1_u64..200, proptest::option::of(any::<u8>()));
    proptest::collection::vec(one, 0..12).prop_map(|parts| {
        let (mut offset, mut changes) = (0, Vec::new());
        for (gap, blocks, byte) in parts {
            offset += gap * BLOCK;
            let length = (blocks * BLOCK).min(SIZE.saturating_sub(offset));
            if length > 0 {
                let kind = if byte.is_some() { DiffKind::Data } else { DiffKind::Zero };
                changes.push(Change { run: run(offset, length, kind), byte: byte.unwrap_or(0) });
            }
            offset += length;
        }
        changes
    })
}

fn on() -> impl FnMut(u64) -> ControlFlow<()> + Send {
    |_| ControlFlow::Continue(())
}

fn buffer() -> Vec<u8> {
    vec![0xee; WINDOW_BYTES as usize]
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// A file of bytes and its manifest in a folder.
struct Target<'a> {
    folder: &'a Path,
    name: &'a str,
    format: ImageFormat,
    of: StreamHeader,
    backing: Option<&'a str>,
}

impl Target<'_> {
    fn header(&self) -> ManifestHeader {
        ManifestHeader { of: self.of, format: self.format }
    }

    fn manifest_path(&self) -> std::path::PathBuf {
        self.folder.join(format!("{}.lunar", self.name))
    }

    fn writer(&self) -> Box<dyn ImageWriter> {
        let file = open(&self.folder.join(self.name));
        match self.format {
            ImageFormat::Raw => Box::new(RawWriter::new(file, self.of.size).unwrap()),
            ImageFormat::Qcow2 => {
                let backing = self.backing.map(|path| {
                    let (path, format) = (path.to_owned(), BackingFormat::Qcow2);
                    Backing { path, format }
                });
                Box::new(Qcow2File::new(file, Image::new(self.of.size, backing).unwrap()))
            }
        }
    }

    fn reader(&self) -> io::Result<Box<dyn ImageReader + Send>> {
        let file = File::open(self.folder.join(self.name))?;
        Ok(match self.format {
            ImageFormat::Raw => Box::new(RawReader::new(file, self.of.size)?),
            ImageFormat::Qcow2 => Box::new(Qcow2Reader::open(file, self.of.size)?),
        })
    }

    fn manifest(&self) -> Manifest {
        Manifest::read(File::open(self.manifest_path()).unwrap()).unwrap()
    }

    /// Writes or goes on; `steps` is how many windows before it is broken off.
    fn export(
        &self,
        volume: &Memory,
        runs: &[DiffRun],
        base: Option<Finished>,
        steps: usize,
    ) -> Result<usize, TransferError> {
        let (mut source, mut bytes) = (volume.clone(), buffer());
        let mut image = self.writer();
        let mut file = open(&self.manifest_path());
        let (mut kept, mut from) = (0, 0);
        let manifest = match Manifest::read(&file) {
            Err(_) => {
                file.set_len(0).unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
                ManifestWriter::create(file, &self.header()).unwrap()
            }
            Ok(found) => {
                kept = take_back(image.as_mut(), &found, &mut bytes).unwrap();
                let sums = &found.sums[..kept];
                from = sums.last().map_or(0, |last| last.window.index + 1);
                file.set_len(Manifest::bytes_of(kept)).unwrap();
                file.seek(SeekFrom::End(0)).unwrap();
                ManifestWriter::resume(file, &self.header(), sums)
            }
        };
        let mut left = steps;
        let mut watch = |_: u64| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let windows = windows_of(runs, self.of.size);
        let export = FileExport {
            source: &mut source,
            base,
            image,
            manifest,
            size: self.of.size,
            buffer: &mut bytes,
        };
        export.run(&windows, from, &mut watch).map(|_| kept)
    }

    fn import(&self, onto: &mut Memory, zeros: Zeros) -> Result<(), TransferError> {
        let manifest = self.manifest();
        assert!(manifest.whole);
        let mut reader = self.reader().map_err(TransferError::ReadFile)?;
        let sink: &mut dyn Sink = onto;
        let sink = Some((sink, zeros));
        read_file(reader.as_mut(), &manifest, sink, &mut buffer(), &mut on())
    }

    fn base(&self) -> Finished {
        Finished { reader: self.reader().unwrap(), manifest: self.manifest() }
    }
}

fn target<'a>(folder: &'a Path, name: &'a str, format: ImageFormat) -> Target<'a> {
    Target { folder, name, format, of: identity(1, None), backing: None }
}

fn full_runs(changes: &[Change]) -> Vec<Change> {
    changes.iter().filter(|it| it.run.kind == DiffKind::Data).cloned().collect()
}

fn assert_same(found: &Memory, expected: &Memory, what: &str) {
    if found.0 == expected.0 {
        return;
    }
    let differs = found.0.iter().zip(&expected.0).position(|(left, right)| left != right);
    assert_eq!(differs, None, "{what}: the first byte that differs");
}

/// Writes a stream, broken off at every length that `cuts` names, and gives its bytes.
fn streamed(volume: &Memory, runs: &[DiffRun], header: StreamHeader) -> Vec<u8> {
    let writer = StreamWriter::create(Vec::new(), header).unwrap();
    let mut source = volume.clone();
    write_stream(&mut source, runs, 0, writer, &mut buffer(), &mut on()).unwrap().0
}

fn unstream(bytes: &[u8], onto: &mut Memory) -> Result<(), TransferError> {
    let mut reader = StreamReader::open(bytes).map_err(TransferError::Stream)?;
    read_stream(&mut reader, Some(onto), &mut on())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 6,
        ..ProptestConfig::default()
    })]

    #[test]
    fn full_and_incremental_come_back_the_same_in_every_format(
        first in changes(),
        second in changes(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let first = full_runs(&first);
        let (mut before, mut zeros) = (empty(), buffer());
        zeros.fill(0);
        let full = apply(&mut before, &first);
        let mut after = before.clone();
        let changed = apply(&mut after, &second);

        let (whole, part) = (identity(1, None), identity(2, Some(1)));
        let mut found = empty();
        unstream(&streamed(&before, &full, whole), &mut found).unwrap();
        assert_same(&found, &before, "stream");
        unstream(&streamed(&after, &changed, part), &mut found).unwrap();
        assert_same(&found, &after, "stream of differences");

        for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
            let name = format.name();
            let base = target(folder.path(), name, format);
            base.export(&before, &full, None, usize::MAX).unwrap();
            let mut found = empty();
            base.import(&mut found, Zeros::Skipped).unwrap();
            assert_same(&found, &before, name);

            let next = format!("{name}.2");
            let (of, backing, under) = match format {
                ImageFormat::Raw => (identity(2, None), None, Some(base.base())),
                ImageFormat::Qcow2 => (part, Some(name), None),
            };
            let onto = Target { of, backing, ..target(folder.path(), &next, format) };
            onto.export(&after, &changed, under, usize::MAX).unwrap();
            let mut found = if format == ImageFormat::Raw { empty() } else { before.clone() };
            onto.import(&mut found, Zeros::Written).unwrap();
            assert_same(&found, &after, &next);
        }
        let raw = fs::read(folder.path().join("raw.2")).unwrap();
        assert_same(&Memory(raw), &after, "the bytes of the raw file");
    }
}

fn three_windows() -> (Memory, Vec<DiffRun>) {
    let mut volume = empty();
    let one = |offset, length, byte| Change { run: run(offset, length, DiffKind::Data), byte };
    let changes = [
        one(BLOCK, 3 * BLOCK, 7),
        one(WINDOW_BYTES - BLOCK, 20 * BLOCK, 9),
        one(SIZE - 2 * BLOCK, 2 * BLOCK, 11),
    ];
    let runs = apply(&mut volume, &changes);
    (volume, runs)
}

#[test]
fn a_file_that_was_broken_off_is_gone_on_with_to_the_same_bytes() {
    let (volume, runs) = three_windows();
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let folder = tempfile::tempdir().unwrap();
        let whole = target(folder.path(), "whole", format);
        whole.export(&volume, &runs, None, usize::MAX).unwrap();
        for steps in 1..=3 {
            let name = format!("broken.{steps}");
            let broken = target(folder.path(), &name, format);
            let ended = broken.export(&volume, &runs, None, steps).expect_err("it is ended");
            assert!(matches!(ended, TransferError::Interrupted), "{ended}");
            assert!(!broken.manifest().whole);
            assert_eq!(broken.export(&volume, &runs, None, usize::MAX).unwrap(), steps);
            let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
            assert!(bytes(&name) == bytes("whole"), "{name}: other bytes");
            assert_eq!(bytes(&format!("{name}.lunar")), bytes("whole.lunar"));
        }
    }
}

/// A power cut after the header was written, which some of the windows did not survive.
#[test]
fn an_image_that_is_cut_again_has_no_header_until_it_is_finished() {
    let (volume, runs) = three_windows();
    let folder = tempfile::tempdir().unwrap();
    let image = target(folder.path(), "image", ImageFormat::Qcow2);
    image.export(&volume, &runs, None, usize::MAX).unwrap();
    let good = fs::read(folder.path().join("image")).unwrap();
    open(&image.manifest_path()).set_len(Manifest::bytes_of(2)).unwrap();
    let kept = take_back(image.writer().as_mut(), &image.manifest(), &mut buffer()).unwrap();
    assert_eq!(kept, 2);
    let cut = fs::read(folder.path().join("image")).unwrap();
    assert!(window::is_zero(&cut[..CLUSTER_BYTES as usize]), "it would be taken for an image");
    assert!(cut.len() < good.len());
    image.export(&volume, &runs, None, usize::MAX).unwrap();
    assert!(fs::read(folder.path().join("image")).unwrap() == good);
}

#[test]
fn what_a_power_cut_has_lost_is_written_anew() {
    let (volume, runs) = three_windows();
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let folder = tempfile::tempdir().unwrap();
        let broken = target(folder.path(), "broken", format);
        broken.export(&volume, &runs, None, 3).expect_err("it is ended");
        // The file lost its second half, though the manifest speaks of it.
        let path = folder.path().join("broken");
        let length = path.metadata().unwrap().len();
        open(&path).set_len(length / 2).unwrap();
        let kept = broken.export(&volume, &runs, None, usize::MAX).unwrap();
        assert!((1..3).contains(&kept), "{kept} of 3 windows are kept");
        let mut found = empty();
        broken.import(&mut found, Zeros::Skipped).unwrap();
        assert_same(&found, &volume, format.name());
    }
}

#[test]
fn a_cut_stream_goes_on_from_its_last_whole_chunk() {
    let (volume, runs) = three_windows();
    let header = identity(1, None);
    let good = streamed(&volume, &runs, header);
    for length in (0..good.len()).step_by(6007) {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &good[..length]).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let (writer, from) = match scan(&file, &header).unwrap() {
            Found::Nothing => {
                file.set_len(0).unwrap();
                file.seek(SeekFrom::Start(0)).unwrap();
                (StreamWriter::create(file, header).unwrap(), 0)
            }
            Found::Part(part) => {
                cut(&mut file, &part).unwrap();
                let from = part.next_offset();
                (StreamWriter::resume(file, part), from)
            }
            Found::Whole(_) => panic!("{length} of {} B are not all", good.len()),
        };
        let mut source = volume.clone();
        let mut file =
            write_stream(&mut source, &runs, from, writer, &mut buffer(), &mut on()).unwrap().0;
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).unwrap();
        let mut found = empty();
        unstream(&bytes, &mut found).unwrap();
        assert_same(&found, &volume, "stream");
    }
}

/// Every byte of the data, of the tables, and behind what is used.
#[test]
fn flipped_bits_of_a_file_are_found() {
    let (volume, runs) = three_windows();
    for format in [ImageFormat::Raw, ImageFormat::Qcow2] {
        let folder = tempfile::tempdir().unwrap();
        let file = target(folder.path(), "f", format);
        file.export(&volume, &runs, None, usize::MAX).unwrap();
        let path = folder.path().join("f");
        let good = fs::read(&path).unwrap();
        let used: Vec<usize> = match format {
            ImageFormat::Raw => vec![0, 4096, 9000, 70_000, good.len() / 2, good.len() - 1],
            // The size, the first table, a second-level table, data of the volume.
            ImageFormat::Qcow2 => {
                let l1 = u64::from_be_bytes(good[40..48].try_into().unwrap()) as usize;
                let l2 = u64::from_be_bytes(good[l1..l1 + 8].try_into().unwrap()) << 1 >> 1;
                vec![0, 4, 30, 75, 103, l1, l1 + 4, l2 as usize + 5, 65536 + 4096, 65536 + 9000]
            }
        };
        for at in used {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                fs::write(&path, &bytes).unwrap();
                let found = file.import(&mut empty(), Zeros::Skipped);
                assert!(found.is_err(), "{}: bit {bit} of byte {at}", format.name());
            }
        }
        for length in [0, 100, 4096, good.len() / 2, good.len() - 1].into_iter() {
            fs::write(&path, &good[..length]).unwrap();
            let whole = file.import(&mut empty(), Zeros::Skipped).is_ok();
            // What is cut off of an image may be counts of references only.
            assert!(!whole || format == ImageFormat::Qcow2, "cut to {length} B");
        }
        fs::write(&path, &good).unwrap();
        file.import(&mut empty(), Zeros::Skipped).unwrap();
    }
}

#[test]
fn a_damaged_base_is_never_put_under_an_increment() {
    let (volume, runs) = three_windows();
    let folder = tempfile::tempdir().unwrap();
    let base = target(folder.path(), "base", ImageFormat::Raw);
    base.export(&volume, &runs, None, usize::MAX).unwrap();
    let path = folder.path().join("base");
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096] ^= 1;
    fs::write(&path, bytes).unwrap();
    let next = target(folder.path(), "next", ImageFormat::Raw);
    let refused = next.export(&volume, &[], Some(base.base()), usize::MAX);
    let refused = refused.expect_err("the base is damaged");
    assert!(matches!(refused, TransferError::WindowChecksum { offset: 0 }), "{refused}");
}

#[test]
fn a_volume_that_cannot_be_read_is_an_error_and_no_file() {
    struct Bad;
    impl Source for Bad {
        fn read_at(&mut self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err(io::Error::other("a medium error"))
        }
    }
    let writer = StreamWriter::create(Vec::new(), identity(1, None)).unwrap();
    let runs = [run(0, BLOCK, DiffKind::Data)];
    let error = write_stream(&mut Bad, &runs, 0, writer, &mut buffer(), &mut on());
    let error = error.expect_err("it cannot be read").to_string();
    assert_eq!(error, "read 4096 B at offset 0 of the volume: a medium error");
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::MetadataExt;
    let (volume, runs) = three_windows();
    let folder = tempfile::tempdir().unwrap();
    let raw = target(folder.path(), "raw", ImageFormat::Raw);
    raw.export(&volume, &runs, None, usize::MAX).unwrap();
    let found = folder.path().join("raw").metadata().unwrap();
    assert_eq!(found.len(), SIZE);
    assert!(found.blocks() * 512 < 2 << 20, "{} B are allocated", found.blocks() * 512);
    assert_same(&Memory(fs::read(folder.path().join("raw")).unwrap()), &volume, "raw");
}

#[test]
fn a_device_is_overwritten_up_to_the_end_of_the_volume_and_no_further() {
    let (mut volume, runs) = three_windows();
    let mut device = Memory(vec![0xaa; SIZE as usize + 8192]);
    let windows = windows_of(&runs, size());
    write_device(&mut volume, &mut device, &windows, size(), &mut buffer(), &mut on()).unwrap();
    let (written, behind) = device.0.split_at(SIZE as usize);
    assert_same(&Memory(written.to_vec()), &volume, "device");
    assert!(behind.iter().all(|byte| *byte == 0xaa));
    let mut device = Memory(vec![0xaa; SIZE as usize]);
    write_device(&mut empty(), &mut device, &[], size(), &mut buffer(), &mut on()).unwrap();
    assert_same(&device, &empty(), "nothing is allocated");
}

/// The last cluster of the base has one block; behind it there is something now, or zeros.
#[test]
fn a_base_that_was_smaller_is_under_a_volume_that_has_grown() {
    let folder = tempfile::tempdir().unwrap();
    let small = VolumeSize::from_bytes(WINDOW_BYTES + CLUSTER_BYTES + BLOCK).unwrap();
    let of = StreamHeader { size: small, ..identity(1, None) };
    let mut before = Memory(vec![0; small.bytes() as usize]);
    let last = small.bytes() - BLOCK;
    let first = Change { run: run(last, BLOCK, DiffKind::Data), byte: 3 };
    let runs = apply(&mut before, &[first]);
    let base = Target { of, ..target(folder.path(), "base", ImageFormat::Raw) };
    base.export(&before, &runs, None, usize::MAX).unwrap();
    for more in [0, 1] {
        let mut after = empty();
        after.0[..before.0.len()].copy_from_slice(&before.0);
        let grown = Change { run: run(2 * WINDOW_BYTES, BLOCK, DiffKind::Data), byte: 5 };
        let runs = apply(&mut after, &[grown][..more]);
        let name = format!("after.{more}");
        let next = target(folder.path(), &name, ImageFormat::Raw);
        next.export(&after, &runs, Some(base.base()), usize::MAX).unwrap();
        assert_same(&Memory(fs::read(folder.path().join(&name)).unwrap()), &after, &name);
        next.import(&mut empty(), Zeros::Skipped).unwrap();
    }
}
