//! The root image and kernel of the machines, built once and cached outside the source tree.
//!
//! Invariants:
//! - an image directory appears by one rename, whole, or not at all;
//! - one builder at a time a cache, by a file lock that dies with the builder and its installer;
//! - a cached image is used without asking any mirror.
//!
//! The cache is `$LUNAR_LAB_CACHE`, else `$XDG_CACHE_HOME/lunar-lab`, else `~/.cache/lunar-lab`.

mod build;
mod mirror;
mod recipe;

pub use mirror::MIRROR_VARIABLE;

use crate::error::{AtPath, LabError, Result};
use crate::host;
use crate::progress::{Step, say};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Moves the cache.
pub const CACHE_VARIABLE: &str = "LUNAR_LAB_CACHE";
/// Pins the kernel, for example `7.3.4+deb13`; the newest is taken when it is not set.
pub const KERNEL_VARIABLE: &str = "LUNAR_LAB_KERNEL";

const ROOT_FILE: &str = "root.ext4";
const KERNEL_FILE: &str = "vmlinuz";
const INFO_FILE: &str = "info.json";

/// A root image with its kernel.
#[derive(Debug, Clone)]
pub struct Image {
    directory: PathBuf,
    kernel: String,
}

#[derive(Serialize, Deserialize)]
struct Info {
    kernel: String,
}

impl Image {
    /// The cached image of this recipe; built first when there is none.
    ///
    /// # Errors
    /// When it cannot be built: missing programs, no space, no mirror, a failed installation.
    pub fn ensure() -> Result<Self> {
        let images = images_directory()?;
        let directory = images.join(recipe::key(pinned_kernel().as_deref()));
        match Self::open(&directory)? {
            Some(image) => Ok(image),
            None => Self::build_locked(&images, &directory, false),
        }
    }

    /// Builds the image anew with the newest packages, and replaces the cached one.
    ///
    /// # Errors
    /// As [`Image::ensure`].
    pub fn rebuild() -> Result<Self> {
        let images = images_directory()?;
        let directory = images.join(recipe::key(pinned_kernel().as_deref()));
        Self::build_locked(&images, &directory, true)
    }

    /// The file with the root file system; never written to.
    pub fn root(&self) -> PathBuf {
        self.directory.join(ROOT_FILE)
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join(KERNEL_FILE)
    }

    /// The kernel release, as `uname -r` says in the machines.
    pub fn kernel_release(&self) -> &str {
        &self.kernel
    }

    /// Where both are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn open(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(INFO_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("read", path),
        };
        let info: Info = serde_json::from_str(&text).map_err(|error| {
            LabError::Image(format!("{}: {error}; remove the directory", path.display()))
        })?;
        Ok(Some(Self { directory: directory.to_owned(), kernel: info.kernel }))
    }

    fn build_locked(images: &Path, directory: &Path, replace: bool) -> Result<Self> {
        fs::create_dir_all(images).at("make", images)?;
        let lock_path = images.join("lock");
        let lock = host::lock_file(&lock_path)?;
        if lock.try_lock().is_err() {
            let _step = Step::begin("waiting for another process that builds the image");
            lock.lock().at("lock", &lock_path)?;
        }
        if !replace && let Some(image) = Self::open(directory)? {
            return Ok(image);
        }
        remove_leftovers(images)?;
        let partial = images.join(format!("{PARTIAL_PREFIX}{}", std::process::id()));
        fs::create_dir(&partial).at("make", &partial)?;
        let built = build::build(&partial, pinned_kernel(), &lock).and_then(|kernel| {
            let info = serde_json::to_string(&Info { kernel }).expect("plain strings are JSON");
            let path = partial.join(INFO_FILE);
            fs::write(&path, info).at("write", path)?;
            if directory.exists() {
                fs::remove_dir_all(directory).at("remove", directory)?;
            }
            fs::rename(&partial, directory).at("rename to its final name", &partial)
        });
        if let Err(error) = built {
            build::remove_tree(&partial)?;
            return Err(error);
        }
        let image = Self::open(directory)?;
        let image = image.ok_or_else(|| LabError::Image("it vanished after its build".into()))?;
        say(&format!("image with kernel {} in {}", image.kernel, directory.display()));
        Ok(image)
    }
}

const PARTIAL_PREFIX: &str = "partial-";

/// Removes what builders left that were killed; the caller holds the lock, so neither they nor
/// their installers are at work.
fn remove_leftovers(images: &Path) -> Result<()> {
    for entry in fs::read_dir(images).at("list", images)? {
        let entry = entry.at("list", images)?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL_PREFIX) {
            build::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn pinned_kernel() -> Option<String> {
    std::env::var(KERNEL_VARIABLE).ok().filter(|value| !value.is_empty())
}

fn images_directory() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = variable(CACHE_VARIABLE)
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(variable("XDG_CACHE_HOME")?).join("lunar-lab")))
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache/lunar-lab")))
        .ok_or_else(|| LabError::Settings(format!("neither HOME nor {CACHE_VARIABLE} is set")))?;
    Ok(base.join("images"))
}
