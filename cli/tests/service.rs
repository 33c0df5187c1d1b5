//! `lunar` as it is installed, against the real metadata service on a fresh store, with a stand-in
//! for fs-core that offers labelled LUNs.

mod backups;
mod claims;
mod double;
mod grow;
mod snapshots;
mod transfer;

use std::process::Output;
use std::sync::Arc;

use double::{Double, Script};
use lunar_metadata::seams::{SystemClock, SystemIds};
use lunar_metadata::server::{Handlers, run_operations, serve_loopback};
use lunar_metadata::service::{Seams, Service, Settings};
use lunar_metadata::store::RedbStore;
use lunar_proto::v1;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

const GIB: u64 = 1 << 30;

/// Everything that `lunar` talks to.
struct World {
    endpoint: String,
    double: Double,
    script: Arc<Script>,
    _store: TempDir,
    runtime: Runtime,
}

fn labelled(n: u32) -> v1::LocalLun {
    let label = v1::LunLabel {
        lun_id: format!("00000000-0000-4000-8000-00000000000{n}"),
        size_bytes: 4 * GIB,
        logical_block_size: 512,
        ..v1::LunLabel::default()
    };
    v1::LocalLun {
        path: format!("/dev/lun{n}"),
        size_bytes: 4 * GIB,
        logical_block_size: 512,
        state: v1::LunState::Ours.into(),
        label: Some(label),
        ..v1::LocalLun::default()
    }
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = RedbStore::open(&folder.path().join("m.redb")).expect("a fresh store");
        Self::start_on(store, folder)
    }

    /// A service on this store, which is in this folder.
    fn start_on(store: RedbStore, folder: TempDir) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
        runtime.block_on(async {
            let seams = Seams { clock: Arc::new(SystemClock::start()), ids: Arc::new(SystemIds) };
            let service = Service::open(store, seams, Settings::default()).await;
            let service = Arc::new(service.expect("opens"));
            let work = Arc::new(Notify::new());
            let handlers = Handlers::new(Arc::clone(&service), Arc::clone(&work));
            tokio::spawn(serve_loopback(listener, handlers, std::future::pending()));
            tokio::spawn(run_operations(service, work));
        });
        let luns = (0..3).map(labelled).collect();
        let script = Arc::new(Script { luns, ..Script::default() });
        let double = Double::start(Arc::clone(&script));
        Self { endpoint, double, script, _store: folder, runtime }
    }

    fn lunar(&self, line: &str) -> Output {
        self.double.lunar(&self.endpoint, line)
    }

    fn json(&self, line: &str) -> Value {
        let output = self.lunar(&format!("{line} -o json"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{line}: {said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Runs a command that has to fail so, and gives what it said.
    fn refused(&self, line: &str, code: i32) -> String {
        let output = self.lunar(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert!(output.stdout.is_empty(), "{line}");
        said
    }
}

#[test]
fn pools_are_made_extended_and_shown() {
    let world = World::start();
    let pool = world.json("pool create tank --fencing none /dev/lun0 /dev/lun1 --extent-size 4MiB");
    assert_eq!(pool["extent_size_bytes"], 4 << 20);
    assert_eq!(pool["luns"].as_array().map(Vec::len), Some(2));
    let third = "00000000-0000-4000-8000-000000000002";
    let pool = world.json(&format!("pool add-lun tank {third}"));
    assert_eq!(pool["luns"][2]["lun_id"], third);
    assert_eq!(world.json("pool list")["pools"][0]["name"], "tank");
    let status = world.json("pool status");
    assert_eq!(status["pools"][0]["luns"].as_array().map(Vec::len), Some(3));
    let usage = &status["pools"][0]["usage"];
    let number = |field: &str| usage[field].as_u64().expect("a number");
    assert_eq!(number("total_bytes"), number("allocated_bytes") + number("free_bytes"));
    assert_eq!(number("quarantined_bytes"), 0);
    let released = world.json("pool release-quarantine tank --confirm tank");
    assert_eq!(released["extents"], 0);
    assert!(world.refused("pool release-quarantine tank --confirm tanc", 2).contains("'tank'"));
    assert_eq!((&status["pools"][0]["level"], number("mapped_bytes")), (&"normal".into(), 0));
    let marks = world.json("pool watermarks tank --critical 99");
    assert_eq!(marks["watermarks"], world.json("pool watermarks tank")["watermarks"]);
    assert_eq!(marks["watermarks"]["critical_percent"], 99);
    assert_eq!(marks["watermarks"]["warning_percent"], 80);
    assert!(world.refused("pool watermarks tank --warning 91", 2).contains("91"));
    let by_id = pool["pool_id"].as_str().expect("an id");
    assert_eq!(world.json(&format!("pool status {by_id}"))["pools"][0]["name"], "tank");
    assert_eq!(world.json("lun status /dev/lun1")["luns"][0]["pool"]["pool_name"], "tank");
}

#[test]
fn volumes_live_and_die() {
    let world = World::start();
    world.json("pool create tank --fencing none /dev/lun0");
    let volume = world.json("volume create v --pool tank --size 10GiB");
    assert_eq!((&volume["size_bytes"], &volume["mapped_bytes"]), (&(10 * GIB).into(), &0.into()));
    let id = volume["volume_id"].as_str().expect("an id");
    assert_eq!(world.json("volume list --pool tank")["volumes"][0]["volume_id"], id);
    assert_eq!(world.json(&format!("volume show {id}"))["name"], "v");
    world.json("volume create a --pool tank --size 1GiB");
    let volumes = world.json("volume list");
    assert_eq!(
        (&volumes["volumes"][0]["name"], &volumes["volumes"][1]["name"]),
        (&"a".into(), &"v".into())
    );
    world.json("volume delete a");
    assert_eq!(world.json("volume map v")["runs"], Value::Array(Vec::new()));
    let deleted = world.json("volume delete v");
    assert_eq!(deleted["finished"], true);
    assert!(world.refused("volume show v", 3).contains("'v'"));
    assert_eq!(world.json("volume list")["volumes"], Value::Array(Vec::new()));
}

#[test]
fn bad_requests_are_refused_and_named() {
    let world = World::start();
    assert!(world.refused("volume create v --pool none --size 1GiB", 3).contains("'none'"));
    world.json("pool create tank --fencing none /dev/lun0");
    assert!(world.refused("pool create tank --fencing none /dev/lun1", 4).contains("tank"));
    assert!(world.refused("pool create other --fencing none /dev/lun0", 4).contains("pool"));
    assert!(
        world.refused("pool create other --fencing none /dev/lun1 /dev/lun1", 4).contains("twice")
    );
    world.json("volume create v --pool tank --size 1GiB");
    assert!(world.refused("volume create v --pool tank --size 2GiB", 4).contains("'v'"));
    assert!(world.refused("volume delete none", 3).contains("'none'"));
    assert!(world.refused("volume map none", 3).contains("'none'"));
    assert!(world.refused("pool status none", 3).contains("'none'"));
}

#[test]
fn an_empty_cluster_is_sound_and_has_no_nodes() {
    let world = World::start();
    assert_eq!(world.json("node list")["nodes"], Value::Array(Vec::new()));
    assert_eq!(world.json("fsck")["summary"]["findings"], 0);
    let plan = world.json("fsck --repair --dry-run");
    assert_eq!(plan["summary"]["digest"], "0000000000000000");
    let repaired = world.json("fsck --repair --findings 0000000000000000");
    assert_eq!(repaired["repaired"], Value::Array(Vec::new()));
    let changed = world.refused("fsck --repair --findings 0000000000000001", 4);
    assert!(changed.contains("the check finds 0 findings"), "{changed}");
    assert!(world.refused("fsck --repair", 2).contains("--dry-run"));
    let checks = world.lunar("doctor -o json");
    let report: Value = serde_json::from_slice(&checks.stdout).expect("JSON");
    let checks = report["checks"].as_array().expect("a list");
    let metadata = checks.iter().find(|check| check["name"] == "metadata service");
    assert_eq!(metadata.map(|check| check["verdict"].clone()), Some("ok".into()));
}
