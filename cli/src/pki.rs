//! The folder of an authority: what is written there, and how.
//!
//! Invariants:
//! - a file has its whole content or is not there: it is written beside its place, made durable,
//!   and then named, with its folder made durable;
//! - keys are readable by their owner alone from their first byte on, and are never printed;
//! - nothing is replaced but by who asks for that.
//!
//! Crash order of a pair: the key, then the certificate. A crash between the two leaves a
//! certificate with another one's key, which no program accepts; to issue it again mends that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use lunar_identity::TlsError;
use lunar_identity::certificate::lifetime;
use lunar_identity::files::{read_certificates, read_key};
use lunar_identity::issue::{Authority, IssueError, Issued};

/// Permissions of a key.
const KEY_MODE: u32 = 0o600;
/// Permissions of a certificate.
const CERTIFICATE_MODE: u32 = 0o644;
/// The files of the authority.
pub const AUTHORITY: &str = "ca";

/// Whether what exists may be replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// It stays, and the command is refused.
    Keep,
    /// It is replaced.
    Replace,
}

/// Why files of an authority are not read or written.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// It is there already.
    #[error("'{}' exists", .0.display())]
    Exists(PathBuf),
    /// The operating system refuses.
    #[error("'{}': {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be used.
    #[error("{}", chain(.0))]
    Files(#[from] TlsError),
    /// The certificate is not issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// What it says of itself is of no use.
    #[error("'{}': {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: lunar_identity::CertificateError,
    },
}

fn chain(error: &TlsError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The folder of an authority.
pub struct PkiDir<'a>(pub &'a Path);

impl PkiDir<'_> {
    /// The certificate of this name.
    #[must_use]
    pub fn certificate(&self, stem: &str) -> PathBuf {
        self.0.join(format!("{stem}.crt"))
    }

    /// The key of this name.
    #[must_use]
    pub fn key(&self, stem: &str) -> PathBuf {
        self.0.join(format!("{stem}.key"))
    }

    /// Makes the folder, for its owner alone to write.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self) -> Result<(), PkiError> {
        let failed = |source| PkiError::Io { path: self.0.to_owned(), source };
        fs::create_dir_all(self.0).map_err(failed)
    }

    /// The authority, and the last second of its life.
    ///
    /// # Errors
    /// Its files cannot be used.
    pub fn authority(&self) -> Result<(Authority, i64), PkiError> {
        let path = self.certificate(AUTHORITY);
        let certificates = read_certificates(&path)?;
        let key = read_key(&self.key(AUTHORITY))?;
        let authority = Authority::of(&certificates[0], &key)?;
        let life = lifetime(&certificates[0]);
        let (_, until) = life.map_err(|source| PkiError::Certificate { path, source })?;
        Ok((authority, until))
    }

    /// Writes a certificate and its key.
    ///
    /// # Errors
    /// One exists and is to be kept, or cannot be written.
    pub fn place(&self, stem: &str, issued: &Issued, existing: Existing) -> Result<(), PkiError> {
        let (certificate, key) = (self.certificate(stem), self.key(stem));
        if existing == Existing::Keep {
            for path in [&certificate, &key] {
                if path.symlink_metadata().is_ok() {
                    return Err(PkiError::Exists(path.clone()));
                }
            }
        }
        write(&key, issued.key.reveal().as_bytes(), KEY_MODE, existing)?;
        write(&certificate, issued.certificate.as_bytes(), CERTIFICATE_MODE, existing)?;
        let failed = |source| PkiError::Io { path: self.0.to_owned(), source };
        File::open(self.0).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// The names of the certificates of the folder but the authority's, in their order.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn stems(&self) -> Result<Vec<String>, PkiError> {
        let failed = |source| PkiError::Io { path: self.0.to_owned(), source };
        let mut stems = Vec::new();
        for entry in fs::read_dir(self.0).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let is_certificate = path.extension().is_some_and(|extension| extension == "crt");
            if let (Some(stem), true) = (stem, is_certificate)
                && stem != AUTHORITY
                && !stem.starts_with('.')
            {
                stems.push(stem.to_owned());
            }
        }
        stems.sort();
        Ok(stems)
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), PkiError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = write_new(&beside, bytes, mode).and_then(|()| match existing {
        Existing::Replace => fs::rename(&beside, path),
        // A link is refused where a file is: whoever was quicker keeps it.
        Existing::Keep => fs::hard_link(&beside, path).and_then(|()| fs::remove_file(&beside)),
    });
    written.map_err(|source| {
        // What is left beside has no use, and perhaps a key in it.
        drop(fs::remove_file(&beside));
        match source.kind() {
            io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
            _ => PkiError::Io { path: path.to_owned(), source },
        }
    })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use lunar_types::ClusterId;

    use super::*;

    #[test]
    fn a_pair_is_placed_whole_and_its_key_is_the_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = PkiDir(folder.path());
        let (_, issued) = Authority::new(ClusterId::from_u128(1), 0, 1 << 31).expect("made");
        dir.place(AUTHORITY, &issued, Existing::Keep).expect("placed");
        let mode = fs::metadata(dir.key(AUTHORITY)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (authority, until) = dir.authority().expect("usable");
        assert_eq!((authority.cluster(), until), (ClusterId::from_u128(1), 1 << 31));
        let again = dir.place(AUTHORITY, &issued, Existing::Keep);
        assert!(matches!(again, Err(PkiError::Exists(_))));
        dir.place("n1", &issued, Existing::Replace).expect("placed");
        dir.place("n1", &issued, Existing::Replace).expect("replaced");
        assert_eq!(dir.stems().expect("read"), ["n1"]);
        let left = fs::read_dir(folder.path()).expect("read").count();
        assert_eq!(left, 4, "nothing is left beside");
    }
}
