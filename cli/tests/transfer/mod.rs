//! Exports and imports against the real metadata service. The device of every volume that is
//! attached is a file of the test: what is read from it and what is written to it are compared.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::snapshots::{HolderOfV, begin, end, with_volumes};
use super::{GIB, World};
use crate::double;

const BLOCK: usize = 4096;
/// The first blocks of so many extents of 1 MiB differ between the snapshots.
const BLOCKS: u64 = 1000;

/// Volume `v` with snapshot `s`, of which nothing is allocated, and `t`; folders and devices.
struct Exports {
    world: World,
    folder: TempDir,
}

/// What block `n` of snapshot `t` has; every tenth has zeros.
fn block(n: u64) -> Vec<u8> {
    let byte = |at: usize| if n.is_multiple_of(10) { 0 } else { (n as usize * 7 + at / 64) as u8 };
    (0..BLOCK).map(byte).collect()
}

impl Exports {
    fn start() -> Self {
        let world = with_volumes(&["v"]);
        world.json("snapshot create v s");
        let holder = HolderOfV::of(&world);
        assert_eq!(holder.write() as u64, BLOCKS);
        holder.detach();
        world.json("snapshot create v t");
        let exports = Self { world, folder: tempfile::tempdir().expect("a folder") };
        let device = exports.new_device("t.device");
        for n in 0..BLOCKS {
            device.write_all_at(&block(n), n << 20).expect("written");
        }
        exports
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A device of zeros that every volume has from now on.
    fn new_device(&self, name: &str) -> File {
        let path = self.path(name);
        let mut options = OpenOptions::new();
        let file = options.create_new(true).read(true).write(true).open(&path).expect("a file");
        file.set_len(GIB).expect("its length");
        self.use_device(name);
        file
    }

    fn use_device(&self, name: &str) {
        let device = self.path(name).display().to_string();
        *self.world.script.device.lock().expect("no test panics with the lock") = device;
    }

    /// The words of a line with the folder in the place of `@`.
    fn line(&self, line: &str) -> String {
        line.replace('@', &format!("{}/", self.folder.path().display()))
    }

    fn json(&self, line: &str) -> Value {
        self.world.json(&self.line(line))
    }

    fn refused(&self, line: &str, code: i32) -> String {
        self.world.refused(&self.line(line), code)
    }

    /// No volume, attachment or snapshot of a command is left when all deletions have ended.
    fn assert_nothing_left(&self) {
        let working = |_: &u32| {
            let operations = self.world.json("operation list");
            operations["operations"].as_array().is_some_and(|list| !list.is_empty())
        };
        // Each look takes some milliseconds.
        assert!((0..1000).take_while(working).count() < 1000, "a deletion does not end");
        let attached = self.world.script.attached.lock().expect("no test panics with the lock");
        assert!(attached.is_empty(), "{attached:?}");
        for list in [self.world.json("volume list"), self.world.json("snapshot list")] {
            let text = list.to_string();
            for own in ["export-7-", "import-7-", "import-undo-", "import-check-"] {
                assert!(!text.contains(own), "{text}");
            }
        }
        assert_eq!(self.world.json("fsck")["summary"]["findings"], 0);
    }
}

fn assert_is_t(path: &Path) {
    let file = File::open(path).expect("opens");
    assert_eq!(file.metadata().expect("its length").len(), GIB);
    let (mut found, zeros) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for n in 0..1024 {
        file.read_exact_at(&mut found, n << 20).expect("read");
        let expected = if n < BLOCKS { block(n) } else { vec![0; BLOCK] };
        assert!(found[..BLOCK] == expected, "block {n} of {}", path.display());
        assert!(found[BLOCK..] == zeros[BLOCK..], "behind block {n} of {}", path.display());
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_snapshot_comes_back_the_same_from_every_format() {
    let exports = Exports::start();
    let id = exports.json("snapshot show t")["snapshot_id"].clone();
    for (n, format) in ["raw", "qcow2", "stream"].into_iter().enumerate() {
        exports.use_device("t.device");
        let made = exports.json(&format!("snapshot export t --format {format} --to @t.{format}"));
        assert_eq!((&made["snapshot_id"], &made["size_bytes"]), (&id, &GIB.into()), "{made}");
        assert_eq!((&made["format"], &made["resumed_bytes"]), (&format.into(), &0.into()));
        let checked = exports.json(&format!("snapshot verify @t.{format}"));
        assert_eq!((&checked["crc32c"], &checked["format"]), (&made["crc32c"], &format.into()));
        assert_eq!(checked["data_bytes"], made["data_bytes"]);

        exports.new_device(&format!("{format}.device"));
        let line = format!("snapshot import @t.{format} from-{format} --pool tank");
        let imported = exports.json(&line);
        assert_eq!(imported["name"], format!("from-{format}"));
        assert_eq!(imported["size_bytes"], GIB);
        let marker = imported["marker"].as_str().expect("a marker");
        assert!(marker.starts_with(&format!("import-{}-", id.as_str().expect("an id"))));
        assert_is_t(&exports.path(&format!("{format}.device")));
        let again = exports.refused(&line, 4);
        assert!(again.contains("is there already"), "{again}");
        assert!(!exports.path(&format!("t.{format}.partial")).exists());
        assert_eq!(
            exports.json("snapshot list")["snapshots"].as_array().map(Vec::len),
            Some(n + 3)
        );
    }
    assert_is_t(&exports.path("t.raw"));
    let allocated = exports.path("t.raw").metadata().expect("is there").blocks() * 512;
    assert!(allocated < 64 << 20, "{allocated} B are allocated of a sparse file");
    exports.assert_nothing_left();
}

#[test]
fn what_changed_is_exported_and_imported_onto_the_base() {
    let exports = Exports::start();
    exports.json("snapshot export s --format raw --to @s.raw");
    exports.json("snapshot export s --format qcow2 --to @s.qcow2");
    for (format, under) in
        [("raw", "--base-file @s.raw"), ("qcow2", "--base-file @s.qcow2"), ("stream", "")]
    {
        let line = format!("snapshot export t --base s --format {format} {under} --to @t.{format}");
        let made = exports.json(&line);
        // A raw file has all of it, whatever it was made from.
        assert_eq!(made["base_snapshot_id"].is_null(), format == "raw", "{made}");
    }
    assert_is_t(&exports.path("t.raw"));
    let whole = exports.refused("snapshot import @t.stream w --pool tank", 4);
    assert!(whole.contains("--onto"), "{whole}");
    for format in ["qcow2", "stream"] {
        exports.new_device(&format!("{format}.device"));
        exports.json(&format!("snapshot import @s.{} w-{format} --pool tank", "raw"));
        let line = format!("snapshot import @t.{format} --onto w-{format}");
        let brought = exports.json(&line);
        assert_eq!(brought["name"], format!("w-{format}"));
        assert_is_t(&exports.path(&format!("{format}.device")));
    }
    exports.assert_nothing_left();
}

#[test]
fn a_volume_that_is_not_as_the_base_is_left_alone() {
    let exports = Exports::start();
    exports.json("snapshot export t --base s --format stream --to @t.stream");
    exports.new_device("v.device");
    // v was written since s; w never stood on it.
    let written = exports.refused("snapshot import @t.stream --onto v", 4);
    assert!(written.contains("was written since snapshot 's'"), "{written}");
    exports.json("volume create w --pool tank --size 1GiB");
    let other = exports.refused("snapshot import @t.stream --onto w", 4);
    assert!(other.contains("does not stand on snapshot"), "{other}");
    exports.json("volume create small --pool tank --size 2GiB");
    let larger = exports.refused("snapshot import @t.stream --onto small", 4);
    assert!(larger.contains("2147483648 B"), "{larger}");
    assert_eq!(exports.path("v.device").metadata().expect("is there").blocks(), 0);
    exports.assert_nothing_left();
    // v as it was at s is as the base.
    exports.json("volume rollback v s");
    exports.json("snapshot import @t.stream --onto v");
    assert_is_t(&exports.path("v.device"));
    exports.assert_nothing_left();
}

#[test]
fn an_export_that_was_broken_off_is_gone_on_with() {
    let exports = Exports::start();
    for format in ["raw", "qcow2", "stream"] {
        let line = format!("snapshot export t --format {format} --to @t.{format}");
        let whole = exports.json(&line);
        // As a kill leaves it: not renamed, and without what comes last.
        let (path, partial) =
            (exports.path(&format!("t.{format}")), exports.path(&format!("t.{format}.partial")));
        fs::rename(&path, &partial).expect("renamed");
        let cut = match format {
            "stream" => partial.clone(),
            _ => exports.path(&format!("t.{format}.lunar")),
        };
        let length = cut.metadata().expect("is there").len();
        let file = OpenOptions::new().write(true).open(&cut).expect("opens");
        file.set_len(length / 2 + 33).expect("cut");
        let refused = exports.refused(&line, 4);
        assert!(refused.contains("--resume"), "{refused}");
        let done = exports.json(&format!("{line} --resume"));
        let number = |value: &Value, field: &str| value[field].as_u64().expect("a number");
        let resumed = number(&done, "resumed_bytes");
        assert!(resumed > 0 && resumed < number(&whole, "data_bytes"), "{done}");
        for field in ["crc32c", "data_bytes"] {
            assert_eq!(done[field], whole[field], "{format}");
        }
        exports.json(&format!("snapshot verify @t.{format}"));
        let there = exports.refused(&format!("{line} --resume"), 4);
        assert!(there.contains("is there already"), "{there}");
    }
    assert_is_t(&exports.path("t.raw"));
    exports.assert_nothing_left();
}

#[test]
fn a_partial_file_of_another_export_is_left_alone() {
    let exports = Exports::start();
    exports.json("snapshot export t --format raw --to @t.raw");
    fs::rename(exports.path("t.raw"), exports.path("t.raw.partial")).expect("renamed");
    let before = fs::read(exports.path("t.raw.lunar")).expect("read");
    let other = exports.refused("snapshot export s --format raw --to @t.raw --resume", 4);
    assert!(other.contains("it is of snapshot"));
    assert_eq!(fs::read(exports.path("t.raw.lunar")).expect("read"), before);
    exports.json("snapshot export t --format stream --to @t.stream");
    fs::rename(exports.path("t.stream"), exports.path("t.stream.partial")).expect("renamed");
    let other = exports.refused("snapshot export s --format stream --to @t.stream --resume", 1);
    assert!(other.contains("another export"), "{other}");
    exports.json("snapshot export t --format stream --to @t.stream --resume");
    exports.json("snapshot verify @t.stream");
    exports.assert_nothing_left();
}

#[test]
fn a_damaged_export_is_found_and_never_imported() {
    let exports = Exports::start();
    exports.new_device("w.device");
    exports.use_device("t.device");
    for format in ["raw", "qcow2", "stream"] {
        exports.json(&format!("snapshot export t --format {format} --to @t.{format}"));
        let path = exports.path(&format!("t.{format}"));
        let file = OpenOptions::new().read(true).write(true).open(path).expect("opens");
        let at = match format {
            "raw" => (1 << 20) + 77,
            "qcow2" => 65536 + 77,
            _ => 64 + 20 + 4096 + 20 + 77,
        };
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 0x10], at).expect("written");
        let found = exports.refused(&format!("snapshot verify @t.{format}"), 1);
        assert!(found.contains("damaged"), "{format}: {found}");
        exports.use_device("w.device");
        let found = exports.refused(&format!("snapshot import @t.{format} w --pool tank"), 1);
        assert!(found.contains("damaged"), "{format}: {found}");
        assert!(exports.refused("volume show w", 3).contains("'w'"));
        exports.use_device("t.device");
    }
    exports.assert_nothing_left();
}

#[test]
fn what_others_have_written_needs_to_be_said() {
    let exports = Exports::start();
    fs::write(exports.path("disk.img"), [vec![0; 1 << 20], vec![5; 8192]].concat()).expect("made");
    let refused = exports.refused("snapshot import @disk.img w --pool tank", 4);
    assert!(refused.contains("--unverified"), "{refused}");
    exports.new_device("w.device");
    let imported = exports.json("snapshot import @disk.img w --pool tank --unverified");
    assert_eq!((&imported["marker"], &imported["size_bytes"]), (&Value::Null, &1_056_768.into()));
    assert_eq!(imported["from"]["crc32c"], Value::Null);
    let mut found = vec![0; 12288];
    let device = File::open(exports.path("w.device")).expect("opens");
    device.read_exact_at(&mut found, (1 << 20) - 4096).expect("read");
    assert!(found[..4096].iter().all(|byte| *byte == 0) && found[4096..].iter().all(|it| *it == 5));

    fs::write(exports.path("other.qcow2"), b"QFI\xfb\0\0\0\x03 and so on").expect("made");
    let image = exports.refused("snapshot import @other.qcow2 x --pool tank", 4);
    assert!(image.contains("qemu-img convert -O raw"), "{image}");
    fs::write(exports.path("odd.img"), b"odd").expect("made");
    let odd = exports.refused("snapshot import @odd.img x --pool tank --unverified", 2);
    assert!(odd.contains("3 B"), "{odd}");
    assert!(exports.refused("snapshot verify @none", 3).contains("none"));
    exports.assert_nothing_left();
}

#[test]
fn a_stream_goes_through_a_pipe() {
    let exports = Exports::start();
    let run = |line: &str| {
        let socket = exports.world.double.socket();
        double::command(&exports.world.endpoint, &socket, &exports.line(line))
    };
    let mut export = run("snapshot export t --format stream --to - -o json");
    let out = File::create_new(exports.path("piped")).expect("made");
    let done = export.stdout(Stdio::from(out)).output().expect("lunar runs");
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    // The standard output has the stream, so the report and the progress are on the other one.
    let lines = said(&done);
    assert!(lines.contains("\"progress\"") && lines.contains("\"crc32c\""), "{lines}");
    exports.new_device("w.device");
    let input = File::open(exports.path("piped")).expect("opens");
    let mut import = run("snapshot import - w --pool tank");
    let done = import.stdin(Stdio::from(input)).output().expect("lunar runs");
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert_is_t(&exports.path("w.device"));

    exports.use_device("t.device");
    let full = OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
    let mut export = run("snapshot export t --format stream --to -");
    let done = export.stdout(Stdio::from(full)).output().expect("lunar runs");
    assert_eq!(done.status.code(), Some(1));
    assert!(said(&done).contains("No space left"), "{}", said(&done));
    exports.assert_nothing_left();
}

#[test]
fn what_killed_commands_have_left_is_deleted_and_nothing_else() {
    let exports = Exports::start();
    let uuid = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
    let left = [format!("export-7-{uuid}"), format!("import-7-{uuid}")];
    let others = [format!("export-8-{uuid}"), "export-7-mine".to_owned()];
    for name in left.iter().chain(&others) {
        exports.json(&format!("volume clone s {name}"));
    }
    let names = || {
        let list = exports.json("volume list");
        let volumes = list["volumes"].as_array().expect("a list").clone();
        let name = |it: &Value| it["name"].as_str().expect("a name").to_owned();
        volumes.iter().map(name).collect::<Vec<_>>()
    };
    // Another command runs: what is there may be its own.
    let lock = exports.world.double.socket().with_file_name("lunar-transfer.lock");
    let lock = File::create(lock).expect("made");
    lock.lock_shared().expect("locked");
    exports.json("snapshot export s --format stream --to @one");
    assert!(left.iter().all(|name| names().contains(name)));
    drop(lock);
    exports.json("snapshot export s --format stream --to @two");
    while exports.json("operation list")["operations"] != Value::Array(Vec::new()) {}
    assert!(!left.iter().any(|name| names().contains(name)), "{:?}", names());
    assert!(others.iter().all(|name| names().contains(name)), "{:?}", names());
}

/// Starts an export and gives it a signal while its clone is being attached.
fn signalled(exports: &Exports, line: &str, signal: Signal) -> (Option<i32>, String) {
    let gate = exports.world.script.gate.lock().expect("no test panics with the lock");
    let lunar = begin(&exports.world, &exports.line(line));
    while !exports.json("volume list").to_string().contains("\"export-7-") {
        std::thread::yield_now();
    }
    kill(Pid::from_raw(lunar.id().try_into().expect("a process id")), signal).expect("it runs");
    drop(gate);
    let (code, _, said) = end(lunar);
    (code, said)
}

#[test]
fn ctrl_c_ends_an_export_and_leaves_nothing() {
    let exports = Exports::start();
    let line = "snapshot export t --format raw --to @t.raw";
    let (code, said) = signalled(&exports, line, Signal::SIGINT);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("it was interrupted"), "{said}");
    assert!(!exports.path("t.raw").exists());
    exports.assert_nothing_left();
    exports.json(&format!("{line} --resume"));
    assert_is_t(&exports.path("t.raw"));
}

