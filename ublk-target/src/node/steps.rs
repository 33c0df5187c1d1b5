//! Says what a change waits for, when it takes long.
//!
//! The kernel, the array and the metadata service may each take their time, and a volume that does
//! not come up must not leave the operator guessing which of them it is.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// What takes longer is said, and said again as often.
const SLOW: Duration = Duration::from_secs(10);

/// Runs a step of a change to a volume.
pub(super) async fn watched<T>(
    volume: &str,
    step: &'static str,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    let began = Instant::now();
    loop {
        if let Ok(done) = timeout(SLOW, &mut work).await {
            if began.elapsed() >= SLOW {
                info!(volume, step, seconds = began.elapsed().as_secs(), "a slow step has ended");
            }
            return done;
        }
        warn!(volume, step, seconds = began.elapsed().as_secs(), "a step takes long");
    }
}
