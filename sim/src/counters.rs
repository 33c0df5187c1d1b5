//! What a run has seen, counted.

/// Counters of a run.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Requests that have ended.
    pub requests: u64,
    /// Requests that ended with ENOSPC.
    pub no_space: u64,
    /// Kills of the daemon.
    pub kills: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Crashes that a daemon has survived.
    pub survived: u64,
    /// Volumes that were attached on another host than before.
    pub moved: u64,
    /// Journals that were replayed, with something in them.
    pub replays: u64,
    /// Journal faults that were found by the engine.
    pub damage_found: u64,
    /// Volumes that took no more writes after a fault.
    pub poisoned: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Volumes deleted.
    pub deleted: u64,
    /// Journal batches of several blocks.
    pub long_batches: u64,
    /// Times that a journal went round.
    pub laps: u64,
    /// Calls that arrived after their process had died, or a second time.
    pub late_calls: u64,
    /// Those of them that were refused because a later process had joined.
    pub late_refused: u64,
    /// Commits among them that were refused because they were not the next.
    pub commits_out_of_order: u64,
    /// Long times without anything.
    pub quiet_hours: u64,
    /// Snapshots cut.
    pub snapshots: u64,
    /// Of them, of volumes that were served.
    pub live_snapshots: u64,
    /// Sets with several members that were cut.
    pub groups: u64,
    /// Sets that were not cut.
    pub aborted_sets: u64,
    /// Volumes that went on in their next head without an answer.
    pub undecided: u64,
    /// Times that a volume heard what lies below its head.
    pub chain_news: u64,
    /// Slots that volumes gave back because nothing showed them.
    pub pruned: u64,
    /// Copies of extents that were begun.
    pub copies: u64,
    /// Claims that ended before their copy.
    pub claims_ended: u64,
    /// Volumes made of snapshots.
    pub clones: u64,
    /// Volumes that went back to a snapshot.
    pub rollbacks: u64,
    /// Snapshots that were compared with another one.
    pub compared: u64,
    /// Backups that were completed.
    pub backups: u64,
    /// Extents that volumes gave back because a backup may name them.
    pub returned: u64,
    /// Times that volumes became larger.
    pub grown: u64,
    /// Snapshots that were read whole.
    pub looks: u64,
    /// Bits of everything that happened, to compare runs.
    pub fingerprint: u64,
}

impl Counters {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.no_space += other.no_space;
        self.kills += other.kills;
        self.cuts += other.cuts;
        self.survived += other.survived;
        self.moved += other.moved;
        self.replays += other.replays;
        self.damage_found += other.damage_found;
        self.poisoned += other.poisoned;
        self.checkpoints += other.checkpoints;
        self.deleted += other.deleted;
        self.long_batches += other.long_batches;
        self.laps += other.laps;
        self.late_calls += other.late_calls;
        self.late_refused += other.late_refused;
        self.commits_out_of_order += other.commits_out_of_order;
        self.quiet_hours += other.quiet_hours;
        self.snapshots += other.snapshots;
        self.live_snapshots += other.live_snapshots;
        self.groups += other.groups;
        self.aborted_sets += other.aborted_sets;
        self.undecided += other.undecided;
        self.chain_news += other.chain_news;
        self.pruned += other.pruned;
        self.copies += other.copies;
        self.claims_ended += other.claims_ended;
        self.clones += other.clones;
        self.rollbacks += other.rollbacks;
        self.compared += other.compared;
        self.backups += other.backups;
        self.returned += other.returned;
        self.grown += other.grown;
        self.looks += other.looks;
        self.fingerprint ^= other.fingerprint;
    }
}
