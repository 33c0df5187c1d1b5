//! Certificates that are refused although they are valid.

use lunar_proto::domain::{CertSerial, REASON_BYTES_MAX};

use super::encoding::{DecodeError, Field, Record, invalid, take_bytes};
use super::parts::Part;
use super::records::records;

impl Part for CertSerial {
    type Element = String;

    fn element(&self) -> String {
        self.to_string()
    }

    fn from_element(element: String) -> Option<Self> {
        element.parse().ok()
    }
}

/// Why a certificate was revoked: text for people, at most 256 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevocationReason(pub String);

impl Field for RevocationReason {
    fn put(&self, out: &mut Vec<u8>) {
        u16::try_from(self.0.len()).expect("a reason has at most 256 bytes").put(out);
        out.extend_from_slice(self.0.as_bytes());
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let length = usize::from(u16::take(input)?);
        if length > REASON_BYTES_MAX {
            return Err(invalid("length of a reason", length));
        }
        let bytes = take_bytes(input, length, "reason")?;
        let text = std::str::from_utf8(bytes).map_err(|error| invalid("reason", error))?;
        Ok(Self(text.to_owned()))
    }
}

records! {
    /// A certificate that is refused.
    RevokedRecord = "revoked certificate" {
        /// When, in seconds since 1970-01-01 UTC, for people.
        revoked: u64,
        /// Why.
        reason: RevocationReason,
    }
}
