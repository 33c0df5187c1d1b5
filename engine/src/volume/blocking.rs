//! Runs the control queue: its flushes and journal writes, one after the other, on open LUNs.
//!
//! Used by checkpoints. The volume's queues may have stopped already: this needs none of them.

use super::{QueueContext, Volume};
use crate::io::{Action, LunDone, LunIo};
use crate::journal::LunSet;
use crate::lun::LunError;

const ERRNO_ENODEV: i32 = 19;

fn run(io: LunIo, luns: &dyn LunSet) -> Result<(), LunError> {
    let device = luns.lun(io.lun()).ok_or(LunError::Device { errno: ERRNO_ENODEV })?;
    match io {
        LunIo::Flush { .. } => device.flush(),
        LunIo::WriteOwned { at, buffer, durable, .. } => {
            device.write_at(at, buffer.as_bytes())?;
            if durable { device.flush() } else { Ok(()) }
        }
        LunIo::Read { .. }
        | LunIo::Write { .. }
        | LunIo::WriteParts { .. }
        | LunIo::ReadOwned { .. } => unreachable!("the control queue has no requests"),
    }
}

/// Runs [`super::ControlWork::Round`] to its end; the wake-ups it leads to are left in `out`.
pub fn run_round(
    volume: &Volume,
    queue: &mut QueueContext,
    luns: &dyn LunSet,
    out: &mut Vec<Action>,
) {
    let mut actions = Vec::new();
    volume.start_round(queue, &mut actions);
    while !actions.is_empty() {
        for action in std::mem::take(&mut actions) {
            match action {
                Action::Lun { op, io } => {
                    let done = LunDone { op, result: run(io, luns), buffer: None };
                    volume.complete(queue, done, &mut actions);
                }
                wake => out.push(wake),
            }
        }
    }
}
