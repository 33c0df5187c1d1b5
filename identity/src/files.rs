//! Certificate, key and trust from files, read again when the files change.
//!
//! Invariants:
//! - what cannot be used changes nothing: the values of before stay, and the files are read again
//!   at each look until they can be used;
//! - the files are looked at before they are read, so a change while they are read is seen at the
//!   next look.
//!
//! A file is taken for changed by its device, inode, length or times, as a link to it is followed:
//! both a file that is renamed into place and a mounted secret that is switched over are seen.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::{info, warn};

use crate::certificate::CertFacts;
use crate::{TlsError, provider};

/// Permission bits of everybody.
const OTHERS: u32 = 0o007;

/// The files of one end of a connection, all in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// Certificates of the authorities that the other end must be signed by; several while they
    /// change.
    pub ca: PathBuf,
    /// The own certificate, followed by those between it and its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Some of the files of TLS are given and others are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("--tls-ca, --tls-cert and --tls-key are given together or not at all")]
pub struct PartOfTls;

impl TlsFiles {
    /// The files that a client is given: all of them, or none for no TLS.
    ///
    /// # Errors
    /// Some are given and others are not.
    pub fn all_or_none(
        ca: Option<PathBuf>,
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Option<Self>, PartOfTls> {
        match (ca, cert, key) {
            (None, None, None) => Ok(None),
            (Some(ca), Some(cert), Some(key)) => Ok(Some(Self { ca, cert, key })),
            _ => Err(PartOfTls),
        }
    }
}

/// What the files hold.
pub(crate) struct Material {
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) own: CertFacts,
}

/// By what a changed file is told from itself.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileStamp([i64; 6]);

impl FileStamp {
    fn of(found: &Metadata) -> Self {
        let bits = |number: u64| number.cast_signed();
        let (device, inode, length) = (bits(found.dev()), bits(found.ino()), bits(found.len()));
        // A copy may keep the time of modification; nobody can set that of the last change.
        let (changed, nanos) = (found.ctime(), found.ctime_nsec());
        Self([device, inode, length, found.mtime(), changed, nanos])
    }
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> TlsError {
    move |source| TlsError::Unreadable { path: path.to_owned(), source }
}

fn unusable(path: &Path, problem: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable { path: path.to_owned(), problem: problem.to_string() }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// It cannot be read or holds none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = std::fs::read(path).map_err(unreadable(path))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| unusable(path, format_args!("it is no PEM: {error}")))?;
    match found.is_empty() {
        true => Err(unusable(path, "it holds no certificate in PEM")),
        false => Ok(found),
    }
}

/// The private key of a PEM file.
///
/// # Errors
/// It cannot be read or holds none.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = std::fs::read(path).map_err(unreadable(path))?;
    // What is wrong with it is not repeated: parts of a key must reach no log.
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| unusable(path, "it holds no private key in PEM (PKCS#8, SEC1 or PKCS#1)"))
}

impl TlsFiles {
    fn paths(&self) -> [&Path; 3] {
        [&self.ca, &self.cert, &self.key]
    }

    fn stamps(&self) -> Result<[FileStamp; 3], TlsError> {
        let stamp = |path: &Path| -> Result<FileStamp, TlsError> {
            Ok(FileStamp::of(&std::fs::metadata(path).map_err(unreadable(path))?))
        };
        let [ca, cert, key] = self.paths();
        Ok([stamp(ca)?, stamp(cert)?, stamp(key)?])
    }

    fn read(&self) -> Result<Material, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in read_certificates(&self.ca)? {
            roots.add(authority).map_err(|error| unusable(&self.ca, error))?;
        }
        let chain = read_certificates(&self.cert)?;
        let own = CertFacts::of(&chain[0]).map_err(|error| unusable(&self.cert, error))?;
        let key = read_key(&self.key)?;
        let signer = provider().key_provider.load_private_key(key.clone_key());
        let signer = signer.map_err(|error| unusable(&self.key, error))?;
        let pair = rustls::sign::CertifiedKey::new(chain.clone(), signer);
        pair.keys_match().map_err(|_| {
            let cert = self.cert.display();
            unusable(&self.key, format_args!("it is not the key of the certificate '{cert}'"))
        })?;
        self.warn_if_exposed();
        Ok(Material { roots: Arc::new(roots), chain, key, own })
    }

    fn warn_if_exposed(&self) {
        let mode = std::fs::metadata(&self.key).map(|found| found.mode());
        if mode.is_ok_and(|mode| mode & OTHERS != 0) {
            let key = self.key.display();
            warn!(%key, "everybody on this host may touch the private key: chmod 0600");
        }
    }
}

/// What was made of the files, and from which state of them.
struct Made<T> {
    stamps: [FileStamp; 3],
    generation: u64,
    value: Arc<T>,
}

/// How a value is made of what files hold.
type Make<T> = Box<dyn Fn(&TlsFiles, Material) -> Result<T, TlsError> + Send + Sync>;

/// A value that is made of files, and made anew when they change.
pub(crate) struct Reloading<T> {
    files: TlsFiles,
    make: Make<T>,
    made: RwLock<Made<T>>,
    /// The last trouble that was told, so that it is told once.
    told: Mutex<String>,
}

impl<T> Reloading<T> {
    pub(crate) fn load(
        files: TlsFiles,
        make: impl Fn(&TlsFiles, Material) -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let stamps = files.stamps()?;
        let value = Arc::new(make(&files, files.read()?)?);
        let made = RwLock::new(Made { stamps, generation: 1, value });
        Ok(Self { files, make: Box::new(make), made, told: Mutex::default() })
    }

    pub(crate) fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// The value and its number, which rises with every change.
    pub(crate) fn current(&self) -> (u64, Arc<T>) {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        (made.generation, Arc::clone(&made.value))
    }

    fn remake(&self) -> Result<bool, TlsError> {
        let stamps = self.files.stamps()?;
        if self.made.read().unwrap_or_else(PoisonError::into_inner).stamps == stamps {
            return Ok(false);
        }
        let value = Arc::new((self.make)(&self.files, self.files.read()?)?);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let generation = made.generation + 1;
        *made = Made { stamps, generation, value };
        Ok(true)
    }

    /// Looks at the files, and takes what has changed if it can be used.
    pub(crate) fn look(&self) -> bool {
        let outcome = self.remake();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(changed) => {
                told.clear();
                if changed {
                    info!(cert = %self.files.cert.display(), "certificates were read anew");
                }
                changed
            }
            Err(error) => {
                let problem = match std::error::Error::source(&error) {
                    Some(source) => format!("{error}: {source}"),
                    None => error.to_string(),
                };
                if *told != problem {
                    warn!("certificates stay as they were: {problem}");
                    *told = problem;
                }
                false
            }
        }
    }
}
