//! Volumes that become larger: at rest, held by this node, by another one, by one that cannot be
//! asked. The holder is played by the test, its device by the stand-in for fs-core.

use std::sync::Arc;
use std::time::Duration;

use lunar_metadata_client::{MetadataClient, Policy, fresh_request_id};
use lunar_proto::domain::{Attach, Join, Selector};
use lunar_proto::v1;
use lunar_types::{BootId, SessionNumber};

use super::{GIB, World};
use crate::double;

fn with_volume() -> World {
    let world = World::start();
    world.json("pool create tank --fencing none /dev/lun0");
    world.json("volume create v --pool tank --size 1GiB");
    world
}

/// A node `n` that holds the volume in the service.
fn hold(world: &World) {
    world.runtime.block_on(async {
        let client = MetadataClient::new(std::slice::from_ref(&world.endpoint), Policy::default());
        let client = client.expect("a client");
        let join = Join {
            is_drained: true,
            request: fresh_request_id(),
            name: "n".parse().expect("a name"),
            boot: BootId::from_u128(1),
            resume: None,
            last_session: SessionNumber::default(),
        };
        let caller = client.join(&join).await.expect("joined").session;
        let volume = Selector::Name("v".parse().expect("a name"));
        let request = fresh_request_id();
        let attach = Attach {
            request,
            volume,
            caller,
            understands_layers: true,
            accept_restored: false,
            publication: None,
            for_file_system: false,
        };
        client.attach(&attach).await.expect("granted");
    });
}

/// A device of this node that has so many bytes.
fn device(world: &World, size_bytes: u64) -> v1::LocalAttachment {
    let id = world.json("volume show v")["volume_id"].clone();
    v1::LocalAttachment {
        volume_id: id.as_str().expect("an id").to_owned(),
        volume_name: "v".to_owned(),
        device_path: "/dev/lunar-test/none".to_owned(),
        size_bytes,
        state: v1::AttachmentState::Live.into(),
        ..v1::LocalAttachment::default()
    }
}

fn show_device(world: &World, device: v1::LocalAttachment) {
    *world.script.attached.lock().expect("no test panics with the lock") = vec![device];
}

fn size_of_v(world: &World) -> u64 {
    world.json("volume show v")["size_bytes"].as_u64().expect("a size")
}

#[test]
fn a_volume_at_rest_grows_and_never_shrinks() {
    let world = with_volume();
    let grown = world.json("volume grow v 2GiB");
    assert_eq!((&grown["size_bytes"], &grown["name"]), (&(2 * GIB).into(), &"v".into()));
    assert_eq!(grown["takes_effect"], "at-next-attachment");
    assert!(grown["attachment"].is_null() && grown["file_system"].is_null());
    assert_eq!(world.json("volume grow v 2GiB")["size_bytes"], 2 * GIB);
    let smaller = world.refused("volume grow v 1GiB", 4);
    assert!(smaller.contains("cannot be made smaller") && smaller.contains("1GiB"), "{smaller}");
    assert!(world.refused("volume grow v 1PiB", 4).contains("cannot be attached"));
    world.refused("volume grow v 4097", 2);
    assert!(world.refused("volume grow none 2GiB", 3).contains("'none'"));
    assert_eq!(size_of_v(&world), 2 * GIB);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the device grows some time after the command began")]
fn the_device_on_this_node_is_waited_for() {
    let world = with_volume();
    hold(&world);
    show_device(&world, device(&world, GIB));
    let (script, later) = (Arc::clone(&world.script), device(&world, 2 * GIB));
    let grower = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        *script.attached.lock().expect("no test panics with the lock") = vec![later];
    });
    let grown = world.json("volume grow v 2GiB");
    grower.join().expect("it does not panic");
    assert_eq!(grown["takes_effect"], "now");
    assert_eq!(grown["attachment"]["size_bytes"], 2 * GIB);
}

#[test]
fn a_driver_that_cannot_is_told() {
    let world = with_volume();
    hold(&world);
    let limited = v1::LocalAttachment { grows_at_next_attachment: true, ..device(&world, GIB) };
    show_device(&world, limited);
    let grown = world.json("volume grow v 2GiB");
    assert_eq!(
        (&grown["takes_effect"], &grown["size_bytes"]),
        (&"at-next-attachment".into(), &(2 * GIB).into())
    );
    assert_eq!(grown["attachment"]["size_bytes"], GIB);
}

#[test]
fn a_device_that_cannot_be_seen_from_here_is_not_claimed() {
    let world = with_volume();
    hold(&world);
    let grown = world.json("volume grow v 2GiB");
    assert_eq!(grown["takes_effect"], "on-other-node");
    let nowhere = std::path::Path::new("/nonexistent/fs-core.sock");
    let output = double::lunar(&world.endpoint, nowhere, "volume grow v 3GiB");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("'v' has 3GiB") && said.contains("is not known"), "{said}");
}

#[test]
fn a_file_system_that_cannot_be_grown_is_refused_before_anything_grows() {
    let world = with_volume();
    assert!(world.refused("volume grow v 2GiB --fs", 4).contains("nobody holds it"));
    hold(&world);
    let elsewhere = world.refused("volume grow v 2GiB --fs", 4);
    assert!(elsewhere.contains("run this on node 'n'"), "{elsewhere}");
    show_device(&world, device(&world, GIB));
    let absent = world.refused("volume grow v 2GiB --fs", 1);
    assert!(absent.contains("/dev/lunar-test/none"), "{absent}");
    assert_eq!(size_of_v(&world), GIB);
}
