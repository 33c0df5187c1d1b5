//! What a volume may show: for each granule, every content that some order of what the guest did
//! allows, and after a power cut what was not made durable allows.
//!
//! A granule is what nothing tears: the smaller of the logical blocks of the device and of the
//! LUNs. Its list holds *candidates*: writes (or zeros) that the granule may show.
//! - A candidate is *superseded* by a later one: one that began after it had ended, ended well,
//!   and had ended before the read began. The reader must not see a superseded one.
//! - A flush that ended well makes durable whatever had ended before it began; what a durable
//!   candidate supersedes can never come back, and leaves the list.
//! - A power cut lets every candidate of the list show up. A kill of the daemon changes nothing:
//!   requests under way are given to its successor again.
//! - Whoever reads a granule while no write to it is under way fixes what it shows.

use crate::stamp::Stamp;

/// Time in the world's events.
pub type Moment = u64;
const OPEN: Moment = Moment::MAX;
/// The content before anything was written.
const INITIAL: u32 = 0;

#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Which operation; [`INITIAL`] is none.
    write: u32,
    is_zeros: bool,
    start: Moment,
    end: Moment,
    /// Whether it surely happened: then it supersedes what had ended before it began.
    wins: bool,
    /// When a reader that began then has seen it: it supersedes what had ended before that.
    seen: Option<Moment>,
    /// If the granule shows it, then it is durable.
    is_durable: bool,
    /// Can never come back: only reads that began before its end was sealed may show it.
    is_gone: bool,
}

impl Candidate {
    const ZEROS: Self = Self {
        write: INITIAL,
        is_zeros: true,
        start: 0,
        end: 0,
        wins: true,
        seen: None,
        is_durable: true,
        is_gone: false,
    };

    /// Whether a read that began at `began` must not see the other one because of this one. What
    /// a later reader has seen says nothing to it.
    fn supersedes(&self, other: &Self, began: Moment) -> bool {
        let by_order = self.wins && self.end < began && other.end < self.start;
        let by_reader = self.seen.is_some_and(|seen| seen <= began && other.end < seen);
        (by_order || by_reader) && self.write != other.write
    }
}

/// What a guest does to a range of granules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Writes its own stamp.
    Write,
    /// Makes it read as zeros.
    Zero,
}

/// The granules of one volume.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// Empty until the granule is written for the first time.
    granules: Vec<Vec<Candidate>>,
    /// Granules that may have more than one durable content.
    unsettled: Vec<u32>,
    is_unsettled: Vec<bool>,
    is_distrusted: bool,
}

/// A granule shows what it must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Which granule.
    pub granule: u64,
    /// What would have been allowed.
    pub allowed: String,
    /// All candidates, for whoever looks for the cause.
    pub history: String,
}

impl Oracle {
    /// A new volume: zeros everywhere.
    #[must_use]
    pub fn new(granules: u64) -> Self {
        let count = granules as usize;
        Self {
            granules: vec![Vec::new(); count],
            unsettled: Vec::new(),
            is_unsettled: vec![false; count],
            is_distrusted: false,
        }
    }

    /// What somebody sees who looks at this moment, when nothing is under way: of several
    /// candidates the first read fixes one, for ever.
    #[must_use]
    pub fn settled(&self, now: Moment) -> Self {
        let mut settled = Self::new(self.granules.len() as u64);
        for (granule, list) in self.granules.iter().enumerate() {
            let shows = |one: &&Candidate| {
                !one.is_gone && !list.iter().any(|other| other.supersedes(one, now))
            };
            let sealed = |one: &Candidate| Candidate {
                end: one.end.min(now),
                seen: None,
                is_durable: true,
                ..*one
            };
            settled.granules[granule] = list.iter().filter(shows).map(sealed).collect();
            settled.is_unsettled[granule] = settled.granules[granule].len() > 1;
            if settled.is_unsettled[granule] {
                settled.unsettled.push(granule as u32);
            }
        }
        settled
    }

    /// How many granules it has.
    #[must_use]
    pub fn granules(&self) -> u64 {
        self.granules.len() as u64
    }

