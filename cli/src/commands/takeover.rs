//! Attaching what somebody else holds: by waiting for the fence of the holder, or by asking for it;
//! and what a person has to know of a pool whose nodes are not fenced by the array.

use std::future::Future;
use std::io::{self, Write};
use std::time::Duration;

use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::{FenceNode, Selector};
use lunar_proto::v1;
use lunar_types::{Name, PoolId, VolumeId};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Context;
use crate::args::OutputFormat;
use crate::error::CliError;
use crate::progress::Waiting;

/// Between two tries.
const RETRY: Duration = Duration::from_secs(1);
/// How long a holder that was asked to be fenced is waited for: the worst takeover of the design.
const FORCED: Duration = Duration::from_secs(90);

/// How a volume is attached that somebody else holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Takeover {
    /// Whether the holder is to be fenced.
    pub(super) force: bool,
    /// How long to try.
    pub(super) wait: Option<Duration>,
}

impl Takeover {
    fn limit(self) -> Duration {
        self.wait.unwrap_or(if self.force { FORCED } else { Duration::ZERO })
    }
}

/// Attaches, again and again while somebody else holds the volume and there is time.
pub(super) async fn attached<F, Fut>(
    context: &Context<'_>,
    volume: &Selector<VolumeId>,
    takeover: Takeover,
    waiting: &Waiting,
    attach: F,
) -> Result<v1::LocalAttachment, CliError>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<v1::LocalAttachment, CliError>>,
{
    let (begun, mut to_fence) = (Instant::now(), takeover.force);
    loop {
        let refused = match attach().await {
            Err(error) if error.reason == "VOLUME_ATTACHED" => error,
            other => return other,
        };
        if begun.elapsed() >= takeover.limit() {
            return Err(refused);
        }
        let holder = refused.facts.get("node_name").cloned().unwrap_or_default();
        if std::mem::take(&mut to_fence) {
            fence(context, &holder, volume).await?;
        }
        waiting.update(format!("attaching volume {volume}: waiting for node '{holder}'"));
        sleep(RETRY).await;
    }
}

async fn fence(
    context: &Context<'_>,
    holder: &str,
    volume: &Selector<VolumeId>,
) -> Result<(), CliError> {
    let service = context.service().await?;
    let name: Name = holder.parse().map_err(|error| {
        let message = format!("the service names no node that holds the volume: {error}");
        CliError::new(crate::error::Exit::Failed, "MALFORMED_ANSWER", message)
    })?;
    let reason = format!("volume {volume} is attached elsewhere by force");
    let (request, node) = (fresh_request_id(), Selector::Name(name));
    service.fence_node(&FenceNode { request, node, reason, keeps_out: false }).await?;
    Ok(())
}

/// Says what the pool of an attached volume does not promise. That it cannot be asked is no failure
/// of the attachment.
pub(super) async fn warn_of_fencing(context: &Context<'_>, attached: &v1::LocalAttachment) {
    let Ok(pool) = attached.pool_id.parse::<PoolId>() else { return };
    let Ok(service) = context.service().await else { return };
    let Ok(pool) = service.pool(&Selector::Id(pool)).await else { return };
    let Some(warning) = pool.fencing.warning() else { return };
    let text = format!("pool '{}': {warning}", pool.name);
    let line = match context.global.output {
        OutputFormat::Table => format!("warning: {text}"),
        OutputFormat::Json => json!({ "warning": text }).to_string(),
    };
    // A closed standard error must not end what was done.
    let _ = writeln!(io::stderr(), "{line}");
}
