//! The format `stream`: what is written is read, and nothing else is.

use std::io::{self, Read, Seek, SeekFrom, Write};

use lunar_types::{LogicalBlockSize, SnapshotId, VolumeSize};
use proptest::prelude::*;

use super::super::golden;
use super::*;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 1000;
const FIXTURE: &str = "stream-v1.hex";

#[derive(Clone, PartialEq, Eq, Debug)]
enum Owned {
    Data(u64, Vec<u8>),
    Zero(u64, u32),
}

impl From<Chunk<'_>> for Owned {
    fn from(chunk: Chunk<'_>) -> Self {
        match chunk {
            Chunk::Data { offset, bytes } => Self::Data(offset, bytes.to_vec()),
            Chunk::Zero { offset, length } => Self::Zero(offset, length),
        }
    }
}

fn header() -> StreamHeader {
    StreamHeader {
        snapshot: SnapshotId::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        base: Some(SnapshotId::from_u128(7)),
        size: VolumeSize::from_bytes(BLOCKS * BLOCK as u64).unwrap(),
        logical_block: LogicalBlockSize::B512,
    }
}

/// A block of zeros but for its first and last byte.
fn block(mark: u8) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    (bytes[0], bytes[BLOCK - 1]) = (mark, mark);
    bytes
}

fn small() -> Vec<Owned> {
    vec![Owned::Data(8192, block(0xa5)), Owned::Zero(16384, 8192), Owned::Data(28672, block(0x5a))]
}

fn put<W: Write>(writer: &mut StreamWriter<W>, chunk: &Owned) {
    match chunk {
        Owned::Data(offset, bytes) => writer.data(*offset, bytes).unwrap(),
        Owned::Zero(offset, length) => writer.zero(*offset, *length).unwrap(),
    }
}

fn write_with(header: StreamHeader, chunks: &[Owned]) -> Vec<u8> {
    let mut writer = StreamWriter::create(Vec::new(), header).unwrap();
    chunks.iter().for_each(|chunk| put(&mut writer, chunk));
    writer.finish().unwrap()
}

fn write(chunks: &[Owned]) -> Vec<u8> {
    write_with(header(), chunks)
}

/// The header and all chunks, or what is wrong and what came before.
fn read(input: impl Read) -> Result<(StreamHeader, Vec<Owned>), (Vec<Owned>, StreamError)> {
    let mut reader = StreamReader::open(input).map_err(|error| (Vec::new(), error))?;
    let header = *reader.header();
    let mut chunks = Vec::new();
    loop {
        match reader.next_chunk() {
            Ok(Some(chunk)) => chunks.push(chunk.into()),
            Ok(None) => return Ok((header, chunks)),
            Err(error) => return Err((chunks, error)),
        }
    }
}

fn fault_of(bytes: &[u8]) -> StreamError {
    read(bytes).expect_err("a fault").1
}

/// Writes the checksum of a header anew.
fn seal_header(bytes: &mut [u8]) {
    let crc = Crc32c::of(&[&bytes[..60]]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
}

/// A stream of one chunk with a right checksum, whatever the chunk says.
fn with_chunk(offset: u64, length: u32, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut head = [0; CHUNK_HEAD_BYTES];
    head[..8].copy_from_slice(&offset.to_le_bytes());
    head[8..12].copy_from_slice(&length.to_le_bytes());
    head[12] = kind;
    let crc = Crc32c::of(&[&head[..CRC_AT], data]);
    head[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    [&header().encode()[..], &head, data].concat()
}

#[test]
fn crc32c_has_the_value_of_its_specification() {
    assert_eq!(Crc32c::of(&[b"1234", b"56789"]), 0xe306_9283);
    assert_eq!(Crc32c::of(&[&[0; 32]]), 0x8a91_36aa);
}

#[test]
fn the_bytes_of_a_stream_are_those_of_the_fixture() {
    golden::assert_golden(FIXTURE, &write(&small()));
    let (read_header, chunks) = read(golden::load(FIXTURE).as_slice()).expect("it is whole");
    assert_eq!((read_header, chunks), (header(), small()));
}

#[test]
fn a_stream_without_chunks_is_whole() {
    assert_eq!(read(write(&[]).as_slice()).expect("it is whole").1, []);
}

#[test]
fn any_flipped_bit_is_refused_and_what_came_before_it_holds() {
    let good = write(&small());
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let (before, error) = read(bytes.as_slice()).expect_err("a flipped bit");
            assert!(small().starts_with(&before), "byte {at} bit {bit}");
            assert!(error.at <= at as u64, "byte {at} bit {bit}: {error}");
        }
    }
}

#[test]
fn a_stream_cut_anywhere_is_truncated() {
    let good = write(&small());
    for length in 0..good.len() {
        let error = fault_of(&good[..length]);
        assert!(matches!(error.fault, StreamFault::Truncated(_)), "{length}: {error}");
        assert!(error.at <= length as u64);
        assert!(error.advice().contains("--resume"));
    }
}

