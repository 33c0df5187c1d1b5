//! The volume engine: turns requests for blocks of a thin volume into I/O on shared LUNs.
//!
//! It is sans-I/O: requests, completions and time come in as calls, LUN I/O and completions go
//! out as [`io::Action`]s. `docs/engine.md` holds the design, its crash order and the rules that
//! the simulator attacks.
//!
//! Invariants:
//! - a record of data is journalled or committed only after that data was flushed;
//! - the record of an allocation precedes its use;
//! - an extent is reused only after its unmapping was journalled, committed and drained;
//! - a block without its presence bit never shows what its extent holds;
//! - a request is completed once, and never while LUN I/O of it is outstanding.
//!
//! Deliberately absent: ublk, gRPC, threads, clocks, and knowledge of who else uses a LUN.

pub mod buffer;
pub mod dirty;
#[cfg(test)]
mod golden;
mod grace;
pub mod io;
pub mod journal;
pub mod label;
pub mod lun;
pub mod map;
mod place;
pub mod replay;
pub mod volume;
