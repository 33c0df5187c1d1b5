//! The target's record of commands, read from the kernel's trace of them.
//!
//! `target_sequencer_start` is traced when the target has taken a command, before it looks at
//! reservations; `target_cmd_complete` when it has an answer for the initiator. A command that is
//! aborted has no answer, and so no end here.
//!
//! The source of the shapes is `include/trace/events/target.h` of Linux.

use std::time::Duration;

const BEGIN: &str = ": target_sequencer_start: ";
const END: &str = ": target_cmd_complete: ";
const MARK: &str = "lunar-lab-mark";

/// The text of a mark in the record.
pub(super) fn mark_line(number: u64) -> String {
    format!("{MARK}-{number}.")
}

/// What a recorded command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandKind {
    /// WRITE, of any length and also with VERIFY.
    Write,
    /// WRITE SAME: zeroes, or unmaps.
    WriteSame,
    /// UNMAP; its ranges are not in the command, so `lba` and `blocks` are 0.
    Unmap,
    /// COMPARE AND WRITE.
    CompareAndWrite,
    /// PERSISTENT RESERVE OUT with this service action: 0 register, 1 reserve, 2 release, 3 clear,
    /// 4 preempt, 5 preempt and abort, 6 register and ignore.
    Reservation(u8),
}

impl CommandKind {
    /// Whether it changes blocks.
    pub fn is_write(self) -> bool {
        !matches!(self, Self::Reservation(_))
    }
}

/// The answer of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScsiStatus {
    /// Done.
    Good,
    /// Refused for a reservation: what a fenced initiator gets.
    ReservationConflict,
    /// Anything else, as the kernel names it.
    Other(String),
}

/// A command that an initiator sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetCommand {
    /// When the target took it: its uptime, which starts anew at each boot.
    pub time: Duration,
    /// iSCSI name of the initiator.
    pub initiator: String,
    /// Number of the LUN.
    pub lun: u32,
    /// What it does.
    pub kind: CommandKind,
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks.
    pub blocks: u64,
    /// When it was answered and how; nothing if it was aborted or still runs.
    pub end: Option<(Duration, ScsiStatus)>,
    tag: String,
    cdb: String,
    after_mark: u64,
}

impl TargetCommand {
    /// Name of the lab's machine that sent it.
    pub fn machine(&self) -> &str {
        self.initiator.rsplit(':').next().unwrap_or_default()
    }

    /// Whether the target has done it.
    pub fn is_done(&self) -> bool {
        matches!(self.end, Some((_, ScsiStatus::Good)))
    }

    /// Whether the target has refused it for a reservation.
    pub fn is_refused(&self) -> bool {
        matches!(self.end, Some((_, ScsiStatus::ReservationConflict)))
    }
}

/// All commands of a record, in the order in which the target took them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetLog {
    /// The commands.
    pub commands: Vec<TargetCommand>,
}

impl TargetLog {
    /// Reads the text of the kernel's `trace_pipe`.
    ///
    /// # Errors
    /// When events were lost, or an event is not shaped as it should be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut log = Self::default();
        let mut mark = 0;
        for line in text.lines() {
            if line.contains("LOST") && line.contains(" EVENTS]") {
                return Err(format!("the kernel lost events of the record: {line}"));
            }
            if let Some((_, rest)) = line.split_once(MARK) {
                let number = rest.trim_start_matches('-').split('.').next().unwrap_or_default();
                mark = number.parse().map_err(|_| format!("no mark: {line}"))?;
            } else if let Some((head, event)) = line.split_once(BEGIN) {
                let begun = begin(head, event, mark).ok_or_else(|| format!("no begin: {line}"))?;
                log.commands.push(begun);
            } else if let Some((head, event)) = line.split_once(END) {
                log.end(head, event).ok_or_else(|| format!("no end: {line}"))?;
            }
        }
        Ok(log)
    }

    /// The commands after the mark with this number.
    pub(super) fn since(self, mark: u64) -> Vec<TargetCommand> {
        self.commands.into_iter().filter(|command| command.after_mark >= mark).collect()
    }

    fn end(&mut self, head: &str, event: &str) -> Option<()> {
        let (initiator, rest) = event.split_once(" <- LUN ")?;
        let event = Event::parse(head, initiator, rest)?;
        let (_, status) = rest.split_once(" status ")?;
        let status = match status.split_once(" (sense")?.0.trim() {
            "GOOD" => ScsiStatus::Good,
            "RESERVATION CONFLICT" => ScsiStatus::ReservationConflict,
            other => ScsiStatus::Other(other.to_owned()),
        };
        let open = self.commands.iter_mut().rev().find(|command| {
            command.end.is_none()
                && command.initiator == event.initiator
                && command.lun == event.lun
                && command.tag == event.tag
                && command.cdb == event.cdb
        });
        // Without a begin it was taken before the record was switched on.
        if let Some(command) = open {
            command.end = Some((event.time, status));
        }
        Some(())
    }
}

