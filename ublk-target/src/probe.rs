//! What the kernel and the host offer, for `lunar doctor`.

use std::fs;

use lunar_proto::v1;

use crate::lun::inspect::with_causes;
use crate::process::{ProcessFacts, kernel_release};
use crate::state::StateDir;
use crate::sys;
use crate::ublk::{Control, UblkError, features};

fn ublk_features() -> Result<u64, UblkError> {
    Control::open()?.features()
}

/// Whether this process has left the mount namespace of process 1.
fn has_own_mount_namespace() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    namespace("self").is_some_and(|own| Some(own) != namespace("1"))
}

/// Looks at kernel, driver and process.
#[must_use]
pub fn probe(process: &ProcessFacts, state: &StateDir) -> v1::ProbeResponse {
    let features = ublk_features();
    let bits = *features.as_ref().unwrap_or(&0);
    let names = |bits: u64| features::names(bits).into_iter().map(str::to_owned).collect();
    v1::ProbeResponse {
        kernel_release: kernel_release(),
        ublk_present: features.is_ok(),
        ublk_problem: features.as_ref().err().map(|error| with_causes(error)).unwrap_or_default(),
        ublk_features: bits,
        ublk_feature_names: names(bits),
        ublk_missing: names(features::missing(bits)),
        memory_locked: process.memory_lock_problem.is_none(),
        memory_lock_problem: process.memory_lock_problem.clone().unwrap_or_default(),
        io_flusher: sys::is_io_flusher().unwrap_or(false),
        oom_score_adj: process.oom_score_adj,
        own_mount_namespace: has_own_mount_namespace(),
        state_file_system: state.file_system(),
    }
}
