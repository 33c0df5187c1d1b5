//! Backups restored into empty stores: what comes back, what is taken away, what is refused.

use lunar_backup::{BackupEncoder, BackupHeader};
use lunar_metadata::keyspace::*;
use lunar_metadata::restore::{Asked, ClockWrong, Raised, RestoreError, Survey, restore};
use lunar_metadata::seams::block_on;
use lunar_metadata::service::{Actor, Seams, Service, Settings, StartError};
use lunar_metadata::store::{
    Fault, FaultPlan, FaultyStore, KeyValue, MetaStore, RedbStore, StoreError,
};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::damage::{Sound, sound};
use crate::repair::dump;
use crate::world::{World, hole, kind, name, solid};

/// The number of the backup.
const NUMBER: u64 = 7;
/// 2026-01-02, when it is begun.
const BEGUN: u64 = 1_767_312_000;
/// An hour later it is restored.
const NOW: u64 = BEGUN + 3600;
/// Extents of the LUN of a sound store.
const EXTENTS: u64 = 3000;

fn header(world: &World) -> BackupHeader {
    let Cluster { id: cluster, keyspace_version, .. } = world.service.cluster();
    BackupHeader { keyspace_version, cluster, number: NUMBER, begun: BEGUN }
}

fn backup_of(header: &BackupHeader, entries: &[KeyValue]) -> Vec<u8> {
    let (mut encoder, mut bytes) = BackupEncoder::begin(header);
    for (key, value) in entries {
        bytes.extend(encoder.push(key, value).expect("it fits").unwrap_or_default());
    }
    bytes.extend(encoder.finish().0);
    bytes
}

fn backup(world: &World) -> Vec<u8> {
    backup_of(&header(world), &dump(world))
}

fn asked(now: u64) -> Asked {
    Asked { number: NUMBER, now, unprotected: false }
}

fn survey(bytes: &[u8], now: u64) -> Survey {
    Survey::read(bytes, asked(now)).expect("it can be restored")
}

fn refused(bytes: &[u8], asked: Asked) -> RestoreError {
    Survey::read(bytes, asked).expect_err("it is refused")
}

fn into_store<S: MetaStore>(store: &S, bytes: &[u8], now: u64) -> Result<u64, RestoreError> {
    block_on(restore(store, bytes, &survey(bytes, now)))
}

fn open(store: RedbStore, like: &World) -> Result<World, StartError> {
    let (clock, ids) = (like.clock.clone(), like.ids.clone());
    let seams = Seams { clock: clock.clone(), ids: ids.clone() };
    let service = block_on(Service::open(store, seams, Settings::default()))?;
    Ok(World { service, clock, ids })
}

/// The store of a world, lost and restored at this time.
fn restored(world: &World, now: u64) -> World {
    let store = RedbStore::in_memory();
    into_store(&store, &backup(world), now).expect("restored");
    open(store, world).expect("the service starts")
}

fn records<K: Key>(world: &World) -> Vec<Entry<K>> {
    block_on(async {
        let txn = world.service.store().begin().await.expect("begun");
        txn.scan(&TypedRange::<K>::table(), 10_000).await.expect("read")
    })
}

fn counter(world: &World, counter: Counter) -> u64 {
    let counters = records::<CounterKey>(world);
    counters.iter().find(|(key, _)| key.counter == counter).expect("it is there").1.last
}

fn release(world: &World) -> u64 {
    let request = ReleaseQuarantine { pool: Selector::Name(name("p")), confirm: name("p") };
    block_on(world.service.release_quarantine(&request)).expect("released")
}

fn accept(world: &World, volume: VolumeId, caller: NodeSession) -> Attachment {
    let (request, volume) = (world.request(), Selector::Id(volume));
    let attach = Attach {
        request,
        volume,
        caller,
        understands_layers: true,
        accept_restored: true,
        publication: None,
        for_file_system: false,
    };
    block_on(world.service.attach(&attach)).expect("granted")
}

