//! The gate with all its states.

use lunar_engine::lun::LunError;

use super::*;

fn guard(fencing: PoolFencing) -> (Arc<Authority>, Arc<LunGuard>) {
    let authority = Arc::new(Authority::default());
    let guard = LunGuard::new(LunId::from_u128(7), fencing, &authority);
    (authority, guard)
}

fn turnstile(guard: &Arc<LunGuard>) -> Arc<Turnstile> {
    guard.enlist(Box::new(|| {}))
}

const HOLD: Duration = Duration::from_secs(8);

fn expired(authority: &Authority) -> BootTime {
    authority.renewed(authority.begin_renewal(), HOLD);
    BootTime::now().after(HOLD)
}

#[test]
fn nothing_begins_at_a_lun_with_reservations_before_the_node_is_registered() {
    let (authority, guard) = guard(PoolFencing::Reservations);
    let way = turnstile(&guard);
    authority.renewed(authority.begin_renewal(), HOLD);
    assert_eq!(way.enter(BootTime::now()), Admission::Wait);
    assert!(!guard.was_open());
    guard.thaw();
    assert!(guard.was_open());
    assert_eq!(way.enter(BootTime::now()), Admission::Begin);
    assert_eq!(guard.under_way(), 1);
    way.leave();
    assert_eq!(guard.under_way(), 0);
}

#[test]
fn without_a_lease_writes_go_on_with_reservations_and_wait_where_only_the_lease_fences() {
    for (fencing, admission) in [
        (PoolFencing::Reservations, Admission::Begin),
        (PoolFencing::Lease, Admission::Wait),
        (PoolFencing::None, Admission::Begin),
    ] {
        let (authority, guard) = guard(fencing);
        guard.thaw();
        let way = turnstile(&guard);
        let late = expired(&authority);
        assert_eq!(way.enter(late), admission, "{fencing}");
        assert_eq!(way.enter(BootTime::now()), Admission::Begin, "{fencing}");
    }
}

#[test]
fn what_is_read_without_a_lease_waits_for_a_look_that_began_after_it() {
    for fencing in [PoolFencing::Reservations, PoolFencing::Lease] {
        let (authority, guard) = guard(fencing);
        guard.thaw();
        let way = turnstile(&guard);
        let late = expired(&authority);
        let early = guard.begin_look();
        let Delivery::Later(stamp) = way.delivery(late) else { panic!("no lease vouches") };
        guard.vouch(early);
        assert_eq!(way.is_deliverable(stamp), Admission::Wait, "the look began before the read");
        let look = guard.begin_look();
        assert_eq!(way.is_deliverable(stamp), Admission::Wait, "nobody has answered yet");
        guard.vouch(look);
        assert_eq!(way.is_deliverable(stamp), Admission::Begin);
        assert_eq!(way.delivery(BootTime::now()), Delivery::Now, "the lease holds at this moment");
    }
    let (authority, guard) = guard(PoolFencing::None);
    let late = expired(&authority);
    assert_eq!(turnstile(&guard).delivery(late), Delivery::Now);
}

#[test]
fn an_acknowledged_renewal_vouches_for_what_was_read_before_it_was_sent() {
    let (authority, guard) = guard(PoolFencing::Reservations);
    guard.thaw();
    let way = turnstile(&guard);
    let late = expired(&authority);
    let unanswered = authority.begin_renewal();
    let Delivery::Later(stamp) = way.delivery(late) else { panic!("no lease vouches") };
    authority.renewed(unanswered, HOLD);
    assert_eq!(way.is_deliverable(stamp), Admission::Wait, "it was sent before the read");
    authority.renewed(authority.begin_renewal(), HOLD);
    assert_eq!(way.is_deliverable(stamp), Admission::Begin);
}

#[test]
fn a_conflict_closes_the_gate_and_what_was_read_meanwhile_waits() {
    let (authority, guard) = guard(PoolFencing::Reservations);
    guard.thaw();
    let (way, other) = (turnstile(&guard), turnstile(&guard));
    authority.renewed(authority.begin_renewal(), HOLD);
    assert_eq!(way.enter(BootTime::now()), Admission::Begin);
    assert_eq!(other.enter(BootTime::now()), Admission::Begin);
    way.leave();
    assert!(!way.is_conflict(LunError::Device { errno: libc::EIO }));
    assert!(way.is_conflict(LunError::Device { errno: libc::EBADE }));
    assert!(matches!(guard.gate(), Gate::Frozen { .. }));
    assert_eq!(guard.under_way(), 1, "the other one has not ended");
    assert_eq!(way.enter(BootTime::now()), Admission::Wait);
    assert!(matches!(other.delivery(BootTime::now()), Delivery::Later(_)));
    other.leave();
    assert_eq!(guard.under_way(), 0);
    guard.thaw();
    assert_eq!(way.enter(BootTime::now()), Admission::Begin);
}

#[test]
fn a_conflict_is_an_error_like_any_other_where_nothing_is_reserved() {
    let (_authority, guard) = guard(PoolFencing::None);
    assert!(!turnstile(&guard).is_conflict(LunError::Device { errno: libc::EBADE }));
    assert_eq!(guard.gate(), Gate::Open);
}

#[test]
fn what_is_over_stays_over_also_for_luns_that_are_opened_later() {
    let (authority, first) = guard(PoolFencing::Reservations);
    first.thaw();
    let way = turnstile(&first);
    let late = expired(&authority);
    let Delivery::Later(stamp) = way.delivery(late) else { panic!("no lease vouches") };
    authority.end();
    first.thaw();
    assert_eq!(first.gate(), Gate::Over);
    assert_eq!(way.enter(BootTime::now()), Admission::Never);
    assert_eq!(way.is_deliverable(stamp), Admission::Never);
    let second = LunGuard::new(LunId::from_u128(8), PoolFencing::None, &authority);
    assert_eq!(turnstile(&second).enter(BootTime::now()), Admission::Never);
    authority.renewed(authority.begin_renewal(), HOLD);
    assert_eq!(turnstile(&second).enter(BootTime::now()), Admission::Never);
}

#[test]
fn every_change_wakes_every_submitter() {
    let (authority, guard) = guard(PoolFencing::Reservations);
    let woken = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&woken);
    let _way = guard.enlist(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    }));
    let gone = guard.enlist(Box::new(|| unreachable!("it is gone")));
    drop(gone);
    guard.thaw();
    guard.vouch(guard.begin_look());
    authority.end();
    assert_eq!(woken.load(Ordering::SeqCst), 3);
}

#[test]
fn who_blocks_goes_on_when_the_gate_opens_and_fails_when_it_is_over() {
    use lunar_engine::lun::{FileLun, LunDevice};
    let file = tempfile::tempfile().expect("a temporary file");
    file.set_len(1 << 16).expect("sized");
    let (authority, guard) = guard(PoolFencing::Reservations);
    let lun = GuardedLun::new(FileLun::new(file, 1 << 16, 512), &guard);
    let bytes = [7_u8; 512];
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| lun.write_at(0, &bytes));
        guard.thaw();
        writing.join().expect("no panic").expect("written when the gate had opened");
    });
    let mut back = [0; 512];
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| lun.read_at(0, &mut back).map(|()| back));
        // There is no lease: somebody has to vouch, as often as it takes.
        while !reading.is_finished() {
            guard.vouch(guard.begin_look());
        }
        assert_eq!(reading.join().expect("no panic").expect("read"), bytes);
    });
    guard.freeze("a test");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| lun.flush());
        authority.end();
        assert_eq!(writing.join().expect("no panic"), Err(ENDED));
    });
}
