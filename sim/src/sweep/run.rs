//! Whole sweeps: sequences, their moments and states, each recovered once and judged each time.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::medium::{SectorMask, mix};
use super::model::{CrashKind, Observed};
use super::node::{Node, Outcome};
use super::ops::Op;
use super::record::{Pending, Point};
use super::recover::recover;
use super::states::{Survivors, Tears, image_of, states};
use crate::planted::Planted;
use crate::run::caught;

/// The most operations of a sequence.
const LENGTH_MAX: usize = 3;

/// What is enumerated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Sequences of one and two operations with tears, and those of three without.
    Short,
    /// Everything.
    Whole,
}

/// A state by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateName {
    /// The operations.
    pub sequence: Vec<Op>,
    /// Which moment of the run of the sequence.
    pub moment: usize,
    /// Whether the daemon was killed; else the power was cut.
    pub is_kill: bool,
    /// The volatile writes that survive whole, one bit each.
    pub whole: u64,
    /// One of them of which only the sectors of a mask survive.
    pub torn: Option<Torn>,
}

/// A torn write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Torn {
    /// Which of the volatile writes.
    pub write: usize,
    /// The sectors that survive, one bit each.
    pub sectors: u128,
}

impl FromStr for Torn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(write, sectors)| {
            let sectors = u128::from_str_radix(sectors, 16).ok()?;
            Some(Self { write: write.parse().ok()?, sectors })
        });
        parsed.ok_or_else(|| format!("'{text}' is no tear: give WRITE:SECTORS, sectors in hex"))
    }
}

impl fmt::Display for StateName {
    /// The command that repeats it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.sequence.iter().map(|op| op.name()).collect();
        let kind = if self.is_kill { "kill" } else { "cut" };
        let (names, moment) = (names.join(","), self.moment);
        write!(f, "cargo run --release -p sim -- crash-state --sequence {names}")?;
        write!(f, " --moment {moment} --crash-kind {kind} --whole {:x}", self.whole)?;
        match self.torn {
            None => Ok(()),
            Some(Torn { write, sectors }) => write!(f, " --torn {write}:{sectors:x}"),
        }
    }
}

/// A state that is not recovered as it must be.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}\n  repeat it with: {state}{}", planted_option(*planted))]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// Where.
    pub state: StateName,
    planted: Option<Planted>,
}

fn planted_option(planted: Option<Planted>) -> String {
    planted.map_or_else(String::new, |bug| format!(" --planted {}", bug.name()))
}

/// What a sweep has done.
#[derive(Clone, Default, Debug)]
pub struct Report {
    /// Sequences run.
    pub sequences: u64,
    /// Moments at which a crash was set.
    pub moments: u64,
    /// States that were judged: of each moment, each subset and tear.
    pub states: u64,
    /// Different states among them: what the disks, the store and the dirty table have. Each was
    /// recovered.
    pub distinct: u64,
    /// Of them, after a kill of the daemon.
    pub kills: u64,
    /// The most writes that were not flushed at one moment.
    pub volatile_most: usize,
    /// What is wrong.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Adds that of another sequence.
    fn add(&mut self, other: Self) {
        self.sequences += other.sequences;
        self.moments += other.moments;
        self.states += other.states;
        self.distinct += other.distinct;
        self.kills += other.kills;
        self.volatile_most = self.volatile_most.max(other.volatile_most);
        self.failures.extend(other.failures);
    }
}

/// What tells states apart.
type Fingerprint = (u64, u64);

/// A sweep, which every processor takes part in.
pub struct Sweep {
    scope: Scope,
    planted: Option<Planted>,
    failures_max: usize,
    sequences: Vec<Vec<Op>>,
}

/// What those who take part share.
#[derive(Default)]
struct Shared {
    /// The sequence that is taken next.
    next: AtomicUsize,
    seen: Mutex<Seen>,
    report: Mutex<Report>,
}

/// What was there after the recovery of each state.
#[derive(Default)]
struct Seen {
    by_state: HashMap<Fingerprint, Arc<Observed>>,
    /// Equal observations are kept once.
    observed: HashSet<Arc<Observed>>,
}

