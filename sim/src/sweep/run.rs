//! Whole sweeps: sequences, their moments and states, each recovered once and judged each time.

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;

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

/// What tells states apart.
type Fingerprint = (u64, u64);

/// A sweep.
pub struct Sweep {
    scope: Scope,
    planted: Option<Planted>,
    failures_max: usize,
    sequences: Vec<Vec<Op>>,
    /// What was there after the recovery of each state.
    recovered: HashMap<Fingerprint, Rc<Observed>>,
    /// Equal observations are kept once.
    observed: HashMap<Observed, Rc<Observed>>,
    report: Report,
}

impl Sweep {
    /// A sweep of this scope that ends at so many failures.
    #[must_use]
    pub fn new(scope: Scope, planted: Option<Planted>, failures_max: usize) -> Self {
        let (recovered, observed) = (HashMap::new(), HashMap::new());
        let (sequences, report) = (all_sequences(), Report::default());
        Self { scope, planted, failures_max, sequences, recovered, observed, report }
    }

    /// The same for the last operations of these sequences only.
    #[must_use]
    pub fn over(self, sequences: Vec<Vec<Op>>) -> Self {
        Self { sequences, ..self }
    }

    /// Runs it; `progress` is told the report and the sequence before each sequence.
    pub fn run(mut self, mut progress: impl FnMut(&Report, &[Op])) -> Report {
        for sequence in std::mem::take(&mut self.sequences) {
            if self.report.failures.len() >= self.failures_max {
                break;
            }
            progress(&self.report, &sequence);
            self.sweep_sequence(&sequence);
        }
        self.report
    }

    /// A sequence: the moments of its last operation. Those before are of shorter sequences.
    fn sweep_sequence(&mut self, sequence: &[Op]) {
        let with = match self.scope {
            Scope::Short if sequence.len() == LENGTH_MAX => Tears::None,
            Scope::Short => Tears::Beside(5),
            Scope::Whole => Tears::Beside(8),
        };
        self.report.sequences += 1;
        let (points, from, ended) = run_sequence(sequence, self.planted);
        for (moment, point) in points.iter().enumerate().skip(from) {
            self.report.moments += 1;
            self.report.volatile_most = self.report.volatile_most.max(point.volatile.len());
            for survivors in states(point, with) {
                let name = || name_of(sequence, moment, &survivors);
                if let Err(what) = self.judge(point, &survivors) {
                    self.fail(what, name());
                }
                if self.report.failures.len() >= self.failures_max {
                    return;
                }
            }
        }
        if let Err(what) = ended {
            let (moment, kind) = (points.len().saturating_sub(1), CrashKind::Cut);
            let none = Survivors { kind, whole: 0, torn: None };
            self.fail(format!("the sequence itself: {what}"), name_of(sequence, moment, &none));
        }
    }

    fn fail(&mut self, what: String, state: StateName) {
        self.report.failures.push(Failure { what, state, planted: self.planted });
    }

    fn judge(&mut self, point: &Point, survivors: &Survivors) -> Outcome {
        self.report.states += 1;
        let image = image_of(point, survivors);
        let print = fingerprint(point, image.hash(), survivors.kind);
        let observed = match self.recovered.get(&print) {
            Some(observed) => Rc::clone(observed),
            None => {
                self.report.distinct += 1;
                self.report.kills += u64::from(survivors.kind == CrashKind::Kill);
                let planted = self.planted;
                let observed = caught(|| recover(point, image, survivors.kind, planted))??;
                let shared = self.observed.entry(observed.clone());
                let shared = Rc::clone(shared.or_insert_with(|| Rc::new(observed)));
                self.recovered.insert(print, Rc::clone(&shared));
                shared
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

fn fingerprint(point: &Point, image: u64, kind: CrashKind) -> Fingerprint {
    let mut second = point.store.hash();
    let mut fold = |word: u64| second = mix(second.rotate_left(17) ^ word);
    fold(kind as u64);
    if kind == CrashKind::Kill {
        for ((_, epoch), words) in &point.tables {
            fold(epoch.get());
            words.iter().copied().for_each(&mut fold);
        }
        if let Some(Pending { queue, op, write }) = point.pending {
            use std::hash::{DefaultHasher, Hash as _, Hasher as _};
            let mut hasher = DefaultHasher::new();
            (queue, write, format!("{op:?}")).hash(&mut hasher);
            fold(hasher.finish());
        }
    }
    (image, second)
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
