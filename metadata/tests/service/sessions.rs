//! Late calls of dead processes, and late copies of commits: refused, and nothing changes.

use std::time::Duration;

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{Held, MapEntry, World, hole, kind, name, solid};

/// The boot of the processes: the dead one, and the one that resumes its incarnation.
const BOOT: u128 = 7;

/// A volume with one mapped extent; the process of its node has been killed.
fn case() -> Held {
    let case = Held::since_boot(BOOT);
    case.world.commit(&case.held, vec![solid(0, case.extents[0])]).expect("mapped");
    case
}

impl Held {
    fn succeed(&self) -> NodeSession {
        let joined = self.world.join_as("a", BOOT, Some(1)).expect("resumed");
        assert!(joined.resumed);
        joined.session
    }

    /// Every call that a process makes, as the process of this session would make it now.
    fn calls(&self, caller: NodeSession) -> Vec<(&'static str, Result<(), ServiceError>)> {
        let service = &self.world.service;
        let request = || self.world.request();
        let (volume, epoch, pool) = (self.held.volume.id, self.held.epoch, self.pool.id);
        let commit = self.world.commit_of(&self.held, vec![solid(0, self.extents[1]), hole(1)]);
        let reserve = ReserveExtents { request: request(), caller, pool, count: 3 };
        let runs = vec![ExtentRun::new(self.extents[5], 1)];
        let release = ReleaseExtents { request: request(), caller, pool, runs };
        let by_id = Selector::Id(volume);
        let attach = Attach {
            request: request(),
            volume: by_id,
            caller,
            understands_layers: true,
            accept_restored: false,
            publication: None,
            for_file_system: false,
        };
        let resume = ResumeAttachment { volume, epoch, caller };
        let mode = DetachMode::Clean;
        let detach = Detach { request: request(), volume, epoch, caller, mode };
        let stale_epoch = Epoch::new(1);
        let retire = RetireJournal { request: request(), volume, epoch, caller, stale_epoch };
        let leave = Leave { request: request(), caller };
        let watch = WatchNode {
            caller,
            structures: vec![],
            members: vec![],
            fences: vec![],
            peers: vec![],
            recalls: vec![],
        };
        let set = SnapshotSetId::from_u128(1);
        let ready = MemberReady { caller, set, volume, epoch };
        let failed = MemberFailed { caller, set, volume, epoch, why: name("late") };
        let vote = MemberPaused { caller, ..self.world.vote_of(set, &self.held) };
        let seal =
            SealLayer { caller, number: commit.number.next(), ..self.world.seal_of(&self.held) };
        vec![
            ("commit", block_on(service.commit_map(&CommitMap { caller, ..commit })).map(|_| ())),
            ("reserve", block_on(service.reserve_extents(&reserve)).map(drop)),
            ("release", block_on(service.release_extents(&release))),
            ("attach", block_on(service.attach(&attach)).map(drop)),
            ("watch", block_on(service.watch_node(&watch)).map(drop)),
            ("ready", block_on(service.member_ready(ready)).map(drop)),
            ("failed", block_on(service.member_failed(&failed)).map(drop)),
            ("paused", block_on(service.member_paused(&vote)).map(drop)),
            ("seal", block_on(service.seal_layer(&seal)).map(drop)),
            ("resume", block_on(service.resume_attachment(resume)).map(drop)),
            ("detach", block_on(service.detach(&detach))),
            ("retire", block_on(service.retire_journal(&retire))),
            ("heartbeat", block_on(service.heartbeat(caller)).map(drop)),
            ("leave", block_on(service.leave(&leave))),
        ]
    }

    /// Everything that a call could have changed.
    fn facts(&self) -> (Vec<MapEntry>, Vec<PoolReservation>, Attachment, Vec<Node>) {
        let service = &self.world.service;
        let first = PageRequest::first();
        let (volume, epoch) = (self.held.volume.id, self.held.epoch);
        let caller = self.world.caller_of(&self.held);
        let resume = ResumeAttachment { volume, epoch, caller };
        (
            self.world.map(self.held.volume.head),
            block_on(service.reservations(self.node.node, &first)).expect("a page").items,
            block_on(service.resume_attachment(resume)).expect("held"),
            block_on(service.nodes(&first)).expect("a page").items,
        )
    }
}

