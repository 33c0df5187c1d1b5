//! The bytes of a backup: what was written is read again, and nothing else is believed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use lunar_backup::*;
use lunar_types::ClusterId;
use proptest::prelude::*;

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

const HEADER: BackupHeader = BackupHeader {
    keyspace_version: 3,
    cluster: ClusterId::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
    number: 0x1112_1314_1516_1718,
    begun: 0x2122_2324_2526_2728,
};

fn written_with(header: &BackupHeader, entries: &Entries) -> (Vec<u8>, BackupEnd) {
    let (mut encoder, mut bytes) = BackupEncoder::begin(header);
    for (key, value) in entries {
        bytes.extend(encoder.push(key, value).expect("the entry fits").unwrap_or_default());
    }
    let (last, end) = encoder.finish();
    bytes.extend(last);
    (bytes, end)
}

fn written(entries: &Entries) -> Vec<u8> {
    written_with(&HEADER, entries).0
}

fn entries_of(block: &Block) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    block.entries().map(|(key, value)| (key.to_vec(), value.to_vec()))
}

/// Reads as a file is read.
fn read(bytes: &[u8]) -> Result<(BackupHeader, Entries, BackupEnd), BackupError> {
    let mut reader = BackupReader::begin(bytes)?;
    let mut entries = Vec::new();
    while let Some(block) = reader.next_block()? {
        entries.extend(entries_of(&block));
    }
    Ok((*reader.header(), entries, reader.end()?))
}

/// Takes a stream in pieces of this many bytes.
fn receive(bytes: &[u8], piece: usize) -> Result<(BackupHeader, Entries, BackupEnd), BackupError> {
    let (mut decoder, mut header) = (BackupDecoder::new(), None);
    let mut entries = Vec::new();
    for mut piece in bytes.chunks(piece) {
        while let Some(part) = decoder.next_part(&mut piece)? {
            match part {
                Part::Header(found) => header = Some(found),
                Part::Block(block) => entries.extend(entries_of(&block)),
                Part::Trailer(_) => {}
            }
        }
    }
    let end = decoder.end()?;
    Ok((header.expect("a whole backup has a header"), entries, end))
}

fn refused(bytes: &[u8]) -> BackupError {
    let error = read(bytes).expect_err("it is refused");
    let text = error.to_string();
    assert!(text.starts_with(&format!("byte {}: ", error.offset())), "{text}");
    assert!(error.offset() <= bytes.len() as u64, "{text}");
    error
}

fn small() -> Entries {
    vec![
        (b"a".to_vec(), b"one".to_vec()),
        (b"ab".to_vec(), Vec::new()),
        (vec![0xFF; 3], vec![0; 5]),
    ]
}

/// Entries of three blocks, with this byte in their values.
fn large(byte: u8) -> Entries {
    (0..5_u8).map(|key| (vec![key], vec![byte; 500_000])).collect()
}

#[test]
fn a_backup_is_the_bytes_of_the_fixture() {
    let (bytes, end) = written_with(&HEADER, &small());
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").expect("text takes everything");
        }
        text.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backup-1.hex");
    if std::env::var_os("LUNAR_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, &text).expect("the fixture is written");
    }
    assert_eq!(text, std::fs::read_to_string(&path).expect("the fixture is there"));
    assert_eq!(end, BackupEnd { blocks: 1, entries: 3, bytes: bytes.len() as u64 });
    assert_eq!(read(&bytes).expect("read"), (HEADER, small(), end));
}

#[test]
fn an_empty_store_has_a_backup_too() {
    let (bytes, end) = written_with(&HEADER, &Vec::new());
    assert_eq!(bytes.len(), HEADER_BYTES + TRAILER_BYTES);
    assert_eq!(end, BackupEnd { blocks: 0, entries: 0, bytes: bytes.len() as u64 });
    assert_eq!(read(&bytes).expect("read"), (HEADER, Vec::new(), end));
}