fn begin(head: &str, event: &str, mark: u64) -> Option<TargetCommand> {
    let (initiator, rest) = event.split_once(" -> LUN ")?;
    let event = Event::parse(head, initiator, rest)?;
    let bytes = event.cdb.split(' ').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().ok()?;
    let (kind, lba, blocks) = decode(&bytes)?;
    Some(TargetCommand {
        time: event.time,
        initiator: event.initiator.to_owned(),
        lun: event.lun,
        kind,
        lba,
        blocks,
        end: None,
        tag: event.tag.to_owned(),
        cdb: event.cdb.to_owned(),
        after_mark: mark,
    })
}

/// What both events have.
struct Event<'a> {
    time: Duration,
    initiator: &'a str,
    lun: u32,
    tag: &'a str,
    cdb: &'a str,
}

impl<'a> Event<'a> {
    fn parse(head: &str, initiator: &'a str, rest: &'a str) -> Option<Self> {
        let (seconds, microseconds) = head.rsplit(' ').next()?.split_once('.')?;
        let time = Duration::from_secs(seconds.parse().ok()?)
            + Duration::from_micros(microseconds.parse().ok()?);
        let (lun, after) = rest.split_once(" tag ")?;
        let (tag, _) = after.split_once(' ')?;
        let (_, cdb) = rest.split_once(" CDB ")?;
        let cdb = cdb.split_once(" (TA:")?.0.trim();
        Some(Self { time, initiator, lun: lun.trim().parse().ok()?, tag, cdb })
    }
}

