//! Format once: what a stage does with a device, out of what the service knows of its content and
//! what `blkid` finds on it.
//!
//! - Only what the service knows to have never been used is formatted; that nothing is found proves
//!   nothing.
//! - What could not be read is an error before it comes here, never "nothing".

use super::daemon::Content;
use super::text::said;
use super::worker::mounts::Writing;
use super::workers::Ended;
use crate::errors::CsiError;
use crate::file_system::FileSystem;

/// What is on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing that is known.
    Nothing,
    /// One of our file systems.
    FileSystem(FileSystem),
    /// Something else, such as "btrfs" or "a partition table (gpt)".
    Other(String),
}

/// What is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file system is made, and mounted.
    Format,
    /// It is checked, and mounted.
    Check,
    /// It is mounted.
    Mount,
}

/// Of what `blkid -p -o export` has said.
///
/// # Errors
/// It has failed.
pub fn found(ended: &Ended) -> Result<Found, CsiError> {
    match ended.code {
        0 => Ok(of_pairs(&ended.printed)),
        2 if ended.said.is_empty() => Ok(Found::Nothing),
        8 => Ok(Found::Other("several things at once (blkid: ambivalent result)".to_owned())),
        code => {
            let said = &ended.said;
            let message = format!("cannot find out what is there: blkid ended with {code}: {said}");
            Err(CsiError::internal(message))
        }
    }
}

fn of_pairs(printed: &str) -> Found {
    let value = |wanted: &str| {
        let pairs = printed.lines().filter_map(|line| line.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == wanted).map(|(_, value)| value)
    };
    match (value("TYPE"), value("USAGE"), value("PTTYPE")) {
        (_, _, Some(table)) => Found::Other(format!("a partition table ({table})")),
        (Some(kind), Some("filesystem"), None) => FileSystem::ALL
            .into_iter()
            .find(|known| known.name() == kind)
            .map_or_else(|| Found::Other(format!("a file system ({kind})")), Found::FileSystem),
        (Some(kind), usage, None) => {
            Found::Other(format!("{kind} ({})", usage.unwrap_or("of no known use")))
        }
        // It has said that there is something, and not what.
        (None, _, None) => Found::Other(format!("something ({})", said(printed.as_bytes()))),
    }
}

/// What is done with a volume of this content, on whose device this was found.
///
/// # Errors
/// It is refused.
pub fn step(
    content: Content,
    found: &Found,
    wanted: FileSystem,
    writing: Writing,
) -> Result<Step, CsiError> {
    match (content, found, writing) {
        (Content::Blank, Found::Other(_) | Found::FileSystem(_), _) => {
            let message = format!(
                "the volume was never written to, and there is {} on its device: nothing is \
                 formatted; see 'lunar explain volume'",
                name(found)
            );
            Err(CsiError::internal(message))
        }
        (Content::Blank | Content::Formatting, _, Writing::Forbidden) => {
            let why = "stage it once to be written to";
            Err(CsiError::precondition(format!("the volume has no file system yet: {why}")))
        }
        (Content::Blank | Content::Formatting, _, Writing::Allowed) => Ok(Step::Format),
        (Content::Used, Found::FileSystem(kind), _) if *kind == wanted => {
            Ok(match (kind, writing) {
                (FileSystem::Ext4, Writing::Allowed) => Step::Check,
                _ => Step::Mount,
            })
        }
        (Content::Used, Found::Nothing, _) => Err(CsiError::data_loss(format!(
            "the volume is in use since it was first staged, and nothing is found on it: its \
             {wanted} is damaged and nothing is formatted. Make a volume of one of its snapshots \
             ('lunar snapshot list'), or attach it by hand and repair it ({})",
            repair(wanted)
        ))),
        (Content::Used, found, _) => Err(CsiError::precondition(format!(
            "the volume was asked for as {wanted}, and has {} on it: ask for that, or use it as a \
             raw block volume",
            name(found)
        ))),
    }
}

const fn repair(kind: FileSystem) -> &'static str {
    match kind {
        FileSystem::Ext4 => "e2fsck -b 32768",
        FileSystem::Xfs => "xfs_repair",
    }
}

fn name(found: &Found) -> String {
    match found {
        Found::Nothing => "nothing".to_owned(),
        Found::FileSystem(kind) => format!("a file system ({kind})"),
        Found::Other(what) => what.clone(),
    }
}

