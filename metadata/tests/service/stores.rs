//! The store: transactions against a model, conflicts, limits, and files that must be refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lunar_metadata::keyspace::{KEYSPACE_VERSION, KeyedTxn, KeyspaceKey, KeyspaceRecord};
use lunar_metadata::seams::block_on;
use lunar_metadata::service::{Seams, Service, Settings, StartError};
use lunar_metadata::store::*;
use proptest::prelude::*;

use crate::world::{CountingIds, ManualClock};

#[derive(Clone, Debug)]
enum Op {
    Get(u8),
    Set(u8, u8),
    Clear(u8),
    ClearRange(u8, u8),
    Range { from: u8, to: u8, limit: usize, reverse: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => any::<u8>().prop_map(Op::Get),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(key, value)| Op::Set(key, value)),
        1 => any::<u8>().prop_map(Op::Clear),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Op::ClearRange(from, to)),
        2 => (any::<u8>(), any::<u8>(), 0..9_usize, any::<bool>())
            .prop_map(|(from, to, limit, reverse)| Op::Range { from, to, limit, reverse }),
    ]
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(raw: u8) -> Vec<u8> {
    // Some keys are prefixes of others.
    vec![b'k'; usize::from(raw % 3) + 1].into_iter().chain([raw / 3]).collect()
}

fn range(from: u8, to: u8) -> KeyRange {
    KeyRange::new(key(from), key(to))
}

fn model_range(model: &Model, range: &KeyRange, limit: usize, reverse: bool) -> Vec<KeyValue> {
    let inside = model.iter().filter(|(key, _)| range.contains(key));
    let mut found: Vec<_> = inside.map(|(key, value)| (key.clone(), value.clone())).collect();
    if reverse {
        found.reverse();
    }
    found.truncate(limit);
    found
}

async fn run<T: Txn>(txn: &T, ops: &[Op], model: &Model) -> Result<Model, StoreError> {
    let mut model = model.clone();
    for op in ops {
        match op {
            Op::Get(raw) => {
                assert_eq!(txn.get(&key(*raw)).await?, model.get(&key(*raw)).cloned());
            }
            Op::Set(raw, value) => {
                txn.set(&key(*raw), &[*value]);
                model.insert(key(*raw), vec![*value]);
            }
            Op::Clear(raw) => {
                txn.clear(&key(*raw));
                model.remove(&key(*raw));
            }
            Op::ClearRange(from, to) => {
                let range = range(*from, *to);
                txn.clear_range(&range);
                model.retain(|key, _| !range.contains(key));
            }
            Op::Range { from, to, limit, reverse } => {
                let read = RangeRead::first(range(*from, *to), *limit);
                let read = if *reverse { read.reversed() } else { read };
                let expected = model_range(&model, &read.range, *limit, *reverse);
                assert_eq!(txn.get_range(&read).await?, expected);
            }
        }
    }
    Ok(model)
}

