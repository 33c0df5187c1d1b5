//! What becomes of extents that a change of a map has left without a slot.

/// What the holder of a volume does with extents that its map names no more, when nothing reads
/// them any longer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Freed {
    /// It uses them again.
    #[default]
    UseAgain,
    /// It gives them back: a backup of the metadata may name them, and whoever restores it would
    /// be shown what was written there since.
    GiveBack,
}
