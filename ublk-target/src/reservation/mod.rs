//! Persistent reservations of LUNs: what an array knows of who may write.
//!
//! - [`Array`]: what is asked of an array about one LUN, as this host sees it on all of its paths;
//! - [`device`]: the kernel's answer, for SCSI and NVMe;
//! - [`sight`]: what keys and reservation mean for an incarnation;
//! - `model`: an array for tests.
//!
//! Invariants:
//! - a victim's key is never 0, never the own one, and has the own cluster's tag (F9): the types
//!   and an assertion where the request is filled in;
//! - nothing here unregisters, releases or clears (F3).
//!
//! Deliberately absent: when any of it may be called ([`crate::fencing`]).

pub mod device;
mod paths;
mod scsi;
pub mod sight;

#[cfg(test)]
pub(crate) mod model;

use std::fmt;
use std::io;
use std::path::PathBuf;

use lunar_types::RegistrationKey;

pub use sight::{Finding, Sight};

/// The kinds of reservation, by their numbers in the kernel's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Write Exclusive, All Registrants: ours.
    WriteExclusiveAllRegistrants,
    /// Any other, by its number.
    Other(u32),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteExclusiveAllRegistrants => f.write_str("Write Exclusive, All Registrants"),
            Self::Other(1) => f.write_str("Write Exclusive"),
            Self::Other(2) => f.write_str("Exclusive Access"),
            Self::Other(3) => f.write_str("Write Exclusive, Registrants Only"),
            Self::Other(4) => f.write_str("Exclusive Access, Registrants Only"),
            Self::Other(6) => f.write_str("Exclusive Access, All Registrants"),
            Self::Other(kind) => write!(f, "of unknown type {kind}"),
        }
    }
}

/// The reservation of a LUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// Its kind.
    pub kind: Kind,
    /// The key that the array shows with it: any for a reservation of all registrants.
    pub key: u64,
}

/// What was asked of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Register a key, whatever was registered before.
    Register,
    /// Make the reservation.
    Reserve,
    /// Take a key away and abort its commands.
    PreemptAndAbort,
    /// End everything that the unit has taken.
    Reset,
    /// Which keys there are.
    ReadKeys,
    /// Which reservation there is.
    ReadReservation,
    /// How many paths lead to the LUN.
    CountPaths,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Register => "register a key",
            Self::Reserve => "reserve",
            Self::PreemptAndAbort => "take a key away",
            Self::Reset => "reset the unit",
            Self::ReadKeys => "read the keys",
            Self::ReadReservation => "read the reservation",
            Self::CountPaths => "count the paths",
        })
    }
}

/// An array did not do what it was asked. Of a step that changes something nothing is known then,
/// after a conflict neither: the kernel may have sent it twice, and the first time it was done.
#[derive(Debug, thiserror::Error)]
pub enum ArrayError {
    /// The LUN or what is between does not know persistent reservations.
    #[error(
        "{} does not support persistent reservations (cannot {step}): use a LUN or a transport \
         that does, or make the pool with --fencing lease or none", path.display()
    )]
    Unsupported {
        /// The device.
        path: PathBuf,
        /// What was asked.
        step: Step,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The array has refused: the own key is not registered, the victim's is not, or another
    /// reservation is there.
    #[error("the array has refused to {step} at {}: reservation conflict", path.display())]
    Conflict {
        /// The device.
        path: PathBuf,
        /// What was asked.
        step: Step,
    },
    /// No path leads there now.
    #[error("{} cannot be reached to {step}: its path has failed ({status:#x})", path.display())]
    Path {
        /// The device.
        path: PathBuf,
        /// What was asked.
        step: Step,
        /// The kernel's status.
        status: i32,
    },
    /// Anything else.
    #[error("cannot {step} at {}", path.display())]
    Failed {
        /// The device.
        path: PathBuf,
        /// What was asked.
        step: Step,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// An array, asked about one LUN by this host. Every call blocks, perhaps for as long as the LUN
/// does not answer.
pub trait Array: Send + Sync {
    /// Registers a key on every path, in the place of whatever this host has registered there.
    ///
    /// # Errors
    /// See [`ArrayError`].
    fn register(&self, key: RegistrationKey) -> Result<(), ArrayError>;

    /// Makes the reservation of all registrants.
    ///
    /// # Errors
    /// See [`ArrayError`]; a conflict if there is one already.
    fn reserve(&self, key: RegistrationKey) -> Result<(), ArrayError>;

    /// Takes a victim's key away on every path, and aborts its commands. By the standards they have
    /// ended when this returns; LIO answers before (docs/fencing.md, attack 25), so for SCSI it
    /// takes [`Array::reset`] to know.
    ///
    /// # Errors
    /// See [`ArrayError`]; a conflict if the own key or the victim's is not registered.
    ///
    /// # Panics
    /// When the victim is the caller, or of another cluster.
    fn preempt_and_abort(
        &self,
        own: RegistrationKey,
        victim: RegistrationKey,
    ) -> Result<(), ArrayError>;

    /// Has a SCSI unit end whatever it has taken, from anybody: everything has ended when this
    /// returns. Keys and reservations stay; the commands of other hosts are sent again by their
    /// kernels.
    ///
    /// # Errors
    /// See [`ArrayError`]; unsupported where there is no such command, as with NVMe.
    fn reset(&self) -> Result<(), ArrayError>;

    /// The keys, one for each path that has one.
    ///
    /// # Errors
    /// See [`ArrayError`].
    fn read_keys(&self) -> Result<Vec<u64>, ArrayError>;

    /// The reservation, if there is one.
    ///
    /// # Errors
    /// See [`ArrayError`].
    fn read_reservation(&self) -> Result<Option<Reservation>, ArrayError>;

    /// Paths that lead from this host to the LUN.
    ///
    /// # Errors
    /// See [`ArrayError`].
    fn paths(&self) -> Result<u32, ArrayError>;

    /// Everything at once, in the order in which it proves something: the reservation is read after
    /// the keys.
    ///
    /// # Errors
    /// See [`ArrayError`].
    fn look(&self) -> Result<Sight, ArrayError> {
        let keys = self.read_keys()?;
        Ok(Sight { keys, reservation: self.read_reservation()?, paths: self.paths()? })
    }
}

/// Checks what an array must never be asked (F9).
///
/// # Panics
/// When the victim is nobody, the caller, or of another cluster.
fn assert_victim(own: RegistrationKey, victim: RegistrationKey) {
    assert_ne!(victim.raw(), 0, "the key 0 would take everybody's key away");
    assert_ne!(victim, own, "nobody takes its own key away");
    assert_eq!(victim.tag(), own.tag(), "the keys of another cluster are never touched");
}