impl Seen {
    /// Keeps what there was; says whether nobody had recovered this state before.
    fn keep(&mut self, print: Fingerprint, observed: Observed) -> (Arc<Observed>, bool) {
        let shared = match self.observed.get(&observed) {
            Some(shared) => Arc::clone(shared),
            None => {
                let shared = Arc::new(observed);
                self.observed.insert(Arc::clone(&shared));
                shared
            }
        };
        let is_new = self.by_state.insert(print, Arc::clone(&shared)).is_none();
        (shared, is_new)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("a panic of a recovery is caught")
}

impl Sweep {
    /// A sweep of this scope that ends at so many failures.
    #[must_use]
    pub fn new(scope: Scope, planted: Option<Planted>, failures_max: usize) -> Self {
        Self { scope, planted, failures_max, sequences: all_sequences() }
    }

    /// The same for the last operations of these sequences only.
    #[must_use]
    pub fn over(self, sequences: Vec<Vec<Op>>) -> Self {
        Self { sequences, ..self }
    }

    /// Runs it; `progress` is told the report and the sequence after each sequence.
    pub fn run(self, progress: impl Fn(&Report, &[Op]) + Sync) -> Report {
        let shared = Shared::default();
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        std::thread::scope(|scope| {
            for _ in 0..threads.min(self.sequences.len()) {
                scope.spawn(|| self.take_part(&shared, &progress));
            }
        });
        shared.report.into_inner().expect("a panic of a recovery is caught")
    }

    /// Sweeps one sequence after the other that nobody else has taken.
    fn take_part(&self, shared: &Shared, progress: &impl Fn(&Report, &[Op])) {
        loop {
            let next = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(sequence) = self.sequences.get(next) else { return };
            let failed = lock(&shared.report).failures.len();
            if failed >= self.failures_max {
                return;
            }
            let one = self.sweep_sequence(shared, sequence, self.failures_max - failed);
            let mut report = lock(&shared.report);
            report.add(one);
            progress(&report, sequence);
        }
    }

    /// A sequence: the moments of its last operation. Those before are of shorter sequences.
    fn sweep_sequence(&self, shared: &Shared, sequence: &[Op], failures_max: usize) -> Report {
        let with = match self.scope {
            Scope::Short if sequence.len() == LENGTH_MAX => Tears::None,
            Scope::Short => Tears::Beside(5),
            Scope::Whole => Tears::Beside(8),
        };
        let mut report = Report { sequences: 1, ..Report::default() };
        let (points, from, ended) = run_sequence(sequence, self.planted);
        for (moment, point) in points.iter().enumerate().skip(from) {
            report.moments += 1;
            report.volatile_most = report.volatile_most.max(point.volatile.len());
            let at = Moment { point, beside: Beside::of(point) };
            for survivors in states(point, with) {
                if let Err(what) = self.judge(shared, &at, &survivors, &mut report) {
                    self.fail(what, name_of(sequence, moment, &survivors), &mut report);
                }
                if report.failures.len() >= failures_max {
                    return report;
                }
            }
        }
        if let Err(what) = ended {
            let (moment, kind) = (points.len().saturating_sub(1), CrashKind::Cut);
            let none = Survivors { kind, whole: 0, torn: None };
            let name = name_of(sequence, moment, &none);
            self.fail(format!("the sequence itself: {what}"), name, &mut report);
        }
        report
    }

    fn fail(&self, what: String, state: StateName, report: &mut Report) {
        report.failures.push(Failure { what, state, planted: self.planted });
    }

    fn judge(
        &self,
        shared: &Shared,
        Moment { point, beside }: &Moment<'_>,
        survivors: &Survivors,
        report: &mut Report,
    ) -> Outcome {
        report.states += 1;
        let image = image_of(point, survivors);
        let print = (image.hash(), beside.hash(survivors.kind));
        let known = lock(&shared.seen).by_state.get(&print).map(Arc::clone);
        let observed = match known {
            Some(observed) => observed,
            None => {
                let planted = self.planted;
                let observed = caught(|| recover(point, image, survivors.kind, planted))??;
                let (observed, is_new) = lock(&shared.seen).keep(print, observed);
                report.distinct += u64::from(is_new);
                let is_kill = survivors.kind == CrashKind::Kill;
                report.kills += u64::from(is_new && is_kill);
                observed
            }
        };
        check(point, &observed, survivors.kind)
    }
}

fn check(point: &Point, observed: &Observed, kind: CrashKind) -> Outcome {
    let mut wrong = Ok(());
    for expected in &point.expected {
        wrong = expected.check(observed, kind);
        if wrong.is_ok() {
            return Ok(());
        }
    }
    wrong
}

/// A moment at which crashes are set.
struct Moment<'a> {
    point: &'a Point,
    beside: Beside,
}