#[test]
fn what_follows_the_end_is_refused() {
    for tail in [&[0_u8][..], &write(&[])] {
        let error = fault_of(&[&write(&small())[..], tail].concat());
        assert!(matches!(error.fault, StreamFault::TrailingBytes), "{error}");
    }
}

#[test]
fn other_magic_other_version_and_impossible_headers_are_refused() {
    type Change = fn(&mut [u8]);
    let cases: [(Change, &str); 9] = [
        (|bytes| bytes[0] = b'X', "byte 0 of the stream: this is no export of a snapshot"),
        (|bytes| bytes[8] = 2, "the format version is 2; this program reads version 1"),
        (|bytes| bytes[20] ^= 1, "the header is damaged"),
        (|bytes| bytes[10] = 1, "its reserved bytes are not zero"),
        (|bytes| bytes[56] = 1, "its reserved bytes are not zero"),
        (|bytes| bytes[12] = 1, "logical block size 513 B is not supported"),
        (|bytes| bytes[48..56].fill(0), "a volume of 0 B cannot be made"),
        (|bytes| bytes[16..32].fill(0), "it names no snapshot"),
        (|bytes| bytes.copy_within(16..32, 32), "is its own base"),
    ];
    for (n, (change, expected)) in cases.into_iter().enumerate() {
        let mut bytes = write(&[]);
        change(&mut bytes);
        if n != 2 {
            seal_header(&mut bytes);
        }
        let text = fault_of(&bytes).to_string();
        assert!(text.contains(expected), "case {n}: {text}");
    }
}

