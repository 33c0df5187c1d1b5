//! The audit: what operators have overridden, in the order in which it was done.

use lunar_proto::domain::{AuditEntry, Page, PageRequest};

use super::paging::page;
use super::{Service, next_number};
use crate::error::ServiceError;
use crate::keyspace::{
    AuditKey, AuditNumber, AuditRecord, Counter, KeyedTxn as _, Text, TypedRange,
};
use crate::store::{MetaStore, Txn};

/// Who does something that is audited, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Actor<'a> {
    /// Whom the connection speaks for.
    pub name: &'a str,
    /// Wall clock in seconds since 1970-01-01 UTC, for people.
    pub at: u64,
}

/// Writes an entry, in the transaction of what it tells of.
pub(super) async fn write_audit<T: Txn>(
    txn: &T,
    actor: Actor<'_>,
    action: &'static str,
    (object, reason): (&str, &str),
) -> Result<(), ServiceError> {
    let number = AuditNumber::new(next_number(txn, Counter::Audit).await?);
    let record = AuditRecord {
        at: actor.at,
        actor: Text::new(actor.name),
        action: action.parse().expect("actions are names"),
        object: Text::new(object),
        reason: Text::new(reason),
    };
    txn.put(&AuditKey { number }, &record);
    Ok(())
}

fn entry((key, record): (AuditKey, AuditRecord)) -> AuditEntry {
    AuditEntry {
        number: key.number.get(),
        unix_seconds: record.at,
        actor: record.actor.as_str().to_owned(),
        action: record.action,
        object: record.object.as_str().to_owned(),
        reason: record.reason.as_str().to_owned(),
    }
}

impl<S: MetaStore> Service<S> {
    /// The audit, the oldest entry first.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn audit(&self, request: &PageRequest) -> Result<Page<AuditEntry>, ServiceError> {
        self.read(|txn| async move {
            let (entries, next) = page(&*txn, TypedRange::<AuditKey>::table(), request).await?;
            Ok(Page { items: entries.into_iter().map(entry).collect(), next })
        })
        .await
    }
}