#[test]
fn no_call_of_a_dead_process_changes_anything_after_its_successor_has_joined() {
    let mut case = case();
    let successor = case.succeed();
    assert_eq!(successor.node, case.node.node);
    for has_restarted in [false, true] {
        if has_restarted {
            case.world.restart();
        }
        let before = case.facts();
        for (what, answer) in case.calls(case.node) {
            let error = answer.expect_err(what);
            assert_eq!(error.kind(), ErrorReason::StaleSession, "{what}");
            let facts = error.facts();
            assert_eq!((facts["node"].as_str(), facts["node_name"].as_str()), ("1.1", "a"));
            let sessions = (facts["session_held"].as_str(), facts["session_given"].as_str());
            assert_eq!(sessions, ("2", "1"), "{what}");
            assert!(error.to_string().contains("a later fs-core process of this node"), "{error}");
        }
        assert_eq!(case.facts(), before);
        case.world.assert_clean();
    }
    let refused: Vec<_> = case
        .calls(successor)
        .into_iter()
        .filter_map(|(what, answer)| answer.err().map(|error| (what, error.kind())))
        .collect();
    // The same calls by the successor fail for reasons of their own or not at all.
    assert_eq!(
        refused,
        [
            ("attach", ErrorReason::VolumeAttached),
            ("ready", ErrorReason::SetNotFound),
            ("failed", ErrorReason::SetNotFound),
            ("paused", ErrorReason::SetNotFound),
            ("retire", ErrorReason::NotAttached)
        ]
    );
}

#[test]
fn another_replica_refuses_a_dead_process_as_well() {
    let case = case();
    let replica = World::on(case.world.service.store().clone());
    let commit = case.world.commit_of(&case.held, vec![solid(0, case.extents[1])]);
    case.succeed();
    let before = case.facts();
    let late = block_on(replica.service.commit_map(&commit));
    assert_eq!(kind(late), ErrorReason::StaleSession);
    assert_eq!(kind(block_on(replica.service.heartbeat(case.node))), ErrorReason::StaleSession);
    assert_eq!(case.facts(), before);
}

#[test]
fn what_a_dead_process_has_done_is_answered_again_and_not_done_again() {
    let case = case();
    let reserve = ReserveExtents {
        request: case.world.request(),
        caller: case.node,
        pool: case.pool.id,
        count: 2,
    };
    let runs = block_on(case.world.service.reserve_extents(&reserve)).expect("reserved");
    case.succeed();
    let before = case.facts();
    let again = block_on(case.world.service.reserve_extents(&reserve)).expect("remembered");
    assert_eq!(again, runs);
    assert_eq!(case.facts(), before);
}

#[test]
fn a_late_join_is_refused_on_the_same_boot_and_on_a_later_one() {
    let mut world = World::new();
    let first = world.join_of("a", 7, None);
    let rival = world.join_of("a", 7, None);
    let joined = block_on(world.service.join(&first)).expect("joined");
    assert_eq!(kind(block_on(world.service.join(&rival))), ErrorReason::StaleSession);
    // Killed after it had looked, before its join arrived.
    let late_resume = world.join_of("a", 7, Some(1));
    let successor = world.join_as("a", 7, Some(1)).expect("resumed");
    assert_eq!(kind(block_on(world.service.join(&late_resume))), ErrorReason::StaleSession);
    let late_of_old_boot = world.join_of("a", 7, Some(1));
    let booted = world.boot_as("a", 8);
    world.restart();
    let refused = block_on(world.service.join(&late_of_old_boot)).expect_err("it is late");
    assert_eq!(refused.kind(), ErrorReason::StaleSession);
    let sessions = [joined.session, successor.session, booted];
    let numbers = sessions.map(|session| session.number.get());
    assert_eq!(numbers, [1, 2, 3]);
    block_on(world.service.heartbeat(booted)).expect("it lives");
    world.assert_clean();
}

#[test]
fn a_join_of_a_node_that_is_gone_from_the_store_starts_nothing() {
    let world = World::new();
    let join = Join { last_session: SessionNumber::new(4), ..world.join_of("a", 7, Some(1)) };
    assert_eq!(kind(block_on(world.service.join(&join))), ErrorReason::NodeNotFound);
    assert_eq!(
        kind(block_on(world.service.node(&Selector::Name(name("a"))))),
        ErrorReason::NodeNotFound
    );
}

#[test]
fn the_answer_to_an_old_join_says_nothing_of_who_was_heard_from() {
    let world = World::new();
    let old = world.join_of("a", 7, None);
    block_on(world.service.join(&old)).expect("joined");
    world.clock.advance(Duration::from_secs(60));
    let booted = world.boot_as("a", 8);
    block_on(world.service.join(&old)).expect("remembered");
    let heard = block_on(world.service.node(&Selector::Id(booted.node.node)));
    assert_eq!(heard.expect("known").heard_ago, Some(Duration::ZERO));
    assert_eq!(kind(world.join_as("a", 8, None)), ErrorReason::NodeAlive);
}

