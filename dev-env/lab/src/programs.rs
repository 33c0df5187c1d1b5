//! The read-only disk with the programs of the machines: the agent and the binaries under test.
//!
//! It is built anew for each lab, and again at a boot when a binary has changed since; the root
//! image never has to be. Machines that run keep the disk that they were started with.

use crate::error::{AtPath, LabError, Result};
use crate::host;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Names the agent binary when it is not beside the running program.
pub const AGENT_VARIABLE: &str = "LUNAR_LAB_AGENT";

const AGENT: &str = "lab-agent";
const SPARE_BYTES: u64 = 32 << 20;

/// Where the programs come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Programs {
    /// Directories whose executable files are taken, not those below.
    pub(crate) directories: Vec<PathBuf>,
    /// Single files.
    pub(crate) files: Vec<PathBuf>,
    /// The agent; looked for when absent.
    pub(crate) agent: Option<PathBuf>,
}

/// What a disk was built from; equal fingerprints mean an equal disk.
pub(crate) type Fingerprint = Vec<(PathBuf, u64, SystemTime)>;

impl Programs {
    /// Builds the disk at `image` unless `built` says that it is there and up to date.
    pub(crate) fn build(&self, image: &Path, built: &mut Fingerprint) -> Result<()> {
        let sources = self.sources()?;
        let fingerprint = fingerprint(&sources)?;
        if *built == fingerprint {
            return Ok(());
        }
        let parent = image.parent().unwrap_or(Path::new("."));
        let staging = tempfile::Builder::new().prefix("programs-").tempdir_in(parent);
        let staging = staging.at("make a directory in", parent)?;
        let bin = staging.path().join("bin");
        fs::create_dir(&bin).at("make", &bin)?;
        for source in &sources {
            let target = bin.join(source.file_name().unwrap_or_default());
            // A later source wins over an earlier one of the same name.
            let _ = fs::remove_file(&target);
            fs::copy(source, &target).at("copy", source)?;
        }
        let bytes: u64 = fingerprint.iter().map(|(_, bytes, _)| bytes).sum();
        let partial = image.with_extension("partial");
        // It is left over from a build that failed, if it is there at all.
        let _ = fs::remove_file(&partial);
        let image_bytes = (bytes + bytes / 8 + SPARE_BYTES).next_multiple_of(1 << 20);
        host::make_ext4(&partial, image_bytes, Some(staging.path()))?;
        fs::rename(&partial, image).at("rename to its final name", partial)?;
        *built = fingerprint;
        Ok(())
    }

    fn sources(&self) -> Result<Vec<PathBuf>> {
        let mut sources = Vec::new();
        for directory in &self.directories {
            let mut found = Vec::new();
            for entry in fs::read_dir(directory).at("list", directory)? {
                let path = entry.at("list", directory)?.path();
                if is_program(&path) {
                    found.push(path);
                }
            }
            if found.is_empty() {
                return Err(LabError::Settings(format!(
                    "{} has no executable files; build the programs first",
                    directory.display()
                )));
            }
            found.sort();
            sources.append(&mut found);
        }
        sources.extend(self.files.iter().cloned());
        sources.push(self.agent()?);
        Ok(sources)
    }

    fn agent(&self) -> Result<PathBuf> {
        let named = self.agent.clone().or_else(|| std::env::var_os(AGENT_VARIABLE).map(Into::into));
        if let Some(path) = named {
            return if path.is_file() { Ok(path) } else { Err(agent_missing(path)) };
        }
        // A program is in target/<profile>/, a test in target/<profile>/deps/.
        let exe = std::env::current_exe().at("find the path of", "this program")?;
        let places = exe.ancestors().skip(1).take(2).map(|directory| directory.join(AGENT));
        let places: Vec<PathBuf> = places.collect();
        match places.iter().find(|path| path.is_file()) {
            Some(path) => Ok(path.clone()),
            None => Err(agent_missing(places.last().cloned().unwrap_or(exe))),
        }
    }
}

fn agent_missing(path: PathBuf) -> LabError {
    let hint = ", or set LUNAR_LAB_AGENT to it";
    LabError::ProgramMissing { name: AGENT.to_owned(), path, hint }
}

/// Executable files without an extension: what cargo leaves in target/<profile>/.
fn is_program(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let executable =
        |facts: fs::Metadata| facts.is_file() && facts.permissions().mode() & 0o111 != 0;
    !name.contains('.') && fs::metadata(path).is_ok_and(executable)
}

fn fingerprint(sources: &[PathBuf]) -> Result<Fingerprint> {
    let facts = |path: &PathBuf| {
        let facts = fs::metadata(path).at("look at", path)?;
        let changed = facts.modified().at("look at", path)?;
        Ok((path.clone(), facts.len(), changed))
    };
    sources.iter().map(facts).collect()
}
