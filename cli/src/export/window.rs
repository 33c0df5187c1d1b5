//! The unit in which files of bytes are written, checked and gone on with: windows of 8 MiB, in
//! clusters of 64 KiB.
//!
//! - A cluster of a window is data, zeros or not spoken of; data and zeros never overlap.
//! - A cluster that changed in part is data, read whole: nothing is put together here.
//! - Windows are listed in ascending order; one without any cluster is not listed.

use lunar_proto::domain::{DiffKind, DiffRun};
use lunar_types::VolumeSize;

use super::Crc32c;

/// The unit of presence in a file.
pub const CLUSTER_BYTES: u64 = super::qcow2::CLUSTER_BYTES;
/// Clusters of a window: the bits of a mask.
pub const WINDOW_CLUSTERS: u32 = u128::BITS;
/// How much of a volume a window speaks of.
pub const WINDOW_BYTES: u64 = CLUSTER_BYTES * WINDOW_CLUSTERS as u64;

/// What clusters of a window are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clusters {
    /// A bit for each that has data.
    pub data: u128,
    /// A bit for each that is zeros.
    pub zero: u128,
}

/// A window of which something is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Its number; window 0 begins at the first byte of the volume.
    pub index: u64,
    /// What is said.
    pub clusters: Clusters,
}

/// A run of clusters that are alike, clipped at the end of the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The first byte in the volume.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// What is there.
    pub kind: DiffKind,
    begin: u64,
}

impl Span {
    /// Its place in the bytes of its window.
    #[must_use]
    pub fn place(&self) -> std::ops::Range<usize> {
        let begin = usize::try_from(self.offset - self.begin).expect("within a window");
        begin..begin + usize::try_from(self.length).expect("at most a window")
    }
}

/// Runs of ones, as first bit and number of bits.
fn ones(mask: u128) -> impl Iterator<Item = (u32, u32)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = mask.checked_shr(at)?;
        if rest == 0 {
            return None;
        }
        let first = at + rest.trailing_zeros();
        let count = (mask >> first).trailing_ones();
        at = first + count;
        Some((first, count))
    })
}

impl Window {
    /// Its first byte in the volume.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.index * WINDOW_BYTES
    }

    /// Its runs of one kind in a volume of `size`, in order.
    pub fn spans(self, kind: DiffKind, size: VolumeSize) -> impl Iterator<Item = Span> {
        let mask = match kind {
            DiffKind::Data => self.clusters.data,
            DiffKind::Zero => self.clusters.zero,
        };
        let begin = self.start();
        ones(mask).map(move |(first, count)| {
            let offset = begin + u64::from(first) * CLUSTER_BYTES;
            let length = (u64::from(count) * CLUSTER_BYTES).min(size.bytes() - offset);
            Span { offset, length, kind, begin }
        })
    }

    /// All its runs, in the order of their offsets.
    #[must_use]
    pub fn all_spans(self, size: VolumeSize) -> Vec<Span> {
        let data = self.spans(DiffKind::Data, size);
        let mut spans: Vec<_> = data.chain(self.spans(DiffKind::Zero, size)).collect();
        spans.sort_by_key(|span| span.offset);
        spans
    }

    /// How many bytes of data it has.
    #[must_use]
    pub fn data_bytes(self, size: VolumeSize) -> u64 {
        self.spans(DiffKind::Data, size).map(|span| span.length).sum()
    }

    /// CRC32C over its data, of the bytes of the window.
    #[must_use]
    pub fn crc(self, size: VolumeSize, bytes: &[u8]) -> u32 {
        let mut crc = Crc32c::new();
        self.spans(DiffKind::Data, size).for_each(|span| crc.update(&bytes[span.place()]));
        crc.value()
    }

    /// The same window with data that is nothing but zeros told as zeros.
    #[must_use]
    pub fn without_zeros(self, size: VolumeSize, bytes: &[u8]) -> Self {
        let mut clusters = self.clusters;
        for bit in 0..WINDOW_CLUSTERS {
            let one = Clusters { data: self.clusters.data & (1 << bit), zero: 0 };
            let one = Self { index: self.index, clusters: one };
            if one.spans(DiffKind::Data, size).all(|span| is_zero(&bytes[span.place()])) {
                clusters.data &= !(1 << bit);
                clusters.zero |= one.clusters.data;
            }
        }
        Self { index: self.index, clusters }
    }

    /// Whether it can be a window of a volume of `size`; if not, why.
    pub(super) fn check(self, size: VolumeSize) -> Result<(), &'static str> {
        let Clusters { data, zero } = self.clusters;
        let clusters = size.bytes().div_ceil(CLUSTER_BYTES);
        let last = u128::BITS - (data | zero).leading_zeros();
        let first = self.index.checked_mul(u64::from(WINDOW_CLUSTERS));
        if data & zero != 0 {
            Err("a cluster is data and zeros")
        } else if data | zero == 0 {
            Err("a window says nothing")
        } else if first.is_none_or(|first| first.saturating_add(u64::from(last)) > clusters) {
            Err("a window goes beyond the size")
        } else {
            Ok(())
        }
    }
}