    /// The first so many granules.
    #[must_use]
    pub fn first(&self, granules: u64) -> Self {
        let mut first = self.clone();
        first.granules.truncate(granules as usize);
        first.is_unsettled.truncate(granules as usize);
        first.unsettled.retain(|granule| u64::from(*granule) < granules);
        first
    }

    /// With more granules, which are zeros.
    #[must_use]
    pub fn grown_to(&self, granules: u64) -> Self {
        let mut grown = self.clone();
        grown.grow(granules);
        grown
    }

    /// Has more granules from now on, which are zeros.
    pub fn grow(&mut self, granules: u64) {
        let count = granules as usize;
        assert!(count >= self.granules.len(), "a volume never shrinks");
        self.granules.resize(count, Vec::new());
        self.is_unsettled.resize(count, false);
    }

    fn list(&mut self, granule: u64) -> &mut Vec<Candidate> {
        let list = &mut self.granules[granule as usize];
        if list.is_empty() {
            list.push(Candidate::ZEROS);
        }
        list
    }

    /// What a granule may show; beyond the end of the volume zeros.
    fn contents(&self, granule: u64) -> Vec<Shown> {
        match self.granules.get(granule as usize) {
            None => vec![Shown::Zeros],
            Some(list) if list.is_empty() => vec![Shown::Zeros],
            Some(list) => list.iter().map(Candidate::shown).collect(),
        }
    }

    /// Whether a granule may show the same as that of another volume, or zeros if there is none.
    #[must_use]
    pub fn may_agree(&self, granule: u64, other: Option<&Self>) -> bool {
        let zeros = || vec![Shown::Zeros];
        let other = other.map_or_else(zeros, |other| other.contents(granule));
        self.contents(granule).iter().any(|shown| other.contains(shown))
    }

    /// Operation `write` begins on a granule.
    pub fn begin(&mut self, granule: u64, write: u32, change: Change, now: Moment) {
        let candidate = Candidate {
            write,
            is_zeros: change == Change::Zero,
            start: now,
            end: OPEN,
            wins: false,
            seen: None,
            is_durable: false,
            is_gone: false,
        };
        self.list(granule).push(candidate);
        if !std::mem::replace(&mut self.is_unsettled[granule as usize], true) {
            self.unsettled.push(granule as u32);
        }
    }

    /// Operation `write` has ended on a granule; a failed one may have happened or not.
    pub fn end(&mut self, granule: u64, write: u32, is_ok: bool, now: Moment) {
        let is_sure = is_ok && !self.is_distrusted;
        for candidate in self.list(granule).iter_mut().filter(|c| c.write == write) {
            candidate.end = now;
            candidate.wins = is_sure;
        }
    }

    /// Operation `write` ended well and is durable by itself.
    pub fn is_durable(&mut self, granule: u64, write: u32) {
        let list = self.list(granule);
        for candidate in list.iter_mut().filter(|c| c.write == write) {
            candidate.is_durable = true;
        }
        forget_superseded(list);
    }

    /// A flush that began at `began` has ended well; no read under way began before `horizon`.
    pub fn flushed(&mut self, began: Moment, horizon: Moment) {
        let unsettled = std::mem::take(&mut self.unsettled);
        for granule in unsettled {
            let list = &mut self.granules[granule as usize];
            for candidate in list.iter_mut().filter(|c| c.end < began) {
                candidate.is_durable = true;
            }
            forget_superseded(list);
            purge(list, horizon);
            let is_settled = list.len() == 1 && list[0].is_durable;
            self.is_unsettled[granule as usize] = !is_settled;
            if !is_settled {
                self.unsettled.push(granule);
            }
        }
    }

    /// What was not durable may be lost from now on: a flush failed.
    pub fn distrust(&mut self, now: Moment) {
        self.is_distrusted = true;
        self.unsettle(now, false);
    }

    /// Whether granules of one block may show anything: a LUN has dropped what it had, and under
    /// that may lie
    /// what nobody has written there. Only reads of a volume that takes no more writes meet this.
    #[must_use]
    pub fn is_anything_possible(&self, mut granules: std::ops::Range<u64>) -> bool {
        self.is_distrusted && granules.any(|granule| self.is_unsettled[granule as usize])
    }

