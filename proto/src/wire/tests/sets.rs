//! Sets of snapshots and what holders say of their members.

use super::fencing::order;
use super::peers::known_peer;
use super::publications::recall;
use super::*;

const SET: SnapshotSetId = SnapshotSetId::from_u128(15);
const VOLUME: VolumeId = VolumeId::from_u128(13);

fn name(text: &str) -> lunar_types::Name {
    text.parse().expect("a name")
}

fn abort() -> SetAbort {
    SetAbort { reason: name("pausing-timeout"), volume: Some(VOLUME) }
}

fn known() -> KnownMember {
    let (set_state, state) = (SetState::Pausing, MemberState::Ready);
    KnownMember { set: SET, volume: VOLUME, set_state, state }
}

fn create() -> CreateSnapshots {
    let member = |cut| NewMember { volume: Selector::Id(VOLUME), cut };
    CreateSnapshots {
        request: REQUEST,
        members: vec![member(NewCut::Snapshot(name("s"))), member(NewCut::Clone(name("c")))],
        created_unix_seconds: 7,
        fsfreeze: Fsfreeze::Always,
        over_watermark: false,
        group: Some("weekly".parse().expect("a name")),
    }
}

fn set(state: SetState) -> SnapshotSet {
    let clone = CutAs::Clone { volume: VolumeId::from_u128(14), name: name("c") };
    let open = state.is_open();
    let member = |cut, state| SetMember {
        volume: VOLUME,
        cut,
        node: open.then(node),
        state: Some(state).filter(|_| open),
    };
    SnapshotSet {
        id: SET,
        snapshots: vec![snapshot(SnapshotState::Ready), snapshot(SnapshotState::Creating)],
        state,
        abort: (state == SetState::Aborted).then(abort),
        fsfreeze: Fsfreeze::Never,
        members: vec![
            member(CutAs::Snapshot(SnapshotId::from_u128(1)), MemberState::Asked),
            member(clone, MemberState::Paused),
        ],
    }
}

fn paused() -> MemberPaused {
    MemberPaused {
        caller: caller(),
        set: SET,
        volume: VOLUME,
        epoch: Epoch::new(4),
        last_commit: CommitNumber::new(9),
        checkpoint: JournalSeq::new(8),
        next_head: LayerId::new(41),
    }
}

#[test]
fn sets_survive_the_wire() {
    use SetState::{Aborted, Gathering, Pausing, Sealed};
    for fsfreeze in [Fsfreeze::Auto, Fsfreeze::Always, Fsfreeze::Never] {
        survives::<_, v1::CreateSnapshotsRequest>(CreateSnapshots { fsfreeze, ..create() });
    }
    for state in [Gathering, Pausing, Sealed, Aborted] {
        survives::<_, v1::SnapshotSet>(set(state));
        let abort = (state == Aborted).then(abort);
        survives::<_, v1::SetProgress>(SetProgress { state, abort });
    }
    survives::<_, v1::SetAbort>(SetAbort { volume: None, ..abort() });
}

#[test]
fn what_holders_say_survives_the_wire() {
    let structure = StructureNumber::new(3);
    let structures = vec![ChangedStructure { volume: VOLUME, structure }];
    survives::<_, v1::WatchNodeRequest>(WatchNode {
        caller: caller(),
        structures: structures.clone(),
        members: vec![known()],
        fences: vec![order()],
        peers: vec![known_peer()],
        recalls: vec![recall()],
    });
    for state in [MemberState::Asked, MemberState::Ready, MemberState::Paused] {
        let member = KnownMember { state, ..known() };
        let open = OpenMember { member, epoch: Epoch::new(4), fsfreeze: Fsfreeze::Auto };
        let structures = structures.clone();
        survives::<_, v1::WatchNodeResponse>(NodeNews {
            members: vec![open],
            structures,
            fences: vec![order()],
            peers: vec![known_peer()],
            recalls: vec![recall()],
        });
    }
    let (caller, epoch) = (caller(), Epoch::new(4));
    let ready = MemberReady { caller, set: SET, volume: VOLUME, epoch };
    survives::<_, v1::MemberReadyRequest>(ready);
    let why = name("warm-up-failed");
    let failed = MemberFailed { caller, set: SET, volume: VOLUME, epoch, why };
    survives::<_, v1::MemberFailedRequest>(failed);
    survives::<_, v1::MemberPausedRequest>(paused());
    for vote in [Vote::Waiting, Vote::Sealed(sealed_head()), Vote::Aborted(abort())] {
        survives::<_, v1::MemberPausedResponse>(vote);
    }
}

