//! Staging: a volume attached, its file system made or checked, and mounted at the staging path.
//!
//! Crash order: attached → device compared → BeginFormat, `mkfs`, sync, EndFormat, or check →
//! mounted → grown. Killed after any of them, the next call goes on from there: the attach is
//! answered the same, half a format is formatted anew, and a mount of the device that serves the
//! volume is adopted. What cannot be finished is detached when the answer is final and nothing of
//! it is mounted.

use lunar_types::{PublicationId, VolumeId};
use tonic::Code;
use tracing::{info, warn};
use uuid::Uuid;

use super::capability::{Access, Form, Sharing};
use super::daemon::{AttachAs, Content, Daemon};
use super::device::{Device, Served};
use super::format::{self, Found, Step};
use super::text::quoted;
use super::worker::Work;
use super::worker::mounts::{FsMount, Writing};
use super::worker::survey::{Mounted, Place, Survey};
use super::worker::tools::Tool;
use super::worker::unmount::{Also, Unmounted};
use super::workers::Workers;
use crate::errors::CsiError;
use crate::file_system::FileSystem;

/// A volume that is to be staged.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Which.
    pub volume: VolumeId,
    /// By whose leave.
    pub publication: PublicationId,
    /// Where.
    pub path: String,
    /// How.
    pub access: Access,
}

/// What the work of calls is done with.
#[derive(Clone, Debug)]
pub struct Node {
    /// Who attaches.
    pub daemon: Daemon,
    /// Who touches devices and mounts.
    pub workers: Workers,
}

/// Whether a stage that has failed has left something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Undone {
    All,
    Left,
}

/// Whether somebody may forget a call that has ended so.
fn is_final(error: &CsiError) -> bool {
    !matches!(error.code, Code::Unavailable | Code::Aborted)
}

/// Whether what is mounted is a file system of the device.
fn is_of(mounted: &Mounted, device: &Device) -> bool {
    mounted.node.is_none() && mounted.mount.device == device.number
}

