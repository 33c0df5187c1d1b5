//! Typed client of the metadata service: domain values in and out, deadlines, retries.
//!
//! Invariants:
//! - every attempt of one call carries the same request id, so a retried call is done once;
//! - a call ends: each attempt has a deadline, and all of them together have one;
//! - an answer is checked before it is given out;
//! - who answers has proven to be the metadata service, or is on this host.
//!
//! What is retried: the service could not be reached, did not answer in time, or said UNAVAILABLE.
//! Everything else is the answer. Who waits longer than a call's deadline sends the same request
//! again (the service remembers it for ten minutes).
//!
//! Deliberately absent: caching, leases, any rule of the domain.

mod admin;
mod attachments;
mod backup;
mod certificates;
mod connect;
mod contents;
mod diff;
mod error;
mod fencing;
mod groups;
mod map;
mod nodes;
mod peers;
mod pools;
mod publications;
mod sets;
mod snapshots;
mod transport;
mod volumes;

use std::future::Future;
use std::time::{SystemTime, UNIX_EPOCH};

use lunar_proto::domain::{Page, PageRequest};
use lunar_types::RequestId;

pub use backup::BackupBytes;
pub use diff::DiffRuns;
pub use error::{ClientError, ErrorKind};
pub use lunar_identity::{CertFacts, ClientTls, PartOfTls, TlsError, TlsFiles};
pub use lunar_proto::error::{ErrorReason, ErrorReport};
pub use transport::{EndpointError, MetadataClient, Policy};

/// A fresh idempotency key.
#[must_use]
pub fn fresh_request_id() -> RequestId {
    RequestId::from_u128(uuid::Uuid::new_v4().as_u128())
}

/// Seconds since 1970-01-01 UTC on this host's clock, for people: when a snapshot was asked for.
#[allow(
    clippy::disallowed_methods,
    reason = "what people are told of time is that of the host where they ask"
)]
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Every item of a list, page by page.
async fn every<T, F, Fut>(list: F) -> Result<Vec<T>, ClientError>
where
    F: Fn(PageRequest) -> Fut,
    Fut: Future<Output = Result<Page<T>, ClientError>>,
{
    let mut request = PageRequest::first();
    let mut items = Vec::new();
    loop {
        let page = list(request.clone()).await?;
        items.extend(page.items);
        match page.next {
            Some(token) => request.token = Some(token),
            None => return Ok(items),
        }
    }
}
