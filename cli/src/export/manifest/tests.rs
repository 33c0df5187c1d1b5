//! A manifest is read as it was written, and damage anywhere is seen.

use lunar_types::{LogicalBlockSize, SnapshotId, VolumeSize};
use proptest::prelude::*;

use super::super::golden;
use super::super::window::WINDOW_BYTES;
use super::*;

fn header() -> ManifestHeader {
    ManifestHeader {
        of: StreamHeader {
            snapshot: SnapshotId::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            base: Some(SnapshotId::from_u128(7)),
            size: VolumeSize::from_bytes(1000 * WINDOW_BYTES).expect("a size"),
            logical_block: LogicalBlockSize::from_bytes(512).expect("a block"),
        },
        format: ImageFormat::Qcow2,
    }
}

fn sum(index: u64, data: u128, zero: u128) -> Sum {
    let clusters = Clusters { data, zero };
    Sum { window: Window { index, clusters }, crc: index as u32 ^ 0xa5a5_a5a5 }
}

fn write(sums: &[Sum]) -> Vec<u8> {
    let mut writer = ManifestWriter::create(Vec::new(), &header()).unwrap();
    sums.iter().for_each(|sum| writer.window(*sum).unwrap());
    writer.finish().unwrap().0
}

fn three() -> [Sum; 3] {
    [sum(0, 1, 2), sum(7, u128::MAX, 0), sum(999, 1 << 127, 0)]
}

#[test]
fn the_bytes_of_a_manifest_are_those_of_the_fixture() {
    let bytes = write(&three());
    golden::assert_golden("manifest-v1.hex", &bytes);
    let read = Manifest::read(golden::load("manifest-v1.hex").as_slice()).unwrap();
    assert_eq!((read.header, read.sums.as_slice(), read.whole), (header(), &three()[..], true));
}

#[test]
fn a_manifest_cut_anywhere_is_not_whole_and_keeps_what_holds() {
    let good = write(&three());
    for length in 0..good.len() {
        match Manifest::read(&good[..length]) {
            Ok(found) => {
                assert!(!found.whole, "{length}");
                assert_eq!(found.sums.len(), (length - HEADER_BYTES) / RECORD_BYTES, "{length}");
                assert_eq!(found.sums, three()[..found.sums.len()], "{length}");
            }
            Err(_) => assert!(length < HEADER_BYTES, "{length}"),
        }
    }
    assert!(!Manifest::read([good, vec![0]].concat().as_slice()).unwrap().whole);
}

#[test]
fn any_flipped_bit_is_seen() {
    let good = write(&three());
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match Manifest::read(bytes.as_slice()) {
            Ok(found) => {
                assert!(!found.whole, "bit {bit}");
                assert!(three().starts_with(&found.sums), "bit {bit}");
            }
            Err(_) => assert!(bit / 8 < HEADER_BYTES, "bit {bit}"),
        }
    }
}

#[test]
fn records_that_cannot_be_are_not_taken_though_their_checksum_holds() {
    for bad in [sum(0, 1, 1), sum(0, 0, 0), sum(1000, 1, 0), sum(u64::MAX, 1, 0)] {
        let found = Manifest::read(write(&[bad]).as_slice()).unwrap();
        assert!(!found.whole && found.sums.is_empty(), "{bad:?}");
    }
    let found = Manifest::read(write(&[sum(3, 1, 0), sum(3, 2, 0)]).as_slice()).unwrap();
    assert_eq!((found.sums.len(), found.whole), (1, false));
    let mut moved = write(&three());
    let lost = HEADER_BYTES..HEADER_BYTES + RECORD_BYTES;
    moved.drain(lost);
    assert!(!Manifest::read(moved.as_slice()).unwrap().whole, "a record was lost");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_manifest_that_is_gone_on_with_is_the_same(kept in 0_usize..5, more in 0_usize..5) {
        let all: Vec<_> = (0..kept + more).map(|n| sum(n as u64 * 3, n as u128 + 1, 0)).collect();
        let good = write(&all);
        let begin = good[..Manifest::bytes_of(kept) as usize].to_vec();
        let mut writer = ManifestWriter::resume(begin, &header(), &all[..kept]);
        all[kept..].iter().for_each(|sum| writer.window(*sum).unwrap());
        let (bytes, crc) = writer.finish().unwrap();
        prop_assert_eq!(&bytes, &good);
        let read = Manifest::read(good.as_slice()).unwrap();
        prop_assert_eq!(read.crc(), crc);
        prop_assert!(read.whole);
        prop_assert_eq!(read.sums, all);
    }
}
