//! Whether anything that a former process of this host had under way at LUNs may still be.
//!
//! The kernel gives a block device that was opened with O_EXCL to another who asks so only when
//! the last I/O of the file that had it has ended. So who gets the claim knows that nothing is.
//!
//! Invariant: **not known is no**. Each device of the host keeps the answer from being yes, unless
//! it is known to be harmless:
//! - a device with the label of such a LUN has to give its claim away, and so has each path to the
//!   LUN: a former process may have used another path than we would;
//! - a device whose label cannot be read may be any of these LUNs, or another path to one, and has
//!   to give its claim away too. If it does, its label does not matter;
//! - a device that another one stands on is claimed by that one, so by no process; the one on top
//!   is a device of its own;
//! - a device with another label, or with none, is none of these LUNs: a LUN keeps its label as
//!   long as it is in a pool. A device that is smaller than any LUN is none either;
//! - a LUN that no device of the host shows has lost its device here, and with it the way by which
//!   a former process could write: the kernel ends the requests of a device that it removes. That
//!   is believed only if all devices of the host were looked at and none of them may be the LUN.
//!   To wait for a LUN that a host does not see would keep a node that was cut off from another
//!   one out until its next boot.
//!
//! What this leaves out: regular files, which cannot be claimed, and requests that the kernel has
//! not ended yet when it takes a device from its list. There the lock of the state directory has
//! to do, which is waited for before this is asked.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use lunar_types::LunId;

use super::inspect::{Damage, Inspected, LunState, read_label, with_causes};
use super::inventory::{Search, candidates, distinct_devices, unit_facts};
use super::open::{self, Access, OpenError};
use crate::holders::block_device;

/// Why it is not known that nothing is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The device of such a LUN is claimed.
    Claimed {
        /// The LUN.
        lun: LunId,
        /// The device.
        device: PathBuf,
    },
    /// The device may be such a LUN, and nothing more is known of it.
    Unknown {
        /// The device.
        device: PathBuf,
        /// Why not.
        why: String,
    },
    /// The LUN was not found, and not all devices of the host are known.
    NotFound {
        /// The LUN.
        lun: LunId,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claimed { lun, device } => {
                write!(f, "LUN {lun} ({}) is claimed", device.display())
            }
            Self::Unknown { device, why } => {
                write!(f, "{} may be a LUN, and is not known: {why}", device.display())
            }
            Self::NotFound { lun } => {
                write!(f, "LUN {lun} was not found, and not all devices of this host are known")
            }
        }
    }
}

/// What is known of these LUNs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// Why it is not known that nothing is under way; empty if it is known.
    pub obstacles: Vec<Obstacle>,
    /// LUNs of which it is known that no device of the host is one.
    pub gone: BTreeSet<LunId>,
}

/// Looks at every device for what may be under way at these LUNs. It blocks for as long as a device
/// does not answer, so each is told before it is looked at.
///
/// # Errors
/// When sysfs cannot be read.
pub fn claims(
    search: &Search,
    luns: &BTreeSet<LunId>,
    looking_at: impl FnMut(&Path),
) -> io::Result<Claims> {
    if luns.is_empty() {
        return Ok(Claims::default());
    }
    let devices = candidates(search, Path::new("/sys/class/block"))?;
    let devices = distinct_devices(devices, &search.paths, block_device);
    Ok(Look { search, luns, host: Host::REAL }.at_all(&devices, looking_at))
}

/// What is asked of the host about a device.
#[derive(Clone, Copy)]
struct Host {
    label: fn(&Path) -> Inspected,
    claim: fn(&Path) -> Result<(), OpenError>,
    is_held: fn(&Path) -> bool,
}

impl Host {
    const REAL: Self = Self {
        label: |path| read_label(path, None),
        claim: |path| open::open(path, Access::Claim).map(drop),
        is_held: |path| unit_facts(path, Path::new("/sys/dev/block")).is_held,
    };
}

/// Which LUN a device is.
enum Identity {
    Lun(LunId),
    NoLun,
    Unknown(String),
}

struct Look<'l> {
    search: &'l Search,
    luns: &'l BTreeSet<LunId>,
    host: Host,
}