#[test]
fn chunks_that_cannot_be_are_refused_though_their_checksum_holds() {
    let size = BLOCKS * BLOCK as u64;
    for (bytes, expected) in [
        (with_chunk(0, 4096, 0, &[]), "its kind is 0"),
        (with_chunk(0, 4096, 4, &[]), "its kind is 4"),
        (with_chunk(0, 0, 1, &[]), "its length of 0 B"),
        (with_chunk(0, CHUNK_BYTES_MAX + 4096, 2, &[]), "its length of 1052672 B"),
        (with_chunk(0, u32::MAX, 1, &[]), "its length of 4294967295 B"),
        (with_chunk(512, 4096, 2, &[]), "no whole blocks"),
        (with_chunk(0, 512, 1, &[1; 512]), "no whole blocks"),
        (with_chunk(size, 4096, 2, &[]), "beyond the size"),
        (with_chunk(u64::MAX - 4095, 4096, 2, &[]), "beyond the size"),
    ] {
        let error = fault_of(&bytes);
        assert_eq!(error.at, 64);
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[test]
fn chunks_that_are_missing_doubled_or_of_another_stream_are_refused() {
    let good = write(&small());
    let data = CHUNK_HEAD_BYTES + BLOCK;
    let (first, zero) = (64..64 + data, 64 + data..64 + data + CHUNK_HEAD_BYTES);
    let missing = [&good[..64], &good[zero.start..]].concat();
    assert!(matches!(fault_of(&missing).fault, StreamFault::EndCount { said: 3, found: 2 }));
    let doubled = [&good[..first.end], &good[first.start..]].concat();
    assert!(fault_of(&doubled).to_string().contains("the chunk before it ends at 12288"));

    let mut changed = small();
    changed[0] = Owned::Data(8192, block(1));
    let other = write(&changed);
    let mixed = [&good[..64], &other[first.clone()], &good[first.end..]].concat();
    assert!(matches!(fault_of(&mixed).fault, StreamFault::EndChecksum { .. }));

    let other_header = StreamHeader { base: None, ..header() };
    let moved = [&write_with(other_header, &[])[..64], &good[64..]].concat();
    assert!(matches!(fault_of(&moved).fault, StreamFault::EndChecksum { .. }));
}

#[test]
fn a_reader_stays_broken_behind_a_fault() {
    let mut bytes = write(&small());
    bytes[100] ^= 1;
    let mut reader = StreamReader::open(bytes.as_slice()).expect("the header holds");
    assert!(reader.next_chunk().is_err());
    let again = reader.next_chunk().expect_err("still broken");
    assert!(matches!(again.fault, StreamFault::Broken));
}

/// Gives one byte at a time, with interruptions, and fails at byte `fails_at`.
struct Slow<'a> {
    bytes: &'a [u8],
    at: usize,
    fails_at: usize,
    interrupted: bool,
}

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.at == self.fails_at {
            return Err(io::Error::other("the medium is broken"));
        }
        let count = buffer.len().min(1).min(self.bytes.len() - self.at);
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[test]
fn a_slow_pipe_is_read_whole_and_its_error_is_no_end() {
    let bytes = write(&small());
    let slow = |fails_at| Slow { bytes: &bytes, at: 0, fails_at, interrupted: false };
    assert_eq!(read(slow(usize::MAX)).expect("it is whole").1, small());
    for fails_at in [0, 64, 70, 200, bytes.len()] {
        let (_, error) = read(slow(fails_at)).expect_err("the medium");
        assert!(error.to_string().ends_with("read: the medium is broken"), "{error}");
        let scanned = scan(slow(fails_at), &header()).expect_err("never taken for a cut");
        assert!(matches!(scanned.fault, StreamFault::Io(_)));
    }
}

/// Writes on what is left of a file, as an export with `--resume` does.
fn complete(left: &[u8], all: &[Owned]) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(left).unwrap();
    file.rewind().unwrap();
    match scan(&file, &header()).expect("it can go on") {
        Found::Whole(_) => {}
        Found::Nothing => {
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            file.write_all(&write(all)).unwrap();
        }
        Found::Part(resumed) => {
            let next = resumed.next_offset();
            assert!(resumed.keep_bytes() <= left.len() as u64);
            cut(&mut file, &resumed).unwrap();
            let mut writer = StreamWriter::resume(&file, resumed);
            let rest = all.iter().filter(|chunk| match chunk {
                Owned::Data(offset, _) | Owned::Zero(offset, _) => *offset >= next,
            });
            rest.for_each(|chunk| put(&mut writer, chunk));
            writer.finish().unwrap();
        }
    }
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_stream_cut_anywhere_is_completed_to_the_same_bytes() {
    let good = write(&small());
    for length in 0..=good.len() {
        assert_eq!(complete(&good[..length], &small()), good, "cut at {length}");
    }
}

#[test]
fn what_a_power_cut_leaves_behind_good_chunks_is_written_anew() {
    let good = write(&small());
    for from in [64, 100, 64 + CHUNK_HEAD_BYTES + BLOCK, good.len() - 10] {
        for garbage in [0_u8, 0xff, 0x5a] {
            let mut torn = good.clone();
            torn[from..].fill(garbage);
            assert_eq!(complete(&torn, &small()), good, "torn at {from} with {garbage}");
        }
    }
}

#[test]
fn a_file_of_something_else_is_never_gone_on_with() {
    let good = write(&small());
    for other in [
        StreamHeader { base: None, ..header() },
        StreamHeader { snapshot: SnapshotId::from_u128(9), ..header() },
        StreamHeader { size: VolumeSize::from_bytes(4096).unwrap(), ..header() },
        StreamHeader { logical_block: LogicalBlockSize::B4096, ..header() },
    ] {
        let error = scan(good.as_slice(), &other).expect_err("another export");
        assert!(matches!(error.fault, StreamFault::OtherExport(_)), "{error}");
    }
    for (bytes, what) in [(&b"a letter"[..], "ends in its header"), (&[0; 100][..], "no export")] {
        let error = scan(bytes, &header()).expect_err("something else").to_string();
        assert!(error.contains(what), "{error}");
    }
    let trailing = [&good[..], &[0]].concat();
    assert!(scan(trailing.as_slice(), &header()).is_err());
}

#[test]
#[should_panic(expected = "the chunk before it ends at 8192")]
fn a_writer_refuses_chunks_out_of_order() {
    let mut writer = StreamWriter::create(io::sink(), header()).unwrap();
    writer.zero(0, 8192).unwrap();
    let _ = writer.data(4096, &block(1));
}

/// Chunks in order: a gap, a length in blocks, and data of one byte or zeros.
fn chunks() -> impl Strategy<Value = Vec<Owned>> {
    let one = (0_u64..40, 1_u32..4, proptest::option::of(any::<u8>()));
    proptest::collection::vec(one, 0..20).prop_map(|parts| {
        let mut offset = 0;
        let mut chunks = Vec::new();
        for (gap, blocks, data) in parts {
            offset += gap * BLOCK as u64;
            let length = blocks * BLOCK as u32;
            chunks.push(match data {
                Some(byte) => Owned::Data(offset, vec![byte; length as usize]),
                None => Owned::Zero(offset, length),
            });
            offset += u64::from(length);
        }
        chunks
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read(chunks in chunks()) {
        let (read_header, found) = read(write(&chunks).as_slice()).expect("it is whole");
        prop_assert_eq!(read_header, header());
        prop_assert_eq!(found, chunks);
    }

    #[test]
    fn a_cut_stream_is_completed(chunks in chunks(), at in any::<proptest::sample::Index>()) {
        let good = write(&chunks);
        prop_assert_eq!(complete(&good[..at.index(good.len() + 1)], &chunks), good);
    }

    #[test]
    fn any_bytes_behind_a_header_are_an_error(
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [&header().encode()[..], &tail].concat();
        prop_assert!(read(bytes.as_slice()).is_err());
    }

    #[test]
    fn overwritten_bytes_never_give_other_chunks(
        chunks in chunks(),
        at in any::<proptest::sample::Index>(),
        over in proptest::collection::vec(any::<u8>(), 1..50),
    ) {
        let good = write(&chunks);
        let mut bytes = good.clone();
        let at = at.index(good.len());
        let end = good.len().min(at + over.len());
        bytes[at..end].copy_from_slice(&over[..end - at]);
        match read(bytes.as_slice()) {
            Ok((_, found)) => prop_assert_eq!((&bytes, found), (&good, chunks)),
            Err((before, _)) => prop_assert!(chunks.starts_with(&before)),
        }
    }
}