fn mapped(world: &World) -> Vec<KeyValue> {
    let tables = [LayerKey::TABLE, SlotKey::TABLE, PartKey::TABLE, ChildKey::TABLE];
    let of_map = |(key, _): &KeyValue| tables.contains(&u16::from(key[1]));
    dump(world).into_iter().filter(of_map).collect()
}

#[test]
fn what_was_there_comes_back_and_every_number_has_risen() {
    let Sound { world: lost, .. } = sound();
    let world = restored(&lost, NOW);
    world.assert_clean();
    let raised = Raised::at(NOW, BEGUN).expect("a time");
    assert_eq!(mapped(&world), mapped(&lost));
    let volumes = records::<VolumeKey>(&world);
    assert_eq!(volumes.len(), 4);
    for (_, volume) in volumes {
        assert_eq!(volume.epoch.get(), raised.number());
        assert_eq!(volume.structure.get(), raised.number());
        assert!(volume.restored && volume.set.is_none());
    }
    for (_, node) in records::<NodeKey>(&world) {
        assert_eq!(node.session.get(), raised.number());
        assert_eq!(node.incarnation.get(), raised.incarnation());
    }
    assert_eq!(counter(&world, Counter::Layer), raised.number());
    assert_eq!(counter(&world, Counter::Operation), raised.number());
    assert_eq!(counter(&world, Counter::Generation), counter(&lost, Counter::Generation) + 2);
    assert_eq!(counter(&world, Counter::Node), counter(&lost, Counter::Node));
    assert_eq!(world.service.cluster().id, lost.service.cluster().id);
    world.settle();
    world.assert_clean();
}

#[test]
fn attachments_journals_reservations_requests_and_open_sets_are_gone() {
    let sound = sound();
    let lost = &sound.world;
    let counts = survey(&backup(lost), NOW).counts;
    assert_eq!((counts.attachments, counts.stale_journals, counts.open_sets), (2, 1, 1));
    assert!(!records::<ReservationKey>(lost).is_empty());
    assert!(!records::<IdempotencyKey>(lost).is_empty());
    let world = restored(lost, NOW);
    assert!(records::<AttachmentKey>(&world).is_empty());
    assert!(records::<NodeAttachmentKey>(&world).is_empty());
    assert!(records::<StaleJournalKey>(&world).is_empty());
    assert!(records::<NodeStaleJournalKey>(&world).is_empty());
    assert!(records::<ReservationKey>(&world).is_empty());
    assert!(records::<IdempotencyKey>(&world).is_empty());
    assert!(records::<SetMemberKey>(&world).is_empty());
    assert!(records::<NodeSetKey>(&world).is_empty());
    let set = world.set(sound.set.id);
    let reason = set.abort.expect("it was aborted").reason;
    assert_eq!((set.state, reason), (SetState::Aborted, name("metadata-restored")));
    let snapshots: Vec<_> = records::<SnapshotKey>(&world);
    let mut names: Vec<_> = snapshots.iter().map(|(_, it)| it.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["dropped", "ready"]);
    assert!(snapshots.iter().all(|(_, snapshot)| snapshot.restored));
}

#[test]
fn all_that_was_free_or_held_is_quarantined_until_an_operator_releases_it() {
    let Sound { world: lost, pool, .. } = sound();
    let SpaceUsage { allocated_extents, reserved_extents, journal_extents, .. } =
        lost.status(pool.id).usage;
    let used = allocated_extents - reserved_extents - journal_extents;
    let store = RedbStore::in_memory();
    let quarantined = into_store(&store, &backup(&lost), NOW).expect("restored");
    assert_eq!(quarantined, EXTENTS - used);
    let world = open(store, &lost).expect("it starts");
    let usage = world.status(pool.id).usage;
    assert_eq!((usage.allocated_extents, usage.quarantined_extents), (EXTENTS, quarantined));
    assert!(
        records::<QuarantineKey>(&world)
            .iter()
            .all(|(key, _)| key.stamp == QuarantineStamp::BY_HAND)
    );
    assert_eq!(release(&world), quarantined);
    let usage = world.status(pool.id).usage;
    assert_eq!((usage.allocated_extents, usage.quarantined_extents), (used, 0));
    world.assert_clean();
}