impl Look<'_> {
    fn at_all(&self, devices: &[PathBuf], mut looking_at: impl FnMut(&Path)) -> Claims {
        let (mut obstacles, mut absent) = (Vec::new(), self.luns.clone());
        for device in devices {
            looking_at(device);
            let identity = self.identify(device);
            if let Identity::Lun(lun) = identity {
                absent.remove(&lun);
            }
            obstacles.extend(self.obstacle_at(device, identity));
        }
        let is_doubtful = |obstacle: &Obstacle| matches!(obstacle, Obstacle::Unknown { .. });
        if self.search.scan && !obstacles.iter().any(is_doubtful) {
            return Claims { obstacles, gone: absent };
        }
        obstacles.extend(absent.into_iter().map(|lun| Obstacle::NotFound { lun }));
        Claims { obstacles, gone: BTreeSet::new() }
    }

    fn identify(&self, device: &Path) -> Identity {
        let found = (self.host.label)(device);
        if let Some(label) = found.label() {
            let is_wanted = self.luns.contains(&label.lun);
            return if is_wanted { Identity::Lun(label.lun) } else { Identity::NoLun };
        }
        match found.state {
            LunState::Unreadable | LunState::Damaged(_)
                if found.state != LunState::Damaged(Damage::TooSmall) =>
            {
                Identity::Unknown(found.problem.unwrap_or_default())
            }
            _ => Identity::NoLun,
        }
    }

    fn obstacle_at(&self, device: &Path, identity: Identity) -> Option<Obstacle> {
        if matches!(identity, Identity::NoLun) || (self.host.is_held)(device) {
            return None;
        }
        let device = device.to_owned();
        let error = match (self.host.claim)(&device) {
            // The size and the block are asked for when the claim has been given.
            Ok(()) | Err(OpenError::Size { .. } | OpenError::LogicalBlock { .. }) => return None,
            Err(error) => error,
        };
        match (identity, error) {
            (Identity::Lun(lun), OpenError::Claimed { .. }) => {
                Some(Obstacle::Claimed { lun, device })
            }
            (Identity::Unknown(why), OpenError::Claimed { .. }) => {
                Some(Obstacle::Unknown { device, why: format!("it is claimed, and {why}") })
            }
            // The name of no device: what the host has is looked at by its own name.
            (_, OpenError::Open { source, .. })
                if source.kind() == io::ErrorKind::NotFound
                    && self.search.paths.contains(&device) =>
            {
                None
            }
            (_, error) => Some(Obstacle::Unknown { device, why: with_causes(&error) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::super::inspect::tests::{OURS, blank, labelled_file};
    use super::*;

    const CLAIMED: fn(&Path) -> Result<(), OpenError> =
        |path| Err(OpenError::Claimed { path: path.to_owned() });
    const OFFLINE: fn(&Path) -> Result<(), OpenError> = |path| {
        let source = io::Error::from_raw_os_error(libc::ENXIO);
        Err(OpenError::Open { path: path.to_owned(), source })
    };

    fn luns(ids: &[u128]) -> BTreeSet<LunId> {
        ids.iter().copied().map(LunId::from_u128).collect()
    }

    fn look(devices: &[&Path], wanted: &[u128], host: Host) -> Claims {
        let search = Search { scan: true, paths: Vec::new() };
        let devices: Vec<PathBuf> = devices.iter().map(|path| (*path).to_owned()).collect();
        let mut told = Vec::new();
        let luns = luns(wanted);
        let look = Look { search: &search, luns: &luns, host };
        let claims = look.at_all(&devices, |device| told.push(device.to_owned()));
        assert_eq!(told, devices, "each is told");
        claims
    }

    #[test]
    fn luns_that_give_their_claim_away_are_no_obstacle() {
        let (one, two) = (labelled_file(OURS, 7), labelled_file(OURS, 8));
        let paths = vec![one.path().to_owned(), two.path().to_owned()];
        let search = Search { scan: false, paths };
        let found = claims(&search, &luns(&[7, 8]), |_| ()).expect("looked at");
        assert_eq!(found, Claims::default());
    }

    #[test]
    fn a_claimed_lun_is_an_obstacle_and_so_is_each_path_to_it() {
        let (one, other) = (labelled_file(OURS, 7), labelled_file(OURS, 7));
        let foreign = labelled_file(OURS, 9);
        let host = Host { claim: CLAIMED, ..Host::REAL };
        let found = look(&[one.path(), other.path(), foreign.path(), blank().path()], &[7], host);
        let lun = LunId::from_u128(7);
        let claimed = |device: &Path| Obstacle::Claimed { lun, device: device.to_owned() };
        assert_eq!(found.obstacles, [claimed(one.path()), claimed(other.path())]);
        assert!(found.obstacles[0].to_string().contains(&lun.to_string()));
    }

    #[test]
    fn a_lun_that_cannot_be_opened_is_an_obstacle_with_its_reason() {
        let file = labelled_file(OURS, 7);
        let host = Host { claim: OFFLINE, ..Host::REAL };
        let found = look(&[file.path()], &[7], host);
        let [obstacle @ Obstacle::Unknown { device, .. }] = &found.obstacles[..] else {
            panic!("{found:?}");
        };
        assert_eq!(device, file.path());
        assert!(obstacle.to_string().contains("No such device"), "{obstacle}");
    }

    #[test]
    fn a_device_whose_label_cannot_be_read_has_to_give_its_claim_away() {
        let (found, lost) = (labelled_file(OURS, 7), labelled_file(OURS, 8));
        lost.as_file().write_all_at(&[0xff; 64], (64 << 10) + 100).expect("damaged");
        // The LUN that is found on one path may be behind the other one too.
        for wanted in [&[7_u128, 8][..], &[7]] {
            let devices = [found.path(), lost.path()];
            assert_eq!(look(&devices, wanted, Host::REAL).obstacles, []);
            let only_lost_is_claimed = Host {
                claim: |path| match read_label(path, None).label() {
                    Some(_) => Ok(()),
                    None => CLAIMED(path),
                },
                ..Host::REAL
            };
            let told = look(&devices, wanted, only_lost_is_claimed);
            let [obstacle @ Obstacle::Unknown { device, .. }, absent @ ..] = &told.obstacles[..]
            else {
                panic!("{told:?}");
            };
            assert_eq!(device, lost.path());
            assert!(obstacle.to_string().contains("label"), "{obstacle}");
            let not_found = wanted[1..].iter().map(|lun| LunId::from_u128(*lun));
            let not_found: Vec<_> = not_found.map(|lun| Obstacle::NotFound { lun }).collect();
            assert_eq!((absent, &told.gone), (&not_found[..], &luns(&[])));
        }
    }

    #[test]
    fn a_device_that_fails_to_be_read_is_an_obstacle_although_every_lun_was_found() {
        let file = labelled_file(OURS, 7);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let found = look(&[file.path(), directory.path()], &[7], Host::REAL);
        assert!(matches!(
            &found.obstacles[..],
            [Obstacle::Unknown { device, .. }] if device == directory.path()
        ));
    }

    #[test]
    fn what_another_device_stands_on_is_claimed_by_that_one() {
        let (below, above) = (labelled_file(OURS, 7), labelled_file(OURS, 7));
        let host = Host { claim: CLAIMED, is_held: |_| true, ..Host::REAL };
        assert_eq!(look(&[below.path(), above.path()], &[7], host), Claims::default());
    }

    #[test]
    fn a_lun_is_gone_when_all_devices_were_looked_at_and_not_known_when_only_some_were() {
        let file = labelled_file(OURS, 7);
        let found = look(&[file.path(), blank().path()], &[7, 8], Host::REAL);
        assert_eq!(found, Claims { obstacles: Vec::new(), gone: luns(&[8]) });
        let removed = file.path().with_extension("removed");
        let search = Search { scan: false, paths: vec![file.path().to_owned(), removed] };
        let found = claims(&search, &luns(&[7, 8]), |_| ()).expect("looked at");
        let lun = LunId::from_u128(8);
        assert_eq!(found.obstacles, [Obstacle::NotFound { lun }], "the other name is of no device");
        assert_eq!(found.gone, luns(&[]));
    }
}
