//! The memory that requests carry their data in: one buffer a tag, aligned for O_DIRECT.
//!
//! Invariants:
//! - a buffer belongs to the kernel from the fetch of its tag to the arrival of a request, and
//!   while LUN I/O on it is under way; it is touched here only by the queue's thread, between
//!   the two, and only where the engine says so;
//! - the memory stays where it is until the ring that knows it is gone.
#![allow(unsafe_code, reason = "the kernel writes into these buffers behind the compiler's back")]

use std::io;

use memmap2::MmapMut;

/// The request buffers of one queue.
pub struct RequestBuffers {
    memory: MmapMut,
    stride: usize,
    count: u16,
}

impl RequestBuffers {
    /// `count` buffers of `bytes` bytes each, a multiple of 4096.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(count: u16, bytes: u32) -> io::Result<Self> {
        assert!(bytes > 0 && bytes.is_multiple_of(4096), "buffers are whole pages");
        let stride = bytes as usize;
        let memory = MmapMut::map_anon(stride * usize::from(count))?;
        Ok(Self { memory, stride, count })
    }

    /// Bytes of one buffer.
    #[must_use]
    pub fn buffer_bytes(&self) -> u32 {
        u32::try_from(self.stride).expect("it was made from 32 bits")
    }

    /// The address of a stretch of a tag's buffer.
    ///
    /// # Panics
    /// When the stretch leaves the buffer.
    pub fn address(&mut self, tag: u16, offset: u32, length: u32) -> *mut u8 {
        assert!(tag < self.count, "tag {tag} of {}", self.count);
        let end = u64::from(offset) + u64::from(length);
        assert!(
            end <= self.stride as u64,
            "bytes {offset}+{length} of a buffer of {}",
            self.stride
        );
        let at = usize::from(tag) * self.stride + offset as usize;
        // SAFETY: the asserts above keep `at` inside the mapping.
        unsafe { self.memory.as_mut_ptr().add(at) }
    }

    /// Fills a stretch of a tag's buffer with zeros.
    ///
    /// # Panics
    /// When the stretch leaves the buffer.
    pub fn fill_zeros(&mut self, tag: u16, offset: u32, length: u32) {
        let start = self.address(tag, offset, length);
        // SAFETY: `address` has checked the stretch; a request whose buffer the engine asks to be
        // filled is ours, and no LUN I/O on that stretch is under way.
        unsafe { std::ptr::write_bytes(start, 0, length as usize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_apart() {
        let mut buffers = RequestBuffers::new(3, 8192).expect("memory");
        let first = buffers.address(0, 0, 8192) as usize;
        let second = buffers.address(1, 0, 8192) as usize;
        assert_eq!((first % 4096, second - first), (0, 8192));
    }

    #[test]
    #[should_panic(expected = "of a buffer of 8192")]
    fn a_stretch_never_leaves_its_buffer() {
        let mut buffers = RequestBuffers::new(2, 8192).expect("memory");
        buffers.fill_zeros(0, 4096, 4097);
    }
}
