//! What a certificate says: whom it is for, its serial number, and when it is valid.
//!
//! A certificate names its holder by exactly one URI in its subject alternative name that begins
//! with `lunar://`; other names may stand beside it. Nothing here checks a signature.

use lunar_proto::cert_name::{CERT_SCHEME, CertName};
use lunar_proto::domain::CertSerial;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What a certificate says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertFacts {
    /// Whom it is for.
    pub name: CertName,
    /// Its number.
    pub serial: CertSerial,
    /// The first second of its life, in seconds since 1970-01-01 UTC.
    pub not_before: i64,
    /// The last second of its life, in seconds since 1970-01-01 UTC.
    pub not_after: i64,
}

/// Why a certificate says nothing of use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not X.509.
    #[error("it is no X.509 certificate")]
    Malformed,
    /// No holder, or several.
    #[error(
        "it has {0} names that begin with {CERT_SCHEME}, and has to have one: issue it with the \
         subject alternative name URI:{CERT_SCHEME}CLUSTER/ROLE/NAME"
    )]
    Names(usize),
    /// The holder's name is odd.
    #[error(transparent)]
    Name(#[from] lunar_proto::cert_name::CertNameError),
    /// The number is 0 or too long.
    #[error("its serial number is 0 or longer than 20 bytes")]
    Serial,
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(der.as_ref()).map_err(|_| CertificateError::Malformed)?;
    Ok(certificate)
}

impl CertFacts {
    /// What a certificate says.
    ///
    /// # Errors
    /// It is none, or does not say whom it is for.
    pub fn of(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let certificate = parsed(der)?;
        let names = certificate.subject_alternative_name();
        let names = names.map_err(|_| CertificateError::Malformed)?;
        let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
        let holders: Vec<&str> = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) if is_ours(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let [holder] = holders.as_slice() else {
            return Err(CertificateError::Names(holders.len()));
        };
        Ok(Self {
            name: holder.parse()?,
            serial: CertSerial::from_bytes(certificate.raw_serial())
                .ok_or(CertificateError::Serial)?,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// Whether the certificate is valid at this time, in seconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn is_valid_at(&self, now: i64) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// The first and the last second of a certificate's life, in seconds since 1970-01-01 UTC.
///
/// # Errors
/// It is no certificate.
pub fn lifetime(der: &CertificateDer<'_>) -> Result<(i64, i64), CertificateError> {
    let certificate = parsed(der)?;
    let validity = certificate.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The serial number of a certificate.
///
/// # Errors
/// It is no certificate, or its number is odd.
pub fn serial_of(der: &CertificateDer<'_>) -> Result<CertSerial, CertificateError> {
    let certificate = parsed(der)?;
    CertSerial::from_bytes(certificate.raw_serial()).ok_or(CertificateError::Serial)
}

/// Whether a URI claims to name a holder; letters of either case do.
fn is_ours(uri: &str) -> bool {
    let scheme = uri.get(..CERT_SCHEME.len());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(CERT_SCHEME))
}

/// The other names of a certificate: DNS names and IP addresses, for who issues it anew.
///
/// # Errors
/// It is no certificate.
pub fn host_names(der: &CertificateDer<'_>) -> Result<Vec<HostName>, CertificateError> {
    let certificate = parsed(der)?;
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|_| CertificateError::Malformed)?;
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    Ok(names.iter().filter_map(host_name).collect())
}

/// A host as a certificate names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostName {
    /// By DNS.
    Dns(String),
    /// By address.
    Ip(std::net::IpAddr),
}

fn host_name(name: &GeneralName<'_>) -> Option<HostName> {
    match name {
        GeneralName::DNSName(dns) => Some(HostName::Dns((*dns).to_owned())),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| HostName::Ip(bytes.into())),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| HostName::Ip(bytes.into())),
        },
        _ => None,
    }
}
