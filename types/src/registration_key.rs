//! The key under which an incarnation registers at a LUN: whoever reads a LUN's keys knows whose
//! they are.

use std::fmt;

use crate::{ClusterId, Incarnation, NodeId, NodeIncarnation};

/// What tells the keys of one cluster from those of others at the same array; never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterTag(u16);

impl ClusterTag {
    /// The tag of a cluster: the exclusive or of the eight 16-bit words of its id. A sum of 0 is
    /// taken for 1.
    #[must_use]
    pub fn of(cluster: ClusterId) -> Self {
        let word = |at: u32| (cluster.as_u128() >> (16 * at)) as u16;
        let folded = (0..8).fold(0, |folded, at| folded ^ word(at));
        Self(if folded == 0 { 1 } else { folded })
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A key of Lunar: tag of the cluster (16 bits), node (16), incarnation (32). Never 0, which an
/// array takes for none, or for all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistrationKey(u64);

impl RegistrationKey {
    /// The key of an incarnation.
    #[must_use]
    pub fn of(cluster: ClusterId, node: NodeIncarnation) -> Self {
        let tag = u64::from(ClusterTag::of(cluster).get());
        let (id, incarnation) = (u64::from(node.node.get()), u64::from(node.incarnation.get()));
        Self(tag << 48 | id << 32 | incarnation)
    }

    /// As it goes to the array.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The tag of its cluster.
    #[must_use]
    pub const fn tag(self) -> ClusterTag {
        ClusterTag((self.0 >> 48) as u16)
    }

    /// Whose key this is, if it has this cluster's tag and can be a key of Lunar.
    #[must_use]
    pub fn owner(raw: u64, tag: ClusterTag) -> Option<NodeIncarnation> {
        let (node, incarnation) = ((raw >> 32) as u16, raw as u32);
        let is_ours = (raw >> 48) as u16 == tag.get() && node > 0 && incarnation > 0;
        is_ours.then(|| NodeIncarnation {
            node: NodeId::new(node),
            incarnation: Incarnation::new(incarnation),
        })
    }
}

impl fmt::Display for RegistrationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl fmt::Debug for RegistrationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId::from_u128(0x1111_2222_0004_0008_0010_0020_0040_0080);

    fn node(node: u16, incarnation: u32) -> NodeIncarnation {
        NodeIncarnation { node: NodeId::new(node), incarnation: Incarnation::new(incarnation) }
    }

    #[test]
    fn a_key_says_whose_it_is() {
        let key = RegistrationKey::of(CLUSTER, node(3, 0x0102_0304));
        assert_eq!(key.to_string(), "0x33cf000301020304");
        let tag = ClusterTag::of(CLUSTER);
        assert_eq!(key.tag(), tag);
        assert_eq!(RegistrationKey::owner(key.raw(), tag), Some(node(3, 0x0102_0304)));
        let most = RegistrationKey::of(CLUSTER, node(u16::MAX, u32::MAX));
        assert_eq!(RegistrationKey::owner(most.raw(), tag), Some(node(u16::MAX, u32::MAX)));
    }

    #[test]
    fn no_cluster_has_the_tag_0() {
        for cluster in [0, 0xFFFF_FFFF, u128::MAX] {
            assert_eq!(ClusterTag::of(ClusterId::from_u128(cluster)).get(), 1);
        }
    }

    #[test]
    fn what_is_no_key_of_this_cluster_has_no_owner() {
        let tag = ClusterTag::of(CLUSTER);
        let ours = RegistrationKey::of(CLUSTER, node(3, 1)).raw();
        for foreign in [0, 1, ours ^ 1 << 60, ours & !0xFFFF_FFFF, ours & !(0xFFFF << 32)] {
            assert_eq!(RegistrationKey::owner(foreign, tag), None, "{foreign:#x}");
        }
    }
}
