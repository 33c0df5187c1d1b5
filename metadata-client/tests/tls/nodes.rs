//! A node's certificate speaks for that node and no other.

use lunar_metadata_client::{MetadataClient, fresh_request_id};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_proto::roles::Role;
use lunar_types::*;

use crate::world::{World, name, refusal};

fn join(node: &str) -> Join {
    Join {
        is_drained: true,
        request: fresh_request_id(),
        name: name(node),
        boot: BootId::from_u128(1),
        resume: None,
        last_session: SessionNumber::new(0),
    }
}

/// A pool and a volume in it.
async fn volume(admin: &MetadataClient) -> (Pool, Volume) {
    let lun = NewLun {
        id: LunId::from_u128(1),
        size: ByteCount::new(1 << 30),
        logical_block_size: LogicalBlockSize::B4096,
    };
    let pool = CreatePool {
        request: fresh_request_id(),
        name: name("p"),
        extent_size: ExtentSize::DEFAULT,
        luns: vec![lun],
        fencing: PoolFencing::None,
    };
    let pool = admin.create_pool(&pool).await.expect("made");
    let volume = CreateVolume {
        request: fresh_request_id(),
        name: name("v"),
        pool: Selector::Id(pool.id),
        size: VolumeSize::from_bytes(1 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        over_watermark: false,
    };
    let volume = admin.create_volume(&volume).await.expect("made");
    (pool, volume)
}

fn attach(volume: VolumeId, caller: NodeSession) -> Attach {
    Attach {
        request: fresh_request_id(),
        volume: Selector::Id(volume),
        caller,
        understands_layers: true,
        accept_restored: false,
        publication: None,
        for_file_system: false,
    }
}

fn commit(held: &Attachment, caller: NodeSession) -> CommitMap {
    CommitMap {
        request: fresh_request_id(),
        volume: held.volume.id,
        caller,
        epoch: held.epoch,
        number: held.last_commit.next(),
        layer: held.volume.head,
        extent_size: held.pool.extent_size,
        updates: vec![],
        checkpoint: Some(JournalSeq::new(1)),
        replay_of: None,
    }
}

#[tokio::test]
async fn a_node_joins_under_the_name_of_its_certificate_alone() {
    let world = World::start().await;
    let (a, b) = (world.client_of(Role::Node, "a"), world.client_of(Role::Node, "b"));
    assert_eq!(refusal(b.join(&join("a")).await), ErrorReason::NotPermitted);
    a.join(&join("a")).await.expect("its own name");
    let admin = world.client_of(Role::Admin, "root");
    assert_eq!(refusal(admin.join(&join("c")).await), ErrorReason::NotPermitted);
    let fencer = world.client_of(Role::Fencer, "arbiter");
    fencer.join(&join("arbiter")).await.expect("its own name");
    assert_eq!(refusal(fencer.join(&join("a")).await), ErrorReason::NotPermitted);
}

#[tokio::test]
async fn a_node_changes_nothing_of_another() {
    let world = World::start().await;
    let (_, volume) = volume(&world.client_of(Role::Admin, "root")).await;
    let (a, b) = (world.client_of(Role::Node, "a"), world.client_of(Role::Node, "b"));
    let session_a = a.join(&join("a")).await.expect("joined").session;
    let session_b = b.join(&join("b")).await.expect("joined").session;
    // B names A as the caller: the connection says otherwise.
    assert_eq!(refusal(b.attach(&attach(volume.id, session_a)).await), ErrorReason::NotPermitted);
    let held = a.attach(&attach(volume.id, session_a)).await.expect("granted");
    assert_eq!(refusal(b.heartbeat(session_a).await), ErrorReason::NotPermitted);
    let detach = Detach {
        request: fresh_request_id(),
        volume: volume.id,
        caller: session_a,
        epoch: held.epoch,
        mode: DetachMode::Clean,
    };
    assert_eq!(refusal(b.detach(&detach).await), ErrorReason::NotPermitted);
    // B speaks for itself and asks for what is A's: the grant says otherwise.
    let own = Detach { caller: session_b, request: fresh_request_id(), ..detach };
    assert_eq!(refusal(b.detach(&own).await), ErrorReason::StaleEpoch);
    let reserve = ReserveExtents {
        request: fresh_request_id(),
        caller: session_a,
        pool: volume.pool,
        count: 1,
    };
    assert_eq!(refusal(b.reserve_extents(&reserve).await), ErrorReason::NotPermitted);
    let foreign = commit(&held, session_a);
    assert_eq!(refusal(b.commit_map(&foreign).await), ErrorReason::NotPermitted);
    let usurped = commit(&held, session_b);
    assert_eq!(refusal(b.commit_map(&usurped).await), ErrorReason::StaleEpoch);
    a.commit_map(&commit(&held, session_a)).await.expect("its own");
    assert_eq!(refusal(b.attachments(session_a.node).await), ErrorReason::NotPermitted);
    assert_eq!(refusal(b.reservations(session_a.node).await), ErrorReason::NotPermitted);
}
