//! fio as a load that verifies what it has written.

use std::time::Duration;

use lunar_lab::{Job, Node, Signal};

/// fio, which writes at random, reads back and verifies until it is told to stop.
pub(crate) struct Fio {
    job: Job,
}

impl Fio {
    /// Starts it on a device or file, with further options.
    pub(crate) fn start(node: &Node, file: &str, options: &[&str]) -> Self {
        let file = format!("--filename={file}");
        let mut words = vec![
            "fio",
            "--name=load",
            &file,
            "--direct=1",
            "--ioengine=libaio",
            "--bs=4k-64k",
            "--rw=randwrite",
            "--iodepth=8",
            "--size=64M",
            "--fsync=64",
            "--verify=crc32c",
            "--verify_backlog=256",
            "--verify_fatal=1",
            "--time_based",
            "--runtime=3000",
            "--verify_state_save=0",
        ];
        words.extend(options);
        Self { job: node.spawn(&words).expect("fio starts") }
    }

    /// Whether it goes on: it ends by itself only when something is wrong.
    pub(crate) fn is_running(&self) -> bool {
        self.job.is_running()
    }

    /// Fails with what it said if it has ended.
    pub(crate) fn must_run(&self) {
        let job = &self.job;
        assert!(job.is_running(), "fio has ended:\n{}{}", job.stdout(), job.stderr());
    }

    /// Has it end, and fails if it met an error or a mismatch.
    pub(crate) fn stop(self, limit: Duration) {
        self.job.kill(Signal::SIGINT).expect("fio is running");
        self.job.wait(limit).expect("fio ends");
        let output = format!("{}{}", self.job.stdout(), self.job.stderr());
        assert!(output.contains("err= 0"), "fio reported an error:\n{output}");
        assert!(!output.contains("verify:"), "fio found a mismatch:\n{output}");
    }
}