/// Ends the memory of everything that was asked so far.
fn forget_requests(world: &World) {
    for _ in 0..2 {
        world.settle();
        world.clock.advance(Duration::from_secs(600));
        world.settle();
    }
}

#[test]
fn commits_are_carried_out_in_their_order_and_each_once() {
    let case = case();
    let service = &case.world.service;
    let send = |commit: &CommitMap| block_on(service.commit_map(commit));
    let numbered = |number, updates| CommitMap {
        number: CommitNumber::new(number),
        ..case.world.commit_of(&case.held, updates)
    };
    for number in [1, 3, u64::MAX] {
        let error = send(&numbered(number, vec![hole(0)])).expect_err("not the next");
        assert_eq!(error.kind(), ErrorReason::CommitOutOfOrder);
        let facts = error.facts();
        let given = number.to_string();
        assert_eq!((&facts["commit_last"], &facts["commit_given"]), (&"1".to_owned(), &given));
    }
    let second = numbered(2, vec![solid(0, case.extents[1])]);
    send(&second).expect("the next");
    send(&second).expect("the same request again");
    let third = numbered(3, vec![solid(0, case.extents[2])]);
    send(&third).expect("the next");
    let before = case.facts();
    assert_eq!(before.2.last_commit, CommitNumber::new(3));
    forget_requests(&case.world);
    assert_eq!(kind(send(&second)), ErrorReason::CommitOutOfOrder, "a late copy of an old one");
    send(&third).expect("the last one is answered however late");
    let other = CommitMap { request: case.world.request(), ..third };
    assert_eq!(kind(send(&other)), ErrorReason::CommitOutOfOrder, "not the same request");
    let after = case.facts();
    assert_eq!((after.0, after.1, after.2), (before.0, before.1, before.2));
    case.world.assert_clean();
}

#[test]
fn a_refused_commit_takes_no_number() {
    let case = case();
    let bad = case.world.commit_of(&case.held, vec![solid(1, ExtentAddress::new(0, 90))]);
    assert_eq!(bad.number, CommitNumber::new(2));
    let refused = block_on(case.world.service.commit_map(&bad));
    assert_eq!(kind(refused), ErrorReason::ExtentNotReserved);
    let good = CommitMap { updates: vec![hole(0)], request: case.world.request(), ..bad };
    block_on(case.world.service.commit_map(&good)).expect("under the same number");
}

#[test]
fn a_successor_goes_on_from_the_last_number_and_a_grant_begins_anew() {
    let mut case = case();
    case.succeed();
    case.world.restart();
    assert_eq!(case.facts().2.last_commit, CommitNumber::new(1));
    case.world.commit(&case.held, vec![hole(0)]).expect("number 2");
    case.world.detach(&case.held, DetachMode::Clean).expect("detached");
    let caller = case.world.caller_of(&case.held);
    let again = case.world.attach(case.held.volume.id, caller).expect("granted");
    assert_eq!(again.last_commit, CommitNumber::new(0));
}

#[test]
fn parts_of_a_replay_are_numbered_like_other_commits() {
    let case = case();
    let boot = case.world.boot_as("a", 8);
    let held = case.world.attach(case.held.volume.id, boot).expect("taken over");
    let replay = |number, updates| CommitMap {
        replay_of: Some(case.held.epoch),
        number: CommitNumber::new(number),
        ..case.world.commit_of(&held, updates)
    };
    let service = &case.world.service;
    let first = replay(1, vec![solid(0, case.extents[1])]);
    block_on(service.commit_map(&first)).expect("the first part");
    block_on(service.commit_map(&replay(2, vec![hole(0)]))).expect("the second part");
    forget_requests(&case.world);
    let late = block_on(service.commit_map(&first));
    assert_eq!(kind(late), ErrorReason::CommitOutOfOrder);
    // Killed in the middle of the replay: what is late of it does not reach the map either.
    let rest = replay(3, vec![solid(2, case.extents[2])]);
    case.world.join_as("a", 8, Some(2)).expect("resumed");
    assert_eq!(kind(block_on(service.commit_map(&rest))), ErrorReason::StaleSession);
    case.world.retire(&held, case.held.epoch).expect("retired");
    case.world.commit(&held, vec![hole(5)]).expect("number 3, from the successor");
    assert!(case.world.map(held.volume.head).is_empty());
    case.world.settle();
    case.world.assert_clean();
}