    /// The volume is served again after it had been distrusted; nothing is under way.
    pub fn trust_again(&mut self, now: Moment) {
        self.is_distrusted = false;
        self.unsettle(now, true);
    }

    /// The node was lost and the LUNs were not: every candidate may show up. What shows up may lie
    /// in the cache of a LUN, and needs a flush like everything else.
    pub fn node_was_lost(&mut self, now: Moment) {
        self.is_distrusted = false;
        self.unsettle(now, true);
    }

    /// The power was cut: every candidate may show up, and what shows up is on the medium.
    pub fn power_was_cut(&mut self, now: Moment) {
        self.node_was_lost(now);
        for granule in &self.unsettled {
            for candidate in &mut self.granules[*granule as usize] {
                candidate.is_durable = true;
            }
        }
    }

    fn unsettle(&mut self, now: Moment, ends_all: bool) {
        for granule in &self.unsettled {
            if ends_all {
                self.granules[*granule as usize].retain(|candidate| !candidate.is_gone);
            }
            for candidate in &mut self.granules[*granule as usize] {
                candidate.wins &= candidate.is_durable;
                candidate.seen = candidate.seen.filter(|_| candidate.is_durable);
                if ends_all {
                    candidate.end = candidate.end.min(now);
                }
            }
        }
    }

    /// A read from `began` to `now` has shown this content, of the volume's own or zeros.
    ///
    /// # Errors
    /// When nothing allows it.
    pub fn check(
        &mut self,
        granule: u64,
        shown: Shown,
        began: Moment,
        now: Moment,
    ) -> Result<(), Box<Mismatch>> {
        let is_distrusted = self.is_distrusted;
        let list = self.list(granule);
        let is_visible = |list: &[Candidate], candidate: &Candidate| {
            !list.iter().any(|other| other.supersedes(candidate, began))
        };
        let matching = list
            .iter()
            .enumerate()
            .filter(|(_, candidate)| shown.is(candidate) && is_visible(list, candidate))
            .map(|(index, candidate)| (candidate.is_durable, index))
            .min();
        let Some((_, index)) = matching else {
            let allowed: Vec<String> =
                list.iter().filter(|c| is_visible(list, c)).map(Candidate::content).collect();
            let history: Vec<String> = list.iter().map(ToString::to_string).collect();
            let (allowed, history) = (allowed.join(" or "), history.join(", "));
            return Err(Box::new(Mismatch { granule, allowed, history }));
        };
        debug_assert!(now >= began);
        let is_at_rest = list.iter().all(|c| c.end < began && c.seen.is_none_or(|at| at <= began));
        if !is_distrusted && is_at_rest {
            fix(list, index, began);
        }
        Ok(())
    }
}

/// The content of a granule, as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// Zeros.
    Zeros,
    /// What this operation wrote.
    Write(u32),
}

impl Shown {
    /// What a sector's stamp says, if it is zeros or for that sector, of one of these volumes.
    /// The numbers of operations are never given again, whatever the volume.
    #[must_use]
    pub fn of(stamp: Stamp, lineage: &[u32], own_sector: u64) -> Option<Self> {
        match stamp {
            Stamp::Zeros => Some(Self::Zeros),
            Stamp::Written { volume, sector, write }
                if lineage.contains(&volume) && sector == own_sector =>
            {
                Some(Self::Write(write))
            }
            _ => None,
        }
    }

    const fn is(self, candidate: &Candidate) -> bool {
        match self {
            Self::Zeros => candidate.is_zeros,
            Self::Write(write) => !candidate.is_zeros && candidate.write == write,
        }
    }
}

/// A reader has seen the candidate of this index: it won over all the others.
fn fix(list: &mut [Candidate], index: usize, began: Moment) {
    list[index].seen = Some(began);
    forget_superseded(list);
}