fn contents<S: MetaStore>(store: &S) -> Model {
    block_on(async {
        let txn = store.begin().await.expect("begun");
        let all = KeyRange::new(Vec::new(), vec![0xFF]);
        txn.get_range(&RangeRead::first(all, 10_000)).await.expect("read").into_iter().collect()
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        3 => Just(Fault::None),
        1 => Just(Fault::Conflict),
        1 => Just(Fault::CommittedUnknown),
        1 => Just(Fault::LostUnknown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn transactions_do_what_a_map_does(
        transactions in prop::collection::vec(prop::collection::vec(op(), 0..20), 1..8)
    ) {
        let store = RedbStore::in_memory();
        let mut model = Model::new();
        for ops in &transactions {
            let before = &model;
            let body = |txn: Arc<<RedbStore as MetaStore>::Txn>| async move {
                run(&*txn, ops, before).await
            };
            model = block_on(store.transact(body)).expect("committed");
            prop_assert_eq!(&contents(&store), &model);
        }
    }

    /// A closure that states results gives them once, whatever happens to its commits.
    #[test]
    fn faults_at_commits_change_nothing_but_the_number_of_attempts(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), fault()), 1..30)
    ) {
        let plan = FaultPlan::default();
        let store = FaultyStore::new(RedbStore::in_memory(), plan.clone());
        let mut model = Model::new();
        for (raw, value, fault) in steps {
            plan.push(fault);
            let set = |txn: Arc<<FaultyStore<RedbStore> as MetaStore>::Txn>| async move {
                txn.set(&key(raw), &[value]);
                Ok::<_, StoreError>(())
            };
            block_on(store.transact(set)).expect("committed in the end");
            model.insert(key(raw), vec![value]);
            prop_assert_eq!(&contents(&store), &model);
        }
        prop_assert_eq!(plan.remaining(), 0);
    }

    /// Two transactions that overlap: both go through only if some order explains what each read.
    #[test]
    fn overlapping_transactions_are_serializable(
        first in prop::collection::vec(op(), 0..8),
        second in prop::collection::vec(op(), 0..8),
        start in prop::collection::vec((any::<u8>(), any::<u8>()), 0..8),
    ) {
        let store = RedbStore::in_memory();
        let mut model = Model::new();
        let seed: Vec<Op> = start.iter().map(|(key, value)| Op::Set(*key, *value)).collect();
        let (seed, empty) = (&seed, Model::new());
        let empty = &empty;
        model.extend(
            block_on(store.transact(|txn| async move { run(&*txn, seed, empty).await }))
                .expect("seeded"),
        );
        let (one, two) = block_on(async {
            let (one, two) = (store.begin().await.expect("1"), store.begin().await.expect("2"));
            run(&one, &first, &model).await.expect("first");
            run(&two, &second, &model).await.expect("second");
            (one.commit().await, two.commit().await)
        });
        prop_assert!(one.is_ok(), "nothing came before it");
        let after_one = replay(&first, &model);
        match two {
            Err(StoreError::Conflict) => prop_assert_eq!(contents(&store), after_one),
            Err(other) => prop_assert!(false, "{other:?}"),
            Ok(()) => {
                let wrote = second.iter().any(|op| !matches!(op, Op::Get(_) | Op::Range { .. }));
                if wrote {
                    prop_assert_eq!(reads(&second, &model), reads(&second, &after_one));
                }
                prop_assert_eq!(contents(&store), replay(&second, &after_one));
            }
        }
    }
}

fn replay(ops: &[Op], model: &Model) -> Model {
    let mut model = model.clone();
    for op in ops {
        match op {
            Op::Get(_) | Op::Range { .. } => {}
            Op::Set(raw, value) => {
                model.insert(key(*raw), vec![*value]);
            }
            Op::Clear(raw) => {
                model.remove(&key(*raw));
            }
            Op::ClearRange(from, to) => model.retain(|key, _| !range(*from, *to).contains(key)),
        }
    }
    model
}

/// What the reads of a transaction see when it runs on this content.
fn reads(ops: &[Op], model: &Model) -> Vec<Vec<KeyValue>> {
    let mut seen = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        let now = replay(&ops[..index], model);
        match op {
            Op::Get(raw) => seen.push(
                now.get_key_value(&key(*raw))
                    .into_iter()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            ),
            Op::Range { from, to, limit, reverse } => {
                seen.push(model_range(&now, &range(*from, *to), *limit, *reverse));
            }
            _ => {}
        }
    }
    seen
}

fn put<S: MetaStore>(store: &S, key: &'static [u8], value: Vec<u8>) {
    let value = &value;
    block_on(store.transact(|txn| async move {
        txn.set(key, value);
        Ok::<_, StoreError>(())
    }))
    .expect("committed");
}

#[test]
fn a_change_of_what_was_read_is_a_conflict_and_a_hint_is_not() {
    let store = RedbStore::in_memory();
    put(&store, b"a", vec![1]);
    for (isolation, conflicts) in [(Isolation::Serializable, true), (Isolation::Snapshot, false)] {
        let outcome = block_on(async {
            let txn = store.begin().await.expect("begun");
            let range = KeyRange::new(b"a".to_vec(), b"c".to_vec());
            let read = RangeRead { isolation, ..RangeRead::first(range, 10) };
            txn.get_range(&read).await.expect("read");
            txn.set(b"z", b"z");
            put(&store, b"b", vec![2]);
            txn.commit().await
        });
        assert_eq!(matches!(outcome, Err(StoreError::Conflict)), conflicts, "{isolation:?}");
    }
}

