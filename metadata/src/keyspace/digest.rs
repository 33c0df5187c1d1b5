//! The digest of the slots of a layer: what finds a slot that decodes and is wrong.
//!
//! It is the wrapping sum over the hashes of all slots, so that a transaction changes it by what it
//! writes, in any order. The hash of a slot is FNV-1a, 64 bits, over the bytes of its key and then
//! of its value, and after that the finalizer of MurmurHash3 (`fmix64`), without which sums of
//! similar slots would differ in few bits. It finds accidents, not an adversary.

use super::encoding::{DecodeError, Field, Record as _};
use super::keys::Key;

/// The sum over the slots of one table and layer. Of no slot it is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct SlotDigest(u64);

impl SlotDigest {
    /// The sum with one slot more.
    #[must_use]
    pub fn with<K: Key>(self, key: &K, value: &K::Value) -> Self {
        Self(self.0.wrapping_add(hash(key, value)))
    }

    /// The sum with one slot less.
    #[must_use]
    pub fn without<K: Key>(self, key: &K, value: &K::Value) -> Self {
        Self(self.0.wrapping_sub(hash(key, value)))
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
}

fn hash<K: Key>(key: &K, value: &K::Value) -> u64 {
    hash_bytes(key.pack().into_iter().chain(value.encode()))
}

/// The hash of some bytes, as of a slot.
pub(crate) fn hash_bytes(bytes: impl Iterator<Item = u8>) -> u64 {
    let fnv = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    let mixed = (fnv ^ fnv >> 33).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    mixed ^ mixed >> 33
}

impl Field for SlotDigest {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        u64::take(input).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::{ExtentAddress, ExtentSize, LayerId, LogicalExtent, Slot};

    use super::super::keys::SlotKey;
    use super::super::slot_value::SlotValue;
    use super::*;

    fn slot(at: u64) -> (SlotKey, SlotValue) {
        let slot = Slot::fresh(ExtentAddress::new(0, at), ExtentSize::DEFAULT);
        (SlotKey { layer: LayerId::new(1), at: LogicalExtent::new(at) }, SlotValue(slot))
    }

    #[test]
    fn the_digest_depends_on_the_slots_and_not_on_their_order() {
        let (a, b) = (slot(1), slot(2));
        let none = SlotDigest::default();
        let both = none.with(&a.0, &a.1).with(&b.0, &b.1);
        assert_eq!(both, none.with(&b.0, &b.1).with(&a.0, &a.1));
        assert_eq!(both.without(&a.0, &a.1), none.with(&b.0, &b.1));
        assert_eq!(both.without(&a.0, &a.1).without(&b.0, &b.1), none);
        assert_ne!(none.with(&a.0, &a.1), none.with(&a.0, &b.1));
        assert_ne!(none.with(&a.0, &a.1), none.with(&b.0, &a.1));
    }

    #[test]
    fn the_hash_of_a_slot_is_fixed() {
        let (key, value) = slot(1);
        assert_eq!(key.pack(), [0x15, 0x18, 0x15, 1, 0x15, 1]);
        assert_eq!(value.encode(), [1, 8, 8, 0, 0, 1, 0, 0, 0, 0]);
        let digest = SlotDigest::default().with(&key, &value);
        assert_eq!(digest.get(), 0x56D9_DB80_ADBF_8540);
    }
}