#[test]
fn every_flipped_bit_is_refused_and_its_part_is_named() {
    let bytes = written(&small());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let error = refused(&damaged);
            let is_in_header = at < HEADER_BYTES;
            // A longer length of the block ends beyond the backup.
            let is_cut = matches!(error, BackupError::Truncated { .. });
            assert!(is_cut || is_in_header == (error.offset() == 0), "byte {at}: {error}");
        }
    }
}

#[test]
fn a_backup_that_was_cut_off_is_refused_where_it_ends() {
    let bytes = written(&small());
    assert!(matches!(refused(&[]), BackupError::NotABackup));
    for length in 1..bytes.len() {
        let error = refused(&bytes[..length]);
        let is_there = matches!(error, BackupError::Truncated { .. });
        assert!(is_there && error.offset() == length as u64, "{length}: {error}");
    }
}

#[test]
fn what_follows_a_backup_is_refused() {
    let whole = written(&small());
    for appended in [&[0][..], &[0xFF], b"LUNBKEND", &whole] {
        let mut bytes = whole.clone();
        bytes.extend(appended);
        let error = refused(&bytes);
        assert_eq!(error.offset(), whole.len() as u64);
        assert!(error.to_string().contains("something follows the trailer"), "{error}");
    }
}

#[test]
fn blocks_of_another_backup_or_in_another_place_are_refused() {
    let (ours, theirs) = (written(&large(1)), written(&large(2)));
    // Two entries of 500,007 bytes each are a block.
    let block = BLOCK_HEAD_BYTES + 2 * (6 + 1 + 500_000);
    let places = [HEADER_BYTES, HEADER_BYTES + block];
    let mut mixed = ours.clone();
    mixed[places[0]..][..block].copy_from_slice(&theirs[places[0]..][..block]);
    assert!(refused(&mixed).to_string().contains("the checksum of the trailer is wrong"));
    let mut swapped = ours.clone();
    swapped[places[0]..][..block].copy_from_slice(&ours[places[1]..][..block]);
    swapped[places[1]..][..block].copy_from_slice(&ours[places[0]..][..block]);
    assert!(refused(&swapped).to_string().contains("keys of the block do not rise"));
    let mut missing = ours;
    missing.drain(places[0]..places[1]);
    assert!(refused(&missing).to_string().contains("counts other blocks or entries"));
    let mut header = written(&Vec::new())[..HEADER_BYTES].to_vec();
    let other = written_with(&BackupHeader { number: 1, ..HEADER }, &Vec::new()).0;
    header.extend(&other[HEADER_BYTES..]);
    assert!(refused(&header).to_string().contains("the checksum of the trailer is wrong"));
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(sum).expect("a CRC32C has 32 bits").to_le_bytes()
}

