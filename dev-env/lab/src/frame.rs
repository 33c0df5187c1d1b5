//! Frames of the lab's byte channels: host ↔ agent, and `lab` ↔ its supervisor.
//!
//! A frame is a header of 9 bytes, little-endian, and a payload:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..4 | payload length |
//! | 4 | kind, see [`Kind`] |
//! | 5..9 | job number that the frame belongs to, 0 for the channel itself |
//!
//! Invariants:
//! - a payload is at most [`PAYLOAD_BYTES_MAX`]; a longer length is corruption, not a big frame;
//! - the end of the stream between two frames is a clean end, inside a frame it is an error.
//!
//! It knows nothing of what a payload means; that is [`crate::message`].

use std::io::{self, ErrorKind, Read, Write};

/// Largest payload of one frame, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Size in which streams (stdin, stdout, files) are cut into frames, in bytes.
pub const CHUNK_BYTES: usize = 32 << 10;

const HEADER_BYTES: usize = 9;

/// What a frame is. Numbers below 64 go to the agent, the others come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Start a command: JSON [`crate::message::ExecSpec`].
    Exec = 1,
    /// Create or replace a file from the bytes that follow: JSON [`crate::message::WriteSpec`].
    WriteFile = 2,
    /// Send a file back as [`Kind::Stdout`]: the payload is its path in UTF-8.
    ReadFile = 3,
    /// Bytes for the standard input of a job, or for the file that it writes.
    Stdin = 4,
    /// The end of the input of a job.
    StdinEnd = 5,
    /// Send a signal to the process group of a job: `i32`, little-endian.
    Kill = 6,
    /// Ask for a [`Kind::Pong`].
    Ping = 7,
    /// Sync, unmount and power the machine off.
    PowerOff = 8,
    /// A request to the supervisor of `lab up`: JSON.
    Control = 32,
    /// The agent is up: JSON [`crate::message::Hello`].
    Hello = 64,
    /// Bytes that a job wrote to its standard output.
    Stdout = 65,
    /// Bytes that a job wrote to its standard error.
    Stderr = 66,
    /// So many bytes of input were taken by the job: `u32`, little-endian.
    Consumed = 67,
    /// The job is over; nothing follows for it: JSON [`crate::message::Outcome`].
    Ended = 68,
    /// The answer to a ping.
    Pong = 69,
    /// The job runs, with this process id: `u32`, little-endian.
    Started = 70,
}

