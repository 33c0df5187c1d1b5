//! What a person wants to see of a takeover: a node loses its power under load, and the file that
//! it had synced is there on the next one.

use std::time::Duration;

use crate::cluster::Cluster;
use crate::machine::MachineError;
use crate::takeover::make_pool;

const FILL: &str = "mkfs.ext4 -q -E nodiscard $device && mkdir -p /mnt/db && mount $device /mnt/db \
    && head -c 8M /dev/urandom > /mnt/db/kept && sha256sum /mnt/db/kept > /mnt/db/sum \
    && sync -f /mnt/db";
const LOAD: &str = "while head -c 1M /dev/urandom >> /mnt/db/log; do sync /mnt/db/log; done";

/// Shows it on a cluster of two nodes.
///
/// # Errors
/// When a step fails, or the file is not there.
pub fn show(cluster: &mut Cluster, say: &mut dyn FnMut(&str)) -> Result<(), MachineError> {
    let mut run = |cluster: &Cluster, node: usize, command: &str| {
        say(&format!("{}$ {command}", cluster.node(node).name()));
        let shown = cluster.run(node, command)?;
        if !shown.trim().is_empty() {
            say(shown.trim_end());
        }
        Ok::<_, MachineError>(shown)
    };
    make_pool(cluster)?;
    run(cluster, 0, "lunar pool list && lunar node list")?;
    run(cluster, 0, "lunar volume create db --pool tank --size 512MiB > /dev/null")?;
    run(cluster, 0, "lunar volume attach db")?;
    let device = "device=$(ls /dev/ublkb*)";
    run(cluster, 0, &format!("{device}; {FILL}"))?;
    let load = cluster.node(0).script(LOAD).spawn()?;
    std::thread::park_timeout(Duration::from_secs(2));
    cluster.cut(0)?;
    drop(load);
    run(cluster, 1, "lunar explain volume db")?;
    run(cluster, 1, "lunar volume attach db --wait 90")?;
    run(cluster, 1, &format!("{device}; mkdir -p /mnt/db && mount $device /mnt/db"))?;
    run(cluster, 1, "sha256sum --check /mnt/db/sum && ls -l /mnt/db")?;
    run(cluster, 1, "lunar explain volume db && lunar node list")?;
    run(cluster, 1, "umount /mnt/db && lunar volume detach db")?;
    cluster.boot(0)?;
    run(cluster, 0, "lunar node list && lunar fsck").map(drop)
}
