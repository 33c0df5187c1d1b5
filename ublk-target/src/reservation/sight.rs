//! What the keys and the reservation of a LUN mean for an incarnation.

use lunar_types::{NodeIncarnation, RegistrationKey};

use super::{Kind, Reservation};

/// What a LUN shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// One for each path that has registered one.
    pub keys: Vec<u64>,
    /// Read after the keys.
    pub reservation: Option<Reservation>,
    /// From this host.
    pub paths: u32,
}

/// What keeps an incarnation from using a LUN, the most serious first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Keys that are not this cluster's.
    ForeignKeys(Vec<u64>),
    /// A reservation of another kind.
    ForeignReservation(Reservation),
    /// The own key is not on every path.
    PathsUnregistered {
        /// Paths with the own key.
        registered: u32,
        /// Paths there are.
        paths: u32,
    },
    /// Nothing is reserved: anybody may write.
    Unprotected,
    /// Nothing keeps it.
    Ready,
}

impl Sight {
    /// Paths on which a key is registered.
    #[must_use]
    pub fn count(&self, key: RegistrationKey) -> u32 {
        let count = self.keys.iter().filter(|one| **one == key.raw()).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// What keeps the owner of this key from using the LUN.
    #[must_use]
    pub fn finding(&self, own: RegistrationKey) -> Finding {
        let is_foreign = |key: &&u64| RegistrationKey::owner(**key, own.tag()).is_none();
        let foreign: Vec<u64> = self.keys.iter().filter(is_foreign).copied().collect();
        if !foreign.is_empty() {
            return Finding::ForeignKeys(foreign);
        }
        self.standing(own)
    }

    /// The same, but for keys of others: who has joined goes on beside them.
    #[must_use]
    pub fn standing(&self, own: RegistrationKey) -> Finding {
        match self.reservation {
            Some(held) if held.kind != Kind::WriteExclusiveAllRegistrants => {
                return Finding::ForeignReservation(held);
            }
            _ => {}
        }
        let (registered, paths) = (self.count(own), self.paths);
        // More keys than paths: a path of before is gone, and its key stays for whoever fences.
        if registered < paths || registered == 0 {
            return Finding::PathsUnregistered { registered, paths };
        }
        if self.reservation.is_none() { Finding::Unprotected } else { Finding::Ready }
    }

    /// The other incarnations of this cluster whose keys are there, each once.
    #[must_use]
    pub fn others(&self, own: RegistrationKey) -> Vec<NodeIncarnation> {
        let others = self.keys.iter().filter(|key| **key != own.raw());
        let mut owners: Vec<_> =
            others.filter_map(|key| RegistrationKey::owner(*key, own.tag())).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::{ClusterId, Incarnation, NodeId};

    use super::*;

    const CLUSTER: ClusterId = ClusterId::from_u128(77);

    fn node(node: u16, incarnation: u32) -> NodeIncarnation {
        NodeIncarnation { node: NodeId::new(node), incarnation: Incarnation::new(incarnation) }
    }

    fn key(of: NodeIncarnation) -> RegistrationKey {
        RegistrationKey::of(CLUSTER, of)
    }

    #[test]
    fn each_thing_that_a_lun_can_show_has_its_finding() {
        let own = key(node(1, 2));
        let (ours, other, foreign) = (own.raw(), key(node(2, 1)).raw(), 0xABCD_0000_0000_0001);
        let held = Reservation { kind: Kind::WriteExclusiveAllRegistrants, key: ours };
        let alien = Reservation { kind: Kind::Other(3), key: 5 };
        let unregistered = |registered, paths| Finding::PathsUnregistered { registered, paths };
        for (keys, reservation, paths, finding) in [
            (vec![ours], Some(held), 1, Finding::Ready),
            (vec![other, ours, ours], Some(held), 2, Finding::Ready),
            (vec![ours, ours], Some(held), 1, Finding::Ready),
            (vec![ours], None, 1, Finding::Unprotected),
            (vec![ours], Some(held), 2, unregistered(1, 2)),
            (vec![other], Some(held), 1, unregistered(0, 1)),
            (vec![], None, 1, unregistered(0, 1)),
            (vec![], None, 0, unregistered(0, 0)),
            (vec![ours], Some(alien), 1, Finding::ForeignReservation(alien)),
            (vec![foreign, ours], Some(held), 1, Finding::ForeignKeys(vec![foreign])),
            (vec![0, ours], Some(alien), 1, Finding::ForeignKeys(vec![0])),
        ] {
            let sight = Sight { keys, reservation, paths };
            assert_eq!(sight.finding(own), finding, "{sight:?}");
        }
    }

    #[test]
    fn the_others_are_named_once() {
        let own = key(node(1, 2));
        let keys = [node(2, 1), node(1, 1), node(2, 1), node(1, 2)].map(|of| key(of).raw());
        let sight = Sight { keys: [&keys[..], &[9]].concat(), reservation: None, paths: 1 };
        assert_eq!(sight.others(own), [node(1, 1), node(2, 1)]);
    }
}
