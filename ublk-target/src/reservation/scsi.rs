//! PERSISTENT RESERVE IN of SCSI, for kernels that cannot be asked for keys otherwise (before
//! 6.19).
//!
//! Source: SPC-4, 6.15 (PERSISTENT RESERVE IN): the answer to READ KEYS is the generation (4
//! bytes), the length of what follows (4) and keys of 8 bytes; that to READ RESERVATION the same
//! head and nothing, or one reservation of 16 bytes: key (8), obsolete (4), reserved (1), scope and
//! type (1), obsolete (2). Numbers are big-endian.
//!
//! Invariant: no answer of a device makes this panic.

use super::{Kind, Reservation};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inquiry {
    /// READ KEYS.
    Keys,
    /// READ RESERVATION.
    Reservation,
}

/// Bytes of the head of an answer.
pub(super) const HEAD_BYTES: usize = 8;
/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 8;
const RESERVATION_BYTES: usize = 16;
/// WRITE EXCLUSIVE - ALL REGISTRANTS in the standard's numbers.
const ALL_REGISTRANTS: u8 = 7;

/// The command block that asks, with room for so many bytes.
pub(super) fn command(inquiry: Inquiry, room: u16) -> [u8; 10] {
    let action = match inquiry {
        Inquiry::Keys => 0,
        Inquiry::Reservation => 1,
    };
    let [high, low] = room.to_be_bytes();
    [0x5E, action, 0, 0, 0, 0, 0, high, low, 0]
}

/// The answer is no answer to the question.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the answer to PERSISTENT RESERVE IN is malformed: {0}")]
pub(super) struct Malformed(String);

fn payload(answer: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    let Some((head, rest)) = answer.split_first_chunk::<HEAD_BYTES>() else {
        return Err(Malformed(format!("it has {} bytes", answer.len())));
    };
    let [_, _, _, _, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    Ok((length, &rest[..length.min(rest.len())]))
}

/// The keys, and how many there are in all: more if there was no room for them.
pub(super) fn keys(answer: &[u8]) -> Result<(Vec<u64>, usize), Malformed> {
    let (length, bytes) = payload(answer)?;
    if length % KEY_BYTES != 0 {
        return Err(Malformed(format!("{length} bytes are no keys")));
    }
    let (keys, _) = bytes.as_chunks::<KEY_BYTES>();
    Ok((keys.iter().map(|key| u64::from_be_bytes(*key)).collect(), length / KEY_BYTES))
}

/// The reservation, if there is one.
pub(super) fn reservation(answer: &[u8]) -> Result<Option<Reservation>, Malformed> {
    let (length, bytes) = payload(answer)?;
    if length == 0 {
        return Ok(None);
    }
    let Some(held) = bytes.first_chunk::<RESERVATION_BYTES>() else {
        return Err(Malformed(format!("{length} bytes are no reservation")));
    };
    let [key @ .., _, _, _, _, _, scope_and_type, _, _] = *held;
    let kind = match scope_and_type & 0x0F {
        ALL_REGISTRANTS => Kind::WriteExclusiveAllRegistrants,
        other => Kind::Other(kernel_number(other)),
    };
    Ok(Some(Reservation { kind, key: u64::from_be_bytes(key) }))
}

/// The kernel's number of a kind that the standard gives this one.
fn kernel_number(standard: u8) -> u32 {
    match standard {
        1 => 1,
        3 => 2,
        5 => 3,
        6 => 4,
        8 => 6,
        other => u32::from(other) + 100,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_of_the_standard_are_read() {
        assert_eq!(command(Inquiry::Keys, 0x1234), [0x5E, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0]);
        assert_eq!(command(Inquiry::Reservation, 24)[..2], [0x5E, 1]);
        let two = [0, 0, 0, 9, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0xA, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(keys(&two), Ok((vec![1, 0x0A00_0000_0000_0002], 2)));
        assert_eq!(keys(&two[..16]), Ok((vec![1], 2)), "there was no room for both");
        assert_eq!(keys(&[0, 0, 0, 9, 0, 0, 0, 0]), Ok((vec![], 0)));
        let mut held =
            vec![0, 0, 0, 9, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 7, 0, 0];
        let all = Reservation { kind: Kind::WriteExclusiveAllRegistrants, key: 1 };
        assert_eq!(reservation(&held), Ok(Some(all)));
        held[21] = 0x05;
        let other = Reservation { kind: Kind::Other(3), key: 1 };
        assert_eq!(reservation(&held), Ok(Some(other)));
        assert_eq!(reservation(&[0, 0, 0, 9, 0, 0, 0, 0]), Ok(None));
        assert!(reservation(&held[..20]).is_err());
        assert!(keys(&[0; 7]).is_err() && keys(&[0, 0, 0, 0, 0, 0, 0, 3, 1, 1, 1]).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (keys(&answer), reservation(&answer));
        }
    }
}
