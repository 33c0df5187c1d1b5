//! Differences of snapshots, and figures of space.

use super::*;

fn page() -> DiffPage {
    let data = DiffRun { offset: 4096, length: 8192, kind: DiffKind::Data };
    let zero = DiffRun { offset: 12_288, length: 4096, kind: DiffKind::Zero };
    DiffPage { runs: vec![data, zero], next: Some(1 << 20) }
}

#[test]
fn differences_survive_the_wire() {
    let to = Selector::Id(SnapshotId::from_u128(14));
    for from in [None, Some(Selector::Name("monday".parse().expect("a name")))] {
        let to = to.clone();
        survives::<_, v1::DiffSnapshotsRequest>(DiffSnapshots { from, to, start: 77 });
    }
    survives::<_, v1::DiffSnapshotsResponse>(page());
    survives::<_, v1::DiffSnapshotsResponse>(DiffPage { runs: vec![], next: None });
}

#[test]
fn runs_out_of_order_are_refused() {
    let wire = v1::DiffSnapshotsResponse::from(page());
    let length = "runs[0].length_bytes";
    assert_eq!(bad_field::<_, DiffPage>(&wire, |w| w.runs[0].length_bytes = 0), length);
    assert_eq!(bad_field::<_, DiffPage>(&wire, |w| w.runs[0].offset_bytes = u64::MAX), length);
    assert_eq!(bad_field::<_, DiffPage>(&wire, |w| w.runs[1].kind = 0), "runs[1].kind");
    let overlap = bad_field::<_, DiffPage>(&wire, |w| w.runs[1].offset_bytes = 8192);
    assert_eq!(overlap, "runs[1].offset_bytes");
    assert_eq!(bad_field::<_, DiffPage>(&wire, |w| w.next_bytes = 16_383), "next_bytes");
}

#[test]
fn only_a_run_of_the_same_kind_that_goes_on_is_joined() {
    let DiffPage { runs, .. } = page();
    let mut run = runs[0];
    assert!(!run.join(runs[1]), "of another kind");
    assert!(!run.join(DiffRun { offset: 16_384, ..run }), "not where it ends");
    assert!(run.join(DiffRun { offset: 12_288, ..run }));
    assert_eq!(run, DiffRun { offset: 4096, length: 16_384, kind: DiffKind::Data });
}

#[test]
fn figures_of_space_survive_the_wire() {
    let by_name = Selector::Name("db".parse().expect("a name"));
    survives::<_, v1::GetUsageRequest>(UsageOf::Volume(by_name));
    let by_id = Selector::Id(SnapshotId::from_u128(14));
    survives::<_, v1::GetUsageRequest>(UsageOf::Snapshot(by_id));
    let usage = Usage {
        extent_size: ExtentSize::DEFAULT,
        owned_extents: 3,
        unique_extents: 2,
        reclaimable_extents: 4,
        referenced_extents: 7,
        is_approximate: true,
    };
    survives::<_, v1::Usage>(usage);
    assert_eq!(usage.shared_extents(), 5);
    let wire = v1::Usage::from(usage);
    assert_eq!(bad_field::<_, Usage>(&wire, |w| w.unique_extents = 8), "unique_extents");
    let less = bad_field::<_, Usage>(&wire, |w| w.reclaimable_extents = 1);
    assert_eq!(less, "reclaimable_extents");
    assert!(UsageOf::try_from(v1::GetUsageRequest { of: None }).is_err());
}
