//! Two nodes over LUNs with real reservations: each is lost in five ways, over and over, and the
//! other takes its volume over.

mod support;

use lunar_e2e::cluster::{Cluster, ClusterSpec};
use lunar_e2e::takeover::{make_pool, summary, take_over_and_over};
use support::{programs, say, setting};

/// Of each fault, unless `LUNAR_FENCE_CYCLES` says otherwise.
const CYCLES: u64 = 5;

#[test]
fn a_volume_of_a_lost_node_is_taken_over_and_nothing_of_it_arrives_later() {
    let spec = ClusterSpec { nodes: 2, luns: 2, cpus: 1, paths: 1, programs: programs() };
    let mut cluster = Cluster::start(&spec).unwrap_or_else(|error| panic!("{error}"));
    make_pool(&cluster).unwrap_or_else(|error| panic!("{error}"));
    let cycles = setting("LUNAR_FENCE_CYCLES", CYCLES);
    let takeovers = take_over_and_over(&mut cluster, cycles, &mut say);
    let takeovers = takeovers.unwrap_or_else(|error| panic!("{error}"));
    say(&summary(&takeovers));
    assert_eq!(takeovers.len() as u64, cycles * 5);
    assert!(takeovers.iter().all(|takeover| takeover.stale == 0));
}
