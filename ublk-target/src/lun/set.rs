//! The open LUNs of a pool, shared by the volumes on it.
//!
//! Invariants:
//! - a LUN is open once in the process, claimed, however many volumes use it;
//! - the label was read through the very descriptor that is used, after it was claimed;
//! - a LUN is closed when the last volume on it is gone;
//! - a pool's LUNs only grow in number while a volume has them; all holders see the new ones;
//! - the host's devices are looked at by one at a time, as long as that one gets on: a daemon that
//!   takes many volumes over at once reads each label once, not once a volume.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use lunar_engine::journal::LunSet;
use lunar_engine::label::{self, LabelError};
use lunar_engine::lun::{LunDevice, LunLayout, LunTable};
use lunar_proto::domain::{Lun, Pool};
use lunar_types::{ClusterId, LunId, LunIndex};

use super::inventory::{Depth, LocalLun, Search, find_luns};
use super::open::{self, Access, OpenError};
use crate::guard::{Authority, Gate, GuardedLun, LunGuard};

/// How long one who needs a LUN waits for another one who looks for LUNs. A device that hangs
/// keeps who looks at it, and for this long who comes next, but nobody for ever.
const SEARCH_PATIENCE: Duration = Duration::from_secs(1);

/// A LUN that is open and claimed.
pub struct OpenLun {
    /// Which one.
    pub id: LunId,
    /// The path it was opened by.
    pub path: PathBuf,
    device: GuardedLun,
}

impl OpenLun {
    /// Its gate.
    #[must_use]
    pub fn guard(&self) -> &Arc<LunGuard> {
        self.device.guard()
    }

    /// The open device.
    #[must_use]
    pub const fn file(&self) -> &File {
        self.device.device().file()
    }
}

/// A pool's LUN cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LunSetError {
    /// The host's devices cannot be listed.
    #[error("cannot list the block devices of this host")]
    List(#[source] std::io::Error),
    /// No device has its label.
    #[error(
        "LUN {lun} of pool '{pool}' is not visible on this node: check the connection to the \
         array, then lunar lun list"
    )]
    Missing {
        /// The LUN.
        lun: LunId,
        /// Its pool.
        pool: String,
    },
    /// Two devices have its label.
    #[error("LUN {lun} of pool '{pool}' cannot be told from a copy of it: {problem}")]
    Ambiguous {
        /// The LUN.
        lun: LunId,
        /// Its pool.
        pool: String,
        /// Which ones.
        problem: String,
    },
    /// It cannot be opened.
    #[error("LUN {lun} cannot be opened")]
    Open {
        /// The LUN.
        lun: LunId,
        /// Why not.
        #[source]
        source: OpenError,
    },
    /// Its label does not hold.
    #[error("the label of LUN {lun} on {} does not hold", path.display())]
    Label {
        /// The LUN.
        lun: LunId,
        /// The device.
        path: PathBuf,
        /// Why not.
        #[source]
        source: LabelError,
    },
    /// The device turned out to be another LUN.
    #[error("{} was LUN {lun} a moment ago and is LUN {found} now", path.display())]
    Changed {
        /// The LUN.
        lun: LunId,
        /// What the label says now.
        found: LunId,
        /// The device.
        path: PathBuf,
    },
    /// The node may not write to it.
    #[error(
        "LUN {lun} of pool '{pool}' cannot be used on this node yet: {why}; see lunar node status"
    )]
    NotRegistered {
        /// The LUN.
        lun: LunId,
        /// Its pool.
        pool: String,
        /// What is missing.
        why: String,
    },
    /// It is smaller than the pool thinks.
    #[error(
        "LUN {lun} on {} has {size} B, but was added to its pool with {expected} B: restore its \
         size", path.display()
    )]
    Shrank {
        /// The LUN.
        lun: LunId,
        /// The device.
        path: PathBuf,
        /// Size now.
        size: u64,
        /// Size in the pool.
        expected: u64,
    },
}

