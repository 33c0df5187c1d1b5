//! Sets of snapshots, waited for until they are decided.
//!
//! A set that is not decided in the time of the call goes on without it: the call is ABORTED, and
//! the next one finds by name what came of it. One that was not cut has changed nothing.

use lunar_proto::domain::{SetAbort, SetState, SnapshotSet};
use lunar_types::SnapshotSetId;

use super::call::Call;
use crate::errors::CsiError;

/// How a set ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// Its members are cut.
    Sealed,
    /// Nothing was cut.
    Aborted(SetAbort),
}

fn ending(set: &SnapshotSet) -> Option<Ending> {
    match (set.state, &set.abort) {
        (SetState::Gathering | SetState::Pausing, _) => None,
        (SetState::Sealed, _) => Some(Ending::Sealed),
        (SetState::Aborted, Some(abort)) => Some(Ending::Aborted(abort.clone())),
        (SetState::Aborted, None) => {
            let reason = "unknown".parse().expect("letters");
            Some(Ending::Aborted(SetAbort { reason, volume: None }))
        }
    }
}

/// Waits for a set as long as the call has time.
pub(super) async fn decided(call: &Call, set: SnapshotSet) -> Result<Ending, CsiError> {
    match ending(&set) {
        Some(ending) => Ok(ending),
        None => decided_by_id(call, set.id).await,
    }
}

/// The same, of a set that another call has asked for.
pub(super) async fn decided_by_id(call: &Call, id: SnapshotSetId) -> Result<Ending, CsiError> {
    while let Some((service, wait)) = call.waiting() {
        let set = service.snapshot_set(id, None, wait).await?;
        if let Some(ending) = ending(&set) {
            return Ok(ending);
        }
    }
    Err(CsiError::aborted(format!(
        "snapshot set {id} is not cut yet: the nodes that hold its volumes get ready; ask again \
         later"
    )))
}

/// The error of a set that was not cut.
pub(super) fn not_cut(what: &str, abort: &SetAbort) -> CsiError {
    let (why, advice) = match abort.reason.as_str() {
        "volume-deleted" => ("a volume of it was deleted meanwhile", "leave it out"),
        "clone-name-taken" => ("another volume has taken the name meanwhile", "ask again"),
        "fsfreeze-failed" => ("its file system cannot be frozen", "see what fs-core logs"),
        "volume-poisoned" => ("it takes no more writes", "detach it and attach it again"),
        "gathering-timeout" | "pausing-timeout" | "pause-timeout" => {
            ("a node that holds a volume was not ready in time", "see 'lunar node list'")
        }
        "member-changed" | "volume-attached" | "volume-detached" | "process-changed" => {
            ("it was attached, detached or taken over meanwhile", "ask again")
        }
        _ => ("a node that holds a volume has refused", "see what fs-core logs there"),
    };
    CsiError::internal(format!("cannot {what}: nothing was cut: {why} ({abort}); {advice}"))
}
