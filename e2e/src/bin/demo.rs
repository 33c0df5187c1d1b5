//! Shows the product at work: the main job with every command before its output, and then, in the
//! lab, a node that loses its power and another that takes its volume over.
//!
//! In a virtual machine of the lab, or on this host with `LUNAR_LAB=host`, on loop files in a
//! temporary folder. Ends with the line `demo: ok`.

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lunar_e2e::cluster::{Cluster, ClusterSpec};
use lunar_e2e::machine::{Host, Machine, MachineError};
use lunar_e2e::main_job;
use lunar_e2e::product::{Places, Product};
use lunar_e2e::session::{Echo, Session};
use lunar_lab::{Lab, LunSpec};

/// Each of the two LUNs: together less than one volume.
const LUN_BYTES: u64 = 4 << 30;

fn say(text: &str) {
    lunar_lab::say(text);
}

fn programs() -> Result<PathBuf, Box<dyn Error>> {
    let own = std::env::current_exe()?;
    Ok(own.parent().unwrap_or_else(|| Path::new(".")).to_owned())
}

fn main_job(machine: &dyn Machine, places: Places, luns: &[String]) -> Result<(), MachineError> {
    let session = Session::new(machine, Echo::On);
    let mut product = Product::start(machine, places)?;
    session.headline("what the host offers");
    session.run("lunar doctor || true")?;
    let done = main_job::make_pool(&session, luns)
        .and_then(|()| main_job::fill_volumes(&session))
        .and_then(|()| main_job::use_snapshots(&session))
        .and_then(|()| main_job::survive_restart(&session, &mut product))
        .and_then(|()| main_job::show_all(&session))
        .and_then(|()| main_job::detach_all(&session));
    if let Err(error) = done {
        return Err(MachineError::Unexpected(format!("{error}\n{}", product.logs())));
    }
    product.stop_fs_core()?;
    product.stop_metadata()
}

fn in_lab() -> Result<(), Box<dyn Error>> {
    say("booting a virtual machine with a kernel that has ublk …");
    let lab = Lab::builder()
        .luns([LunSpec::new(LUN_BYTES), LunSpec::new(LUN_BYTES).write_cache(true)])
        .programs(programs()?)
        .start()?;
    let node = lab.node(0);
    node.exec_ok(&["modprobe", "ublk_drv"])?;
    let luns: Vec<String> = lab.luns().iter().map(lunar_lab::Lun::device).collect();
    main_job(node, Places::default(), &luns)?;
    lab.down();
    lost_node()
}

fn lost_node() -> Result<(), Box<dyn Error>> {
    say("booting two nodes, a target with reservations, and a machine for the metadata …");
    let spec = ClusterSpec { nodes: 2, luns: 2, cpus: 1, paths: 1, programs: programs()? };
    let mut cluster = Cluster::start(&spec)?;
    let mut show = |text: &str| {
        // A reader that went away is no reason to stop.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    };
    show("\n== two nodes over shared LUNs: node 0 loses its power, node 1 takes over");
    Ok(lunar_e2e::lost_node::show(&mut cluster, &mut show)?)
}

fn on_host() -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("lunar-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let host = Host { logs: folder.clone() };
    let ublk = host.sh("test -c /dev/ublk-control || modprobe ublk_drv", main_job_limit())?;
    ublk.expect_code(0).map_err(|error| format!("this host has no ublk: {error}"))?;
    let mut luns = Vec::new();
    for n in 0..2 {
        let path = folder.join(format!("lun{n}.raw"));
        std::fs::File::create(&path)?.set_len(LUN_BYTES)?;
        luns.push(path.display().to_string());
    }
    let store = folder.join("metadata.redb").display().to_string();
    let done = main_job(&host, Places { store, luns: luns.clone(), scan: true }, &luns);
    match done {
        Ok(()) => std::fs::remove_dir_all(&folder)?,
        Err(error) => return Err(format!("{error}\nLUNs and logs: {}", folder.display()).into()),
    }
    Ok(())
}

const fn main_job_limit() -> std::time::Duration {
    lunar_e2e::session::LIMIT
}

fn main() -> ExitCode {
    let is_host = std::env::var("LUNAR_LAB").is_ok_and(|value| value == "host");
    let done = if is_host { on_host() } else { in_lab() };
    match done {
        Ok(()) => {
            // What was shown is no less true if nobody reads this line.
            let _ = writeln!(std::io::stdout().lock(), "demo: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("demo: failed: {error}"));
            ExitCode::FAILURE
        }
    }
}