/// The LUNs of a pool, for one volume. Clones are the same set.
#[derive(Debug, Clone)]
pub struct PoolLuns {
    cluster: ClusterId,
    luns: Arc<[OnceLock<Arc<OpenLun>>]>,
    table: LunTable,
}

impl PoolLuns {
    fn empty(cluster: ClusterId) -> Self {
        let luns = (0..LunIndex::LIMIT).map(|_| OnceLock::new()).collect();
        Self { cluster, luns, table: LunTable::new([]) }
    }

    /// Where their extents are.
    #[must_use]
    pub const fn table(&self) -> &LunTable {
        &self.table
    }

    fn get(&self, index: LunIndex) -> Option<&OpenLun> {
        self.luns[usize::from(index.get())].get().map(AsRef::as_ref)
    }

    /// The gate of a LUN.
    #[must_use]
    pub fn guard(&self, index: LunIndex) -> Option<&Arc<LunGuard>> {
        self.get(index).map(OpenLun::guard)
    }

    /// The descriptor of a LUN, which stays open while this set exists.
    #[must_use]
    pub fn descriptor(&self, index: LunIndex) -> Option<RawFd> {
        self.get(index).map(|lun| lun.file().as_raw_fd())
    }

    /// The LUNs themselves.
    pub fn iter(&self) -> impl Iterator<Item = &OpenLun> {
        self.table.indices().filter_map(|index| self.get(index))
    }

    /// The LUN comes before its layout: what the table knows can be used.
    fn add(&self, lun: &Lun, pool: &Pool, open: Arc<OpenLun>) -> Result<(), LunSetError> {
        check_size(lun, &open)?;
        check_registered(pool, &open)?;
        let known = self.luns[usize::from(lun.index.get())].get_or_init(|| open);
        assert_eq!(known.id, lun.id, "the LUN behind index {} does not change", lun.index);
        self.table.add(lun.index, LunLayout::new(pool.extent_size, lun.size.get()));
        Ok(())
    }
}

impl LunSet for PoolLuns {
    fn lun(&self, index: LunIndex) -> Option<&dyn LunDevice> {
        self.get(index).map(|lun| &lun.device as &dyn LunDevice)
    }
}

impl fmt::Debug for OpenLun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenLun").field("id", &self.id).field("path", &self.path).finish()
    }
}

/// A LUN of a pool, open or why not.
#[derive(Debug)]
pub struct Opened {
    /// Which one.
    pub lun: LunId,
    /// The LUN.
    pub result: Result<Arc<OpenLun>, LunSetError>,
}

/// Opens LUNs, each once.
#[derive(Debug)]
pub struct LunOpener {
    search: Search,
    authority: Arc<Authority>,
    open: Mutex<HashMap<LunId, Weak<OpenLun>>>,
    is_searching: Mutex<bool>,
    searched: Condvar,
    patience: Duration,
}

/// A search of the host's devices; the next one may begin when it is dropped.
struct SearchTurn<'o> {
    opener: &'o LunOpener,
    /// False for one who has lost patience with another's search: that one is still under way.
    is_first: bool,
}

impl Drop for SearchTurn<'_> {
    fn drop(&mut self) {
        if self.is_first {
            *self.opener.is_searching.lock().expect(UNPOISONED) = false;
            self.opener.searched.notify_all();
        }
    }
}

const UNPOISONED: &str = "a panic ends the process";

impl LunOpener {
    /// Nothing is open yet.
    #[must_use]
    pub fn new(search: Search, authority: Arc<Authority>) -> Self {
        let (open, is_searching) = (Mutex::default(), Mutex::new(false));
        let (searched, patience) = (Condvar::new(), SEARCH_PATIENCE);
        Self { search, authority, open, is_searching, searched, patience }
    }

    /// Where it looks.
    #[must_use]
    pub const fn search(&self) -> &Search {
        &self.search
    }

