//! Unstaging and unpublishing: never OK with a mount left, and never lazily.

use lunar_types::VolumeId;
use tracing::{info, warn};

use super::request::Named;
use super::stage::Node;
use super::text::quoted;
use super::worker::Work;
use super::worker::survey::{Mounted, Place, Survey};
use super::worker::tools::Tool;
use super::worker::unmount::{Also, Unmounted};
use crate::errors::CsiError;

impl Node {
    /// Takes what is mounted off the staging path, and detaches the volume. The first needs the
    /// kernel alone.
    ///
    /// # Errors
    /// It is in use, or fs-core is away.
    pub async fn unstage(&self, volume: Named, path: String) -> Result<(), CsiError> {
        let work = Work::Survey { path: path.clone(), device: None };
        let survey: Survey = self.workers.ask(work).await?;
        if let Place::Mount(mounted) = &survey.place {
            let volume = known(volume, &path)?;
            assert_unused(volume, &survey.uses, mounted)?;
            let work = Work::Unmount { path: path.clone(), also: Also::Sync };
            let done: Unmounted = self.workers.ask(work).await?;
            if let Some(problem) = done.sync_problem {
                // It stays away from the pod's node otherwise, for ever: its device is dead.
                warn!(%volume, problem, "unmounted, and the last writes are perhaps lost");
            }
            info!(%volume, path, "unmounted");
        }
        match volume {
            Named::Volume(volume) => self.detach_published(volume).await,
            Named::Nothing => Ok(()),
        }
    }

    async fn detach_published(&self, volume: VolumeId) -> Result<(), CsiError> {
        let Some(attachment) = self.daemon.attachment(volume).await? else { return Ok(()) };
        if !attachment.is_published() {
            info!(%volume, "attached by hand: it stays so");
            return Ok(());
        }
        if let Some(number) = attachment.number() {
            let uses: Vec<Mounted> = self.workers.ask(Work::Uses(number)).await?;
            if let Some(used) = uses.first() {
                return Err(in_use(volume, used));
            }
        }
        self.daemon.detach(volume).await?;
        info!(%volume, "detached");
        Ok(())
    }

    /// Takes off what is mounted at a target, and removes the target.
    ///
    /// # Errors
    /// It is in use.
    pub async fn unpublish(&self, volume: Named, path: String) -> Result<(), CsiError> {
        let work = Work::Survey { path: path.clone(), device: None };
        let survey: Survey = self.workers.ask(work).await?;
        let Place::Mount(mounted) = &survey.place else {
            return self.remove(path).await;
        };
        let volume = known(volume, &path)?;
        let node = mounted.node.filter(|_| survey.uses.len() <= 1);
        let source = format!("/dev{}", mounted.mount.root);
        self.remove(path.clone()).await?;
        info!(%volume, path, "unpublished");
        let is_read_only = |number: super::device::DeviceNumber| {
            number.is_read_only().is_ok_and(|is_read_only| is_read_only == Some(true))
        };
        match node.filter(|number| is_read_only(*number)) {
            // Nobody has it any more: the next one may write.
            Some(number) => {
                let device = super::device::Device { path: source, number };
                self.succeed(Tool::SetWritable, &device).await
            }
            None => Ok(()),
        }
    }

    async fn remove(&self, path: String) -> Result<(), CsiError> {
        let work = Work::Unmount { path, also: Also::Remove };
        self.workers.ask::<Unmounted>(work).await.map(|_| ())
    }
}

/// The volume that may be mounted at a path.
fn known(volume: Named, path: &str) -> Result<VolumeId, CsiError> {
    match volume {
        Named::Volume(volume) => Ok(volume),
        Named::Nothing => {
            let path = quoted(path);
            Err(CsiError::not_found(format!("volume_id names no volume, and {path} has a mount")))
        }
    }
}

fn in_use(volume: VolumeId, used: &Mounted) -> CsiError {
    let point = quoted(&used.mount.point);
    let message = format!("volume {volume} is still mounted at {point}: unpublish it there first");
    CsiError::precondition(message)
}

/// Refuses to unmount what is mounted elsewhere too: a pod still has it.
fn assert_unused(volume: VolumeId, uses: &[Mounted], staged: &Mounted) -> Result<(), CsiError> {
    let is_other = |used: &&Mounted| used.mount.point != staged.mount.point;
    match uses.iter().find(is_other) {
        None => Ok(()),
        Some(used) => Err(in_use(volume, used)),
    }
}