#[test]
fn a_killed_export_is_cleaned_up_by_the_next_one() {
    let exports = Exports::start();
    let line = "snapshot export t --format stream --to @t.stream";
    let (code, _) = signalled(&exports, line, Signal::SIGKILL);
    assert_eq!(code, None);
    assert!(exports.json("volume list").to_string().contains("\"export-7-"));
    exports.json(&format!("{line} --resume"));
    exports.json("snapshot verify @t.stream");
    exports.assert_nothing_left();
}

#[test]
fn a_failure_in_the_middle_leaves_nothing_and_says_how_to_go_on() {
    let exports = Exports::start();
    // A device that is shorter than the volume cannot be read to its end.
    let device = OpenOptions::new().write(true).open(exports.path("t.device")).expect("opens");
    device.set_len(500 << 20).expect("cut");
    for format in ["raw", "qcow2", "stream"] {
        let line = format!("snapshot export t --format {format} --to @t.{format}");
        let failed = exports.refused(&line, 1);
        assert!(failed.contains("of the volume") && failed.contains("--resume"), "{failed}");
        assert!(exports.path(&format!("t.{format}.partial")).exists());
        assert!(!exports.path(&format!("t.{format}")).exists());
    }
    exports.assert_nothing_left();
    exports.new_device("whole.device");
    let whole = File::options().write(true).open(exports.path("whole.device")).expect("opens");
    for n in 0..BLOCKS {
        whole.write_all_at(&block(n), n << 20).expect("written");
    }
    for format in ["raw", "qcow2", "stream"] {
        let line = format!("snapshot export t --format {format} --to @t.{format} --resume");
        assert!(exports.json(&line)["resumed_bytes"].as_u64() > Some(0));
        exports.json(&format!("snapshot verify @t.{format}"));
    }
    assert_is_t(&exports.path("t.raw"));
    exports.assert_nothing_left();
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    let exports = Exports::start();
    exports.json("snapshot export s --format raw --to @s.raw");
    exports.json("snapshot export t --format qcow2 --to @t.qcow2");
    for (line, code, why) in [
        ("snapshot export t --format raw --to -", 2, "--format stream"),
        ("snapshot export t --format stream --to - --resume", 2, "--resume"),
        ("snapshot export t --base s --format raw --to @x", 2, "--base-file"),
        ("snapshot export t --base s --format stream --base-file @s.raw --to @x", 2, "leave it"),
        ("snapshot export t --base t --format stream --to @x", 2, "its own base"),
        ("snapshot export t --format raw --to @x --overwrite-device", 2, "no block device"),
        ("snapshot export none --format stream --to @x", 3, "'none'"),
        ("snapshot export t --format raw --to @s.raw", 4, "is there already"),
        ("snapshot export t --base s --format raw --base-file @t.qcow2 --to @x", 4, "it is of"),
        ("snapshot export s --base t --format raw --base-file @t.qcow2 --to @x", 4, "is qcow2"),
        ("snapshot export t --base s --format raw --base-file @t.device --to @x", 4, "no manifest"),
        ("snapshot export t --format stream --to @none/x", 1, "none/x.partial"),
        ("snapshot import @s.raw v --pool tank", 4, "is there already"),
        ("snapshot import @s.raw --onto v", 4, "no base"),
        ("snapshot import @s.raw w --pool none", 3, "'none'"),
    ] {
        let said = exports.refused(line, code);
        assert!(said.contains(why), "{line}: {said}");
    }
    assert!(!exports.path("x").exists() && !exports.path("x.partial").exists());
    exports.assert_nothing_left();
}