    /// Opens every LUN of a pool. It blocks: devices are read.
    ///
    /// # Errors
    /// When one is missing or does not hold what it should.
    pub fn open_pool(&self, pool: &Pool, cluster: ClusterId) -> Result<PoolLuns, LunSetError> {
        let luns = PoolLuns::empty(cluster);
        self.extend(&luns, pool)?;
        Ok(luns)
    }

    /// Opens each LUN of a pool, whether or not the others can be. It blocks: devices are read.
    ///
    /// # Errors
    /// When the host's devices cannot be listed.
    pub fn open_each(&self, pool: &Pool, cluster: ClusterId) -> Result<Vec<Opened>, LunSetError> {
        let is_open = |lun: &Lun| self.shared(lun.id).is_some();
        let all = if pool.luns.iter().all(is_open) {
            Vec::new()
        } else {
            let _turn = self.search_turn();
            find_luns(&self.search, Some(cluster), Depth::Labels).map_err(LunSetError::List)?
        };
        let open = |lun: &Lun| match self.shared(lun.id) {
            Some(shared) => Ok(shared),
            None => self.open_shared(lun, pool, &all),
        };
        let opened = |lun: &Lun| Opened { lun: lun.id, result: open(lun) };
        Ok(pool.luns.iter().map(opened).collect())
    }

    /// Opens the LUNs that a pool has and `luns` has not yet, and adds them. It blocks: devices
    /// are read.
    ///
    /// # Errors
    /// When one is missing or does not hold what it should; the others were added.
    pub fn extend(&self, luns: &PoolLuns, pool: &Pool) -> Result<(), LunSetError> {
        let (absent, problem) = self.add_shared(luns, pool);
        if absent.is_empty() {
            return problem;
        }
        let _turn = self.search_turn();
        // Who was searching has perhaps opened them meanwhile.
        let (absent, mut first_problem) = self.add_shared(luns, pool);
        if absent.is_empty() {
            return first_problem;
        }
        // Devices are read without the lock of what is open: one that hangs keeps nobody who needs
        // only LUNs that are.
        let all = find_luns(&self.search, Some(luns.cluster), Depth::Labels);
        let all = all.map_err(LunSetError::List)?;
        for lun in absent {
            let opened = self.open_shared(lun, pool, &all);
            let added = opened.and_then(|shared| luns.add(lun, pool, shared));
            first_problem = first_problem.and(added);
        }
        first_problem
    }

    /// Adds the pool's LUNs that are open already. Gives those that have to be opened, and the
    /// first problem with the others.
    fn add_shared<'p>(
        &self,
        luns: &PoolLuns,
        pool: &'p Pool,
    ) -> (Vec<&'p Lun>, Result<(), LunSetError>) {
        let (mut absent, mut first_problem) = (Vec::new(), Ok(()));
        for lun in pool.luns.iter().filter(|lun| luns.get(lun.index).is_none()) {
            match self.shared(lun.id) {
                Some(shared) => first_problem = first_problem.and(luns.add(lun, pool, shared)),
                None => absent.push(lun),
            }
        }
        (absent, first_problem)
    }

    /// Waits until nobody else is searching, but not for ever.
    fn search_turn(&self) -> SearchTurn<'_> {
        let others = self.is_searching.lock().expect(UNPOISONED);
        let waited = self.searched.wait_timeout_while(others, self.patience, |is| *is);
        let (mut is_searching, _) = waited.expect(UNPOISONED);
        let is_first = !*is_searching;
        *is_searching = true;
        SearchTurn { opener: self, is_first }
    }

    fn shared(&self, lun: LunId) -> Option<Arc<OpenLun>> {
        self.lock().get(&lun).and_then(Weak::upgrade)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LunId, Weak<OpenLun>>> {
        self.open.lock().expect(UNPOISONED)
    }

    fn open_shared(
        &self,
        lun: &Lun,
        pool: &Pool,
        all: &[LocalLun],
    ) -> Result<Arc<OpenLun>, LunSetError> {
        let mut open = self.lock();
        open.retain(|_, lun| lun.strong_count() > 0);
        if let Some(shared) = open.get(&lun.id).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let shared = Arc::new(open_lun(lun, pool, all, &self.authority)?);
        open.insert(lun.id, Arc::downgrade(&shared));
        Ok(shared)
    }
}