#[test]
fn nothing_is_attached_before_it_is_certified_and_a_volume_has_to_be_accepted() {
    let Sound { world: lost, pool, volume, .. } = sound();
    let world = restored(&lost, NOW);
    let node = world.node("a");
    let not_certified = world.attach(volume.id, node).expect_err("it is refused");
    assert_eq!(not_certified.kind(), ErrorReason::RestoreNotCertified);
    let facts = not_certified.report().facts;
    assert_eq!((facts["backup"].as_str(), facts["restored"].clone()), ("7", NOW.to_string()));
    release(&world);
    let not_accepted = world.attach(volume.id, node).expect_err("it is refused");
    assert_eq!(not_accepted.kind(), ErrorReason::VolumeRestored);
    assert!(not_accepted.to_string().contains("--accept-restored"), "{not_accepted}");
    let shown = || block_on(world.service.volume(&Selector::Id(volume.id))).expect("it is there");
    assert!(shown().restored);
    let held = accept(&world, volume.id, node);
    assert!(held.epoch.get() > Raised::at(NOW, BEGUN).expect("a time").number());
    assert!(held.stale_journals.is_empty() && !held.volume.restored && !shown().restored);
    let extent = world.extents(node, pool.id, 1)[0];
    world.commit(&held, vec![solid(1, extent)]).expect("it is written again");
    world.detach(&held, DetachMode::Clean).expect("detached");
    world.attach(volume.id, node).expect("it was accepted once");
    world.assert_clean();
}

#[test]
fn a_daemon_of_before_is_told_so_whatever_it_asks() {
    let Sound { world: lost, pool, held, .. } = sound();
    let before = lost.caller_of(&held);
    let world = restored(&lost, NOW);
    let newer = NodeIncarnation { node: NodeId::new(99), incarnation: Incarnation::new(1) };
    let joined_since = NodeSession { node: newer, number: SessionNumber::new(1) };
    let not_certified = ErrorReason::RestoreNotCertified;
    for caller in [before, joined_since] {
        assert_eq!(kind(block_on(world.service.heartbeat(caller))), not_certified);
        assert_eq!(kind(world.reserve(caller, pool.id, 1)), not_certified);
        assert_eq!(kind(world.attach(VolumeId::from_u128(1 << 100), caller)), not_certified);
        let (volume, epoch) = (held.volume.id, held.epoch);
        let resume = ResumeAttachment { volume, epoch, caller };
        assert_eq!(kind(block_on(world.service.resume_attachment(resume))), not_certified);
    }
    release(&world);
    assert_eq!(kind(block_on(world.service.heartbeat(before))), ErrorReason::NodeFenced);
}

/// A key at an array that a lost life of the cluster has left is nobody's in this one.
#[test]
fn fences_and_registrations_stay_behind_and_no_incarnation_comes_again() {
    let lost = World::new();
    let fencing = PoolFencing::Reservations;
    let pool = lost.fenced_pool("p", ExtentSize::DEFAULT, &[100], fencing);
    let a = lost.node("a");
    let luns = vec![pool.luns[0].id];
    let intend = IntendRegistrations { caller: a, luns };
    block_on(lost.service.intend_registrations(&intend)).expect("intended");
    let confirm = ConfirmRegistration { caller: a, lun: pool.luns[0].id, paths: 1 };
    block_on(lost.service.confirm_registration(confirm)).expect("confirmed");
    let (request, node) = (lost.request(), Selector::Name(name("a")));
    let fence = FenceNode { request, node, reason: String::new(), keeps_out: false };
    let by = Actor { name: "admin/ada", at: 7 };
    block_on(lost.service.fence_node(&fence, by)).expect("begun");
    let world = restored(&lost, NOW);
    world.assert_clean();
    assert!(records::<FenceKey>(&world).is_empty() && records::<FenceLunKey>(&world).is_empty());
    assert!(records::<LunRegistrationKey>(&world).is_empty());
    assert_eq!(records::<AuditKey>(&world).len(), 1, "what was overridden stays told");
    let raised = Raised::at(NOW, BEGUN).expect("a time").incarnation();
    let [(_, node)] = &records::<NodeKey>(&world)[..] else { panic!("one node") };
    assert_eq!((node.state, node.incarnation.get()), (NodeState::Fenced, raised));
    release(&world);
    assert_eq!(world.node("a").node.incarnation.get(), raised + 1);
    assert_eq!(world.node("b").node.incarnation.get(), raised + 1, "it may have been there");
    world.assert_clean();
}

