//! Where an export goes, looked at before anything is made.

use std::io;
use std::path::{Path, PathBuf};

use lunar_proto::domain::Snapshot;

use super::opened::open_image;
use super::place_failed;
use crate::args::{ExportArgs, ExportFormat};
use crate::error::{CliError, Exit};
use crate::export::manifest::ImageFormat;
use crate::export::place::{Begin, Place, Sums};
use crate::export::qcow2::{Backing, BackingFormat};
use crate::export::transfer::Finished;

/// Where the bytes go.
pub(super) enum Target {
    Standard,
    Device { path: PathBuf },
    Stream { place: Place, begin: Begin },
    Image { place: Place, begin: Begin, format: ImageFormat, under: Under },
}

/// What is under what changed.
pub(super) enum Under {
    Nothing,
    /// Copied from where nothing changed.
    Copied(Finished),
    /// Named by the image.
    Backing(Backing),
}

impl Target {
    pub(super) fn open(
        step: &str,
        args: &ExportArgs,
        base: Option<&Snapshot>,
    ) -> Result<Self, CliError> {
        let Some(path) = args.to.path() else { return Ok(Self::Standard) };
        if args.overwrite_device {
            return Ok(Self::Device { path: path.to_owned() });
        }
        let begin = if args.resume { Begin::OrResume } else { Begin::Anew };
        let format = match args.format {
            ExportFormat::Stream => {
                let place = Place::new(path);
                let checked = place.check(begin, Sums::Inside);
                checked.map_err(|error| place_failed(step, &error))?;
                return Ok(Self::Stream { place, begin });
            }
            ExportFormat::Raw => ImageFormat::Raw,
            ExportFormat::Qcow2 => ImageFormat::Qcow2,
        };
        let under = match (base, &args.base_file) {
            (Some(base), Some(file)) => under(step, format, path, base, file)?,
            _ => Under::Nothing,
        };
        let place = Place::new(path);
        let checked = place.check(begin, Sums::Manifest);
        checked.map_err(|error| place_failed(step, &error))?;
        Ok(Self::Image { place, begin, format, under })
    }
}

/// The finished export of the base at `file`.
fn under(
    step: &str,
    format: ImageFormat,
    path: &Path,
    base: &Snapshot,
    file: &Path,
) -> Result<Under, CliError> {
    let refuse = |why: String| {
        let message = format!("{step}: --base-file {}: {why}", file.display());
        CliError::new(Exit::Refused, "BASE_FILE_MISMATCH", message).advise(format!(
            "name the finished raw or qcow2 export of snapshot '{}', with its manifest next to it",
            base.name
        ))
    };
    let Some(found) = open_image(step, file)? else {
        return Err(refuse("it has no manifest, so nobody knows what it is of".to_owned()));
    };
    let of = found.manifest.header.of;
    if of.snapshot != base.id {
        return Err(refuse(format!("it is of snapshot {}, not of {}", of.snapshot, base.id)));
    }
    match (format, found.manifest.header.format) {
        (ImageFormat::Raw, ImageFormat::Raw) => Ok(Under::Copied(found)),
        (ImageFormat::Raw, ImageFormat::Qcow2) => {
            Err(refuse("it is qcow2, and a raw export needs a raw one".to_owned()))
        }
        (ImageFormat::Qcow2, base) => {
            let format = match base {
                ImageFormat::Raw => BackingFormat::Raw,
                ImageFormat::Qcow2 => BackingFormat::Qcow2,
            };
            let path = backing_path(path, file).map_err(|error| refuse(error.to_string()))?;
            Ok(Under::Backing(Backing { path, format }))
        }
    }
}

/// The name of a backing file as the image has it: without folders where both are in one.
fn backing_path(image: &Path, file: &Path) -> io::Result<String> {
    let folder = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.canonicalize(),
        _ => Path::new(".").canonicalize(),
    };
    let same = folder(image)? == folder(file)?;
    let name = file.file_name().filter(|_| same).map(PathBuf::from);
    let path = match name {
        Some(name) => name,
        None => file.canonicalize()?,
    };
    let text = path.into_os_string().into_string();
    text.map_err(|_| io::Error::other("its path is not UTF-8, and qcow2 needs that"))
}