fn open_lun(
    lun: &Lun,
    pool: &Pool,
    all: &[LocalLun],
    authority: &Arc<Authority>,
) -> Result<OpenLun, LunSetError> {
    let id = lun.id;
    let pool_name = || pool.name.to_string();
    let local = all
        .iter()
        .find(|local| local.id() == Some(id))
        .ok_or_else(|| LunSetError::Missing { lun: id, pool: pool_name() })?;
    if local.is_ambiguous {
        let problem = local.inspected.problem.clone().unwrap_or_default();
        return Err(LunSetError::Ambiguous { lun: id, pool: pool_name(), problem });
    }
    let path = local.inspected.path.clone();
    let device =
        open::open(&path, Access::Claim).map_err(|source| LunSetError::Open { lun: id, source })?;
    match label::read(&device) {
        Ok(label) if label.lun == id => {
            let guard = LunGuard::new(id, pool.fencing, authority);
            Ok(OpenLun { id, path, device: GuardedLun::new(device, &guard) })
        }
        Ok(label) => Err(LunSetError::Changed { lun: id, found: label.lun, path }),
        Err(source) => Err(LunSetError::Label { lun: id, path, source }),
    }
}

/// A LUN with reservations is used when this process has registered there: whoever opened it before
/// would wait in a place where nobody sees why.
fn check_registered(pool: &Pool, open: &OpenLun) -> Result<(), LunSetError> {
    match open.guard().gate() {
        Gate::Frozen { why, .. } if !open.guard().was_open() => {
            Err(LunSetError::NotRegistered { lun: open.id, pool: pool.name.to_string(), why })
        }
        _ => Ok(()),
    }
}

fn check_size(lun: &Lun, open: &OpenLun) -> Result<(), LunSetError> {
    let (size, expected) = (open.device.size_bytes(), lun.size.get());
    if size >= expected {
        return Ok(());
    }
    Err(LunSetError::Shrank { lun: lun.id, path: open.path.clone(), size, expected })
}

#[cfg(test)]
mod tests {
    use lunar_types::{ByteCount, ExtentSize, LogicalBlockSize, PoolId};

    use super::super::inspect::tests::{OURS, labelled_file};
    use super::*;

    const SIZE: u64 = 64 << 20;

    fn pool(luns: &[(u128, u16, u64)]) -> Pool {
        let lun = |&(id, index, size): &(u128, u16, u64)| Lun {
            id: LunId::from_u128(id),
            index: LunIndex::new(index),
            size: ByteCount::new(size),
            logical_block_size: LogicalBlockSize::B512,
            data_extents: ExtentSize::DEFAULT.data_extents(size),
        };
        Pool {
            id: PoolId::from_u128(1),
            name: "fast".parse().expect("a name"),
            extent_size: ExtentSize::DEFAULT,
            luns: luns.iter().map(lun).collect(),
            logical_block_size: LogicalBlockSize::B512,
            watermarks: lunar_proto::domain::Watermarks::DEFAULT,
            fencing: lunar_proto::domain::PoolFencing::None,
        }
    }

    fn opener_of(paths: Vec<PathBuf>) -> LunOpener {
        LunOpener::new(Search { scan: false, paths }, Arc::default())
    }

    #[test]
    fn a_lun_is_open_once_and_closed_with_its_last_user() {
        let (one, two) = (labelled_file(OURS, 7), labelled_file(OURS, 8));
        let paths = vec![one.path().to_owned(), two.path().to_owned()];
        let opener = opener_of(paths);
        let first = opener.open_pool(&pool(&[(7, 0, SIZE), (8, 3, SIZE)]), OURS).expect("opened");
        let second = opener.open_pool(&pool(&[(7, 0, SIZE)]), OURS).expect("opened");
        let (index, none) = (LunIndex::new(0), LunIndex::new(1));
        assert!(first.descriptor(index).is_some() && first.descriptor(none).is_none());
        assert_eq!(first.descriptor(index), second.descriptor(index));
        assert!(first.lun(LunIndex::new(3)).is_some() && first.lun(LunIndex::new(1)).is_none());
        assert_eq!(first.table().indices().count(), 2);
        drop((first, second));
        let open = opener.open.lock().expect("not poisoned");
        assert!(open.values().all(|lun| lun.strong_count() == 0));
    }

