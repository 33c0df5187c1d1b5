//! Lists in pages: the token of a page is the last key of the page before.

use lunar_proto::domain::{PageRequest, PageToken};

use crate::error::ServiceError;
use crate::keyspace::{Entry, Key, KeyedTxn, TypedRange};
use crate::store::Txn;

/// The entries of a page, and the token of the next.
pub(super) async fn page<T: Txn, K: Key>(
    txn: &T,
    range: TypedRange<K>,
    request: &PageRequest,
) -> Result<(Vec<Entry<K>>, Option<PageToken>), ServiceError> {
    let range = match &request.token {
        None => range,
        Some(token) if range.keys().contains(token.as_bytes()) => range.after(token.as_bytes()),
        Some(_) => {
            return Err(ServiceError::field("page.token", "it is not from a page of this list"));
        }
    };
    let limit = request.limit.clamp(1, PageRequest::LIMIT_MAX);
    let mut entries = txn.scan(&range, limit + 1).await?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let last = entries.last().filter(|_| more).map(|(key, _)| key.pack());
    Ok((entries, last.and_then(PageToken::from_bytes)))
}