#[test]
fn a_closure_runs_again_on_a_conflict_until_it_fits() {
    let store = RedbStore::in_memory();
    put(&store, b"n", vec![0]);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || {
                for _ in 0..25 {
                    let add = |txn: Arc<<RedbStore as MetaStore>::Txn>| async move {
                        let n = txn.get(b"n").await?.expect("it is there")[0];
                        txn.set(b"n", &[n + 1]);
                        Ok::<_, StoreError>(())
                    };
                    block_on(store.transact(add)).expect("committed in the end");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    assert_eq!(contents(&store)[b"n".as_slice()], [100]);
}

#[test]
fn a_transaction_that_never_fits_gives_up() {
    let plan = FaultPlan::default();
    let store = FaultyStore::new(RedbStore::in_memory(), plan.clone());
    (0..1000).for_each(|_| plan.push(Fault::Conflict));
    let set = |txn: Arc<<FaultyStore<RedbStore> as MetaStore>::Txn>| async move {
        txn.set(b"a", b"b");
        Ok::<_, StoreError>(())
    };
    let outcome = block_on(store.transact(set));
    assert!(matches!(outcome, Err(StoreError::Contended { attempts: 100 })), "{outcome:?}");
}

#[test]
fn limits_of_the_stores_are_asserted() {
    let large = |keys: usize, key_bytes: usize, value_bytes: usize| {
        std::panic::catch_unwind(move || {
            let store = RedbStore::in_memory();
            block_on(store.transact(|txn| async move {
                for index in 0..keys {
                    let mut key = vec![0; key_bytes];
                    key[..8].copy_from_slice(&index.to_be_bytes());
                    txn.set(&key, &vec![0; value_bytes]);
                }
                Ok::<_, StoreError>(())
            }))
        })
    };
    assert!(large(1, 10_000, 100_000).is_ok());
    assert!(large(1, 10_001, 1).is_err(), "a key too long");
    assert!(large(1, 8, 100_001).is_err(), "a value too long");
    assert!(large(9, 8, 100_000).is_ok());
    assert!(large(10, 8, 100_000).is_err(), "a transaction too large");
}

#[test]
fn a_file_keeps_what_was_committed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let store = RedbStore::open(&path).expect("made");
    put(&store, b"a", vec![7]);
    drop(store);
    let store = RedbStore::open_existing(&path).expect("opened");
    assert_eq!(contents(&store)[b"a".as_slice()], [7]);
}

fn refused(path: &Path) -> String {
    let error = RedbStore::open(path).err().expect("it is refused");
    lunar_metadata::error::chain(&error)
}

#[test]
fn files_that_are_no_store_are_refused_by_name_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    std::fs::write(&path, "some text, long enough to be mistaken for a file of a store")
        .expect("written");
    assert!(refused(&path).contains("is not a store of the metadata service"));
    let text = std::fs::read_to_string(&path).expect("still there");
    assert!(text.starts_with("some text"));
    assert!(refused(folder.path()).contains("cannot be opened"));
    assert!(refused(&folder.path().join("no/such/folder")).contains("cannot be opened"));
    let missing = RedbStore::open_existing(&folder.path().join("missing"));
    assert!(matches!(missing, Err(OpenError::Io { .. })));
    assert!(!folder.path().join("missing").exists());
}

#[test]
fn a_file_of_another_redb_format_is_refused_with_its_version() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    drop(RedbStore::open(&path).expect("made"));
    let sound = std::fs::read(&path).expect("read");
    for (version, text) in [(4_u8, "redb file format 4"), (2, "too old")] {
        let mut bytes = sound.clone();
        (bytes[64], bytes[192]) = (version, version);
        std::fs::write(&path, &bytes).expect("written");
        let message = refused(&path);
        assert!(message.contains(text), "{message}");
    }
}

#[test]
fn a_store_in_use_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.redb");
    let _held = RedbStore::open(&path).expect("made");
    assert!(refused(&path).contains("in use by another process"));
    let existing = RedbStore::open_existing(&path);
    assert!(matches!(existing, Err(OpenError::Locked { .. })));
}

fn start(store: &RedbStore) -> Result<(), StartError> {
    let clock = Arc::new(ManualClock::default());
    let seams = Seams { clock, ids: Arc::new(CountingIds::default()) };
    block_on(Service::open(store.clone(), seams, Settings::default())).map(|_| ())
}

#[test]
fn another_keyspace_is_refused_and_a_foreign_one_too() {
    let store = RedbStore::in_memory();
    start(&store).expect("an empty store becomes a cluster");
    start(&store).expect("and starts again");
    let start_on = |version| {
        let other = &KeyspaceRecord { version };
        block_on(store.transact(|txn| async move {
            txn.put(&KeyspaceKey {}, other);
            Ok::<_, StoreError>(())
        }))
        .expect("damaged");
        start(&store).expect_err("refused")
    };
    let (newer, older) = (KEYSPACE_VERSION + 1, KEYSPACE_VERSION - 1);
    let error = start_on(newer);
    assert!(matches!(error, StartError::NewerKeyspace { found } if found == newer), "{error:?}");
    let error = start_on(older);
    assert!(matches!(error, StartError::OlderKeyspace { found } if found == older), "{error:?}");

    let foreign = RedbStore::in_memory();
    put(&foreign, b"other", vec![1]);
    assert!(matches!(start(&foreign), Err(StartError::ForeignData)));
}