#[test]
fn a_bad_field_of_a_set_is_named() {
    let wire = v1::CreateSnapshotsRequest::from(create());
    let bad =
        |spoil: fn(&mut v1::CreateSnapshotsRequest)| bad_field::<_, CreateSnapshots>(&wire, spoil);
    assert_eq!(bad(|w| w.members.clear()), "members");
    assert_eq!(bad(|w| w.members = vec![w.members[0].clone(); 33]), "members");
    assert_eq!(bad(|w| w.members[0].volume = None), "members[0].volume");
    assert_eq!(bad(|w| w.members[1].cut = None), "members[1].name");
    assert_eq!(bad(|w| w.fsfreeze = 4), "fsfreeze");
    let unsaid = v1::CreateSnapshotsRequest { fsfreeze: 0, ..wire };
    let unsaid = CreateSnapshots::try_from(unsaid).expect("a default");
    assert_eq!(unsaid.fsfreeze, Fsfreeze::Auto);

    let wire = v1::SnapshotSet::from(set(SetState::Aborted));
    assert_eq!(bad_field::<_, SnapshotSet>(&wire, |w| w.abort = None), "abort");
    assert_eq!(bad_field::<_, SnapshotSet>(&wire, |w| w.state = 3), "abort");
    assert_eq!(bad_field::<_, SnapshotSet>(&wire, |w| w.state = 0), "state");
    assert_eq!(bad_field::<_, SnapshotSet>(&wire, |w| w.members[0].cut = None), "members[0].cut");
    let wire = v1::MemberPausedRequest::from(paused());
    assert_eq!(bad_field::<_, MemberPaused>(&wire, |w| w.next_head = 0), "next_head");
    assert_eq!(bad_field::<_, MemberPaused>(&wire, |w| w.epoch = 0), "epoch");
    let wire = v1::MemberPausedResponse::from(Vote::Sealed(sealed_head()));
    assert_eq!(bad_field::<_, Vote>(&wire, |w| w.sealed = None), "sealed");
    let gathering = SetProgress { state: SetState::Gathering, abort: None };
    let field = bad_field::<_, Vote>(&wire, |w| w.progress = Some(gathering.into()));
    assert_eq!(field, "progress.state");
}

#[test]
fn a_wait_beyond_the_limit_is_refused() {
    assert_eq!(crate::wire::wait(30_000), Ok(WAIT_MAX));
    assert_eq!(crate::wire::wait(30_001).expect_err("too long").field(), "wait_ms");
    assert_eq!(crate::wire::wait_ms(Duration::from_secs(3600)), 30_000);
}

#[test]
fn news_is_what_differs_from_what_is_known() {
    let watch = |members| WatchNode {
        caller: caller(),
        structures: vec![],
        members,
        fences: vec![],
        peers: vec![],
        recalls: vec![],
    };
    let open = OpenMember { member: known(), epoch: Epoch::new(4), fsfreeze: Fsfreeze::Auto };
    let news = |members| NodeNews {
        members,
        structures: vec![],
        fences: vec![],
        peers: vec![],
        recalls: vec![],
    };
    assert!(!news(vec![]).is_news_to(&watch(vec![])));
    assert!(news(vec![open]).is_news_to(&watch(vec![])));
    assert!(!news(vec![open]).is_news_to(&watch(vec![known()])));
    assert!(news(vec![]).is_news_to(&watch(vec![known()])));
    let earlier = KnownMember { set_state: SetState::Gathering, ..known() };
    assert!(news(vec![open]).is_news_to(&watch(vec![earlier])));
    let changed = ChangedStructure { volume: VOLUME, structure: StructureNumber::new(1) };
    let changed = NodeNews { structures: vec![changed], ..news(vec![]) };
    assert!(changed.is_news_to(&watch(vec![])));
    let ordered = NodeNews { fences: vec![order()], ..news(vec![]) };
    assert!(ordered.is_news_to(&watch(vec![])));
    assert!(!ordered.is_news_to(&WatchNode { fences: vec![order()], ..watch(vec![]) }));
    assert!(news(vec![]).is_news_to(&WatchNode { fences: vec![order()], ..watch(vec![]) }));
    let wished = NodeNews { peers: vec![known_peer()], ..news(vec![]) };
    assert!(wished.is_news_to(&watch(vec![])));
    assert!(!wished.is_news_to(&WatchNode { peers: vec![known_peer()], ..watch(vec![]) }));
}
