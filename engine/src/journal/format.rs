//! Bytes of a journal block: eight 512-byte sectors, each certifying itself.
//!
//! A device writes a sector whole or not at all. So after a torn write each sector is valid, with
//! the old or the new sequence number; a sector that is not valid was damaged. Byte-exact
//! description: `docs/format/journal.md`.

use lunar_types::{BLOCK_BYTES, Epoch, LayerId, LogicalExtent, NodeIncarnation, Slot, VolumeId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::crc32c;
use crate::place::Place;

const MAGIC: [u8; 4] = *b"LJNL";
/// Blocks of one ring may carry different layers since version 2; version 1 is read too.
const VERSION: u16 = 2;
const VERSION_OLDEST: u16 = 1;
const SECTOR_BYTES: usize = 512;
const SECTORS: usize = BLOCK_BYTES as usize / SECTOR_BYTES;
const SECTOR_PAYLOAD_BYTES: usize = SECTOR_BYTES - size_of::<SectorHead>();
const PAYLOAD_BYTES: usize = SECTORS * SECTOR_PAYLOAD_BYTES;
/// Records that fit one block.
pub const RECORDS_PER_BLOCK: usize =
    (PAYLOAD_BYTES - size_of::<BlockHead>()) / size_of::<RecordBytes>();

/// Whose journal it is; every block carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalIdentity {
    /// The volume.
    pub volume: VolumeId,
    /// Its head layer, which the records speak of; a ring may have blocks of earlier heads.
    pub layer: LayerId,
    /// The epoch of the attachment.
    pub epoch: Epoch,
    /// The node that writes it.
    pub writer: NodeIncarnation,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SectorHead {
    crc: U32,
    sector: U16,
    reserved: U16,
    seq: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct BlockHead {
    magic: [u8; 4],
    version: U16,
    record_count: U16,
    volume: [u8; 16],
    layer: U64,
    epoch: U64,
    incarnation: U32,
    node: U16,
    reserved: U16,
    ring_blocks: U32,
    position: U32,
    seq: U64,
    batch_first: U64,
    batch_last: U64,
    replay_from: U64,
    padding: [u8; 40],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RecordBytes {
    logical: U64,
    place: U64,
    word: U16,
    reserved: [u8; 6],
    bits: U64,
}

const _: () = assert!(size_of::<SectorHead>() == 16);
const _: () = assert!(size_of::<BlockHead>() == 128);
const _: () = assert!(size_of::<RecordBytes>() == 32);
const _: () = assert!(RECORDS_PER_BLOCK == 120);

/// One word of the resulting slot of a logical extent.
///
/// Applying a record whose place differs from the slot's starts the slot anew, no bit set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    pub(crate) logical: LogicalExtent,
    pub(crate) place: Place,
    pub(crate) word: u16,
    pub(crate) bits: u64,
}

impl Record {
    /// The records that state a slot: one a chosen word, at least one.
    pub(crate) fn state_slot(
        logical: LogicalExtent,
        slot: Option<&Slot>,
        words: impl Iterator<Item = usize>,
        out: &mut Vec<Self>,
    ) {
        let place = Place::of(slot);
        let before = out.len();
        if let Some(slot) = slot.filter(|slot| slot.extent().is_some()) {
            out.extend(words.map(|word| Self {
                logical,
                place,
                word: u16::try_from(word).expect("an extent has at most 64 words"),
                bits: slot.presence.words()[word],
            }));
        }
        if out.len() == before {
            let bits = slot.map_or(0, |slot| slot.presence.words()[0]);
            out.push(Self { logical, place, word: 0, bits });
        }
    }
}

/// Where a block stands in the order of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockOrder {
    /// Its sequence number.
    pub seq: u64,
    /// The first sequence number of its batch.
    pub batch_first: u64,
    /// The last sequence number of its batch.
    pub batch_last: u64,
    /// Everything before this is superseded.
    pub replay_from: u64,
}

/// What a block of the ring holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockState {
    /// Formatted, never written.
    Empty,
    /// Written whole, with records of this layer.
    Written(BlockOrder, LayerId, Vec<Record>),
    /// Written in part: every sector is valid, but not of one write.
    Torn,
    /// A sector is not valid, or the block is not of this journal or place.
    Damaged {
        /// Which sector is the first that does not hold.
        sector: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

fn seal(seq: u64, payload: &[u8; PAYLOAD_BYTES], block: &mut [u8]) {
    let chunks = payload.chunks_exact(SECTOR_PAYLOAD_BYTES);
    for ((index, sector), chunk) in (0_u16..).zip(block.chunks_exact_mut(SECTOR_BYTES)).zip(chunks)
    {
        let head =
            SectorHead { crc: 0.into(), sector: index.into(), reserved: 0.into(), seq: seq.into() };
        sector[..16].copy_from_slice(head.as_bytes());
        sector[16..].copy_from_slice(chunk);
        let crc = crc32c(&sector[4..]);
        sector[..4].copy_from_slice(&crc.to_le_bytes());
    }
}

fn encode(
    identity: &JournalIdentity,
    ring_blocks: u32,
    position: u32,
    order: BlockOrder,
    records: &[Record],
    block: &mut [u8],
) {
    assert_eq!(block.len() as u64, BLOCK_BYTES, "a journal block is one block");
    assert!(records.len() <= RECORDS_PER_BLOCK, "records are packed to the block");
    let head = BlockHead {
        magic: MAGIC,
        version: VERSION.into(),
        record_count: u16::try_from(records.len()).expect("at most 120").into(),
        volume: identity.volume.to_bytes(),
        layer: identity.layer.get().into(),
        epoch: identity.epoch.get().into(),
        incarnation: identity.writer.incarnation.get().into(),
        node: identity.writer.node.get().into(),
        reserved: 0.into(),
        ring_blocks: ring_blocks.into(),
        position: position.into(),
        seq: order.seq.into(),
        batch_first: order.batch_first.into(),
        batch_last: order.batch_last.into(),
        replay_from: order.replay_from.into(),
        padding: [0; 40],
    };
    let mut payload = [0; PAYLOAD_BYTES];
    payload[..128].copy_from_slice(head.as_bytes());
    for (record, into) in records.iter().zip(payload[128..].chunks_exact_mut(32)) {
        let bytes = RecordBytes {
            logical: record.logical.get().into(),
            place: record.place.encode().into(),
            word: record.word.into(),
            reserved: [0; 6],
            bits: record.bits.into(),
        };
        into.copy_from_slice(bytes.as_bytes());
    }
    seal(order.seq, &payload, block);
}

/// Writes a formatted block, which carries no record.
pub(crate) fn encode_empty(id: &JournalIdentity, ring_blocks: u32, position: u32, to: &mut [u8]) {
    let order = BlockOrder { seq: 0, batch_first: 0, batch_last: 0, replay_from: 0 };
    encode(id, ring_blocks, position, order, &[], to);
}

/// Writes a block of records.
pub(crate) fn encode_records(
    id: &JournalIdentity,
    ring_blocks: u32,
    order: BlockOrder,
    records: &[Record],
    to: &mut [u8],
) {
    let position = u32::try_from(order.seq % u64::from(ring_blocks)).expect("below ring_blocks");
    encode(id, ring_blocks, position, order, records, to);
}

fn decode_records(payload: &[u8], count: usize) -> Option<Vec<Record>> {
    payload[128..]
        .chunks_exact(32)
        .take(count)
        .map(|bytes| {
            let bytes = RecordBytes::ref_from_bytes(bytes).ok()?;
            Some(Record {
                logical: LogicalExtent::new(bytes.logical.get()),
                place: Place::decode(bytes.place.get())?,
                word: bytes.word.get(),
                bits: bytes.bits.get(),
            })
        })
        .collect()
}

/// Reads a block at `position` of the ring of this journal.
#[must_use]
pub fn decode(id: &JournalIdentity, ring_blocks: u32, position: u32, block: &[u8]) -> BlockState {
    let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
    let mut first_seq = None;
    let mut is_torn = false;
    for (index, sector) in block.chunks_exact(SECTOR_BYTES).enumerate() {
        let head = SectorHead::ref_from_bytes(&sector[..16]).expect("a sector has its head");
        if head.crc.get() != crc32c(&sector[4..]) {
            return BlockState::Damaged { sector: index, what: "checksum" };
        }
        if usize::from(head.sector.get()) != index {
            return BlockState::Damaged { sector: index, what: "sector number" };
        }
        is_torn |= *first_seq.get_or_insert(head.seq.get()) != head.seq.get();
        payload.extend_from_slice(&sector[16..]);
    }
    if is_torn {
        return BlockState::Torn;
    }
    decode_whole(id, ring_blocks, position, &payload, first_seq.unwrap_or(0))
}

fn decode_whole(
    id: &JournalIdentity,
    ring_blocks: u32,
    position: u32,
    payload: &[u8],
    seq: u64,
) -> BlockState {
    let damaged = |what| BlockState::Damaged { sector: 0, what };
    let head = BlockHead::ref_from_bytes(&payload[..128]).expect("a payload has its head");
    if head.magic != MAGIC || !(VERSION_OLDEST..=VERSION).contains(&head.version.get()) {
        return damaged("magic or version");
    }
    let is_ours = head.volume == id.volume.to_bytes()
        && head.epoch.get() == id.epoch.get()
        && head.incarnation.get() == id.writer.incarnation.get()
        && head.node.get() == id.writer.node.get();
    if !is_ours {
        return damaged("volume, epoch or writer");
    }
    if head.position.get() != position || head.ring_blocks.get() != ring_blocks {
        return damaged("own position");
    }
    if seq == 0 {
        return BlockState::Empty;
    }
    let order = BlockOrder {
        seq: head.seq.get(),
        batch_first: head.batch_first.get(),
        batch_last: head.batch_last.get(),
        replay_from: head.replay_from.get(),
    };
    let is_ordered = order.seq == seq
        && seq % u64::from(ring_blocks) == u64::from(position)
        && (order.batch_first..=order.batch_last).contains(&seq)
        && order.replay_from <= order.batch_first;
    if !is_ordered {
        return damaged("sequence numbers");
    }
    match decode_records(payload, usize::from(head.record_count.get())) {
        Some(records) => BlockState::Written(order, LayerId::new(head.layer.get()), records),
        None => damaged("record"),
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::{ExtentAddress, Incarnation, NodeId, SlotPlace};

    use super::*;

    fn identity() -> JournalIdentity {
        JournalIdentity {
            volume: VolumeId::from_u128(7),
            layer: LayerId::new(3),
            epoch: Epoch::new(2),
            writer: NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) },
        }
    }

    fn records(count: usize) -> Vec<Record> {
        let place = SlotPlace::Extent(ExtentAddress::new(1, 99));
        (0..count)
            .map(|n| Record {
                logical: LogicalExtent::new(n as u64),
                place: Place::Slot { place, opaque: false },
                word: 3,
                bits: n as u64,
            })
            .collect()
    }

    fn block(seq: u64, count: usize) -> Vec<u8> {
        let order = BlockOrder { seq, batch_first: seq, batch_last: seq, replay_from: 2 };
        let mut block = vec![0; BLOCK_BYTES as usize];
        encode_records(&identity(), 64, order, &records(count), &mut block);
        block
    }

    #[test]
    fn a_block_is_read_back() {
        for count in [0, 1, RECORDS_PER_BLOCK] {
            let BlockState::Written(order, _, found) =
                decode(&identity(), 64, 5, &block(69, count))
            else {
                panic!("a whole block is written");
            };
            assert_eq!((order.seq, found), (69, records(count)));
        }
    }

    #[test]
    fn every_tear_between_two_writes_is_torn_and_never_damaged() {
        let (old, new) = (block(5, 120), block(69, 120));
        for mask in 1..255_u8 {
            let torn: Vec<u8> = (0..SECTORS)
                .flat_map(|sector| {
                    let from = if mask >> sector & 1 == 1 { &new } else { &old };
                    from[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES].to_vec()
                })
                .collect();
            assert_eq!(decode(&identity(), 64, 5, &torn), BlockState::Torn, "{mask:#b}");
        }
    }

    #[test]
    fn every_flipped_bit_is_damage_and_never_a_tear() {
        let good = block(5, 17);
        for bit in (0..good.len() * 8).step_by(7) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let state = decode(&identity(), 64, 5, &bad);
            assert!(matches!(state, BlockState::Damaged { .. }), "bit {bit}: {state:?}");
        }
    }

    #[test]
    fn a_block_of_another_place_volume_or_epoch_is_damage() {
        let good = block(5, 1);
        let elsewhere = decode(&identity(), 64, 6, &good);
        assert!(matches!(elsewhere, BlockState::Damaged { what: "own position", .. }));
        let other = JournalIdentity { epoch: Epoch::new(3), ..identity() };
        let foreign = decode(&other, 64, 5, &good);
        assert!(matches!(foreign, BlockState::Damaged { .. }));
    }

    #[test]
    fn the_bytes_of_a_block_are_those_of_the_fixture() {
        let at = SlotPlace::Extent(ExtentAddress::new(2, 0x1234));
        let record = |logical, place, word, bits| Record {
            logical: LogicalExtent::new(logical),
            place,
            word,
            bits,
        };
        let records = [
            record(5, Place::Slot { place: at, opaque: false }, 3, 0x00ff_00ff_00ff_00ff),
            record(6, Place::Hole, 0, 0),
            record(7, Place::Slot { place: SlotPlace::Zero, opaque: true }, 0, 0),
        ];
        let order = BlockOrder { seq: 69, batch_first: 68, batch_last: 70, replay_from: 60 };
        let mut block = vec![0; BLOCK_BYTES as usize];
        encode_records(&identity(), 64, order, &records, &mut block);
        crate::golden::assert_golden("journal-block-v2.hex", &block);
        let expected = BlockState::Written(order, identity().layer, records.to_vec());
        for version in ["journal-block-v1.hex", "journal-block-v2.hex"] {
            let old = crate::golden::load(version);
            assert_eq!(decode(&identity(), 64, 5, &old), expected, "{version}");
        }
    }
}
