//! Volumes of Kubernetes, asked for as kubelet and the sidecars ask: ext4, xfs and raw block
//! outlive the driver, fs-core and the metadata service under verified loads, grow under their
//! users, and are there when kubelet asks again after a power cut.

mod support;

use std::time::Duration;

use lunar_e2e::csi::{Drivers, KUBELET, prepare};
use lunar_e2e::machine::{MachineError, require};
use lunar_e2e::product::Product;
use lunar_e2e::session::Session;
use lunar_lab::{Lab, LunSpec};
use serde_json::Value;
use support::fio::Fio;
use support::{GIB, lab, make_pool, must, product, say, session};

const LIMIT: Duration = Duration::from_secs(120);
/// Of the volume whose staging is timed.
const TIMED_BYTES: u64 = 10 * GIB;
const CLAIMS: [(&str, &str); 3] =
    [("pvc-ext4", "ext4"), ("pvc-xfs", "xfs"), ("pvc-block", "block")];

/// A walk of the fake kubelet; gives what it told.
fn kubelet(session: &Session<'_>, arguments: &str) -> Result<Value, MachineError> {
    let text = session.quiet(&format!("fake-kubelet {arguments}"))?;
    let problem = |error| MachineError::Unexpected(format!("fake-kubelet {arguments}: {error}"));
    if text.trim().is_empty() {
        Ok(Value::Null)
    } else {
        serde_json::from_str(&text).map_err(problem)
    }
}

/// Has a claim here; gives where the pod has it.
fn up(session: &Session<'_>, claim: &str, kind: &str) -> Result<String, MachineError> {
    let told = kubelet(session, &format!("up {claim} --kind {kind}"))?;
    target_of(&told)
}

fn target_of(told: &Value) -> Result<String, MachineError> {
    let target = told.get("target").and_then(Value::as_str).map(str::to_owned);
    target.ok_or_else(|| MachineError::Unexpected(format!("no target in {told}")))
}

/// What a load writes to at a target.
fn file_at(kind: &str, target: &str) -> String {
    if kind == "block" { target.to_owned() } else { format!("{target}/load") }
}

/// Nothing of the driver's is mounted and no volume is attached.
fn require_nothing_left(session: &Session<'_>) -> Result<(), MachineError> {
    let mounts = session.quiet(&format!("grep -c '{KUBELET}/' /proc/self/mountinfo || true"))?;
    require(mounts.trim() == "0", || format!("{} mounts are left", mounts.trim()))?;
    let volumes = session.json("volume list")?.to_string();
    require(!volumes.contains("\"holder\":{"), || format!("a volume is attached: {volumes}"))?;
    require(!volumes.contains("publication_id"), || format!("a volume is published: {volumes}"))?;
    session.quiet("lunar fsck").map(drop)
}

fn outlive_everything(
    lab: &Lab,
    session: &Session<'_>,
    daemons: &mut Product<'_>,
    drivers: &mut Drivers<'_>,
) -> Result<(), MachineError> {
    let mut loads = Vec::new();
    for (claim, kind) in CLAIMS {
        let target = up(session, claim, kind)?;
        let again = up(session, claim, kind)?;
        require(again == target, || format!("{claim} is at {again} the second time"))?;
        loads.push(Fio::start(lab.node(0), &file_at(kind, &target), &["--thinktime=20ms"]));
    }
    let must_run = |loads: &[Fio]| loads.iter().for_each(Fio::must_run);
    drivers.kill_node()?;
    must_run(&loads);
    drivers.start_node()?;
    for (claim, _) in CLAIMS {
        kubelet(session, &format!("again {claim}"))?;
    }
    daemons.kill_fs_core()?;
    daemons.start_fs_core()?;
    for (claim, _) in CLAIMS {
        kubelet(session, &format!("again {claim}"))?;
    }
    must_run(&loads);
    daemons.kill_metadata()?;
    drivers.kill_controller()?;
    daemons.start_metadata()?;
    drivers.start_controller()?;
    for (claim, _) in CLAIMS {
        kubelet(session, &format!("again {claim}"))?;
    }
    // Each has to get on after the last kill, not only to be there.
    session.quiet("sleep 5")?;
    must_run(&loads);
    for load in loads {
        load.stop(LIMIT);
    }
    say("ext4, xfs and raw block went on while driver, fs-core and service were killed: 0 errors");
    Ok(())
}

