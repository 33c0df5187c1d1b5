//! Sets of snapshots and their members on the wire.

use lunar_types::{CommitNumber, JournalSeq, NodeIncarnation, StructureNumber};

use super::volumes::{granted_epoch, layer_id};
use super::{Checked, given, list, nested, parsed, required, selector, to_list, told};
use crate::domain::{
    ChangedStructure, CreateSnapshots, CutAs, FENCE_LIST_MAX, Fsfreeze, KnownMember, MemberFailed,
    MemberPaused, MemberReady, MemberState, NewCut, NewMember, NodeNews, OpenMember,
    SET_MEMBERS_MAX, SetAbort, SetMember, SetProgress, SetState, SnapshotSet, Vote,
    WATCHED_MEMBERS_MAX, WATCHED_VOLUMES_MAX, WatchNode,
};
use crate::error::FieldError;
use crate::v1;

fn fsfreeze(field: &str, raw: i32) -> Checked<Fsfreeze> {
    match v1::Fsfreeze::try_from(raw) {
        Ok(v1::Fsfreeze::Unspecified | v1::Fsfreeze::Auto) => Ok(Fsfreeze::Auto),
        Ok(v1::Fsfreeze::Always) => Ok(Fsfreeze::Always),
        Ok(v1::Fsfreeze::Never) => Ok(Fsfreeze::Never),
        Err(_) => Err(FieldError::new(field, format_args!("{raw} is no way to freeze"))),
    }
}

impl From<Fsfreeze> for v1::Fsfreeze {
    fn from(fsfreeze: Fsfreeze) -> Self {
        match fsfreeze {
            Fsfreeze::Auto => Self::Auto,
            Fsfreeze::Always => Self::Always,
            Fsfreeze::Never => Self::Never,
        }
    }
}

/// The state that a caller knows a set in; unspecified is none.
///
/// # Errors
/// When it is no state of a set.
pub fn known_set_state(field: &str, raw: i32) -> Result<Option<SetState>, FieldError> {
    match v1::SetState::try_from(raw) {
        Ok(v1::SetState::Unspecified) => Ok(None),
        Ok(v1::SetState::Gathering) => Ok(Some(SetState::Gathering)),
        Ok(v1::SetState::Pausing) => Ok(Some(SetState::Pausing)),
        Ok(v1::SetState::Sealed) => Ok(Some(SetState::Sealed)),
        Ok(v1::SetState::Aborted) => Ok(Some(SetState::Aborted)),
        Err(_) => Err(FieldError::new(field, format_args!("{raw} is no state of a set"))),
    }
}

fn set_state(field: &str, raw: i32) -> Checked<SetState> {
    required(field, known_set_state(field, raw)?)
}

impl From<SetState> for v1::SetState {
    fn from(state: SetState) -> Self {
        match state {
            SetState::Gathering => Self::Gathering,
            SetState::Pausing => Self::Pausing,
            SetState::Sealed => Self::Sealed,
            SetState::Aborted => Self::Aborted,
        }
    }
}

fn known_member_state(field: &str, raw: i32) -> Checked<Option<MemberState>> {
    match v1::MemberState::try_from(raw) {
        Ok(v1::MemberState::Unspecified) => Ok(None),
        Ok(v1::MemberState::Asked) => Ok(Some(MemberState::Asked)),
        Ok(v1::MemberState::Ready) => Ok(Some(MemberState::Ready)),
        Ok(v1::MemberState::Paused) => Ok(Some(MemberState::Paused)),
        Err(_) => Err(FieldError::new(field, format_args!("{raw} is no state of a member"))),
    }
}

fn member_state(field: &str, raw: i32) -> Checked<MemberState> {
    required(field, known_member_state(field, raw)?)
}

impl From<MemberState> for v1::MemberState {
    fn from(state: MemberState) -> Self {
        match state {
            MemberState::Asked => Self::Asked,
            MemberState::Ready => Self::Ready,
            MemberState::Paused => Self::Paused,
        }
    }
}

impl TryFrom<v1::NewMember> for NewMember {
    type Error = FieldError;

    fn try_from(wire: v1::NewMember) -> Checked<Self> {
        use v1::new_member::Cut;
        let volume = selector("volume", wire.volume)?;
        let cut = match required("name", wire.cut)? {
            Cut::Name(name) => NewCut::Snapshot(parsed("name", &name)?),
            Cut::CloneName(name) => NewCut::Clone(parsed("clone_name", &name)?),
        };
        Ok(Self { volume, cut })
    }
}