#[test]
fn what_comes_of_restored_volumes_and_snapshots_is_restored_too() {
    let Sound { world: lost, volume, ready, .. } = sound();
    let world = restored(&lost, NOW);
    assert!(world.clone_of(ready.id, "copy").expect("cloned").restored);
    assert!(world.cut(volume.id, "since").expect("cut").restored);
    release(&world);
    let node = world.node("a");
    let held = accept(&world, volume.id, node);
    world.detach(&held, DetachMode::Clean).expect("detached");
    let exact = world.cut(volume.id, "accepted").expect("cut");
    assert!(!exact.restored && !world.volume("fresh").restored);
    let since = block_on(world.service.snapshot(&Selector::Name(name("since")))).expect("there");
    assert!(world.roll_back(volume.id, since.id).expect("rolled back").restored);
    assert!(!world.roll_back(volume.id, exact.id).expect("rolled back").restored);
    world.assert_clean();
}

#[test]
fn what_waited_for_backups_is_quarantined_and_backups_go_on_from_higher_numbers() {
    let Sound { world: lost, volume, held, pool, .. } = sound();
    lost.retire(&held, Epoch::new(1)).expect("retired");
    let begin = |world: &World| block_on(world.service.begin_backup(BEGUN)).expect("begun");
    begin(&lost);
    let caller = lost.caller_of(&held);
    let freed = lost.extents(caller, pool.id, 2);
    let updates = vec![solid(1, freed[0]), solid(2, freed[1])];
    lost.commit(&held, updates).expect("mapped");
    lost.commit(&held, vec![hole(1), hole(2)]).expect("unmapped");
    lost.release(caller, pool.id, &[ExtentRun::new(freed[0], 1)]).expect("given back");
    let stamped = |world: &World| {
        let all = records::<QuarantineKey>(world);
        all.iter().any(|(key, _)| key.stamp != QuarantineStamp::BY_HAND)
    };
    assert!(stamped(&lost) && !records::<UnmappedKey>(&lost).is_empty());
    let number = begin(&lost);
    let bytes = backup_of(&BackupHeader { number: number.get(), ..header(&lost) }, &dump(&lost));
    let asked = Asked { number: number.get(), ..asked(NOW) };
    let survey = Survey::read(&bytes[..], asked).expect("it can be restored");
    let store = RedbStore::in_memory();
    block_on(restore(&store, &bytes[..], &survey)).expect("restored");
    let world = open(store, &lost).expect("it starts");
    world.assert_clean();
    assert!(!stamped(&world) && records::<UnmappedKey>(&world).is_empty());
    let known = block_on(world.service.backups()).expect("read");
    assert_eq!(known.newest_complete, Some(number));
    assert_eq!(known.backups.iter().map(|it| it.number).collect::<Vec<_>>(), [number]);
    // What is freed now is held back for the backup that may be restored again.
    release(&world);
    let node = world.node("a");
    let again = accept(&world, volume.id, node);
    world.commit(&again, vec![hole(0)]).expect("unmapped");
    world.detach(&again, DetachMode::Clean).expect("detached");
    block_on(world.service.leave(&Leave { request: world.request(), caller: node })).expect("left");
    world.settle();
    assert!(stamped(&world));
    world.assert_clean();
    let next = begin(&world);
    assert!(next.get() > survey.raised.number());
    let known = block_on(world.service.backup_done(next, NOW)).expect("done");
    assert_eq!(known.newest_complete, Some(next));
    assert_eq!(known.backups[0].number, next);
    world.settle();
    assert!(!stamped(&world));
    world.assert_clean();
}

