//! Steps of long operations, one after the other, for as long as the service runs; and the log of
//! pools that cross a watermark.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::error::chain;
use crate::seams::block_on;
use crate::service::{Crossing, Service, Step};
use crate::store::RedbStore;

/// How long the loop rests when there is nothing to do or a step has failed.
const REST: Duration = Duration::from_secs(1);

/// The store refuses everything: the process must end, and its next start recovers.
#[derive(Debug, thiserror::Error)]
#[error(
    "a commit failed ({why}): what is in memory may not be what is on the disk. Make room or \
     repair the disk, then start the service again"
)]
pub struct StoreFailure {
    why: String,
}

/// Looks at the clock for as long as the service runs, apart from the steps: one that takes long is
/// no time in which nobody was heard.
async fn watch_clock(service: Arc<Service<RedbStore>>) -> Infallible {
    loop {
        service.look_at_clock();
        tokio::time::sleep(REST).await;
    }
}

/// Steps operations until the store fails; `work` wakes it early. It never ends otherwise: drop
/// the future to stop it between two steps.
pub async fn run_operations(service: Arc<Service<RedbStore>>, work: Arc<Notify>) -> StoreFailure {
    let clock = watch_clock(Arc::clone(&service));
    tokio::select! {
        failure = step_operations(service, work) => failure,
        never = clock => match never {},
    }
}

async fn step_operations(service: Arc<Service<RedbStore>>, work: Arc<Notify>) -> StoreFailure {
    loop {
        if let Some(why) = service.store().failure() {
            error!(%why, "the store has failed");
            return StoreFailure { why: why.to_owned() };
        }
        watch_watermarks(&service).await;
        let stepping = Arc::clone(&service);
        let step = tokio::task::spawn_blocking(move || block_on(stepping.step_operations()));
        match step.await {
            Ok(Ok(Step::Worked)) => continue,
            Ok(Ok(Step::Idle)) => {}
            Ok(Err(error)) => warn!("background work was left out: {}", chain(&error)),
            Err(panic) => warn!(%panic, "an operation step broke an assertion"),
        }
        let _woken_or_rested = tokio::time::timeout(REST, work.notified()).await;
    }
}

/// Says which pools have crossed a watermark, if it is time to look.
async fn watch_watermarks(service: &Arc<Service<RedbStore>>) {
    let watching = Arc::clone(service);
    let look = tokio::task::spawn_blocking(move || block_on(watching.watch_watermarks()));
    match look.await {
        Ok(Ok(crossings)) => crossings.iter().for_each(tell),
        Ok(Err(error)) => warn!("pools could not be counted: {}", chain(&error)),
        Err(panic) => warn!(%panic, "counting pools broke an assertion"),
    }
}

fn tell(crossing: &Crossing) {
    let Crossing { pool, name, from, to, fill } = crossing;
    let used = fill.percent();
    if to > from {
        warn!(
            %pool, pool_name = %name, used_percent = used, %from, %to,
            "the pool has reached its {to} watermark: delete snapshots or volumes, or add a LUN"
        );
    } else {
        info!(
            %pool, pool_name = %name, used_percent = used, %from, %to,
            "the pool has gone below its {from} watermark"
        );
    }
}
