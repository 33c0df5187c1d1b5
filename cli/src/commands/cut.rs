//! Sets of snapshots: asked for, and waited for until they are decided.
//!
//! - Who waits has asked for a set under one request id and hears how it ends: Sealed or Aborted.
//! - Who stops waiting takes nothing back; the error says how to look at what came of it.

use std::time::Duration;

use lunar_metadata_client::{MetadataClient, fresh_request_id, unix_seconds};
use lunar_proto::domain::{
    CreateSnapshots, Fsfreeze, NewCut, NewMember, SetAbort, SetState, SnapshotSet,
};
use lunar_proto::error::Facts;
use lunar_types::Name;
use tokio::signal;

use crate::error::{CliError, Exit};
use crate::progress::Waiting;

/// How long one question for a set waits; what is shown is brought up to date after each.
const POLL: Duration = Duration::from_secs(5);

/// Cuts these volumes at one moment and gives the sealed set.
pub(super) async fn cut(
    service: &MetadataClient,
    members: Vec<NewMember>,
    fsfreeze: Fsfreeze,
    over_watermark: bool,
    group: Option<Name>,
) -> Result<SnapshotSet, CliError> {
    let (request, created_unix_seconds) = (fresh_request_id(), unix_seconds());
    let request =
        CreateSnapshots { request, members, created_unix_seconds, fsfreeze, over_watermark, group };
    let what = what_of(&request.members);
    tokio::select! {
        biased;
        set = decided(service, &request, &what) => sealed(&request, &what, set?),
        () = interrupted() => {
            let message = format!("{what}: not waited for any more; it goes on without you");
            let error = CliError::new(Exit::Interrupted, "INTERRUPTED", message);
            Err(error.advise(how_to_look(&request.members)))
        }
    }
}

/// Ends when the person who waits presses Ctrl-C.
async fn interrupted() {
    if signal::ctrl_c().await.is_err() {
        // Without a handler Ctrl-C ends the program by itself.
        std::future::pending::<()>().await;
    }
}

async fn decided(
    service: &MetadataClient,
    request: &CreateSnapshots,
    what: &str,
) -> Result<SnapshotSet, CliError> {
    let unknown = |error: CliError| match error.exit {
        Exit::Unavailable => {
            let advice = format!("{}; {}", error.advice, how_to_look(&request.members));
            error.advise(advice)
        }
        _ => error,
    };
    let waiting = Waiting::on(what);
    let created = service.create_snapshots(request).await;
    let mut set = created.map_err(|error| unknown(error.into()))?;
    while set.state.is_open() {
        waiting.update(format!("{what}: {}", stage(&set)));
        let later = service.snapshot_set(set.id, None, POLL).await;
        set = later.map_err(|error| unknown(error.into()))?;
    }
    Ok(set)
}

fn stage(set: &SnapshotSet) -> String {
    let held = set.members.iter().filter(|member| member.node.is_some()).count();
    match set.state {
        SetState::Gathering => format!("{held} attached volumes get ready"),
        SetState::Pausing => format!("{held} attached volumes pause"),
        state @ (SetState::Sealed | SetState::Aborted) => state.to_string(),
    }
}

fn sealed(
    request: &CreateSnapshots,
    what: &str,
    set: SnapshotSet,
) -> Result<SnapshotSet, CliError> {
    match &set.abort {
        Some(abort) => Err(aborted(request, what, &set, abort)),
        None => Ok(set),
    }
}

/// Why nothing was cut, and what to do.
fn aborted(request: &CreateSnapshots, what: &str, set: &SnapshotSet, abort: &SetAbort) -> CliError {
    let (why, advice) = explain(abort.reason.as_str());
    let about = set.members.iter().zip(&request.members);
    let about = about.filter(|(member, _)| Some(member.volume) == abort.volume);
    let about: String = about.map(|(_, asked)| format!("volume {}: ", asked.volume)).collect();
    let message = format!("{what}: nothing was cut: {about}{why} ({})", abort.reason);
    let mut facts = Facts::from([
        ("set".to_owned(), set.id.to_string()),
        ("abort_reason".to_owned(), abort.reason.to_string()),
    ]);
    if let Some(volume) = abort.volume {
        facts.insert("volume".to_owned(), volume.to_string());
    }
    let error = CliError::new(Exit::Refused, "SNAPSHOT_SET_ABORTED", message).advise(advice);
    CliError { facts, ..error }
}