#[test]
fn a_second_restore_gives_higher_numbers_than_anything_of_the_first_life() {
    let Sound { world: lost, volume, .. } = sound();
    let first = restored(&lost, NOW);
    release(&first);
    let node = first.node("a");
    let held = accept(&first, volume.id, node);
    let second = restored(&lost, NOW + 60);
    let record = records::<VolumeKey>(&second).remove(0).1;
    assert!(record.epoch > held.epoch);
    assert!(counter(&second, Counter::Layer) > held.next_head.get());
    let again = records::<NodeKey>(&second).remove(0).1;
    assert!(again.incarnation > node.node.incarnation && again.session > node.number);
    // The backup of the first life is restored no sooner than a minute later.
    let bytes = backup(&first);
    let soon = refused(&bytes, asked(NOW));
    assert!(matches!(soon, RestoreError::Clock(ClockWrong::Behind { .. })), "{soon}");
    let later = RedbStore::in_memory();
    into_store(&later, &bytes, NOW + 60).expect("restored");
    open(later, &first).expect("it starts").assert_clean();
}

#[test]
fn a_backup_whose_extents_were_given_away_is_restored_only_on_demand() {
    let Sound { world: lost, .. } = sound();
    block_on(lost.service.set_backup_horizon(false)).expect("off");
    let number = block_on(lost.service.begin_backup(BEGUN)).expect("begun").get();
    let bytes = backup_of(&BackupHeader { number, ..header(&lost) }, &dump(&lost));
    let asked = Asked { number, ..asked(NOW) };
    let error = refused(&bytes, asked);
    assert!(matches!(error, RestoreError::Unprotected { .. }), "{error}");
    assert!(error.to_string().contains("--unprotected"), "{error}");
    let insisted = Asked { unprotected: true, ..asked };
    let survey = Survey::read(&bytes[..], insisted).expect("it can be restored");
    let store = RedbStore::in_memory();
    block_on(restore(&store, &bytes[..], &survey)).expect("restored");
    let world = open(store, &lost).expect("it starts");
    let known = block_on(world.service.backups()).expect("read");
    assert_eq!((known.newest_complete, known.is_horizon_off), (None, true));
    world.assert_clean();
}

#[test]
fn a_backup_that_is_not_the_one_or_not_whole_is_refused() {
    let Sound { world, .. } = sound();
    let (bytes, header) = (backup(&world), header(&world));
    let number = refused(&bytes, Asked { number: 6, ..asked(NOW) });
    assert!(matches!(number, RestoreError::OtherNumber { found: 7, asked: 6 }), "{number}");
    let torn = refused(&bytes[..bytes.len() - 1], asked(NOW));
    assert!(matches!(torn, RestoreError::Backup(_)), "{torn}");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    assert!(matches!(refused(&flipped, asked(NOW)), RestoreError::Backup(_)));
    let early = refused(&bytes, asked(BEGUN - 1));
    assert!(early.to_string().contains("clock"), "{early}");
    let newer = BackupHeader { keyspace_version: KEYSPACE_VERSION + 1, ..header };
    let newer = refused(&backup_of(&newer, &dump(&world)), asked(NOW));
    assert!(matches!(newer, RestoreError::OtherKeyspace { .. }), "{newer}");
    let other = BackupHeader { cluster: ClusterId::from_u128(5), ..header };
    let other = refused(&backup_of(&other, &dump(&world)), asked(NOW));
    assert!(other.to_string().contains("the header says"), "{other}");
    let empty = refused(&backup_of(&header, &[]), asked(NOW));
    assert!(empty.to_string().contains("of no cluster"), "{empty}");
}

#[test]
fn what_this_program_cannot_read_is_refused_where_it_has_to_be_changed() {
    let sound = sound();
    let (header, mut entries) = (header(&sound.world), dump(&sound.world));
    entries.push((vec![0x15, 0xC8], vec![1]));
    let unknown = refused(&backup_of(&header, &entries), asked(NOW));
    assert!(unknown.to_string().contains("knows no such table"), "{unknown}");
    entries.pop();
    let volume = VolumeKey { volume: sound.volume.id }.pack();
    let record = entries.iter_mut().find(|(key, _)| *key == volume).expect("it is there");
    record.1.push(0);
    let damaged = refused(&backup_of(&header, &entries), asked(NOW));
    assert!(matches!(damaged, RestoreError::Content { .. }), "{damaged}");
}

