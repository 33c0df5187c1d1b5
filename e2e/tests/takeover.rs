//! Two nodes over LUNs with real reservations: each is lost in five ways, over and over, and the
//! other takes its volume over.

mod support;

use lunar_e2e::cluster::{Cluster, ClusterSpec};
use lunar_e2e::takeover::{Fault, Takeover, cycle, make_pool, summary};
use support::{programs, say, setting};

/// Of each fault, unless `LUNAR_FENCE_CYCLES` says otherwise.
const CYCLES: u64 = 5;

#[test]
fn a_volume_of_a_lost_node_is_taken_over_and_nothing_of_it_arrives_later() {
    let spec = ClusterSpec { nodes: 2, luns: 2, programs: programs() };
    let mut cluster = Cluster::start(&spec).unwrap_or_else(|error| panic!("{error}"));
    let takeovers = take_over(&mut cluster, setting("LUNAR_FENCE_CYCLES", CYCLES));
    say(&summary(&takeovers));
    assert!(takeovers.iter().all(|takeover| takeover.stale == 0));
}

fn take_over(cluster: &mut Cluster, cycles: u64) -> Vec<Takeover> {
    let must = |done: Result<Takeover, _>| done.unwrap_or_else(|error| panic!("{error}"));
    make_pool(cluster).unwrap_or_else(|error| panic!("{error}"));
    let faults = (0..cycles).flat_map(|_| Fault::ALL);
    let mut takeovers = Vec::new();
    for (number, fault) in (1..).zip(faults) {
        let takeover = must(cycle(cluster, number, fault));
        say(&format!("cycle {number}, {takeover}"));
        takeovers.push(takeover);
    }
    takeovers
}
