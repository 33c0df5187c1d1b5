//! Grants whose answers were lost, against a service that is away at times.

use std::sync::Arc;

use lunar_proto::domain::{AttachmentSummary, DetachMode, LeaseTimers};
use lunar_types::{ClusterId, VolumeId};

use super::super::attach::tests::{HOLDER, node, record};
use super::*;
use crate::metadata::Terms;
use crate::state::record::Sharing;
use crate::testing::{FakeMetadata, unavailable};

fn member() -> Membership {
    let cluster = ClusterId::from_u128(1);
    Membership {
        node: HOLDER,
        cluster,
        timers: LeaseTimers::DEFAULT,
        resumed: false,
        is_joining: false,
    }
}

fn held() -> AttachmentSummary {
    AttachmentSummary { volume: record().volume, epoch: record().epoch }
}

async fn looks(node: &Node, metadata: &FakeMetadata) -> usize {
    let before = metadata.detached().len();
    node.look_for_strays().await;
    metadata.detached().len() - before
}

#[tokio::test]
async fn a_grant_whose_answer_was_lost_is_given_back_when_the_service_is_there_again() {
    let (_dir, metadata, node) = node();
    node.membership.send_replace(Some(member()));
    let node = Arc::new(node);
    metadata.expect_lists([Err(unavailable()), Ok(vec![held()]), Ok(vec![held()])]);
    assert_eq!(looks(&node, &metadata).await, 0, "nothing is looked for without a reason");

    let asked =
        node.attach(Selector::Id(VolumeId::from_u128(7)), Sharing::Alone, Terms::default()).await;
    assert!(asked.is_err(), "the service does not answer");
    assert_eq!(looks(&node, &metadata).await, 0, "it is still away");
    metadata.expect_detach([Err(unavailable()), Ok(())]);
    assert_eq!(looks(&node, &metadata).await, 1, "it goes away again");
    assert_eq!(looks(&node, &metadata).await, 1);
    assert_eq!(metadata.detached(), [DetachMode::KeepJournal; 2]);
    assert_eq!(metadata.lists_left(), 0);
}

#[test]
fn grants_are_looked_for_until_no_call_can_be_on_its_way() {
    let (strays, now) = (Strays::default(), Instant::now());
    strays.expect(now);
    strays.none_since(now + LATE - Duration::from_secs(1));
    assert!(strays.are_expected());
    strays.none_since(now + LATE);
    assert!(!strays.are_expected());
}

/// The service is away when a successor looks for what its predecessor has left.
#[tokio::test]
async fn a_look_that_fails_is_repeated() {
    let (_dir, metadata, node) = node();
    node.membership.send_replace(Some(member()));
    metadata.expect_lists([Err(unavailable()), Ok(vec![held()])]);
    assert_eq!(node.give_back_strays(&member()).await, 0);
    assert_eq!(looks(&node, &metadata).await, 1);
}