impl Node {
    /// Stages a volume; what is staged already stays.
    ///
    /// # Errors
    /// It cannot be staged: see the module.
    pub async fn stage(&self, stage: &Stage) -> Result<Served, CsiError> {
        self.assert_staging(stage).await?;
        let served = self.attach(stage).await?;
        match self.prepare(stage, &served).await {
            Ok(()) => Ok(served),
            // What is staged otherwise stays so, and that answer says it.
            Err(error) if is_final(&error) && error.code != Code::AlreadyExists => {
                match self.undo(&served).await {
                    Undone::All => Err(error),
                    Undone::Left => Err(CsiError::unavailable(format!(
                        "{error}; it is still mounted or attached here, so ask again"
                    ))),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// A path that cannot be mounted on is refused before anything is attached.
    async fn assert_staging(&self, stage: &Stage) -> Result<(), CsiError> {
        let work = Work::Survey { path: stage.path.clone(), device: None };
        let place = self.workers.ask::<Survey>(work).await?.place;
        match stage.access.form {
            Form::Block => Ok(()),
            Form::FileSystem(_) => {
                assert_place("staging_target_path", &stage.path, &place, Place::File)
            }
        }
    }

    async fn attach(&self, stage: &Stage) -> Result<Served, CsiError> {
        let volume = stage.volume;
        let how = AttachAs {
            publication: stage.publication,
            is_migratable: stage.access.sharing == Sharing::Nodes,
            is_for_file_system: stage.access.form != Form::Block,
        };
        self.end_detachment(volume).await?;
        let attachment = self.daemon.attach(volume, how).await?;
        let served = attachment.served(volume)?;
        if !attachment.is_poisoned() {
            return Ok(served);
        }
        if !self.uses(&served.device).await?.is_empty() {
            let problem = &attachment.told.problem;
            let message = format!(
                "volume {volume} takes no writes after a failed flush ({problem}): delete the \
                 pods of this node that use it"
            );
            return Err(CsiError::precondition(message));
        }
        info!(%volume, "attached anew after a failed flush");
        self.daemon.detach(volume).await?;
        self.daemon.attach(volume, how).await?.served(volume)
    }

    /// Ends what an unstage has begun: nobody else would, when kubelet has a new pod for it.
    async fn end_detachment(&self, volume: VolumeId) -> Result<(), CsiError> {
        let Some(there) = self.daemon.attachment(volume).await? else { return Ok(()) };
        if !there.is_detaching() || !there.is_published() {
            return Ok(());
        }
        info!(%volume, "a detachment that was begun is ended first");
        match self.daemon.detach(volume).await {
            Err(error) if error.code != Code::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Refuses what is mounted without the driver's having finished a file system on it: it would
    /// be formatted at another node.
    async fn assert_used(&self, volume: VolumeId) -> Result<(), CsiError> {
        match self.daemon.content(volume).await? {
            Content::Used => Ok(()),
            Content::Blank | Content::Formatting => {
                let message = format!(
                    "volume {volume} is mounted here, and no file system of the driver was \
                     finished on it: unmount it, or say that it is used with 'lunar volume attach'"
                );
                Err(CsiError::precondition(message))
            }
        }
    }

    /// What is at a path, and what is mounted of a device.
    pub(super) async fn survey(&self, path: &str, device: &Device) -> Result<Survey, CsiError> {
        let (path, device) = (path.to_owned(), Some(device.number));
        self.workers.ask(Work::Survey { path, device }).await
    }

    /// Where a device is mounted.
    pub(super) async fn uses(&self, device: &Device) -> Result<Vec<Mounted>, CsiError> {
        self.workers.ask(Work::Uses(device.number)).await
    }

    async fn prepare(&self, stage: &Stage, served: &Served) -> Result<(), CsiError> {
        let device = &served.device;
        self.workers.ask::<()>(Work::Compare(device.clone())).await?;
        let Form::FileSystem(how) = &stage.access.form else { return Ok(()) };
        let survey = self.survey(&stage.path, device).await?;
        match &survey.place {
            Place::Mount(mounted) if is_of(mounted, device) && survey.is_dead => {
                return self.replace_dead(stage, device, how, &survey.uses).await;
            }
            Place::Mount(mounted) if is_of(mounted, device) => {
                info!(volume = %stage.volume, path = stage.path, "found staged");
                adopt(mounted, how, &stage.path)?;
                return self.grow_staged(&stage.path, device, how).await;
            }
            Place::Mount(mounted) => self.take_off_stale(&stage.path, mounted, device).await?,
            place => assert_place("staging_target_path", &stage.path, place, Place::File)?,
        }
        match survey.uses.iter().find(|used| is_of(used, device)) {
            // What pods have mounted is neither checked nor formatted.
            Some(used) => {
                self.assert_used(stage.volume).await?;
                adopt(used, how, &used.mount.point)?;
            }
            None => self.make_ready(stage, device, how).await?,
        }
        self.mount(stage, device, how).await
    }

    /// Mounts anew what has shut down, once pods have left it: all mounts of it are dead alike.
    async fn replace_dead(
        &self,
        stage: &Stage,
        device: &Device,
        how: &FsMount,
        uses: &[Mounted],
    ) -> Result<(), CsiError> {
        let volume = stage.volume;
        let own = self.workers.mount_point(&stage.path);
        if let Some(used) = uses.iter().find(|used| used.mount.point != own) {
            let point = quoted(&used.mount.point);
            let message = format!(
                "the file system of volume {volume} has shut down after an error, and is still \
                 mounted at {point}: delete the pods of this node that use it"
            );
            return Err(CsiError::precondition(message));
        }
        warn!(%volume, path = stage.path, "its file system has shut down: mounted anew");
        let work = Work::Unmount { path: stage.path.clone(), also: Also::Nothing };
        self.workers.ask::<Unmounted>(work).await?;
        self.make_ready(stage, device, how).await?;
        self.mount(stage, device, how).await
    }

    /// Mounts what is ready. A mount that cannot be grown goes again.
    async fn mount(&self, stage: &Stage, device: &Device, how: &FsMount) -> Result<(), CsiError> {
        let path = stage.path.clone();
        let work = Work::Stage { path: path.clone(), device: device.clone(), how: how.clone() };
        self.workers.ask::<()>(work).await?;
        let grown = self.grow_staged(&path, device, how).await;
        match &grown {
            Ok(()) => info!(volume = %stage.volume, path, device = device.path, "staged"),
            Err(_) => {
                let work = Work::Unmount { path, also: Also::Nothing };
                if let Err(error) = self.workers.ask::<Unmounted>(work).await {
                    warn!(volume = %stage.volume, %error, "not grown, and stays mounted");
                }
            }
        }
        grown
    }

    async fn grow_staged(
        &self,
        path: &str,
        device: &Device,
        how: &FsMount,
    ) -> Result<(), CsiError> {
        if how.writing == Writing::Forbidden || how.options.is_read_only() {
            return Ok(());
        }
        self.grow(how.kind, path, device).await
    }

    /// Takes off a mount of a device that serves nothing, or another volume.
    pub(super) async fn take_off_stale(
        &self,
        path: &str,
        mounted: &Mounted,
        device: &Device,
    ) -> Result<(), CsiError> {
        let number = mounted.device();
        let is_gone = number.size_bytes().is_ok_and(|size| size.is_none());
        let name = match mounted.node {
            None => mounted.mount.source.clone(),
            Some(_) => format!("/dev{}", mounted.mount.root),
        };
        if !is_gone && !device.is_sibling(&name) {
            let (fs_type, path, name) = (&mounted.mount.fs_type, quoted(path), quoted(&name));
            let message = format!(
                "{path} has a mount of {name} ({fs_type}) on it, which is no volume: unmount it \
                 by hand"
            );
            return Err(CsiError::precondition(message));
        }
        warn!(path, device = %number, "a mount that does not serve the volume is taken off");
        let work = Work::Unmount { path: path.to_owned(), also: Also::Nothing };
        self.workers.ask::<Unmounted>(work).await.map(|_| ())
    }

    async fn make_ready(
        &self,
        stage: &Stage,
        device: &Device,
        how: &FsMount,
    ) -> Result<(), CsiError> {
        let content = self.daemon.content(stage.volume).await?;
        let found = self.found_on(device).await?;
        match format::step(content, &found, how.kind, how.writing)? {
            Step::Mount => Ok(()),
            Step::Check => format::checked(&self.workers.run(Tool::CheckExt4, device).await?),
            Step::Format => self.format(stage.volume, content, device, how.kind).await,
        }
    }

    async fn found_on(&self, device: &Device) -> Result<Found, CsiError> {
        let found = format::found(&self.workers.run(Tool::Identify, device).await?)?;
        if found == Found::Nothing {
            self.workers.ask::<()>(Work::ReadEnds(device.clone())).await?;
        }
        Ok(found)
    }

    async fn format(
        &self,
        volume: VolumeId,
        content: Content,
        device: &Device,
        kind: FileSystem,
    ) -> Result<(), CsiError> {
        let token = Uuid::new_v4().to_string();
        self.daemon.begin_format(volume, &token).await?;
        info!(%volume, device = device.path, %kind, token, "formatting");
        if content == Content::Formatting {
            self.succeed(Tool::Wipe, device).await?;
        }
        self.succeed(Tool::Make(kind), device).await?;
        match self.found_on(device).await? {
            Found::FileSystem(made) if made == kind => {}
            other => {
                let message = format!("{kind} was made on {}, and is not there: {other:?}", volume);
                return Err(CsiError::internal(message));
            }
        }
        self.workers.ask::<()>(Work::Sync(device.clone())).await?;
        self.daemon.end_format(volume, &token).await
    }

    pub(super) async fn succeed(&self, tool: Tool, device: &Device) -> Result<(), CsiError> {
        let program = tool.program();
        let ended = self.workers.run(tool, device).await?;
        match ended.code {
            0 => Ok(()),
            code => {
                let (path, said) = (&device.path, &ended.said);
                let message = format!("{program} of {path} has ended with {code}: {said}");
                Err(CsiError::internal(message))
            }
        }
    }

    /// Grows a file system that is mounted at a path to its device.
    pub(super) async fn grow(
        &self,
        kind: FileSystem,
        path: &str,
        device: &Device,
    ) -> Result<(), CsiError> {
        let grown = match kind {
            FileSystem::Ext4 => self.succeed(Tool::GrowExt4, device).await,
            FileSystem::Xfs => self.succeed(Tool::GrowXfs(path.to_owned()), device).await,
        };
        grown.map_err(|error| match error.message.contains("Permission denied") {
            true => CsiError::internal(format!(
                "{error}: the driver needs CAP_SYS_RESOURCE (a privileged container), and the file \
                 system has to be without errors"
            )),
            false => error,
        })
    }

    /// Detaches what a final answer leaves unstaged; what is in use stays.
    async fn undo(&self, Served { volume, device }: &Served) -> Undone {
        match self.uses(device).await {
            Ok(uses) if uses.is_empty() => match self.daemon.detach(*volume).await {
                Err(error) if error.code != Code::NotFound => {
                    warn!(%volume, %error, "attached for a stage that has failed, and stays so");
                    Undone::Left
                }
                _ => Undone::All,
            },
            Ok(_) => {
                info!(%volume, "still mounted: it stays attached");
                Undone::Left
            }
            Err(error) => {
                warn!(%volume, %error, "nobody knows what is mounted: it stays attached");
                Undone::Left
            }
        }
    }
}

/// Refuses a path that cannot be mounted on, before anything is done.
pub(super) fn assert_place(
    what: &str,
    path: &str,
    place: &Place,
    wrong: Place,
) -> Result<(), CsiError> {
    let problem = match place {
        Place::Nowhere => "is in no directory: kubelet makes it",
        place if *place != wrong => return Ok(()),
        Place::Directory => "is a directory, and the volume a raw block volume",
        _ => "is no directory, and the volume has a file system",
    };
    Err(CsiError::invalid(format!("{what} {} {problem}", quoted(path))))
}

/// Takes a mount of the right device for the one that was asked for, if it is like it.
fn adopt(mounted: &Mounted, how: &FsMount, path: &str) -> Result<(), CsiError> {
    let mount = &mounted.mount;
    let path = quoted(path);
    if mount.fs_type != how.kind.name() {
        let (is, wanted) = (&mount.fs_type, how.kind);
        let message = format!("the volume is mounted at {path} as {is}, and not as {wanted}");
        return Err(CsiError::exists(message));
    }
    if mount.is_fs_read_only() != (how.writing == Writing::Forbidden) {
        let message = format!(
            "the volume is mounted at {path} with the other access (it is {}): unstage it first",
            if mount.is_fs_read_only() { "read only" } else { "writable" }
        );
        return Err(CsiError::exists(message));
    }
    Ok(())
}
