//! The value of a slot: place, flags, and the presence bitmap without its dull words.
//!
//! Layout after the version byte:
//! - flags: bit 0 ZERO place, bit 1 opaque, bit 2 full, bit 3 empty; full and empty exclude each
//!   other, and then nothing of the bitmap follows;
//! - log2 of the blocks of the extent: 4 to 12;
//! - unless ZERO: LUN index (2 bytes) and position (5 bytes);
//! - if neither full nor empty: two bits a word, the first word in the lowest bits of the first
//!   byte: 0 no bit set, 1 all 64 set, 2 mixed; then 8 bytes for each mixed word.

use lunar_types::{BLOCK_SHIFT, ExtentAddress, ExtentSize, Presence, Slot, SlotPlace};

use super::encoding::{DecodeError, Field, Record, invalid, take_bytes};

const ZERO: u8 = 1;
const OPAQUE: u8 = 2;
const FULL: u8 = 4;
const EMPTY: u8 = 8;
const ALL_FLAGS: u8 = ZERO | OPAQUE | FULL | EMPTY;

/// A slot as it is stored. It can say what must not be (presence on ZERO), so that the check of
/// the store can find it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotValue(pub Slot);

fn presence_flags(presence: &Presence) -> u8 {
    if presence.is_empty() {
        EMPTY
    } else if presence.is_full() {
        FULL
    } else {
        0
    }
}

const fn word_kind(word: u64) -> u8 {
    match word {
        0 => 0,
        u64::MAX => 1,
        _ => 2,
    }
}

fn put_words(words: &[u64], out: &mut Vec<u8>) {
    for four in words.chunks(4) {
        let kinds = four.iter().rev().fold(0, |kinds, word| kinds << 2 | word_kind(*word));
        out.push(kinds);
    }
    for word in words.iter().filter(|word| word_kind(**word) == 2) {
        word.put(out);
    }
}

fn take_words(size: ExtentSize, input: &mut &[u8]) -> Result<Presence, DecodeError> {
    let count = Presence::word_count(size);
    let kinds = take_bytes(input, count.div_ceil(4), "presence kinds")?;
    let mut words = Vec::with_capacity(count);
    for index in 0..count {
        let word = match kinds[index / 4] >> (index % 4 * 2) & 3 {
            0 => 0,
            1 => u64::MAX,
            2 => u64::take(input)?,
            other => return Err(invalid("presence kind", other)),
        };
        words.push(word);
    }
    Presence::from_words(size, &words).ok_or_else(|| invalid("presence", "beyond the extent"))
}

impl Record for SlotValue {
    const NAME: &'static str = "slot";

    fn put_fields(&self, out: &mut Vec<u8>) {
        let Self(slot) = self;
        let zero = if slot.place == SlotPlace::Zero { ZERO } else { 0 };
        let opaque = if slot.opaque { OPAQUE } else { 0 };
        let presence = presence_flags(&slot.presence);
        out.push(zero | opaque | presence);
        let shift = slot.presence.block_count().ilog2();
        out.push(u8::try_from(shift).expect("an extent has at most 4,096 blocks"));
        if let SlotPlace::Extent(at) = slot.place {
            at.put(out);
        }
        if presence == 0 {
            put_words(slot.presence.words(), out);
        }
    }

    fn take_fields(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let flags = u8::take(input)?;
        if flags & !ALL_FLAGS != 0 || flags & (FULL | EMPTY) == FULL | EMPTY {
            return Err(invalid("slot flags", format_args!("{flags:#x}")));
        }
        let shift = u8::take(input)?;
        let bytes = 1_u64.checked_shl(u32::from(shift) + BLOCK_SHIFT).unwrap_or(0);
        let size = ExtentSize::from_bytes(bytes)
            .map_err(|_| invalid("slot blocks", format_args!("2^{shift}")))?;
        let place = if flags & ZERO != 0 {
            SlotPlace::Zero
        } else {
            SlotPlace::Extent(ExtentAddress::take(input)?)
        };
        let presence = match flags & (FULL | EMPTY) {
            FULL => Presence::full(size),
            EMPTY => Presence::empty(size),
            _ => take_words(size, input)?,
        };
        Ok(Self(Slot { place, opaque: flags & OPAQUE != 0, presence }))
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::BlockRange;
    use proptest::prelude::*;

    use super::*;

    fn arbitrary_slot() -> impl Strategy<Value = Slot> {
        let ranges = prop::collection::vec((any::<u16>(), any::<u16>()), 0..6);
        (16..=24_u32, 0..1024_u16, 0..1_u64 << 36, any::<bool>(), ranges).prop_map(
            |(shift, lun, extent, opaque, ranges)| {
                let size = ExtentSize::from_bytes(1 << shift).expect("in range");
                let mut slot = Slot::fresh(ExtentAddress::new(lun, extent), size);
                slot.opaque = opaque;
                for (first, count) in ranges {
                    let first = u32::from(first) % size.blocks();
                    let most = size.blocks() - first;
                    slot.presence.insert(BlockRange::new(first, u32::from(count) % most + 1));
                }
                slot
            },
        )
    }

    proptest! {
        #[test]
        fn a_slot_survives_and_stays_small(slot in arbitrary_slot()) {
            let bytes = SlotValue(slot.clone()).encode();
            prop_assert!(bytes.len() <= 10 + 16 + 512);
            let decoded = SlotValue::decode(&bytes);
            prop_assert_eq!(decoded.as_ref().map(|value| &value.0), Ok(&slot));
            prop_assert_eq!(decoded.expect("decoded").encode(), bytes);
        }

        #[test]
        fn damaged_bytes_never_panic_and_never_decode_twice(
            slot in arbitrary_slot(), at in any::<usize>(), bit in 0..8_u8, cut in any::<usize>()
        ) {
            let mut bytes = SlotValue(slot).encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(other) = SlotValue::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes.clone());
            }
            bytes.truncate(cut % bytes.len());
            if let Ok(other) = SlotValue::decode(&bytes) {
                prop_assert_eq!(other.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_solid_slot_takes_ten_bytes() {
        let size = ExtentSize::DEFAULT;
        let mut slot = Slot::fresh(ExtentAddress::new(3, 5), size);
        slot.presence = Presence::full(size);
        assert_eq!(SlotValue(slot).encode(), [1, FULL, 8, 3, 0, 5, 0, 0, 0, 0]);
    }
}
