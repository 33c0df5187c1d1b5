//! Where a volume can be used: on every node of the cluster whose LUNs it is on, and nowhere else.
//!
//! There is one segment, the cluster. What asks for anything else cannot be met, and is refused.

use lunar_proto::csi::{Topology, TopologyRequirement};
use lunar_types::ClusterId;

use crate::errors::CsiError;

/// The segment that nodes tell.
pub const CLUSTER_KEY: &str = "csi.lunar.storage/cluster";

/// Where every node of a cluster is.
#[must_use]
pub fn of_cluster(cluster: ClusterId) -> Topology {
    let segments = [(CLUSTER_KEY.to_owned(), cluster.to_string())].into_iter().collect();
    Topology { segments }
}

/// Whether all nodes of a cluster are there.
#[must_use]
pub fn is_met(topology: &Topology, cluster: ClusterId) -> bool {
    let cluster = cluster.to_string();
    topology.segments.iter().all(|(key, value)| key == CLUSTER_KEY && *value == cluster)
}

/// Refuses a requirement of which nothing can be met.
///
/// # Errors
/// A volume of this cluster would be nowhere where it has to be.
pub fn require(requirement: &TopologyRequirement, cluster: ClusterId) -> Result<(), CsiError> {
    let TopologyRequirement { requisite, preferred } = requirement;
    let asked = if requisite.is_empty() { preferred } else { requisite };
    if asked.is_empty() || asked.iter().any(|topology| is_met(topology, cluster)) {
        return Ok(());
    }
    Err(CsiError::exhausted(format!(
        "accessibility_requirements cannot be met: a volume is on every node with \
         {CLUSTER_KEY}={cluster}, and nowhere else"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: ClusterId = ClusterId::from_u128(1);

    fn topology(segments: &[(&str, &str)]) -> Topology {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Topology { segments: segments.iter().map(owned).collect() }
    }

    #[test]
    fn one_topology_that_can_be_met_is_enough_and_none_is_refused() {
        let here = of_cluster(HERE);
        let there = of_cluster(ClusterId::from_u128(2));
        let zone = topology(&[("topology.kubernetes.io/zone", "a")]);
        let both = topology(&[(CLUSTER_KEY, &HERE.to_string()), ("zone", "a")]);
        let of = |requisite: &[&Topology], preferred: &[&Topology]| {
            let owned = |all: &[&Topology]| all.iter().map(|it| (*it).clone()).collect();
            let (requisite, preferred) = (owned(requisite), owned(preferred));
            require(&TopologyRequirement { requisite, preferred }, HERE).is_ok()
        };
        assert!(of(&[], &[]) && of(&[&here], &[]) && of(&[&zone, &here], &[]));
        assert!(of(&[&here], &[&zone]) && of(&[], &[&here]) && of(&[&topology(&[])], &[]));
        assert!(!of(&[&there], &[]) && !of(&[&zone], &[&here]) && !of(&[&both], &[]));
        assert!(!of(&[], &[&zone]));
    }
}
