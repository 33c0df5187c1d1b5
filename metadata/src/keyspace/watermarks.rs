//! Watermarks in the record of a pool.

use lunar_proto::domain::Watermarks;

use super::encoding::{DecodeError, Field, invalid};

impl Field for Watermarks {
    fn put(&self, out: &mut Vec<u8>) {
        for mark in [self.warning(), self.high(), self.critical()] {
            mark.put(out);
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let (warning, high) = (u8::take(input)?, u8::take(input)?);
        let critical = u8::take(input)?;
        let marks = Self::new(warning, high, critical);
        marks.map_err(|_| invalid("watermarks", format_args!("{warning}, {high}, {critical}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_out_of_order_are_not_read() {
        let marks = Watermarks::new(10, 20, 30).expect("in order");
        let mut bytes = Vec::new();
        marks.put(&mut bytes);
        assert_eq!(Watermarks::take(&mut bytes.as_slice()), Ok(marks));
        *bytes.last_mut().expect("there are some") = 19;
        let read = Watermarks::take(&mut bytes.as_slice());
        assert!(matches!(read, Err(DecodeError::Invalid { .. })));
    }
}