/// Whether there is nothing but zeros.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let zeros = |part: &[u8]| part.iter().fold(0, |all, byte| all | byte) == 0;
    bytes.chunks(512).all(zeros)
}

/// The windows that runs of differences touch. `runs` come in order, as a diff lists them.
#[must_use]
pub fn windows_of(runs: &[DiffRun], size: VolumeSize) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for run in runs {
        let mut at = run.offset;
        while at < run.end() {
            let cluster = at / CLUSTER_BYTES;
            let (begin, end) = (cluster * CLUSTER_BYTES, (cluster + 1) * CLUSTER_BYTES);
            let whole = at == begin && run.end() >= end.min(size.bytes());
            let index = cluster / u64::from(WINDOW_CLUSTERS);
            if windows.last().is_none_or(|last| last.index != index) {
                windows.push(Window { index, clusters: Clusters::default() });
            }
            let clusters = &mut windows.last_mut().expect("just made").clusters;
            let bit = 1 << (cluster % u64::from(WINDOW_CLUSTERS));
            match run.kind {
                DiffKind::Zero if whole => clusters.zero |= bit,
                DiffKind::Zero | DiffKind::Data => clusters.data |= bit,
            }
            at = end.min(run.end());
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(bytes: u64) -> VolumeSize {
        VolumeSize::from_bytes(bytes).expect("a size")
    }

    fn run(offset: u64, length: u64, kind: DiffKind) -> DiffRun {
        DiffRun { offset, length, kind }
    }

    #[test]
    fn runs_become_clusters_and_only_whole_ones_are_zeros() {
        let volume = size(2 * WINDOW_BYTES + 4096);
        let runs = [
            run(4096, 4096, DiffKind::Data),
            run(CLUSTER_BYTES, CLUSTER_BYTES, DiffKind::Zero),
            run(3 * CLUSTER_BYTES - 4096, 8192, DiffKind::Zero),
            run(WINDOW_BYTES - 4096, 8192, DiffKind::Data),
            run(2 * WINDOW_BYTES, 4096, DiffKind::Zero),
        ];
        let clusters = |data, zero| Clusters { data, zero };
        let expected = [
            Window { index: 0, clusters: clusters(1 | 4 | 8 | 1 << 127, 2) },
            Window { index: 1, clusters: clusters(1, 0) },
            Window { index: 2, clusters: clusters(0, 1) },
        ];
        assert_eq!(windows_of(&runs, volume), expected);
        assert!(expected.iter().all(|window| window.check(volume).is_ok()));
        assert!(expected[2].check(size(2 * WINDOW_BYTES)).is_err());
        assert_eq!(windows_of(&[], volume), []);
    }

    #[test]
    fn spans_are_in_order_and_end_with_the_volume() {
        let volume = size(WINDOW_BYTES + CLUSTER_BYTES + 4096);
        let window = Window { index: 1, clusters: Clusters { data: 2, zero: 1 } };
        let spans = window.all_spans(volume);
        let found: Vec<_> = spans.iter().map(|it| (it.offset, it.length, it.kind)).collect();
        let second = WINDOW_BYTES + CLUSTER_BYTES;
        let expected =
            [(WINDOW_BYTES, CLUSTER_BYTES, DiffKind::Zero), (second, 4096, DiffKind::Data)];
        assert_eq!(found, expected);
        assert_eq!(spans[1].place(), 65536..69632);
        assert_eq!(window.data_bytes(volume), 4096);
        let all = Window { index: 0, clusters: Clusters { data: u128::MAX, zero: 0 } };
        assert_eq!(all.data_bytes(volume), WINDOW_BYTES);
    }

    #[test]
    fn data_that_is_zeros_is_told_as_zeros() {
        let volume = size(WINDOW_BYTES);
        let window = Window { index: 0, clusters: Clusters { data: 7, zero: 8 } };
        let mut bytes = vec![0; WINDOW_BYTES as usize];
        bytes[2 * CLUSTER_BYTES as usize - 1] = 1;
        let told = window.without_zeros(volume, &bytes);
        assert_eq!(told.clusters, Clusters { data: 2, zero: 1 | 4 | 8 });
        bytes[5 * CLUSTER_BYTES as usize] = 9;
        assert_eq!(told.crc(volume, &bytes), Crc32c::of(&[&bytes[65536..131_072]]));
    }
}