/// Kind, first block and number of blocks of a command.
fn decode(cdb: &[u8]) -> Option<(CommandKind, u64, u64)> {
    let number = |from: usize, bytes: usize| {
        let bytes = cdb.get(from..from + bytes)?;
        Some(bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    Some(match *cdb.first()? {
        // WRITE(6): 0 blocks mean 256.
        0x0a => {
            let blocks = match number(4, 1)? {
                0 => 256,
                blocks => blocks,
            };
            (CommandKind::Write, number(1, 3)? & 0x1f_ffff, blocks)
        }
        0x2a | 0x2e => (CommandKind::Write, number(2, 4)?, number(7, 2)?),
        0xaa => (CommandKind::Write, number(2, 4)?, number(6, 4)?),
        0x8a | 0x8e => (CommandKind::Write, number(2, 8)?, number(10, 4)?),
        0x41 => (CommandKind::WriteSame, number(2, 4)?, number(7, 2)?),
        0x93 => (CommandKind::WriteSame, number(2, 8)?, number(10, 4)?),
        0x89 => (CommandKind::CompareAndWrite, number(2, 8)?, number(13, 1)?),
        0x42 => (CommandKind::Unmap, 0, 0),
        0x5f => (CommandKind::Reservation(cdb.get(1)? & 0x1f), 0, 0),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of Linux 7.3: a write, a write of a fenced initiator, the abort in between, and a write
    /// that never ended.
    const SAMPLE: &str = "\
     iscsi_trx-190     [000] .....   134.318446: target_sequencer_start: \
iqn.2024-01.storage.lunar.lab:node1 -> LUN 000 tag 0x10000033 WRITE_10 data_length   4096  \
CDB 2a 00 00 00 00 20 00 00 08 00 00 00 00 00 00 00  (TA:SIMPLE C:00)
     kworker/0:2-47      [000] .....   134.320123: target_cmd_complete: \
iqn.2024-01.storage.lunar.lab:node1 <- LUN 000 tag 0x10000033 status GOOD (sense len 0)  \
WRITE_10 data_length   4096  CDB 2a 00 00 00 00 20 00 00 08 00 00 00 00 00 00 00  (TA:SIMPLE C:00)
            bash-201     [000] .....   135.000001: tracing_mark_write: lunar-lab-mark-7.
       iscsi_trx-171     [000] .....   136.367498: target_sequencer_start: \
iqn.2024-01.storage.lunar.lab:node0 -> LUN 000 tag 0x7c PERSISTENT_RESERVE_OUT data_length     24  \
CDB 5f 05 07 00 00 00 00 00 18 00 00 00 00 00 00 00  (TA:SIMPLE C:00)
     kworker/0:2-47      [000] .....   136.370964: target_cmd_complete: \
iqn.2024-01.storage.lunar.lab:node0 <- LUN 000 tag 0x7c status GOOD (sense len 0)  \
PERSISTENT_RESERVE_OUT data_length     24  CDB 5f 05 07 00 00 00 00 00 18 00 00 00 00 00 00 00  \
(TA:SIMPLE C:00)
       iscsi_trx-190     [000] .....   141.178687: target_sequencer_start: \
iqn.2024-01.storage.lunar.lab:node1 -> LUN 000 tag 0x10000037 WRITE_10 data_length   4096  \
CDB 2a 00 00 00 00 28 00 00 08 00 00 00 00 00 00 00  (TA:SIMPLE C:00)
       iscsi_trx-190     [000] .....   141.179967: target_cmd_complete: \
iqn.2024-01.storage.lunar.lab:node1 <- LUN 000 tag 0x10000037 status CHECK CONDITION \
(sense len 18 / 70 00 06 00 00 00 00 0a 00 00 00 00 2a 05 00 00 00 00)  WRITE_10 \
data_length   4096  CDB 2a 00 00 00 00 28 00 00 08 00 00 00 00 00 00 00  (TA:SIMPLE C:00)
       iscsi_trx-190     [000] .....   141.200595: target_sequencer_start: \
iqn.2024-01.storage.lunar.lab:node1 -> LUN 000 tag 0x10000038 WRITE_10 data_length   4096  \
CDB 2a 00 00 00 00 28 00 00 08 00 00 00 00 00 00 00  (TA:SIMPLE C:00)
       iscsi_trx-190     [000] .l...   141.200960: target_cmd_complete: \
iqn.2024-01.storage.lunar.lab:node1 <- LUN 000 tag 0x10000038 status RESERVATION CONFLICT \
(sense len 0)  WRITE_10 data_length   4096  \
CDB 2a 00 00 00 00 28 00 00 08 00 00 00 00 00 00 00  (TA:SIMPLE C:00)
       iscsi_trx-190     [000] .....   142.000000: target_sequencer_start: \
iqn.2024-01.storage.lunar.lab:node1 -> LUN 003 tag 0x10000039 WRITE_16 data_length   8192  \
CDB 8a 00 00 00 00 01 00 00 00 02 00 00 00 10 00 00  (TA:SIMPLE C:00)
";

    #[test]
    fn writes_are_read_with_their_initiator_place_time_and_end() {
        let log = TargetLog::parse(SAMPLE).unwrap();
        assert_eq!(log.commands.len(), 5);
        let first = &log.commands[0];
        assert_eq!((first.machine(), first.lun, first.kind), ("node1", 0, CommandKind::Write));
        assert_eq!((first.lba, first.blocks), (0x20, 8));
        assert_eq!(first.time, Duration::from_micros(134_318_446));
        let end = Duration::from_micros(134_320_123);
        assert_eq!(first.end, Some((end, ScsiStatus::Good)));
        let last = &log.commands[4];
        assert_eq!((last.lun, last.lba, last.blocks, &last.end), (3, 0x1_0000_0002, 16, &None));
    }

    #[test]
    fn refused_writes_and_aborts_are_told_apart() {
        let commands = TargetLog::parse(SAMPLE).unwrap().since(7);
        let kinds: Vec<_> = commands.iter().map(|command| command.kind).collect();
        let write = CommandKind::Write;
        assert_eq!(kinds, [CommandKind::Reservation(5), write, write, write]);
        assert!(commands[0].is_done() && !commands[0].kind.is_write());
        let other = ScsiStatus::Other("CHECK CONDITION".to_owned());
        assert_eq!(commands[1].end.as_ref().map(|(_, status)| status), Some(&other));
        assert!(commands[2].is_refused() && !commands[2].is_done());
    }

    #[test]
    fn a_record_with_a_gap_is_refused() {
        let lost = format!("CPU:0 [LOST 17 EVENTS]\n{SAMPLE}");
        assert!(TargetLog::parse(&lost).unwrap_err().contains("17"));
        let torn = SAMPLE.replace("CDB 8a", "CDB zz");
        assert!(TargetLog::parse(&torn).is_err());
    }

    #[test]
    fn places_of_all_writes_are_decoded() {
        assert_eq!(decode(&[0x0a, 0xe1, 2, 3, 0, 0]), Some((CommandKind::Write, 0x1_0203, 256)));
        let long = [0xaa, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0];
        assert_eq!(decode(&long), Some((CommandKind::Write, 0x100, 0x200)));
        let same = [0x93, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 1, 0, 0, 0];
        assert_eq!(decode(&same), Some((CommandKind::WriteSame, 9, 256)));
        assert_eq!(decode(&[0x28, 0]), None);
    }
}
