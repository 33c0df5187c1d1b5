//! Certificates.

use lunar_identity::CertFacts;
use lunar_proto::domain::RevokedCertificate;
use serde::Serialize;

use super::NONE;
use super::time::{DAY, utc};
use crate::output::{Report, table};

/// A certificate in a file.
#[derive(Serialize, Debug)]
pub struct CertificateView {
    path: String,
    /// Absent of an authority.
    role: Option<String>,
    /// Absent of an authority.
    name: Option<String>,
    cluster_id: String,
    serial: String,
    /// Unix seconds.
    not_before: i64,
    /// Unix seconds.
    not_after: i64,
    days_left: i64,
}

impl CertificateView {
    /// A certificate that says whom it is for.
    #[must_use]
    pub fn of_holder(path: String, facts: &CertFacts, now: i64) -> Self {
        Self {
            path,
            role: Some(facts.name.role.to_string()),
            name: Some(facts.name.name.to_string()),
            cluster_id: facts.name.cluster.to_string(),
            serial: facts.serial.to_string(),
            not_before: facts.not_before,
            not_after: facts.not_after,
            days_left: (facts.not_after - now).div_euclid(DAY),
        }
    }

    /// The certificate of an authority.
    #[must_use]
    pub fn of_authority(
        path: String,
        cluster: &str,
        serial: &str,
        life: (i64, i64),
        now: i64,
    ) -> Self {
        Self {
            path,
            role: None,
            name: None,
            cluster_id: cluster.to_owned(),
            serial: serial.to_owned(),
            not_before: life.0,
            not_after: life.1,
            days_left: (life.1 - now).div_euclid(DAY),
        }
    }
}

/// `lunar pki init`, `issue`, `rotate` and `show`.
#[derive(Serialize, Debug)]
pub struct CertificateList {
    certificates: Vec<CertificateView>,
}

impl CertificateList {
    /// These certificates.
    #[must_use]
    pub const fn new(certificates: Vec<CertificateView>) -> Self {
        Self { certificates }
    }
}

fn moment(at: i64) -> String {
    u64::try_from(at).map_or_else(|_| NONE.to_owned(), utc)
}

impl Report for CertificateList {
    fn to_text(&self) -> String {
        let row = |view: &CertificateView| {
            [
                view.role.clone().unwrap_or_else(|| "authority".to_owned()),
                view.name.clone().unwrap_or_else(|| NONE.to_owned()),
                view.cluster_id.clone(),
                view.serial.clone(),
                moment(view.not_before),
                moment(view.not_after),
                view.days_left.to_string(),
                view.path.clone(),
            ]
        };
        let rows = self.certificates.iter().map(row).collect();
        let header = ["ROLE", "NAME", "CLUSTER", "SERIAL", "FROM", "UNTIL", "DAYS LEFT", "FILE"];
        table(header, rows, "no certificates: none ends so soon")
    }
}

/// A certificate that is refused.
#[derive(Serialize, Debug)]
struct RevokedView {
    serial: String,
    /// Unix seconds.
    revoked_at: u64,
    reason: String,
}

/// `lunar pki revoked`.
#[derive(Serialize, Debug)]
pub struct RevokedList {
    revoked: Vec<RevokedView>,
}

impl RevokedList {
    /// What the service refuses.
    #[must_use]
    pub fn new(revoked: Vec<RevokedCertificate>) -> Self {
        let view = |revoked: RevokedCertificate| RevokedView {
            serial: revoked.serial.to_string(),
            revoked_at: revoked.revoked_unix_seconds,
            reason: revoked.reason,
        };
        Self { revoked: revoked.into_iter().map(view).collect() }
    }
}

impl Report for RevokedList {
    fn to_text(&self) -> String {
        let row =
            |view: &RevokedView| [view.serial.clone(), utc(view.revoked_at), view.reason.clone()];
        let rows = self.revoked.iter().map(row).collect();
        table(["SERIAL", "REVOKED", "WHY"], rows, "no certificate is revoked")
    }
}
