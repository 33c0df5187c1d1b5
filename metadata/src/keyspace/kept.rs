//! A record that is kept inside of another one, as it was.

use super::encoding::{DecodeError, Field, Record, take_bytes};

/// A record as a field: its length as u16, then its bytes with their version, so that records of
/// earlier versions are read wherever they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept<R>(pub R);

impl<R: Record> Field for Kept<R> {
    fn put(&self, out: &mut Vec<u8>) {
        let bytes = self.0.encode();
        u16::try_from(bytes.len()).expect("only small records are kept").put(out);
        out.extend_from_slice(&bytes);
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let length = usize::from(u16::take(input)?);
        R::decode(take_bytes(input, length, R::NAME)?).map(Self)
    }
}