/// A block as a writer with a bug would make it: its checksum is right.
fn after_the_header(length: u32, count: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = written(&Vec::new())[..HEADER_BYTES].to_vec();
    let summed = [&length.to_le_bytes()[..], &count.to_le_bytes(), body].concat();
    bytes.extend(length.to_le_bytes());
    bytes.extend(crc(&summed));
    bytes.extend(count.to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn blocks_that_no_writer_makes_are_refused_with_a_right_checksum() {
    let twice = [1, 0, 0, 0, 0, 0, b'k', 1, 0, 0, 0, 0, 0, b'k'];
    let falling = [1, 0, 0, 0, 0, 0, b'k', 1, 0, 0, 0, 0, 0, b'a'];
    for body in [twice, falling] {
        let error = refused(&after_the_header(14, 2, &body));
        assert!(error.to_string().contains("keys of the block do not rise"), "{error}");
        assert_eq!(error.offset(), HEADER_BYTES as u64);
    }
    let rest = refused(&after_the_header(8, 1, &[1, 0, 0, 0, 0, 0, b'k', 9]));
    assert!(rest.to_string().contains("an entry of the block is cut off"), "{rest}");
    let long = refused(&after_the_header(7, 1, &[1, 0, 9, 0, 0, 0, b'k']));
    assert!(long.to_string().contains("an entry of the block is cut off"), "{long}");
    let count = refused(&after_the_header(7, 2, &[1, 0, 0, 0, 0, 0, b'k']));
    assert!(count.to_string().contains("another number of entries"), "{count}");
    for length in [0, u32::try_from(BLOCK_BYTES_MAX).expect("1 MiB") + 1, u32::MAX] {
        let error = refused(&after_the_header(length, 0, &[]));
        assert!(error.to_string().contains("neither a block nor the trailer"), "{error}");
    }
}

#[test]
fn a_version_is_named_only_when_the_header_is_right() {
    let mut bytes = written(&small());
    bytes[8] = 2;
    assert!(matches!(refused(&bytes), BackupError::Checksum { offset: 0, .. }));
    let sum = crc(&bytes[..HEADER_BYTES - 4]);
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum);
    let error = refused(&bytes).to_string();
    assert!(error.contains("has format version 2, this program reads 1"), "{error}");
    assert!(matches!(refused(b"not a backup at all"), BackupError::NotABackup));
}

#[test]
fn an_encoder_refuses_what_no_store_gives() {
    let (mut encoder, mut bytes) = BackupEncoder::begin(&HEADER);
    assert_eq!(encoder.push(b"b", b""), Ok(None));
    for key in [b"a", b"b"] {
        assert_eq!(encoder.push(key, b""), Err(EncodeError::Order { number: 1 }));
    }
    let error = encoder.push(&[b'c'; 70_000], b"").expect_err("refused");
    assert!(matches!(error, EncodeError::TooLong { key: 70_000, .. }), "{error}");
    let error = encoder.push(b"c", &vec![0; BLOCK_BYTES_MAX - 6]).expect_err("refused");
    assert!(matches!(error, EncodeError::TooLong { .. }), "{error}");
    let full = encoder.push(b"c", &vec![0; BLOCK_BYTES_MAX - 7]).expect("exactly a block");
    bytes.extend(full.expect("the block before it"));
    let (last, end) = encoder.finish();
    bytes.extend(last);
    assert_eq!((end.blocks, end.entries), (2, 2));
    assert_eq!(read(&bytes).expect("read").2, end);
}

#[test]
#[should_panic(expected = "is not read on")]
fn a_backup_that_was_refused_is_not_read_on() {
    let mut decoder = BackupDecoder::new();
    decoder.next_part(&mut &b"nonsense"[..]).expect_err("it is no backup");
    drop(decoder.next_part(&mut &written(&small())[..]));
}

fn any_entries() -> impl Strategy<Value = Entries> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let small = prop::collection::btree_map(bytes(40), bytes(200), 0..60);
    let large = prop::collection::btree_map(any::<u8>(), 0..BLOCK_BYTES_MAX - 10, 0..3);
    (small, large).prop_map(|(mut all, large): (BTreeMap<_, _>, BTreeMap<_, _>)| {
        all.extend(large.into_iter().map(|(key, length)| (vec![key], vec![key; length])));
        all.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again_in_pieces_of_any_size(
        entries in any_entries(),
        piece in 1_usize..100_000,
    ) {
        let (bytes, end) = written_with(&HEADER, &entries);
        prop_assert_eq!(end.bytes, bytes.len() as u64);
        prop_assert_eq!(end.entries, entries.len() as u64);
        let expected = (HEADER, entries, end);
        prop_assert_eq!(&read(&bytes).expect("read"), &expected);
        prop_assert_eq!(&receive(&bytes, piece).expect("received"), &expected);
    }

    #[test]
    fn changed_cut_or_longer_backups_are_refused_with_the_place(
        entries in any_entries(),
        at in any::<prop::sample::Index>(),
        change in prop::collection::vec(1_u8.., 1..9),
    ) {
        let whole = written(&entries);
        let from = at.index(whole.len());
        let mut changed = whole.clone();
        changed[from..].iter_mut().zip(&change).for_each(|(byte, change)| *byte ^= change);
        let longer = [&whole[..], &change].concat();
        for bytes in [&changed, &whole[..from], &longer] {
            let error = read(bytes).expect_err("it is refused");
            let place = format!("byte {}: ", error.offset());
            prop_assert!(error.to_string().starts_with(&place), "{}", error);
            let received = receive(bytes, 1 + from % 70_000).expect_err("it is refused too");
            prop_assert_eq!(received.to_string(), error.to_string());
        }
    }
}
