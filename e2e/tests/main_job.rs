//! The main job: ext4, xfs and raw pass verification; content survives detach, a restart of the
//! daemons, and a reboot of the machine with the volumes attached.

mod support;

use lunar_e2e::main_job;
use lunar_lab::LunSpec;
use support::{GIB, devices, lab, must, product, session};

#[test]
fn main_job() {
    let lab = lab([LunSpec::new(4 * GIB), LunSpec::new(4 * GIB).write_cache(true)]);
    let mut daemons = product(&lab);
    let session = session(&lab);
    must(&daemons, main_job::make_pool(&session, &devices(&lab)));
    must(&daemons, main_job::fill_volumes(&session));
    must(&daemons, main_job::use_snapshots(&session));
    let survived = main_job::survive_restart(&session, &mut daemons);
    must(&daemons, survived);
    must(&daemons, main_job::show_all(&session));

    daemons.power_lost();
    lab.node(0).shut_down().expect("the machine shuts down");
    lab.node(0).boot().expect("the machine boots");
    lab.node(0).exec_ok(&["modprobe", "ublk_drv"]).expect("the lab's kernel has ublk");
    let daemons = product(&lab);
    must(&daemons, main_job::attach_all(&session));
    must(&daemons, main_job::verify_content(&session));
    must(&daemons, main_job::show_all(&session));
    must(&daemons, main_job::detach_all(&session));
    lab.down();
}
