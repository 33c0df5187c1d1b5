//! A whole store of keyspace version 3, as it was written when this fixture was made: every later
//! program of this version opens it, finds it sound, and reads what is in it.
//!
//! The file is never written anew. `LUNAR_WRITE_FIXTURES=1` makes it only where there is none.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lunar_metadata::keyspace::*;
use lunar_metadata::seams::block_on;
use lunar_metadata::service::{Seams, Service, Settings, StartError};
use lunar_metadata::store::{KeyValue, MetaStore as _, RedbStore, StoreError, Txn as _};
use lunar_proto::domain::*;
use lunar_types::*;

use crate::damage::sound;
use crate::repair::dump;
use crate::world::{CountingIds, ManualClock, World, name};

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/fixtures/store-3.txt")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text takes everything");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn entries() -> Vec<KeyValue> {
    let path = path();
    if !path.exists() && std::env::var_os("LUNAR_WRITE_FIXTURES").is_some() {
        let line = |(key, value): &KeyValue| format!("{} {}\n", hex(key), hex(value));
        let lines: String = dump(&sound().world).iter().map(line).collect();
        std::fs::write(&path, lines).expect("the fixture is written");
    }
    let text = std::fs::read_to_string(&path).expect("the fixture is there");
    let entry = |line: &str| {
        let (key, value) = line.split_once(' ').expect("key and value");
        (unhex(key), unhex(value))
    };
    text.lines().map(entry).collect()
}

fn store() -> RedbStore {
    let store = RedbStore::in_memory();
    let entries = &entries();
    let written = store.transact(|txn| async move {
        for (key, value) in entries {
            txn.set(key, value);
        }
        Ok::<_, StoreError>(())
    });
    block_on(written).expect("written");
    store
}

#[test]
fn a_store_of_version_3_is_opened_checked_and_read() {
    let world = World::on(store());
    world.assert_clean();
    let pool = block_on(world.service.pool(&Selector::Name(name("p")))).expect("read");
    assert_eq!((pool.luns.len(), pool.watermarks), (1, Watermarks::DEFAULT));
    let volumes = block_on(world.service.volumes(&PageRequest::first())).expect("read").items;
    let mut names: Vec<_> = volumes.iter().map(|volume| volume.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["cut", "member", "v", "w"]);
    let volume = volumes.iter().find(|it| it.name == name("v")).expect("listed");
    let [slot] = world.map(volume.head).try_into().expect("one slot");
    assert_eq!(slot.at, LogicalExtent::new(0));
    assert!(slot.slot.extent().is_some());
    let ready = block_on(world.service.snapshot(&Selector::Name(name("ready")))).expect("read");
    assert_eq!(ready.state, SnapshotState::Ready);
    // It goes on: what was begun then ends now.
    world.settle();
    world.assert_clean();
}

#[test]
fn a_store_of_version_2_is_refused_by_name() {
    let store = store();
    let older = store.transact(|txn| async move {
        txn.put(&KeyspaceKey {}, &KeyspaceRecord { version: 2 });
        Ok::<_, StoreError>(())
    });
    block_on(older).expect("written");
    let seams =
        Seams { clock: Arc::new(ManualClock::default()), ids: Arc::new(CountingIds::default()) };
    let opened = block_on(Service::open(store, seams, Settings::default()));
    let Err(error @ StartError::OlderKeyspace { found: 2 }) = opened else {
        panic!("it was opened");
    };
    assert!(error.to_string().contains("keyspace version 2"), "{error}");
}
