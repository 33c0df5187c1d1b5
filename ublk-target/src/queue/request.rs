//! Requests as the ublk driver describes them, and the answers it takes.

use libublk::sys;
use lunar_engine::io::{IoError, IoOp};

const SECTOR_SHIFT: u32 = 9;
const OP_MASK: u32 = 0xff;

/// What the driver's description asks for, or the errno that it is answered with.
///
/// # Errors
/// EOPNOTSUPP for an operation that the device's parameters do not offer.
pub fn operation(desc: &sys::ublksrv_io_desc) -> Result<IoOp, i32> {
    let offset = desc.start_sector << SECTOR_SHIFT;
    let bytes = u64::from(desc.nr_sectors) << SECTOR_SHIFT;
    let short = || u32::try_from(bytes).map_err(|_| libc::EINVAL);
    match desc.op_flags & OP_MASK {
        sys::UBLK_IO_OP_READ => Ok(IoOp::Read { offset, length: short()? }),
        sys::UBLK_IO_OP_WRITE => {
            let fua = desc.op_flags & sys::UBLK_IO_F_FUA != 0;
            Ok(IoOp::Write { offset, length: short()?, fua })
        }
        sys::UBLK_IO_OP_FLUSH => Ok(IoOp::Flush),
        sys::UBLK_IO_OP_DISCARD => Ok(IoOp::Discard { offset, length: bytes }),
        sys::UBLK_IO_OP_WRITE_ZEROES => Ok(IoOp::WriteZeroes { offset, length: bytes }),
        _ => Err(libc::EOPNOTSUPP),
    }
}

/// Bytes that the operation moves through the request's buffer.
#[must_use]
pub const fn buffer_bytes(op: IoOp) -> u32 {
    match op {
        IoOp::Read { length, .. } | IoOp::Write { length, .. } => length,
        IoOp::Flush | IoOp::Discard { .. } | IoOp::WriteZeroes { .. } => 0,
    }
}

/// What the driver is told: the bytes moved, or a negative errno. Only reads and writes have
/// bytes; the driver ignores the number of others.
#[must_use]
pub fn answer(buffer_bytes: u32, result: Result<(), IoError>) -> i32 {
    match result {
        Ok(()) => i32::try_from(buffer_bytes).expect("requests are at most 1 MiB"),
        Err(error) => -error.errno(),
    }
}

#[cfg(test)]
mod tests {
    use lunar_engine::lun::LunError;
    use lunar_types::LunIndex;

    use super::*;

    fn desc(op_flags: u32, nr_sectors: u32) -> sys::ublksrv_io_desc {
        sys::ublksrv_io_desc { op_flags, nr_sectors, start_sector: 16, addr: 0 }
    }

    #[test]
    fn sectors_become_bytes_and_fua_is_seen() {
        let offset = 8192;
        let write = sys::UBLK_IO_OP_WRITE;
        for (op_flags, expected) in [
            (sys::UBLK_IO_OP_READ, IoOp::Read { offset, length: 4096 }),
            (write, IoOp::Write { offset, length: 4096, fua: false }),
            (write | sys::UBLK_IO_F_FUA, IoOp::Write { offset, length: 4096, fua: true }),
            (write | sys::UBLK_IO_F_META, IoOp::Write { offset, length: 4096, fua: false }),
            (sys::UBLK_IO_OP_FLUSH, IoOp::Flush),
            (sys::UBLK_IO_OP_DISCARD, IoOp::Discard { offset, length: 4096 }),
            (sys::UBLK_IO_OP_WRITE_ZEROES, IoOp::WriteZeroes { offset, length: 4096 }),
        ] {
            assert_eq!(operation(&desc(op_flags, 8)), Ok(expected));
        }
    }

    #[test]
    fn a_discard_of_4_gib_keeps_its_length_and_an_unknown_operation_is_refused() {
        let op = operation(&desc(sys::UBLK_IO_OP_DISCARD, 1 << 23));
        assert_eq!(op, Ok(IoOp::Discard { offset: 8192, length: 1 << 32 }));
        assert_eq!(operation(&desc(sys::UBLK_IO_OP_ZONE_OPEN, 8)), Err(libc::EOPNOTSUPP));
        assert_eq!(operation(&desc(sys::UBLK_IO_OP_READ, 1 << 23)), Err(libc::EINVAL));
    }

    /// The table of engine errors and what the block layer is told.
    #[test]
    fn every_error_of_the_engine_has_its_errno() {
        let lun = IoError::Lun {
            lun: LunIndex::new(0),
            error: LunError::Device { errno: libc::EREMOTEIO },
        };
        for (error, errno) in [
            (lun, libc::EIO),
            (IoError::NoSpace, libc::ENOSPC),
            (IoError::Poisoned, libc::EIO),
            (IoError::Invalid, libc::EINVAL),
        ] {
            assert_eq!(answer(4096, Err(error)), -errno, "{error}");
        }
        assert_eq!(answer(4096, Ok(())), 4096);
    }
}
