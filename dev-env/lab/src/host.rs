//! The host's side of things: its programs, free space, privileges, advisory locks.
//!
//! Every other module goes through [`Tool`] to run a program of the host, so that a missing one
//! is always reported with the Debian package that has it.

use crate::error::{AtPath, LabError, Result};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of the host that the lab needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

pub(crate) const QEMU: Tool = Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };
pub(crate) const MMDEBSTRAP: Tool = Tool { program: "mmdebstrap", package: "mmdebstrap" };
pub(crate) const MKE2FS: Tool = Tool { program: "mke2fs", package: "e2fsprogs" };
pub(crate) const SETPRIV: Tool = Tool { program: "setpriv", package: "util-linux" };
pub(crate) const UNSHARE: Tool = Tool { program: "unshare", package: "util-linux" };
pub(crate) const CHRT: Tool = Tool { program: "chrt", package: "util-linux" };
pub(crate) const APT_GET: Tool = Tool { program: "apt-get", package: "apt" };
pub(crate) const APT_CACHE: Tool = Tool { program: "apt-cache", package: "apt" };
pub(crate) const APT_CONFIG: Tool = Tool { program: "apt-config", package: "apt" };

/// Administration programs are not in every user's `PATH`.
const EXTRA_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

impl Tool {
    /// Where the program is.
    pub(crate) fn path(self) -> Result<PathBuf> {
        let search = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&search)
            .chain(EXTRA_DIRECTORIES.map(PathBuf::from))
            .map(|directory| directory.join(self.program))
            .find(|path| path.is_file())
            .ok_or(LabError::ToolMissing { program: self.program, package: self.package })
    }

    /// A command that runs the program.
    pub(crate) fn command(self) -> Result<Command> {
        Ok(Command::new(self.path()?))
    }

    /// Like [`Tool::command`], through sudo when this process is not root.
    pub(crate) fn command_as_root(self) -> Result<Command> {
        let path = self.path()?;
        if is_root() {
            return Ok(Command::new(path));
        }
        let mut command = Tool { program: "sudo", package: "sudo" }.command()?;
        command.arg(path);
        Ok(command)
    }
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The command line as a person would type it, near enough.
pub(crate) fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end and gives its standard output; a failure has all its output.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<String> {
    let output = command.output().at("run", command.get_program())?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(LabError::ToolFailed {
        what: what.to_owned(),
        command: command_line(command),
        status: output.status.to_string(),
        output: format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)),
    })
}

/// Fails when the file system of `path` has less than `needed_mib` MiB free.
pub(crate) fn require_space(
    what: &'static str,
    path: &Path,
    needed_mib: u64,
    variable: &'static str,
) -> Result<()> {
    let facts = nix::sys::statvfs::statvfs(path)
        .map_err(std::io::Error::from)
        .at("ask for the free space of", path)?;
    let free_mib = (facts.blocks_available() * facts.fragment_size()) >> 20;
    if free_mib < needed_mib {
        let path = path.to_owned();
        return Err(LabError::NoSpace { what, path, free_mib, needed_mib, variable });
    }
    Ok(())
}

/// Opens a lock file, making it when it is not there.
pub(crate) fn lock_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).read(true);
    options.open(path).at("open the lock", path)
}

/// Makes a sparse file of this size.
pub(crate) fn sparse_file(path: &Path, bytes: u64) -> Result<()> {
    let file = File::create_new(path).at("create", path)?;
    file.set_len(bytes).at("set the size of", path)
}

/// Makes an ext4 image of a directory (or an empty one) at `image`, which must not exist.
pub(crate) fn make_ext4(image: &Path, bytes: u64, content: Option<&Path>) -> Result<()> {
    sparse_file(image, bytes)?;
    let mut command = MKE2FS.command()?;
    command.args(["-q", "-t", "ext4", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"]);
    if let Some(content) = content {
        command.arg("-d").arg(content);
    }
    command.arg(image);
    run("making a file system image", &mut command).map(|_| ())
}

/// What a kernel said when it failed: from the first word of the failure on, or the last lines.
pub(crate) fn console_excerpt(path: &Path, from: u64, lines: usize) -> String {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return format!("({}: {error})", path.display()),
    };
    let from = usize::try_from(from).map_or(bytes.len(), |from| from.min(bytes.len()));
    let text = String::from_utf8_lossy(&bytes[from..]);
    let all: Vec<&str> = text.lines().collect();
    let failure = |line: &&str| FAILURES.iter().any(|word| line.contains(word));
    let first = all.iter().position(failure).unwrap_or_else(|| all.len().saturating_sub(lines));
    all[first..].iter().take(lines).copied().collect::<Vec<_>>().join("\n")
}

/// Words of a kernel, or of the first script in a machine, that is about to give up.
const FAILURES: [&str; 5] = ["Kernel panic", "Oops:", "BUG:", "labinit:", "fatal:"];

/// The last lines of a file, or why they cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}
