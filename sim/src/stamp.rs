//! What the 512 bytes of a sector say of their origin.
//!
//! Every sector that is written carries which volume, which sector of it, and which write; every
//! sector of a LUN that was never written carries that an earlier tenant left it there. So a
//! sector that shows up at the wrong place names itself.
//!
//! Shape: 64-bit little-endian words: magic, sector, volume and write (or LUN), then words that
//! follow from these three; a sector with one strange bit in them is [`Stamp::Unknown`].

/// The unit of stamps, in bytes.
pub const SECTOR_BYTES: usize = 512;
const WORDS: usize = SECTOR_BYTES / 8;
const WRITTEN: u64 = u64::from_le_bytes(*b"SimWrite");
const TENANT: u64 = u64::from_le_bytes(*b"Tenant!!");

/// Where the bytes of a sector come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    /// All bytes are zero.
    Zeros,
    /// A write of a guest.
    Written {
        /// The volume; never given again.
        volume: u32,
        /// The sector of the volume.
        sector: u64,
        /// Which write.
        write: u32,
    },
    /// What was on the LUN before.
    Tenant {
        /// The LUN.
        lun: u16,
        /// The sector of the LUN.
        sector: u64,
    },
    /// Nothing that was ever written as a whole.
    Unknown,
}

const fn mix(seed: u64) -> u64 {
    let x = (seed ^ (seed >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    (x ^ (x >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d) | 1
}

fn head(stamp: Stamp) -> Option<[u64; 3]> {
    match stamp {
        Stamp::Written { volume, sector, write } => {
            Some([WRITTEN, sector, u64::from(volume) << 32 | u64::from(write)])
        }
        Stamp::Tenant { lun, sector } => Some([TENANT, sector, u64::from(lun)]),
        Stamp::Zeros | Stamp::Unknown => None,
    }
}

/// The words that follow from a head.
fn words(head: [u64; 3]) -> [u64; WORDS] {
    let base = mix(head[0] ^ head[1].rotate_left(20) ^ head[2].rotate_left(40));
    let mut words = [0; WORDS];
    for (index, word) in words.iter_mut().enumerate() {
        *word = head.get(index).copied().unwrap_or_else(|| base.wrapping_mul(index as u64));
    }
    words
}

impl Stamp {
    /// Writes the stamp over a sector.
    ///
    /// # Panics
    /// For [`Stamp::Unknown`], which is no content.
    pub fn fill(self, sector: &mut [u8]) {
        assert_eq!(sector.len(), SECTOR_BYTES, "a stamp fills one sector");
        assert_ne!(self, Self::Unknown, "only known content is written");
        match head(self) {
            None => sector.fill(0),
            Some(head) => {
                for (word, bytes) in words(head).iter().zip(sector.chunks_exact_mut(8)) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }

    /// What a sector says.
    #[must_use]
    pub fn read(sector: &[u8]) -> Self {
        let mut found = [0; WORDS];
        for (word, bytes) in found.iter_mut().zip(sector.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
        let [magic, sector, facts, ..] = found;
        let stamp = match magic {
            0 => return if found == [0; WORDS] { Self::Zeros } else { Self::Unknown },
            WRITTEN => Self::Written { volume: (facts >> 32) as u32, sector, write: facts as u32 },
            TENANT => Self::Tenant { lun: facts as u16, sector },
            _ => return Self::Unknown,
        };
        if found == words([magic, sector, facts]) { stamp } else { Self::Unknown }
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Zeros => f.write_str("zeros"),
            Self::Written { volume, sector, write } => {
                write!(f, "write #{write} to sector {sector} of volume v{volume}")
            }
            Self::Tenant { lun, sector } => {
                write!(f, "an earlier tenant's sector {sector} of LUN {lun}")
            }
            Self::Unknown => f.write_str("bytes that nobody wrote"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_a_changed_byte_is_noticed() {
        for stamp in [
            Stamp::Zeros,
            Stamp::Written { volume: 7, sector: 99, write: 12_345 },
            Stamp::Tenant { lun: 3, sector: 1 << 40 },
        ] {
            let mut sector = [1; SECTOR_BYTES];
            stamp.fill(&mut sector);
            assert_eq!(Stamp::read(&sector), stamp);
            for at in [0, 9, 17, 30, 511] {
                let mut other = sector;
                other[at] ^= 0x10;
                assert_ne!(Stamp::read(&other), stamp, "byte {at}");
            }
        }
    }
}
