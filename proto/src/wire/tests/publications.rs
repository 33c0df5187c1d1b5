//! Publications.

use super::*;

pub(super) const PUBLICATION: PublicationId = PublicationId::from_u128(0x70b);
const VOLUME: VolumeId = VolumeId::from_u128(13);

pub(super) fn publication() -> Publication {
    Publication {
        id: PUBLICATION,
        node: NodeId::new(3),
        node_name: "n1".parse().expect("a name"),
        mode: PublicationMode::Migratable,
        reads_only: true,
        recalled: true,
        since: 7_000_000,
    }
}

pub(super) fn recall() -> Recall {
    Recall { volume: VOLUME, publication: PUBLICATION }
}

#[test]
fn publications_survive_the_wire() {
    survives::<_, v1::Publication>(publication());
    survives::<_, v1::Recall>(recall());
    survives::<_, v1::LeftPublication>(LeftPublication {
        publication: publication(),
        why: "node 'n1' holds it".to_owned(),
    });
    for mode in [PublicationMode::Single, PublicationMode::Migratable] {
        survives::<_, v1::PublishVolumeRequest>(PublishVolume {
            volume: Selector::Id(VOLUME),
            node: Selector::Name("n1".parse().expect("a name")),
            mode,
            reads_only: mode == PublicationMode::Single,
        });
    }
    for node in [None, Some(Selector::Id(NodeId::new(3)))] {
        survives::<_, v1::UnpublishVolumeRequest>(UnpublishVolume {
            volume: Selector::Id(VOLUME),
            node,
            only: vec![PUBLICATION],
        });
    }
}

#[test]
fn a_publication_that_cannot_be_is_named() {
    let error = |change: fn(&mut v1::Publication)| {
        let mut wire = v1::Publication::from(publication());
        change(&mut wire);
        Publication::try_from(wire).expect_err("it cannot be").to_string()
    };
    assert!(error(|wire| wire.node = 0).contains("node"));
    assert!(error(|wire| wire.node = 1 << 16).contains("node"));
    assert!(error(|wire| wire.mode = 9).contains("mode"));
    assert!(error(|wire| wire.publication_id.clear()).contains("publication_id"));
}
