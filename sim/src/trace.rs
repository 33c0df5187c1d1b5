//! What happened, for whoever looks into a failing seed.

/// Where the lines of a run go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trace {
    /// Nowhere.
    Off,
    /// To standard error, as they come.
    On,
}

impl Trace {
    /// Writes a line, if somebody reads.
    #[allow(clippy::print_stderr, reason = "the trace is what --trace asks for")]
    pub fn line(self, moment: u64, what: impl FnOnce() -> String) {
        if self == Self::On {
            eprintln!("{moment:>8} {}", what());
        }
    }
}
