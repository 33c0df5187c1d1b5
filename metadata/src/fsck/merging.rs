//! Layers that are being merged into the one above them: at each logical extent, what is above is
//! younger than all that is below. Two slots of one birth would be read as one, or in the wrong
//! order.
//!
//! Only slots that came from below can be wrong: the own slots of a layer are younger than
//! everything below it. So those are kept in memory, and the layers below held against them.

use std::collections::BTreeMap;

use lunar_types::{LayerId, LogicalExtent};

use super::inventory::{Inventory, walk};
use super::layers::merges;
use super::report::{Fact, FindingKind, Report};
use crate::error::ServiceError;
use crate::keyspace::{PartKey, SlotKey, parts_of, slots_of};
use crate::store::Txn;

/// Of each logical extent the oldest slot in the layers above, and in which of them it is.
type Oldest = BTreeMap<LogicalExtent, (LayerId, LayerId)>;

pub(super) async fn check<T: Txn>(
    txn: &T,
    all: &Inventory,
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    for run in runs(all) {
        check_run(txn, &run, report).await?;
    }
    Ok(())
}

/// Layers of which each but the first is being merged into the one before it.
fn runs(all: &Inventory) -> Vec<Vec<LayerId>> {
    let below = merges(all);
    let is_top = |layer: &&LayerId| !below.values().any(|merging| merging == *layer);
    let mut runs = Vec::new();
    for top in below.keys().filter(is_top) {
        let mut run = vec![*top];
        // A layer that is not older is reported as such; it would lead in a circle.
        while let Some(next) = run.last().and_then(|last| below.get(last).filter(|it| *it < last)) {
            run.push(*next);
        }
        runs.push(run);
    }
    runs
}

async fn check_run<T: Txn>(
    txn: &T,
    run: &[LayerId],
    report: &mut Report<'_>,
) -> Result<(), ServiceError> {
    let mut oldest = Oldest::new();
    for (index, layer) in run.iter().enumerate() {
        if !oldest.is_empty() {
            walk(txn, slots_of(*layer), |key: SlotKey, _| {
                compare((*layer, key.at, *layer), &oldest, report);
            })
            .await?;
        }
        let mut here = Oldest::new();
        let below = run.get(index + 1);
        walk(txn, parts_of(*layer), |key: PartKey, _| {
            let PartKey { layer, at, birth } = key;
            compare((layer, at, birth), &oldest, report);
            if below.is_some_and(|below| birth <= *below) {
                let kept = here.entry(at).or_insert((birth, layer));
                *kept = (*kept).min((birth, layer));
            }
        })
        .await?;
        for (at, found) in here {
            let kept = oldest.entry(at).or_insert(found);
            *kept = (*kept).min(found);
        }
    }
    Ok(())
}

/// Holds a slot of a layer against what is above it.
fn compare(
    (layer, at, birth): (LayerId, LogicalExtent, LayerId),
    oldest: &Oldest,
    report: &mut Report<'_>,
) {
    let Some((other, above)) = oldest.get(&at).filter(|(other, _)| *other <= birth) else { return };
    let message = format!(
        "at {at}, layer {layer} has a slot from layer {birth}, and layer {above}, into which it is \
         merged, one from layer {other}: what is above must be younger"
    );
    let facts: &[Fact<'_>] =
        &[("layer", &layer), ("logical_extent", &at), ("birth", &birth), ("above", above)];
    report.find(FindingKind::BirthOrder, message, facts);
}
