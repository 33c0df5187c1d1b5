//! Commands in a machine: streams, exit codes, limits, files, jobs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use lunar_lab::{Lab, LabError, NodeState, Outcome, Signal};
use std::time::Duration;
use support::{LIMIT, lab};

/// One machine serves the whole file; the claims do not disturb each other.
#[test]
fn commands_behave_as_on_the_host() {
    let lab = lab().start().unwrap();
    streams_and_codes_are_kept_apart(&lab);
    input_of_any_size_arrives_unchanged(&lab);
    a_limit_ends_the_whole_process_group(&lab);
    a_daemon_left_behind_does_not_hold_its_command(&lab);
    commands_run_side_by_side(&lab);
    files_go_in_and_come_back(&lab);
    jobs_are_followed_signalled_and_waited_for(&lab);
    the_machine_is_set_up(&lab);
    lab.down();
}

fn streams_and_codes_are_kept_apart(lab: &Lab) {
    let node = lab.node(0);
    let output = node.exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]).unwrap();
    assert_eq!(output.code(), Some(3));
    assert_eq!((output.stdout_text().as_str(), output.stderr_text().as_str()), ("out\n", "err\n"));
    let output = node.exec(&["sh", "-c", "kill -TERM $$"]).unwrap();
    assert_eq!(output.outcome, Outcome::Signaled(15));
    let output = node.exec(&["/no/such/program"]).unwrap();
    assert!(matches!(output.outcome, Outcome::Failed(why) if why.contains("/no/such/program")));
    let error = node.exec_ok(&["sh", "-c", "echo why >&2; false"]).unwrap_err();
    assert!(matches!(&error, LabError::CommandFailed { stderr, .. } if stderr == "why\n"));
    assert!(node.sh("false | true").is_err(), "a failed part of a pipe fails the script");
    let output = node.command(&["sh", "-c", "echo $A; pwd"]).env("A", "b c").cwd("/usr").run_ok();
    assert_eq!(output.unwrap().stdout_text(), "b c\n/usr\n");
}

fn input_of_any_size_arrives_unchanged(lab: &Lab) {
    let node = lab.node(0);
    assert_eq!(node.command(&["cat"]).stdin("").run_ok().unwrap().stdout, b"");
    let bytes: Vec<u8> =
        (0..3_000_017_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let output = node.command(&["cat"]).stdin(bytes.clone()).run_ok().unwrap();
    assert!(output.stdout == bytes, "3 MB come back as they went in");
    // A command that does not read must not block the channel for the others.
    let output = node.command(&["true"]).stdin(bytes).run_ok().unwrap();
    assert!(output.success());
    node.ping().unwrap();
}

fn a_limit_ends_the_whole_process_group(lab: &Lab) {
    let node = lab.node(0);
    let script = "sleep 1234 & echo started; sleep 4321";
    let output = node.command(&["sh", "-c", script]).timeout(Duration::from_secs(1)).run().unwrap();
    assert_eq!(output.outcome, Outcome::TimedOut);
    assert_eq!(output.stdout_text(), "started\n");
    let left = node.exec(&["pgrep", "-x", "sleep"]).unwrap();
    assert_eq!(left.code(), Some(1), "still there: {}", left.stdout_text());
}

fn a_daemon_left_behind_does_not_hold_its_command(lab: &Lab) {
    let node = lab.node(0);
    assert_eq!(node.sh("sleep 1000 & echo $! >/run/left.pid; echo done").unwrap(), "done\n");
    node.sh("kill -0 $(cat /run/left.pid) && kill $(cat /run/left.pid)").unwrap();
}

fn commands_run_side_by_side(lab: &Lab) {
    let node = lab.node(0);
    std::thread::scope(|scope| {
        // Each waits for the file that the next one makes.
        let script = |i: usize| {
            format!(
                "mkdir -p /run/side; touch /run/side/{i}; \
                 until [ $(ls /run/side | wc -l) = 4 ]; do sleep 0.1; done; echo {i}"
            )
        };
        let runs: Vec<_> = (0..4).map(|i| scope.spawn(move || node.sh(&script(i)))).collect();
        for (i, run) in runs.into_iter().enumerate() {
            assert_eq!(run.join().unwrap().unwrap(), format!("{i}\n"));
        }
    });
}

fn files_go_in_and_come_back(lab: &Lab) {
    let node = lab.node(0);
    let content = vec![0xa5; 1_500_000];
    node.write_file("/root/deep/er/file", content.clone(), 0o750).unwrap();
    assert_eq!(node.sh("stat -c '%a %s' /root/deep/er/file").unwrap(), "750 1500000\n");
    assert!(node.read_file("/root/deep/er/file").unwrap() == content);
    node.write_file("/root/deep/er/file", "short", 0o644).unwrap();
    assert_eq!(node.read_file("/root/deep/er/file").unwrap(), b"short");
    assert!(node.read_file("/no/such").unwrap_err().to_string().contains("/no/such"));
    assert!(node.write_file("/proc/x", "y", 0o644).is_err());
}

fn jobs_are_followed_signalled_and_waited_for(lab: &Lab) {
    let node = lab.node(0);
    let job = node.spawn(&["sh", "-c", "echo ready >&2; sleep 1000; echo never"]).unwrap();
    job.wait_for_output("ready", LIMIT).unwrap();
    assert!(job.is_running());
    node.sh(&format!("test -d /proc/{}", job.pid())).unwrap();
    assert!(matches!(job.wait(Duration::from_millis(50)), Err(LabError::NoAnswer { .. })));
    job.kill(Signal::SIGKILL).unwrap();
    assert_eq!(job.wait(LIMIT).unwrap(), Outcome::Signaled(9));
    assert_eq!((job.stdout().as_str(), job.stderr().as_str()), ("", "ready\n"));
    let job = node.spawn(&["sh", "-c", "echo words; exit 4"]).unwrap();
    let error = job.wait_for_output("other words", LIMIT).unwrap_err().to_string();
    assert!(error.contains("it ended before") && error.contains("words"), "{error}");
    assert_eq!(job.wait(LIMIT).unwrap(), Outcome::Exited(4));
    assert!(node.spawn(&["/no/such/program"]).is_err());
}

fn the_machine_is_set_up(lab: &Lab) {
    let node = lab.node(0);
    assert_eq!(node.state(), NodeState::Running);
    assert_eq!(node.sh("hostname").unwrap(), "node0\n");
    assert_eq!(node.sh("ps -o comm= -p 1").unwrap(), "lab-agent\n");
    for directory in ["/run", "/tmp", "/dev/shm", "/dev/pts", "/sys/kernel/config"] {
        node.exec_ok(&["mountpoint", "-q", directory]).unwrap();
    }
    node.sh("mountpoint -q /var/lib/lunar && ping -c1 -W5 127.0.0.1").unwrap();
    assert_eq!(node.sh("echo $DM_DISABLE_UDEV").unwrap(), "1\n");
    assert_eq!(node.sh("nproc").unwrap(), "2\n", "all processors are started");
    // Without a process that reaps orphans they would stay as zombies.
    node.sh("(setsid sh -c 'sleep 0.2 & exit' &) ; sleep 1.5").unwrap();
    assert_eq!(node.sh("ps -eo stat= | grep -c ^Z || true").unwrap(), "0\n");
}
