//! Contents and origins.

use lunar_types::{Epoch, FormatToken, VolumeId};

use super::{bad_field, caller, survives};
use crate::domain::{ContentOf, ContentState, FormatContent, Origin};
use crate::v1;

fn of() -> ContentOf {
    ContentOf { volume: VolumeId::from_u128(13), epoch: Epoch::new(4), caller: caller() }
}

#[test]
fn contents_survive_the_wire() {
    for state in [ContentState::Blank, ContentState::Formatting, ContentState::Used] {
        survives::<_, v1::ContentResponse>(state);
    }
    survives::<_, v1::Origin>(Origin::Volume(VolumeId::from_u128(13)));
    survives::<_, v1::ContentRequest>(of());
    let token = FormatToken::from_u128(21);
    survives::<_, v1::FormatContentRequest>(FormatContent { of: of(), token });
}

#[test]
fn a_bad_field_of_a_content_is_named() {
    let wire = v1::ContentResponse::from(ContentState::Used);
    assert_eq!(bad_field::<_, ContentState>(&wire, |w| w.state = 0), "state");
    assert_eq!(bad_field::<_, ContentState>(&wire, |w| w.state = 9), "state");
    let wire = v1::Origin::from(Origin::Volume(VolumeId::from_u128(13)));
    assert_eq!(bad_field::<_, Origin>(&wire, |w| w.of = None), "of");
    let wire = v1::ContentRequest::from(of());
    assert_eq!(bad_field::<_, ContentOf>(&wire, |w| w.epoch = 0), "epoch");
    assert_eq!(bad_field::<_, ContentOf>(&wire, |w| w.volume_id.clear()), "volume_id");
    let token = FormatToken::from_u128(21);
    let wire = v1::FormatContentRequest::from(FormatContent { of: of(), token });
    assert_eq!(bad_field::<_, FormatContent>(&wire, |w| w.token = "x".to_owned()), "token");
    assert_eq!(bad_field::<_, FormatContent>(&wire, |w| w.content = None), "content");
}