/// What the reason of an abort means, and what to do about it. The reasons of a node are its own:
/// one that is not known here is told as it is.
fn explain(reason: &str) -> (&'static str, &'static str) {
    const AGAIN: &str = "try again";
    const STEADY: &str = "see 'lunar volume show' and 'lunar node list', then try again";
    const LOG: &str = "see what fs-core logs on the node that holds the volume, then try again";
    match reason {
        "member-changed" => ("it was detached, taken over or fenced meanwhile", STEADY),
        "volume-attached" => ("it was attached meanwhile", AGAIN),
        "volume-detached" => ("it was detached meanwhile", AGAIN),
        "volume-deleted" => ("it was deleted meanwhile", "leave it out"),
        "volume-rolled-back" => ("it was rolled back meanwhile", AGAIN),
        "process-changed" => ("fs-core of its node was started anew meanwhile", AGAIN),
        "sealed-without-the-set" => {
            ("its node had no answer of the metadata service in time and went on", AGAIN)
        }
        "clone-name-taken" => {
            ("another volume has taken the clone's name meanwhile", "choose another name")
        }
        "gathering-timeout" => ("a node that holds a volume was not ready in time", STEADY),
        "pausing-timeout" => ("a node that holds a volume has not paused it in time", STEADY),
        "abort-asked" => ("a node or a person has asked for that", STEADY),
        "warm-up-failed" => ("what was written to it could not be committed", LOG),
        "no-answer" => ("its node had no answer of the metadata service in time", LOG),
        "not-settled-in-time" => (
            "what was written to it could not be flushed in time",
            "try again when it is less busy",
        ),
        "pause-timeout" => ("not all volumes of the set were paused in time", AGAIN),
        "fsfreeze-failed" => (
            "its file system cannot be frozen",
            "see what fs-core logs on its node, or use --fsfreeze auto or never",
        ),
        "volume-poisoned" => (
            "it takes no more writes",
            "see 'lunar volume show' on its node; detach it and attach it again",
        ),
        "generations-used-up" => (
            "it was sealed too often since it was attached",
            "detach it and attach it again, then try again",
        ),
        _ => ("its node has refused", LOG),
    }
}

/// What is to be done, in words.
fn what_of(members: &[NewMember]) -> String {
    match members {
        [NewMember { volume, cut: NewCut::Snapshot(name) }] => {
            format!("cut snapshot '{name}' of volume {volume}")
        }
        [NewMember { volume, cut: NewCut::Clone(name) }] => {
            format!("clone volume {volume} as '{name}'")
        }
        members => format!("cut snapshots of {} volumes", members.len()),
    }
}

/// How to find out what came of a set. All its members have the same fate, so one is enough.
fn how_to_look(members: &[NewMember]) -> String {
    match members.first().map(|member| &member.cut) {
        Some(NewCut::Clone(name)) => {
            format!("'lunar volume show {name}' shows the clone as soon as it is there")
        }
        Some(NewCut::Snapshot(name)) => format!(
            "'lunar snapshot show {name}' says 'ready' when it was cut, 'creating' while that is \
             open, and does not find it when it was not"
        ),
        None => "'lunar snapshot list' shows what was cut".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lunar_proto::domain::{CutAs, Selector, SetMember};
    use lunar_types::{SnapshotId, SnapshotSetId, VolumeId};

    use super::*;

    fn member(volume: &str, snapshot: &str) -> NewMember {
        NewMember {
            volume: Selector::Name(volume.parse().expect("a name")),
            cut: NewCut::Snapshot(snapshot.parse().expect("a name")),
        }
    }

    fn request() -> CreateSnapshots {
        CreateSnapshots {
            request: fresh_request_id(),
            members: vec![member("a", "sa"), member("b", "sb")],
            created_unix_seconds: 0,
            fsfreeze: Fsfreeze::Auto,
            over_watermark: false,
            group: None,
        }
    }

    fn set(reason: &str, volume: Option<u128>) -> SnapshotSet {
        let member = |id| SetMember {
            volume: VolumeId::from_u128(id),
            cut: CutAs::Snapshot(SnapshotId::from_u128(id)),
            node: None,
            state: None,
        };
        let volume = volume.map(VolumeId::from_u128);
        SnapshotSet {
            id: SnapshotSetId::from_u128(7),
            snapshots: Vec::new(),
            state: SetState::Aborted,
            abort: Some(SetAbort { reason: reason.parse().expect("a name"), volume }),
            fsfreeze: Fsfreeze::Auto,
            members: vec![member(1), member(2)],
        }
    }

    #[test]
    fn an_aborted_set_is_refused_with_reason_volume_and_advice() {
        let set = set("fsfreeze-failed", Some(2));
        let error = sealed(&request(), "cut snapshots of 2 volumes", set).expect_err("aborted");
        assert_eq!(
            error.message,
            "cut snapshots of 2 volumes: nothing was cut: volume 'b': its file system cannot be \
             frozen (fsfreeze-failed)"
        );
        assert_eq!((error.exit, error.reason.as_str()), (Exit::Refused, "SNAPSHOT_SET_ABORTED"));
        assert!(error.advice.contains("--fsfreeze auto"), "{}", error.advice);
        assert_eq!(error.facts["abort_reason"], "fsfreeze-failed");
        assert_eq!(error.facts["volume"], VolumeId::from_u128(2).to_string());
    }

    #[test]
    fn an_abort_of_all_names_no_volume_and_an_unknown_reason_is_told() {
        let all = set("pausing-timeout", None);
        let error = sealed(&request(), "cut", all).expect_err("aborted");
        assert!(!error.message.contains("volume 'a'"), "{}", error.message);
        assert!(!error.facts.contains_key("volume"), "{:?}", error.facts);
        let odd = set("solar-flare", Some(1));
        let error = sealed(&request(), "cut", odd).expect_err("aborted");
        assert!(error.message.ends_with("(solar-flare)"), "{}", error.message);
        assert!(error.advice.contains("fs-core logs"), "{}", error.advice);
    }

    #[test]
    fn a_sealed_set_is_given() {
        let set = SnapshotSet { state: SetState::Sealed, abort: None, ..set("x", None) };
        assert_eq!(sealed(&request(), "cut", set.clone()), Ok(set));
    }
}
