//! What comes after a crash: a new boot, or a successor on the same one.

use std::time::Duration;

use lunar_types::BootId;

use super::medium::Image;
use super::model::{CrashKind, Observed};
use super::node::{Node, Outcome};
use super::record::{Point, memory_of};
use crate::planted::Planted;

/// Requests after a crash are numbered from here on.
const REQUESTS_AFTER: u128 = 1 << 32;
/// A host that boots anew joins when its former boot has been silent for its lease.
const BOOT_TAKES: Duration = Duration::from_secs(10);
/// The boot on which every sequence runs.
const BOOT_BEFORE: u128 = 1;

/// Recovers, has the service check itself, and reads everything that is there; once more when the
/// service has ended what was under way.
///
/// # Errors
/// When anything of it fails.
pub(super) fn recover(
    point: &Point,
    image: Image,
    kind: CrashKind,
    planted: Option<Planted>,
) -> Outcome<Observed> {
    let mut node = Node::new((image, point.store.clone(), REQUESTS_AFTER), planted, false)?;
    match kind {
        CrashKind::Cut => {
            node.clock.advance(BOOT_TAKES);
            node.join(None)?;
            node.attach()?;
        }
        CrashKind::Kill => {
            node.boot = BootId::from_u128(BOOT_BEFORE);
            let tables = point.tables.iter().map(|(key, words)| (*key, memory_of(words)));
            node.recorder.borrow_mut().tables = tables.collect();
            node.join(Some(point.incarnation.incarnation))?;
            node.resume_or_attach()?;
            if let Some(pending) = point.pending {
                node.request(pending)?;
            }
        }
    }
    node.fsck()?;
    let observed = node.look()?;
    if node.run_operations()? {
        node.fsck()?;
        if node.look()? != observed {
            return Err("what there is changes while the service goes on".to_owned());
        }
    }
    Ok(observed)
}
