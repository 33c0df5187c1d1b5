//! Certificates that are refused although they are valid.
//!
//! Invariants:
//! - what is revoked stays revoked: nothing takes a row away, but a restore of a backup that was
//!   made before it;
//! - the copy in memory is that of the store: one process serves a store, it reads the rows at its
//!   start, and adds a row when its transaction is committed and before the caller is answered.
//!   A second process on the same store would need to read the row in each call's transaction.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use lunar_proto::domain::{CertSerial, RevokeCertificate, RevokedCertificate};

use super::Service;
use crate::error::ServiceError;
use crate::keyspace::{
    Key as _, KeyedTxn, RevocationReason, RevokedKey, RevokedRecord, TypedRange,
};
use crate::store::{MetaStore, Txn};

/// Certificates that can be revoked. A cluster of 65,535 nodes whose certificates live a year has
/// room for one in six of them; expired ones need no row.
const REVOKED_MAX: usize = 10_000;

/// The copy of the rows.
#[derive(Default)]
pub(super) struct Revoked(RwLock<BTreeSet<CertSerial>>);

impl Revoked {
    /// The rows of the store.
    pub(super) async fn load<T: Txn>(txn: &T) -> Result<Self, ServiceError> {
        let rows = TypedRange::<RevokedKey>::table().first(usize::MAX);
        let rows = txn.get_range(&rows).await?;
        // The key says it all: a row whose value is damaged refuses its certificate all the same.
        let serials = rows.iter().map(|(key, _)| {
            let unpacked = RevokedKey::unpack(key).ok_or_else(|| {
                ServiceError::corrupt(format!("{key:02x?}"), "it is no serial number".to_owned())
            });
            unpacked.map(|key| key.serial)
        });
        Ok(Self(RwLock::new(serials.collect::<Result<_, _>>()?)))
    }

    fn add(&self, serial: CertSerial) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(serial);
    }

    fn contains(&self, serial: &CertSerial) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(serial)
    }
}

async fn revoke<T: Txn>(
    txn: &T,
    request: &RevokeCertificate,
    now: u64,
) -> Result<(), ServiceError> {
    let key = RevokedKey { serial: request.serial.clone() };
    if txn.load(&key).await?.is_some() {
        return Ok(());
    }
    let rows = txn.scan(&TypedRange::<RevokedKey>::table(), REVOKED_MAX).await?;
    if rows.len() >= REVOKED_MAX {
        let (what, limit) = ("revoked certificates", REVOKED_MAX as u64);
        return Err(ServiceError::LimitReached { what, limit });
    }
    let reason = RevocationReason(request.reason.clone());
    txn.put(&key, &RevokedRecord { revoked: now, reason });
    Ok(())
}

impl<S: MetaStore> Service<S> {
    /// Refuses a certificate from now on; `now` in seconds since 1970-01-01 UTC is for people.
    ///
    /// # Errors
    /// Too many are revoked, or the store fails.
    pub async fn revoke_certificate(
        &self,
        request: &RevokeCertificate,
        now: u64,
    ) -> Result<(), ServiceError> {
        self.read(|txn| async move { revoke(&*txn, request, now).await }).await?;
        self.revoked.add(request.serial.clone());
        Ok(())
    }

    /// Whether a certificate is refused. Takes no transaction.
    pub fn is_revoked(&self, serial: &CertSerial) -> bool {
        self.revoked.contains(serial)
    }

    /// What is refused, by serial number.
    ///
    /// # Errors
    /// The store fails.
    pub async fn revoked_certificates(&self) -> Result<Vec<RevokedCertificate>, ServiceError> {
        let table = TypedRange::<RevokedKey>::table();
        let table = &table;
        let rows = self.read(|txn| async move { txn.scan(table, usize::MAX).await }).await?;
        let shown = rows.into_iter().map(|(key, record)| RevokedCertificate {
            serial: key.serial,
            reason: record.reason.0,
            revoked_unix_seconds: record.revoked,
        });
        Ok(shown.collect())
    }
}
