//! LUN I/O against regular files, on a real ring.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use lunar_proto::domain::PoolFencing;
use lunar_types::LunId;

use super::*;
use crate::guard::{Authority, Gate, LunGuard};

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

/// A bench whose LUN has reservations, and a node without a lease.
fn guarded() -> (Bench, Arc<Authority>, Arc<LunGuard>) {
    let mut bench = Bench::new(1 << 20);
    let authority = Arc::new(Authority::default());
    let guard = LunGuard::new(LunId::from_u128(7), PoolFencing::Reservations, &authority);
    bench.ops.guard(LUN, guard.enlist(Box::new(|| {})));
    (bench, authority, guard)
}

impl Bench {
    fn start(&mut self, io: LunIo) {
        self.ops.start(OpId::new(7), io, &mut self.buffers, &mut self.ring);
    }

    /// What the kernel says of the only I/O under way.
    fn completion(&mut self) -> Completion {
        let mut completions = Vec::new();
        self.ring.wait(&mut completions).expect("the ring works");
        completions.remove(0)
    }

    fn complete(&mut self, completion: Completion) -> Option<LunDone> {
        self.ops.complete(completion, &mut self.buffers, &mut self.ring)
    }

    fn retry(&mut self) {
        self.ops.tick();
        self.ops.retry(&mut self.buffers, &mut self.ring);
    }
}

fn write_owned(fill: u8) -> LunIo {
    let mut buffer = AlignedBuf::zeroed(1);
    buffer.as_mut_bytes().fill(fill);
    LunIo::WriteOwned { lun: LUN, at: 0, buffer, durable: false }
}

#[test]
fn an_io_waits_at_a_closed_gate_and_goes_out_when_it_opens() {
    let (mut bench, _authority, guard) = guarded();
    bench.start(write_owned(6));
    bench.retry();
    assert!(!bench.ring.has_unsubmitted() && !bench.ops.is_idle());
    assert_eq!(guard.under_way(), 0, "what waits is not under way");
    guard.thaw();
    bench.retry();
    assert_eq!(guard.under_way(), 1);
    let completion = bench.completion();
    assert_eq!(bench.complete(completion).expect("it has ended").result, Ok(()));
    assert_eq!(guard.under_way(), 0);
    assert!(bench.ops.is_idle());
    assert_eq!(on_file(&bench.file, 0, 4096), [6; 4096]);
}

#[test]
fn a_write_that_the_array_rejects_waits_and_is_written_after_the_thaw() {
    let (mut bench, _authority, guard) = guarded();
    guard.thaw();
    bench.start(write_owned(8));
    let completion = Completion { result: -libc::EBADE, ..bench.completion() };
    assert!(bench.complete(completion).is_none());
    assert!(matches!(guard.gate(), Gate::Frozen { .. }));
    assert_eq!(guard.under_way(), 0);
    bench.file.write_all_at(&[0; 4096], 0).expect("written");
    guard.thaw();
    bench.retry();
    let completion = bench.completion();
    assert_eq!(bench.complete(completion).expect("it has ended").result, Ok(()));
    assert_eq!(on_file(&bench.file, 0, 4096), [8; 4096]);
}

#[test]
fn what_was_read_without_a_lease_is_given_out_when_somebody_has_vouched() {
    let (mut bench, _authority, guard) = guarded();
    guard.thaw();
    bench.file.write_all_at(&[3; 4096], 4096).expect("written");
    bench.start(LunIo::ReadOwned { lun: LUN, at: 4096, buffer: AlignedBuf::zeroed(1) });
    let completion = bench.completion();
    assert!(bench.complete(completion).is_none());
    bench.retry();
    assert!(bench.ops.take_ended().is_none() && !bench.ops.is_idle());
    guard.vouch(guard.begin_look());
    bench.retry();
    let done = bench.ops.take_ended().expect("vouched for");
    assert_eq!(done.result, Ok(()));
    assert_eq!(done.buffer.expect("it comes back").as_bytes(), [3; 4096]);
    assert!(bench.ops.is_idle());
}

#[test]
fn everything_that_waits_fails_when_the_incarnation_is_over() {
    let (mut bench, authority, guard) = guarded();
    guard.thaw();
    bench.start(LunIo::ReadOwned { lun: LUN, at: 0, buffer: AlignedBuf::zeroed(1) });
    let completion = bench.completion();
    assert!(bench.complete(completion).is_none());
    guard.freeze("a test");
    bench.start(write_owned(1));
    authority.end();
    bench.retry();
    bench.start(write_owned(2));
    for _ in 0..3 {
        let done = bench.ops.take_ended().expect("it has ended");
        assert_eq!(done.result, Err(ENDED));
    }
    assert!(bench.ops.take_ended().is_none() && bench.ops.is_idle());
    assert_eq!(on_file(&bench.file, 0, 4096), [0; 4096]);
}
