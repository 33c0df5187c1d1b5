//! The two commands of a queue: fetch a request, and answer one and fetch the next.
//!
//! Invariant: a description is read only between the completion of its tag's fetch and the answer;
//! the driver writes it at no other time.
#![allow(unsafe_code, reason = "descriptions are shared with the kernel")]

use std::fs::File;
use std::io;

use io_uring::{opcode, squeue, types};
use libublk::sys;
use memmap2::{Mmap, MmapOptions};

const PAGE_BYTES: usize = 4096;
/// File 0 of a queue's ring is the character device.
pub(super) const CHAR_DEVICE: types::Fixed = types::Fixed(0);

/// The descriptions of a queue's requests, as the driver shares them.
pub struct Descriptions {
    memory: Mmap,
    depth: u16,
}

impl Descriptions {
    /// Maps those of one queue.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn map(device: &File, queue: u16, depth: u16) -> io::Result<Self> {
        let size = size_of::<sys::ublksrv_io_desc>();
        let length = (usize::from(depth) * size).next_multiple_of(PAGE_BYTES);
        let stride = (sys::UBLK_MAX_QUEUE_DEPTH as usize * size).next_multiple_of(PAGE_BYTES);
        let offset = u64::from(sys::UBLKSRV_CMD_BUF_OFFSET) + u64::from(queue) * stride as u64;
        // SAFETY: the mapping is the driver's, of the length it offers; it is read by value only.
        let memory = unsafe { MmapOptions::new().offset(offset).len(length).map(device) }?;
        Ok(Self { memory, depth })
    }

    /// The description of the request that has this tag.
    #[must_use]
    pub fn get(&self, tag: u16) -> sys::ublksrv_io_desc {
        assert!(tag < self.depth, "tag {tag} of {}", self.depth);
        let first = self.memory.as_ptr().cast::<sys::ublksrv_io_desc>();
        // SAFETY: the assert keeps the address inside the mapping.
        let desc = unsafe { first.add(tag.into()) };
        // SAFETY: the mapping is page-aligned, and the driver has written this entry and leaves
        // it alone until the request is answered.
        unsafe { desc.read_volatile() }
    }
}

fn command(number: u32, command: sys::ublksrv_io_cmd) -> squeue::Entry {
    // SAFETY: the command is 16 bytes of plain data without padding.
    let bytes = unsafe { std::mem::transmute::<sys::ublksrv_io_cmd, [u8; 16]>(command) };
    opcode::UringCmd16::new(CHAR_DEVICE, number).cmd(bytes).build()
}

/// Fetches the first request of a tag; its data goes to or comes from `buffer`.
#[must_use]
pub fn fetch(queue: u16, tag: u16, buffer: *mut u8) -> squeue::Entry {
    let addr = buffer as u64;
    command(sys::UBLK_U_IO_FETCH_REQ, sys::ublksrv_io_cmd { q_id: queue, tag, result: -1, addr })
}

/// Answers the request of a tag and fetches the next.
#[must_use]
pub fn commit(queue: u16, tag: u16, buffer: *mut u8, result: i32) -> squeue::Entry {
    let addr = buffer as u64;
    command(
        sys::UBLK_U_IO_COMMIT_AND_FETCH_REQ,
        sys::ublksrv_io_cmd { q_id: queue, tag, result, addr },
    )
}
