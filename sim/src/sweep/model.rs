//! What volumes may show after a crash, sector by sector.
//!
//! Requests come one after the other, so a sector's contents have an order: the one that is
//! durable, and those written after it that no flush has covered. A power cut may leave any of
//! them and nothing else; a kill leaves the last. Snapshots and clones, which nobody writes to,
//! show one content for ever.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::stamp::Stamp;

/// Which request wrote a sector; zero says that it reads as zeros.
pub(super) type WriteNumber = u32;

/// The contents of a volume that is not written to.
pub(super) type Content = Rc<[WriteNumber]>;

/// What a sector of the volume may show.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sector {
    durable: WriteNumber,
    later: Vec<WriteNumber>,
}

impl Sector {
    fn now(&self) -> WriteNumber {
        self.later.last().copied().unwrap_or(self.durable)
    }
}

/// What ended the daemon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum CrashKind {
    /// The node lost its power.
    Cut,
    /// The daemon was killed.
    Kill,
}

/// What there has to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Expected {
    volume: Vec<Sector>,
    /// Snapshots and clones by name.
    others: BTreeMap<String, Content>,
}

/// What there was.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Observed {
    /// The volume.
    pub(super) volume: Vec<WriteNumber>,
    /// Snapshots and clones by name.
    pub(super) others: BTreeMap<String, Vec<WriteNumber>>,
}

impl Expected {
    /// A new volume of this many sectors.
    pub(super) fn new(sectors: usize) -> Self {
        let zeros = Sector { durable: 0, later: Vec::new() };
        Self { volume: vec![zeros; sectors], others: BTreeMap::new() }
    }

    /// A request is given to the daemon: it may have happened from now on.
    pub(super) fn begin(&mut self, from: u64, count: u64, write: WriteNumber) {
        for sector in &mut self.volume[from as usize..(from + count) as usize] {
            sector.later.push(write);
        }
    }

    /// What was written to these sectors is promised.
    pub(super) fn promise(&mut self, from: u64, count: u64) {
        for sector in &mut self.volume[from as usize..(from + count) as usize] {
            *sector = Sector { durable: sector.now(), later: Vec::new() };
        }
    }

    /// Everything that was written is promised.
    pub(super) fn promise_all(&mut self) {
        self.promise(0, self.volume.len() as u64);
    }

    /// The volume has so many more sectors, which read as zeros.
    pub(super) fn grow(&mut self, sectors: usize) {
        let zeros = Sector { durable: 0, later: Vec::new() };
        self.volume.resize(self.volume.len() + sectors, zeros);
    }

    /// How large the volume is.
    pub(super) fn sectors(&self) -> usize {
        self.volume.len()
    }

    /// What the volume shows now.
    pub(super) fn now(&self) -> Content {
        self.volume.iter().map(Sector::now).collect()
    }

    /// There is another snapshot or clone.
    pub(super) fn add(&mut self, name: &str, content: Content) {
        self.others.insert(name.to_owned(), content);
    }

    /// A snapshot or clone is gone.
    pub(super) fn remove(&mut self, name: &str) {
        self.others.remove(name);
    }

    /// What a snapshot or clone shows.
    pub(super) fn content(&self, name: &str) -> Content {
        Rc::clone(&self.others[name])
    }

    /// The volume shows the content of a snapshot, and zeros beyond it: it keeps its size.
    pub(super) fn roll_back(&mut self, content: &Content) {
        let sector = |write: &WriteNumber| Sector { durable: *write, later: Vec::new() };
        let zeros = std::iter::repeat(&0);
        self.volume = content.iter().chain(zeros).take(self.volume.len()).map(sector).collect();
    }

    /// Holds what there was after a crash against this.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check(&self, observed: &Observed, kind: CrashKind) -> Result<(), String> {
        let (want, have) = (self.volume.len(), observed.volume.len());
        if want != have {
            return Err(format!("the volume has {have} sectors, and should have {want}"));
        }
        for (index, (sector, shown)) in self.volume.iter().zip(&observed.volume).enumerate() {
            let is_allowed = match kind {
                CrashKind::Cut => *shown == sector.durable || sector.later.contains(shown),
                CrashKind::Kill => *shown == sector.now(),
            };
            if !is_allowed {
                return Err(format!(
                    "sector {index} of the volume shows write {shown}, and after a {kind:?} may \
                     show {sector:?}"
                ));
            }
        }
        let names = |names: Vec<&String>| format!("{names:?}");
        let (want, have) =
            (names(self.others.keys().collect()), names(observed.others.keys().collect()));
        if want != have {
            return Err(format!("there are {have}, and there should be {want}"));
        }
        for (name, content) in &self.others {
            let shown = &observed.others[name];
            let (want, have) = (content.len(), shown.len());
            if want != have {
                return Err(format!("{name} has {have} sectors, and was made with {want}"));
            }
            let differs = content.iter().zip(shown).position(|(want, have)| want != have);
            if let Some(index) = differs {
                let (want, have) = (content[index], shown[index]);
                return Err(format!(
                    "sector {index} of {name} shows write {have}, and was {want} when it was made"
                ));
            }
        }
        Ok(())
    }
}

/// Which write a sector shows.
///
/// # Errors
/// When it shows what was never written there.
pub(super) fn write_shown(sector: u64, bytes: &[u8]) -> Result<WriteNumber, String> {
    match Stamp::read(bytes) {
        Stamp::Zeros => Ok(0),
        Stamp::Written { volume: 0, sector: at, write } if at == sector => Ok(write),
        other => Err(format!("sector {sector} shows {other}")),
    }
}
