//! What records say of the content and the origin of volumes.

use lunar_proto::domain::{ContentState, Origin};
use lunar_types::FormatToken;

use super::encoding::{DecodeError, Field, invalid};

/// What the content of a volume or snapshot may be, and who formats it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nobody has ever written to it.
    Blank,
    /// This attempt to make a file system has begun last.
    Formatting(FormatToken),
    /// It is not to be formatted.
    Used,
}

impl Content {
    /// As clients are told.
    #[must_use]
    pub const fn state(self) -> ContentState {
        match self {
            Self::Blank => ContentState::Blank,
            Self::Formatting(_) => ContentState::Formatting,
            Self::Used => ContentState::Used,
        }
    }
}

impl Field for Content {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Blank => 1_u8.put(out),
            Self::Formatting(token) => {
                2_u8.put(out);
                token.put(out);
            }
            Self::Used => 3_u8.put(out),
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            1 => Self::Blank,
            2 => Self::Formatting(Field::take(input)?),
            3 => Self::Used,
            other => return Err(invalid("content", other)),
        })
    }
}

impl Field for Option<Origin> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => 0_u8.put(out),
            Some(Origin::Snapshot(snapshot)) => {
                1_u8.put(out);
                snapshot.put(out);
            }
            Some(Origin::Volume(volume)) => {
                2_u8.put(out);
                volume.put(out);
            }
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            0 => None,
            1 => Some(Origin::Snapshot(Field::take(input)?)),
            2 => Some(Origin::Volume(Field::take(input)?)),
            other => return Err(invalid("origin", other)),
        })
    }
}
