//! The embedded store: one redb file, one process, optimistic transactions.
//!
//! Invariants:
//! - a commit is on stable storage before it is acknowledged (redb durability Immediate);
//! - a transaction reads one redb snapshot; its writes stay in memory until the commit, which
//!   checks its reads against the commits since its begin, one commit at a time;
//! - after a failed commit the store refuses everything: what redb holds in memory is no longer
//!   known to be what is on the disk. The process ends and the next start recovers.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase as _, TableDefinition,
};

use super::commit_log::CommitLog;
use super::overlay::{Known, Overlay};
use super::{Direction, KeyRange, KeyValue, MetaStore, RangeRead, StoreError, Txn};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("lunar");
/// First bytes of a redb file.
const MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1A, 0x0A, 0xA9, 0x0D, 0x0A];
/// Where the two commit slots of a redb file say their format version.
const VERSION_OFFSETS: [usize; 2] = [64, 192];
/// The newest format version of a redb file that this program reads.
const FILE_VERSION_MAX: u8 = 3;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or read.
    #[error("store '{path}' cannot be opened")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is some other file.
    #[error(
        "'{path}' is not a store of the metadata service (no redb file): give the path of a \
         store, or of a file that does not exist yet"
    )]
    NotAStore {
        /// The file.
        path: PathBuf,
    },
    /// A later redb wrote it.
    #[error(
        "store '{path}' has redb file format {version}, this program reads up to \
         {FILE_VERSION_MAX}: start the newer metadata-service that wrote it"
    )]
    NewerFile {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u8,
    },
    /// An earlier redb wrote it.
    #[error("store '{path}' has redb file format {version}, which is too old to be read")]
    OlderFile {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: u8,
    },
    /// Another process has it.
    #[error(
        "store '{path}' is in use by another process: stop the metadata-service that serves it, \
         or ask that one (lunar fsck)"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// redb finds it damaged or fails.
    #[error("store '{path}' cannot be opened by redb")]
    Redb {
        /// The file.
        path: PathBuf,
        /// What redb says.
        #[source]
        source: Box<redb::Error>,
    },
}

struct Inner {
    database: Database,
    log: Mutex<CommitLog>,
    /// One commit at a time.
    committing: Mutex<()>,
    /// Set once by the first failed commit.
    failed: OnceLock<String>,
}

/// A store in one redb file, or in memory.
#[derive(Clone)]
pub struct RedbStore {
    inner: Arc<Inner>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the log complete: it is only ever appended to.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RedbStore {
    /// Opens the store at `path`, making it if there is no file.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is changed then.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        probe(path)?;
        Self::over(Database::create(path), path)
    }

    /// Opens the store at `path`, which must exist.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_existing(path: &Path) -> Result<Self, OpenError> {
        let existing = File::open(path);
        existing.map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
        probe(path)?;
        Self::over(Database::open(path), path)
    }

    /// A new store in memory.
    ///
    /// # Panics
    /// Never: memory does not fail.
    #[must_use]
    pub fn in_memory() -> Self {
        let database = Database::builder().create_with_backend(InMemoryBackend::new());
        Self::over(database, Path::new("memory")).expect("a store in memory opens")
    }

    fn over(database: Result<Database, DatabaseError>, path: &Path) -> Result<Self, OpenError> {
        let database = database.map_err(|error| explain(error, path))?;
        create_table(&database)
            .map_err(|source| OpenError::Redb { path: path.to_owned(), source: source.into() })?;
        let inner = Inner {
            database,
            log: Mutex::default(),
            committing: Mutex::default(),
            failed: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Why the store refuses everything, if it does.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.inner.failed.get().map(String::as_str)
    }
}

fn create_table(database: &Database) -> Result<(), redb::Error> {
    let present = database.begin_read()?.open_table(TABLE).is_ok();
    if !present {
        let write = database.begin_write()?;
        write.open_table(TABLE)?;
        write.commit()?;
    }
    Ok(())
}

fn explain(error: DatabaseError, path: &Path) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Locked { path },
        DatabaseError::UpgradeRequired(version) => OpenError::OlderFile { path, version },
        DatabaseError::Storage(redb::StorageError::Io(source)) => OpenError::Io { path, source },
        other => OpenError::Redb { path, source: Box::new(other.into()) },
    }
}