/// What tells the states of one moment from those of others, beside the disks.
struct Beside {
    cut: u64,
    kill: u64,
}

impl Beside {
    fn of(point: &Point) -> Self {
        let store = point.store.hash();
        let fold = |sum: u64, word: u64| mix(sum.rotate_left(17) ^ word);
        let cut = fold(store, CrashKind::Cut as u64);
        let mut kill = fold(store, CrashKind::Kill as u64);
        for ((_, epoch), words) in &point.tables {
            kill = words.iter().copied().fold(fold(kill, epoch.get()), fold);
        }
        if let Some(Pending { queue, op, write }) = point.pending {
            use std::hash::{DefaultHasher, Hash as _, Hasher as _};
            let mut hasher = DefaultHasher::new();
            (queue, write, format!("{op:?}")).hash(&mut hasher);
            kill = fold(kill, hasher.finish());
        }
        Self { cut, kill }
    }

    const fn hash(&self, kind: CrashKind) -> u64 {
        match kind {
            CrashKind::Cut => self.cut,
            CrashKind::Kill => self.kill,
        }
    }
}

/// Runs a sequence; gives its moments, the first of its last operation, and how it ended.
fn run_sequence(sequence: &[Op], planted: Option<Planted>) -> (Vec<Point>, usize, Outcome) {
    let mut node = match Node::base(planted) {
        Ok(node) => node,
        Err(what) => return (Vec::new(), 0, Err(what)),
    };
    let recorder = Rc::clone(&node.recorder);
    let mut from = 0;
    let ran = caught(|| {
        for (step, op) in sequence.iter().enumerate() {
            from = if step == 0 { 0 } else { recorder.borrow().points.len() };
            op.run(&mut node, step)?;
        }
        Ok(())
    });
    let points = std::mem::take(&mut recorder.borrow_mut().points);
    (points, from, ran.and_then(|ended| ended))
}

fn name_of(sequence: &[Op], moment: usize, survivors: &Survivors) -> StateName {
    StateName {
        sequence: sequence.to_vec(),
        moment,
        is_kill: survivors.kind == CrashKind::Kill,
        whole: survivors.whole,
        torn: survivors.torn.map(|(write, sectors)| Torn { write, sectors }),
    }
}

/// Every sequence of one to three operations, the shorter ones first.
fn all_sequences() -> Vec<Vec<Op>> {
    let (mut all, mut length) = (Vec::new(), vec![Vec::new()]);
    for _ in 0..LENGTH_MAX {
        let longer = |before: &Vec<Op>| {
            let before = before.clone();
            Op::all().map(move |op| before.iter().copied().chain([op]).collect::<Vec<Op>>())
        };
        length = length.iter().flat_map(longer).collect();
        all.extend(length.iter().cloned());
    }
    all
}

/// Repeats one state.
///
/// # Errors
/// What is wrong with it, or that there is no such state.
pub fn replay(name: &StateName, planted: Option<Planted>) -> Result<(), String> {
    let (points, _, ended) = run_sequence(&name.sequence, planted);
    let moments = points.len();
    let point = points.get(name.moment);
    let point = point.ok_or_else(|| format!("the sequence has {moments} moments: {ended:?}"))?;
    let kind = if name.is_kill { CrashKind::Kill } else { CrashKind::Cut };
    let torn: Option<(usize, SectorMask)> = name.torn.map(|torn| (torn.write, torn.sectors));
    let survivors = Survivors { kind, whole: name.whole, torn };
    let image = image_of(point, &survivors);
    let observed = caught(|| recover(point, image, kind, planted))??;
    check(point, &observed, kind)?;
    ended.map_err(|what| format!("the sequence itself: {what}"))
}