#[test]
fn a_store_that_holds_something_is_not_restored_into() {
    let Sound { world, .. } = sound();
    let bytes = backup(&world);
    let before = dump(&world);
    let error = into_store(world.service.store(), &bytes, NOW).expect_err("it is refused");
    assert!(matches!(error, RestoreError::NotEmpty), "{error}");
    assert_eq!(dump(&world), before);
}

#[test]
fn a_file_that_changes_between_the_passes_is_refused() {
    let Sound { world, volume, .. } = sound();
    let first = survey(&backup(&world), NOW);
    world.delete(volume.id).expect_err("it is held");
    world.volume("one-more");
    let store = RedbStore::in_memory();
    let error = block_on(restore(&store, &backup(&world)[..], &first)).expect_err("refused");
    assert!(matches!(error, RestoreError::Changed), "{error}");
    assert!(open(store, &world).is_err());
}

/// A store whose commits fail from this one on.
fn failing_at(commit: usize) -> (FaultyStore<RedbStore>, RedbStore, FaultPlan) {
    let (plan, store) = (FaultPlan::default(), RedbStore::in_memory());
    (0..commit).for_each(|_| plan.push(Fault::None));
    (0..200).for_each(|_| plan.push(Fault::Conflict));
    (FaultyStore::new(store.clone(), plan.clone()), store, plan)
}

#[test]
fn a_restore_that_was_cut_off_at_any_transaction_leaves_a_store_that_is_refused() {
    let Sound { world, .. } = sound();
    let bytes = backup(&world);
    let (mut commits, mut refusals) = (0, 0);
    loop {
        let (faulty, store, _) = failing_at(commits);
        let outcome = into_store(&faulty, &bytes, NOW);
        if outcome.is_ok() {
            break;
        }
        if commits > 0 {
            let again = into_store(&store, &bytes, NOW + 60).expect_err("it is not empty");
            assert!(matches!(again, RestoreError::NotEmpty), "{again}");
            let Err(error) = open(store, &world) else { panic!("it starts after {commits}") };
            let is_named = matches!(error, StartError::RestoreNotFinished { backup: NUMBER });
            assert!(is_named, "{error}");
            refusals += 1;
        }
        commits += 1;
        assert!(commits < 100, "a small backup takes few transactions");
    }
    assert!(refusals >= 3, "mark, entries, quarantine, and the end: {refusals}");
}

#[test]
fn transactions_that_run_again_restore_the_same() {
    let Sound { world, .. } = sound();
    let bytes = backup(&world);
    let expected = dump(&restored(&world, NOW));
    for fault in [Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown] {
        let plan = FaultPlan::default();
        (0..20).for_each(|_| [fault, Fault::None].into_iter().for_each(|it| plan.push(it)));
        let store = RedbStore::in_memory();
        let faulty = FaultyStore::new(store.clone(), plan.clone());
        into_store(&faulty, &bytes, NOW).expect("restored");
        assert!(plan.remaining() < 40, "the faults happened");
        assert_eq!(dump(&open(store, &world).expect("it starts")), expected, "{fault:?}");
    }
}

#[test]
fn large_backups_are_written_in_transactions_that_every_store_takes() {
    let Sound { world, volume, .. } = sound();
    let slots = world.service.store().transact(|txn| async move {
        for at in 0..6000_u64 {
            let layer = volume.head;
            let slot = SlotValue(Slot::zero(ExtentSize::DEFAULT));
            txn.put(&SlotKey { layer, at: LogicalExtent::new(1000 + at) }, &slot);
        }
        Ok::<_, StoreError>(())
    });
    block_on(slots).expect("written");
    let again = restored(&world, NOW);
    assert_eq!(mapped(&again), mapped(&world));
}
