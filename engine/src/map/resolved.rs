//! The words of a volume: chunks behind a directory, so that a map grows without a copy.
//!
//! Invariants:
//! - a chunk that is there stays where it is for the life of the map, so a reader needs no lock and
//!   no grace period while the map grows;
//! - `extents` never falls, and is raised only when every chunk up to it is there;
//! - words beyond `extents` are holes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use lunar_types::{LogicalExtent, VOLUME_EXTENTS_MAX};

use super::Entry;

/// Words of a chunk: 512 KiB.
const CHUNK: usize = 1 << 16;
/// Chunks of the largest map.
const CHUNKS_MAX: usize = VOLUME_EXTENTS_MAX as usize / CHUNK;

type Chunk = Box<[AtomicU64; CHUNK]>;

/// The volume has too many extents to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a volume of {extents} extents needs more than 1 GiB of map; the limit is \
     {VOLUME_EXTENTS_MAX} extents: use a pool with larger extents"
)]
pub struct ResolvedMapError {
    extents: u64,
}

/// One word for each logical extent of a volume; read without a lock, changed under the volume's.
#[derive(Debug)]
pub struct ResolvedMap {
    directory: Box<[OnceLock<Chunk>; CHUNKS_MAX]>,
    extents: AtomicU64,
}

fn boxed<T, const N: usize>(make: impl Fn() -> T) -> Box<[T; N]> {
    let items: Box<[T]> = (0..N).map(|_| make()).collect();
    items.try_into().ok().expect("it has N items")
}

fn chunk_of_holes() -> Chunk {
    boxed(|| AtomicU64::new(0))
}

impl ResolvedMap {
    /// A map of `extents` holes.
    ///
    /// # Errors
    /// When that is more than a map can have.
    pub fn holes(extents: u64) -> Result<Self, ResolvedMapError> {
        let map = Self { directory: boxed(OnceLock::new), extents: AtomicU64::new(0) };
        map.grow(extents)?;
        Ok(map)
    }

    /// Adds holes up to `extents`, if there are fewer. Readers go on meanwhile.
    ///
    /// # Errors
    /// When that is more than a map can have.
    pub fn grow(&self, extents: u64) -> Result<(), ResolvedMapError> {
        if extents > VOLUME_EXTENTS_MAX {
            return Err(ResolvedMapError { extents });
        }
        for chunk in &self.directory[..(extents as usize).div_ceil(CHUNK)] {
            chunk.get_or_init(chunk_of_holes);
        }
        self.extents.fetch_max(extents, Ordering::AcqRel);
        Ok(())
    }

    /// How many logical extents there are.
    #[must_use]
    pub fn extents(&self) -> u64 {
        self.extents.load(Ordering::Acquire)
    }

    #[inline]
    fn word(&self, logical: LogicalExtent) -> &AtomicU64 {
        let at = logical.get() as usize;
        let chunk = self.directory[at / CHUNK].get();
        &chunk.expect("a request lies within the map")[at % CHUNK]
    }

    /// The entry of a logical extent.
    ///
    /// # Panics
    /// When the map has no chunk of it.
    #[must_use]
    #[inline]
    pub fn load(&self, logical: LogicalExtent) -> Entry {
        Entry::decode(self.word(logical).load(Ordering::Acquire))
    }

    /// Changes an entry; the caller holds the lock of the volume.
    ///
    /// # Panics
    /// When the extent is beyond the map.
    pub fn store(&self, logical: LogicalExtent, entry: Entry) {
        assert!(logical.get() < self.extents(), "an extent beyond the map is never mapped");
        self.word(logical).store(entry.encode(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::ExtentAddress;

    use super::*;
    use crate::map::Generation;

    fn solid(extent: u64) -> Entry {
        Entry::Solid { generation: Generation::new(1), at: ExtentAddress::new(0, extent) }
    }

    #[test]
    fn a_map_beyond_its_memory_is_refused() {
        assert!(ResolvedMap::holes(VOLUME_EXTENTS_MAX + 1).is_err());
        let map = ResolvedMap::holes(3).expect("small");
        assert!(map.grow(VOLUME_EXTENTS_MAX + 1).is_err());
        assert_eq!(map.extents(), 3);
    }

    #[test]
    fn a_map_grows_over_chunks_and_keeps_what_it_has() {
        let chunk = CHUNK as u64;
        let map = ResolvedMap::holes(chunk - 1).expect("small");
        map.store(LogicalExtent::new(chunk - 2), solid(7));
        for extents in [chunk, chunk + 1, 3 * chunk + 5] {
            map.grow(extents).expect("small");
            let last = LogicalExtent::new(map.extents() - 1);
            assert_eq!(map.load(last), Entry::Hole);
            map.store(last, solid(last.get()));
        }
        map.grow(2 * chunk).expect("small");
        assert_eq!(map.extents(), 3 * chunk + 5, "it never shrinks");
        for extent in [chunk - 1, chunk, 3 * chunk + 4] {
            assert_eq!(map.load(LogicalExtent::new(extent)), solid(extent));
        }
        assert_eq!(map.load(LogicalExtent::new(chunk - 2)), solid(7));
    }

    #[test]
    fn a_map_is_read_and_grown_by_two_threads() {
        let map = ResolvedMap::holes(1).expect("small");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for chunks in 1..40 {
                    map.grow(chunks * CHUNK as u64).expect("small");
                    map.store(LogicalExtent::new(chunks * CHUNK as u64 - 1), solid(chunks));
                }
            });
            while map.extents() < 39 * CHUNK as u64 {
                let last = map.extents() - 1;
                let entry = map.load(LogicalExtent::new(last));
                assert!(entry == Entry::Hole || entry == solid((last + 1) / CHUNK as u64));
            }
        });
    }

    #[test]
    #[should_panic(expected = "beyond the map")]
    fn an_extent_beyond_the_map_is_not_mapped() {
        ResolvedMap::holes(3).expect("small").store(LogicalExtent::new(3), solid(1));
    }
}
