//! An authority that signs certificates: for those without a PKI of their own, and for tests.
//!
//! Invariants:
//! - every key is made here, ECDSA on P-256, and leaves as a [`SecretPem`] only, which cannot be
//!   shown by accident;
//! - a certificate is for clients or for servers, never for both: the role decides.
//!
//! Deliberately absent: files (`lunar pki` places them), clocks (the caller says when).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lunar_proto::cert_name::CertName;
use lunar_proto::roles::Role;
use lunar_types::{ClusterId, Name};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use uuid::Uuid;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::certificate::HostName;

/// Columns of PEM.
const PEM_COLUMNS: usize = 64;
/// How the subject of an authority's certificate begins; the cluster's id follows.
const SUBJECT: &str = "Lunar cluster ";

/// Why a certificate is not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The library refuses.
    #[error("the certificate cannot be made: {0}")]
    Library(#[from] rcgen::Error),
    /// A host name that is none.
    #[error("'{0}' is no DNS name")]
    Host(String),
    /// Times that are none.
    #[error("from {from} to {until} (seconds since 1970) is no time that a certificate can have")]
    Time {
        /// The first second.
        from: i64,
        /// The last one.
        until: i64,
    },
    /// Not an authority of ours.
    #[error(
        "the certificate is of no authority that 'lunar pki init' has made: its subject does not \
         name a cluster"
    )]
    Foreign,
    /// The key cannot be used.
    #[error("the key of the authority has to be of PKCS#8")]
    Key,
}

/// A private key in PEM. It has no `Debug` and no `Display`: who takes it out says so.
pub struct SecretPem(String);

impl SecretPem {
    /// The text, for a file that nobody else can read.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// What is to be issued.
#[derive(Clone, Debug)]
pub struct Order {
    /// What its holder may do.
    pub role: Role,
    /// Who its holder is.
    pub name: Name,
    /// Other names of it.
    pub hosts: Vec<HostName>,
    /// The first second of its life, in seconds since 1970-01-01 UTC.
    pub not_before: i64,
    /// The last second of its life, in seconds since 1970-01-01 UTC.
    pub not_after: i64,
}

/// What was issued.
pub struct Issued {
    /// The certificate in PEM.
    pub certificate: String,
    /// Its key.
    pub key: SecretPem,
}

/// An authority of one cluster.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cluster: ClusterId,
}