/// A volume that grows under its user, its statistics, and a node that comes back from a power cut.
fn grow(session: &Session<'_>) -> Result<(), MachineError> {
    for (claim, kind) in CLAIMS {
        let before = total_bytes(&kubelet(session, &format!("stats {claim}"))?);
        kubelet(session, &format!("grow {claim} --bytes {}", 2 * GIB))?;
        let after = total_bytes(&kubelet(session, &format!("stats {claim}"))?);
        require(after > before + GIB / 2, || format!("{kind}: {before} bytes, then {after}"))?;
    }
    Ok(())
}

fn total_bytes(stats: &Value) -> u64 {
    stats.pointer("/usage/0/total").and_then(Value::as_u64).unwrap_or_default()
}

fn mark(session: &Session<'_>, kind: &str, target: &str) -> Result<(), MachineError> {
    match kind {
        "block" => session.quiet(&format!(
            "echo mark-of-block | dd of={target} bs=4096 conv=sync,notrunc,fsync status=none"
        )),
        _ => session.quiet(&format!("echo mark-of-{kind} > {target}/mark && sync {target}/mark")),
    }
    .map(drop)
}

fn require_mark(session: &Session<'_>, kind: &str, target: &str) -> Result<(), MachineError> {
    let read = match kind {
        "block" => session.quiet(&format!("head -c 13 {target}"))?,
        _ => session.quiet(&format!("cat {target}/mark"))?,
    };
    let expected = format!("mark-of-{kind}");
    require(read.trim() == expected, || format!("{kind} shows '{}'", read.trim()))
}

#[test]
fn volumes_of_pods_outlive_driver_daemons_and_power() {
    let lab = lab([LunSpec::new(8 * GIB), LunSpec::new(8 * GIB).write_cache(true)]);
    let mut daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, make_pool(&session, &lab));
    let mut drivers = Drivers::start(lab.node(0)).unwrap_or_else(|error| panic!("{error}"));
    let done = outlive_everything(&lab, &session, &mut daemons, &mut drivers)
        .and_then(|()| grow(&session))
        .and_then(|()| {
            CLAIMS
                .iter()
                .try_for_each(|(claim, kind)| mark(&session, kind, &up(&session, claim, kind)?))
        });
    must_with(&daemons, &drivers, done);

    daemons.power_lost();
    drivers.power_lost();
    lab.node(0).cut().expect("the power is cut");
    lab.node(0).boot().expect("the machine boots");
    lab.node(0).exec_ok(&["modprobe", "ublk_drv"]).expect("the lab's kernel has ublk");
    let daemons = product(&lab);
    prepare(lab.node(0)).expect("kubelet has its directory");
    let drivers = Drivers::start(lab.node(0)).unwrap_or_else(|error| panic!("{error}"));
    // What kubelet kept is on the disk of the machine that a cut throws away: a claim of the same
    // name is the same volume.
    let done = CLAIMS
        .iter()
        .try_for_each(|(claim, kind)| {
            let target = up(&session, claim, kind)?;
            require_mark(&session, kind, &target)
        })
        .and_then(|()| {
            CLAIMS.iter().try_for_each(|(claim, _)| {
                kubelet(&session, &format!("down {claim} --delete")).map(drop)
            })
        })
        .and_then(|()| require_nothing_left(&session))
        .and_then(|()| time_of_staging(&session));
    must_with(&daemons, &drivers, done);
    lab.down();
}

/// From NodeStage to mounted, of a volume that is formatted then and of one that was before.
fn time_of_staging(session: &Session<'_>) -> Result<(), MachineError> {
    let ask = format!("up timed --kind ext4 --bytes {TIMED_BYTES}");
    let first = kubelet(session, &ask)?;
    let bare = kubelet(session, "down timed").and_then(|_| kubelet(session, &ask))?;
    let milliseconds = |told: &Value| told.get("stage_ms").and_then(Value::as_u64);
    let (Some(first), Some(then)) = (milliseconds(&first), milliseconds(&bare)) else {
        return Err(MachineError::Unexpected(format!("no time in {first} or {bare}")));
    };
    say(&format!("10 GiB ext4: NodeStage took {first} ms with mkfs, {then} ms without"));
    kubelet(session, "down timed --delete").map(drop)
}

fn must_with(product: &Product<'_>, drivers: &Drivers<'_>, done: Result<(), MachineError>) {
    if let Err(error) = done {
        panic!("{error}\n{}\n{}", drivers.logs(), product.logs());
    }
}
