//! Runs the control queue: its flushes, journal writes and copies, one I/O after the other, on
//! open LUNs.
//!
//! Used by checkpoints and for consolidation. The volume's queues may have stopped already: this
//! needs none of them.

use super::{Claim, CopyStep, QueueContext, Volume};
use crate::buffer::AlignedBuf;
use crate::io::{Action, LunDone, LunIo};
use crate::journal::LunSet;
use crate::lun::LunError;

const ERRNO_ENODEV: i32 = 19;

fn run(io: LunIo, luns: &dyn LunSet) -> Result<Option<AlignedBuf>, LunError> {
    let device = luns.lun(io.lun()).ok_or(LunError::Device { errno: ERRNO_ENODEV })?;
    match io {
        LunIo::Flush { .. } => device.flush().map(|()| None),
        LunIo::WriteOwned { at, buffer, durable, .. } => {
            device.write_at(at, buffer.as_bytes())?;
            if durable { device.flush().map(|()| None) } else { Ok(None) }
        }
        LunIo::ReadOwned { at, mut buffer, .. } => {
            device.read_at(at, buffer.as_mut_bytes())?;
            Ok(Some(buffer))
        }
        LunIo::Read { .. } | LunIo::Write { .. } | LunIo::WriteParts { .. } => {
            unreachable!("the control queue has no requests")
        }
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
    run_to_the_end(volume, queue, luns, actions, out);
}

/// Runs [`Volume::start_copy`], and what it begins to its end.
pub fn run_copy(
    volume: &Volume,
    queue: &mut QueueContext,
    claim: Claim,
    luns: &dyn LunSet,
    out: &mut Vec<Action>,
) -> CopyStep {
    let mut actions = Vec::new();
    let step = volume.start_copy(queue, claim, &mut actions);
    run_to_the_end(volume, queue, luns, actions, out);
    step
}

fn run_to_the_end(
    volume: &Volume,
    queue: &mut QueueContext,
    luns: &dyn LunSet,
    mut actions: Vec<Action>,
    out: &mut Vec<Action>,
) {
    while !actions.is_empty() {
        for action in std::mem::take(&mut actions) {
            match action {
                Action::Lun { op, io } => {
                    let (result, buffer) = match run(io, luns) {
                        Ok(buffer) => (Ok(()), buffer),
                        Err(error) => (Err(error), None),
                    };
                    let done = LunDone { op, result, buffer };
                    volume.complete(queue, done, &mut actions);
                }
                wake => out.push(wake),
            }
        }
    }
}
