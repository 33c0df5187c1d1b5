//! Cost of the hot path: a look-up in the resolved map, and a whole request on a solid extent.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use lunar_engine::map::{Entry, Generation, ResolvedMap};
use lunar_types::{ExtentAddress, LogicalExtent};

#[path = "../tests/solid/mod.rs"]
mod solid;

/// Visits extents in an order that the prefetcher cannot guess: a full-period congruence.
fn scattered(extent: u64) -> u64 {
    (extent * 5 + 12_345) % solid::EXTENTS
}

fn map_lookup(c: &mut Criterion) {
    let map = ResolvedMap::holes(solid::EXTENTS).expect("small");
    for extent in 0..solid::EXTENTS {
        let (generation, at) = (Generation::new(1), ExtentAddress::new(0, extent));
        map.store(LogicalExtent::new(extent), Entry::Solid { generation, at });
    }
    let mut extent = 0;
    c.bench_function("map lookup, solid extent", |b| {
        b.iter(|| {
            extent = scattered(extent);
            black_box(map.load(LogicalExtent::new(black_box(extent))))
        });
    });
}

fn whole_request(c: &mut Criterion) {
    let mut hits = solid::Hits::new();
    let mut extent = 0;
    c.bench_function("read hit, submit to complete", |b| {
        b.iter(|| {
            extent = scattered(extent);
            hits.read(extent);
        });
    });
    c.bench_function("write hit, submit to complete", |b| {
        b.iter(|| {
            extent = scattered(extent);
            hits.write(extent);
        });
    });
}

criterion_group!(hot_path, map_lookup, whole_request);
criterion_main!(hot_path);
