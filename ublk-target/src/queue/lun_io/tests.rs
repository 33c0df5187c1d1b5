//! LUN I/O against regular files, on a real ring.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::*;

const LUN: LunIndex = LunIndex::new(0);

struct Bench {
    file: File,
    buffers: RequestBuffers,
    ring: QueueRing,
    ops: LunOps,
}

impl Bench {
    fn new(bytes: u64) -> Self {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(bytes).expect("sized");
        let ring = QueueRing::new(8, 2).expect("a ring");
        ring.register(file_of_lun(LUN), file.as_raw_fd()).expect("registered");
        Self {
            ring,
            buffers: RequestBuffers::new(4, 64 << 10).expect("memory"),
            ops: LunOps::new(4),
            file,
        }
    }

    fn fill(&mut self, tag: u16, offset: u32, bytes: &[u8]) {
        let start = self.buffers.address(tag, offset, bytes.len() as u32);
        // SAFETY: the address was checked and no I/O is under way.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len()) };
    }

    fn content(&mut self, tag: u16, offset: u32, length: u32) -> Vec<u8> {
        let start = self.buffers.address(tag, offset, length);
        // SAFETY: the address was checked and no I/O is under way.
        unsafe { std::slice::from_raw_parts(start, length as usize) }.to_vec()
    }

    fn run(&mut self, io: LunIo) -> LunDone {
        self.ops.start(OpId::new(7), io, &mut self.buffers, &mut self.ring);
        let mut completions = Vec::new();
        loop {
            self.ring.wait(&mut completions).expect("the ring works");
            for completion in completions.drain(..) {
                let done = self.ops.complete(completion, &mut self.buffers, &mut self.ring);
                if let Some(done) = done {
                    assert!(self.ops.is_idle(), "one I/O was started and has ended");
                    assert_eq!(done.op.get(), 7);
                    return done;
                }
            }
        }
    }
}

fn on_file(file: &File, at: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).expect("within the file");
    bytes
}

#[test]
fn a_write_and_a_read_move_the_stretch_they_name() {
    let mut bench = Bench::new(1 << 20);
    bench.fill(1, 4096, &[0xab; 8192]);
    let write =
        LunIo::Write { lun: LUN, at: 65536, tag: 1, offset: 4096, length: 8192, durable: true };
    assert_eq!(bench.run(write).result, Ok(()));
    assert_eq!(on_file(&bench.file, 65536, 8192), [0xab; 8192]);
    assert_eq!(on_file(&bench.file, 65536 + 8192, 16), [0; 16]);
    let read = LunIo::Read { lun: LUN, at: 65536, tag: 2, offset: 512, length: 8192 };
    assert_eq!(bench.run(read).result, Ok(()));
    assert_eq!(bench.content(2, 512, 8192), [0xab; 8192]);
    assert_eq!(bench.ops.bytes(), LunBytes { read: 8192, written: 8192 });
}

#[test]
fn a_gathered_write_lands_in_order() {
    let mut bench = Bench::new(1 << 20);
    bench.fill(0, 0, &[1; 4096]);
    let mut owned = AlignedBuf::zeroed(2);
    owned.as_mut_bytes().fill(2);
    let zeros = (ZERO_BLOCKS as u32 * 4096) * 2 + 512;
    let parts = vec![
        Part::Owned { buffer: Arc::new(owned), offset: 4096, length: 1024 },
        Part::Zeros { length: zeros },
        Part::Request { offset: 1024, length: 2048 },
    ];
    let before = vec![9; 512 << 10];
    bench.file.write_all_at(&before, 0).expect("written");
    let io = LunIo::WriteParts { lun: LUN, at: 8192, tag: 0, parts, durable: false };
    assert_eq!(bench.run(io).result, Ok(()));
    let mut expected = vec![2; 1024];
    expected.extend(vec![0; zeros as usize]);
    expected.extend(vec![1; 2048]);
    assert_eq!(on_file(&bench.file, 8192, expected.len()), expected);
    let end = 8192 + expected.len() as u64;
    assert_eq!(on_file(&bench.file, end, 64), [9; 64]);
    assert_eq!(on_file(&bench.file, 8192 - 64, 64), [9; 64]);
}

#[test]
fn a_gathered_write_of_more_stretches_than_the_kernel_takes_is_complete() {
    let mut bench = Bench::new(8 << 20);
    let mut owned = AlignedBuf::zeroed(1);
    owned.as_mut_bytes().fill(5);
    let owned = Arc::new(owned);
    let count = STRETCHES_MAX + 300;
    let parts = (0..count)
        .map(|_| Part::Owned { buffer: Arc::clone(&owned), offset: 0, length: 512 })
        .collect();
    let io = LunIo::WriteParts { lun: LUN, at: 0, tag: 0, parts, durable: false };
    assert_eq!(bench.run(io).result, Ok(()));
    assert_eq!(on_file(&bench.file, 0, count * 512), vec![5; count * 512]);
}

#[test]
fn an_owned_buffer_comes_back_filled() {
    let mut bench = Bench::new(1 << 20);
    bench.file.write_all_at(&[3; 8192], 4096).expect("written");
    let read = LunIo::ReadOwned { lun: LUN, at: 4096, buffer: AlignedBuf::zeroed(2) };
    let done = bench.run(read);
    assert_eq!(done.result, Ok(()));
    assert_eq!(done.buffer.expect("it comes back").as_bytes(), [3; 8192]);
    let mut buffer = AlignedBuf::zeroed(1);
    buffer.as_mut_bytes().fill(4);
    let write = LunIo::WriteOwned { lun: LUN, at: 0, buffer, durable: true };
    assert_eq!(bench.run(write).result, Ok(()));
    assert_eq!(on_file(&bench.file, 0, 4096), [4; 4096]);
    assert_eq!(bench.run(LunIo::Flush { lun: LUN }).result, Ok(()));
}

#[test]
fn a_read_beyond_the_end_is_short_and_never_a_success() {
    let mut bench = Bench::new(8192);
    let read = LunIo::Read { lun: LUN, at: 4096, tag: 0, offset: 0, length: 8192 };
    assert_eq!(bench.run(read).result, Err(LunError::Short { moved: 4096, asked: 8192 }));
    let read = LunIo::Read { lun: LUN, at: 8192, tag: 0, offset: 0, length: 4096 };
    assert_eq!(bench.run(read).result, Err(LunError::Short { moved: 0, asked: 4096 }));
}

#[test]
fn an_errno_of_the_device_is_passed_on() {
    let mut bench = Bench::new(8192);
    let unregistered = LunIndex::new(9);
    let read = LunIo::Read { lun: unregistered, at: 0, tag: 0, offset: 0, length: 4096 };
    assert_eq!(bench.run(read).result, Err(LunError::Device { errno: libc::EBADF }));
}

#[test]
fn what_is_left_over_starts_inside_a_stretch() {
    let bytes = [0_u8; 4096];
    let stretch = |from: usize, length: usize| {
        let iov_base = bytes[from..].as_ptr().cast_mut().cast();
        Stretch(libc::iovec { iov_base, iov_len: length })
    };
    let mut stretches = vec![stretch(0, 512), stretch(512, 1024), stretch(2048, 512)];
    skip(&mut stretches, 1024);
    let left: Vec<_> = stretches
        .iter()
        .map(|s| (s.0.iov_base as usize - bytes.as_ptr() as usize, s.0.iov_len))
        .collect();
    assert_eq!(left, [(1024, 512), (2048, 512)]);
    skip(&mut stretches, 512);
    assert_eq!(stretches.len(), 1);
}