    #[test]
    fn who_needs_a_lun_waits_for_the_search_of_another_but_not_for_ever() {
        let file = labelled_file(OURS, 7);
        let there = Search { scan: false, paths: vec![file.path().to_owned()] };
        let wanted = pool(&[(7, 0, SIZE)]);
        // Its own search would find nothing: it gets what the other one has opened.
        let mut opener = opener_of(Vec::new());
        opener.patience = Duration::MAX;
        let turn = opener.search_turn();
        let opened = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| opener.open_pool(&wanted, OURS));
            let all = find_luns(&there, Some(OURS), Depth::Labels).expect("found");
            let shared = opener.open_shared(&wanted.luns[0], &wanted, &all).expect("opened");
            drop(turn);
            (waiting.join().expect("no panic").expect("opened"), shared)
        });
        assert_eq!(opened.0.iter().count(), 1);
        assert!(!*opener.is_searching.lock().expect(UNPOISONED));

        let mut opener = LunOpener::new(there, Arc::default());
        opener.patience = Duration::from_millis(1);
        let hangs = opener.search_turn();
        assert_eq!(opener.open_pool(&wanted, OURS).expect("opened").iter().count(), 1);
        assert!(*opener.is_searching.lock().expect(UNPOISONED), "the first one still searches");
        drop(hangs);
        assert!(!*opener.is_searching.lock().expect(UNPOISONED));
    }

    #[test]
    fn a_set_grows_with_its_pool_and_an_absent_lun_leaves_it_as_it_was() {
        let (one, two) = (labelled_file(OURS, 7), labelled_file(OURS, 8));
        let paths = vec![one.path().to_owned(), two.path().to_owned()];
        let opener = opener_of(paths);
        let luns = opener.open_pool(&pool(&[(7, 0, SIZE)]), OURS).expect("opened");
        let elsewhere = luns.clone();
        let absent = pool(&[(7, 0, SIZE), (9, 1, SIZE)]);
        assert!(matches!(
            opener.extend(&luns, &absent),
            Err(LunSetError::Missing { lun, .. }) if lun == LunId::from_u128(9)
        ));
        assert_eq!(elsewhere.iter().count(), 1);
        opener.extend(&luns, &pool(&[(7, 0, SIZE), (8, 5, SIZE)])).expect("extended");
        assert_eq!(elsewhere.iter().map(|lun| lun.id).max(), Some(LunId::from_u128(8)));
        assert!(elsewhere.descriptor(LunIndex::new(5)).is_some());
        let ends = elsewhere.table().indices().map(LunIndex::get).collect::<Vec<_>>();
        assert_eq!(ends, [0, 5]);
    }

    #[test]
    fn a_missing_a_foreign_and_a_shrunken_lun_are_named() {
        let file = labelled_file(OURS, 7);
        let paths = vec![file.path().to_owned()];
        let opener = opener_of(paths);
        let missing = opener.open_pool(&pool(&[(9, 0, SIZE)]), OURS).expect_err("not there");
        assert!(missing.to_string().contains(&LunId::from_u128(9).to_string()), "{missing}");
        let foreign = opener.open_pool(&pool(&[(7, 0, SIZE)]), ClusterId::from_u128(5));
        assert!(matches!(foreign, Err(LunSetError::Missing { .. })));
        let shrank = opener.open_pool(&pool(&[(7, 0, SIZE * 2)]), OURS).expect_err("too small");
        assert!(matches!(shrank, LunSetError::Shrank { .. }), "{shrank}");
    }
}