impl From<NewMember> for v1::NewMember {
    fn from(member: NewMember) -> Self {
        use v1::new_member::Cut;
        let cut = match member.cut {
            NewCut::Snapshot(name) => Cut::Name(name.to_string()),
            NewCut::Clone(name) => Cut::CloneName(name.to_string()),
        };
        Self { volume: Some(member.volume.into()), cut: Some(cut) }
    }
}

fn at_most<T>(field: &str, items: &[T], most: usize) -> Checked<()> {
    if items.len() <= most {
        return Ok(());
    }
    Err(FieldError::new(field, format_args!("{} are beyond {most}", items.len())))
}

impl TryFrom<v1::CreateSnapshotsRequest> for CreateSnapshots {
    type Error = FieldError;

    fn try_from(wire: v1::CreateSnapshotsRequest) -> Checked<Self> {
        if wire.members.is_empty() {
            return Err(FieldError::missing("members"));
        }
        at_most("members", &wire.members, SET_MEMBERS_MAX)?;
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            members: list("members", wire.members)?,
            created_unix_seconds: wire.created_unix_seconds,
            fsfreeze: fsfreeze("fsfreeze", wire.fsfreeze)?,
            over_watermark: wire.over_watermark,
            group: given("group_name", &wire.group_name)?,
        })
    }
}

impl From<CreateSnapshots> for v1::CreateSnapshotsRequest {
    fn from(request: CreateSnapshots) -> Self {
        Self {
            request_id: request.request.to_string(),
            members: to_list(request.members),
            created_unix_seconds: request.created_unix_seconds,
            fsfreeze: v1::Fsfreeze::from(request.fsfreeze).into(),
            over_watermark: request.over_watermark,
            group_name: told(request.group),
        }
    }
}

impl TryFrom<v1::SetMember> for SetMember {
    type Error = FieldError;

    fn try_from(wire: v1::SetMember) -> Checked<Self> {
        use v1::set_member::Cut;
        let cut = match required("cut", wire.cut)? {
            Cut::SnapshotId(id) => CutAs::Snapshot(parsed("snapshot_id", &id)?),
            Cut::Clone(clone) => CutAs::Clone {
                volume: parsed("clone.volume_id", &clone.volume_id)?,
                name: parsed("clone.name", &clone.name)?,
            },
        };
        let node = wire.node.map(NodeIncarnation::try_from).transpose();
        Ok(Self {
            volume: parsed("volume_id", &wire.volume_id)?,
            cut,
            node: node.map_err(|error| error.within("node"))?,
            state: known_member_state("state", wire.state)?,
        })
    }
}

impl From<SetMember> for v1::SetMember {
    fn from(member: SetMember) -> Self {
        use v1::set_member::Cut;
        let cut = match member.cut {
            CutAs::Snapshot(snapshot) => Cut::SnapshotId(snapshot.to_string()),
            CutAs::Clone { volume, name } => {
                let (volume_id, name) = (volume.to_string(), name.to_string());
                Cut::Clone(v1::SetClone { volume_id, name })
            }
        };
        let state = member.state.map_or(v1::MemberState::Unspecified, Into::into);
        Self {
            volume_id: member.volume.to_string(),
            cut: Some(cut),
            node: member.node.map(Into::into),
            state: state.into(),
        }
    }
}

impl TryFrom<v1::SetAbort> for SetAbort {
    type Error = FieldError;

    fn try_from(wire: v1::SetAbort) -> Checked<Self> {
        let volume = Some(wire.volume_id).filter(|id| !id.is_empty());
        let volume = volume.map(|id| parsed("volume_id", &id)).transpose()?;
        Ok(Self { reason: parsed("reason", &wire.reason)?, volume })
    }
}

impl From<SetAbort> for v1::SetAbort {
    fn from(abort: SetAbort) -> Self {
        let volume_id = abort.volume.map(|volume| volume.to_string()).unwrap_or_default();
        Self { reason: abort.reason.to_string(), volume_id }
    }
}

/// Why a set in this state was aborted: an aborted one alone has a reason.
fn abort_of(state: SetState, wire: Option<v1::SetAbort>) -> Checked<Option<SetAbort>> {
    if wire.is_some() != (state == SetState::Aborted) {
        let problem = format_args!("it does not fit a set that is {state}");
        return Err(FieldError::new("abort", problem));
    }
    let abort = wire.map(SetAbort::try_from).transpose();
    abort.map_err(|error| error.within("abort"))
}

impl TryFrom<v1::SnapshotSet> for SnapshotSet {
    type Error = FieldError;

