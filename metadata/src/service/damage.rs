//! Damage that background work meets: it is told, and passed over.
//!
//! Invariants:
//! - what cannot be read or contradicts itself stops nothing but the work on it;
//! - each problem is told once, and again when it is still there after [`TELL_AGAIN`]. Nothing else
//!   of it is kept: the check of the store is what says how things are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lunar_proto::domain::OperationId;

use crate::error::ServiceError;

/// After this time a problem is told again, and an operation that met one is tried again.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// What this process has met.
#[derive(Default)]
pub(super) struct Damage {
    state: Mutex<Met>,
}

#[derive(Default)]
struct Met {
    /// What was told, and when.
    told: BTreeMap<String, Duration>,
    /// Operations that met damage, and when.
    resting: BTreeMap<OperationId, Duration>,
}

impl Damage {
    fn lock(&self) -> MutexGuard<'_, Met> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first of these problems that was not told lately. The others have their turn when they
    /// are met again.
    pub(super) fn news(&self, met: Vec<ServiceError>, now: Duration) -> Option<ServiceError> {
        let mut state = self.lock();
        state.told.retain(|_, since| now.saturating_sub(*since) < TELL_AGAIN);
        met.into_iter().find(|error| {
            // A store that fails or is busy is no damage: who drives the steps has to know.
            if !is_damage(error) {
                return true;
            }
            let is_new = !state.told.contains_key(&error.to_string());
            state.told.entry(error.to_string()).or_insert(now);
            is_new
        })
    }

    /// An operation has met damage: others have its turn for a while.
    pub(super) fn rest(&self, operation: OperationId, now: Duration) {
        self.lock().resting.insert(operation, now);
    }

    /// Whether an operation has met damage a short while ago.
    pub(super) fn rests(&self, operation: OperationId, now: Duration) -> bool {
        let mut state = self.lock();
        state.resting.retain(|_, since| now.saturating_sub(*since) < TELL_AGAIN);
        state.resting.contains_key(&operation)
    }
}

/// Whether a problem is of the content of the store.
pub(super) const fn is_damage(error: &ServiceError) -> bool {
    matches!(error, ServiceError::Corrupt { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(key: &str) -> ServiceError {
        ServiceError::corrupt(key.to_owned(), "it is odd".to_owned())
    }

    #[test]
    fn each_problem_is_told_once_and_again_after_a_while() {
        let damage = Damage::default();
        let both = || vec![problem("a"), problem("b")];
        let told = |now| damage.news(both(), Duration::from_secs(now)).map(|it| it.to_string());
        assert_eq!(told(0), Some(problem("a").to_string()));
        assert_eq!(told(1), Some(problem("b").to_string()));
        assert_eq!(told(2), None);
        assert_eq!(told(600), Some(problem("a").to_string()));
        assert_eq!(told(600), None);
        assert_eq!(told(601), Some(problem("b").to_string()));
    }
}