/// Looks at the first bytes of an existing file, so that a wrong file gets its own error.
fn probe(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io)?,
    };
    let mut head = Vec::new();
    file.take(256).read_to_end(&mut head).map_err(io)?;
    if head.is_empty() {
        return Ok(());
    }
    if !head.starts_with(&MAGIC) {
        return Err(OpenError::NotAStore { path: path.to_owned() });
    }
    let versions = VERSION_OFFSETS.iter().filter_map(|at| head.get(*at));
    match versions.max() {
        Some(version) if *version > FILE_VERSION_MAX => {
            Err(OpenError::NewerFile { path: path.to_owned(), version: *version })
        }
        _ => Ok(()),
    }
}

/// One attempt on a redb store.
pub struct RedbTxn {
    store: Arc<Inner>,
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    began: u64,
    overlay: Mutex<Overlay>,
}

impl MetaStore for RedbStore {
    type Txn = RedbTxn;

    async fn begin(&self) -> Result<RedbTxn, StoreError> {
        self.inner.check_alive()?;
        // The version first: a commit in between then counts as a conflict, never the reverse.
        let began = locked(&self.inner.log).version();
        let snapshot = self.inner.database.begin_read();
        let snapshot = snapshot.map_err(|error| StoreError::failed("begin", error))?;
        let table = snapshot.open_table(TABLE);
        let table = table.map_err(|error| StoreError::failed("open its table", error))?;
        Ok(RedbTxn { store: Arc::clone(&self.inner), table, began, overlay: Mutex::default() })
    }
}

impl Inner {
    fn check_alive(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            None => Ok(()),
            Some(why) => Err(StoreError::failed("go on after a failed commit", why.clone())),
        }
    }

    fn apply(&self, overlay: &Overlay) -> Result<(), redb::Error> {
        let mut write = self.database.begin_write()?;
        write.set_durability(Durability::Immediate)?;
        {
            let mut table = write.open_table(TABLE)?;
            let (cleared, writes) = overlay.changes();
            for range in cleared.iter().filter(|range| !range.is_empty()) {
                table.retain_in::<&[u8], _>(bounds(range), |_, _| false)?;
            }
            for (key, value) in writes {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                    None => table.remove(key.as_slice())?,
                };
            }
        }
        write.commit()?;
        Ok(())
    }

    fn commit(&self, began: u64, overlay: &Overlay) -> Result<(), StoreError> {
        let _one_at_a_time = locked(&self.committing);
        self.check_alive()?;
        if !locked(&self.log).allows(began, overlay) {
            return Err(StoreError::Conflict);
        }
        if let Err(error) = self.apply(overlay) {
            self.failed.get_or_init(|| error.to_string());
            return Err(StoreError::failed("commit", error));
        }
        let (cleared, writes) = overlay.changes();
        locked(&self.log).push(cleared, writes);
        Ok(())
    }
}

/// What redb gives for each key of a range.
type RedbItem<'a> = Result<
    (redb::AccessGuard<'a, &'static [u8]>, redb::AccessGuard<'a, &'static [u8]>),
    redb::StorageError,
>;

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(range.begin.as_slice()), Bound::Excluded(range.end.as_slice()))
}

impl Txn for RedbTxn {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        if let Known::Value(value) = locked(&self.overlay).read(key) {
            return Ok(value);
        }
        let found = self.table.get(key).map_err(|error| StoreError::failed("read", error))?;
        Ok(found.map(|value| value.value().to_vec()))
    }

    async fn get_range(&self, read: &RangeRead) -> Result<Vec<KeyValue>, StoreError> {
        let failed = |error| StoreError::failed("read a range", error);
        if read.range.is_empty() || read.limit == 0 {
            return Ok(Vec::new());
        }
        let base = self.table.range::<&[u8]>(bounds(&read.range)).map_err(failed)?;
        let own = |item: RedbItem<'_>| {
            let (key, value) = item.map_err(failed)?;
            Ok((key.value().to_vec(), value.value().to_vec()))
        };
        let mut overlay = locked(&self.overlay);
        match read.direction {
            Direction::Forward => overlay.read_range(read, base.map(own)),
            Direction::Reverse => overlay.read_range(read, base.rev().map(own)),
        }
    }

    fn set(&self, key: &[u8], value: &[u8]) {
        locked(&self.overlay).set(key, value);
    }

    fn clear(&self, key: &[u8]) {
        locked(&self.overlay).clear(key);
    }

    fn clear_range(&self, range: &KeyRange) {
        locked(&self.overlay).clear_range(range);
    }

    async fn commit(&self) -> Result<(), StoreError> {
        let overlay = locked(&self.overlay);
        if overlay.is_read_only() {
            return Ok(());
        }
        overlay.assert_within_limits();
        self.store.commit(self.began, &overlay)
    }
}
