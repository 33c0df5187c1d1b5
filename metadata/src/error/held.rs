//! What a full pool could have: extents that nobody has and nobody gets yet.

/// Extents of a pool in quarantine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeldExtents {
    /// A backup names them: they are free when a later one is complete.
    pub for_backups: u64,
    /// An operator has to release them.
    pub by_hand: u64,
}

impl HeldExtents {
    /// How a full pool gets room.
    pub(super) fn advice(&self) -> String {
        let Self { for_backups, by_hand } = self;
        let mut advice = "add a LUN or delete volumes".to_owned();
        if *for_backups > 0 {
            advice += &format!(
                "; {for_backups} extents come back when a backup is complete: make one with \
                 'lunar backup create'"
            );
        }
        if *by_hand > 0 {
            advice += &format!(
                "; {by_hand} extents wait for an operator: see 'lunar pool release-quarantine'"
            );
        }
        advice
    }
}
