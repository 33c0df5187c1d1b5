//! Revoked certificates on the wire.

use super::{Checked, fencing::reason, list, parsed, to_list};
use crate::domain::{RevokeCertificate, RevokedCertificate};
use crate::error::FieldError;
use crate::v1;

impl TryFrom<v1::RevokeCertificateRequest> for RevokeCertificate {
    type Error = FieldError;

    fn try_from(wire: v1::RevokeCertificateRequest) -> Checked<Self> {
        Ok(Self { serial: parsed("serial", &wire.serial)?, reason: reason(wire.reason)? })
    }
}

impl From<RevokeCertificate> for v1::RevokeCertificateRequest {
    fn from(request: RevokeCertificate) -> Self {
        Self { serial: request.serial.to_string(), reason: request.reason }
    }
}

impl TryFrom<v1::RevokedCertificate> for RevokedCertificate {
    type Error = FieldError;

    fn try_from(wire: v1::RevokedCertificate) -> Checked<Self> {
        let revoked_unix_seconds = wire.revoked_unix_seconds;
        let (serial, reason) = (parsed("serial", &wire.serial)?, reason(wire.reason)?);
        Ok(Self { serial, reason, revoked_unix_seconds })
    }
}

impl From<RevokedCertificate> for v1::RevokedCertificate {
    fn from(revoked: RevokedCertificate) -> Self {
        let RevokedCertificate { serial, reason, revoked_unix_seconds } = revoked;
        Self { serial: serial.to_string(), reason, revoked_unix_seconds }
    }
}

impl TryFrom<v1::ListRevokedResponse> for Vec<RevokedCertificate> {
    type Error = FieldError;

    fn try_from(wire: v1::ListRevokedResponse) -> Checked<Self> {
        list("revoked", wire.revoked)
    }
}

impl From<Vec<RevokedCertificate>> for v1::ListRevokedResponse {
    fn from(revoked: Vec<RevokedCertificate>) -> Self {
        Self { revoked: to_list(revoked) }
    }
}