/// Bytes in PEM under this label.
fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for at in (0..encoded.len()).step_by(PEM_COLUMNS) {
        text.push_str(&encoded[at..encoded.len().min(at + PEM_COLUMNS)]);
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

fn secret(key: &KeyPair) -> SecretPem {
    SecretPem(pem("PRIVATE KEY", key.serialized_der()))
}

fn serial() -> SerialNumber {
    let mut bytes = *Uuid::new_v4().as_bytes();
    // Neither negative nor with a leading zero.
    bytes[0] = bytes[0] & 0x3F | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn subject(common_name: String) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    subject
}

fn params(from: i64, until: i64) -> Result<CertificateParams, IssueError> {
    let wrong = || IssueError::Time { from, until };
    let moment = |at| OffsetDateTime::from_unix_timestamp(at).map_err(|_| wrong());
    let mut params = CertificateParams::default();
    params.not_before = moment(from)?;
    params.not_after = moment(until)?;
    if from >= until {
        return Err(wrong());
    }
    params.serial_number = Some(serial());
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn host(name: &HostName) -> Result<SanType, IssueError> {
    Ok(match name {
        HostName::Ip(address) => SanType::IpAddress(*address),
        HostName::Dns(dns) => {
            let wrong = |_| IssueError::Host(dns.clone());
            SanType::DnsName(dns.as_str().try_into().map_err(wrong)?)
        }
    })
}

impl Authority {
    /// A new authority of a cluster, with its certificate and key.
    ///
    /// # Errors
    /// The times are odd.
    pub fn new(
        cluster: ClusterId,
        not_before: i64,
        not_after: i64,
    ) -> Result<(Self, Issued), IssueError> {
        let mut params = params(not_before, not_after)?;
        params.distinguished_name = subject(format!("{SUBJECT}{cluster}"));
        // It signs holders, no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = pem("CERTIFICATE", params.self_signed(&key)?.der());
        let issued = Issued { certificate, key: secret(&key) };
        Ok((Self { issuer: Issuer::new(params, key), cluster }, issued))
    }

    /// The authority of this certificate and key.
    ///
    /// # Errors
    /// They are not of one that [`Authority::new`] has made.
    pub fn of(
        certificate: &CertificateDer<'_>,
        key: &PrivateKeyDer<'_>,
    ) -> Result<Self, IssueError> {
        let PrivateKeyDer::Pkcs8(key) = key else { return Err(IssueError::Key) };
        let key = KeyPair::try_from(key)?;
        let cluster = cluster_of(certificate).ok_or(IssueError::Foreign)?;
        Ok(Self { issuer: Issuer::from_ca_cert_der(certificate, key)?, cluster })
    }

    /// The cluster that its certificates are valid in.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Issues a certificate with a new key.
    ///
    /// # Errors
    /// A host name or the times are odd.
    pub fn issue(&self, order: &Order) -> Result<Issued, IssueError> {
        let mut params = params(order.not_before, order.not_after)?;
        let name = CertName { cluster: self.cluster, role: order.role, name: order.name.clone() };
        // A common name has at most 64 characters by RFC 5280, a name of ours 128.
        let common_name: String = order.name.as_str().chars().take(64).collect();
        params.distinguished_name = subject(common_name);
        let wrong = |_| IssueError::Host(name.to_string());
        let uri = SanType::URI(name.to_string().as_str().try_into().map_err(wrong)?);
        params.subject_alt_names = vec![uri];
        for other in &order.hosts {
            params.subject_alt_names.push(host(other)?);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match order.role {
            Role::Metadata => ExtendedKeyUsagePurpose::ServerAuth,
            _ => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { certificate: pem("CERTIFICATE", certificate.der()), key: secret(&key) })
    }
}

/// The cluster that the certificate of an authority names.
#[must_use]
pub fn cluster_of(authority: &CertificateDer<'_>) -> Option<ClusterId> {
    let (_, certificate) = X509Certificate::from_der(authority.as_ref()).ok()?;
    let mut names = certificate.subject().iter_common_name();
    names.next()?.as_str().ok()?.strip_prefix(SUBJECT)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::certificate::{CertFacts, host_names};
    use crate::files::{read_certificates, read_key};
    use crate::{ClientTls, ServerTls, TlsFiles};

    const CLUSTER: ClusterId = ClusterId::from_u128(0x1111_2222_4333_8444_5555_6666_7777_8888);
    /// 2024-01-01 to 2034-01-01.
    const LIFE: (i64, i64) = (1_704_067_200, 2_019_686_400);

    fn order(role: Role, name: &str) -> Order {
        let hosts =
            vec![HostName::Dns("meta.example".to_owned()), HostName::Ip([192, 0, 2, 7].into())];
        let name = name.parse().expect("a name");
        Order { role, name, hosts, not_before: LIFE.0, not_after: LIFE.1 }
    }

    fn place(folder: &Path, stem: &str, issued: &Issued) {
        std::fs::write(folder.join(format!("{stem}.crt")), &issued.certificate).expect("written");
        std::fs::write(folder.join(format!("{stem}.key")), issued.key.reveal()).expect("written");
    }

    fn files(folder: &Path, stem: &str) -> TlsFiles {
        let at = |name: String| folder.join(name);
        let (cert, key) = (at(format!("{stem}.crt")), at(format!("{stem}.key")));
        TlsFiles { ca: at("ca.crt".to_owned()), cert, key }
    }

    #[test]
    fn a_certificate_says_whom_it_is_for_and_an_authority_which_cluster() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, root) = Authority::new(CLUSTER, LIFE.0, LIFE.1).expect("made");
        place(folder.path(), "ca", &root);
        let root = read_certificates(&folder.path().join("ca.crt")).expect("read");
        let key = read_key(&folder.path().join("ca.key")).expect("read");
        let authority = Authority::of(&root[0], &key).expect("ours");
        assert_eq!(authority.cluster(), CLUSTER);
        place(folder.path(), "n1", &authority.issue(&order(Role::Node, "n1")).expect("issued"));
        let own = read_certificates(&folder.path().join("n1.crt")).expect("read");
        let facts = CertFacts::of(&own[0]).expect("ours");
        assert_eq!(facts.name.to_string(), format!("lunar://{CLUSTER}/node/n1"));
        assert_eq!((facts.not_before, facts.not_after), LIFE);
        assert!(facts.is_valid_at(LIFE.1) && !facts.is_valid_at(LIFE.1 + 1));
        assert!(!facts.is_valid_at(LIFE.0 - 1));
        assert_eq!(host_names(&own[0]), Ok(order(Role::Node, "n1").hosts));
        assert!(CertFacts::of(&root[0]).is_err(), "an authority is nobody");
    }

    #[test]
    fn files_that_do_not_fit_are_refused_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        let (authority, root) = Authority::new(CLUSTER, LIFE.0, LIFE.1).expect("made");
        place(at, "ca", &root);
        place(at, "n1", &authority.issue(&order(Role::Node, "n1")).expect("issued"));
        place(at, "m1", &authority.issue(&order(Role::Metadata, "m1")).expect("issued"));
        ServerTls::load(files(at, "m1"), CLUSTER).map(drop).expect("a server");
        ClientTls::load(files(at, "n1")).map(drop).expect("a client");
        let refused = |files, cluster| {
            ServerTls::load(files, cluster).map(drop).expect_err("refused").to_string()
        };
        assert!(refused(files(at, "n1"), CLUSTER).contains("--role metadata"));
        let other = refused(files(at, "m1"), ClusterId::from_u128(7));
        assert!(other.contains("pki init --cluster"), "{other}");
        let mixed = TlsFiles { key: at.join("n1.key"), ..files(at, "m1") };
        assert!(refused(mixed, CLUSTER).contains("not the key of the certificate"));
        let missing = TlsFiles { ca: at.join("none.crt"), ..files(at, "m1") };
        assert!(refused(missing, CLUSTER).contains("none.crt"));
        let swapped = TlsFiles { ca: at.join("m1.key"), ..files(at, "m1") };
        let said = refused(swapped, CLUSTER);
        assert!(said.contains("no certificate") && !said.contains("PRIVATE"), "{said}");
    }

    #[test]
    fn files_that_change_are_taken_and_broken_ones_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        let (authority, root) = Authority::new(CLUSTER, LIFE.0, LIFE.1).expect("made");
        place(at, "ca", &root);
        place(at, "m1", &authority.issue(&order(Role::Metadata, "m1")).expect("issued"));
        let server = ServerTls::load(files(at, "m1"), CLUSTER).expect("a server");
        let first = server.own().serial;
        assert!(!server.look(), "nothing has changed");
        std::fs::write(at.join("m1.crt"), "rubbish").expect("written");
        assert!(!server.look() && !server.look());
        assert_eq!(server.own().serial, first, "it stays as it was");
        place(at, "m1", &authority.issue(&order(Role::Metadata, "m1")).expect("issued"));
        assert!(server.look());
        assert_ne!(server.own().serial, first);
        assert_eq!(server.config().0, 2);
    }
}