    fn try_from(wire: v1::SnapshotSet) -> Checked<Self> {
        let state = set_state("state", wire.state)?;
        Ok(Self {
            id: parsed("set_id", &wire.set_id)?,
            snapshots: list("snapshots", wire.snapshots)?,
            state,
            abort: abort_of(state, wire.abort)?,
            fsfreeze: fsfreeze("fsfreeze", wire.fsfreeze)?,
            members: list("members", wire.members)?,
        })
    }
}

impl From<SnapshotSet> for v1::SnapshotSet {
    fn from(set: SnapshotSet) -> Self {
        Self {
            set_id: set.id.to_string(),
            snapshots: to_list(set.snapshots),
            state: v1::SetState::from(set.state).into(),
            abort: set.abort.map(Into::into),
            fsfreeze: v1::Fsfreeze::from(set.fsfreeze).into(),
            members: to_list(set.members),
        }
    }
}

impl TryFrom<v1::SetProgress> for SetProgress {
    type Error = FieldError;

    fn try_from(wire: v1::SetProgress) -> Checked<Self> {
        let state = set_state("state", wire.state)?;
        Ok(Self { state, abort: abort_of(state, wire.abort)? })
    }
}

impl From<SetProgress> for v1::SetProgress {
    fn from(progress: SetProgress) -> Self {
        let state = v1::SetState::from(progress.state).into();
        Self { state, abort: progress.abort.map(Into::into) }
    }
}

impl TryFrom<v1::KnownMember> for KnownMember {
    type Error = FieldError;

    fn try_from(wire: v1::KnownMember) -> Checked<Self> {
        Ok(Self {
            set: parsed("set_id", &wire.set_id)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            set_state: set_state("state_of_set", wire.state_of_set)?,
            state: member_state("state", wire.state)?,
        })
    }
}

impl From<KnownMember> for v1::KnownMember {
    fn from(known: KnownMember) -> Self {
        Self {
            set_id: known.set.to_string(),
            volume_id: known.volume.to_string(),
            state_of_set: v1::SetState::from(known.set_state).into(),
            state: v1::MemberState::from(known.state).into(),
        }
    }
}

impl TryFrom<v1::KnownStructure> for ChangedStructure {
    type Error = FieldError;

    fn try_from(wire: v1::KnownStructure) -> Checked<Self> {
        let volume = parsed("volume_id", &wire.volume_id)?;
        Ok(Self { volume, structure: StructureNumber::new(wire.structure) })
    }
}

impl From<ChangedStructure> for v1::KnownStructure {
    fn from(changed: ChangedStructure) -> Self {
        Self { volume_id: changed.volume.to_string(), structure: changed.structure.get() }
    }
}

impl TryFrom<v1::WatchNodeRequest> for WatchNode {
    type Error = FieldError;

    fn try_from(wire: v1::WatchNodeRequest) -> Checked<Self> {
        at_most("structures", &wire.structures, WATCHED_VOLUMES_MAX)?;
        at_most("members", &wire.members, WATCHED_MEMBERS_MAX)?;
        at_most("fences", &wire.fences, FENCE_LIST_MAX)?;
        at_most("peers", &wire.peers, WATCHED_VOLUMES_MAX)?;
        at_most("recalls", &wire.recalls, WATCHED_VOLUMES_MAX)?;
        Ok(Self {
            caller: nested("caller", wire.caller)?,
            structures: list("structures", wire.structures)?,
            members: list("members", wire.members)?,
            fences: list("fences", wire.fences)?,
            peers: list("peers", wire.peers)?,
            recalls: list("recalls", wire.recalls)?,
        })
    }
}

impl From<WatchNode> for v1::WatchNodeRequest {
    /// Without a wait.
    fn from(request: WatchNode) -> Self {
        Self {
            caller: Some(request.caller.into()),
            structures: to_list(request.structures),
            members: to_list(request.members),
            fences: to_list(request.fences),
            peers: to_list(request.peers),
            recalls: to_list(request.recalls),
            wait_ms: 0,
        }
    }
}

impl TryFrom<v1::OpenMember> for OpenMember {
    type Error = FieldError;

    fn try_from(wire: v1::OpenMember) -> Checked<Self> {
        let v1::OpenMember { set_id, volume_id, epoch, state_of_set, state, fsfreeze: freeze } =
            wire;
        let member = v1::KnownMember { set_id, volume_id, state_of_set, state };
        Ok(Self {
            member: member.try_into()?,
            epoch: granted_epoch("epoch", epoch)?,
            fsfreeze: fsfreeze("fsfreeze", freeze)?,
        })
    }
}

