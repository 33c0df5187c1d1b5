//! Loop devices as what serves volumes: files that go away with the test.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{major, minor};

/// A loop device over a sparse file.
pub(crate) struct Loop {
    pub(crate) device: String,
    pub(crate) number: (u32, u32),
    file: PathBuf,
}

fn losetup(arguments: &[&str]) -> String {
    let done = Command::new("losetup").args(arguments).output();
    let done = done.expect("losetup of util-linux is installed");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "losetup {arguments:?} (needs root): {said}");
    String::from_utf8(done.stdout).expect("text").trim().to_owned()
}

impl Loop {
    pub(crate) fn new(folder: &Path, name: &str, bytes: u64) -> Self {
        let file = folder.join(name);
        File::create(&file).and_then(|made| made.set_len(bytes)).expect("a sparse file");
        let device = losetup(&["--find", "--show", &file.display().to_string()]);
        let number = std::fs::metadata(&device).expect("the device").rdev();
        Self { device, number: (major(number), minor(number)), file }
    }

    /// The same device once more, for an answer that is to be forged.
    pub(crate) fn clone_of(other: &Self) -> Self {
        let Self { device, number, file } = other;
        Self { device: device.clone(), number: *number, file: file.clone() }
    }

    /// Gives the device another size.
    pub(crate) fn resize(&self, bytes: u64) {
        self.resize_file(bytes);
        losetup(&["--set-capacity", &self.device]);
    }

    /// Takes the file away from beneath the device: whatever is read or written is EIO.
    pub(crate) fn break_it(&self) {
        self.resize_file(0);
    }

    pub(crate) fn resize_file(&self, bytes: u64) {
        let file = OpenOptions::new().write(true).open(&self.file).expect("the file");
        file.set_len(bytes).expect("its length");
    }

    /// Bytes of the file that are there.
    pub(crate) fn allocated(&self) -> u64 {
        self.file.metadata().expect("the file").blocks() * 512
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let device = OpenOptions::new().write(true).open(&self.device).expect("the device");
        device.write_all_at(bytes, offset).expect("written");
        device.sync_all().expect("durable");
    }

    pub(crate) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let file = File::open(&self.file).expect("the file");
        file.read_exact_at(&mut bytes, offset).expect("read");
        bytes
    }

    /// Whether it is mounted or otherwise somebody's alone.
    pub(crate) fn is_claimed(&self) -> bool {
        let exclusive = rustix::fs::OFlags::EXCL.bits() as i32;
        OpenOptions::new().read(true).custom_flags(exclusive).open(&self.device).is_err()
    }

    pub(crate) fn run(&self, program: &str, arguments: &[&str]) {
        let done = Command::new(program).args(arguments).arg(&self.device).output();
        let done = done.unwrap_or_else(|error| panic!("{program} is not installed: {error}"));
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{program}: {said}");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // One that is still mounted goes when the namespace of the test does.
        let _ = Command::new("losetup").args(["--detach", &self.device]).output();
    }
}
