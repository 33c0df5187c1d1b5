//! Serial numbers of certificates, and those that are revoked.

use std::fmt;
use std::str::FromStr;

/// The serial number of a certificate: at most 20 bytes, the first of them not 0.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CertSerial(Vec<u8>);

/// A text that is no serial number.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is no serial number: give 1 to 40 hexadecimal digits, as 'lunar pki show' does")]
pub struct CertSerialError(String);

impl CertSerial {
    /// What RFC 5280 allows.
    pub const BYTES_MAX: usize = 20;

    /// The number in these bytes, the most significant first; nothing where it is 0 or too long.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let first = bytes.iter().position(|byte| *byte != 0)?;
        let bytes = &bytes[first..];
        (bytes.len() <= Self::BYTES_MAX).then(|| Self(bytes.to_vec()))
    }

    /// The number, the most significant byte first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for CertSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.pad(&digits)
    }
}

impl FromStr for CertSerial {
    type Err = CertSerialError;

    fn from_str(text: &str) -> Result<Self, CertSerialError> {
        let wrong = || CertSerialError(text.to_owned());
        // Other tools write colons between the bytes.
        let digits = text.replace(':', "");
        if digits.is_empty() || digits.len() > 64 || !digits.bytes().all(|d| d.is_ascii_hexdigit())
        {
            return Err(wrong());
        }
        let digits = if digits.len().is_multiple_of(2) { digits } else { format!("0{digits}") };
        let pairs = (0..digits.len()).step_by(2).map(|at| &digits[at..at + 2]);
        let bytes: Result<Vec<u8>, _> = pairs.map(|pair| u8::from_str_radix(pair, 16)).collect();
        bytes.ok().and_then(|bytes| Self::from_bytes(&bytes)).ok_or_else(wrong)
    }
}

/// Asks to refuse a certificate from now on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RevokeCertificate {
    /// Which.
    pub serial: CertSerial,
    /// Why, for people.
    pub reason: String,
}

/// A certificate that is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevokedCertificate {
    /// Which.
    pub serial: CertSerial,
    /// Why, for people.
    pub reason: String,
    /// When, in seconds since 1970-01-01 UTC on the clock of the service, for people.
    pub revoked_unix_seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_has_one_value_however_it_is_written() {
        let serial: CertSerial = "0a1b".parse().expect("valid");
        for text in ["a1b", "0A:1B", "00000a1b"] {
            assert_eq!(text.parse(), Ok(serial.clone()), "{text}");
        }
        assert_eq!(CertSerial::from_bytes(&[0, 0x0A, 0x1B]), Some(serial.clone()));
        assert_eq!(serial.to_string(), "0a1b");
        for text in ["", "0", "00", "xyz", "-1", &"1".repeat(41), "é"] {
            assert!(text.parse::<CertSerial>().is_err(), "{text}");
        }
    }
}
