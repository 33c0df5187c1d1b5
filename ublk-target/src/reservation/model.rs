//! An array for tests: one LUN, several hosts with paths to it, and the rules of SPC-4 5.13 for
//! the commands that are used here.
//!
//! What it leaves out: commands in flight, so an abort has nothing to abort; the failure of one
//! path of several.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use lunar_types::RegistrationKey;

use super::{Array, ArrayError, Kind, Reservation, Step, assert_victim};

/// A path, by its host and its number there.
type PathId = (u16, u32);

#[derive(Default)]
struct State {
    /// What is registered on each path.
    registrants: BTreeMap<PathId, u64>,
    reserved: Option<Kind>,
    /// Calls from now on that fail before they do something.
    failing: u32,
    /// What a reset says: done unless told otherwise.
    reset: Option<i32>,
    log: Vec<(u16, Step)>,
}

/// The LUN.
#[derive(Clone, Default)]
pub(crate) struct ModelArray(Arc<Mutex<State>>);

impl ModelArray {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }

    /// The LUN as a host with so many paths sees it.
    pub(crate) fn host(&self, host: u16, paths: u32) -> Arc<ModelHost> {
        Arc::new(ModelHost { array: self.clone(), host, paths: Mutex::new(paths) })
    }

    /// Whether the array takes a write on a path.
    pub(crate) fn takes_write(&self, host: u16, path: u32) -> bool {
        let state = self.state();
        state.reserved.is_none() || state.registrants.contains_key(&(host, path))
    }

    pub(crate) fn keys(&self) -> Vec<u64> {
        self.state().registrants.values().copied().collect()
    }

    pub(crate) fn is_reserved(&self) -> bool {
        self.state().reserved.is_some()
    }

    /// Somebody else's program at work.
    pub(crate) fn put_key(&self, host: u16, key: u64) {
        self.state().registrants.insert((host, 0), key);
    }

    pub(crate) fn put_reservation(&self, kind: Kind) {
        self.state().reserved = Some(kind);
    }

    /// The target has lost everything.
    pub(crate) fn forget(&self) {
        let mut state = self.state();
        state.registrants.clear();
        state.reserved = None;
    }

    pub(crate) fn fail_next(&self, calls: u32) {
        self.state().failing = calls;
    }

    /// A reset of the unit fails with this errno.
    pub(crate) fn fail_reset(&self, errno: i32) {
        self.state().reset = Some(errno);
    }

    /// What was asked, by whom.
    pub(crate) fn log(&self) -> Vec<(u16, Step)> {
        self.state().log.clone()
    }
}

/// A host of the LUN.
pub(crate) struct ModelHost {
    array: ModelArray,
    host: u16,
    paths: Mutex<u32>,
}

impl ModelHost {
    fn begin(&self, step: Step) -> Result<MutexGuard<'_, State>, ArrayError> {
        let mut state = self.array.state();
        state.log.push((self.host, step));
        if state.failing > 0 {
            state.failing -= 1;
            let source = io::Error::from_raw_os_error(libc::EIO);
            return Err(ArrayError::Failed { path: PathBuf::from("/dev/model"), step, source });
        }
        Ok(state)
    }

    fn own(&self, state: &State, key: RegistrationKey, step: Step) -> Result<(), ArrayError> {
        let is_registered = state.registrants.get(&(self.host, 0)) == Some(&key.raw());
        if is_registered { Ok(()) } else { Err(conflict(step)) }
    }

    /// A path comes up, with nothing registered.
    pub(crate) fn add_path(&self) {
        *self.paths.lock().expect("not poisoned") += 1;
    }
}

fn conflict(step: Step) -> ArrayError {
    ArrayError::Conflict { path: PathBuf::from("/dev/model"), step }
}

impl Array for ModelHost {
    fn register(&self, key: RegistrationKey) -> Result<(), ArrayError> {
        let mut state = self.begin(Step::Register)?;
        for path in 0..*self.paths.lock().expect("not poisoned") {
            state.registrants.insert((self.host, path), key.raw());
        }
        Ok(())
    }

    fn reserve(&self, key: RegistrationKey) -> Result<(), ArrayError> {
        let mut state = self.begin(Step::Reserve)?;
        self.own(&state, key, Step::Reserve)?;
        match state.reserved {
            // A holder that reserves again has what it has; here all registrants are holders.
            None | Some(Kind::WriteExclusiveAllRegistrants) => {
                state.reserved = Some(Kind::WriteExclusiveAllRegistrants);
                Ok(())
            }
            Some(Kind::Other(_)) => Err(conflict(Step::Reserve)),
        }
    }

    fn preempt_and_abort(
        &self,
        own: RegistrationKey,
        victim: RegistrationKey,
    ) -> Result<(), ArrayError> {
        assert_victim(own, victim);
        let mut state = self.begin(Step::PreemptAndAbort)?;
        self.own(&state, own, Step::PreemptAndAbort)?;
        let before = state.registrants.len();
        state.registrants.retain(|_, key| *key != victim.raw());
        if state.registrants.len() == before {
            return Err(conflict(Step::PreemptAndAbort));
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), ArrayError> {
        let state = self.begin(Step::Reset)?;
        let Some(errno) = state.reset else { return Ok(()) };
        let (path, step) = (PathBuf::from("/dev/model"), Step::Reset);
        let source = io::Error::from_raw_os_error(errno);
        Err(match errno {
            libc::ENOTTY => ArrayError::Unsupported { path, step, source },
            _ => ArrayError::Failed { path, step, source },
        })
    }

    fn read_keys(&self) -> Result<Vec<u64>, ArrayError> {
        let state = self.begin(Step::ReadKeys)?;
        Ok(state.registrants.values().copied().collect())
    }

    fn read_reservation(&self) -> Result<Option<Reservation>, ArrayError> {
        let state = self.begin(Step::ReadReservation)?;
        Ok(state.reserved.map(|kind| Reservation { kind, key: 0 }))
    }

    fn paths(&self) -> Result<u32, ArrayError> {
        Ok(*self.paths.lock().expect("not poisoned"))
    }
}