/// Runs `qemu-img`, if it is installed; where the lab is demanded it has to be.
fn qemu_img(folder: &Path, arguments: &[&str]) -> bool {
    match Command::new("qemu-img").args(arguments).current_dir(folder).output() {
        Ok(output) => {
            assert!(output.status.success(), "qemu-img {arguments:?}: {}", said(&output));
            true
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let demanded = std::env::var_os("LUNAR_REQUIRE_LAB").is_some_and(|it| it == "1");
            assert!(!demanded, "this test needs qemu-img: install the package qemu-utils");
            false
        }
        Err(error) => panic!("qemu-img: {error}"),
    }
}

#[test]
fn qemu_reads_a_chain_of_exports() {
    let exports = Exports::start();
    exports.json("snapshot export s --format raw --to @s.raw");
    exports.json("snapshot export t --base s --format qcow2 --base-file @s.raw --to @t.qcow2");
    let folder = exports.folder.path();
    if !qemu_img(folder, &["check", "-f", "qcow2", "t.qcow2"]) {
        eprintln!("NOT RUN: needs qemu-img of the package qemu-utils");
        return;
    }
    qemu_img(folder, &["convert", "-f", "qcow2", "-O", "raw", "t.qcow2", "converted"]);
    assert_is_t(&exports.path("converted"));
}