/// Whether an ext4 may be mounted, of what `e2fsck -p` has said.
///
/// # Errors
/// It may not.
pub fn checked(ended: &Ended) -> Result<(), CsiError> {
    /// Bits of its exit code: errors are left, and it could not work at all.
    const LEFT: i32 = 4;
    const NOT_DONE: i32 = 8;
    let Ended { code, said, .. } = ended;
    match *code {
        // Nothing was wrong, or it was put right.
        0 | 1 => Ok(()),
        code if code & LEFT != 0 && code & NOT_DONE == 0 => Err(CsiError::data_loss(format!(
            "the ext4 of the volume has errors that nobody but you may put right: {said}. Attach \
             the volume by hand and run e2fsck, or make a volume of one of its snapshots"
        ))),
        code => Err(CsiError::internal(format!("e2fsck has ended with {code}: {said}"))),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn ended(code: i32, printed: &str, said: &str) -> Ended {
        Ended { code, printed: printed.to_owned(), said: said.to_owned() }
    }

    #[test]
    fn every_content_with_everything_that_is_found_has_its_step() {
        use Content::{Blank, Formatting, Used};
        use FileSystem::{Ext4, Xfs};
        let nothing = Found::Nothing;
        let other = Found::Other("LVM2_member (raid)".to_owned());
        let (ext4, xfs) = (Found::FileSystem(Ext4), Found::FileSystem(Xfs));
        let mut rows = 0;
        for content in [Blank, Formatting, Used] {
            for there in [&nothing, &other, &ext4, &xfs] {
                for wanted in [Ext4, Xfs] {
                    for writing in [Writing::Allowed, Writing::Forbidden] {
                        let is_wanted = *there == Found::FileSystem(wanted);
                        let expected = match (content, writing) {
                            (Blank, _) if *there != nothing => Err(Code::Internal),
                            (Blank | Formatting, Writing::Allowed) => Ok(Step::Format),
                            (Blank | Formatting, Writing::Forbidden) => {
                                Err(Code::FailedPrecondition)
                            }
                            (Used, _) if *there == nothing => Err(Code::DataLoss),
                            (Used, _) if !is_wanted => Err(Code::FailedPrecondition),
                            (Used, Writing::Allowed) if wanted == Ext4 => Ok(Step::Check),
                            (Used, _) => Ok(Step::Mount),
                        };
                        let done = step(content, there, wanted, writing);
                        let row = format!("{content:?} {there:?} {wanted} {writing:?}");
                        assert_eq!(done.map_err(|error| error.code), expected, "{row}");
                        rows += 1;
                    }
                }
            }
        }
        assert_eq!(rows, 48);
    }

    #[test]
    fn nothing_that_was_ever_used_is_formatted() {
        for there in
            [Found::Nothing, Found::Other("x".to_owned()), Found::FileSystem(FileSystem::Xfs)]
        {
            for writing in [Writing::Allowed, Writing::Forbidden] {
                let done = step(Content::Used, &there, FileSystem::Ext4, writing);
                assert_ne!(done, Ok(Step::Format), "{there:?}");
            }
        }
    }

    #[test]
    fn what_blkid_says_is_told_apart() {
        let other = |what: &str| Ok(Found::Other(what.to_owned()));
        for (code, printed, expected) in [
            (2, "", Ok(Found::Nothing)),
            (0, "TYPE=ext4\nUSAGE=filesystem\n", Ok(Found::FileSystem(FileSystem::Ext4))),
            (0, "USAGE=filesystem\nTYPE=xfs\n", Ok(Found::FileSystem(FileSystem::Xfs))),
            (0, "TYPE=ext3\nUSAGE=filesystem\n", other("a file system (ext3)")),
            (0, "TYPE=LVM2_member\nUSAGE=raid\n", other("LVM2_member (raid)")),
            (0, "TYPE=crypto_LUKS\nUSAGE=crypto\n", other("crypto_LUKS (crypto)")),
            (0, "PTTYPE=gpt\n", other("a partition table (gpt)")),
            (0, "TYPE=xfs\nUSAGE=filesystem\nPTTYPE=dos\n", other("a partition table (dos)")),
            (0, "LABEL=TYPE=xfs\n", other("something (LABEL=TYPE=xfs)")),
            (0, "", other("something ()")),
        ] {
            assert_eq!(found(&ended(code, printed, "")), expected, "{code} {printed}");
        }
        assert!(matches!(found(&ended(8, "", "ambivalent")), Ok(Found::Other(_))));
    }

    #[test]
    fn a_blkid_that_failed_has_not_found_nothing() {
        for (code, said) in [(2, "error: /dev/x: Input/output error"), (4, ""), (1, ""), (127, "")]
        {
            let error = found(&ended(code, "", said)).expect_err("it is an error");
            assert_eq!(error.code, Code::Internal, "{code} {said}");
        }
    }

    #[test]
    fn only_a_clean_or_repaired_ext4_is_mounted() {
        for code in 0..=255 {
            let expected = match code {
                0 | 1 => None,
                code if code & 4 != 0 && code & 8 == 0 => Some(Code::DataLoss),
                _ => Some(Code::Internal),
            };
            let done = checked(&ended(code, "", "UNEXPECTED INCONSISTENCY"));
            assert_eq!(done.map_err(|error| error.code).err(), expected, "{code}");
        }
    }
}
