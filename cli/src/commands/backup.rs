//! `lunar backup`.
//!
//! Crash order of `create`: the file is written beside its place and checked on the way, made
//! durable, and only then has its name, with its folder made durable; only then does the service
//! hear that the backup is complete, and frees what earlier ones alone name. Whatever is broken off
//! before that, the earlier backup is still the one to be restored.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use lunar_backup::{BackupDecoder, BackupEnd, BackupError, BackupHeader, BackupReader, Part};
use lunar_metadata_client::{BackupBytes, MetadataClient};
use lunar_proto::domain::BackupNumber;

use super::Context;
use crate::args::{BackupCommand, HorizonArg};
use crate::error::{CliError, Exit};
use crate::export::place::{Begin, Place, PlaceError, Sums};
use crate::progress::Waiting;
use crate::views::backup::{BackupFileView, BackupList};

/// A backup is nobody's business: it has the names of all volumes.
const MODE: u32 = 0o600;

pub(super) async fn run(command: &BackupCommand, context: &Context<'_>) -> Result<Exit, CliError> {
    match command {
        BackupCommand::Create { path } => create(path, context).await,
        BackupCommand::Check { path } => {
            let (header, end) = check(path)?;
            context.show(&BackupFileView::new(shown(path), &header, &end, false))
        }
        BackupCommand::Confirm { path } => confirm(path, context).await,
        BackupCommand::List => {
            let backups = context.service().await?.backups().await?;
            context.show(&BackupList::new(&backups))
        }
        BackupCommand::Horizon(args) => {
            let on = args.horizon == HorizonArg::On;
            let backups = context.service().await?.set_backup_horizon(on).await?;
            context.show(&BackupList::new(&backups))
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn place_failed(error: &PlaceError) -> CliError {
    let (exit, reason) = match error {
        PlaceError::Exists { .. } => (Exit::Refused, "FILE_EXISTS"),
        PlaceError::Unfinished { .. } => (Exit::Refused, "FILE_UNFINISHED"),
        PlaceError::Busy { .. } => (Exit::Refused, "FILE_BUSY"),
        PlaceError::Io { .. } => (Exit::Failed, "IO"),
    };
    let error = CliError::new(exit, reason, format!("back the metadata up: {error}"));
    match reason {
        "FILE_EXISTS" => error.advise("give another path: a backup never overwrites a file"),
        "FILE_UNFINISHED" => error.advise("remove it: it is no backup"),
        _ => error,
    }
}

fn io_failed(path: &Path, error: &io::Error) -> CliError {
    CliError::new(Exit::Failed, "IO", format!("back the metadata up: {}: {error}", path.display()))
}

fn not_a_backup(path: &Path, error: &BackupError) -> CliError {
    let message = format!("check the backup {}: {error}", path.display());
    CliError::new(Exit::Failed, "BACKUP_DAMAGED", message)
        .advise("do not rely on it: make another one with 'lunar backup create'")
}

async fn create(path: &Path, context: &Context<'_>) -> Result<Exit, CliError> {
    let service = context.service().await?;
    let place = Place::new(path);
    let files = place.open(Begin::Anew, Sums::Inside).map_err(|error| place_failed(&error))?;
    let waiting = Waiting::on("backing the metadata up");
    let written = write(&service, &files.partial, &place).await;
    let (header, end) = match written {
        Ok(written) => written,
        Err(error) => {
            // Nobody can go on with it. If it stays, the next one says so.
            let _ = fs::remove_file(place.partial());
            return Err(error);
        }
    };
    place.finish().map_err(|error| place_failed(&error))?;
    drop(waiting);
    tell(&service, path, &header).await?;
    context.show(&BackupFileView::new(shown(path), &header, &end, true))
}

/// Writes and checks what the service sends, and makes it durable.
async fn write(
    service: &MetadataClient,
    file: &File,
    place: &Place,
) -> Result<(BackupHeader, BackupEnd), CliError> {
    let partial = place.partial();
    let failed = |error: io::Error| io_failed(&partial, &error);
    file.set_permissions(Permissions::from_mode(MODE)).map_err(failed)?;
    let mut bytes = service.backup().await?;
    let received = receive(&mut bytes, file, &partial).await?;
    file.sync_all().map_err(failed)?;
    Ok(received)
}

async fn receive(
    bytes: &mut BackupBytes,
    mut file: &File,
    partial: &Path,
) -> Result<(BackupHeader, BackupEnd), CliError> {
    let (mut decoder, mut header) = (BackupDecoder::new(), None);
    while let Some(chunk) = bytes.next().await? {
        let mut unread = &chunk[..];
        let checked = loop {
            match decoder.next_part(&mut unread) {
                Ok(Some(Part::Header(found))) => header = Some(found),
                Ok(Some(Part::Block(_) | Part::Trailer(_))) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        checked.map_err(|error| not_a_backup(partial, &error))?;
        file.write_all(&chunk).map_err(|error| io_failed(partial, &error))?;
    }
    let end = decoder.end().map_err(|error| not_a_backup(partial, &error))?;
    Ok((header.expect("a whole backup has a header"), end))
}

/// Tells the service that a file is complete.
async fn tell(
    service: &MetadataClient,
    path: &Path,
    header: &BackupHeader,
) -> Result<(), CliError> {
    match service.backup_done(BackupNumber::new(header.number)).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let advice = format!(
                "the file {} is whole; say so when the service is there, with 'lunar backup \
                 confirm {}': until then what was deleted does not come back",
                path.display(),
                path.display()
            );
            Err(CliError::from(error).advise(advice))
        }
    }
}

fn check(path: &Path) -> Result<(BackupHeader, BackupEnd), CliError> {
    let file = File::open(path);
    let file = file.map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        CliError::new(exit, "IO", format!("check the backup {}: {error}", path.display()))
    })?;
    let failed = |error| not_a_backup(path, &error);
    let mut reader = BackupReader::begin(BufReader::new(file)).map_err(failed)?;
    while reader.next_block().map_err(failed)?.is_some() {}
    let end = reader.end().map_err(failed)?;
    Ok((*reader.header(), end))
}

async fn confirm(path: &Path, context: &Context<'_>) -> Result<Exit, CliError> {
    let (header, end) = check(path)?;
    let service = context.service().await?;
    let cluster = service.cluster().await?.id;
    if cluster != header.cluster {
        let message = format!(
            "confirm the backup {}: it is of cluster {}, this is cluster {cluster}",
            path.display(),
            header.cluster
        );
        return Err(CliError::new(Exit::Refused, "OTHER_CLUSTER", message));
    }
    let file = File::open(path).and_then(|file| file.sync_all());
    file.map_err(|error| io_failed(path, &error))?;
    tell(&service, path, &header).await?;
    context.show(&BackupFileView::new(shown(path), &header, &end, true))
}