impl From<OpenMember> for v1::OpenMember {
    fn from(open: OpenMember) -> Self {
        let v1::KnownMember { set_id, volume_id, state_of_set, state } = open.member.into();
        let fsfreeze = v1::Fsfreeze::from(open.fsfreeze).into();
        Self { set_id, volume_id, epoch: open.epoch.get(), state_of_set, state, fsfreeze }
    }
}

impl TryFrom<v1::WatchNodeResponse> for NodeNews {
    type Error = FieldError;

    fn try_from(wire: v1::WatchNodeResponse) -> Checked<Self> {
        Ok(Self {
            members: list("members", wire.members)?,
            structures: list("structures", wire.structures)?,
            fences: list("fences", wire.fences)?,
            peers: list("peers", wire.peers)?,
            recalls: list("recalls", wire.recalls)?,
        })
    }
}

impl From<NodeNews> for v1::WatchNodeResponse {
    fn from(news: NodeNews) -> Self {
        let (members, structures) = (to_list(news.members), to_list(news.structures));
        let (fences, peers) = (to_list(news.fences), to_list(news.peers));
        Self { members, structures, fences, peers, recalls: to_list(news.recalls) }
    }
}

impl TryFrom<v1::MemberReadyRequest> for MemberReady {
    type Error = FieldError;

    fn try_from(wire: v1::MemberReadyRequest) -> Checked<Self> {
        Ok(Self {
            caller: nested("caller", wire.caller)?,
            set: parsed("set_id", &wire.set_id)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
        })
    }
}

impl From<MemberReady> for v1::MemberReadyRequest {
    /// Without a wait.
    fn from(request: MemberReady) -> Self {
        Self {
            caller: Some(request.caller.into()),
            set_id: request.set.to_string(),
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            wait_ms: 0,
        }
    }
}

impl TryFrom<v1::MemberFailedRequest> for MemberFailed {
    type Error = FieldError;

    fn try_from(wire: v1::MemberFailedRequest) -> Checked<Self> {
        Ok(Self {
            caller: nested("caller", wire.caller)?,
            set: parsed("set_id", &wire.set_id)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            why: parsed("why", &wire.why)?,
        })
    }
}

impl From<MemberFailed> for v1::MemberFailedRequest {
    fn from(request: MemberFailed) -> Self {
        Self {
            caller: Some(request.caller.into()),
            set_id: request.set.to_string(),
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            why: request.why.to_string(),
        }
    }
}

impl TryFrom<v1::MemberPausedRequest> for MemberPaused {
    type Error = FieldError;

    fn try_from(wire: v1::MemberPausedRequest) -> Checked<Self> {
        Ok(Self {
            caller: nested("caller", wire.caller)?,
            set: parsed("set_id", &wire.set_id)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            last_commit: CommitNumber::new(wire.last_commit),
            checkpoint: JournalSeq::new(wire.checkpoint_seq),
            next_head: layer_id("next_head", wire.next_head)?,
        })
    }
}

impl From<MemberPaused> for v1::MemberPausedRequest {
    /// Without a wait.
    fn from(request: MemberPaused) -> Self {
        Self {
            caller: Some(request.caller.into()),
            set_id: request.set.to_string(),
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            last_commit: request.last_commit.get(),
            checkpoint_seq: request.checkpoint.get(),
            next_head: request.next_head.get(),
            wait_ms: 0,
        }
    }
}

impl TryFrom<v1::MemberPausedResponse> for Vote {
    type Error = FieldError;

    fn try_from(wire: v1::MemberPausedResponse) -> Checked<Self> {
        let progress: SetProgress = nested("progress", wire.progress)?;
        match (progress.state, progress.abort, wire.sealed) {
            (SetState::Pausing, None, None) => Ok(Self::Waiting),
            (SetState::Sealed, None, sealed) => nested("sealed", sealed).map(Self::Sealed),
            (SetState::Aborted, Some(abort), None) => Ok(Self::Aborted(abort)),
            (state, ..) => {
                let problem = format_args!("a set that is {state} is no answer to a vote");
                Err(FieldError::new("progress.state", problem))
            }
        }
    }
}

impl From<Vote> for v1::MemberPausedResponse {
    fn from(vote: Vote) -> Self {
        let progress = |state, abort| Some(SetProgress { state, abort }.into());
        match vote {
            Vote::Waiting => Self { progress: progress(SetState::Pausing, None), sealed: None },
            Vote::Sealed(now) => {
                Self { progress: progress(SetState::Sealed, None), sealed: Some(now.into()) }
            }
            Vote::Aborted(abort) => {
                Self { progress: progress(SetState::Aborted, Some(abort)), sealed: None }
            }
        }
    }
}