const KINDS: [Kind; 16] = [
    Kind::Exec,
    Kind::WriteFile,
    Kind::ReadFile,
    Kind::Stdin,
    Kind::StdinEnd,
    Kind::Kill,
    Kind::Ping,
    Kind::PowerOff,
    Kind::Control,
    Kind::Hello,
    Kind::Stdout,
    Kind::Stderr,
    Kind::Consumed,
    Kind::Ended,
    Kind::Pong,
    Kind::Started,
];

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// The job that it belongs to; 0 for the channel itself.
    pub job: u32,
    /// Its content, at most [`PAYLOAD_BYTES_MAX`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame with a payload.
    pub fn new(kind: Kind, job: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, job, payload: payload.into() }
    }

    /// A frame whose payload is `value` as JSON.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn json(kind: Kind, job: u32, value: &impl serde::Serialize) -> io::Result<Self> {
        Ok(Self::new(kind, job, serde_json::to_vec(value)?))
    }

    /// The payload read as JSON.
    ///
    /// # Errors
    /// `InvalidData` when the payload is not JSON of that type.
    pub fn parse<T: serde::de::DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.payload).map_err(|error| {
            let text =
                format!("payload of a {:?} frame is not what it should be: {error}", self.kind);
            io::Error::new(ErrorKind::InvalidData, text)
        })
    }

    /// The payload as one little-endian `u32`.
    ///
    /// # Errors
    /// `InvalidData` when the payload is not four bytes.
    pub fn number(&self) -> io::Result<u32> {
        let bytes: [u8; 4] = self.payload.as_slice().try_into().map_err(|_| {
            let text = format!("{:?} frame of {} bytes, not 4", self.kind, self.payload.len());
            io::Error::new(ErrorKind::InvalidData, text)
        })?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes the frame with one `write_all`, so that frames of several threads do not interleave
    /// as long as each holds the writer's lock for this call.
    ///
    /// # Errors
    /// `InvalidInput` for a payload that is too long, or whatever the writer says.
    pub fn write_to(&self, writer: &mut impl Write) -> io::Result<()> {
        if self.payload.len() > PAYLOAD_BYTES_MAX {
            let text = format!("a frame of {} bytes is too long", self.payload.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let length = u32::try_from(self.payload.len()).expect("the limit is below 4 GiB");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.push(self.kind as u8);
        bytes.extend_from_slice(&self.job.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        writer.write_all(&bytes)?;
        writer.flush()
    }

    /// Reads the next frame; `None` at a clean end of the stream.
    ///
    /// # Errors
    /// `InvalidData` for an unknown kind or an impossible length, `UnexpectedEof` for a stream that
    /// ends inside a frame, or whatever the reader says.
    pub fn read_from(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0u8; HEADER_BYTES];
        if !read_all_or_end(reader, &mut header)? {
            return Ok(None);
        }
        let [l0, l1, l2, l3, kind, j0, j1, j2, j3] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let job = u32::from_le_bytes([j0, j1, j2, j3]);
        let Some(kind) = Kind::from_byte(kind) else {
            let text = format!("unknown frame kind {kind}");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        };
        if length > PAYLOAD_BYTES_MAX {
            let text = format!("a {kind:?} frame claims {length} bytes");
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload)?;
        Ok(Some(Self { kind, job, payload }))
    }
}

/// Fills `buffer`; `false` when the stream ended before its first byte.
fn read_all_or_end(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A reader that hands out the bytes in pieces of the given sizes, in turn.
    struct Pieces<'a> {
        bytes: &'a [u8],
        sizes: Vec<usize>,
        turn: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let size = self.sizes[self.turn % self.sizes.len()];
            self.turn += 1;
            let count = size.min(buffer.len()).min(self.bytes.len());
            buffer[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes = &self.bytes[count..];
            Ok(count)
        }
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind = prop::sample::select(KINDS.to_vec());
        let payload = prop::collection::vec(any::<u8>(), 0..2000);
        (kind, any::<u32>(), payload).prop_map(|(kind, job, payload)| Frame { kind, job, payload })
    }

    proptest! {
        #[test]
        fn frames_survive_any_fragmentation(
            frames in prop::collection::vec(any_frame(), 0..8),
            sizes in prop::collection::vec(1usize..700, 1..10),
        ) {
            let mut bytes = Vec::new();
            for frame in &frames {
                frame.write_to(&mut bytes).unwrap();
            }
            let mut reader = Pieces { bytes: &bytes, sizes, turn: 0 };
            let mut read = Vec::new();
            while let Some(frame) = Frame::read_from(&mut reader).unwrap() {
                read.push(frame);
            }
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn a_cut_inside_a_frame_is_an_error(
            frame in any_frame(),
            at in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            frame.write_to(&mut bytes).unwrap();
            let cut = 1 + at.index(bytes.len() - 1);
            let error = Frame::read_from(&mut &bytes[..cut]).unwrap_err();
            prop_assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = bytes.as_slice();
            while let Ok(Some(_)) = Frame::read_from(&mut reader) {}
        }
    }

    #[test]
    fn kind_numbers_are_distinct() {
        for kind in KINDS {
            assert_eq!(Kind::from_byte(kind as u8), Some(kind));
        }
    }

    #[test]
    fn an_impossible_length_is_corruption() {
        let mut bytes = vec![0xff; 4];
        bytes.extend_from_slice(&[Kind::Ping as u8, 0, 0, 0, 0]);
        let error = Frame::read_from(&mut bytes.as_slice()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_payload_over_the_limit_is_refused() {
        let frame = Frame::new(Kind::Stdin, 1, vec![0; PAYLOAD_BYTES_MAX + 1]);
        let error = frame.write_to(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