/// What a durable candidate supersedes can never come back.
fn forget_superseded(list: &mut [Candidate]) {
    for index in 0..list.len() {
        let candidate = list[index];
        list[index].is_gone |= list.iter().any(|c| c.is_durable && c.supersedes(&candidate, OPEN));
    }
}

/// Drops what no read under way can show any more.
fn purge(list: &mut Vec<Candidate>, horizon: Moment) {
    let winners: Vec<Candidate> = list.iter().filter(|c| c.is_durable).copied().collect();
    list.retain(|candidate| !winners.iter().any(|winner| winner.supersedes(candidate, horizon)));
}

impl Candidate {
    const fn shown(&self) -> Shown {
        if self.is_zeros { Shown::Zeros } else { Shown::Write(self.write) }
    }

    fn content(&self) -> String {
        let Self { write, is_zeros, .. } = self;
        match (*write, is_zeros) {
            (INITIAL, _) => "zeros from the beginning".to_owned(),
            (write, true) => format!("zeros of #{write}"),
            (write, false) => format!("data of #{write}"),
        }
    }
}

impl std::fmt::Display for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}..", self.content(), self.start)?;
        match self.end {
            OPEN => f.write_str("under way")?,
            end => write!(f, "{end}")?,
        }
        let gone = if self.is_gone { ", gone" } else { "" };
        let durable = if self.is_durable { ", durable" } else { "" };
        let unsure = if self.wins || self.end == OPEN { "" } else { ", unsure" };
        write!(f, "{durable}{unsure}{gone})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what granule 0 may show to a read that begins at `began`, without a trace of the look.
    fn may_show(oracle: &mut Oracle, shown: Shown, began: Moment) -> bool {
        let before = oracle.granules[0].clone();
        let is_ok = oracle.check(0, shown, began, began + 1).is_ok();
        oracle.granules[0] = before;
        is_ok
    }

    fn write(oracle: &mut Oracle, number: u32, start: Moment, end: Moment) {
        oracle.begin(0, number, Change::Write, start);
        oracle.end(0, number, true, end);
    }

    #[test]
    fn only_the_last_completed_write_is_visible() {
        let mut oracle = Oracle::new(1);
        assert!(may_show(&mut oracle, Shown::Zeros, 1));
        write(&mut oracle, 1, 2, 3);
        write(&mut oracle, 2, 4, 5);
        for (shown, is_visible) in
            [(Shown::Zeros, false), (Shown::Write(1), false), (Shown::Write(2), true)]
        {
            assert_eq!(may_show(&mut oracle, shown, 6), is_visible, "{shown:?}");
        }
        assert!(may_show(&mut oracle, Shown::Write(1), 5), "a read that began before the end");
        oracle.begin(0, 3, Change::Write, 7);
        assert!(may_show(&mut oracle, Shown::Write(3), 8), "a write under way");
        assert!(may_show(&mut oracle, Shown::Write(2), 8));
    }

    #[test]
    fn what_a_reader_has_fixed_says_nothing_to_a_read_that_began_before() {
        let mut oracle = Oracle::new(1);
        oracle.begin(0, 1, Change::Zero, 2);
        oracle.begin(0, 2, Change::Zero, 3);
        oracle.end(0, 1, true, 4);
        write(&mut oracle, 3, 5, 6);
        oracle.end(0, 2, true, 9);
        oracle.check(0, Shown::Zeros, 10, 11).expect("the later zeros may have come last");
        assert!(may_show(&mut oracle, Shown::Write(3), 8), "it began while those were under way");
        assert!(!may_show(&mut oracle, Shown::Write(3), 12));
    }

    #[test]
    fn of_two_writes_at_once_the_one_that_was_read_stays() {
        let mut oracle = Oracle::new(1);
        oracle.begin(0, 1, Change::Write, 2);
        oracle.begin(0, 2, Change::Write, 3);
        oracle.end(0, 1, true, 4);
        oracle.end(0, 2, true, 5);
        assert!(may_show(&mut oracle, Shown::Write(1), 6));
        oracle.check(0, Shown::Write(2), 6, 7).expect("either is visible");
        assert!(!may_show(&mut oracle, Shown::Write(1), 8));
    }

    #[test]
    fn a_power_cut_brings_back_whatever_no_flush_covered() {
        let mut oracle = Oracle::new(1);
        write(&mut oracle, 1, 2, 3);
        oracle.flushed(4, Moment::MAX);
        write(&mut oracle, 2, 5, 6);
        write(&mut oracle, 3, 7, 8);
        oracle.flushed(8, Moment::MAX);
        oracle.power_was_cut(9);
        for (shown, is_visible) in [
            (Shown::Zeros, false),
            (Shown::Write(1), false),
            (Shown::Write(2), true),
            (Shown::Write(3), true),
        ] {
            assert_eq!(may_show(&mut oracle, shown, 10), is_visible, "{shown:?}");
        }
        oracle.check(0, Shown::Write(2), 10, 11).expect("it may have survived");
        oracle.power_was_cut(12);
        assert!(!may_show(&mut oracle, Shown::Write(3), 13), "what survived is on the medium");
    }

    #[test]
    fn what_a_reader_sees_after_the_loss_of_a_node_is_durable_with_the_next_flush() {
        let mut oracle = Oracle::new(1);
        write(&mut oracle, 1, 2, 3);
        oracle.node_was_lost(4);
        oracle.check(0, Shown::Write(1), 5, 6).expect("the LUN has it");
        assert!(!may_show(&mut oracle, Shown::Zeros, 7), "it was read");
        oracle.power_was_cut(8);
        assert!(may_show(&mut oracle, Shown::Zeros, 9), "it was in a cache");

        let mut oracle = Oracle::new(1);
        write(&mut oracle, 1, 2, 3);
        oracle.node_was_lost(4);
        oracle.check(0, Shown::Write(1), 5, 6).expect("the LUN has it");
        oracle.flushed(7, Moment::MAX);
        oracle.power_was_cut(8);
        assert!(!may_show(&mut oracle, Shown::Zeros, 9), "a flush covers what others have left");
    }

    #[test]
    fn a_durable_write_needs_no_flush_and_a_failed_one_promises_nothing() {
        let mut oracle = Oracle::new(1);
        write(&mut oracle, 1, 2, 3);
        oracle.is_durable(0, 1);
        oracle.begin(0, 2, Change::Zero, 4);
        oracle.end(0, 2, false, 5);
        oracle.power_was_cut(6);
        assert!(may_show(&mut oracle, Shown::Write(1), 7));
        assert!(may_show(&mut oracle, Shown::Zeros, 7), "the failed one may have happened");
        oracle.check(0, Shown::Write(1), 7, 8).expect("it is allowed");
        assert!(!may_show(&mut oracle, Shown::Zeros, 9));
    }

    #[test]
    fn two_volumes_agree_where_both_may_show_the_same() {
        let (mut one, mut other) = (Oracle::new(2), Oracle::new(1));
        write(&mut one, 1, 2, 3);
        let before = one.settled(4);
        assert!(!before.may_agree(0, None) && before.may_agree(1, None));
        assert!(before.may_agree(1, Some(&other)), "beyond its end are zeros");
        one.begin(0, 2, Change::Write, 5);
        one.end(0, 2, false, 6);
        assert!(one.settled(7).may_agree(0, Some(&before)), "the second may not have happened");
        write(&mut other, 3, 8, 9);
        assert!(!other.settled(10).may_agree(0, Some(&one)));
    }

    #[test]
    fn after_a_failed_flush_only_what_was_durable_before_is_sure() {
        let mut oracle = Oracle::new(1);
        write(&mut oracle, 1, 2, 3);
        oracle.flushed(4, Moment::MAX);
        write(&mut oracle, 2, 5, 6);
        oracle.distrust(7);
        assert!(oracle.is_anything_possible(0..1));
        oracle.trust_again(8);
        assert!(may_show(&mut oracle, Shown::Write(1), 9));
        assert!(may_show(&mut oracle, Shown::Write(2), 9));
        assert!(!may_show(&mut oracle, Shown::Zeros, 9));
    }
}
